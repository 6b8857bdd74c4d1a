//! What is done with manifests after their push: images are surveyed and scanned.
//!
//! A push does not wait for it. What a full queue or a crash has left out is made up for by a walk
//! over the manifests that were pushed since, and by the first request that asks for the image.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use spec::{Digest, Timestamp};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, Interval, MissedTickBehavior, interval_at, sleep},
};

use super::{scanner::Scanner, survey::Surveyor};
use crate::{
    Error, Repository,
    limits::{
        COLLECT_BATCH, COLLECT_PAUSE, LIST_PAGE_MAX, PUSHED_QUEUE, SCAN_PRUNE_INTERVAL,
        SURVEY_DELAY, SURVEY_NOTED_EVERY, SURVEY_SKEW,
    },
    storage::{ListPage, ManifestRecord, Metadata},
};

type Image = (Repository, Digest);

/// Takes manifests that were pushed.
#[derive(Clone)]
pub(super) struct Pushes {
    surveys: mpsc::Sender<Image>,
    scans: mpsc::Sender<Image>,
    progress: Arc<Progress>,
}

#[derive(Default)]
struct Progress {
    /// Images that wait in a queue, or are being read.
    waiting: AtomicUsize,
    /// Whether one was read, or may have been left out, since the last note.
    is_new: AtomicBool,
    /// There are pushes that found no place in a queue.
    behind: Notify,
}

/// Pushed manifests on their way to be read.
pub(super) struct PushedImages {
    metadata: Metadata,
    surveyor: Surveyor,
    scanner: Scanner,
    surveys: mpsc::Receiver<Image>,
    scans: mpsc::Receiver<Image>,
    progress: Arc<Progress>,
}

/// Goes over all manifests with a note of how far images were surveyed and scanned: the two notes
/// are in two databases, of which that of scans may be new.
struct Walker {
    metadata: Metadata,
    surveyor: Surveyor,
    scanner: Scanner,
    surveyed: Option<Timestamp>,
    scanned: Option<Timestamp>,
}

/// A walk over all manifests, page by page, with pauses for the requests of clients.
struct Walk<'a> {
    metadata: &'a Metadata,
    repositories: std::vec::IntoIter<Repository>,
    last: Option<Repository>,
    more: bool,
    /// The repository that is gone over, and the last digest of it.
    open: Option<(Repository, String)>,
    unpaused: usize,
}

impl Pushes {
    pub fn new(metadata: Metadata, surveyor: Surveyor, scanner: Scanner) -> (Self, PushedImages) {
        let progress = Arc::<Progress>::default();
        let (survey, surveys) = mpsc::channel(PUSHED_QUEUE);
        let (scan, scans) = mpsc::channel(PUSHED_QUEUE);
        let pushes = Self { surveys: survey, scans: scan, progress: Arc::clone(&progress) };
        (pushes, PushedImages { metadata, surveyor, scanner, surveys, scans, progress })
    }

    /// A manifest was pushed.
    pub fn note(&self, repository: &Repository, digest: &Digest, has_layers: bool) {
        let queues = [Some(&self.surveys), has_layers.then_some(&self.scans)];
        for queue in queues.into_iter().flatten() {
            self.progress.waiting.fetch_add(1, Ordering::SeqCst);
            if queue.try_send((repository.clone(), *digest)).is_err() {
                self.progress.behind.notify_one();
                self.progress.done();
            }
        }
    }
}

impl Progress {
    fn done(&self) {
        self.is_new.store(true, Ordering::SeqCst);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl PushedImages {
    /// Reads what is pushed, until it is dropped.
    pub async fn run(self) {
        let Self { metadata, surveyor, scanner, mut surveys, mut scans, progress } = self;
        sleep(SURVEY_DELAY).await;
        let walker = Walker {
            surveyed: metadata.surveyed().await.ok().flatten(),
            scanned: scanner.scanned_until().await.ok().flatten(),
            metadata,
            surveyor: surveyor.clone(),
            scanner: scanner.clone(),
        };
        // A survey takes milliseconds, and does not wait for scans that take seconds.
        let surveying = async {
            while let Some((repository, digest)) = surveys.recv().await {
                surveyor.survey_or_warn(&repository, &digest).await;
                progress.done();
            }
        };
        let scanning = async {
            while let Some((repository, digest)) = scans.recv().await {
                scanner.scan_or_warn(&repository, &digest).await;
                progress.done();
            }
        };
        tokio::join!(surveying, scanning, walker.run(&progress));
    }
}

impl Walker {
    async fn run(mut self, progress: &Progress) {
        let (mut notes, mut prunes) = (ticks(SURVEY_NOTED_EVERY), ticks(SCAN_PRUNE_INTERVAL));
        progress.behind.notify_one();
        loop {
            let walked = tokio::select! {
                biased; // no note while pushes are left out
                () = progress.behind.notified() => {
                    let walked = self.read_pushed().await;
                    progress.is_new.store(true, Ordering::SeqCst);
                    walked
                }
                _ = prunes.tick() => self.prune(progress).await,
                _ = notes.tick() => {
                    self.note(progress).await;
                    continue;
                }
            };
            if let Err(error) = walked {
                tracing::warn!(%error, "cannot go over the images of the registry");
            }
        }
    }

    /// Reads what was pushed since the notes were made.
    async fn read_pushed(&self) -> Result<(), Error> {
        let mut walk = Walk::new(&self.metadata);
        while let Some((repository, manifests)) = walk.next().await? {
            for (digest, record) in &manifests {
                if record.pushed >= self.surveyed {
                    self.surveyor.survey_or_warn(&repository, digest).await;
                }
                if record.pushed >= self.scanned {
                    self.scanner.scan_or_warn(&repository, digest).await;
                }
            }
        }
        Ok(())
    }

    /// Forgets scans of what is in no repository.
    async fn prune(&self, progress: &Progress) -> Result<(), Error> {
        let (mut walk, mut left) = (Walk::new(&self.metadata), HashSet::new());
        while let Some((repository, manifests)) = walk.next().await? {
            left.extend(manifests.iter().map(|(digest, _)| (*digest, repository.clone())));
        }
        self.scanner.prune(left).await?;
        // What was scanned in a repository that the walk had behind it was forgotten too.
        progress.behind.notify_one();
        Ok(())
    }

    /// Notes until when all that was pushed has been read, when nothing waits.
    async fn note(&mut self, progress: &Progress) {
        let is_idle = progress.waiting.load(Ordering::SeqCst) == 0;
        if !is_idle || !progress.is_new.swap(false, Ordering::SeqCst) {
            return;
        }
        // Of a push that was committed a moment ago it may not know yet.
        let until = Timestamp::of(SystemTime::now() - SURVEY_SKEW);
        (self.surveyed, self.scanned) = (Some(until), Some(until));
        let surveyed = self.metadata.note_surveyed(until).await;
        let scanned = self.scanner.note_scanned_until(until).await;
        if surveyed.is_err() || scanned.is_err() {
            progress.is_new.store(true, Ordering::SeqCst);
        }
    }
}

impl<'a> Walk<'a> {
    fn new(metadata: &'a Metadata) -> Self {
        let repositories = Vec::new().into_iter();
        Self { metadata, repositories, last: None, more: true, open: None, unpaused: 0 }
    }

    /// The next manifests, all of one repository.
    async fn next(&mut self) -> Result<Option<(Repository, Vec<(Digest, ManifestRecord)>)>, Error> {
        self.pause().await;
        loop {
            if let Some((repository, after)) = self.open.take() {
                let page = self.metadata.manifests(&repository, &after, LIST_PAGE_MAX).await?;
                let ListPage { entries, more } = page;
                self.unpaused += entries.len();
                self.open = entries
                    .last()
                    .filter(|_| more)
                    .map(|(digest, _)| (repository.clone(), digest.to_string()));
                return Ok(Some((repository, entries)));
            }
            if let Some(repository) = self.repositories.next() {
                self.last = Some(repository.clone());
                self.open = Some((repository, String::new()));
                continue;
            }
            if !self.more {
                return Ok(None);
            }
            let last = self.last.as_ref().map_or("", Repository::as_str);
            let page = self.metadata.repositories("", last, LIST_PAGE_MAX).await?;
            let names: Vec<_> = page.entries.into_iter().map(|(name, _)| name).collect();
            // Without a name to go on after, there is no next page.
            self.more = page.more && !names.is_empty();
            self.repositories = names.into_iter();
        }
    }

    async fn pause(&mut self) {
        if self.unpaused >= COLLECT_BATCH {
            let batches = u32::try_from(self.unpaused / COLLECT_BATCH).unwrap_or(u32::MAX);
            self.unpaused %= COLLECT_BATCH;
            sleep(COLLECT_PAUSE.saturating_mul(batches)).await;
        } else {
            tokio::task::yield_now().await;
        }
    }
}

fn ticks(every: Duration) -> Interval {
    let mut ticks = interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

#[cfg(test)]
mod tests {
    use spec::MediaType;
    use store::MemoryStore;

    use super::*;
    use crate::repository::Actions;

    #[tokio::test]
    async fn a_walk_comes_by_every_manifest_of_every_repository_once() {
        let metadata = Metadata::on(Arc::new(MemoryStore::new()));
        let media_type = MediaType::OCI_MANIFEST.into();
        let record = ManifestRecord {
            media_type,
            size: 3,
            subject: None,
            links: None,
            pushed: None,
            pulled: None,
        };
        let mut want = Vec::new();
        for (name, count) in [("ann/cats", LIST_PAGE_MAX + 5), ("ann/dogs", 1), ("bob/cats", 40)] {
            let repository: Repository = name.parse().unwrap();
            for number in 0..count {
                let digest = Digest::of(format!("{name}{number}").as_bytes());
                metadata
                    .put_manifest(&repository, &digest, &record, (&[], Actions::ALL), None)
                    .await
                    .unwrap();
                want.push((repository.clone(), digest));
            }
        }
        let (mut walk, mut seen) = (Walk::new(&metadata), Vec::new());
        while let Some((repository, manifests)) = walk.next().await.unwrap() {
            seen.extend(manifests.into_iter().map(|(digest, _)| (repository.clone(), digest)));
        }
        want.sort();
        seen.sort();
        assert!(seen == want, "{} of {}", seen.len(), want.len());
        let empty = Metadata::on(Arc::new(MemoryStore::new()));
        assert!(Walk::new(&empty).next().await.unwrap().is_none());
    }
}
