use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

/// Whether one replica answers, as this ingress sees it.
#[derive(Debug)]
pub(super) struct Answering {
    ejected: AtomicBool,
    /// When it last answered, or was probed.
    seen: Mutex<Instant>,
    /// One probe at a time.
    pub probing: tokio::sync::Mutex<()>,
    /// It was ejected.
    pub changed: Notify,
}

impl Default for Answering {
    fn default() -> Self {
        Self {
            ejected: AtomicBool::new(false),
            seen: Mutex::new(Instant::now()),
            probing: tokio::sync::Mutex::default(),
            changed: Notify::new(),
        }
    }
}

impl Answering {
    pub fn is_ejected(&self) -> bool {
        self.ejected.load(Ordering::Relaxed)
    }

    /// It has begun a response.
    pub fn answered(&self) {
        self.see();
        self.ejected.store(false, Ordering::Relaxed);
    }

    /// Returns whether it was in until now.
    pub fn eject(&self) -> bool {
        let was_in = !self.ejected.swap(true, Ordering::Relaxed);
        self.changed.notify_waiters();
        was_in
    }

    pub fn see(&self) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    pub fn silent_for(&self) -> Duration {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}
