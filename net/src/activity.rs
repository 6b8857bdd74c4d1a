use std::{
    cmp::Reverse,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::{
    task::{AbortHandle, futures::TaskLocalFuture},
    task_local,
    time::Instant,
};

use crate::limits::{NEW_TIME_MIN, STALLED_BYTES_PER_SECOND_MIN, STALLED_TIME_MIN};

task_local! {
    /// The connection that a task serves: what serves it, at whatever depth, notes there what it
    /// waits for, and each class that admits it holds it there.
    static CONNECTION: Arc<Activity>;
}

/// What one connection waits for, and how it is closed when others need its place.
#[derive(Debug)]
pub(crate) struct Activity {
    state: Mutex<State>,
    task: OnceLock<AbortHandle>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Since when there is no request.
    since: Instant,
    /// Since when a body does not come, or a response is not taken.
    waiting_since: Option<Instant>,
    /// How long it was so in this request before, and what came or was taken since the first time.
    waited: Duration,
    bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// There was no request yet.
    New,
    /// There is none any more.
    Resting,
    /// One is under way, and its response has not begun.
    Asked,
    /// The response is on its way.
    Answered,
}

/// How much a client would miss a connection that is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Without a request for so long: new, between two of them, or with a head or a handshake that
    /// is not complete.
    Idle(Duration),
    /// The client was waited for in this request for so long, and moved next to nothing.
    Stalled(Duration),
    /// Also for a moment after it came: it may have sent a request that was not read yet.
    Busy,
}

impl Standing {
    /// The longest first, and those of which nothing is known last.
    pub fn order(self) -> Reverse<Duration> {
        match self {
            Self::Idle(time) | Self::Stalled(time) => Reverse(time),
            Self::Busy => Reverse(Duration::ZERO),
        }
    }
}

impl State {
    fn new(now: Instant) -> Self {
        Self {
            phase: Phase::New,
            since: now,
            waiting_since: None,
            waited: Duration::ZERO,
            bytes: 0,
        }
    }

    fn ask(&mut self) {
        if matches!(self.phase, Phase::New | Phase::Resting) {
            (self.waited, self.bytes) = (Duration::ZERO, 0);
        }
        self.phase = Phase::Asked;
    }

    fn answer(&mut self) {
        (self.phase, self.waiting_since) = (Phase::Answered, None);
    }

    fn rest(&mut self, now: Instant) {
        if self.phase != Phase::New {
            (self.phase, self.since) = (Phase::Resting, now);
        }
    }

    // What comes several times in each request asks for the time only when it needs it.

    fn wait(&mut self, now: impl FnOnce() -> Instant) {
        self.waiting_since.get_or_insert_with(now);
    }

    fn wait_for_body(&mut self, now: impl FnOnce() -> Instant) {
        if self.phase == Phase::Asked {
            self.wait(now);
        }
    }

    fn moved(&mut self, bytes: usize, now: impl FnOnce() -> Instant) {
        if let Some(since) = self.waiting_since.take() {
            self.waited += now().saturating_duration_since(since);
        }
        // What the buffers of sockets took before is no progress of the client.
        if !self.waited.is_zero() {
            self.bytes += bytes as u64;
        }
    }

    fn standing(&self, now: Instant) -> Standing {
        let waits = |since: Instant| now.saturating_duration_since(since);
        match self.phase {
            Phase::New if waits(self.since) < NEW_TIME_MIN => return Standing::Busy,
            Phase::New | Phase::Resting if self.waiting_since.is_none() => {
                return Standing::Idle(waits(self.since));
            }
            _ => {}
        }
        let waited = self.waited + self.waiting_since.map_or(Duration::ZERO, waits);
        let least = waited.as_secs_f64() * STALLED_BYTES_PER_SECOND_MIN as f64;
        match waited >= STALLED_TIME_MIN && (self.bytes as f64) < least {
            true => Standing::Stalled(waited),
            false => Standing::Busy,
        }
    }
}

impl Default for Activity {
    fn default() -> Self {
        Self { state: Mutex::new(State::new(Instant::now())), task: OnceLock::new() }
    }
}

impl Activity {
    /// That of the connection which this task serves; one of its own elsewhere.
    pub fn current() -> Arc<Self> {
        CONNECTION.try_with(Arc::clone).unwrap_or_default()
    }

    /// `serve` as what serves this connection.
    pub fn scope<F: Future>(self: Arc<Self>, serve: F) -> TaskLocalFuture<Arc<Self>, F> {
        CONNECTION.scope(self, serve)
    }

    /// Says which task serves it. Until then it cannot be closed.
    pub fn served_by(&self, task: AbortHandle) {
        let _ = self.task.set(task); // there is one
    }

    /// Closes the connection: whatever its task waits for is dropped. False when it is too new.
    pub fn close(&self) -> bool {
        self.task.get().map(AbortHandle::abort).is_some()
    }

    pub fn standing(&self, now: Instant) -> Standing {
        self.state().standing(now)
    }

    /// For how long there has been no request, and nothing of a response is left to take.
    pub fn idle_time(&self, now: Instant) -> Option<Duration> {
        match self.standing(now) {
            Standing::Idle(time) => Some(time),
            Standing::Stalled(_) | Standing::Busy => None,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request is under way.
    pub fn ask(&self) {
        self.state().ask();
    }

    /// Its response begins: what the client sends from here on is its own affair.
    pub fn answer(&self) {
        self.state().answer();
    }

    /// No request is under way any more, though the client may have to take the rest of a response.
    pub fn rest(&self) {
        self.state().rest(Instant::now());
    }

    /// The client has to take more of a response.
    pub fn wait(&self) {
        self.state().wait(Instant::now);
    }

    /// The client has to send more of a body.
    pub fn wait_for_body(&self) {
        self.state().wait_for_body(Instant::now);
    }

    /// It did.
    pub fn moved(&self, bytes: usize) {
        self.state().moved(bytes, Instant::now);
    }

    /// What became of a write.
    pub fn wrote(&self, polled: &Poll<io::Result<usize>>) {
        match polled {
            Poll::Ready(Ok(bytes)) => self.moved(*bytes),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.wait(),
        }
    }
}

/// The body of a response, until which its request is under way.
pub(crate) struct AnsweringBody<B> {
    body: B,
    activity: Arc<Activity>,
}

impl<B> AnsweringBody<B> {
    pub fn new(body: B, activity: Arc<Activity>) -> Self {
        activity.answer();
        Self { body, activity }
    }
}

impl<B> Drop for AnsweringBody<B> {
    fn drop(&mut self) {
        self.activity.rest();
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for AnsweringBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
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
    use super::*;

    #[test]
    fn a_client_that_keeps_a_request_waiting_is_told_from_one_that_is_served() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let at = |seconds: u32| start + seconds * second;
        let mut state = State::new(start);
        assert_eq!(state.standing(at(3)), Standing::Idle(3 * second), "new, or without an end");
        let soon = start + NEW_TIME_MIN / 2;
        assert_eq!(state.standing(soon), Standing::Busy, "its request was not read yet");
        state.ask();
        assert_eq!(state.standing(at(60)), Standing::Busy, "the server takes its time");
        state.wait_for_body(|| start);
        assert_eq!(state.standing(at(1)), Standing::Busy);
        assert_eq!(state.standing(at(9)), Standing::Stalled(9 * second));
        state.moved(1 << 20, || at(1));
        state.wait_for_body(|| at(1));
        assert_eq!(state.standing(at(9)), Standing::Busy, "a pause after much");
        state.answer();
        state.wait_for_body(|| at(9));
        assert_eq!(state.standing(at(600)), Standing::Busy, "a client that is listening");
        state.moved(0, || at(600));
        state.rest(at(600));
        state.ask();
        state.answer();
        state.moved(4 << 20, || at(600));
        state.wait(|| at(600));
        state.rest(at(600));
        assert_eq!(state.standing(at(700)), Standing::Stalled(100 * second), "none is taken");
        state.moved(1, || at(700));
        assert_eq!(state.standing(at(703)), Standing::Idle(103 * second));
        // What came before counts for nothing in the next one, and a trickle for little.
        state.ask();
        for n in 0..10 {
            state.wait_for_body(|| at(700 + n));
            state.moved(1000, || at(701 + n));
        }
        assert_eq!(state.standing(at(710)), Standing::Stalled(10 * second));
    }
}
