use futures_util::future::{BoxFuture, FutureExt, ready};

use crate::{
    Committed, Error, Query, Range, Ranged, Rev, Status, Store, Txn, Watch, shared::Shared,
    state::State,
};

/// The rules without a file: for tests of crates that use a store, and as the model that the other
/// engines are compared with.
#[derive(Debug)]
pub struct MemoryStore(Shared);

impl MemoryStore {
    /// An empty one.
    pub fn new() -> Self {
        Self(Shared::new("memory", "memory".to_owned(), State::fresh()))
    }

    fn commit(&self, txn: &Txn) -> Result<Committed, Error> {
        txn.check()?;
        let mut inner = self.0.write();
        let effect = inner.state.effect(txn);
        if !effect.changes.is_empty() {
            let rev = inner.state.rev + 1;
            inner.publish(rev, effect.changes);
        }
        Ok(Committed {
            rev: inner.state.rev,
            succeeded: effect.succeeded,
            outcomes: effect.outcomes,
        })
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Store for MemoryStore {
    fn range(&self, query: Query) -> BoxFuture<'_, Result<Ranged, Error>> {
        ready(self.0.range(&query)).boxed()
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<Committed, Error>> {
        async move { self.commit(&txn) }.boxed()
    }

    fn watch(&self, range: Range, after: Rev) -> BoxFuture<'_, Result<Watch, Error>> {
        ready(self.0.watch(range, after)).boxed()
    }

    fn compact(&self, rev: Rev) -> BoxFuture<'_, Result<(), Error>> {
        ready(self.0.compact(rev)).boxed()
    }

    fn status(&self) -> BoxFuture<'_, Result<Status, Error>> {
        ready(Ok(self.0.status())).boxed()
    }
}
