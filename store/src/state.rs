use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use crate::{Compare, Op, Outcome, Query, Range, Ranged, Rev, Txn};

/// A key, its value, and what the store knows about both (R6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kv {
    /// The key.
    pub key: Arc<str>,
    /// Its value; empty in an answer without values.
    pub value: Arc<[u8]>,
    /// The revision that made it.
    pub create_rev: Rev,
    /// The revision that last changed it.
    pub mod_rev: Rev,
    /// How often it was written since it was made, with 1 for the making.
    pub version: i64,
}

/// One key before and after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub key: Arc<str>,
    pub before: Option<Arc<Kv>>,
    pub after: Option<Arc<Kv>>,
}

/// What a transaction would do.
#[derive(Debug)]
pub(crate) struct Effect {
    pub succeeded: bool,
    pub outcomes: Vec<Outcome>,
    /// Empty: the revision stays.
    pub changes: Vec<Change>,
}

/// All keys as of a revision.
#[derive(Debug)]
pub(crate) struct State {
    pub rev: Rev,
    pub keys: BTreeMap<Arc<str>, Arc<Kv>>,
}

/// A state, and changes on top of it that nobody may see yet.
pub(crate) struct View<'a> {
    pub base: &'a State,
    pub pending: &'a BTreeMap<Arc<str>, Option<Arc<Kv>>>,
    /// The revision after the pending changes.
    pub rev: Rev,
}

impl State {
    /// R1: a fresh store is at revision 1.
    pub fn fresh() -> Self {
        Self { rev: 1, keys: BTreeMap::new() }
    }

    /// What it answers to `query`.
    pub fn range(&self, query: &Query) -> Ranged {
        answer(query, self.rev, self.within(&query.range))
    }

    /// What `txn` would do to it alone.
    pub fn effect(&self, txn: &Txn) -> Effect {
        View { base: self, pending: &BTreeMap::new(), rev: self.rev }.effect(txn)
    }

    /// Makes `changes` the present.
    pub fn apply(&mut self, rev: Rev, changes: &[Change]) {
        for change in changes {
            match &change.after {
                Some(kv) => self.keys.insert(change.key.clone(), kv.clone()),
                None => self.keys.remove(&change.key),
            };
        }
        self.rev = rev;
    }

    fn within<'a>(&'a self, range: &'a Range) -> impl Iterator<Item = &'a Arc<Kv>> {
        self.keys
            .range::<str, _>((range.start(), Bound::Unbounded))
            .take_while(|(key, _)| range.contains(key))
            .map(|(_, kv)| kv)
    }
}

impl View<'_> {
    fn get(&self, key: &str) -> Option<&Arc<Kv>> {
        match self.pending.get(key) {
            Some(pending) => pending.as_ref(),
            None => self.base.keys.get(key),
        }
    }

    fn within(&self, range: &Range) -> Vec<Arc<Kv>> {
        let mut found: BTreeMap<&str, &Arc<Kv>> = self.base.within(range).map(|kv| (&*kv.key, kv)).collect();
        let pending = self.pending.range::<str, _>((range.start(), Bound::Unbounded));
        for (key, kv) in pending.take_while(|(key, _)| range.contains(key)) {
            match kv {
                Some(kv) => found.insert(key, kv),
                None => found.remove(&**key),
            };
        }
        found.into_values().cloned().collect()
    }

    /// What `txn` would do here. Its writes all carry the revision after this one (R2).
    pub fn effect(&self, txn: &Txn) -> Effect {
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        let mut changes = Vec::new();
        let outcomes = ops.iter().map(|op| self.run(op, &mut changes)).collect();
        Effect { succeeded, outcomes, changes }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let kv = self.get(compare.key());
        match compare {
            Compare::Absent(_) => kv.is_none(),
            Compare::ModRev(_, rev) => kv.map_or(0, |kv| kv.mod_rev) == *rev,
            Compare::CreateRev(_, rev) => kv.map_or(0, |kv| kv.create_rev) == *rev,
        }
    }

    fn run(&self, op: &Op, changes: &mut Vec<Change>) -> Outcome {
        match op {
            Op::Get(query) => Outcome::Got(answer(query, self.rev, self.within(&query.range).iter())),
            Op::Put { key, value } => {
                let (mod_rev, before) = (self.rev + 1, self.get(key).cloned());
                let (key, create_rev, version) = match &before {
                    Some(kv) => (kv.key.clone(), kv.create_rev, kv.version + 1),
                    None => (key.as_str().into(), mod_rev, 1),
                };
                let after = Kv { key: key.clone(), value: value.clone(), create_rev, mod_rev, version };
                changes.push(Change { key, before, after: Some(Arc::new(after)) });
                Outcome::Put
            }
            Op::Delete(range) => {
                let found = self.within(range);
                let count = found.len();
                changes.extend(found.into_iter().map(|kv| Change {
                    key: kv.key.clone(),
                    before: Some(kv),
                    after: None,
                }));
                Outcome::Deleted(count)
            }
        }
    }
}

fn answer<'a>(query: &Query, rev: Rev, found: impl Iterator<Item = &'a Arc<Kv>>) -> Ranged {
    let (limit, mut kvs, mut count) = (query.limit.unwrap_or(usize::MAX), Vec::new(), 0);
    for kv in found {
        if count < limit {
            kvs.push(match query.keys_only {
                true => Arc::new(Kv { value: Arc::from([]), ..Kv::clone(kv) }),
                false => kv.clone(),
            });
        }
        count += 1;
    }
    Ranged { rev, more: count > kvs.len(), kvs, count }
}
