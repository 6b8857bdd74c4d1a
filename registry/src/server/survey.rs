//! Reading what is in an image that was pushed: its config, and the program of a Wasm image.

use std::{
    io::{self, Read},
    sync::Arc,
    time::Instant,
};

use blobs::BlobStore;
use image::{Budget, Kind, Layers, Plan};
use spec::{Descriptor, Digest};
use tokio::sync::Semaphore;

use super::{outline::Outline, stored::manifest_bytes};
use crate::{
    Error, Repository, blocking,
    limits::{
        MANIFEST_BYTES_MAX, SURVEY_LABELS_MAX, SURVEY_LAYER_BYTES_MAX, SURVEY_LAYER_ENTRIES_MAX,
        SURVEY_PROGRAM_BYTES_MAX, SURVEY_RECORD_BYTES_MAX, SURVEY_TIME_MAX,
    },
    protocol::ImageContents,
    storage::{ManifestRecord, Metadata, Storage},
};

/// Reads images, one at a time.
#[derive(Clone)]
pub(super) struct Surveyor {
    storage: Storage,
    one: Arc<Semaphore>,
}

impl Surveyor {
    pub fn new(storage: Storage) -> Self {
        Self { storage, one: Arc::new(Semaphore::new(1)) }
    }

    /// What is in an image of a repository, as it was noted, or read now. `None` for what is no
    /// image.
    pub async fn contents(
        &self,
        repository: &Repository,
        digest: &Digest,
        record: &ManifestRecord,
    ) -> Result<Option<ImageContents>, Error> {
        match self.storage.metadata.image(repository, digest).await? {
            Some(contents) => Ok(Some(contents)),
            None => self.read(repository, digest, record).await,
        }
    }

    async fn read(
        &self,
        repository: &Repository,
        digest: &Digest,
        record: &ManifestRecord,
    ) -> Result<Option<ImageContents>, Error> {
        if record.media_type.is_index() || self.storage.metadata.is_damaged(digest) {
            return Ok(None);
        }
        let manifest = manifest_bytes(&self.storage.blobs, *digest, record.size).await?;
        if lacks_blobs(&self.storage.metadata, repository, &manifest).await? {
            return Ok(None); // what has the same digest elsewhere is not for its readers
        }
        let blobs = Arc::clone(&self.storage.blobs);
        let _one = self.one.acquire().await.expect("the semaphore is never closed");
        let contents = blocking(move || read(&*blobs, &manifest)).await;
        if let Some(contents) = contents.as_ref().filter(|contents| is_notable(contents)) {
            self.storage.metadata.note_image(repository, digest, contents).await?;
        }
        Ok(contents)
    }

    async fn survey(&self, repository: &Repository, digest: &Digest) -> Result<(), Error> {
        let metadata = &self.storage.metadata;
        let noted = metadata.image(repository, digest).await?;
        // What was missing when it was read may have been pushed.
        if noted.is_some_and(|contents| contents.unread.is_none()) {
            return Ok(());
        }
        match metadata.manifest(repository, digest).await? {
            Some(record) => self.read(repository, digest, &record).await.map(drop),
            None => Ok(()),
        }
    }

    pub async fn survey_or_warn(&self, repository: &Repository, digest: &Digest) {
        if let Err(error) = self.survey(repository, digest).await {
            tracing::warn!(%repository, %digest, %error, "cannot read what is in an image");
        }
    }
}

/// Whether the repository has not got all that a manifest names: a sparse one, or one of an
/// upstream.
pub(super) async fn lacks_blobs(
    metadata: &Metadata,
    repository: &Repository,
    manifest: &[u8],
) -> Result<bool, Error> {
    let Ok(outline) = Outline::parse(manifest) else { return Ok(false) };
    for blob in outline.blobs() {
        if metadata.blob(repository, &blob.digest).await?.is_none() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_notable(contents: &ImageContents) -> bool {
    let ImageContents { platform: _, labels, wants, program, unread } = contents;
    !labels.is_empty() || !wants.is_empty() || program.is_some() || unread.is_some()
}

/// Reads an image. `None` for what is no image: a signature, a bill of material. Blocks.
fn read(blobs: &dyn BlobStore, manifest: &[u8]) -> Option<ImageContents> {
    let plan = image::plan(manifest, |blob: &Descriptor| config_bytes(blobs, blob)).ok()?;
    let labels = plan.execution().labels.iter().flatten();
    let labels = labels.filter(|(key, _)| key.as_str() != image::WANTS_KEY);
    let mut contents = ImageContents {
        platform: platform(&plan),
        labels: labels
            .take(SURVEY_LABELS_MAX)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
        wants: plan.wants.clone(),
        ..ImageContents::default()
    };
    if plan.kind_hint() == Kind::Wasm {
        match program(blobs, &plan) {
            Ok(program) => contents.program = program,
            Err(error) => contents.unread = Some(error.to_string()),
        }
    }
    Some(within_limit(contents))
}

/// The config of an image, within the limit of a manifest.
pub(super) fn config_bytes(blobs: &dyn BlobStore, blob: &Descriptor) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let opened = blobs.open(&blob.digest, 0).map_err(io::Error::other)?;
    opened.take(MANIFEST_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn program(
    blobs: &dyn BlobStore,
    plan: &Plan,
) -> Result<Option<image::ProgramFacts>, image::Error> {
    let budget = Budget {
        bytes_max: SURVEY_LAYER_BYTES_MAX,
        entries_max: SURVEY_LAYER_ENTRIES_MAX,
        ..Budget::default()
    };
    let end = Instant::now() + SURVEY_TIME_MAX;
    let open = |digest: &Digest| {
        let inner = blobs.open(digest, 0).map_err(io::Error::other)?;
        Ok(UntilEnd { inner, end })
    };
    let layers = Layers::new(plan, open, budget);
    layers.program(&layers.index()?, SURVEY_PROGRAM_BYTES_MAX)
}

pub(super) fn platform(plan: &Plan) -> Option<String> {
    let (os, architecture) = (&plan.platform.os, &plan.platform.architecture);
    (!os.is_empty() && !architecture.is_empty()).then(|| plan.platform.to_string())
}

/// What an image says about itself has any length; what is kept of it has not.
fn within_limit(mut contents: ImageContents) -> ImageContents {
    let bytes = |contents: &ImageContents| store::encode(0, contents).len();
    if bytes(&contents) <= SURVEY_RECORD_BYTES_MAX {
        return contents;
    }
    contents.unread =
        Some(format!("what it says about itself has more than {SURVEY_RECORD_BYTES_MAX} bytes"));
    contents.labels.clear();
    if bytes(&contents) > SURVEY_RECORD_BYTES_MAX {
        (contents.program, contents.wants) = (None, Vec::new());
    }
    if bytes(&contents) > SURVEY_RECORD_BYTES_MAX {
        contents.platform = None;
    }
    contents
}

/// A blob that is read until some moment.
pub(super) struct UntilEnd<R> {
    pub inner: R,
    pub end: Instant,
}

impl<R: Read> Read for UntilEnd<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match Instant::now() < self.end {
            true => self.inner.read(buf),
            false => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}
