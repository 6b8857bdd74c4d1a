use std::{io, sync::Arc};

use blobs::{BlobStore, BlobWriter};
use spec::{Descriptor, Digest};

/// The sink of a pull, for configs, layers and manifests alike. Called on threads that may block.
pub trait BlobSink: Send + Sync {
    /// Whether it has the whole blob already.
    fn has(&self, digest: &Digest) -> bool;

    /// A writer for a blob. The pull commits only what matches the digest.
    ///
    /// # Errors
    /// When there is no space, or no right to write.
    fn create(&self, blob: &Descriptor) -> io::Result<BlobWriter>;
}

impl<S: BlobStore> BlobSink for S {
    fn has(&self, digest: &Digest) -> bool {
        self.contains(digest).unwrap_or(false)
    }

    fn create(&self, blob: &Descriptor) -> io::Result<BlobWriter> {
        Ok(self.writer(blob.digest.algorithm())?)
    }
}

/// A step of a push or pull, for progress bars.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// The transfer of a blob begins.
    Started { digest: Digest, size: u64 },
    /// `bytes` of the blob have moved, counted from its start.
    Moved { digest: Digest, bytes: u64 },
    /// The transfer failed and is tried again.
    Retrying { digest: Digest, reason: String },
    /// The blob has arrived.
    Finished { digest: Digest, size: u64, outcome: Outcome },
}

/// How a blob arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was sent or fetched.
    Moved,
    /// It existed already.
    Exists,
    /// The registry mounted it from another of its repositories.
    Mounted,
}

/// Called with every [`Event`]; must not block.
pub type Progress = Arc<dyn Fn(Event) + Send + Sync>;

/// A [`Progress`] that ignores all events.
pub fn no_progress() -> Progress {
    Arc::new(|_| ())
}
