use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use crate::{
    Compare, Kv, Op, Outcome, Query, Range, Ranged, Rev, Txn,
    packed::{Packed, Revs},
};

/// One key before and after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub key: Arc<str>,
    pub before: Option<Arc<Kv>>,
    pub after: Option<Arc<Kv>>,
}

/// The result of a transaction, not applied yet.
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
    pub keys: BTreeSet<Packed>,
}

/// A state with changes on top of it that are not visible yet.
pub(crate) struct View<'a> {
    pub base: &'a State,
    pub pending: &'a BTreeMap<Arc<str>, Option<Arc<Kv>>>,
    /// The revision after the pending changes.
    pub rev: Rev,
}

impl State {
    /// R1: a fresh store is at revision 1.
    pub fn fresh() -> Self {
        Self { rev: 1, keys: BTreeSet::new() }
    }

    /// The answer to `query`.
    pub fn range(&self, query: &Query) -> Ranged {
        answer(query, self.rev, self.within(&query.range))
    }

    /// The effect of `txn` on this state alone.
    pub fn effect(&self, txn: &Txn) -> Effect {
        View { base: self, pending: &BTreeMap::new(), rev: self.rev }.effect(txn)
    }

    /// Makes `changes` the present.
    pub fn apply(&mut self, rev: Rev, changes: &[Change]) {
        for change in changes {
            match &change.after {
                Some(kv) => drop(self.keys.replace(Packed::of(kv))),
                None => drop(self.keys.take(change.key.as_bytes())),
            }
        }
        self.rev = rev;
    }

    fn within<'a>(&'a self, range: &'a Range) -> impl Iterator<Item = &'a Packed> {
        self.keys
            .range::<[u8], _>((range.start().map(str::as_bytes), Bound::Unbounded))
            .take_while(|packed| range.contains(packed.key()))
    }
}

impl View<'_> {
    fn get(&self, key: &str) -> Option<Arc<Kv>> {
        match self.pending.get(key) {
            Some(pending) => pending.clone(),
            None => self.base.keys.get(key.as_bytes()).map(Packed::kv),
        }
    }

    /// Of a key that exists.
    fn revs(&self, key: &str) -> Option<Revs> {
        match self.pending.get(key) {
            Some(pending) => pending.as_ref().map(|kv| Revs {
                create_rev: kv.create_rev,
                mod_rev: kv.mod_rev,
                version: kv.version,
            }),
            None => self.base.keys.get(key.as_bytes()).map(Packed::revs),
        }
    }

    fn within(&self, range: &Range) -> Vec<Arc<Kv>> {
        let mut matches: BTreeMap<Arc<str>, Arc<Kv>> =
            self.base.within(range).map(Packed::kv).map(|kv| (kv.key.clone(), kv)).collect();
        let pending = self.pending.range::<str, _>((range.start(), Bound::Unbounded));
        for (key, kv) in pending.take_while(|(key, _)| range.contains(key)) {
            match kv {
                Some(kv) => matches.insert(key.clone(), kv.clone()),
                None => matches.remove(key),
            };
        }
        matches.into_values().collect()
    }

    /// The effect of `txn` on this view. Its writes all carry the revision after this one (R2).
    pub fn effect(&self, txn: &Txn) -> Effect {
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        let mut changes = Vec::new();
        let outcomes = ops.iter().map(|op| self.run(op, &mut changes)).collect();
        Effect { succeeded, outcomes, changes }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let revs = self.revs(compare.key());
        match compare {
            Compare::Absent(_) => revs.is_none(),
            Compare::ModRev(_, rev) => revs.map_or(0, |revs| revs.mod_rev) == *rev,
            Compare::CreateRev(_, rev) => revs.map_or(0, |revs| revs.create_rev) == *rev,
        }
    }

    fn run(&self, op: &Op, changes: &mut Vec<Change>) -> Outcome {
        match op {
            Op::Get(query) => {
                Outcome::Got(answer(query, self.rev, self.within(&query.range).into_iter()))
            }
            Op::Put { key, value } => {
                let (mod_rev, before) = (self.rev + 1, self.get(key));
                let (key, create_rev, version) = match &before {
                    Some(kv) => (kv.key.clone(), kv.create_rev, kv.version + 1),
                    None => (key.as_str().into(), mod_rev, 1),
                };
                let after =
                    Kv { key: key.clone(), value: value.clone(), create_rev, mod_rev, version };
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

/// A key that was found.
trait Found {
    fn kv(self) -> Arc<Kv>;
    fn without_value(self) -> Arc<Kv>;
}

impl Found for &Packed {
    fn kv(self) -> Arc<Kv> {
        Packed::kv(self)
    }

    fn without_value(self) -> Arc<Kv> {
        Packed::without_value(self)
    }
}

impl Found for Arc<Kv> {
    fn kv(self) -> Arc<Kv> {
        self
    }

    fn without_value(self) -> Arc<Kv> {
        Arc::new(Kv { value: Arc::from([]), ..Kv::clone(&self) })
    }
}

/// Looks at one key beyond the limit, and at the rest only to count it.
fn answer(query: &Query, rev: Rev, mut found: impl Iterator<Item = impl Found>) -> Ranged {
    let kept = |one| match query.keys_only {
        true => Found::without_value(one),
        false => Found::kv(one),
    };
    let kvs: Vec<_> = found.by_ref().take(query.limit.unwrap_or(usize::MAX)).map(kept).collect();
    let more = found.next().is_some();
    let count = query.counted.then(|| kvs.len() + usize::from(more) + found.count());
    Ranged { rev, kvs, more, count }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limited_query_reads_one_key_beyond_its_limit() {
        let mut state = State::fresh();
        for n in 0..100 {
            let revs = Revs { create_rev: 2, mod_rev: 2, version: 1 };
            state.keys.insert(Packed::new(&format!("/{n:02}"), b"", revs));
        }
        let page = Query::prefix("/").limit(2);
        for (query, want, count) in [(page.clone(), 3, None), (page.counted(), 100, Some(100))] {
            let mut looked_at = 0;
            let found = state.within(&query.range).inspect(|_| looked_at += 1);
            let answer = answer(&query, 2, found);
            assert_eq!((answer.kvs.len(), answer.more, answer.count), (2, true, count));
            assert_eq!(looked_at, want, "{query:?}");
        }
    }
}
