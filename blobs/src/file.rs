use std::{
    fs::{self, File, Metadata},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use disk::{NewFile, Survives};
use spec::{Algorithm, Digest};

use crate::{
    error::{Error, Result},
    limits::ASIDE_MAX,
    store::{BlobStore, OpenBlob, StoredBlob},
    writer::{BlobWriter, Staged},
};

/// Blobs as files, named by their digests. What is below the root is whole and durable; what is
/// being written is in the folder beside it that the constructor names.
#[derive(Debug, Clone)]
pub struct FileBlobStore {
    root: PathBuf,
    unfinished: PathBuf,
    layout: Layout,
}

/// How the root is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// `ALGORITHM/HEX`, as an OCI image layout has it.
    Flat,
    /// `ALGORITHM/HE/HEX`, for more blobs than one folder should list.
    Sharded,
}

impl FileBlobStore {
    /// The blobs of the OCI image layout in `folder`, which may be missing: `blobs/ALGORITHM/HEX`.
    /// What is being written is in its subfolder `unfinished`.
    ///
    /// # Spec
    /// OCI image-spec 1.1, "Image Layout".
    pub fn of_oci_layout(folder: &Path, unfinished: &str) -> Self {
        Self {
            root: folder.join("blobs"),
            unfinished: folder.join(unfinished),
            layout: Layout::Flat,
        }
    }

    /// Any number of blobs below `folder`: `blobs/ALGORITHM/HE/HEX`, and in `uploads` what is being
    /// written.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn sharded(folder: &Path) -> Result<Self> {
        let store = Self {
            root: folder.join("blobs"),
            unfinished: folder.join("uploads"),
            layout: Layout::Sharded,
        };
        for folder in [&store.root, &store.unfinished] {
            disk::private_folder(folder).map_err(Error::io("make the folder", folder))?;
        }
        Ok(store)
    }

    /// Where a blob is or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.folder(digest).join(digest.hex())
    }

    fn folder(&self, digest: &Digest) -> PathBuf {
        let folder = self.root.join(digest.algorithm().name());
        match self.layout {
            Layout::Flat => folder,
            Layout::Sharded => folder.join(&digest.hex()[..2]),
        }
    }

    /// The same, in a folder that is there.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn path_for_new(&self, digest: &Digest) -> Result<PathBuf> {
        let folder = self.folder(digest);
        disk::private_folder(&folder).map_err(Error::io("make the folder", folder))?;
        Ok(self.path(digest))
    }

    /// Where bytes are that are not those of their names.
    fn aside(&self) -> PathBuf {
        self.root.with_file_name("quarantine")
    }

    /// Where blobs are being written.
    pub fn unfinished(&self) -> &Path {
        &self.unfinished
    }

    /// The file of a blob, at its start.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Io`].
    pub fn open_file(&self, digest: &Digest) -> Result<File> {
        let path = self.path(digest);
        disk::open(&path, disk::Purpose::Read).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::Missing(*digest),
            _ => Error::Io { action: "open", path, source },
        })
    }

    /// A new file where blobs are being written, for a neighbour of the blobs that needs the same
    /// care.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn new_file(&self) -> Result<NewFile> {
        let folder = &self.unfinished;
        disk::private_folder(folder)
            .and_then(|()| NewFile::create_public_in(folder))
            .map_err(Error::io("create a file in", folder))
    }

    /// Removes what was being written when a process died. No process may be writing meanwhile.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove_unfinished(&self) -> Result<()> {
        for (path, _) in files(&self.unfinished)? {
            disk::remove(&path).map_err(Error::io("remove", path))?;
        }
        Ok(())
    }
}

impl BlobStore for FileBlobStore {
    fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        let path = self.path(digest);
        match fs::metadata(&path) {
            Ok(found) => Ok(found.is_file().then_some(found.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Io { action: "look at", path, source }),
        }
    }

    fn open(&self, digest: &Digest, offset: u64) -> Result<OpenBlob> {
        let mut file = self.open_file(digest)?;
        let size = file.metadata().and_then(|found| {
            file.seek(SeekFrom::Start(offset))?;
            Ok(found.len())
        });
        Ok(OpenBlob::of_file(size.map_err(Error::io("read", self.path(digest)))?, file))
    }

    fn writer(&self, algorithm: Algorithm) -> Result<BlobWriter> {
        let staged = StagedFile { file: self.new_file()?, store: self.clone() };
        Ok(BlobWriter::new(staged, algorithm))
    }

    fn remove(&self, digest: &Digest) -> Result<bool> {
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(Error::Io { action: "remove", path, source }),
        }
    }

    fn link(&self, digest: &Digest, path: &Path) -> Result<()> {
        match fs::hard_link(self.path(digest), path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::Missing(*digest)),
            linked => linked.map_err(Error::io("link a blob to", path)),
        }
    }

    fn set_aside(&self, digest: &Digest) -> Result<()> {
        let (from, folder) = (self.path(digest), self.aside());
        disk::private_folder(&folder).map_err(Error::io("make the folder", &folder))?;
        if entries(&folder)?.len() >= ASIDE_MAX {
            return self.remove(digest).map(drop);
        }
        match fs::rename(&from, folder.join(digest.hex())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::Io { action: "set aside", path: from, source: error })
            }
            _ => Ok(()),
        }
    }

    fn forget_aside(&self, digest: &Digest) -> Result<()> {
        let path = self.aside().join(digest.hex());
        disk::remove(&path).map_err(Error::io("remove", path))
    }

    fn list(&self) -> Result<Vec<StoredBlob>> {
        let mut blobs = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let folder = self.root.join(algorithm.name());
            let folders = match self.layout {
                Layout::Flat => vec![folder],
                Layout::Sharded => entries(&folder)?,
            };
            for folder in folders {
                blobs.extend(blobs_in(&folder, algorithm)?);
            }
        }
        Ok(blobs)
    }

    fn list_part(&self, start: u8) -> Result<Vec<StoredBlob>> {
        let mut blobs = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let mut folder = self.root.join(algorithm.name());
            if self.layout == Layout::Sharded {
                folder.push(format!("{start:02x}"));
            }
            blobs.extend(blobs_in(&folder, algorithm)?);
        }
        let start = format!("{start:02x}");
        blobs.retain(|blob| blob.digest.hex().starts_with(&start));
        Ok(blobs)
    }
}

struct StagedFile {
    file: NewFile,
    store: FileBlobStore,
}

impl Write for StagedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Staged for StagedFile {
    fn publish(self: Box<Self>, digest: &Digest) -> Result<()> {
        let path = self.store.path_for_new(digest)?;
        self.file.commit(&path, Survives::PowerLoss).map_err(Error::io("write", path))
    }

    fn reader(&self) -> io::Result<Option<File>> {
        self.file.file().try_clone().map(Some)
    }
}

/// The blobs of one folder.
fn blobs_in(folder: &Path, algorithm: Algorithm) -> Result<impl Iterator<Item = StoredBlob>> {
    Ok(files(folder)?.into_iter().filter_map(move |(path, found)| {
        let hex = path.file_name()?.to_str()?;
        let digest = format!("{}:{hex}", algorithm.name()).parse().ok()?;
        Some(StoredBlob { digest, bytes: found.len(), used: last_used(&found) })
    }))
}

/// When a file was last read or written. File systems note reads as rarely as once a day.
pub(crate) fn last_used(found: &Metadata) -> SystemTime {
    let times = [found.accessed(), found.modified()];
    times.into_iter().flatten().max().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The files in a folder; none in one that is missing.
pub(crate) fn files(folder: &Path) -> Result<Vec<(PathBuf, Metadata)>> {
    let mut files = Vec::new();
    for path in entries(folder)? {
        match path.symlink_metadata() {
            Ok(found) if found.is_file() => files.push((path, found)),
            Ok(_) => {}
            // Removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::Io { action: "look at", path, source }),
        }
    }
    Ok(files)
}

/// What is in a folder; nothing in one that is missing.
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io("list", folder))?,
    };
    let paths = entries.map(|entry| Ok(entry.map_err(Error::io("list", folder))?.path()));
    paths.collect()
}
