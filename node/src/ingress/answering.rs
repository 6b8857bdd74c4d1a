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

    /// It has begun a response. Returns whether it was ejected until now.
    pub fn answered(&self) -> bool {
        self.see();
        self.ejected.swap(false, Ordering::Relaxed)
    }

    pub fn eject(&self) {
        self.ejected.store(true, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    pub fn see(&self) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    pub fn silent_for(&self) -> Duration {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}
