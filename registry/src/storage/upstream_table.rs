//! Upstreams in memory: every pull asks.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use serde::{Deserialize, Serialize};
use spec::{Tenant, Timestamp};

use crate::{
    Repository,
    protocol::{NewUpstream, UpstreamCounts, UpstreamFailure, UpstreamInfo, matches},
};

/// An upstream as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UpstreamRecord {
    pub wanted: NewUpstream,
    pub created: Timestamp,
}

/// An upstream with what is counted of it.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub name: Tenant,
    pub record: UpstreamRecord,
    pub counters: UpstreamCounters,
    last_failure: Mutex<Option<UpstreamFailure>>,
}

#[derive(Debug, Default)]
pub(crate) struct UpstreamCounters {
    pub hits: AtomicU64,
    pub misses: AtomicU64,
    pub stale: AtomicU64,
    pub failed: AtomicU64,
    pub fetched_bytes: AtomicU64,
}

/// All upstreams, in memory: every pull asks.
#[derive(Default)]
pub(crate) struct Upstreams(RwLock<BTreeMap<Tenant, Arc<Upstream>>>);

impl Upstreams {
    pub fn all(&self) -> Vec<Arc<Upstream>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub fn get(&self, name: &Tenant) -> Option<Arc<Upstream>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// The upstream below whose name a repository is, when it may be pulled of it, and the name of
    /// the repository there.
    pub fn of<'a>(&self, repository: &'a Repository) -> Option<(Arc<Upstream>, &'a str)> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if all.is_empty() {
            return None;
        }
        let (name, rest) = repository.as_str().split_once('/')?;
        let upstream = all.get(&name.parse::<Tenant>().ok()?)?;
        upstream.offers(rest).then(|| (Arc::clone(upstream), rest))
    }

    /// Whether clients without a login may pull a repository that is not there yet.
    pub fn is_public(&self, repository: &Repository) -> bool {
        self.of(repository).is_some_and(|(upstream, _)| upstream.record.wanted.public)
    }

    pub(super) fn set(&self, name: &Tenant, record: Option<UpstreamRecord>) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match record {
            Some(record) => {
                let (counters, last_failure) = (UpstreamCounters::default(), Mutex::default());
                let upstream = Upstream { name: name.clone(), record, counters, last_failure };
                drop(all.insert(name.clone(), Arc::new(upstream)));
            }
            None => drop(all.remove(name)),
        }
    }
}

impl Upstream {
    /// Whether a repository of the upstream, by its name there, may be pulled.
    fn offers(&self, repository: &str) -> bool {
        let patterns = &self.record.wanted.repositories;
        patterns.is_empty() || patterns.iter().any(|pattern| matches(pattern, repository))
    }

    pub fn note_failure(&self, error: String) {
        let failure = UpstreamFailure { at: Timestamp::of(SystemTime::now()), error };
        *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
    }

    pub fn counts(&self) -> UpstreamCounts {
        let UpstreamCounters { hits, misses, stale, failed, fetched_bytes } = &self.counters;
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        UpstreamCounts {
            hits: of(hits),
            misses: of(misses),
            stale: of(stale),
            failed: of(failed),
            fetched_bytes: of(fetched_bytes),
        }
    }

    /// Without the password.
    pub fn info(&self) -> UpstreamInfo {
        let UpstreamRecord { wanted, created } = &self.record;
        UpstreamInfo {
            name: self.name.clone(),
            url: wanted.url.clone(),
            repositories: wanted.repositories.clone(),
            ttl_seconds: wanted.ttl_seconds,
            public: wanted.public,
            private: wanted.private,
            username: wanted.login.as_ref().map(|login| login.username.clone()),
            created: *created,
            counts: self.counts(),
            last_failure: self.last_failure.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

impl UpstreamCounters {
    pub fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
