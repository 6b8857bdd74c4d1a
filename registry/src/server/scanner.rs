//! Which software is in an image that was pushed.

use std::{
    collections::HashSet,
    io,
    path::Path,
    sync::Arc,
    time::{Instant, SystemTime},
};

use blobs::BlobStore;
use bytes::Bytes;
use image::Budget;
use spec::{Descriptor, Digest, Timestamp};
use tokio::sync::Semaphore;

use super::{
    attached::attach,
    error::ApiError,
    stored::manifest_bytes,
    survey::{UntilEnd, config_bytes, lacks_blobs, platform},
};
use crate::{
    Error, Repository, SbomFormat, blocking,
    limits::{
        DECISIVE_REPORT_BYTES_MAX, DECISIVE_REPORT_TIME_MAX, DECISIVE_REPORTS_BYTES_MAX,
        SCAN_BYTES_MAX, SCAN_ENTRIES_MAX, SCAN_TIME_MAX,
    },
    protocol::{Finding, ScanReport, Switch},
    scan::{Database, ScannedImage, document, inventory},
    storage::{ManifestRecord, Recent, Storage},
};

/// The file of what was found in images, in the data folder.
const DATABASE: &str = "scans.db";

/// The media type of what was found in an image.
const REPORT: &str = "application/vnd.margay.scan.v1+json";

/// Scans images, one at a time.
#[derive(Clone)]
pub(super) struct Scanner {
    storage: Storage,
    pub database: Arc<Database>,
    one: Arc<Semaphore>,
    /// What decides about pulls, by repository and digest.
    decisive: Arc<Recent<(Repository, Digest), Decisive>>,
}

/// A report of an image that was read to its end.
#[derive(Clone)]
struct Decisive {
    report: Arc<ScanReport>,
    at: Timestamp,
    changes: u64,
}

/// What is attached to an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attached {
    /// Its bills of material, when it has something.
    Boms,
    /// What was found in it.
    Report,
}

impl Scanner {
    /// With the database in `data_dir`. Blocks.
    pub fn open(storage: Storage, data_dir: &Path) -> Result<Self, Error> {
        let database = Arc::new(Database::open(&data_dir.join(DATABASE))?);
        let decisive = Arc::new(Recent::new(DECISIVE_REPORTS_BYTES_MAX, DECISIVE_REPORT_BYTES_MAX));
        Ok(Self { storage, database, one: Arc::new(Semaphore::new(1)), decisive })
    }

    /// What is in an image of a repository, as it was noted, or read now. `None` for what is no
    /// image, and for one that the repository has in part.
    pub async fn scanned(
        &self,
        repository: &Repository,
        digest: &Digest,
        record: &ManifestRecord,
    ) -> Result<Option<ScannedImage>, Error> {
        if record.media_type.is_index() || self.storage.metadata.is_damaged(digest) {
            return Ok(None);
        }
        let manifest = manifest_bytes(&self.storage.blobs, *digest, record.size).await?;
        if lacks_blobs(&self.storage.metadata, repository, &manifest).await? {
            return Ok(None); // what has the same digest elsewhere is not for its readers
        }
        let known = self.known(digest).await?;
        // What was missing when it was read may have been pushed.
        if known.as_ref().is_some_and(|image| image.inventory.unread.is_empty()) {
            self.note_located(repository, digest).await?;
            return Ok(known);
        }
        self.scan(repository, digest, manifest).await
    }

    /// What decides whether an image may be pulled: its report, without the texts for readers. In
    /// memory, as long as the database says the same: a pull costs one look-up. `None` as for
    /// [`Self::scanned`].
    pub async fn decisive_report(
        &self,
        repository: &Repository,
        digest: &Digest,
        record: &ManifestRecord,
    ) -> Result<Option<Arc<ScanReport>>, Error> {
        let (key, now) = ((repository.clone(), *digest), Timestamp::of(SystemTime::now()));
        let changes = self.database.changes();
        let kept = self.decisive.get(&key).filter(|kept| {
            kept.changes == changes && now.since(kept.at) < DECISIVE_REPORT_TIME_MAX
        });
        if let Some(kept) = kept {
            return Ok(Some(kept.report));
        }
        let Some(image) = self.scanned(repository, digest, record).await? else {
            return Ok(None);
        };
        let changes = self.database.changes();
        let (database, of) = (Arc::clone(&self.database), key.clone());
        let report = blocking(move || database.report(&of.1, &of.0, now)).await?;
        let Some(mut report) = report else { return Ok(None) };
        let bytes = without_texts(&mut report);
        let report = Arc::new(report);
        // One with something unread is read again: what was missing may have been pushed.
        if image.inventory.unread.is_empty() {
            let kept = Decisive { report: Arc::clone(&report), at: now, changes };
            self.decisive.keep(key, kept, bytes);
        }
        Ok(Some(report))
    }

    async fn known(&self, digest: &Digest) -> Result<Option<ScannedImage>, Error> {
        let (database, digest) = (Arc::clone(&self.database), *digest);
        blocking(move || database.image(&digest)).await
    }

    /// Whether the repository was not known to have it.
    async fn locate(&self, repository: &Repository, digest: &Digest) -> Result<bool, Error> {
        let (database, digest) = (Arc::clone(&self.database), *digest);
        let repository = repository.clone();
        blocking(move || database.locate(&digest, &repository)).await
    }

    /// Reads an image and notes what is in it.
    async fn scan(
        &self,
        repository: &Repository,
        digest: &Digest,
        manifest: Bytes,
    ) -> Result<Option<ScannedImage>, Error> {
        let _one = self.one.acquire().await.expect("the semaphore is never closed");
        let (blobs, database) = (Arc::clone(&self.storage.blobs), Arc::clone(&self.database));
        let digest_of = *digest;
        let scanned = blocking(move || {
            let Some(image) = read(&*blobs, &manifest) else { return Ok(None) };
            database.put_image(&digest_of, &image)?;
            Ok::<_, Error>(Some(image))
        });
        let scanned = scanned.await?;
        if scanned.is_some() {
            self.note_located(repository, digest).await?;
        }
        Ok(scanned)
    }

    /// An image is in a repository: when that is new, its findings are told, and attached to it.
    async fn note_located(&self, repository: &Repository, digest: &Digest) -> Result<(), Error> {
        if self.locate(repository, digest).await? {
            self.attach(repository, digest, Attached::Boms).await;
            self.tell_found(vec![(*digest, repository.clone())]).await?;
        }
        Ok(())
    }

    /// Attaches what was found to the image, where the operator wants it.
    async fn attach(&self, repository: &Repository, digest: &Digest, which: Attached) {
        let rules = &self.storage.metadata.rules;
        if !rules.is_on(Switch::AttachScans) || rules.is_on(Switch::ReadOnly) {
            return;
        }
        if let Err(error) = self.try_attach(repository, digest, which).await {
            tracing::warn!(%repository, %digest, ?error, "cannot attach a scan to its image");
        }
    }

    async fn try_attach(
        &self,
        repository: &Repository,
        digest: &Digest,
        which: Attached,
    ) -> Result<(), ApiError> {
        let Some(record) = self.storage.metadata.manifest(repository, digest).await? else {
            return Ok(());
        };
        let (database, of) = (Arc::clone(&self.database), (*digest, repository.clone()));
        let documents = blocking(move || documents(&database, &of.0, &of.1, which)).await?;
        for document in documents {
            attach(&self.storage, repository, (digest, &record), document).await?;
        }
        Ok(())
    }

    /// Tells the webhooks of images that have findings, and returns how many these are.
    pub async fn tell_found(&self, images: Vec<(Digest, Repository)>) -> Result<u64, Error> {
        let mut told = 0;
        for (digest, repository) in images {
            if self.storage.metadata.manifest(&repository, &digest).await?.is_none() {
                continue; // deleted since
            }
            let (database, of) = (Arc::clone(&self.database), repository.clone());
            let now = Timestamp::of(SystemTime::now());
            let report = blocking(move || database.report(&digest, &of, now)).await?;
            let Some(report) = report.filter(|report| !report.findings.is_empty()) else {
                continue;
            };
            self.storage.metadata.tell_found(&repository, &digest, report.counts).await?;
            self.attach(&repository, &digest, Attached::Report).await;
            told += 1;
        }
        Ok(told)
    }

    async fn scan_pushed(&self, repository: &Repository, digest: &Digest) -> Result<(), Error> {
        match self.storage.metadata.manifest(repository, digest).await? {
            Some(record) => self.scanned(repository, digest, &record).await.map(drop),
            None => Ok(()),
        }
    }

    pub async fn scan_or_warn(&self, repository: &Repository, digest: &Digest) {
        if let Err(error) = self.scan_pushed(repository, digest).await {
            tracing::warn!(%repository, %digest, %error, "cannot scan an image");
        }
    }

    /// Forgets the images that are in no repository: all but `left`.
    pub async fn prune(&self, left: HashSet<(Digest, Repository)>) -> Result<(), Error> {
        let database = Arc::clone(&self.database);
        blocking(move || database.prune(&left)).await
    }

    /// Until when pushed images have been scanned; `None` when none ever was.
    pub async fn scanned_until(&self) -> Result<Option<Timestamp>, Error> {
        let database = Arc::clone(&self.database);
        blocking(move || database.scanned_until()).await
    }

    pub async fn note_scanned_until(&self, until: Timestamp) -> Result<(), Error> {
        let database = Arc::clone(&self.database);
        blocking(move || database.note_scanned_until(until)).await
    }
}

/// Takes out of a report what no policy asks for. Returns about how many bytes are left.
fn without_texts(report: &mut ScanReport) -> usize {
    for finding in &mut report.findings {
        (finding.summary, finding.path, finding.kind) = Default::default();
        (finding.version, finding.fixed) = Default::default();
    }
    let texts = report.findings.iter().flat_map(|finding| {
        finding.aliases.iter().chain([&finding.vulnerability, &finding.package])
    });
    let texts = texts.chain(&report.unknown).map(|text| text.capacity() + size_of::<String>());
    texts.sum::<usize>() + report.findings.capacity() * size_of::<Finding>()
}

/// Documents about an image, each with its media type. Blocks.
fn documents(
    database: &Database,
    digest: &Digest,
    repository: &Repository,
    which: Attached,
) -> Result<Vec<(&'static str, Vec<u8>)>, Error> {
    if which == Attached::Report {
        let now = Timestamp::of(SystemTime::now());
        let report = database.report(digest, repository, now)?;
        let json = report.map(|report| serde_json::to_vec(&report).expect("keys of text"));
        return Ok(json.map(|json| (REPORT, json)).into_iter().collect());
    }
    let image = database.image(digest)?.filter(|image| !image.inventory.packages.is_empty());
    let Some(ScannedImage { inventory, read, .. }) = image else { return Ok(Vec::new()) };
    let name = format!("{repository}@{digest}");
    let of = |format: SbomFormat| {
        (format.media_type(), document(format, (&name, digest), &inventory, read))
    };
    Ok(SbomFormat::ALL.map(of).into())
}

/// Reads an image. `None` for what is no image: a signature, a bill of material. Blocks.
fn read(blobs: &dyn BlobStore, manifest: &[u8]) -> Option<ScannedImage> {
    let plan = image::plan(manifest, |blob: &Descriptor| config_bytes(blobs, blob)).ok()?;
    if plan.layers.is_empty() {
        return None;
    }
    let budget =
        Budget { bytes_max: SCAN_BYTES_MAX, entries_max: SCAN_ENTRIES_MAX, ..Budget::default() };
    let end = Instant::now() + SCAN_TIME_MAX;
    let open = |digest: &Digest| {
        let inner = blobs.open(digest, 0).map_err(io::Error::other)?;
        Ok(UntilEnd { inner, end })
    };
    Some(ScannedImage {
        platform: platform(&plan).unwrap_or_default(),
        read: Timestamp::of(SystemTime::now()),
        inventory: inventory(&plan, open, budget),
    })
}
