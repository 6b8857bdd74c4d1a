use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    Repository, RepositoryPattern, VerifyingKey,
    protocol::{Immutable, RateLimits, ScanPolicy, ScanRule, SignaturePolicy, Switch},
};

/// What the operator allows or not, in memory: every push asks.
#[derive(Default)]
pub(crate) struct Rules {
    /// Which switches are on.
    on: [AtomicBool; Switch::ALL.len()],
    /// Repositories whose tags stay as they were set.
    immutable: Mutex<HashMap<Repository, Immutable>>,
    rates: Mutex<RateLimits>,
    /// Which keys must have signed what is pulled.
    signatures: Mutex<BTreeMap<RepositoryPattern, Vec<VerifyingKey>>>,
    /// For what images are refused.
    scans: Mutex<BTreeMap<RepositoryPattern, ScanRule>>,
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

    /// The keys of each policy of a repository: one of each must have signed what is pulled.
    pub fn keys_of(&self, repository: &Repository) -> Vec<(RepositoryPattern, Vec<VerifyingKey>)> {
        let policies = self.signatures.lock().unwrap_or_else(PoisonError::into_inner);
        let covering = policies.iter().filter(|(pattern, _)| pattern.covers(repository));
        covering.map(|(pattern, keys)| (pattern.clone(), keys.clone())).collect()
    }

    pub fn set_keys(&self, pattern: &RepositoryPattern, keys: Option<Vec<VerifyingKey>>) {
        let mut policies = self.signatures.lock().unwrap_or_else(PoisonError::into_inner);
        match keys {
            Some(keys) => drop(policies.insert(pattern.clone(), keys)),
            None => drop(policies.remove(pattern)),
        }
    }

    pub fn signature_policies(&self) -> Vec<SignaturePolicy> {
        let policies = self.signatures.lock().unwrap_or_else(PoisonError::into_inner);
        let all = policies.iter();
        all.map(|(repositories, keys)| SignaturePolicy {
            repositories: repositories.clone(),
            keys: keys.clone(),
        })
        .collect()
    }

    /// The rule of each policy of a repository: an image must pass all of them.
    pub fn scan_rules_of(&self, repository: &Repository) -> Vec<(RepositoryPattern, ScanRule)> {
        let policies = self.scans.lock().unwrap_or_else(PoisonError::into_inner);
        let covering = policies.iter().filter(|(pattern, _)| pattern.covers(repository));
        covering.map(|(pattern, rule)| (pattern.clone(), rule.clone())).collect()
    }

    pub fn set_scan_rule(&self, pattern: &RepositoryPattern, rule: Option<ScanRule>) {
        let mut policies = self.scans.lock().unwrap_or_else(PoisonError::into_inner);
        match rule {
            Some(rule) => drop(policies.insert(pattern.clone(), rule)),
            None => drop(policies.remove(pattern)),
        }
    }

    pub fn scan_policies(&self) -> Vec<ScanPolicy> {
        let policies = self.scans.lock().unwrap_or_else(PoisonError::into_inner);
        let all = policies.iter();
        all.map(|(repositories, rule)| ScanPolicy {
            repositories: repositories.clone(),
            rule: rule.clone(),
        })
        .collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Repository, Immutable>> {
        self.immutable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
