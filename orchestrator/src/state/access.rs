use std::{
    collections::BTreeSet,
    sync::{Arc, RwLockReadGuard},
};

use serde::de::DeserializeOwned;
use spec::NodeId;
use store::{Batch, Compare, Query, Range, Ranged, Rev, Status, Store, Txn, Watch};
use tokio::sync::watch;

use super::{
    keys,
    model::Model,
    own_metrics::OwnMetrics,
    records::{Stored, encode},
    reports::NodeReports,
    shared::Shared,
};

/// The store, everything in it as of one revision, and what nodes report.
pub(crate) struct State {
    store: Arc<dyn Store>,
    pub epoch: Epoch,
    model: Shared<Model>,
    pub reports: NodeReports,
    pub metrics: OwnMetrics,
    /// The revision of the model.
    model_rev: watch::Sender<Rev>,
    /// Wakes the reconciler.
    changed: watch::Sender<()>,
}

/// Counts the starts of the control plane on one store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Epoch {
    pub number: u64,
    /// The revision that started it: writes compare it, so those of an earlier epoch fail.
    rev: Rev,
}

impl State {
    /// Begins the next epoch and reads everything, so that no node is ever told of an empty model:
    /// it would stop all of its tasks.
    pub async fn open(store: Arc<dyn Store>) -> Result<Self, store::Error> {
        let epoch = Epoch::begin(&*store).await?;
        let model = Model::of(&store.range(Query::prefix("")).await?);
        Ok(Self {
            store,
            epoch,
            model_rev: watch::Sender::new(model.rev),
            model: Shared::of(model),
            reports: NodeReports::new(),
            metrics: OwnMetrics::default(),
            changed: watch::Sender::new(()),
        })
    }

    pub fn model(&self) -> RwLockReadGuard<'_, Model> {
        self.model.read()
    }

    pub fn replace_model(&self, list: &Ranged) {
        *self.model.write() = Model::of(list);
        self.model_rev.send_replace(list.rev);
    }

    /// Nodes whose record or tasks have changed.
    pub fn apply(&self, batch: &Batch) -> BTreeSet<NodeId> {
        let touched = self.model.write().apply(batch.rev, &batch.events);
        self.model_rev.send_replace(batch.rev);
        touched
    }

    /// Waits until the model has everything that was committed up to `rev`.
    pub async fn has_model_of(&self, rev: Rev) {
        // It fails when the sender is gone, which is `self`.
        let _ = self.model_rev.subscribe().wait_for(|model| *model >= rev).await;
    }

    #[cfg(test)]
    pub fn forget_model(&self) {
        *self.model.write() = Model::default();
    }

    /// The reconciler looks at everything again.
    pub fn wake_reconciler(&self) {
        self.changed.send_replace(());
    }

    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub async fn get<T: DeserializeOwned>(
        &self,
        key: impl Into<String>,
    ) -> Result<Option<Stored<T>>, store::Error> {
        self.range(Query::key(key)).await?.first().map(|kv| Stored::of(kv)).transpose()
    }

    /// Every record below a prefix.
    pub async fn list<T: DeserializeOwned>(
        &self,
        prefix: impl Into<String>,
    ) -> Result<Vec<Stored<T>>, store::Error> {
        self.range(Query::prefix(prefix)).await?.kvs.iter().map(|kv| Stored::of(kv)).collect()
    }

    /// How many keys there are below a prefix.
    pub async fn count(&self, prefix: String) -> Result<usize, store::Error> {
        let found = self.range(Query::prefix(prefix).limit(0).counted()).await?;
        Ok(found.count.expect("it was asked for"))
    }

    pub async fn range(&self, query: Query) -> Result<Ranged, store::Error> {
        self.store.range(query).await
    }

    pub async fn watch(&self, after: Rev) -> Result<Watch, store::Error> {
        self.store.watch(Range::Prefix(String::new()), after).await
    }

    /// Whether every compare of `txn` held; if not, nothing was written.
    pub async fn commit(&self, txn: Txn) -> Result<bool, store::Error> {
        Ok(self.store.txn(txn).await?.succeeded)
    }

    /// The same, after which the model has what was written.
    pub async fn commit_and_follow(&self, txn: Txn) -> Result<bool, store::Error> {
        let done = self.store.txn(txn).await?;
        if done.succeeded {
            self.has_model_of(done.rev).await;
        }
        Ok(done.succeeded)
    }

    pub async fn status(&self) -> Result<Status, store::Error> {
        self.store.status().await
    }
}

impl Epoch {
    async fn begin(store: &dyn Store) -> Result<Self, store::Error> {
        let begun = store.txn(Txn::new().put(keys::EPOCH, encode(&()))).await?;
        let kv = store.range(Query::key(keys::EPOCH)).await?;
        let number = kv.first().map_or(0, |kv| kv.version);
        Ok(Self { number: u64::try_from(number).unwrap_or_default(), rev: begun.rev })
    }

    /// Holds while this is the newest epoch.
    pub fn fence(self) -> Compare {
        Compare::ModRev(keys::EPOCH.to_owned(), self.rev)
    }
}
