use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use net::{DrainedBody, MinThroughput, TimedBody};
use tokio::time::Instant;

use super::head;

/// What a client sends, within its limits.
pub(super) struct RequestBody {
    source: Source,
    clock: ReplicaClock,
}

enum Source {
    /// A request without a body that is sent a second time.
    None,
    /// No more bytes than these, and no slower than allowed.
    Whole { body: TimedBody<DrainedBody>, left: u64 },
    /// A stream of messages, as long and as slow as both sides like, with its trailers.
    Stream(DrainedBody),
}

/// Runs while a request waits for its replica, to take more of the body or to respond, and not
/// while it waits for the client to send more, unless that is a stream: there it begins anew with
/// each piece. The same for all that hold it.
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
        let body = TimedBody::new(DrainedBody::new(body), throughput);
        Self::from(Source::Whole { body, left: bytes_max })
    }

    pub fn stream(body: Incoming) -> Self {
        Self::from(Source::Stream(DrainedBody::new(body)))
    }

    pub fn none() -> Self {
        Self::from(Source::None)
    }

    fn from(source: Source) -> Self {
        Self { source, clock: ReplicaClock::started_now() }
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
        let (body, left) = match &mut this.source {
            Source::None => return Poll::Ready(None),
            Source::Whole { body, left } => (body, left),
            Source::Stream(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                this.clock.start();
                return Poll::Ready(frame.map(|frame| match frame {
                    Ok(mut frame) => {
                        if let Some(trailers) = frame.trailers_mut() {
                            *trailers = head::trailers_to_replica(trailers);
                        }
                        Ok(frame)
                    }
                    Err(error) => Err(io::Error::other(error)),
                }));
            }
        };
        let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) else {
            this.clock.stop();
            return Poll::Pending;
        };
        this.clock.start();
        let Some(frame) = frame.transpose()? else { return Poll::Ready(None) };
        // Trailers are announced by headers that are not passed on.
        let Ok(data) = frame.into_data() else { return Poll::Ready(None) };
        let length = data.len() as u64;
        match left.checked_sub(length) {
            Some(rest) => {
                *left = rest;
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            None => Poll::Ready(Some(Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "the body is too large",
            )))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::None => true,
            Source::Whole { body, .. } => body.is_end_stream(),
            Source::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::None => SizeHint::with_exact(0),
            Source::Whole { body, .. } => body.size_hint(),
            Source::Stream(body) => body.size_hint(),
        }
    }
}
