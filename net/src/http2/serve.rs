use std::{convert::Infallible, net::IpAddr, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{Either, Full};
use hyper::{
    body::Incoming,
    rt::Executor,
    server::conn::http2,
    service::{Service, service_fn},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_util::task::TaskTracker;

use super::{
    body::StreamBody,
    frames::PREFACE,
    guard::Guard,
    streams::{Standing, Streams},
    times::Http2Limits,
};
use crate::{
    ConnectionLimits, Connections, WriteTimeout,
    activity::Activity,
    limits::{
        HEAD_BYTES_MAX, HTTP2_ERRORS_MAX, HTTP2_PIECE_BYTES_MAX, HTTP2_PING_EVERY,
        HTTP2_PING_TIME_MAX, HTTP2_PREFACE_PAUSE, HTTP2_RESETS_PENDING_MAX, HTTP2_STREAMS_MAX,
        HTTP2_WINDOW_BYTES, HTTP2_WINDOW_BYTES_ALL,
    },
    strict::{self, Fault},
};

/// Whether a connection in the clear begins with the preface of HTTP/2. Nothing of it is taken.
/// Nothing is known when no byte has come within `time_max`.
pub async fn is_http2(stream: &TcpStream, time_max: Duration) -> Option<bool> {
    let mut bytes = [0; PREFACE.len()];
    let peeked = async {
        loop {
            let length = stream.peek(&mut bytes).await.ok()?;
            if length == 0 || !PREFACE.starts_with(&bytes[..length]) {
                return Some(false);
            }
            if length == PREFACE.len() {
                return Some(true);
            }
            sleep(HTTP2_PREFACE_PAUSE).await; // the rest is under way
        }
    };
    timeout(time_max, peeked).await.ok().flatten()
}

/// Runs the streams of connections as tasks of their server.
#[derive(Clone)]
struct OnTracker(TaskTracker);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for OnTracker {
    fn execute(&self, stream: F) {
        self.0.spawn(stream);
    }
}

impl Connections {
    /// Answers the requests of one connection of `client` that speaks HTTP/2, until its end or
    /// until the server closes: then requests that are under way are finished. `requests` bounds
    /// how many of them all connections have open.
    pub async fn serve_http2<S, H, B>(
        &self,
        stream: S,
        client: IpAddr,
        limits: Http2Limits,
        requests: Arc<ConnectionLimits>,
        service: H,
    ) where
        S: AsyncRead + AsyncWrite + Unpin,
        H: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
        H: Send + Sync + 'static,
        H::Future: Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let streams = Arc::new(Streams::new(Instant::now(), Activity::current()));
        let stream = WriteTimeout::new(stream, limits.write_time_max);
        let guard = Guard::new(stream, streams.clone(), &self.heads);
        let (known, service) = (streams.clone(), Arc::new(service));
        let service = service_fn(move |request| {
            let (known, service, requests) = (known.clone(), service.clone(), requests.clone());
            async move {
                let is_admitted = known.admit(&requests, client);
                Ok::<_, Infallible>(answer(&known, &*service, request, is_admitted).await)
            }
        });
        let connection = builder(self.tasks.clone()).serve_connection(TokioIo::new(guard), service);
        let mut connection = pin!(connection);
        let closing = self.closing.child_token();
        let mut is_leaving = false;
        let ended = loop {
            tokio::select! {
                biased;
                ended = &mut connection => break ended,
                () = self.cut_off.cancelled() => break Ok(()),
                () = closing.cancelled(), if !is_leaving => {
                    is_leaving = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = sleep(limits.look_every()) => match streams.standing(&limits, Instant::now()) {
                    Standing::Fine => {}
                    Standing::Idle if !is_leaving => {
                        is_leaving = true;
                        connection.as_mut().graceful_shutdown();
                    }
                    standing @ (Standing::Idle | Standing::Stalled) => {
                        tracing::debug!(?standing, "closed a connection");
                        break Ok(());
                    }
                },
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended early");
        }
    }
}

fn builder(tasks: TaskTracker) -> http2::Builder<OnTracker> {
    let mut builder = http2::Builder::new(OnTracker(tasks));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX as u32)
        .max_pending_accept_reset_streams(HTTP2_RESETS_PENDING_MAX)
        .max_local_error_reset_streams(HTTP2_ERRORS_MAX)
        .initial_stream_window_size(HTTP2_WINDOW_BYTES)
        .initial_connection_window_size(HTTP2_WINDOW_BYTES_ALL)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .max_send_buf_size(HTTP2_PIECE_BYTES_MAX)
        .keep_alive_interval(HTTP2_PING_EVERY)
        .keep_alive_timeout(HTTP2_PING_TIME_MAX);
    builder
}

async fn answer<H, B>(
    streams: &Arc<Streams>,
    service: &H,
    request: Request<Incoming>,
    is_admitted: bool,
) -> Response<StreamBody<Either<B, Full<Bytes>>>>
where
    H: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
{
    let alive = streams.begin();
    let response = match (strict::check(&request), is_admitted) {
        (Err(fault), _) => fault.into_response(),
        (Ok(()), false) => Fault::REQUESTS.into_response(),
        (Ok(()), true) => match service.call(request).await {
            Ok(response) => response.map(Either::Left),
            Err(never) => match never {},
        },
    };
    response.map(|body| StreamBody::new(body, alive))
}

#[cfg(test)]
mod tests;
