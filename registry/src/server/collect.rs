//! Online garbage collection: what no manifest needs goes, while requests go on.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use spec::Digest;
use tokio::{
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval_at, sleep},
};

use super::stored::links_of;
use crate::{
    Error, Repository, blocking,
    limits::{COLLECT_BATCH, COLLECT_PAUSE, LIST_PAGE_MAX},
    protocol::Collected,
    storage::{BlobRecord, Link, Pass, Storage, start_of},
};

/// Collects at times, and when the administrator asks for it.
pub(super) struct Collector {
    storage: Storage,
    asked: mpsc::Receiver<Asked>,
}

/// Asks the collector of a registry.
#[derive(Clone)]
pub(super) struct CollectorHandle(mpsc::Sender<Asked>);

/// How to collect.
#[derive(Debug, Clone, Copy)]
pub(super) struct CollectOptions {
    /// How long a blob must have been unused, and not been asked for.
    pub grace: Duration,
    /// Whether to say what would go, and leave it.
    pub dry_run: bool,
}

type Asked = (CollectOptions, oneshot::Sender<Result<Collected, Error>>);

/// What ends a pass before its end.
enum Stop {
    /// A change of the administrator, or of a restore, goes first.
    Interrupted,
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl CollectorHandle {
    /// The result of a pass, or `None` when the registry is shutting down.
    pub async fn collect(&self, options: CollectOptions) -> Option<Result<Collected, Error>> {
        let (answer, collected) = oneshot::channel();
        self.0.send((options, answer)).await.ok()?;
        collected.await.ok()
    }
}

impl Collector {
    pub fn new(storage: Storage) -> (Self, CollectorHandle) {
        // One waits while one runs; more wait to wait.
        let (ask, asked) = mpsc::channel(1);
        (Self { storage, asked }, CollectorHandle(ask))
    }

    /// Collects until it is dropped.
    pub async fn run(mut self, every: Duration, grace: Duration) {
        let mut ticks = interval_at(tokio::time::Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    match collect(&self.storage, CollectOptions { grace, dry_run: false }).await {
                        Ok(Collected { blobs, bytes, .. }) if blobs > 0 => {
                            tracing::info!(blobs, bytes, "collected");
                        }
                        Ok(_) => {}
                        Err(error) => tracing::error!(%error, "cannot collect garbage"),
                    }
                }
                Some((options, answer)) = self.asked.recv() => {
                    // The administrator may have stopped waiting.
                    let _ = answer.send(collect(&self.storage, options).await);
                }
            }
        }
    }
}

/// One pass: first the records of blobs that no manifest of their repository names, then the files
/// that no record names.
pub(super) async fn collect(
    storage: &Storage,
    options: CollectOptions,
) -> Result<Collected, Error> {
    let pass = storage.unused.begin().await;
    let mut collected = Collected { dry_run: options.dry_run, ..Collected::default() };
    let ended = async {
        let dropped = collect_records(storage, &pass, options, &mut collected).await?;
        let named = named_digests(storage, &pass, &dropped).await?;
        collect_files(storage, &pass, &named, options, &mut collected).await
    };
    match ended.await {
        Ok(()) => {}
        Err(Stop::Interrupted) => collected.interrupted = true,
        Err(Stop::Failed(error)) => return Err(error),
    }
    Ok(collected)
}

/// Deletes the records of unused blobs. Returns those that a dry run would have deleted.
async fn collect_records(
    storage: &Storage,
    pass: &Pass<'_>,
    options: CollectOptions,
    collected: &mut Collected,
) -> Result<HashSet<(Repository, Digest)>, Stop> {
    let (mut last, mut there, mut dropped) = (String::new(), HashSet::new(), HashSet::new());
    loop {
        let page = storage.metadata.repositories("", &last, LIST_PAGE_MAX).await?;
        for (repository, _) in &page.entries {
            check(pass)?;
            there.insert(repository.clone());
            let Some(unused) = unused_blobs(storage, repository).await? else {
                collected.unclear += 1;
                continue;
            };
            let digests: Vec<_> = unused.iter().map(|blob| blob.digest).collect();
            let due = pass.due(repository, &digests, options.grace, Instant::now());
            let due: HashSet<_> = due.into_iter().collect();
            let (due, waiting): (Vec<_>, Vec<_>) =
                unused.into_iter().partition(|blob| due.contains(&blob.digest));
            collected.waiting += waiting.len() as u64;
            collected.waiting_bytes += waiting.iter().map(|blob| blob.size).sum::<u64>();
            match options.dry_run {
                true => dropped.extend(due.iter().map(|blob| (repository.clone(), blob.digest))),
                false => delete_records(storage, pass, repository, &due).await?,
            }
        }
        match page.entries.last().filter(|_| page.more) {
            Some((repository, _)) => repository.as_str().clone_into(&mut last),
            None => break,
        }
    }
    pass.retain(|repository| there.contains(repository));
    Ok(dropped)
}

/// The blobs of a repository that none of its manifests names; `None` when a manifest does not tell
/// what it names.
async fn unused_blobs(
    storage: &Storage,
    repository: &Repository,
) -> Result<Option<Vec<BlobRecord>>, Error> {
    // Every manifest that was checked against blobs before this has its record now.
    drop(storage.locks.exclusive(repository).await);
    let Some(links) = links_in(storage, repository).await? else { return Ok(None) };
    let mut unused = Vec::new();
    storage
        .metadata
        .each_blob(repository, |blob| {
            if !links.contains(&Link::of(&blob.digest)) {
                unused.push(blob);
            }
        })
        .await?;
    Ok(Some(unused))
}

/// Everything that the manifests of a repository name.
async fn links_in(
    storage: &Storage,
    repository: &Repository,
) -> Result<Option<HashSet<Link>>, Error> {
    let (mut links, mut last) = (HashSet::new(), String::new());
    loop {
        let page = storage.metadata.manifests(repository, &last, LIST_PAGE_MAX).await?;
        for (digest, record) in &page.entries {
            let Ok(named) = links_of(&storage.blobs, digest, record).await else {
                tracing::warn!(%repository, %digest, "a manifest cannot be read: \
                    nothing of its repository is collected");
                return Ok(None);
            };
            links.extend(named.iter());
            if record.links.is_none() {
                storage.metadata.note_links(repository, digest, record, named).await?;
            }
        }
        match page.entries.last().filter(|_| page.more) {
            Some((digest, _)) => last = digest.to_string(),
            None => return Ok(Some(links)),
        }
        tokio::task::yield_now().await;
    }
}

async fn delete_records(
    storage: &Storage,
    pass: &Pass<'_>,
    repository: &Repository,
    due: &[BlobRecord],
) -> Result<(), Stop> {
    for batch in due.chunks(COLLECT_BATCH) {
        check(pass)?;
        {
            let _exclusive = storage.locks.exclusive(repository).await;
            let digests: Vec<_> = batch.iter().map(|blob| blob.digest).collect();
            let going = pass.remove(repository, &digests);
            let still = batch.iter().filter(|blob| going.blobs.contains(&blob.digest));
            storage.metadata.remove_blobs(repository, still).await?;
        }
        sleep(COLLECT_PAUSE).await;
    }
    Ok(())
}

/// The starts of all digests that a record names.
async fn named_digests(
    storage: &Storage,
    pass: &Pass<'_>,
    dropped: &HashSet<(Repository, Digest)>,
) -> Result<HashSet<[u8; 8]>, Stop> {
    let mut named = HashSet::new();
    storage
        .metadata
        .each_named_digest(|repository, digest| {
            let is_dropped = !dropped.is_empty()
                && repository
                    .parse()
                    .is_ok_and(|repository| dropped.contains(&(repository, digest)));
            if !is_dropped {
                named.insert(start_of(&digest));
            }
        })
        .await?;
    check(pass)?;
    Ok(named)
}

/// Removes the files that no record names, the 256th part of all at a time.
async fn collect_files(
    storage: &Storage,
    pass: &Pass<'_>,
    named: &HashSet<[u8; 8]>,
    options: CollectOptions,
    collected: &mut Collected,
) -> Result<(), Stop> {
    for part in 0..=u8::MAX {
        check(pass)?;
        let blobs = Arc::clone(&storage.blobs);
        let files = blocking(move || blobs.list_part(part)).await.map_err(Error::from)?;
        let garbage = files.into_iter().filter(|file| !named.contains(&start_of(&file.digest)));
        for (count, file) in garbage.enumerate() {
            if count % COLLECT_BATCH == COLLECT_BATCH - 1 {
                sleep(COLLECT_PAUSE).await;
                check(pass)?;
            }
            // One that a request holds is looked at again in the next pass.
            let Some(_right) = pass.file(&file.digest) else { continue };
            if !options.dry_run {
                let blobs = Arc::clone(&storage.blobs);
                let removed = blocking(move || blobs.remove(&file.digest)).await;
                removed.map_err(Error::from)?;
            }
            collected.blobs += 1;
            collected.bytes += file.bytes;
        }
    }
    Ok(())
}

fn check(pass: &Pass<'_>) -> Result<(), Stop> {
    match pass.is_interrupted() {
        true => Err(Stop::Interrupted),
        false => Ok(()),
    }
}
