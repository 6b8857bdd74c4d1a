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
    /// None of a request without a body, which its replica has as soon as it was sent.
    clock: Option<ReplicaClock>,
}

enum Source {
    None,
    /// No more bytes than these, and no slower than allowed.
    Whole(Box<Whole>),
    /// A stream of messages, as long and as slow as both sides like, with its trailers.
    Stream(Box<DrainedBody>),
}

/// Apart from the request, which is moved often and mostly has none.
struct Whole {
    body: TimedBody<DrainedBody>,
    left: u64,
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
        if body.is_end_stream() {
            return Self::none();
        }
        let body = TimedBody::new(DrainedBody::new(body), throughput);
        Self::from(Source::Whole(Box::new(Whole { body, left: bytes_max })))
    }

    pub fn stream(body: Incoming) -> Self {
        Self::from(Source::Stream(Box::new(DrainedBody::new(body))))
    }

    pub fn none() -> Self {
        Self { source: Source::None, clock: None }
    }

    fn from(source: Source) -> Self {
        Self { source, clock: Some(ReplicaClock::started_now()) }
    }

    /// Its clock, also once the body was sent off.
    pub fn clock(&self) -> Option<ReplicaClock> {
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
            Source::Whole(whole) => (&mut whole.body, &mut whole.left),
            Source::Stream(body) => {
                let frame = ready!(Pin::new(&mut **body).poll_frame(cx));
                this.clock.as_ref().inspect(|clock| clock.start());
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
            this.clock.as_ref().inspect(|clock| clock.stop());
            return Poll::Pending;
        };
        this.clock.as_ref().inspect(|clock| clock.start());
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
            Source::Whole(whole) => whole.body.is_end_stream(),
            Source::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::None => SizeHint::with_exact(0),
            Source::Whole(whole) => whole.body.size_hint(),
            Source::Stream(body) => body.size_hint(),
        }
    }
}
