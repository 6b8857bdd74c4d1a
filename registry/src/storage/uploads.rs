use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use spec::{Algorithm, Digest, Hasher};

use super::blobs::{FileBlobs, make_folder};
use crate::{
    Error, Repository,
    limits::{OPEN_UPLOADS_MAX, REHASH_BUFFER_BYTES},
};

/// The format of an upload's note.
const VERSION: u8 = 1;

/// Blobs on their way in, each a file `uploads/<id>` with a note `uploads/<id>.json` beside it.
///
/// They are not in the database: an upload is worth nothing until it is complete, and a flush for
/// each would double the price of a small push. The files outlive the process, so a push goes on
/// after a restart; what a power cut garbles, the digest at the end finds out. Every method but the
/// look-ups blocks.
pub(crate) struct Uploads {
    folder: PathBuf,
    per_owner_max: usize,
    open: Mutex<HashMap<String, Arc<Upload>>>,
}

/// One upload, as others see it.
pub(crate) struct Upload {
    pub id: String,
    pub repository: Repository,
    owner: String,
    touched: Mutex<Instant>,
    /// Whoever writes holds it; a second writer is turned away rather than queued.
    progress: Arc<tokio::sync::Mutex<Progress>>,
}

/// How far an upload is.
pub(crate) struct Progress {
    pub bytes: u64,
    /// SHA-256 so far; lost when the process ends, and then computed again from the file.
    hasher: Option<Hasher>,
}

/// The right to write to an upload, while it lasts. The upload is idle from its end on, however
/// long it lasted.
pub(crate) struct Writing {
    upload: Arc<Upload>,
    path: PathBuf,
    progress: tokio::sync::OwnedMutexGuard<Progress>,
    file: Option<File>,
}

/// What is wrong with an upload that was closed.
#[derive(Debug)]
pub(crate) enum Unfinished {
    /// The bytes are not what was promised.
    WrongDigest(Digest),
    Failed(Error),
}

/// Why no upload can be opened.
#[derive(Debug)]
pub(crate) enum NotOpened {
    /// One more than allowed.
    TooMany,
    Failed(Error),
}

#[derive(Serialize, Deserialize)]
struct Note {
    version: u8,
    repository: String,
    owner: String,
}

impl Uploads {
    /// Uploads below `data_dir`. Takes up those that an earlier process left, and removes what is
    /// none.
    pub fn open(data_dir: &Path, per_owner_max: usize) -> Result<Self, Error> {
        let folder = data_dir.join("uploads");
        make_folder(&folder)?;
        let failed = |source| Error::File { action: "read", path: folder.clone(), source };
        let mut open = HashMap::new();
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            match path.extension() {
                Some(_) if path.with_extension("").exists() => {} // the note of an upload
                Some(_) => remove(&path),
                None => match recover(&path).filter(|_| open.len() < OPEN_UPLOADS_MAX) {
                    Some(upload) => drop(open.insert(upload.id.clone(), Arc::new(upload))),
                    None => {
                        remove(&path);
                        remove(&path.with_extension("json"));
                    }
                },
            }
        }
        Ok(Self { folder, per_owner_max, open: Mutex::new(open) })
    }

    /// A new upload of `owner` into `repository`.
    pub fn begin(&self, repository: &Repository, owner: &str) -> Result<Arc<Upload>, NotOpened> {
        let upload = Arc::new(Upload {
            id: disk::random_hex::<16>(),
            repository: repository.clone(),
            owner: owner.to_owned(),
            touched: Mutex::new(Instant::now()),
            progress: Arc::new(tokio::sync::Mutex::new(Progress::new())),
        });
        {
            let mut open = self.lock();
            let own = open.values().filter(|upload| upload.owner == owner).count();
            if own >= self.per_owner_max || open.len() >= OPEN_UPLOADS_MAX {
                return Err(NotOpened::TooMany);
            }
            open.insert(upload.id.clone(), Arc::clone(&upload));
        }
        self.lay_out(&upload).map_err(|error| {
            self.forget(&upload.id);
            NotOpened::Failed(error)
        })?;
        Ok(upload)
    }

    fn lay_out(&self, upload: &Upload) -> Result<(), Error> {
        let path = self.path(&upload.id);
        let note = Note {
            version: VERSION,
            repository: upload.repository.to_string(),
            owner: upload.owner.clone(),
        };
        let note = serde_json::to_vec(&note).expect("a note is text");
        let create =
            |path: &Path| OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        // The note last: what has one is a whole upload.
        let made =
            create(&path).and_then(|_| create(&path.with_extension("json"))?.write_all(&note));
        made.map_err(|source| {
            remove(&path);
            remove(&path.with_extension("json"));
            Error::File { action: "make", path, source }
        })
    }

    /// The upload `id` into `repository`, if there is one.
    pub fn find(&self, repository: &Repository, id: &str) -> Option<Arc<Upload>> {
        // Touched before the list is let go, so that what is found does not expire in the next
        // moment.
        let open = self.lock();
        let upload = open.get(id).filter(|upload| upload.repository == *repository)?;
        upload.touch();
        Some(Arc::clone(upload))
    }

    /// The right to write to `upload`, unless somebody has it.
    pub fn write(&self, upload: &Arc<Upload>) -> Option<Writing> {
        let progress = Arc::clone(&upload.progress).try_lock_owned().ok()?;
        Some(Writing {
            upload: Arc::clone(upload),
            path: self.path(&upload.id),
            progress,
            file: None,
        })
    }

    /// Closes an upload: checks its bytes and gives them to `blobs`. Gone afterwards, whatever the
    /// outcome, unless the disk failed.
    pub fn finish(
        &self,
        upload: &Upload,
        mut writing: Writing,
        digest: &Digest,
        blobs: &FileBlobs,
    ) -> Result<u64, Unfinished> {
        // A write that failed half way may have left more than was counted: none of that may become
        // part of a blob.
        writing.cut().map_err(Unfinished::Failed)?;
        let actual = writing.digest(digest.algorithm()).map_err(Unfinished::Failed)?;
        if actual != *digest {
            self.cancel(upload);
            return Err(Unfinished::WrongDigest(actual));
        }
        blobs.adopt(&writing.path, digest).map_err(Unfinished::Failed)?;
        self.cancel(upload);
        Ok(writing.progress.bytes)
    }

    /// Forgets an upload and its bytes.
    pub fn cancel(&self, upload: &Upload) {
        self.forget(&upload.id);
        self.remove_files(upload);
    }

    /// Forgets the uploads that nobody has touched for so long.
    pub fn expire(&self, idle: Duration) {
        let is_old =
            |upload: &Upload| upload.idle_for() >= idle && upload.progress.try_lock().is_ok();
        // Out of the list first, so that nobody finds one whose files are going.
        let old: Vec<_> =
            self.lock().extract_if(|_, upload| is_old(upload)).map(|(_, upload)| upload).collect();
        for upload in old {
            tracing::info!(repository = %upload.repository, owner = upload.owner, "an upload expired");
            self.remove_files(&upload);
        }
    }

    fn remove_files(&self, upload: &Upload) {
        let path = self.path(&upload.id);
        remove(&path);
        remove(&path.with_extension("json"));
    }

    /// A name for a file that is written at once and then moved away; what a crash leaves of it,
    /// the next start removes.
    pub fn aside(&self) -> PathBuf {
        self.folder.join(format!("{}.part", disk::random_hex::<16>()))
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(id)
    }

    fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Upload>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Upload {
    /// How many bytes have arrived; waits for whoever writes.
    pub async fn bytes(&self) -> u64 {
        self.progress.lock().await.bytes
    }

    fn touch(&self) {
        *self.touched.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn idle_for(&self) -> Duration {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

impl Progress {
    fn new() -> Self {
        Self { bytes: 0, hasher: Some(Hasher::new(Algorithm::Sha256)) }
    }
}

impl Writing {
    /// How many bytes have arrived.
    pub fn bytes(&self) -> u64 {
        self.progress.bytes
    }

    /// Adds `pieces` at the end.
    pub fn append(&mut self, pieces: &[Bytes]) -> Result<(), Error> {
        let path = self.path.clone();
        self.try_append(pieces).map_err(|source| Error::File { action: "write", path, source })
    }

    fn try_append(&mut self, pieces: &[Bytes]) -> std::io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let mut file = OpenOptions::new().write(true).open(&self.path)?;
                // A write that failed half way may have left more than was counted.
                file.set_len(self.progress.bytes)?;
                file.seek(SeekFrom::End(0))?;
                none.insert(file)
            }
        };
        for piece in pieces {
            if let Err(error) = file.write_all(piece) {
                self.file = None;
                return Err(error);
            }
            self.progress.bytes += piece.len() as u64;
            if let Some(hasher) = &mut self.progress.hasher {
                hasher.update(piece);
            }
        }
        Ok(())
    }

    /// Leaves as many bytes in the file as have been counted.
    fn cut(&self) -> Result<(), Error> {
        let cut = OpenOptions::new()
            .write(true)
            .open(&self.path)
            .and_then(|file| file.set_len(self.progress.bytes));
        cut.map_err(|source| Error::File { action: "write", path: self.path.clone(), source })
    }

    fn digest(&mut self, algorithm: Algorithm) -> Result<Digest, Error> {
        match self.progress.hasher.take().filter(|_| algorithm == Algorithm::Sha256) {
            Some(hasher) => Ok(hasher.finish()),
            None => hash_file(&self.path, algorithm),
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.upload.touch();
    }
}

fn hash_file(path: &Path, algorithm: Algorithm) -> Result<Digest, Error> {
    use std::io::Read;
    let failed = |source| Error::File { action: "read", path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    let (mut hasher, mut buffer) = (Hasher::new(algorithm), vec![0; REHASH_BUFFER_BYTES]);
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok(hasher.finish()),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// An upload as an earlier process left it.
fn recover(path: &Path) -> Option<Upload> {
    let note: Note = serde_json::from_slice(&fs::read(path.with_extension("json")).ok()?).ok()?;
    let bytes = fs::metadata(path).ok()?.len();
    let hasher = (bytes == 0).then(|| Hasher::new(Algorithm::Sha256));
    Some(Upload {
        id: path.file_name()?.to_str()?.to_owned(),
        repository: (note.version == VERSION).then(|| note.repository.parse().ok())??,
        owner: note.owner,
        touched: Mutex::new(Instant::now()),
        progress: Arc::new(tokio::sync::Mutex::new(Progress { bytes, hasher })),
    })
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot remove what is left of an upload");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> (tempfile::TempDir, Repository) {
        (tempfile::tempdir().unwrap(), "ann/cats".parse().unwrap())
    }

    fn append(uploads: &Uploads, upload: &Arc<Upload>, bytes: &'static [u8]) -> Writing {
        let mut writing = uploads.write(upload).unwrap();
        writing.append(&[Bytes::from_static(bytes)]).unwrap();
        writing
    }

    fn files(dir: &Path) -> usize {
        fs::read_dir(dir.join("uploads")).unwrap().count()
    }

    #[test]
    fn an_upload_goes_on_after_a_restart_and_ends_as_a_blob() {
        let (dir, cats) = parts();
        let uploads = Uploads::open(dir.path(), 10).unwrap();
        let id = uploads.begin(&cats, "ann").unwrap().id.clone();
        drop(append(&uploads, &uploads.find(&cats, &id).unwrap(), b"ca"));
        fs::write(dir.path().join("uploads/ffff"), b"without a note").unwrap();
        fs::write(dir.path().join("uploads/eeee.json"), b"{}").unwrap();

        let uploads = Uploads::open(dir.path(), 10).unwrap();
        assert_eq!(files(dir.path()), 2);
        let blobs = FileBlobs::open(dir.path()).unwrap();
        assert!(uploads.find(&"ann/dogs".parse().unwrap(), &id).is_none());
        let upload = uploads.find(&cats, &id).unwrap();
        let writing = append(&uploads, &upload, b"t");
        assert_eq!(uploads.finish(&upload, writing, &Digest::of(b"cat"), &blobs).unwrap(), 3);
        assert_eq!(blobs.read(&Digest::of(b"cat")).unwrap().1, 3);
        assert!(uploads.find(&cats, &id).is_none());
        assert_eq!(files(dir.path()), 0);
    }

    #[test]
    fn what_a_failed_write_has_left_behind_does_not_become_part_of_a_blob() {
        let (dir, cats) = parts();
        let (uploads, blobs) =
            (Uploads::open(dir.path(), 10).unwrap(), FileBlobs::open(dir.path()).unwrap());
        for digest in [Digest::of(b"cat"), {
            let mut hasher = Hasher::new(Algorithm::Sha512);
            hasher.update(b"cat");
            hasher.finish()
        }] {
            let upload = uploads.begin(&cats, "ann").unwrap();
            let writing = append(&uploads, &upload, b"cat");
            // The disk took some of the next piece, and then no more: the piece does not count.
            let path = dir.path().join("uploads").join(&upload.id);
            OpenOptions::new().append(true).open(path).unwrap().write_all(b"nip").unwrap();
            assert_eq!(uploads.finish(&upload, writing, &digest, &blobs).unwrap(), 3);
            assert_eq!(blobs.read(&digest).unwrap().1, 3);
        }
    }

    #[test]
    fn wrong_bytes_become_no_blob() {
        let (dir, cats) = parts();
        let (uploads, blobs) =
            (Uploads::open(dir.path(), 10).unwrap(), FileBlobs::open(dir.path()).unwrap());
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let upload = uploads.begin(&cats, "ann").unwrap();
            let writing = append(&uploads, &upload, b"dog");
            let promised = Hasher::new(algorithm).finish();
            assert!(matches!(
                uploads.finish(&upload, writing, &promised, &blobs),
                Err(Unfinished::WrongDigest(_))
            ));
            assert!(blobs.read(&promised).is_err());
        }
        assert_eq!(files(dir.path()), 0);
    }

    #[test]
    fn uploads_are_counted_by_owner_and_expire() {
        let (dir, cats) = parts();
        let uploads = Uploads::open(dir.path(), 2).unwrap();
        let first = uploads.begin(&cats, "ann").unwrap();
        uploads.begin(&cats, "ann").unwrap();
        assert!(matches!(uploads.begin(&cats, "ann"), Err(NotOpened::TooMany)));
        uploads.begin(&cats, "bob").unwrap();
        let writing = uploads.write(&first).unwrap();
        assert!(uploads.write(&first).is_none());
        uploads.expire(Duration::ZERO);
        assert_eq!(files(dir.path()), 2, "the one that is being written stays");
        let begun = first.touched.lock().unwrap().to_owned();
        drop(writing);
        assert!(
            *first.touched.lock().unwrap() > begun,
            "idle since it was last written to, not since that began"
        );
        uploads.expire(Duration::from_secs(60));
        assert_eq!(files(dir.path()), 2);
        uploads.expire(Duration::ZERO);
        assert_eq!(files(dir.path()), 0);
        assert!(uploads.find(&cats, &first.id).is_none());
    }

    #[test]
    fn all_uploads_at_once_have_a_limit_whoever_they_belong_to() {
        let (dir, cats) = parts();
        let uploads = Uploads::open(dir.path(), 1).unwrap();
        for n in 0..OPEN_UPLOADS_MAX {
            uploads.begin(&cats, &format!("user-{n}")).unwrap();
        }
        assert!(matches!(uploads.begin(&cats, "ann"), Err(NotOpened::TooMany)));
        assert_eq!(files(dir.path()), 2 * OPEN_UPLOADS_MAX);
    }
}
