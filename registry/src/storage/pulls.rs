use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use spec::{Digest, Timestamp};

use crate::{
    Repository,
    limits::{ASKED_FOR_MAX, PULL_NOTED_AFTER, PULLS_REMEMBERED_MAX},
};

/// Which manifests were pulled, until it is written down; and which are asked for while retention
/// decides, which does not delete those.
#[derive(Default)]
pub(crate) struct Pulls {
    state: Mutex<State>,
    /// So that a request has nothing to do while retention does not decide.
    is_deciding: AtomicBool,
}

#[derive(Default)]
struct State {
    pulled: HashMap<(Repository, Digest), Timestamp>,
    asked_for: Option<HashSet<u64>>,
}

/// Retention decides, until this is dropped.
pub(crate) struct Deciding<'a>(&'a Pulls);

impl Pulls {
    /// A request needs a manifest to stay. Comes before the look at its record.
    pub fn ask_for(&self, repository: &Repository, digest: &Digest) {
        if self.is_deciding.load(Ordering::SeqCst)
            && let Some(asked_for) = &mut self.lock().asked_for
            && asked_for.len() < ASKED_FOR_MAX
        {
            asked_for.insert(key(repository, digest));
        }
    }

    /// A client has pulled a manifest, whose record says when that was noted before.
    pub fn note(
        &self,
        repository: &Repository,
        digest: &Digest,
        noted: Option<Timestamp>,
        now: Timestamp,
    ) {
        if noted.is_some_and(|noted| now.since(noted) < PULL_NOTED_AFTER) {
            return;
        }
        let mut state = self.lock();
        if state.pulled.len() < PULLS_REMEMBERED_MAX {
            state.pulled.insert((repository.clone(), *digest), now);
        }
    }

    /// What was pulled since the last time.
    pub fn take(&self) -> HashMap<(Repository, Digest), Timestamp> {
        std::mem::take(&mut self.lock().pulled)
    }

    /// There is one decision at a time.
    pub fn begin(&self) -> Deciding<'_> {
        self.lock().asked_for = Some(HashSet::new());
        self.is_deciding.store(true, Ordering::SeqCst);
        Deciding(self)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deciding<'_> {
    /// Whether a request has asked for a manifest since the decision began. The caller keeps
    /// manifests out of the repository.
    pub fn is_asked_for(&self, repository: &Repository, digest: &Digest) -> bool {
        let state = self.0.lock();
        state.asked_for.as_ref().is_none_or(|asked_for| {
            asked_for.len() >= ASKED_FOR_MAX || asked_for.contains(&key(repository, digest))
        })
    }
}

impl Drop for Deciding<'_> {
    fn drop(&mut self) {
        self.0.is_deciding.store(false, Ordering::SeqCst);
        self.0.lock().asked_for = None;
    }
}

fn key(repository: &Repository, digest: &Digest) -> u64 {
    let mut hasher = DefaultHasher::new();
    (repository, digest).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_is_noted_once_an_hour_and_what_is_asked_for_meanwhile_is_known() {
        let (pulls, cats) = (Pulls::default(), "ann/cats".parse().unwrap());
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let at = |minutes: u64| Timestamp::from_millis(minutes * 60_000);
        pulls.note(&cats, &a, Some(at(0)), at(59));
        assert!(pulls.take().is_empty());
        pulls.note(&cats, &a, Some(at(0)), at(60));
        pulls.note(&cats, &b, None, at(61));
        assert_eq!(pulls.take().len(), 2);
        assert!(pulls.take().is_empty());

        pulls.ask_for(&cats, &a);
        let deciding = pulls.begin();
        assert!(!deciding.is_asked_for(&cats, &a), "it was before");
        pulls.ask_for(&cats, &b);
        assert!(deciding.is_asked_for(&cats, &b));
        assert!(!deciding.is_asked_for(&"bob/cats".parse().unwrap(), &b));
        drop(deciding);
        assert!(!pulls.begin().is_asked_for(&cats, &b));
    }
}
