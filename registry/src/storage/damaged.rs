use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use serde::{Deserialize, Serialize};
use spec::{Digest, Timestamp};

use crate::protocol::Fault;

/// What was found of a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DamageRecord {
    pub fault: Fault,
    pub found: Timestamp,
}

/// All that are damaged, in memory: every request for a blob asks.
#[derive(Default)]
pub(crate) struct Damaged {
    digests: Mutex<HashMap<Digest, DamageRecord>>,
    /// So that on a sound disk the question costs nothing.
    is_any: AtomicBool,
}

impl Damaged {
    pub fn contains(&self, digest: &Digest) -> bool {
        self.is_any.load(Ordering::SeqCst) && self.lock().contains_key(digest)
    }

    pub fn lock(&self) -> MutexGuard<'_, HashMap<Digest, DamageRecord>> {
        self.digests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn change(&self, change: impl FnOnce(&mut HashMap<Digest, DamageRecord>)) {
        let mut digests = self.lock();
        change(&mut digests);
        self.is_any.store(!digests.is_empty(), Ordering::SeqCst);
    }
}
