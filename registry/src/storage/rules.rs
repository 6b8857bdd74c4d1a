use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    Repository,
    protocol::{Immutable, RateLimits, Switch},
};

/// What the operator allows or not, in memory: every push asks.
#[derive(Default)]
pub(crate) struct Rules {
    /// Which switches are on.
    on: [AtomicBool; Switch::ALL.len()],
    /// Repositories whose tags stay as they were set.
    immutable: Mutex<HashMap<Repository, Immutable>>,
    rates: Mutex<RateLimits>,
}

impl Rules {
    pub fn is_on(&self, switch: Switch) -> bool {
        self.on[switch as usize].load(Ordering::SeqCst)
    }

    pub fn set(&self, switch: Switch, on: bool) {
        self.on[switch as usize].store(on, Ordering::SeqCst);
    }

    pub fn rates(&self) -> RateLimits {
        *self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_rates(&self, rates: RateLimits) {
        *self.rates.lock().unwrap_or_else(PoisonError::into_inner) = rates;
    }

    /// Whether a tag of a repository must not be set to anything else.
    pub fn is_immutable(&self, repository: &Repository, tag: &str) -> bool {
        self.lock().get(repository).is_some_and(|rule| rule.holds(tag))
    }

    pub fn set_immutable(&self, repository: &Repository, rule: Option<Immutable>) {
        match rule {
            Some(rule) => drop(self.lock().insert(repository.clone(), rule)),
            None => drop(self.lock().remove(repository)),
        }
    }

    pub fn immutable(&self) -> Vec<(Repository, Immutable)> {
        let mut all: Vec<_> =
            self.lock().iter().map(|(name, rule)| (name.clone(), rule.clone())).collect();
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        all
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Repository, Immutable>> {
        self.immutable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
