use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use crate::limits::{UPSTREAM_TAG_TIME_KEPT, UPSTREAM_TAGS_KEPT};

/// Which tags an upstream was asked for a short while ago, and which it is asked for now.
#[derive(Default)]
pub(super) struct CheckedTags {
    checked: Mutex<HashMap<String, Instant>>,
    asking: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl CheckedTags {
    pub fn is_fresh(&self, name: &str, ttl: Duration) -> bool {
        lock(&self.checked).get(name).is_some_and(|checked| checked.elapsed() < ttl)
    }

    /// The upstream was asked for it. Of too many some are forgotten, and asked for again.
    pub fn note(&self, name: &str) {
        let mut checked = lock(&self.checked);
        if checked.len() >= UPSTREAM_TAGS_KEPT {
            checked.retain(|_, at| at.elapsed() < UPSTREAM_TAG_TIME_KEPT);
        }
        if checked.len() >= UPSTREAM_TAGS_KEPT {
            checked.clear();
        }
        checked.insert(name.to_owned(), Instant::now());
    }

    /// Held by the one request that asks the upstream.
    pub fn asking(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut asking = lock(&self.asking);
        if let Some(known) = asking.get(name).and_then(Weak::upgrade) {
            return known;
        }
        asking.retain(|_, one| one.strong_count() > 0);
        let one = Arc::default();
        asking.insert(name.to_owned(), Arc::downgrade(&one));
        one
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
