use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use super::super::remote_registry::RemoteRegistry;
use crate::{
    Error,
    limits::{UPSTREAM_HOLD_MAX, UPSTREAM_HOLD_MIN, UPSTREAM_RATE_HOLD, UPSTREAM_RATE_HOLD_MAX},
    protocol::NewUpstream,
    storage::Upstream,
};

/// An upstream while it is asked.
pub(super) struct Live {
    pub upstream: Arc<Upstream>,
    pub remote: RemoteRegistry,
    hold: Mutex<Hold>,
}

/// Until when an upstream is not asked.
#[derive(Default)]
struct Hold {
    failures: u32,
    until: Option<Instant>,
}

impl Live {
    pub fn new(upstream: Arc<Upstream>) -> Option<Self> {
        let NewUpstream { url, private, login, .. } = &upstream.record.wanted;
        let remote = RemoteRegistry::new(url, *private, login.as_ref())?;
        Some(Self { remote, upstream, hold: Mutex::default() })
    }

    /// For how long it is not asked.
    pub fn held(&self) -> Option<Duration> {
        let until = self.lock().until?;
        until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    pub fn has_answered(&self) {
        *self.lock() = Hold::default();
    }

    pub fn has_sent(&self, bytes: u64) {
        self.upstream.counters.fetched_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes why something was not fetched, and whether to leave the upstream alone for a while.
    pub fn has_failed(&self, error: &Error) {
        let pause = match error {
            Error::TooManyRequests { after, .. } => {
                Some(after.unwrap_or(UPSTREAM_RATE_HOLD).min(UPSTREAM_RATE_HOLD_MAX))
            }
            error if error.is_transient() => None,
            // It has answered, though not as wanted.
            _ => return self.note(error),
        };
        let mut hold = self.lock();
        let doubled = UPSTREAM_HOLD_MIN.saturating_mul(1 << hold.failures.min(10));
        hold.failures = hold.failures.saturating_add(1);
        hold.until = Some(Instant::now() + pause.unwrap_or(doubled.min(UPSTREAM_HOLD_MAX)));
        drop(hold);
        self.note(error);
    }

    fn note(&self, error: &Error) {
        let text = error.with_causes();
        tracing::warn!(upstream = %self.upstream.name, error = text, "an upstream failed");
        self.upstream.note_failure(text);
    }

    fn lock(&self) -> MutexGuard<'_, Hold> {
        self.hold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
