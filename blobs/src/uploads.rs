use std::{
    fs::{File, OpenOptions},
    io::{self, IoSlice, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use disk::Survives;
use spec::{Algorithm, Digest};

use crate::{
    error::{Error, Result},
    file::{FileBlobStore, files},
    store::{BlobStore, hash},
};

/// A store that keeps half-written blobs, by an identifier of the caller's choice, so that an
/// upload goes on after a restart of the process.
///
/// Half-written bytes are not durable: a loss of power may take or garble them, which the digest at
/// the end finds out. One caller at a time writes to one upload.
pub trait UploadStore: BlobStore {
    /// Begins an upload without bytes. `note` is what the caller wants to find with it.
    ///
    /// # Errors
    /// [`Error::Io`]; nothing is left then.
    fn begin(&self, id: &str, note: &[u8]) -> Result<()>;

    /// Opens an upload that has `bytes` bytes for more, and drops what is beyond them: a write that
    /// failed half way may have left more than was counted.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn resume(&self, id: &str, bytes: u64) -> Result<Box<dyn UploadEnd>>;

    /// The digest of the first `bytes` bytes of an upload. Reads all of them.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn digest(&self, id: &str, bytes: u64, algorithm: Algorithm) -> Result<Digest>;

    /// Makes the first `bytes` bytes of an upload a blob, as a commit does, and ends the upload.
    /// The caller has verified that they have the `digest`.
    ///
    /// # Errors
    /// [`Error::Io`]; the upload is still there then.
    fn publish(&self, id: &str, bytes: u64, digest: &Digest) -> Result<()>;

    /// Ends an upload without a blob. Does nothing when there is none.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn discard(&self, id: &str) -> Result<()>;

    /// The uploads that an earlier process left. Removes what is none: call it before the first one
    /// begins.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn pending(&self) -> Result<Vec<PendingUpload>>;
}

/// The end of an upload, where bytes come in.
pub trait UploadEnd: Send {
    /// Writes `pieces`.
    ///
    /// # Errors
    /// [`Error::Io`]; any part of the pieces may have been written, and the upload has to be
    /// resumed before more are.
    fn append(&mut self, pieces: &[&[u8]]) -> Result<()>;
}

/// An upload as an earlier process left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingUpload {
    pub id: String,
    pub note: Vec<u8>,
    pub bytes: u64,
    /// When its bytes were last written.
    pub written: SystemTime,
}

/// A note is some names.
const NOTE_BYTES_MAX: u64 = 64 << 10;

impl FileBlobStore {
    /// The bytes of the upload `id`, and its note.
    fn upload(&self, id: &str) -> (PathBuf, PathBuf) {
        let path = self.unfinished().join(id);
        let note = path.with_extension("json");
        (path, note)
    }

    /// The bytes of an upload, cut to those that count.
    fn upload_cut_to(&self, id: &str, bytes: u64) -> Result<(PathBuf, File)> {
        let (path, _) = self.upload(id);
        let cut = || {
            let file = disk::open(&path, disk::Purpose::Change)?;
            file.set_len(bytes)?;
            Ok(file)
        };
        let file = cut().map_err(Error::io("write", &path))?;
        Ok((path, file))
    }
}

struct UploadFile {
    path: PathBuf,
    file: File,
}

impl UploadEnd for UploadFile {
    fn append(&mut self, pieces: &[&[u8]]) -> Result<()> {
        let mut slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        write_all(&mut self.file, &mut slices).map_err(Error::io("write", &self.path))
    }
}

fn write_all(file: &mut File, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    IoSlice::advance_slices(&mut slices, 0); // without those that are empty
    while !slices.is_empty() {
        match file.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl UploadStore for FileBlobStore {
    fn begin(&self, id: &str, note: &[u8]) -> Result<()> {
        let (path, note_path) = self.upload(id);
        let create =
            |path: &Path| OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        // The note last: what has one is a whole upload.
        let made = create(&path).and_then(|_| create(&note_path)?.write_all(note));
        made.map_err(|source| {
            let _ = self.discard(id);
            Error::Io { action: "make", path, source }
        })
    }

    fn resume(&self, id: &str, bytes: u64) -> Result<Box<dyn UploadEnd>> {
        let (path, mut file) = self.upload_cut_to(id, bytes)?;
        file.seek(SeekFrom::Start(bytes)).map_err(Error::io("write", &path))?;
        Ok(Box::new(UploadFile { path, file }))
    }

    fn digest(&self, id: &str, bytes: u64, algorithm: Algorithm) -> Result<Digest> {
        let (path, _) = self.upload(id);
        let read = disk::open(&path, disk::Purpose::Read)
            .and_then(|file| hash(file.take(bytes), algorithm));
        read.map_err(Error::io("read", path))
    }

    fn publish(&self, id: &str, bytes: u64, digest: &Digest) -> Result<()> {
        let (path, file) = self.upload_cut_to(id, bytes)?;
        let blob = self.path_for_new(digest)?;
        disk::rename(&file, &path, &blob, Survives::PowerLoss).map_err(Error::io("write", blob))?;
        self.discard(id)
    }

    fn discard(&self, id: &str) -> Result<()> {
        let (path, note) = self.upload(id);
        for path in [path, note] {
            disk::remove(&path).map_err(Error::io("remove", path))?;
        }
        Ok(())
    }

    fn pending(&self) -> Result<Vec<PendingUpload>> {
        let mut pending = Vec::new();
        for (path, found) in files(self.unfinished())? {
            let Some(id) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if path.extension().is_some_and(|extension| extension == "json")
                && path.with_extension("").exists()
            {
                continue;
            }
            match disk::read_optional(&path.with_extension("json"), NOTE_BYTES_MAX) {
                Ok(Some(note)) if path.extension().is_none() => {
                    let written = found.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                    let (id, bytes) = (id.to_owned(), found.len());
                    pending.push(PendingUpload { id, note, bytes, written });
                }
                _ => self.discard(id)?,
            }
        }
        Ok(pending)
    }
}
