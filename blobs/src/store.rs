use std::{
    fmt,
    fs::File,
    io::{self, Read, Write},
    path::Path,
    time::SystemTime,
};

use spec::{Algorithm, Descriptor, Digest, Hasher};

use crate::{
    error::{Error, Result},
    limits::READ_BYTES,
    writer::BlobWriter,
};

/// Immutable bytes by digest.
///
/// - **Blocking.** Every method may wait for a disk or a network: callers on an async runtime use a
///   thread that may block.
/// - **Visibility.** A blob is visible whole or not at all, from the commit of its writer on, in
///   every process that uses the store.
/// - **Durability.** A commit that has returned survives a loss of power: the bytes and the name.
///   A removal that has returned may be undone by one.
/// - **Proof.** Only bytes that have the digest get its name. What a disk does to them later the
///   store does not find out: readers verify ([`read`], `image::Verified`).
/// - **Idempotence.** Writing a blob that is there replaces it, and so repairs one that was
///   damaged; removing one that is not there does nothing. Readers that have one open keep its
///   bytes.
/// - **Limits.** None of its own: callers bound the bytes that they write and read.
pub trait BlobStore: Send + Sync {
    /// The size of a blob, or `None` when it is not visible.
    ///
    /// # Errors
    /// [`Error::Io`] when the store cannot tell.
    fn size(&self, digest: &Digest) -> Result<Option<u64>>;

    /// Opens a blob for reading from byte `offset` on; beyond its end it has no bytes.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Io`].
    fn open(&self, digest: &Digest, offset: u64) -> Result<OpenBlob>;

    /// Starts a blob whose bytes are still to come. Dropped without a commit it leaves nothing
    /// behind.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn writer(&self, algorithm: Algorithm) -> Result<BlobWriter>;

    /// Removes a blob, and returns whether it was there.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn remove(&self, digest: &Digest) -> Result<bool>;

    /// Makes the bytes of a blob a file at `path`, where there is none; a store of files does so
    /// without copying them. Not durable, and not verified.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Io`].
    fn link(&self, digest: &Digest, path: &Path) -> Result<()> {
        let mut blob = self.open(digest, 0)?;
        let copied = File::create_new(path).and_then(|mut file| io::copy(&mut blob, &mut file));
        copied.map(drop).map_err(Error::io("copy a blob to", path))
    }

    /// Takes a blob whose bytes are wrong out of sight. A store may keep the bytes for a look at
    /// them, until [`BlobStore::forget_aside`].
    ///
    /// # Errors
    /// [`Error::Io`].
    fn set_aside(&self, digest: &Digest) -> Result<()> {
        self.remove(digest).map(drop)
    }

    /// Forgets the wrong bytes of a blob.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn forget_aside(&self, _digest: &Digest) -> Result<()> {
        Ok(())
    }

    /// Every visible blob, in no order.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn list(&self) -> Result<Vec<StoredBlob>>;

    /// The visible blobs whose digests start with this byte, in no order: the 256th part of
    /// [`BlobStore::list`].
    ///
    /// # Errors
    /// [`Error::Io`].
    fn list_part(&self, start: u8) -> Result<Vec<StoredBlob>> {
        let start = format!("{start:02x}");
        let mut blobs = self.list()?;
        blobs.retain(|blob| blob.digest.hex().starts_with(&start));
        Ok(blobs)
    }

    /// Whether a blob is visible.
    ///
    /// # Errors
    /// [`Error::Io`] when the store cannot tell.
    fn contains(&self, digest: &Digest) -> Result<bool> {
        Ok(self.size(digest)?.is_some())
    }
}

/// A blob as a store lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBlob {
    pub digest: Digest,
    pub bytes: u64,
    /// When it was last written or read, as far as the store notices reads.
    pub used: SystemTime,
}

/// A blob that is being read.
pub struct OpenBlob {
    /// The size of the whole blob, wherever reading began.
    pub bytes: u64,
    reader: Reader,
}

enum Reader {
    File(File),
    Other(Box<dyn Read + Send>),
}

impl OpenBlob {
    pub fn new(bytes: u64, reader: impl Read + Send + 'static) -> Self {
        Self { bytes, reader: Reader::Other(Box::new(reader)) }
    }

    /// A file that is at the byte where reading begins.
    pub fn of_file(bytes: u64, file: File) -> Self {
        Self { bytes, reader: Reader::File(file) }
    }

    /// The file of a store that keeps blobs in files.
    ///
    /// # Errors
    /// The blob, where there is no file.
    pub fn into_file(self) -> std::result::Result<File, Self> {
        match self.reader {
            Reader::File(file) => Ok(file),
            reader @ Reader::Other(_) => Err(Self { reader, ..self }),
        }
    }
}

impl Read for OpenBlob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.reader {
            Reader::File(file) => file.read(buffer),
            Reader::Other(reader) => reader.read(buffer),
        }
    }

    /// A file reads into a buffer that was not cleared before.
    fn read_to_end(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        match &mut self.reader {
            Reader::File(file) => file.read_to_end(buffer),
            Reader::Other(reader) => reader.read_to_end(buffer),
        }
    }
}

impl fmt::Debug for OpenBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenBlob").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// The bytes of a blob, verified, at most `bytes_max`.
///
/// # Errors
/// [`Error::Missing`], [`Error::Io`], and [`Error::Damaged`] when they are not the described ones.
pub fn read(
    store: &(impl BlobStore + ?Sized),
    descriptor: &Descriptor,
    bytes_max: u64,
) -> Result<Vec<u8>> {
    let blob = store.open(&descriptor.digest, 0)?;
    image::read_verified(blob, descriptor, bytes_max).map_err(|source| Error::Damaged { source })
}

/// Stores `bytes`, unless they are there already: compared, because what is on a disk can rot.
///
/// # Errors
/// [`Error::Io`].
pub fn write(store: &(impl BlobStore + ?Sized), bytes: &[u8]) -> Result<Digest> {
    let digest = Digest::of(bytes);
    let mut there = Vec::new();
    let is_there = store
        .open(&digest, 0)
        .is_ok_and(|blob| blob.take(bytes.len() as u64 + 1).read_to_end(&mut there).is_ok())
        && there == bytes;
    if !is_there {
        let mut writer = store.writer(digest.algorithm())?;
        writer.write_all(bytes).map_err(Error::io("write blob", digest.to_string()))?;
        writer.commit_as(&digest)?;
    }
    Ok(digest)
}

/// Whether a blob is visible and has the bytes that its name says. Reads all of it.
pub fn is_intact(store: &(impl BlobStore + ?Sized), digest: &Digest) -> bool {
    let Ok(blob) = store.open(digest, 0) else { return false };
    hash(blob, digest.algorithm()).is_ok_and(|actual| actual == *digest)
}

pub(crate) fn hash(mut bytes: impl Read, algorithm: Algorithm) -> io::Result<Digest> {
    let (mut hasher, mut buffer) = (Hasher::new(algorithm), vec![0; READ_BYTES]);
    loop {
        match bytes.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(read) => hasher.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
