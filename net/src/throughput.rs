use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

/// How slowly a body may come. A peer that sends less is not sending, but holding on to a
/// connection.
#[derive(Debug, Clone, Copy)]
pub struct MinThroughput {
    /// How long the peer may be waited for at any time, in one pause or in many…
    pub grace: Duration,
    /// …and how many bytes earn it another second.
    pub bytes_per_second: u64,
}

impl MinThroughput {
    /// One kilobyte a second, which a bad mobile connection has, with so much `grace`.
    pub fn with_grace(grace: Duration) -> Self {
        Self { grace, bytes_per_second: 1024 }
    }
}

/// A body that fails with [`io::ErrorKind::TimedOut`] when it comes too slowly. Only the time in
/// which the peer is waited for counts, not that in which its bytes are worked on.
#[derive(Debug)]
pub struct TimedBody<B> {
    body: B,
    min: MinThroughput,
    /// How much longer the peer may be waited for.
    left: Duration,
    waiting_since: Option<Instant>,
    /// Made at the first wait: most requests have no body.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl<B> TimedBody<B> {
    /// `body`, at this speed at least.
    pub fn new(body: B, min: MinThroughput) -> Self {
        Self { body, min, left: min.grace, waiting_since: None, sleep: None }
    }

    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.waiting_since.is_none() {
            let now = Instant::now();
            self.waiting_since = Some(now);
            match &mut self.sleep {
                Some(sleep) => sleep.as_mut().reset(now + self.left),
                None => self.sleep = Some(Box::pin(sleep_until(now + self.left))),
            }
        }
        if let Some(sleep) = &mut self.sleep {
            ready!(sleep.as_mut().poll(cx));
        }
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "the body comes too slowly"))
    }

    /// Takes account of a piece of so many `bytes` that was waited for so long.
    fn earn(&mut self, waited: Duration, bytes: usize) {
        let earned = bytes as f64 / self.min.bytes_per_second.max(1) as f64;
        let left = self.left.saturating_sub(waited) + Duration::from_secs_f64(earned);
        self.left = left.min(self.min.grace);
    }
}

impl<B> Body for TimedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) else {
            return this.poll_wait(cx).map(|error| Some(Err(error)));
        };
        if let Some(Ok(frame)) = &frame {
            let waited = this.waiting_since.take().map_or(Duration::ZERO, |since| since.elapsed());
            this.earn(waited, frame.data_ref().map_or(0, Buf::remaining));
        }
        Poll::Ready(frame.map(|frame| frame.map_err(io::Error::other)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;

    /// Never has anything to say.
    struct Silent;

    impl Body for Silent {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
            Poll::Pending
        }
    }

    #[test]
    fn a_body_may_pause_and_may_be_slow_but_not_for_long() {
        let min = MinThroughput { grace: Duration::from_secs(10), bytes_per_second: 1024 };
        for (pieces, bytes, pause, want, what) in [
            (100, 2048, 1, 100, "twice the minimum"),
            (100, 20 << 10, 9, 100, "long pauses, and enough in between"),
            (100, 1, 11, 0, "one pause that is too long"),
            (100, 1, 1, 10, "a trickle"),
            (2, 1 << 30, 11, 0, "what came before makes no pause longer"),
        ] {
            let mut body = TimedBody::new(Silent, min);
            let pause = Duration::from_secs(pause);
            let taken = (0..pieces).take_while(|_| {
                let in_time = pause <= body.left;
                body.earn(pause, bytes);
                in_time
            });
            assert_eq!(taken.count(), want, "{what}");
        }
    }

    #[tokio::test]
    async fn a_silent_body_ends_after_its_grace() {
        let min = MinThroughput::with_grace(Duration::from_millis(20));
        let error = TimedBody::new(Silent, min).frame().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let whole = TimedBody::new(Full::from("whole"), min).collect().await.unwrap();
        assert_eq!(whole.to_bytes(), "whole");
    }
}
