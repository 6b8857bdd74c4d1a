use std::{
    collections::VecDeque,
    sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant},
};

use crate::{
    Error, Kv, Query, Range, Ranged, Rev, Status, Watch,
    state::{Change, State},
    watch::Watchers,
};

/// R22: events are kept for so long, so that whoever reconnects within it need not list again.
const KEPT_FOR: Duration = Duration::from_secs(600);
/// But never more changes than this, nor more bytes of values that only they still hold.
const KEPT_CHANGES_MAX: usize = 50_000;
const KEPT_BYTES_MAX: usize = 64 << 20;

/// The present, the recent past, and who follows it. Readers see only what is durable.
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
    past: VecDeque<Past>,
    past_changes: usize,
    past_bytes: usize,
    watchers: Watchers,
}

/// What one transaction changed.
#[derive(Debug)]
struct Past {
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
            past: VecDeque::new(),
            past_changes: 0,
            past_bytes: 0,
            watchers: Watchers::default(),
        };
        Self { cluster_id, engine, inner: RwLock::new(inner) }
    }

    pub fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().expect("nobody panics while holding the state")
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().expect("nobody panics while holding the state")
    }

    pub fn range(&self, query: &Query) -> Result<Ranged, Error> {
        query.range.check()?;
        Ok(self.read().state.range(query))
    }

    pub fn watch(&self, range: Range, after: Rev) -> Result<Watch, Error> {
        range.check()?;
        let mut inner = self.write();
        inner.check_rev(after, inner.compact_rev)?;
        let Inner { state, past, watchers, .. } = &mut *inner;
        let missed = past
            .iter()
            .filter(|past| past.rev > after)
            .map(|past| (past.rev, past.changes.as_slice()));
        Ok(watchers.add(range, after, state.rev, missed))
    }

    pub fn compact(&self, rev: Rev) -> Result<(), Error> {
        let mut inner = self.write();
        inner.check_rev(rev, inner.compact_rev + 1)?;
        inner.forget_while(|_, past| past.rev <= rev);
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
    /// Makes changes that are durable the present, and tells who follows. Live watches have their
    /// own buffers, so forgetting the past harms none of them (R22).
    pub fn publish(&mut self, rev: Rev, changes: Vec<Change>) {
        self.state.apply(rev, &changes);
        self.watchers.publish(rev, &changes);
        let at = Instant::now();
        let size = |kv: &Option<Arc<Kv>>| kv.as_ref().map_or(0, |kv| kv.value.len());
        let bytes = changes.iter().map(|change| size(&change.before) + size(&change.after)).sum();
        self.past_changes += changes.len();
        self.past_bytes += bytes;
        self.past.push_back(Past { at, rev, changes, bytes });
        self.forget_while(|inner, past| {
            inner.past_changes > KEPT_CHANGES_MAX
                || inner.past_bytes > KEPT_BYTES_MAX
                || at.duration_since(past.at) > KEPT_FOR
        });
    }

    fn forget_while(&mut self, goes: impl Fn(&Self, &Past) -> bool) {
        while let Some(past) = self.past.front()
            && goes(self, past)
        {
            self.compact_rev = past.rev;
            self.past_changes -= past.changes.len();
            self.past_bytes -= past.bytes;
            self.past.pop_front();
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
