//! Reading everything again, to find what a disk has lost or changed.

use std::{
    collections::HashSet,
    io::Read,
    time::{Duration, Instant, SystemTime},
};

use blobs::OpenBlob;
use spec::{Digest, Hasher, Timestamp};
use tokio::{
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval, sleep},
};

use super::stored::{fault_of, open_blob, set_aside};
use crate::{
    Error, blocking,
    limits::{SCRUB_CHECK_INTERVAL, SCRUB_CHUNK_BYTES},
    protocol::{DamagedBlob, Fault, Scrubbed},
    storage::{Storage, start_of},
};

/// Scrubs at times, and when the administrator asks for it.
pub(super) struct Scrubber {
    storage: Storage,
    asked: mpsc::Receiver<Asked>,
}

/// Asks the scrubber of a registry.
#[derive(Clone)]
pub(super) struct ScrubberHandle(mpsc::Sender<Asked>);

/// Bytes to read in a second, and where the result goes.
type Asked = (u64, oneshot::Sender<Result<Scrubbed, Error>>);

impl ScrubberHandle {
    /// The result of reading everything, or `None` when the registry is shutting down.
    pub async fn scrub(&self, bytes_per_second: u64) -> Option<Result<Scrubbed, Error>> {
        let (answer, scrubbed) = oneshot::channel();
        self.0.send((bytes_per_second, answer)).await.ok()?;
        scrubbed.await.ok()
    }
}

impl Scrubber {
    pub fn new(storage: Storage) -> (Self, ScrubberHandle) {
        let (ask, asked) = mpsc::channel(1);
        (Self { storage, asked }, ScrubberHandle(ask))
    }

    /// Scrubs until it is dropped.
    pub async fn run(mut self, every: Duration, bytes_per_second: u64) {
        let mut ticks = interval(SCRUB_CHECK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    if let Err(error) = self.scrub_when_due(every, bytes_per_second).await {
                        tracing::error!(%error, "cannot scrub");
                    }
                }
                Some((bytes_per_second, answer)) = self.asked.recv() => {
                    // The administrator may have stopped waiting.
                    let _ = answer.send(scrub(&self.storage, bytes_per_second).await);
                }
            }
        }
    }

    async fn scrub_when_due(&self, every: Duration, bytes_per_second: u64) -> Result<(), Error> {
        let now = Timestamp::of(SystemTime::now());
        match self.storage.metadata.last_scrub().await? {
            Some(last) if now.since(last) < every => Ok(()),
            // A new registry has nothing that could have rotted.
            None => self.storage.metadata.note_scrub(now).await,
            Some(_) => scrub(&self.storage, bytes_per_second).await.map(drop),
        }
    }
}

/// Reads every blob and manifest that a repository has.
pub(super) async fn scrub(storage: &Storage, bytes_per_second: u64) -> Result<Scrubbed, Error> {
    let (mut scrubbed, mut seen) = (Scrubbed::default(), HashSet::new());
    let mut pace = Pace { since: Instant::now(), bytes: 0, per_second: bytes_per_second.max(1) };
    let mut last = None;
    while let Some(page) = storage.metadata.stored_after(last).await? {
        for (digest, size) in page.stored {
            if storage.metadata.is_damaged(&digest) || !seen.insert(start_of(&digest)) {
                continue;
            }
            scrubbed.checked += 1;
            scrubbed.bytes += size;
            check(storage, digest, size, &mut pace).await?;
        }
        last = Some(page.last);
    }
    storage.metadata.note_scrub(Timestamp::of(SystemTime::now())).await?;
    let damaged = storage.metadata.damaged().into_iter();
    scrubbed.damaged = damaged
        .map(|(digest, record)| DamagedBlob { digest, fault: record.fault, found: record.found })
        .collect();
    Ok(scrubbed)
}

/// Reads one blob, and sets it aside when its bytes are wrong.
async fn check(storage: &Storage, digest: Digest, size: u64, pace: &mut Pace) -> Result<(), Error> {
    let watch = storage.unused.watch(&digest).await;
    let fault = match read_through(storage, digest, size, pace).await {
        Ok(actual) if actual == digest => return Ok(()),
        Ok(_) => Fault::WrongBytes,
        Err(error) => fault_of(&error).ok_or(error)?,
    };
    set_aside(storage, &watch, &digest, fault).await.map(drop)
}

async fn read_through(
    storage: &Storage,
    digest: Digest,
    size: u64,
    pace: &mut Pace,
) -> Result<Digest, Error> {
    let blobs = storage.blobs.clone();
    let mut blob = blocking(move || open_blob(&*blobs, &digest, size, 0)).await?;
    let mut hasher = Hasher::new(digest.algorithm());
    loop {
        let (rest, next, read) = blocking(move || read_piece(blob, hasher)).await;
        let read = read.map_err(|source| Error::Source { digest, source })?;
        if read == 0 {
            return Ok(next.finish());
        }
        (blob, hasher) = (rest, next);
        pace.wait(read).await;
    }
}

fn read_piece(mut blob: OpenBlob, mut hasher: Hasher) -> (OpenBlob, Hasher, std::io::Result<u64>) {
    let mut piece = Vec::new();
    let read = (&mut blob).take(SCRUB_CHUNK_BYTES).read_to_end(&mut piece);
    hasher.update(&piece);
    (blob, hasher, read.map(|read| read as u64))
}

/// So many bytes in a second, and no more.
struct Pace {
    since: Instant,
    bytes: u64,
    per_second: u64,
}

impl Pace {
    async fn wait(&mut self, bytes: u64) {
        self.bytes += bytes;
        let due = Duration::from_secs_f64(self.bytes as f64 / self.per_second as f64);
        sleep(due.saturating_sub(self.since.elapsed())).await;
    }
}
