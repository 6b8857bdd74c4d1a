use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use net::{DrainedBody, MinThroughput, TimedBody};
use tokio::time::Instant;

/// What a client sends, within its limits: no more bytes than allowed, and no slower.
pub(super) struct RequestBody {
    /// Nothing when a request without a body is sent a second time.
    body: Option<TimedBody<DrainedBody>>,
    left: u64,
    clock: ReplicaClock,
}

/// Runs while a request waits for its replica, to take more of the body or to respond, and not
/// while it waits for the client to send more. The same for all that hold it.
#[derive(Debug, Clone)]
pub(super) struct ReplicaClock(Arc<Mutex<Option<Instant>>>);

impl ReplicaClock {
    fn started_now() -> Self {
        Self(Arc::new(Mutex::new(Some(Instant::now()))))
    }

    /// Since when it runs.
    pub fn started(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn start(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn stop(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl RequestBody {
    pub fn new(body: Incoming, bytes_max: u64, throughput: MinThroughput) -> Self {
        let body = Some(TimedBody::new(DrainedBody::new(body), throughput));
        Self { body, left: bytes_max, clock: ReplicaClock::started_now() }
    }

    pub fn none() -> Self {
        Self { body: None, left: 0, clock: ReplicaClock::started_now() }
    }

    /// Its clock, also once the body was sent off.
    pub fn clock(&self) -> ReplicaClock {
        self.clock.clone()
    }

    /// Whether there is nothing to send, so that the request can be sent again.
    pub fn is_empty(&self) -> bool {
        self.is_end_stream()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) else {
            this.clock.stop();
            return Poll::Pending;
        };
        this.clock.start();
        let Some(frame) = frame.transpose()? else { return Poll::Ready(None) };
        // Trailers are announced by headers that are not passed on.
        let Ok(data) = frame.into_data() else { return Poll::Ready(None) };
        let length = data.len() as u64;
        match this.left.checked_sub(length) {
            Some(left) => {
                this.left = left;
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            None => Poll::Ready(Some(Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "the body is too large",
            )))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}
