use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::upstream::Lease;

/// What a client sends, within its limits: no more bytes than allowed, and no slower than a bad
/// mobile connection.
pub(super) struct Inbound {
    /// Nothing when a request without a body is sent a second time.
    body: Option<Incoming>,
    left: u64,
    since: Instant,
    seen: u64,
    /// Made at the first wait: most requests have no body.
    patience: Option<Pin<Box<Sleep>>>,
    pace: Pace,
    turn: Turn,
}

/// Whose turn it is while a request is on its way: the client's to send more of it, or the
/// replica's to take that or to answer. The same for all who hold it.
#[derive(Debug, Clone)]
pub(super) struct Turn(Arc<Mutex<Option<Instant>>>);

impl Turn {
    fn of_the_replica() -> Self {
        Self(Arc::new(Mutex::new(Some(Instant::now()))))
    }

    /// Since when we wait for the replica; `None` while it waits for the client.
    pub fn replica_since(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn give_to_replica(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn give_to_client(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// How slowly a body may come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// A body may be this late at any time…
    pub grace: Duration,
    /// …behind so many bytes a second.
    pub bytes_per_second: u64,
}

impl Inbound {
    pub fn new(body: Incoming, bytes_max: u64, pace: Pace) -> Self {
        Self { body: Some(body), left: bytes_max, ..Self::bare(pace) }
    }

    /// An empty body.
    pub fn none() -> Self {
        Self::bare(Pace { grace: Duration::ZERO, bytes_per_second: 1 })
    }

    fn bare(pace: Pace) -> Self {
        let turn = Turn::of_the_replica();
        Self { body: None, left: 0, since: Instant::now(), seen: 0, patience: None, pace, turn }
    }

    /// Whose turn it is, also once this has been sent off.
    pub fn turn(&self) -> Turn {
        self.turn.clone()
    }

    /// Whether there is nothing to send, so that the request can be sent again.
    pub fn is_empty(&self) -> bool {
        self.is_end_stream()
    }

    /// When the bytes that have come so far stop being an excuse.
    fn deadline(&self) -> Instant {
        self.since
            + self.pace.grace
            + Duration::from_secs(self.seen / self.pace.bytes_per_second.max(1))
    }
}

impl Body for Inbound {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) else {
            let deadline = this.deadline();
            let patience =
                this.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            patience.as_mut().reset(deadline);
            this.turn.give_to_client();
            ready!(patience.as_mut().poll(cx));
            return Poll::Ready(Some(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the body comes too slowly",
            ))));
        };
        this.turn.give_to_replica();
        let Some(frame) = frame else { return Poll::Ready(None) };
        let frame = frame.map_err(io::Error::other)?;
        // Trailers are announced by headers that are not passed on.
        let Ok(data) = frame.into_data() else { return Poll::Ready(None) };
        let length = data.len() as u64;
        match this.left.checked_sub(length) {
            Some(left) => {
                this.left = left;
                this.seen += length;
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

/// What a client gets: something of ours, or a replica's answer as it comes.
pub(super) enum Outbound {
    Ours(Full<Bytes>),
    Relayed(Relayed),
}

/// A replica's body. When it has come in full its connection is free for the next request.
pub(super) struct Relayed {
    pub body: Incoming,
    pub lease: Option<Lease>,
    pub _busy: Busy,
}

impl Body for Outbound {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Ours(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Relayed(relayed) => {
                let frame = ready!(Pin::new(&mut relayed.body).poll_frame(cx));
                if (frame.is_none() || relayed.body.is_end_stream())
                    && let Some(lease) = relayed.lease.take()
                {
                    lease.give_back();
                }
                Poll::Ready(frame.map(|frame| frame.map_err(io::Error::other)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Ours(body) => body.is_end_stream(),
            // Asked after the last frame too, so that the lease goes back even when nobody polls
            // for the end.
            Self::Relayed(relayed) => relayed.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Ours(body) => body.size_hint(),
            Self::Relayed(relayed) => relayed.body.size_hint(),
        }
    }
}

/// Counts a request as one of its replica's while it lives.
pub(super) struct Busy(Arc<AtomicUsize>);

impl Busy {
    pub fn with(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
