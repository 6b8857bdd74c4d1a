use std::{
    io::{self, Read, Write},
    sync::Arc,
};

use spec::{Descriptor, Digest};

/// Where the bytes of a push come from. Called on threads that may block.
pub trait BlobSource: Send + Sync {
    /// Opens a blob (or manifest) at byte `offset`. A cut push is taken up again where it broke.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when it has no such blob: an entry of an index that was never
    /// fetched is then left out.
    fn open(&self, digest: &Digest, offset: u64) -> io::Result<Box<dyn Read + Send>>;
}

/// Where the bytes of a pull go: configs, layers and manifests alike. Called on threads that may
/// block.
pub trait BlobSink: Send + Sync {
    /// Whether the blob is there already, whole.
    fn has(&self, digest: &Digest) -> bool;

    /// Starts to take a blob in. Dropping the writer without [`commit`](BlobWriter::commit) leaves
    /// nothing behind.
    ///
    /// # Errors
    /// When there is no room, or no right to write.
    fn create(&self, blob: &Descriptor) -> io::Result<Box<dyn BlobWriter>>;
}

/// A blob on its way in.
pub trait BlobWriter: Write + Send {
    /// Makes the blob visible. Size and digest have been checked by then.
    ///
    /// # Errors
    /// When it cannot be made durable; it is then not there.
    fn commit(self: Box<Self>) -> io::Result<()>;
}

/// What a push or pull is doing, for progress bars.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// A blob begins to move.
    Started {
        /// Which one.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// So many of its bytes have moved in all.
    Moved {
        /// Which one.
        digest: Digest,
        /// Counted from its start.
        bytes: u64,
    },
    /// The connection broke, and we try again.
    Retrying {
        /// Which one.
        digest: Digest,
        /// What happened.
        reason: String,
    },
    /// A blob is where it should be.
    Finished {
        /// Which one.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// What it took.
        outcome: Outcome,
    },
}

/// How a blob came to be where it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was sent or fetched.
    Moved,
    /// It was there already.
    AlreadyThere,
    /// The registry took it from another repository of its own.
    Mounted,
}

/// Told about every [`Event`]; must not block.
pub type Progress = Arc<dyn Fn(Event) + Send + Sync>;

/// A [`Progress`] that nobody watches.
pub fn unwatched() -> Progress {
    Arc::new(|_| ())
}
