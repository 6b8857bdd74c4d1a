use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{head, request_body::ReplicaClock, upstream::ReplicaBody};

/// What a client gets: a response of the ingress itself, or a replica's as it comes.
pub(super) enum ResponseBody {
    Own(Full<Bytes>),
    Relayed(Relayed),
}

/// A replica's body. When it has come in full its connection is free for the next request.
pub(super) struct Relayed {
    body: Option<ReplicaBody>,
    is_whole: bool,
    _in_flight: InFlight,
    idle: Idle,
}

impl Relayed {
    pub fn new(body: ReplicaBody, in_flight: InFlight, idle: Idle) -> Self {
        let mut relayed = Self { body: Some(body), is_whole: false, _in_flight: in_flight, idle };
        relayed.finish_at_end();
        relayed
    }

    fn finish_at_end(&mut self) {
        if self.body.as_ref().is_some_and(ReplicaBody::is_end) {
            self.finish();
        }
    }

    fn finish(&mut self) {
        self.is_whole = true;
        if let Some(body) = self.body.take() {
            body.finish();
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let Poll::Ready(frame) = body.poll_frame(cx) else {
            ready!(self.idle.poll_over(cx));
            self.body = None;
            let error = io::Error::new(io::ErrorKind::TimedOut, "the response pauses");
            return Poll::Ready(Some(Err(error)));
        };
        self.idle.is_waiting = false;
        match &frame {
            Some(Ok(_)) => self.finish_at_end(),
            Some(Err(_)) => self.body = None,
            None => self.finish(),
        }
        Poll::Ready(frame.map(|frame| {
            frame.map(|mut frame| {
                if let Some(trailers) = frame.trailers_mut() {
                    *trailers = head::trailers_to_client(trailers);
                }
                frame
            })
        }))
    }
}

/// How long a response may pause. Only while its replica is waited for: not while a client takes
/// what has come, and not while the client of a stream sends.
pub(super) struct Idle {
    time_max: Duration,
    /// Of the request, where both sides may speak at any time.
    stream: Option<ReplicaClock>,
    waiting: Option<Pin<Box<Sleep>>>,
    is_waiting: bool,
}

impl Idle {
    pub fn new(time_max: Duration, stream: Option<ReplicaClock>) -> Self {
        Self { time_max, stream, waiting: None, is_waiting: false }
    }

    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = Instant::now() + self.time_max;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if !self.is_waiting {
            waiting.as_mut().reset(until);
            self.is_waiting = true;
        }
        loop {
            ready!(waiting.as_mut().poll(cx));
            let spoken = self.stream.as_ref().and_then(ReplicaClock::started);
            match spoken.map(|at| at + self.time_max).filter(|until| *until > Instant::now()) {
                Some(until) => waiting.as_mut().reset(until),
                None => return Poll::Ready(()),
            }
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Own(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Relayed(relayed) => relayed.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_end_stream(),
            Self::Relayed(relayed) => relayed.is_whole,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => body.size_hint(),
            Self::Relayed(relayed) => {
                relayed.body.as_ref().map_or(SizeHint::with_exact(0), ReplicaBody::size_hint)
            }
        }
    }
}

/// Counts a request as one of its replica's while it lives.
pub(super) struct InFlight(Arc<AtomicUsize>);

impl InFlight {
    pub fn with(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
