//! What [`BlobStore`](crate::BlobStore) and [`UploadStore`](crate::UploadStore) promise, as checks
//! that panic where a store does not keep it. Tests of every store run them on one that is empty.

use std::{
    io::{Read, Write},
    path::Path,
    time::{Duration, SystemTime},
};

use disk::Step;
use spec::{Algorithm, Descriptor, Digest, Hasher};

use crate::{BlobStore, Error, UploadStore, is_intact, read, write};

/// Checks every promise of a store that is durable: all of [`check`], and what a commit syncs.
///
/// # Panics
/// Where the store does not keep a promise.
pub fn check_durable(store: &dyn BlobStore) {
    check(store);
    commits_are_durable(store);
}

/// Checks every promise but durability.
///
/// # Panics
/// Where the store does not keep a promise.
pub fn check(store: &dyn BlobStore) {
    assert_eq!(store.list().unwrap(), [], "the store must be empty");
    blobs_are_visible_from_their_commit_on(store);
    only_bytes_of_the_digest_get_its_name(store);
    both_algorithms_name_blobs(store);
    blobs_are_read_from_any_offset(store);
    readers_keep_the_bytes_of_what_is_replaced_or_removed(store);
    writing_again_is_idempotent(store);
    every_blob_is_listed_and_removed_once(store);
    a_linked_file_has_the_bytes_also_when_the_blob_is_gone(store);
    what_is_set_aside_is_missing_until_it_is_written_again(store);
    assert_eq!(store.list().unwrap(), [], "every check removes what it wrote");
}

/// Checks the promises of uploads.
///
/// # Panics
/// Where the store does not keep a promise.
pub fn check_uploads(store: &dyn UploadStore) {
    uploads_go_on_and_become_blobs(store);
    bytes_that_were_not_counted_become_no_part_of_a_blob(store);
    a_discarded_upload_is_gone(store);
}

fn a_linked_file_has_the_bytes_also_when_the_blob_is_gone(store: &dyn BlobStore) {
    let (digest, folder) = (put(store, b"linked"), std::env::temp_dir());
    let path = folder.join(format!("margay-link-{}", disk::random_hex::<8>()));
    store.link(&digest, &path).unwrap();
    assert!(store.remove(&digest).unwrap());
    assert_eq!(std::fs::read(&path).unwrap(), b"linked");
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(store.link(&digest, &path), Err(Error::Missing(_))));
}

fn put(store: &dyn BlobStore, bytes: &[u8]) -> Digest {
    let mut writer = store.writer(Algorithm::Sha256).unwrap();
    writer.write_all(bytes).unwrap();
    writer.commit().unwrap().0
}

fn get(store: &dyn BlobStore, digest: &Digest, offset: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.open(digest, offset).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

fn assert_missing(store: &dyn BlobStore, digest: &Digest) {
    assert_eq!(store.size(digest).unwrap(), None);
    assert!(!store.contains(digest).unwrap() && !is_intact(store, digest));
    assert!(matches!(store.open(digest, 0), Err(Error::Missing(missing)) if missing == *digest));
}

fn blobs_are_visible_from_their_commit_on(store: &dyn BlobStore) {
    let digest = Digest::of(b"cats");
    assert_missing(store, &digest);
    let mut writer = store.writer(Algorithm::Sha256).unwrap();
    writer.write_all(b"ca").unwrap();
    assert_missing(store, &digest);
    writer.write_all(b"ts").unwrap();
    assert_eq!(writer.bytes(), 4);
    assert_missing(store, &digest);
    assert_eq!(writer.commit().unwrap(), (digest, 4));
    assert_eq!(store.size(&digest).unwrap(), Some(4));
    assert!(store.contains(&digest).unwrap() && is_intact(store, &digest));
    assert_eq!(get(store, &digest, 0), b"cats");
    store.remove(&digest).unwrap();

    let mut abandoned = store.writer(Algorithm::Sha256).unwrap();
    abandoned.write_all(b"cats").unwrap();
    drop(abandoned);
    assert_missing(store, &digest);
}

fn only_bytes_of_the_digest_get_its_name(store: &dyn BlobStore) {
    let expected = Digest::of(b"cats");
    let mut writer = store.writer(Algorithm::Sha256).unwrap();
    writer.write_all(b"dogs").unwrap();
    let error = writer.commit_as(&expected).unwrap_err();
    let actual = Digest::of(b"dogs");
    let Error::WrongDigest { expected: said, actual: found } = error else { panic!("{error}") };
    assert_eq!((said, found), (expected, actual));
    assert_missing(store, &expected);
    assert_missing(store, &actual);

    let descriptor = Descriptor::of("application/octet-stream", b"cats");
    write(store, b"cats").unwrap();
    assert_eq!(read(store, &descriptor, 4).unwrap(), b"cats");
    assert!(matches!(read(store, &descriptor, 3), Err(Error::Damaged { .. })));
    store.remove(&expected).unwrap();
}

fn both_algorithms_name_blobs(store: &dyn BlobStore) {
    let mut hasher = Hasher::new(Algorithm::Sha512);
    hasher.update(b"cats");
    let digest = hasher.finish();
    let mut writer = store.writer(Algorithm::Sha512).unwrap();
    writer.write_all(b"cats").unwrap();
    assert_eq!(writer.commit_as(&digest).unwrap(), 4);
    assert_missing(store, &Digest::of(b"cats"));
    assert_eq!(get(store, &digest, 0), b"cats");
    assert_eq!(store.list().unwrap()[0].digest, digest);
    assert!(store.remove(&digest).unwrap());
}

fn blobs_are_read_from_any_offset(store: &dyn BlobStore) {
    let digest = put(store, b"cats");
    for (offset, rest) in [(0, &b"cats"[..]), (3, b"s"), (4, b""), (100, b"")] {
        assert_eq!(get(store, &digest, offset), rest, "from {offset} on");
        assert_eq!(store.open(&digest, offset).unwrap().bytes, 4);
    }
    store.remove(&digest).unwrap();
}

fn readers_keep_the_bytes_of_what_is_replaced_or_removed(store: &dyn BlobStore) {
    let digest = put(store, b"cats");
    let (mut replaced, mut removed) =
        (store.open(&digest, 0).unwrap(), store.open(&digest, 0).unwrap());
    let mut bytes = Vec::new();
    put(store, b"cats");
    replaced.read_to_end(&mut bytes).unwrap();
    store.remove(&digest).unwrap();
    removed.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"catscats");
}

fn writing_again_is_idempotent(store: &dyn BlobStore) {
    for _ in 0..3 {
        assert_eq!(put(store, b"cats"), write(store, b"cats").unwrap());
        assert_eq!(store.list().unwrap().len(), 1);
    }
    assert!(store.remove(&Digest::of(b"cats")).unwrap());
    assert!(!store.remove(&Digest::of(b"cats")).unwrap());
}

fn every_blob_is_listed_and_removed_once(store: &dyn BlobStore) {
    let began = SystemTime::now();
    let mut expected: Vec<_> =
        (0..20u8).map(|n| (put(store, &vec![n; usize::from(n)]), u64::from(n))).collect();
    let listed = store.list().unwrap();
    // File systems round times to a tick of the kernel.
    assert!(listed.iter().all(|blob| blob.used + Duration::from_secs(1) > began), "{listed:?}");
    let mut found: Vec<_> = listed.iter().map(|blob| (blob.digest, blob.bytes)).collect();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    let parts = (0..=u8::MAX).map(|start| {
        let part = store.list_part(start).unwrap();
        assert!(part.iter().all(|blob| blob.digest.hex().starts_with(&format!("{start:02x}"))));
        part.into_iter().map(|blob| (blob.digest, blob.bytes))
    });
    let mut parts: Vec<_> = parts.flatten().collect();
    parts.sort();
    assert_eq!(parts, expected);
    for (digest, _) in expected {
        assert!(store.remove(&digest).unwrap());
        assert_missing(store, &digest);
    }
}

fn what_is_set_aside_is_missing_until_it_is_written_again(store: &dyn BlobStore) {
    let digest = put(store, b"cats");
    for _ in 0..2 {
        store.set_aside(&digest).unwrap();
        assert_missing(store, &digest);
    }
    assert_eq!(store.list().unwrap(), []);
    put(store, b"cats");
    for _ in 0..2 {
        store.forget_aside(&digest).unwrap();
    }
    assert_eq!(get(store, &digest, 0), b"cats");
    store.remove(&digest).unwrap();
}

/// The steps that a file system needs: every new name follows a sync of its bytes, and a sync of
/// its folder follows the name.
fn commits_are_durable(store: &dyn BlobStore) {
    let (digest, steps) = disk::trace(|| put(store, b"cats"));
    assert_synced(&steps);
    store.remove(&digest).unwrap();
}

/// Checks that the traced steps of a write survive a loss of power.
///
/// # Panics
/// When a sync is missing.
pub fn assert_synced(steps: &[Step]) {
    let renames = steps.iter().enumerate().filter_map(|(at, step)| match step {
        Step::Rename(name) => Some((at, name)),
        Step::SyncFile(_) | Step::SyncFolder(_) => None,
    });
    let mut names = 0;
    for (at, name) in renames {
        let folder = name.parent().unwrap_or(Path::new("/")).to_owned();
        assert!(
            steps[..at].iter().any(|step| matches!(step, Step::SyncFile(_)))
                && steps[at..].contains(&Step::SyncFolder(folder)),
            "`{}` does not survive a loss of power: {steps:?}",
            name.display()
        );
        names += 1;
    }
    assert_ne!(names, 0, "nothing got its name: {steps:?}");
}

fn uploads_go_on_and_become_blobs(store: &dyn UploadStore) {
    let digest = Digest::of(b"cats");
    store.begin("a1", b"of ann").unwrap();
    let mut end = store.resume("a1", 0).unwrap();
    end.append(&[b"c", b"", b"a"]).unwrap();
    end.append(&[]).unwrap();
    drop(end);
    // As a new process finds it.
    let pending = store.pending().unwrap();
    let found: Vec<_> =
        pending.iter().map(|upload| (&*upload.id, &*upload.note, upload.bytes)).collect();
    assert_eq!(found, [("a1", &b"of ann"[..], 2)]);
    store.resume("a1", 2).unwrap().append(&[b"ts"]).unwrap();
    assert_eq!(store.digest("a1", 4, Algorithm::Sha256).unwrap(), digest);
    assert_missing(store, &digest);
    let (published, steps) = disk::trace(|| store.publish("a1", 4, &digest));
    published.unwrap();
    assert_synced(&steps);
    assert_eq!(get(store, &digest, 0), b"cats");
    assert_eq!(store.pending().unwrap(), []);
    store.remove(&digest).unwrap();
}

fn bytes_that_were_not_counted_become_no_part_of_a_blob(store: &dyn UploadStore) {
    let digest = Digest::of(b"cats");
    store.begin("b2", b"").unwrap();
    store.resume("b2", 0).unwrap().append(&[b"cats and dogs"]).unwrap();
    assert_eq!(store.digest("b2", 4, Algorithm::Sha256).unwrap(), digest);
    store.resume("b2", 2).unwrap().append(&[b"ts and"]).unwrap();
    store.publish("b2", 4, &digest).unwrap();
    assert_eq!(get(store, &digest, 0), b"cats");
    store.remove(&digest).unwrap();
}

fn a_discarded_upload_is_gone(store: &dyn UploadStore) {
    store.begin("c3", b"").unwrap();
    let mut end = store.resume("c3", 0).unwrap();
    end.append(&[b"cats"]).unwrap();
    drop(end);
    for _ in 0..2 {
        store.discard("c3").unwrap();
        assert_eq!(store.pending().unwrap(), []);
    }
    assert!(store.resume("c3", 4).is_err());
    assert_eq!(store.list().unwrap(), []);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FileBlobStore, MemoryBlobStore};

    #[test]
    fn every_store_keeps_its_promises() {
        check(&MemoryBlobStore::default());
        let folder = tempfile::tempdir().unwrap();
        check_durable(&FileBlobStore::of_oci_layout(&folder.path().join("layout"), "tmp"));
        let sharded = FileBlobStore::sharded(folder.path()).unwrap();
        check_durable(&sharded);
        check_uploads(&sharded);
    }

    #[test]
    fn a_write_without_a_sync_of_its_folder_is_found_out() {
        let name = Path::new("/blobs/cats").to_owned();
        let steps =
            [Step::SyncFile("/tmp/1".into()), Step::Rename(name), Step::SyncFolder("/".into())];
        assert!(std::panic::catch_unwind(|| assert_synced(&steps)).is_err());
    }

    #[test]
    fn files_are_where_their_layout_says_and_unfinished_ones_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let flat = FileBlobStore::of_oci_layout(folder.path(), "tmp");
        let hex = put(&flat, b"cats").hex();
        assert!(folder.path().join("blobs/sha256").join(&hex).is_file());
        std::fs::write(folder.path().join("tmp/left"), b"ca").unwrap();
        std::fs::write(folder.path().join("blobs/sha256/README"), b"no blob").unwrap();
        flat.remove_unfinished().unwrap();
        assert_eq!(std::fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
        assert_eq!(flat.list().unwrap().len(), 1);

        let sharded = FileBlobStore::sharded(&folder.path().join("registry")).unwrap();
        put(&sharded, b"cats");
        assert!(folder.path().join("registry/blobs/sha256").join(&hex[..2]).join(&hex).is_file());
        let uploads = folder.path().join("registry/uploads");
        for left in ["ffff", "eeee.json", "dddd.part"] {
            std::fs::write(uploads.join(left), b"{}").unwrap();
        }
        assert_eq!(sharded.pending().unwrap(), []);
        assert_eq!(std::fs::read_dir(uploads).unwrap().count(), 0);
    }

    #[test]
    fn a_damaged_blob_is_repaired_by_writing_it_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = FileBlobStore::of_oci_layout(folder.path(), "tmp");
        let digest = put(&store, b"cats");
        for _ in 0..2 {
            std::fs::write(store.path(&digest), b"dogs").unwrap();
            assert!(!is_intact(&store, &digest) && store.contains(&digest).unwrap());
            put(&store, b"cats");
            assert!(is_intact(&store, &digest));
            std::fs::write(store.path(&digest), b"dogs").unwrap();
            write(&store, b"cats").unwrap();
            assert!(is_intact(&store, &digest));
        }
    }
}
