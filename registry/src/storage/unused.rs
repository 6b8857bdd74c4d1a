use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use spec::Digest;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::records::start_of;
use crate::{Repository, limits::DIGEST_LOCKS};

/// What collection and requests tell each other, so that no push loses what it builds upon.
///
/// - A blob of a repository goes when no manifest of it has named the blob for a grace time, and
///   no request has asked for it in that time: a client that was told that a blob is there pushes a
///   manifest of it later.
/// - The file of a blob goes when no repository has it. A request that adds one holds its digest
///   from before the file gets its name until the record is committed.
///
/// Everything is in memory: after a restart the grace time begins anew.
pub(crate) struct UnusedBlobs {
    state: Mutex<State>,
    /// Whether a look at the state can be left out: nothing is unused, and no pass is on.
    is_quiet: AtomicBool,
    digests: Box<[RwLock<()>]>,
    pass: tokio::sync::Mutex<()>,
    /// Changes that a pass must make room for.
    interruptions: AtomicUsize,
}

#[derive(Default)]
struct State {
    /// Since when passes have found a blob unused, and no request has asked for it.
    since: HashMap<Repository, HashMap<Digest, Instant>>,
    /// Their records are being deleted at this moment.
    going: HashSet<(Repository, Digest)>,
    pass: Option<Seen>,
    /// Digests that are looked at, by how many, and whether a request has added them since.
    watched: HashMap<[u8; 8], Watched>,
}

#[derive(Default)]
struct Watched {
    watchers: usize,
    is_added: bool,
}

/// What requests have done since a pass began, which has not seen it.
#[derive(Default)]
struct Seen {
    asked_for: HashSet<u64>,
    added: HashSet<[u8; 8]>,
}

/// A pass of collection, of which there is one at a time.
pub(crate) struct Pass<'a> {
    unused: &'a UnusedBlobs,
    _only: tokio::sync::MutexGuard<'a, ()>,
}

/// Blobs whose records are being deleted.
pub(crate) struct Going<'a> {
    unused: &'a UnusedBlobs,
    pub repository: &'a Repository,
    pub blobs: Vec<Digest>,
}

/// A look at the file of a digest, which requests may write anew meanwhile.
pub(crate) struct Watch<'a> {
    unused: &'a UnusedBlobs,
    digest: Digest,
}

/// Keeps passes away.
pub(crate) struct Interruption<'a> {
    _only: tokio::sync::MutexGuard<'a, ()>,
}

impl Default for UnusedBlobs {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            is_quiet: AtomicBool::new(true),
            digests: (0..DIGEST_LOCKS).map(|_| RwLock::default()).collect(),
            pass: tokio::sync::Mutex::default(),
            interruptions: AtomicUsize::new(0),
        }
    }
}

impl UnusedBlobs {
    /// A request asks for a blob of a repository: its grace time begins anew. Whether it may: a
    /// blob that is being removed at this moment is not there.
    ///
    /// Comes before the look at the record.
    pub fn ask_for(&self, repository: &Repository, digest: &Digest) -> bool {
        if self.is_quiet.load(Ordering::SeqCst) {
            return true;
        }
        let mut state = self.lock();
        if let Some(seen) = &mut state.pass {
            seen.asked_for.insert(key(repository, digest));
        }
        if let Some(blobs) = state.since.get_mut(repository) {
            blobs.remove(digest);
        }
        state.going.is_empty() || !state.going.contains(&(repository.clone(), *digest))
    }

    /// A request adds a blob or manifest, until the guard is dropped: its file stays.
    pub async fn adding(&self, digest: &Digest) -> RwLockReadGuard<'_, ()> {
        let guard = self.lock_of(digest).read().await;
        if !self.is_quiet.load(Ordering::SeqCst) {
            let (mut state, start) = (self.lock(), start_of(digest));
            if let Some(seen) = &mut state.pass {
                seen.added.insert(start);
            }
            if let Some(watched) = state.watched.get_mut(&start) {
                watched.is_added = true;
            }
        }
        guard
    }

    /// Looks at a file from now on, once every request that is adding it at this moment has ended.
    pub async fn watch(&self, digest: &Digest) -> Watch<'_> {
        {
            let mut state = self.lock();
            state.watched.entry(start_of(digest)).or_default().watchers += 1;
            self.is_quiet.store(false, Ordering::SeqCst);
        }
        let watch = Watch { unused: self, digest: *digest };
        drop(self.lock_of(digest).write().await);
        watch
    }

    /// Begins a pass, once every request that is adding a blob at this moment has ended.
    pub async fn begin(&self) -> Pass<'_> {
        let only = self.pass.lock().await;
        {
            let mut state = self.lock();
            state.pass = Some(Seen::default());
            self.is_quiet.store(false, Ordering::SeqCst);
        }
        let pass = Pass { unused: self, _only: only };
        for digest in &self.digests {
            drop(digest.write().await);
        }
        pass
    }

    /// Waits until the pass that is on has stopped, and keeps the next away.
    pub async fn interrupt(&self) -> Interruption<'_> {
        self.interruptions.fetch_add(1, Ordering::SeqCst);
        let only = self.pass.lock().await;
        self.interruptions.fetch_sub(1, Ordering::SeqCst);
        Interruption { _only: only }
    }

    fn lock_of(&self, digest: &Digest) -> &RwLock<()> {
        let start = u64::from_le_bytes(start_of(digest));
        &self.digests[start as usize % self.digests.len()]
    }

    /// Whether nothing is left to look at.
    fn settle(&self, state: &State) {
        let is_quiet = state.pass.is_none() && state.since.is_empty() && state.watched.is_empty();
        self.is_quiet.store(is_quiet, Ordering::SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass<'_> {
    /// Whether the pass has to stop.
    pub fn is_interrupted(&self) -> bool {
        self.unused.interruptions.load(Ordering::SeqCst) > 0
    }

    /// Of the blobs that this pass has found unused in a repository, those that have been so for
    /// `grace`. The time of the others goes on, or begins.
    pub fn due(
        &self,
        repository: &Repository,
        unused: &[Digest],
        grace: Duration,
        now: Instant,
    ) -> Vec<Digest> {
        let mut state = self.unused.lock();
        let mut before = state.since.remove(repository).unwrap_or_default();
        let asked_for = |digest: &Digest| match &state.pass {
            Some(seen) => seen.asked_for.contains(&key(repository, digest)),
            None => true,
        };
        let left = unused.iter().filter(|digest| !asked_for(digest));
        let since: HashMap<_, _> =
            left.map(|digest| (*digest, before.remove(digest).unwrap_or(now))).collect();
        let due = since.iter().filter(|(_, since)| now.saturating_duration_since(**since) >= grace);
        let due = due.map(|(digest, _)| *digest).collect();
        if !since.is_empty() {
            state.since.insert(repository.clone(), since);
        }
        due
    }

    /// Those of the blobs that no request has asked for since they were due: requests take them for
    /// absent until this is dropped. The caller keeps manifests out of the repository meanwhile.
    pub fn remove<'a>(&'a self, repository: &'a Repository, due: &[Digest]) -> Going<'a> {
        let mut state = self.unused.lock();
        let still = |digest: &&Digest| {
            state.since.get(repository).is_some_and(|blobs| blobs.contains_key(digest))
        };
        let blobs: Vec<_> = due.iter().filter(still).copied().collect();
        for digest in &blobs {
            state.going.insert((repository.clone(), *digest));
        }
        Going { unused: self.unused, repository, blobs }
    }

    /// Forgets the repositories that are not among those that this pass has seen.
    pub fn retain(&self, is_there: impl Fn(&Repository) -> bool) {
        self.unused.lock().since.retain(|repository, _| is_there(repository));
    }

    /// The right to remove the file of a digest that no record has named in this pass, unless a
    /// request adds or has added it.
    pub fn file(&self, digest: &Digest) -> Option<RwLockWriteGuard<'_, ()>> {
        let guard = self.unused.lock_of(digest).try_write().ok()?;
        let is_added = match &self.unused.lock().pass {
            Some(seen) => seen.added.contains(&start_of(digest)),
            None => true,
        };
        (!is_added).then_some(guard)
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let mut state = self.unused.lock();
        state.pass = None;
        self.unused.settle(&state);
    }
}

impl Watch<'_> {
    /// The right to change the file, unless a request adds or has added it.
    pub fn alone(&self) -> Option<RwLockWriteGuard<'_, ()>> {
        let guard = self.unused.lock_of(&self.digest).try_write().ok()?;
        let state = self.unused.lock();
        let is_added = state.watched.get(&start_of(&self.digest)).is_none_or(|one| one.is_added);
        (!is_added).then_some(guard)
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let (mut state, start) = (self.unused.lock(), start_of(&self.digest));
        if let Some(watched) = state.watched.get_mut(&start) {
            watched.watchers -= 1;
            if watched.watchers == 0 {
                state.watched.remove(&start);
            }
        }
        self.unused.settle(&state);
    }
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        let mut state = self.unused.lock();
        for digest in &self.blobs {
            state.going.remove(&(self.repository.clone(), *digest));
            if let Some(blobs) = state.since.get_mut(self.repository) {
                blobs.remove(digest);
            }
        }
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

    const GRACE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_blob_is_due_when_it_was_unused_and_not_asked_for_all_through_the_grace_time() {
        let unused = UnusedBlobs::default();
        let cats: Repository = "ann/cats".parse().unwrap();
        let (a, b, c) = (Digest::of(b"a"), Digest::of(b"b"), Digest::of(b"c"));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let pass = unused.begin().await;
        assert_eq!(pass.due(&cats, &[a, b, c], GRACE, at(0)), []);
        assert!(pass.remove(&cats, &[]).blobs.is_empty());
        drop(pass);
        assert!(unused.ask_for(&cats, &b));
        let pass = unused.begin().await;
        assert_eq!(pass.due(&cats, &[a, b], GRACE, at(59)), []);
        drop(pass);
        let pass = unused.begin().await;
        assert!(unused.ask_for(&cats, &c), "what is asked for in a pass stays in it");
        assert_eq!(pass.due(&cats, &[a, b, c], GRACE, at(60)), [a]);
        assert_eq!(pass.due(&cats, &[c], Duration::ZERO, at(60)), []);
        drop(pass);
        let pass = unused.begin().await;
        assert_eq!(pass.due(&cats, &[a], GRACE, at(500)), [], "it was used in between");
        drop(pass);
    }

    #[tokio::test]
    async fn what_is_asked_for_in_the_last_moment_stays_and_what_goes_is_absent() {
        let unused = UnusedBlobs::default();
        let cats: Repository = "ann/cats".parse().unwrap();
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let pass = unused.begin().await;
        let mut due = pass.due(&cats, &[a, b], Duration::ZERO, Instant::now());
        due.sort();
        assert_eq!(due.len(), 2);
        assert!(unused.ask_for(&cats, &b));
        let going = pass.remove(&cats, &due);
        assert_eq!(going.blobs, [a]);
        assert!(!unused.ask_for(&cats, &a));
        assert!(unused.ask_for(&cats, &b) && unused.ask_for(&"bob/cats".parse().unwrap(), &a));
        drop(going);
        assert!(unused.ask_for(&cats, &a));
    }

    #[tokio::test]
    async fn a_file_that_is_being_added_or_was_added_in_the_pass_stays() {
        let unused = UnusedBlobs::default();
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let pass = unused.begin().await;
        assert!(pass.file(&a).is_some());
        let adding = unused.adding(&a).await;
        assert!(pass.file(&a).is_none() && pass.file(&b).is_some());
        drop(adding);
        assert!(pass.file(&a).is_none(), "this pass has not seen its record");
        drop(pass);
        assert!(unused.begin().await.file(&a).is_some());

        // Neither is what is looked at, and then written anew.
        let watch = unused.watch(&a).await;
        assert!(watch.alone().is_some());
        drop(unused.adding(&a).await);
        assert!(watch.alone().is_none());
        drop(watch);
        assert!(unused.watch(&a).await.alone().is_some());

        // A pass begins when what was being added before it is done.
        let adding = unused.adding(&a).await;
        let mut begun = Box::pin(unused.begin());
        assert!(futures_util::poll!(&mut begun).is_pending());
        drop(adding);
        let pass = begun.await;
        assert!(!pass.is_interrupted());
        let mut interruption = Box::pin(unused.interrupt());
        assert!(futures_util::poll!(&mut interruption).is_pending());
        assert!(pass.is_interrupted());
        drop(pass);
        drop(interruption.await);
        assert!(!unused.begin().await.is_interrupted());
    }
}
