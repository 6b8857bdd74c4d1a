//! HTTP/1.1 over one connection. One that waits for its next request for more than a moment holds
//! its stream and no buffers: a server has thousands of them.

use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::ready,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Connections, HttpLimits, WriteTimeout,
    activity::Activity,
    limits::{FIRST_BYTES_MAX, LINGER_TIME_MAX, REST_AFTER, REST_LOOKS_PAUSE_MAX},
    strict::{StrictService, StrictStream, Verdict},
};

impl Connections {
    /// Answers the requests of one connection until its end, or until the server closes: then it
    /// ends after the request that is under way. A request that is not strictly HTTP/1.1 is
    /// refused, and the last one. After a response 101 with a [`Tunnel`](crate::Tunnel) the
    /// connection is that.
    pub async fn serve_http<S, H, B>(&self, stream: S, limits: HttpLimits, service: H)
    where
        S: AsyncRead + AsyncWrite + Unpin,
        H: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        Serving::new(self, limits, REST_AFTER, service).serve(stream).await;
    }
}

pub(crate) fn http1_with(limits: HttpLimits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time_max)
        // Not `max_headers`: hyper's own number is ours, and one that is said costs each head
        // several kilobytes of moves.
        .max_buf_size(limits.head_bytes_max);
    // Not `pipeline_flush`: it takes a body in as fast as it is written, however slowly the client
    // reads.
    builder
}

/// What the requests of one connection are served with.
struct Serving<'a, H> {
    connections: &'a Connections,
    /// Of its own, so that connections do not contend for the lock of one.
    closing: CancellationToken,
    limits: HttpLimits,
    rest_after: Duration,
    service: H,
    activity: Arc<Activity>,
}

impl<'a, H, B> Serving<'a, H>
where
    H: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn new(
        connections: &'a Connections,
        limits: HttpLimits,
        rest_after: Duration,
        service: H,
    ) -> Self {
        let (closing, activity) = (connections.closing.child_token(), Activity::current());
        Self { connections, closing, limits, rest_after, service, activity }
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(&self, mut stream: S) {
        let mut time_max = self.limits.head_time_max;
        while let Some(first) = self.first_bytes(&mut stream, time_max).await {
            // In memory of its own, which is given back when the connection rests.
            match Box::pin(self.serve_requests(stream, first)).await {
                Some(resting) => stream = resting,
                None => return,
            }
            let idle = self.activity.idle_time(Instant::now()).unwrap_or_default();
            time_max = self.limits.head_time_max.saturating_sub(idle);
        }
        // So that the end of a TLS connection is not taken for a cut.
        let _ = timeout(LINGER_TIME_MAX, stream.shutdown()).await;
    }

    /// What a connection without a request brings next; nothing at its end, after `time_max`, or
    /// when the server closes.
    async fn first_bytes(
        &self,
        stream: &mut (impl AsyncRead + Unpin),
        time_max: Duration,
    ) -> Option<Vec<u8>> {
        let read = poll_fn(|cx| {
            let mut space = [0; FIRST_BYTES_MAX];
            let mut buffer = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer))?;
            io::Result::Ok(buffer.filled().to_vec()).into()
        });
        let first = self.closing.run_until_cancelled(timeout(time_max, read)).await?;
        first.ok()?.ok().filter(|first| !first.is_empty())
    }

    /// Answers requests, the first of which begins with `first`. Gives the stream back when it
    /// rests.
    async fn serve_requests<S>(&self, stream: S, first: Vec<u8>) -> Option<S>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (verdict, limits) = (Verdict::default(), self.limits);
        let strict = StrictService::new(&self.service, &verdict, &self.activity);
        let heads = &self.connections.heads;
        let mut stream =
            StrictStream::new(stream, limits.head_bytes_max, heads, &verdict, &self.activity);
        stream.begin_with(first);
        let mut connection = http1_with(limits).serve_connection(
            TokioIo::new(WriteTimeout::new(stream, limits.write_time_max)),
            service_fn(|request| strict.answer(request)),
        );
        let is_between = || verdict.is_between_requests(strict.requests());
        let ended = tokio::select! {
            biased;
            ended = &mut connection => Some(ended),
            () = self.closing.cancelled() => {
                Pin::new(&mut connection).graceful_shutdown();
                Some(tokio::select! {
                    biased;
                    ended = &mut connection => ended,
                    () = self.connections.cut_off.cancelled() => Ok(()),
                })
            }
            () = self.rests(is_between) => None,
        };
        let tunnel = match ended {
            Some(Ok(())) => Some(strict.take_tunnel()?),
            Some(Err(error)) => {
                tracing::debug!(%error, "a connection ended early");
                return None;
            }
            None => None,
        };
        let http1::Parts { io, read_buf, .. } = connection.into_parts();
        let (stream, left) = io.into_inner().into_inner().into_parts();
        let Some(tunnel) = tunnel else {
            // What is left then is of a body that the service holds and does not read: no request
            // may begin with it.
            return (read_buf.is_empty() && left.is_empty()).then_some(stream);
        };
        let client = WriteTimeout::new(stream, limits.write_time_max);
        // Its peers know how to come again; it would never end by itself.
        let tunnel = async { tunnel.run(&[&read_buf, &left[..]].concat(), client).await };
        self.closing.run_until_cancelled(tunnel).await;
        None
    }

    /// Ready when there was no request for a while, and nothing of one has come.
    async fn rests(&self, is_between: impl Fn() -> bool) {
        let mut pause = self.rest_after;
        let mut look = pin!(sleep(pause));
        loop {
            look.as_mut().await;
            let now = Instant::now();
            pause = match self.activity.idle_time(now).filter(|_| is_between()) {
                Some(idle) if idle >= self.rest_after => return,
                Some(idle) => self.rest_after - idle,
                None => (2 * pause).min(REST_LOOKS_PAUSE_MAX),
            };
            look.as_mut().reset(now + pause);
        }
    }
}

#[cfg(test)]
mod tests;
