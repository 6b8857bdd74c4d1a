use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::StatusCode;
use net::{FrameBody, FrameReader, FrameSender};
use spec::{Frame, NodeId, StreamEnd, Tenant, wire::Fault};
use tokio::time::{Instant, interval, timeout};

use super::{NodeSide, Rights, StreamPermit, Streams, pace::Pace, rights::fault};
use crate::{
    api::error::ApiError,
    limits::{
        STREAM_ALIVE_EVERY, STREAM_BEGIN_TIME_MAX, STREAM_IDLE_MAX, STREAM_LAST_WORD_TIME_MAX,
        STREAM_SILENCE_MAX,
    },
};

/// Small frames travel together, as far as this.
const TOGETHER_BYTES: usize = 16 << 10;

/// The client's end of a stream.
pub(crate) struct Client {
    pub tenant: Tenant,
    /// What it sends, if it sends anything.
    pub frames: Option<FrameReader>,
    pub permit: StreamPermit,
    pub rights: Rights,
}

/// Begins to pass frames on, once the node has begun. What the client reads.
///
/// # Errors
/// What the node has said instead.
pub(crate) async fn begin(
    streams: &Streams,
    node: &NodeId,
    mut side: NodeSide,
    client: Client,
) -> Result<FrameBody, ApiError> {
    let begun = timeout(STREAM_BEGIN_TIME_MAX, first(&mut side, node)).await;
    let first = begun.unwrap_or_else(|_| Err(late(node))).map_err(refused)?;
    if let Ok(Frame::End(StreamEnd { exit_code: None, fault: Some(fault) })) = Frame::decode(&first)
    {
        return Err(refused(fault));
    }
    let (to_client, body) = net::frame_body();
    let relay = Relay {
        node: node.clone(),
        to_client,
        to_node: side.to_node.clone(),
        pace: streams.paces.of(&client.tenant),
        busy: Mutex::new(Instant::now()),
    };
    let closing = streams.closing.clone();
    streams.relays.spawn(async move {
        let Client { frames, permit, rights, .. } = client;
        let end = tokio::select! {
            biased;
            () = closing.cancelled() => Some(ending()),
            end = relay.down(first, side) => end,
            () = relay.up(frames) => None,
            () = relay.to_client.closed() => None,
            end = relay.watch() => Some(end),
            end = rights.lapsed() => Some(end),
        };
        if let Some(fault) = end {
            let end = Frame::End(StreamEnd { exit_code: None, fault: Some(fault) });
            let _ = timeout(STREAM_LAST_WORD_TIME_MAX, relay.to_client.send(&end)).await;
        }
        drop(permit);
    });
    Ok(body)
}

/// One stream that was begun.
struct Relay {
    node: NodeId,
    to_client: FrameSender,
    to_node: FrameSender,
    pace: Arc<Pace>,
    /// When a frame last said something.
    busy: Mutex<Instant>,
}

impl Relay {
    /// From the node to the client, to the end. Why there was none, if it came to none.
    async fn down(&self, first: Vec<u8>, mut side: NodeSide) -> Option<Fault> {
        let mut whole = first;
        loop {
            let mut ends = is_end(&whole);
            // What has come with it travels on with it.
            while !ends
                && whole.len() < TOGETHER_BYTES
                && let Ok(Some(more)) = side.frames.whole_at_once()
            {
                ends = is_end(&more);
                whole.extend_from_slice(&more);
            }
            self.pass(&self.to_client, whole).await?;
            if ends {
                return None;
            }
            match next(&mut side, &self.node).await {
                Ok(next) => whole = next,
                Err(fault) => return Some(fault),
            }
        }
    }

    /// From the client to the node. Ends when the client is gone; without anything to send never.
    async fn up(&self, frames: Option<FrameReader>) {
        let Some(mut frames) = frames else { return std::future::pending().await };
        while let Ok(Some(whole)) = frames.next_whole().await {
            if self.pass(&self.to_node, whole).await.is_none() {
                return std::future::pending().await; // the node says why
            }
        }
    }

    async fn pass(&self, to: &FrameSender, whole: Vec<u8>) -> Option<()> {
        if !is_alive(&whole) {
            *self.busy.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            self.pace.take(whole.len()).await;
        }
        to.send_whole(whole).await.ok()
    }

    /// Tells the node that its client is there, until the stream was idle for too long.
    async fn watch(&self) -> Fault {
        let mut next = interval(STREAM_ALIVE_EVERY);
        loop {
            next.tick().await;
            let _ = self.to_node.offer(&Frame::Alive);
            let busy = *self.busy.lock().unwrap_or_else(PoisonError::into_inner);
            if busy.elapsed() > STREAM_IDLE_MAX {
                let hours = STREAM_IDLE_MAX.as_secs() / Duration::from_secs(3600).as_secs();
                let message = format!("nothing was sent for {hours} hours: the stream ends");
                return fault("idle", message, "begin it again");
            }
        }
    }
}

/// With what the node begins.
async fn first(side: &mut NodeSide, node: &NodeId) -> Result<Vec<u8>, Fault> {
    loop {
        let whole = next(side, node).await?;
        if !is_alive(&whole) {
            return Ok(whole);
        }
    }
}

fn late(node: &NodeId) -> Fault {
    let minutes = STREAM_BEGIN_TIME_MAX.as_secs() / 60;
    let message = format!("node `{node}` did not begin the stream in {minutes} minutes");
    fault("node-silent", message, "see how it is: margay node ls; and begin again")
}

/// The next frame of the node; why there is none.
async fn next(side: &mut NodeSide, node: &NodeId) -> Result<Vec<u8>, Fault> {
    match timeout(STREAM_SILENCE_MAX, side.frames.next_whole()).await {
        Ok(Ok(Some(whole))) => Ok(whole),
        Ok(Ok(None) | Err(_)) | Err(_) => {
            let message = format!("node `{node}` is gone: the stream broke off");
            Err(fault("node-lost", message, "see how it is: margay node ls"))
        }
    }
}

fn ending() -> Fault {
    let message = "the control plane is ending: the stream broke off".to_owned();
    fault("ending", message, "begin it again when it is back")
}

/// What a node has said in place of a stream.
fn refused(fault: Fault) -> ApiError {
    let status = match fault.code.as_str() {
        "not-found" => StatusCode::NOT_FOUND,
        "invalid" => StatusCode::BAD_REQUEST,
        "node-lost" => StatusCode::BAD_GATEWAY,
        "node-silent" => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::CONFLICT,
    };
    let Fault { code, message, hint } = fault;
    let refused = ApiError::new(status, &code, message);
    match hint {
        Some(hint) => refused.hint(hint),
        None => refused,
    }
}

fn is_alive(whole: &[u8]) -> bool {
    whole == Frame::Alive.encode()
}

/// The kind of a frame is its first byte.
fn is_end(whole: &[u8]) -> bool {
    whole.first() == Frame::End(StreamEnd::default()).encode().first()
}
