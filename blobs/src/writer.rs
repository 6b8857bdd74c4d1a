use std::{
    fmt,
    fs::File,
    io::{self, Write},
};

use spec::{Algorithm, Digest, Hasher};

use crate::error::{Error, Result};

/// Where a store keeps the bytes of a blob that is not visible yet. Dropped, it removes them.
pub trait Staged: Write + Send {
    /// Makes the bytes durable, then visible under `digest`, in place of a blob of that name.
    ///
    /// # Errors
    /// [`Error::Io`]; the blob is then not visible, unless only the durability of its name failed.
    fn publish(self: Box<Self>, digest: &Digest) -> Result<()>;

    /// A file that has what was written so far, and gets what is written later; `None` from a store
    /// that has no such file.
    ///
    /// # Errors
    /// When the file cannot be opened once more.
    fn reader(&self) -> io::Result<Option<File>> {
        Ok(None)
    }
}

/// A blob on its way into a store: hashed while it is written, and visible once a commit has
/// returned.
pub struct BlobWriter {
    staged: Box<dyn Staged>,
    hasher: Hasher,
    bytes: u64,
}

impl BlobWriter {
    pub fn new(staged: impl Staged + 'static, algorithm: Algorithm) -> Self {
        Self { staged: Box::new(staged), hasher: Hasher::new(algorithm), bytes: 0 }
    }

    /// How many bytes were written.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A file in which the bytes can be read while they are written, where the store has one. They
    /// are not verified before the commit has returned.
    ///
    /// # Errors
    /// When the file cannot be opened once more.
    pub fn reader(&self) -> io::Result<Option<File>> {
        self.staged.reader()
    }

    /// Makes the blob durable, then visible. Returns its digest and its size.
    ///
    /// # Errors
    /// [`Error::Io`]; nothing became visible.
    pub fn commit(self) -> Result<(Digest, u64)> {
        let digest = self.hasher.finish();
        self.staged.publish(&digest)?;
        Ok((digest, self.bytes))
    }

    /// Like [`BlobWriter::commit`], if the bytes are those of `expected`.
    ///
    /// # Errors
    /// [`Error::WrongDigest`] if they are not, [`Error::Io`]; nothing became visible.
    pub fn commit_as(self, expected: &Digest) -> Result<u64> {
        let actual = self.hasher.finish();
        if actual != *expected {
            return Err(Error::WrongDigest { expected: *expected, actual });
        }
        self.staged.publish(expected)?;
        Ok(self.bytes)
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.staged.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.staged.flush()
    }
}

impl fmt::Debug for BlobWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobWriter").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}
