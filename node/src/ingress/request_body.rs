use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use net::{DrainedBody, MinThroughput, TimedBody};
use tokio::time::Instant;

use super::{head, limits::COPIED_BYTES_MAX};

/// What a client sends, within its limits.
pub(super) struct RequestBody {
    source: Source,
    /// None of a request without a body, which its replica has as soon as it was sent.
    clock: Option<ReplicaClock>,
    /// Of what was read, where it may have to be sent once more.
    copy: Option<BodyCopy>,
}

enum Source {
    None,
    /// What was read of it before, all of it.
    Copied(Option<Bytes>),
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

/// A small body as it is read. The ingress of another node may say that no replica had it, and
/// then the body is gone here.
#[derive(Debug, Clone)]
pub(super) struct BodyCopy(Arc<Mutex<(BytesMut, usize)>>);

impl BodyCopy {
    fn add(&self, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.extend_from_slice(bytes);
    }

    /// The body once more, where all of it was read.
    pub fn body(&self) -> Option<RequestBody> {
        let copied = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_whole = copied.0.len() == copied.1;
        is_whole.then(|| RequestBody::from(Source::Copied(Some(copied.0.clone().freeze()))))
    }
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
        Self { source: Source::None, clock: None, copy: None }
    }

    fn from(source: Source) -> Self {
        Self { source, clock: Some(ReplicaClock::started_now()), copy: None }
    }

    /// Whether an ingress that sends it to another one has it still, and has other replicas to try.
    pub fn is_small(&self) -> bool {
        self.size_hint().exact().is_some_and(|length| length <= COPIED_BYTES_MAX as u64)
    }

    /// Has it copied as it is read, where it is small.
    pub fn copied(&mut self) -> Option<BodyCopy> {
        let length = self.size_hint().exact().and_then(|length| usize::try_from(length).ok());
        let length = length.filter(|length| (1..=COPIED_BYTES_MAX).contains(length))?;
        let copy = BodyCopy(Arc::new(Mutex::new((BytesMut::with_capacity(length), length))));
        self.copy = Some(copy.clone());
        Some(copy)
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
            Source::Copied(bytes) => {
                let bytes = bytes.take();
                this.copy.iter().for_each(|copy| copy.add(bytes.as_deref().unwrap_or_default()));
                return Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))));
            }
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
                this.copy.iter().for_each(|copy| copy.add(&data));
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
            Source::None | Source::Copied(None) => true,
            Source::Copied(Some(_)) => false,
            Source::Whole(whole) => whole.body.is_end_stream(),
            Source::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::None | Source::Copied(None) => SizeHint::with_exact(0),
            Source::Copied(Some(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            Source::Whole(whole) => whole.body.size_hint(),
            Source::Stream(body) => body.size_hint(),
        }
    }
}
