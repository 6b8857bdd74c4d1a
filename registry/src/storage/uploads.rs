use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use blobs::{PendingUpload, UploadEnd, UploadStore};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use spec::{Algorithm, Digest, Hasher, Tenant};

use crate::{
    Error, Repository,
    account::Account,
    limits::{EVICTED_AFTER, OPEN_UPLOADS_MAX},
};

/// The format of an upload's note.
const VERSION: u8 = 1;

/// Open uploads of all repositories, with their owners and their progress in memory.
///
/// They are not in the database: an upload is worth nothing until it is complete, and a flush for
/// each would double the price of a small push. The store keeps them across a restart of the
/// process. Every method but the look-ups blocks.
pub(crate) struct Uploads {
    store: Arc<dyn UploadStore>,
    open: Mutex<HashMap<String, Arc<Upload>>>,
}

/// One upload, as requests find it.
pub(crate) struct Upload {
    pub id: String,
    pub repository: Repository,
    owner: String,
    /// On the clock of the machine, so that a restart does not renew it.
    touched: Mutex<SystemTime>,
    /// Held by the writer; a second writer is turned away rather than queued.
    progress: Arc<tokio::sync::Mutex<Progress>>,
}

pub(crate) struct Progress {
    pub bytes: u64,
    /// SHA-256 so far; lost when the process ends, and then computed again from the store.
    hasher: Option<Hasher>,
}

/// The right to write to an upload, while it lasts. The upload is idle from its end on, however
/// long it lasted.
pub(crate) struct UploadWriter {
    upload: Arc<Upload>,
    store: Arc<dyn UploadStore>,
    progress: tokio::sync::OwnedMutexGuard<Progress>,
    /// Open from the first bytes on.
    end: Option<Box<dyn UploadEnd>>,
}

/// Why an upload was not opened, or became no blob.
#[derive(Debug)]
pub(crate) enum UploadError {
    /// Too many are open, and none of them is idle.
    TooMany(TooMany),
    WrongDigest {
        expected: Digest,
        actual: Digest,
    },
    Failed(Error),
}

/// Which limit of open uploads is reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{open} uploads of `{name}` are open, of at most {max}: finish or cancel some first")]
pub(crate) struct TooMany {
    name: String,
    open: usize,
    max: usize,
}

/// How many uploads may be open at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UploadLimits {
    pub of_account: usize,
    pub of_repository: usize,
}

/// What may be known of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenUpload {
    pub id: String,
    pub repository: Repository,
    pub owner: String,
    pub bytes: Option<u64>,
    pub idle: Duration,
}

impl From<blobs::Error> for UploadError {
    fn from(error: blobs::Error) -> Self {
        Self::Failed(error.into())
    }
}

#[derive(Serialize, Deserialize)]
struct Note {
    version: u8,
    repository: String,
    owner: String,
}

impl Uploads {
    /// Uploads in `store`, with those that an earlier process left there.
    pub fn open(store: Arc<dyn UploadStore>) -> Result<Self, Error> {
        let mut open = HashMap::new();
        for pending in store.pending()? {
            let id = pending.id.clone();
            match resume(pending).filter(|_| open.len() < OPEN_UPLOADS_MAX) {
                Some(upload) => drop(open.insert(id, Arc::new(upload))),
                None => store.discard(&id)?,
            }
        }
        Ok(Self { store, open: Mutex::new(open) })
    }

    /// A new upload of `owner` into `repository`. Where too many are open, the one that has been
    /// idle for the longest time goes.
    pub fn begin(
        &self,
        repository: &Repository,
        owner: &str,
        limits: UploadLimits,
    ) -> Result<Arc<Upload>, UploadError> {
        let upload = Arc::new(Upload::new(
            disk::random_hex::<16>(),
            repository.clone(),
            owner.to_owned(),
            0,
        ));
        let gone = {
            let mut open = self.lock();
            let gone = make_room(&mut open, &upload, limits).map_err(UploadError::TooMany)?;
            open.insert(upload.id.clone(), Arc::clone(&upload));
            gone
        };
        for upload in gone {
            let Upload { repository, owner, .. } = &*upload;
            tracing::info!(%repository, owner, "an idle upload made room for another");
            self.discard(&upload);
        }
        let note = Note {
            version: VERSION,
            repository: upload.repository.to_string(),
            owner: upload.owner.clone(),
        };
        let note = serde_json::to_vec(&note).expect("a note is text");
        self.store.begin(&upload.id, &note).inspect_err(|_| self.forget(&upload.id))?;
        Ok(upload)
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

    /// The right to write to `upload`, unless another request has it.
    pub fn writer(&self, upload: &Arc<Upload>) -> Option<UploadWriter> {
        let progress = Arc::clone(&upload.progress).try_lock_owned().ok()?;
        let (upload, store) = (Arc::clone(upload), Arc::clone(&self.store));
        Some(UploadWriter { upload, store, progress, end: None })
    }

    /// Verifies the bytes of an upload and makes them a blob. The upload is gone afterwards, also
    /// with a wrong digest, unless the disk failed.
    pub fn finish(&self, mut writer: UploadWriter, digest: &Digest) -> Result<u64, UploadError> {
        let actual = writer.digest(digest.algorithm())?;
        if actual != *digest {
            self.cancel(&writer.upload);
            return Err(UploadError::WrongDigest { expected: *digest, actual });
        }
        self.store.publish(&writer.upload.id, writer.bytes(), digest)?;
        self.forget(&writer.upload.id);
        Ok(writer.bytes())
    }

    /// Discards an upload and its bytes.
    pub fn cancel(&self, upload: &Upload) {
        self.forget(&upload.id);
        self.discard(upload);
    }

    /// Discards every upload of a user and of their robot accounts.
    pub fn discard_of(&self, user: &Tenant) {
        let is_theirs = |upload: &Upload| Account::belongs_to(&upload.owner, user);
        let theirs: Vec<_> =
            self.lock().extract_if(|_, upload| is_theirs(upload)).map(|(_, up)| up).collect();
        theirs.iter().for_each(|upload| self.discard(upload));
    }

    /// All open uploads.
    pub fn list(&self) -> Vec<OpenUpload> {
        let open = self.lock();
        let mut list: Vec<_> = open.values().map(|upload| upload.info()).collect();
        list.sort_by(|a, b| (a.idle, &a.id).cmp(&(b.idle, &b.id)).reverse());
        list
    }

    /// How many uploads of an account, or into a repository, are open.
    pub fn count_of(&self, name: &str) -> usize {
        let open = self.lock();
        open.values()
            .filter(|open| open.account() == name || open.repository.as_str() == name)
            .count()
    }

    /// Discards the upload `id`, for the administrator. Whether there was one; a request that is
    /// writing to it fails.
    pub fn discard_id(&self, id: &str) -> bool {
        let upload = self.lock().remove(id);
        upload.is_some_and(|upload| {
            self.discard(&upload);
            true
        })
    }

    /// Discards every upload into a repository.
    pub fn discard_into(&self, repository: &Repository) {
        let is_into = |upload: &Upload| upload.repository == *repository;
        let all: Vec<_> =
            self.lock().extract_if(|_, upload| is_into(upload)).map(|(_, up)| up).collect();
        all.iter().for_each(|upload| self.discard(upload));
    }

    /// Discards uploads that have been idle for that long.
    pub fn expire(&self, idle: Duration) {
        let is_old =
            |upload: &Upload| upload.idle_for() >= idle && upload.progress.try_lock().is_ok();
        // Out of the list first, so that no request finds one whose bytes are going.
        let old: Vec<_> =
            self.lock().extract_if(|_, upload| is_old(upload)).map(|(_, upload)| upload).collect();
        for upload in old {
            let Upload { repository, owner, .. } = &*upload;
            tracing::info!(%repository, owner, "an upload expired");
            self.discard(&upload);
        }
    }

    fn discard(&self, upload: &Upload) {
        if let Err(error) = self.store.discard(&upload.id) {
            tracing::warn!(id = upload.id, %error, "cannot remove what is left of an upload");
        }
    }

    fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Upload>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose uploads have a limit, what it is, and which they are.
type Scope<'a> = (&'a str, usize, &'a dyn Fn(&Upload) -> bool);

/// Takes out of the list what has to go for `next`, or says what is in its way.
fn make_room(
    open: &mut HashMap<String, Arc<Upload>>,
    next: &Upload,
    limits: UploadLimits,
) -> Result<Vec<Arc<Upload>>, TooMany> {
    let mut gone = Vec::new();
    let all = "all accounts";
    let scopes: [Scope<'_>; 3] = [
        (next.account(), limits.of_account, &|one| one.account() == next.account()),
        (next.repository.as_str(), limits.of_repository, &|one| one.repository == next.repository),
        (all, OPEN_UPLOADS_MAX, &|_| true),
    ];
    for (name, max, is_in) in scopes {
        let count = open.values().filter(|one| is_in(one)).count();
        if count < max {
            continue;
        }
        let idle = open.values().filter(|one| {
            is_in(one) && one.idle_for() >= EVICTED_AFTER && one.progress.try_lock().is_ok()
        });
        let Some(id) = idle.max_by_key(|one| one.idle_for()).map(|one| one.id.clone()) else {
            return Err(TooMany { name: name.to_owned(), open: count, max });
        };
        gone.extend(open.remove(&id));
    }
    Ok(gone)
}

impl Upload {
    fn new(id: String, repository: Repository, owner: String, bytes: u64) -> Self {
        let hasher = (bytes == 0).then(|| Hasher::new(Algorithm::Sha256));
        let progress = Arc::new(tokio::sync::Mutex::new(Progress { bytes, hasher }));
        Self { id, repository, owner, touched: Mutex::new(SystemTime::now()), progress }
    }

    /// How many bytes have arrived; waits for a writer.
    pub async fn bytes(&self) -> u64 {
        self.progress.lock().await.bytes
    }

    fn touch(&self) {
        *self.touched.lock().unwrap_or_else(PoisonError::into_inner) = SystemTime::now();
    }

    fn idle_for(&self) -> Duration {
        let touched = *self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        touched.elapsed().unwrap_or_default()
    }

    /// The user of the login that began it.
    fn account(&self) -> &str {
        self.owner.split_once('+').map_or(&*self.owner, |(user, _)| user)
    }

    fn info(&self) -> OpenUpload {
        OpenUpload {
            id: self.id.clone(),
            repository: self.repository.clone(),
            owner: self.owner.clone(),
            bytes: self.progress.try_lock().ok().map(|progress| progress.bytes),
            idle: self.idle_for(),
        }
    }
}

impl UploadWriter {
    /// How many bytes have arrived.
    pub fn bytes(&self) -> u64 {
        self.progress.bytes
    }

    /// Adds `pieces` at the end. Bytes of a write that failed half way do not count, and the next
    /// one replaces them.
    pub fn append(&mut self, pieces: &[Bytes]) -> Result<(), Error> {
        let mut end = match self.end.take() {
            Some(end) => end,
            None => self.store.resume(&self.upload.id, self.progress.bytes)?,
        };
        let slices: Vec<&[u8]> = pieces.iter().map(|piece| &**piece).collect();
        end.append(&slices)?;
        self.end = Some(end);
        for piece in pieces {
            self.progress.bytes += piece.len() as u64;
            if let Some(hasher) = &mut self.progress.hasher {
                hasher.update(piece);
            }
        }
        Ok(())
    }

    fn digest(&mut self, algorithm: Algorithm) -> blobs::Result<Digest> {
        match self.progress.hasher.take().filter(|_| algorithm == Algorithm::Sha256) {
            Some(hasher) => Ok(hasher.finish()),
            None => self.store.digest(&self.upload.id, self.progress.bytes, algorithm),
        }
    }
}

impl Drop for UploadWriter {
    fn drop(&mut self) {
        self.upload.touch();
    }
}

/// An upload of an earlier process; `None` when its note is not one of this version.
fn resume(pending: PendingUpload) -> Option<Upload> {
    let PendingUpload { id, note, bytes, written } = pending;
    let note: Note = serde_json::from_slice(&note).ok()?;
    let repository = (note.version == VERSION).then(|| note.repository.parse().ok())??;
    let upload = Upload::new(id, repository, note.owner, bytes);
    *upload.touched.lock().unwrap_or_else(PoisonError::into_inner) = written;
    Some(upload)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, OpenOptions},
        io::Write,
        path::Path,
    };

    use blobs::{BlobStore, FileBlobStore};

    use super::*;

    const MANY: UploadLimits = UploadLimits { of_account: usize::MAX, of_repository: usize::MAX };
    const TWO: UploadLimits = UploadLimits { of_account: 2, of_repository: usize::MAX };

    fn store(dir: &tempfile::TempDir) -> Arc<FileBlobStore> {
        Arc::new(FileBlobStore::sharded(dir.path()).unwrap())
    }

    fn size(dir: &tempfile::TempDir, digest: &Digest) -> Option<u64> {
        store(dir).size(digest).unwrap()
    }

    fn parts() -> (tempfile::TempDir, Repository) {
        (tempfile::tempdir().unwrap(), "ann/cats".parse().unwrap())
    }

    fn append(uploads: &Uploads, upload: &Arc<Upload>, bytes: &'static [u8]) -> UploadWriter {
        let mut writer = uploads.writer(upload).unwrap();
        writer.append(&[Bytes::from_static(bytes)]).unwrap();
        writer
    }

    fn files(dir: &Path) -> usize {
        fs::read_dir(dir.join("uploads")).unwrap().count()
    }

    #[test]
    fn an_upload_continues_after_a_restart_and_becomes_a_blob() {
        let (dir, cats) = parts();
        let uploads = Uploads::open(store(&dir)).unwrap();
        let id = uploads.begin(&cats, "ann", MANY).unwrap().id.clone();
        drop(append(&uploads, &uploads.find(&cats, &id).unwrap(), b"ca"));
        fs::write(dir.path().join("uploads/ffff"), b"without a note").unwrap();
        fs::write(dir.path().join("uploads/eeee.json"), b"{}").unwrap();

        let uploads = Uploads::open(store(&dir)).unwrap();
        assert_eq!(files(dir.path()), 2);
        assert!(uploads.find(&"ann/dogs".parse().unwrap(), &id).is_none());
        let upload = uploads.find(&cats, &id).unwrap();
        let writer = append(&uploads, &upload, b"t");
        assert_eq!(uploads.finish(writer, &Digest::of(b"cat")).unwrap(), 3);
        assert_eq!(size(&dir, &Digest::of(b"cat")), Some(3));
        assert!(uploads.find(&cats, &id).is_none());
        assert_eq!(files(dir.path()), 0);
    }

    #[test]
    fn bytes_of_a_failed_write_become_no_part_of_a_blob() {
        let (dir, cats) = parts();
        let uploads = Uploads::open(store(&dir)).unwrap();
        for digest in [Digest::of(b"cat"), {
            let mut hasher = Hasher::new(Algorithm::Sha512);
            hasher.update(b"cat");
            hasher.finish()
        }] {
            let upload = uploads.begin(&cats, "ann", MANY).unwrap();
            let writer = append(&uploads, &upload, b"cat");
            // The disk took some of the next piece, and then no more: the piece does not count.
            let path = dir.path().join("uploads").join(&upload.id);
            OpenOptions::new().append(true).open(path).unwrap().write_all(b"nip").unwrap();
            assert_eq!(uploads.finish(writer, &digest).unwrap(), 3);
            assert_eq!(size(&dir, &digest), Some(3));
        }
    }

    #[test]
    fn content_with_a_wrong_digest_becomes_no_blob() {
        let (dir, cats) = parts();
        let uploads = Uploads::open(store(&dir)).unwrap();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let upload = uploads.begin(&cats, "ann", MANY).unwrap();
            let writer = append(&uploads, &upload, b"dog");
            let promised = Hasher::new(algorithm).finish();
            assert!(matches!(
                uploads.finish(writer, &promised),
                Err(UploadError::WrongDigest { .. })
            ));
            assert_eq!(size(&dir, &promised), None);
        }
        assert_eq!(files(dir.path()), 0);
    }

    #[test]
    fn uploads_are_counted_by_owner_and_expire() {
        let (dir, cats) = parts();
        let uploads = Uploads::open(store(&dir)).unwrap();
        let first = uploads.begin(&cats, "ann", MANY).unwrap();
        uploads.begin(&cats, "ann", MANY).unwrap();
        let Err(UploadError::TooMany(error)) = uploads.begin(&cats, "ann+ci", TWO) else {
            panic!()
        };
        assert!(
            error.to_string().starts_with("2 uploads of `ann` are open, of at most 2"),
            "{error}"
        );
        uploads.begin(&cats, "bob", TWO).unwrap();
        let writer = uploads.writer(&first).unwrap();
        assert!(uploads.writer(&first).is_none());
        uploads.expire(Duration::ZERO);
        assert_eq!(files(dir.path()), 2, "the one that is being written stays");
        let begun = first.touched.lock().unwrap().to_owned();
        drop(writer);
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
    fn uploads_of_all_owners_together_have_a_limit() {
        let (dir, cats) = parts();
        let uploads = Uploads::open(store(&dir)).unwrap();
        for n in 0..OPEN_UPLOADS_MAX {
            uploads.begin(&cats, &format!("user-{n}"), MANY).unwrap();
        }
        let refused = uploads.begin(&cats, "ann", MANY);
        assert!(matches!(
            refused,
            Err(UploadError::TooMany(TooMany { max: OPEN_UPLOADS_MAX, .. }))
        ));
        assert_eq!(files(dir.path()), 2 * OPEN_UPLOADS_MAX);
    }

    fn age(upload: &Upload, by: Duration) {
        *upload.touched.lock().unwrap() -= by;
    }

    #[test]
    fn the_upload_that_was_idle_for_the_longest_time_makes_room_and_none_in_use_does() {
        let (dir, cats) = parts();
        let uploads = Uploads::open(store(&dir)).unwrap();
        let [a, b] = [0, 1].map(|_| uploads.begin(&cats, "ann", TWO).unwrap());
        let hour = Duration::from_secs(3600);
        age(&a, 2 * hour);
        age(&b, hour);
        let writer = uploads.writer(&a).unwrap();
        let c = uploads.begin(&cats, "ann+ci", TWO).unwrap();
        let there = |upload: &Arc<Upload>| uploads.lock().contains_key(&upload.id);
        assert!(there(&a) && !there(&b) && there(&c), "`a` is being written");
        assert!(matches!(uploads.begin(&cats, "ann", TWO), Err(UploadError::TooMany(_))));
        drop(writer);
        age(&a, hour);
        uploads.begin(&cats, "ann", TWO).unwrap();
        assert!(!there(&a) && there(&c));
        let one = UploadLimits { of_repository: 1, ..MANY };
        let refused = uploads.begin(&cats, "bob", one).map(drop);
        assert!(
            matches!(refused, Err(UploadError::TooMany(TooMany { name, .. })) if name == "ann/cats")
        );
        assert_eq!((uploads.count_of("ann"), uploads.count_of("ann/cats")), (2, 2));
        assert!(uploads.discard_id(&c.id) && !uploads.discard_id(&c.id));
        assert_eq!(uploads.list().len(), 1);
    }

    #[test]
    fn a_restart_does_not_renew_an_abandoned_upload() {
        let (dir, cats) = parts();
        let uploads = Uploads::open(store(&dir)).unwrap();
        let id = uploads.begin(&cats, "ann", MANY).unwrap().id.clone();
        drop(append(&uploads, &uploads.find(&cats, &id).unwrap(), b"ca"));
        let file = fs::File::options().write(true).open(dir.path().join("uploads").join(&id));
        let hour = Duration::from_secs(3600);
        file.unwrap().set_modified(SystemTime::now() - hour).unwrap();
        let uploads = Uploads::open(store(&dir)).unwrap();
        assert!(uploads.list()[0].idle >= hour);
        uploads.expire(hour);
        assert_eq!(files(dir.path()), 0);
    }
}
