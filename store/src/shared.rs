use std::{
    collections::VecDeque,
    sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Instant,
};

use crate::{
    Error, Kv, Query, Range, Ranged, Rev, Status, Watch,
    limits::{HISTORY_BYTES_MAX, HISTORY_CHANGES_MAX, HISTORY_TIME},
    state::{Change, State},
    watch::Watchers,
};

/// The current state, the recent history, and the watches. Readers see only what is durable.
#[derive(Debug)]
pub(crate) struct Shared {
    cluster_id: String,
    engine: &'static str,
    inner: RwLock<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub state: State,
    compact_rev: Rev,
    history: VecDeque<HistoryEntry>,
    history_changes: usize,
    history_bytes: usize,
    watchers: Watchers,
}

/// The changes of one transaction.
#[derive(Debug)]
struct HistoryEntry {
    at: Instant,
    rev: Rev,
    changes: Vec<Change>,
    bytes: usize,
}

impl Shared {
    /// Everything before `state` is compacted: an engine keeps no events over a restart.
    pub fn new(engine: &'static str, cluster_id: String, state: State) -> Self {
        let compact_rev = state.rev;
        let inner = Inner {
            state,
            compact_rev,
            history: VecDeque::new(),
            history_changes: 0,
            history_bytes: 0,
            watchers: Watchers::default(),
        };
        Self { cluster_id, engine, inner: RwLock::new(inner) }
    }

    pub fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().expect("no thread panics while it holds the state")
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().expect("no thread panics while it holds the state")
    }

    pub fn range(&self, query: &Query) -> Result<Ranged, Error> {
        query.range.check()?;
        Ok(self.read().state.range(query))
    }

    pub fn watch(&self, range: Range, after: Rev) -> Result<Watch, Error> {
        range.check()?;
        let mut inner = self.write();
        inner.check_rev(after, inner.compact_rev)?;
        let Inner { state, history, watchers, .. } = &mut *inner;
        let missed = history
            .iter()
            .filter(|entry| entry.rev > after)
            .map(|entry| (entry.rev, entry.changes.as_slice()));
        Ok(watchers.add(range, after, state.rev, missed))
    }

    pub fn compact(&self, rev: Rev) -> Result<(), Error> {
        let mut inner = self.write();
        inner.check_rev(rev, inner.compact_rev + 1)?;
        inner.forget_while(|_, entry| entry.rev <= rev);
        inner.compact_rev = rev;
        Ok(())
    }

    pub fn status(&self) -> Status {
        let inner = self.read();
        Status {
            cluster_id: self.cluster_id.clone(),
            rev: inner.state.rev,
            compact_rev: inner.compact_rev,
            keys: inner.state.keys.len(),
            engine: self.engine,
        }
    }
}

impl Inner {
    /// Makes durable changes visible to readers and watches. Live watches have their own buffers,
    /// so forgetting history harms none of them (R22).
    pub fn publish(&mut self, rev: Rev, changes: Vec<Change>) {
        self.state.apply(rev, &changes);
        self.watchers.publish(rev, &changes);
        let at = Instant::now();
        let size = |kv: &Option<Arc<Kv>>| kv.as_ref().map_or(0, |kv| kv.value.len());
        let bytes = changes.iter().map(|change| size(&change.before) + size(&change.after)).sum();
        self.history_changes += changes.len();
        self.history_bytes += bytes;
        self.history.push_back(HistoryEntry { at, rev, changes, bytes });
        self.forget_while(|inner, entry| {
            inner.history_changes > HISTORY_CHANGES_MAX
                || inner.history_bytes > HISTORY_BYTES_MAX
                || at.duration_since(entry.at) > HISTORY_TIME
        });
    }

    fn forget_while(&mut self, expired: impl Fn(&Self, &HistoryEntry) -> bool) {
        while let Some(entry) = self.history.front()
            && expired(self, entry)
        {
            self.compact_rev = entry.rev;
            self.history_changes -= entry.changes.len();
            self.history_bytes -= entry.bytes;
            self.history.pop_front();
        }
    }

    fn check_rev(&self, asked: Rev, oldest: Rev) -> Result<(), Error> {
        match asked {
            _ if asked > self.state.rev => Err(Error::FutureRev { asked, rev: self.state.rev }),
            _ if asked < oldest => Err(Error::Compacted { asked, compact_rev: self.compact_rev }),
            _ => Ok(()),
        }
    }
}
