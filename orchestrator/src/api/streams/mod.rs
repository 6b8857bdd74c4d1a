//! Streams between a client and a node: logs, programs, forwarded connections, statistics.
//!
//! A node opens no port for them. It polls for the streams that its clients wait for, opens each
//! with a request of its own, and what either side sends is passed on here, frame by frame.

mod pace; // bytes per second of one tenant
mod rights; // what must be so for as long as a stream goes on
mod relay; // the frames of one stream, both ways

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http::StatusCode;
use net::{ConnectionLimits, ConnectionPermit, FrameBody, FrameReader, FrameSender};
use spec::{NodeId, StreamRequest, Tenant};
use tokio::{
    sync::{Notify, oneshot},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::error::ApiError;
use crate::limits::{
    STREAM_ANSWER_TIME_MAX, STREAMS_END_TIME_MAX, STREAMS_MAX, STREAMS_PER_NODE_MAX,
    STREAMS_PER_POOL_NODE_MAX, STREAMS_PER_TENANT_MAX,
};
use pace::Paces;
pub(crate) use {
    relay::{Client, begin},
    rights::Rights,
};

/// Every stream, and those that nodes are still to take up.
pub(crate) struct Streams {
    nodes: Mutex<BTreeMap<NodeId, Waiting>>,
    tenants: ConnectionLimits<Tenant>,
    each_node: ConnectionLimits<NodeId>,
    /// Of tenants with nodes that are not their own.
    pool_shares: ConnectionLimits<(NodeId, Tenant)>,
    paces: Paces,
    relays: TaskTracker,
    closing: CancellationToken,
}

/// What clients wait for at one node.
#[derive(Default)]
struct Waiting {
    /// The node was not told of these.
    untold: VecDeque<StreamRequest>,
    /// By id.
    clients: BTreeMap<String, oneshot::Sender<NodeSide>>,
    news: Arc<Notify>,
}

/// The node's end of a stream.
pub(crate) struct NodeSide {
    pub frames: FrameReader,
    pub to_node: FrameSender,
}

/// The right of one stream to be there.
#[derive(Debug)]
#[expect(dead_code, reason = "held, not read")]
pub(crate) struct StreamPermit(
    ConnectionPermit<Tenant>,
    Option<ConnectionPermit<(NodeId, Tenant)>>,
    ConnectionPermit<NodeId>,
);

impl Streams {
    pub fn new() -> Self {
        Self {
            nodes: Mutex::default(),
            tenants: ConnectionLimits::new(STREAMS_MAX, STREAMS_PER_TENANT_MAX),
            each_node: ConnectionLimits::new(STREAMS_MAX, STREAMS_PER_NODE_MAX),
            pool_shares: ConnectionLimits::new(STREAMS_MAX, STREAMS_PER_POOL_NODE_MAX),
            paces: Paces::default(),
            relays: TaskTracker::new(),
            closing: CancellationToken::new(),
        }
    }

    /// Room for one more stream of `tenant` with `node`, which `owner` has; nothing for one of the
    /// pool alone.
    pub fn admit(
        &self,
        tenant: &Tenant,
        node: &NodeId,
        owner: Option<&Tenant>,
    ) -> Result<StreamPermit, ApiError> {
        let busy = |message: String| {
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, "streams", message)
                .hint("end one of them, or try again in a few seconds")
        };
        let own = self.tenants.try_admit(tenant.clone()).ok_or_else(|| {
            busy(format!(
                "tenant `{tenant}` has {STREAMS_PER_TENANT_MAX} streams, the most at once"
            ))
        })?;
        let share = match owner == Some(tenant) {
            true => None,
            false => {
                let key = (node.clone(), tenant.clone());
                let share = self.pool_shares.try_admit(key).ok_or_else(|| {
                    busy(format!(
                        "tenant `{tenant}` has {STREAMS_PER_POOL_NODE_MAX} streams with node \
                         `{node}` of the pool, the most at once"
                    ))
                })?;
                Some(share)
            }
        };
        let of_node = self.each_node.try_admit(node.clone()).ok_or_else(|| {
            busy(format!("node `{node}` has {STREAMS_PER_NODE_MAX} streams, the most at once"))
        })?;
        Ok(StreamPermit(own, share, of_node))
    }

    /// Asks `node` for a stream, and waits until it takes it up.
    pub async fn ask(&self, node: &NodeId, request: StreamRequest) -> Result<NodeSide, ApiError> {
        let (sender, taken_up) = oneshot::channel();
        let _waits = Waits { streams: self, node, id: request.id.clone() };
        {
            let mut nodes = self.nodes();
            let waiting = nodes.entry(node.clone()).or_default();
            waiting.clients.insert(request.id.clone(), sender);
            waiting.untold.push_back(request);
            waiting.news.notify_one();
        }
        match timeout(STREAM_ANSWER_TIME_MAX, taken_up).await {
            Ok(Ok(side)) => Ok(side),
            Ok(Err(_)) | Err(_) => {
                let seconds = STREAM_ANSWER_TIME_MAX.as_secs();
                let message = format!("node `{node}` did not take up the stream in {seconds} s");
                Err(ApiError::new(StatusCode::GATEWAY_TIMEOUT, "node-silent", message).hint(
                    "see how it is: margay node ls; its margay may be older than the control plane",
                ))
            }
        }
    }

    /// The streams that `node` was not told of, as soon as there are some.
    pub async fn untold(&self, node: &NodeId) -> Vec<StreamRequest> {
        loop {
            let news = {
                let mut nodes = self.nodes();
                let waiting = nodes.entry(node.clone()).or_default();
                if !waiting.untold.is_empty() {
                    return waiting.untold.drain(..).collect();
                }
                waiting.news.clone()
            };
            news.notified().await;
        }
    }

    /// Connects the client that waits for stream `id` of `node`. What is to be sent to the node.
    pub fn take_up(&self, node: &NodeId, id: &str, frames: FrameReader) -> Option<FrameBody> {
        let client = self.nodes().get_mut(node)?.clients.remove(id)?;
        let (to_node, body) = net::frame_body();
        client.send(NodeSide { frames, to_node }).ok().map(|()| body)
    }

    pub fn forget(&self, node: &NodeId) {
        self.nodes().remove(node);
    }

    /// Ends every stream with a word.
    pub async fn close(&self) {
        self.closing.cancel();
        self.relays.close();
        let _ = timeout(STREAMS_END_TIME_MAX, self.relays.wait()).await;
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<NodeId, Waiting>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client that waits. When it does no longer, nothing of its request is left.
struct Waits<'a> {
    streams: &'a Streams,
    node: &'a NodeId,
    id: String,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.streams.nodes().get_mut(self.node) {
            waiting.clients.remove(&self.id);
            waiting.untold.retain(|request| request.id != self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_and_a_node_have_their_number_of_streams() {
        let (streams, tenant) = (Streams::new(), |name: &str| name.parse::<Tenant>().unwrap());
        let node = |number: usize| format!("n{number}").parse::<NodeId>().unwrap();
        let owner = tenant("acme");
        let admit = |name: &str, at: usize| streams.admit(&tenant(name), &node(at), Some(&owner));
        let held: Vec<_> = (0..STREAMS_PER_TENANT_MAX).map(|at| admit("acme", at % 4)).collect();
        assert!(held.iter().all(Result::is_ok));
        let refused = admit("acme", 9).unwrap_err();
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
        let said = &refused.fault.message;
        assert_eq!(*said, "tenant `acme` has 64 streams, the most at once");
        admit("other", 0).expect("another tenant has its own");
        drop(held);
        let held: Vec<_> = (0..STREAMS_PER_NODE_MAX).map(|_| admit("acme", 7)).collect();
        assert!(held.iter().all(Result::is_ok));
        let said = admit("other", 7).unwrap_err().fault.message;
        assert_eq!(said, "node `n7` has 64 streams, the most at once");
        drop(held);
        let held: Vec<_> = (0..STREAMS_PER_POOL_NODE_MAX).map(|_| admit("other", 7)).collect();
        assert!(held.iter().all(Result::is_ok));
        let said = admit("other", 7).unwrap_err().fault.message;
        let want = "tenant `other` has 48 streams with node `n7` of the pool, the most at once";
        assert_eq!(said, want);
        admit("third", 7).expect("one tenant does not take a node of the pool for itself");
    }

    #[tokio::test]
    async fn a_client_that_leaves_takes_its_request_along() {
        let (streams, node) = (Streams::new(), "n1".parse::<NodeId>().unwrap());
        let request = StreamRequest {
            id: "00".to_owned(),
            tenant: "acme".parse().unwrap(),
            task: Some("cats-1".parse().unwrap()),
            container: Some("cats".parse().unwrap()),
            ask: spec::StreamAsk::Stats,
        };
        let asking = streams.ask(&node, request.clone());
        let told = streams.untold(&node);
        let (asked, told) = {
            tokio::pin!(asking);
            tokio::select! {
                biased;
                side = &mut asking => (side.is_ok(), Vec::new()),
                told = told => (false, told),
            }
        };
        assert_eq!((asked, told), (false, vec![request.clone()]), "the node is told at once");
        let late = timeout(std::time::Duration::from_millis(20), streams.untold(&node)).await;
        assert!(late.is_err(), "and once");
        assert!(streams.nodes()[&node].clients.is_empty(), "the client has left");
    }
}
