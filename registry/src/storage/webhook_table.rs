//! Webhooks in memory: every change asks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock, atomic::AtomicU64},
};

use serde::{Deserialize, Serialize};
use spec::Timestamp;
use tokio::sync::Notify;

use crate::{
    Repository,
    protocol::{EventKind, Replica, RepositoryPattern, WebhookName},
};

/// A webhook as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WebhookRecord {
    pub url: String,
    pub repositories: RepositoryPattern,
    pub events: BTreeSet<EventKind>,
    pub private: bool,
    /// The key of its signatures, in base64.
    pub secret: String,
    pub created: Timestamp,
    /// Of a replication: how images are at the registry at the URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<Replica>,
}

/// A webhook with what is counted of it.
pub(crate) struct Webhook {
    pub name: WebhookName,
    pub record: WebhookRecord,
    /// Events that wait; somewhat more while transactions go on.
    pub pending: AtomicU64,
    pub dropped: AtomicU64,
}

/// All webhooks, in memory: every change asks.
#[derive(Default)]
pub(crate) struct Webhooks {
    all: RwLock<BTreeMap<WebhookName, Arc<Webhook>>>,
    /// There may be events to deliver.
    pub changed: Notify,
}

impl Webhooks {
    pub fn all(&self) -> Vec<Arc<Webhook>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub fn get(&self, name: &WebhookName) -> Option<Arc<Webhook>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    pub(super) fn set(&self, name: &WebhookName, record: Option<WebhookRecord>, pending: u64) {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        match record {
            Some(record) => {
                let (pending, dropped) = (AtomicU64::new(pending), AtomicU64::new(0));
                let hook = Webhook { name: name.clone(), record, pending, dropped };
                drop(all.insert(name.clone(), Arc::new(hook)));
            }
            None => drop(all.remove(name)),
        }
    }

    /// Those that are to be told of an event.
    pub(super) fn concerned(&self, repository: &Repository, kind: EventKind) -> Vec<Arc<Webhook>> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        let concerned = |hook: &&Arc<Webhook>| {
            let WebhookRecord { repositories, events, .. } = &hook.record;
            (events.is_empty() || events.contains(&kind)) && repositories.covers(repository)
        };
        all.values().filter(concerned).cloned().collect()
    }
}
