use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::SystemTime,
};

use http::StatusCode;
use ring::hmac;
use serde::de::DeserializeOwned;
use spec::{Tenant, Timestamp};
use store::{Compare, Query, Rev, Store, Txn};
use tokio::sync::watch;

use crate::{
    ImageResolver,
    ca::Ca,
    error::Refusal,
    keys,
    live::Live,
    model::Model,
    plan::{Subject, Waiting},
    records::Kept,
    resolving::ResolvingLimits,
    seal::Seal,
    sets::Sets,
};

/// The control plane as its requests see it.
pub(crate) struct App {
    pub store: Arc<dyn Store>,
    /// The operator's tenant.
    pub tenant: Tenant,
    pub domain: String,
    pub registry: Option<String>,
    /// What join tokens and credentials name; nothing without a TCP listener.
    pub address: Option<String>,
    pub resolver: Arc<dyn ImageResolver>,
    pub resolving: ResolvingLimits,
    pub ca: Ca,
    /// For tokens that we make again when a create is repeated.
    pub key: hmac::Key,
    /// For secrets of tenants.
    pub seal: Seal,
    pub epoch: Epoch,
    pub model: Shared<Model>,
    /// Says so when the model, or what is known of nodes, has changed.
    pub changed: watch::Sender<u64>,
    /// What nodes say, which is never stored.
    pub live: Live,
    pub waiting: Shared<BTreeMap<Subject, Waiting>>,
    pub sets: Sets,
    /// Held shared by whoever puts something into a cluster, and alone by whoever deletes one.
    pub clusters: tokio::sync::RwLock<()>,
}

/// Which life of the control plane this is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Epoch {
    pub number: u64,
    /// The revision that started it: writes compare it, so those of an earlier life come to
    /// nothing.
    pub rev: Rev,
}

impl Epoch {
    /// Begins the next one.
    pub async fn begin(store: &dyn Store) -> Result<Self, store::Error> {
        let begun = store.txn(Txn::new().put(keys::EPOCH, crate::records::encode(&()))).await?;
        let kv = store.range(Query::key(keys::EPOCH)).await?;
        let number = kv.first().map_or(0, |kv| kv.version);
        Ok(Self { number: u64::try_from(number).unwrap_or_default(), rev: begun.rev })
    }

    /// Only while this is the newest one.
    pub fn fence(self) -> Compare {
        Compare::ModRev(keys::EPOCH.to_owned(), self.rev)
    }
}

impl App {
    /// Wakes the reconciler and every node that waits for news.
    pub fn touch(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Says so to whoever would take an unread model for "nothing should run". Revision 0 has
    /// nothing in it, and our own epoch is later.
    pub fn check_model(&self) -> Result<(), Refusal> {
        match self.model.read().rev {
            0 => Err(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "starting",
                "the control plane is starting",
            )
            .hint("keep what you have, and ask again in a second")),
            _ => Ok(()),
        }
    }

    /// One record.
    pub async fn get<T: DeserializeOwned>(
        &self,
        key: impl Into<String>,
    ) -> Result<Option<Kept<T>>, Refusal> {
        let found = self.store.range(Query::key(key)).await?;
        Ok(found.first().map(|kv| Kept::of(kv)).transpose()?)
    }

    /// Every record below a prefix.
    pub async fn list<T: DeserializeOwned>(
        &self,
        prefix: impl Into<String>,
    ) -> Result<Vec<Kept<T>>, Refusal> {
        let found = self.store.range(Query::prefix(prefix)).await?;
        Ok(found.kvs.iter().map(|kv| Kept::of(kv)).collect::<Result<_, _>>()?)
    }
}

/// Now, as a label.
pub(crate) fn now() -> Timestamp {
    Timestamp::of(SystemTime::now())
}

/// Something that many read and one writes, never across a wait.
#[derive(Debug, Default)]
pub(crate) struct Shared<T>(RwLock<T>);

impl<T> Shared<T> {
    pub fn of(value: T) -> Self {
        Self(RwLock::new(value))
    }

    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
