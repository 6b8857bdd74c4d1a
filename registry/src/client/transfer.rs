use std::{
    io::{self, Read, Write},
    sync::Arc,
};

use spec::{Descriptor, Digest};

/// The source of a push. Called on threads that may block.
pub trait BlobSource: Send + Sync {
    /// Opens a blob or a manifest at byte `offset`: a push that broke continues from there.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when it has no such blob: an entry of an index that was never
    /// fetched is then left out.
    fn open(&self, digest: &Digest, offset: u64) -> io::Result<Box<dyn Read + Send>>;
}

/// The sink of a pull, for configs, layers and manifests alike. Called on threads that may block.
pub trait BlobSink: Send + Sync {
    /// Whether it has the whole blob already.
    fn has(&self, digest: &Digest) -> bool;

    /// A writer for a blob. Dropping it without [`commit`](BlobWriter::commit) leaves nothing behind.
    ///
    /// # Errors
    /// When there is no space, or no right to write.
    fn create(&self, blob: &Descriptor) -> io::Result<Box<dyn BlobWriter>>;
}

/// A blob that a pull writes.
pub trait BlobWriter: Write + Send {
    /// Makes the blob visible. Size and digest have been checked by then.
    ///
    /// # Errors
    /// When it cannot be made durable; it is then not visible.
    fn commit(self: Box<Self>) -> io::Result<()>;
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
    AlreadyThere,
    /// The registry mounted it from another of its repositories.
    Mounted,
}

/// Called with every [`Event`]; must not block.
pub type Progress = Arc<dyn Fn(Event) + Send + Sync>;

/// A [`Progress`] that ignores all events.
pub fn unwatched() -> Progress {
    Arc::new(|_| ())
}
