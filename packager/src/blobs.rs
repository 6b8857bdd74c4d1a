use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use disk::{NewFile, Survives};
use spec::{Algorithm, Descriptor, Digest, Hasher};

use crate::error::{Error, io_error};

/// The `blobs` folder of an OCI layout: bytes by digest. A blob is complete as soon as it is
/// visible.
#[derive(Debug, Clone)]
pub(crate) struct Blobs {
    dir: PathBuf,
}

/// A blob on its way in: hashed while it is written, and visible only once [`BlobWriter::finish`]
/// has returned.
#[derive(Debug)]
pub struct BlobWriter {
    blobs: Blobs,
    file: NewFile,
    hasher: Option<HasherBox>,
    size: u64,
}

struct HasherBox(Hasher);

impl std::fmt::Debug for HasherBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hasher")
    }
}

impl Write for HasherBox {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.update(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Blobs {
    pub(crate) fn of(layout: &Path) -> Self {
        Self { dir: layout.to_owned() }
    }

    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.folder(digest.algorithm()).join(digest.hex())
    }

    pub(crate) fn folder(&self, algorithm: Algorithm) -> PathBuf {
        self.dir.join("blobs").join(algorithm.name())
    }

    pub(crate) fn temporary_folder(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    pub(crate) fn has(&self, digest: &Digest, size: u64) -> bool {
        fs::metadata(self.path(digest)).is_ok_and(|found| found.is_file() && found.len() == size)
    }

    pub(crate) fn open(&self, digest: &Digest) -> Result<File, Error> {
        let path = self.path(digest);
        File::open(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::NoBlob(*digest),
            _ => Error::Io { doing: "open", path, source },
        })
    }

    /// Whether the blob is here with the bytes that its name says. Reads all of it.
    pub(crate) fn is_intact(&self, digest: &Digest) -> bool {
        let Ok(mut file) = self.open(digest) else { return false };
        let mut hasher = HasherBox(Hasher::new(digest.algorithm()));
        io::copy(&mut file, &mut hasher).is_ok() && hasher.0.finish() == *digest
    }

    /// The bytes of `descriptor`, proven, at most `bytes_max`.
    pub(crate) fn read(&self, descriptor: &Descriptor, bytes_max: u64) -> Result<Vec<u8>, Error> {
        let file = self.open(&descriptor.digest)?;
        image::read_verified(file, descriptor, bytes_max).map_err(|source| Error::Image {
            whose: "a stored blob cannot be used".to_owned(),
            source,
        })
    }

    pub(crate) fn writer(&self, algorithm: Algorithm) -> Result<BlobWriter, Error> {
        let file = self.new_file()?;
        let hasher = Some(HasherBox(Hasher::new(algorithm)));
        Ok(BlobWriter { blobs: self.clone(), file, hasher, size: 0 })
    }

    /// What a killed process leaves of it is removed by `prune`.
    fn new_file(&self) -> Result<NewFile, Error> {
        let folder = self.temporary_folder();
        fs::create_dir_all(&folder).map_err(io_error("create", &folder))?;
        NewFile::create_public_in(&folder).map_err(io_error("create a file in", &folder))
    }

    /// Writes `path`, which is in this layout, so that a reader sees the old bytes or the new ones,
    /// and a power cut leaves one of the two. The caller keeps `prune` away.
    pub(crate) fn replace_file(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let mut file = self.new_file()?;
        let written = file.write_all(bytes).and_then(|()| file.commit(path, Survives::PowerLoss));
        written.map_err(io_error("write", path))
    }

    /// Stores `bytes`, unless they are there already: compared, because what is on a disk can rot.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<Digest, Error> {
        let digest = Digest::of(bytes);
        let there = disk::read(&self.path(&digest), bytes.len() as u64);
        if !there.is_ok_and(|there| there == bytes) {
            let mut writer = self.writer(Algorithm::Sha256)?;
            writer.write_all(bytes).map_err(io_error("write", self.path(&digest)))?;
            writer.finish()?;
        }
        Ok(digest)
    }
}

impl BlobWriter {
    /// Makes the blob visible under its digest: file synced, renamed, folder synced.
    ///
    /// # Errors
    /// [`Error::Io`]; nothing became visible.
    pub fn finish(mut self) -> Result<(Digest, u64), Error> {
        let digest = self.take_digest();
        self.publish(digest)
    }

    /// Like [`BlobWriter::finish`], if the bytes are those of `expected`.
    ///
    /// # Errors
    /// [`Error::Image`] if they are not; nothing became visible.
    pub fn finish_as(mut self, expected: &Digest) -> Result<(Digest, u64), Error> {
        let found = self.take_digest();
        if found != *expected {
            let source =
                image::Error::WrongDigest { what: "a blob".to_owned(), expected: *expected, found };
            return Err(Error::Image {
                whose: format!("the blob `{}` cannot be stored", expected.short()),
                source,
            });
        }
        self.publish(found)
    }

    fn take_digest(&mut self) -> Digest {
        self.hasher.take().expect("taken only here, and finishing consumes the writer").0.finish()
    }

    fn publish(self, digest: Digest) -> Result<(Digest, u64), Error> {
        // Also over a blob of that name: these bytes are proven, and those may have rotted.
        let path = self.blobs.path(&digest);
        let folder = self.blobs.folder(digest.algorithm());
        fs::create_dir_all(&folder).map_err(io_error("create", &folder))?;
        self.file.commit(&path, Survives::PowerLoss).map_err(io_error("write", &path))?;
        Ok((digest, self.size))
    }
}

impl Write for BlobWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.file.write(buf)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.0.update(&buf[..n]);
        }
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A file without a name that is gone when it is closed.
pub(crate) fn scratch_file(blobs: &Blobs) -> Result<File, Error> {
    let writer = blobs.writer(Algorithm::Sha256)?;
    // Dropping the writer removes the name; the file lives on through this descriptor.
    writer.file.file().try_clone().map_err(io_error("open a file in", blobs.temporary_folder()))
}
