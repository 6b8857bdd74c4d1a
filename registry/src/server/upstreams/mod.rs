//! The pull-through cache: what is pulled below the name of an upstream is fetched from it, once,
//! and kept. Blobs and digests are kept for good; a tag is asked for again after a time. What is
//! kept is served also while the upstream does not answer.

mod live; // an upstream while it is asked
mod refusal; // what a client learns when an upstream does not give something
mod flight; // a blob on its way from an upstream to its readers
mod room; // what makes way for what is fetched
mod tags; // which tags were looked at a short while ago
mod manifests; // fetching manifests
mod blobs; // fetching blobs
mod endpoints; // created, listed and removed

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use spec::{Digest, Tenant};
use tokio::sync::mpsc;

use super::remote_registry::address_of;
use crate::{Limits, Repository, limits::UPSTREAM_QUEUE, protocol::Switch, storage::Storage};
use {blobs::Job, flight::Flight, live::Live, tags::CheckedTags};

pub(super) use {blobs::Fetches, endpoints::UpstreamEndpoints};

/// The pull-through cache of a registry.
pub(super) struct PullThrough {
    storage: Storage,
    blob_bytes_max: u64,
    retain_grace: Duration,
    live: Mutex<HashMap<Tenant, Arc<Live>>>,
    checked: CheckedTags,
    flights: Mutex<HashMap<(Repository, Digest), Arc<Flight>>>,
    jobs: mpsc::Sender<Job>,
    evicting: tokio::sync::Mutex<()>,
}

impl PullThrough {
    pub fn new(storage: Storage, limits: &Limits) -> (Arc<Self>, Fetches) {
        let (jobs, queue) = mpsc::channel(UPSTREAM_QUEUE);
        let this = Arc::new(Self {
            storage,
            blob_bytes_max: limits.blob_bytes_max,
            retain_grace: limits.retain_grace,
            live: Mutex::default(),
            checked: CheckedTags::default(),
            flights: Mutex::default(),
            jobs,
            evicting: tokio::sync::Mutex::default(),
        });
        (Arc::clone(&this), Fetches::new(this, queue))
    }

    /// The repository that a client means which names the registry that it would ask otherwise.
    /// containerd does so of each mirror.
    pub fn routed(&self, repository: Repository, namespace: Option<&str>) -> Repository {
        let Some(namespace) = namespace else { return repository };
        let all = self.storage.metadata.upstreams.all();
        let upstream = all.into_iter().find(|upstream| {
            address_of(&upstream.record.wanted.url)
                .is_some_and(|address| address.registry == namespace)
        });
        let routed = upstream.map(|upstream| format!("{}/{repository}", upstream.name).parse());
        routed.and_then(Result::ok).unwrap_or(repository)
    }

    /// The upstream of a repository, and the name of the repository there.
    fn of<'a>(&self, repository: &'a Repository) -> Option<(Arc<Live>, &'a str)> {
        let (upstream, name) = self.storage.metadata.upstreams.of(repository)?;
        let mut all = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(live) = all.get(&upstream.name)
            && Arc::ptr_eq(&live.upstream, &upstream)
        {
            return Some((Arc::clone(live), name));
        }
        let live = Arc::new(Live::new(upstream)?);
        all.insert(live.upstream.name.clone(), Arc::clone(&live));
        Some((live, name))
    }

    /// Whether nothing may be added.
    fn is_read_only(&self) -> bool {
        self.storage.metadata.rules.is_on(Switch::ReadOnly)
    }
}
