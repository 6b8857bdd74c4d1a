//! Backups of a registry that runs, and what is restored from them.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use spec::Digest;

use super::fixture::{PASSWORD, TestRegistry, noise};
use crate::{
    BackedUp, Error, NewReplication, RegistryLogin, Replica, RetentionChange, back_up, restore,
};

const AT_ONCE: Option<Duration> = Some(Duration::ZERO);

async fn restored(folder: &Path) -> TestRegistry {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_owned();
    restore(folder, &data).await.unwrap();
    TestRegistry::open_in(dir, |_| ()).await
}

/// Where a backup has a blob.
fn file_of(folder: &Path, digest: &Digest) -> PathBuf {
    let hex = digest.hex();
    folder.join("blobs/sha256").join(&hex[..2]).join(&hex)
}

#[tokio::test]
async fn a_backup_has_everything_and_the_next_copies_only_what_is_new() {
    let server = TestRegistry::open().await;
    let one = server.push_image("ann/cats", "v1", &[b"{}", b"one"]).await;
    server.push_image("ann/cats", "v2", &[b"{}", b"two"]).await;
    let change = RetentionChange { rule: None, untagged_seconds: Some(86_400) };
    server.admin.change_retention("ann/cats", &change).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("backup");
    let first = back_up(&server.admin, &folder).await.unwrap();
    assert_eq!((first.blobs, first.kept, first.damaged.len()), (5, 0, 0), "{first:?}");
    assert!(!server.dir.path().join("snapshots").exists());

    server.admin.remove_manifest(&"ann/cats".parse().unwrap(), &one).await.unwrap();
    server.admin.collect(AT_ONCE, false).await.unwrap();
    let three = server.push_image("ann/cats", "v3", &[b"{}", b"three"]).await;
    let next = back_up(&server.admin, &folder).await.unwrap();
    assert_eq!((next.blobs, next.kept, next.removed), (2, 3, 2), "{next:?}");
    let again = back_up(&server.admin, &folder).await.unwrap();
    let nothing_new = BackedUp { kept: 5, records: next.records, ..BackedUp::default() };
    assert_eq!(again, nothing_new);
    drop(server.close().await);

    let server = restored(&folder).await;
    for (path, want) in [
        (format!("manifests/{one}"), 404),
        (format!("manifests/{three}"), 200),
        (format!("blobs/{}", Digest::of(b"three")), 200),
        ("manifests/v2".to_owned(), 200),
        ("manifests/v1".to_owned(), 404),
    ] {
        let request = format!("GET /v2/ann/cats/{path}");
        assert_eq!(server.ask("ann/cats", &request).await.0, want, "{path}");
    }
    let (status, _) = server.log_in("ann", PASSWORD, "repository:ann/cats:pull").await;
    assert_eq!(status, 200, "passwords are those of before");
    assert_eq!(server.admin.retentions().await.unwrap()[0].name, "ann/cats");
    let scrubbed = server.admin.scrub(Some(u64::MAX)).await.unwrap();
    assert_eq!((scrubbed.checked, scrubbed.damaged.len()), (5, 0));
    drop(server.close().await);
}

#[tokio::test]
async fn passwords_of_other_registries_are_sealed_and_a_backup_says_what_opens_them() {
    let server = TestRegistry::open().await;
    let password = "of another registry";
    let login = RegistryLogin { username: "ann".to_owned(), password: password.to_owned() };
    let wanted = NewReplication {
        url: "http://127.0.0.1:9".to_owned(),
        repositories: "ann/*".parse().unwrap(),
        replica: Replica { login: Some(login), ..Replica::default() },
        private: true,
    };
    server.admin.create_replication(&"ann/eu".parse().unwrap(), &wanted).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("backup");
    assert_eq!(back_up(&server.admin, &folder).await.unwrap().sealed, 1);
    let data = server.close().await;
    let key = data.path().join("secret.key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let shows = |path: &Path| {
        let bytes = fs::read(path).unwrap_or_default();
        memchr::memmem::find(&bytes, password.as_bytes()).is_some()
    };
    for folder in [data.path(), &folder] {
        for entry in walk(folder) {
            assert!(!shows(&entry), "{}", entry.display());
        }
    }
    for brings_key in [false, true] {
        let data = tempfile::tempdir().unwrap();
        if brings_key {
            fs::copy(&key, data.path().join("secret.key")).unwrap();
        }
        let found = restore(&folder, data.path()).await.unwrap();
        assert_eq!((found.sealed, found.has_key), (1, brings_key));
        let server = TestRegistry::open_in(data, |_| ()).await;
        assert_eq!(server.admin.replications().await.unwrap().len(), 1);
        drop(server.close().await);
    }
}

/// All files below a folder.
fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = folder.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let below = |path: PathBuf| if path.is_dir() { walk(&path) } else { vec![path] };
    entries.flat_map(below).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backup_is_whole_while_pushes_deletions_and_collections_go_on() {
    let server = Arc::new(TestRegistry::open().await);
    let done = Arc::new(AtomicBool::new(false));
    let mut others = Vec::new();
    for number in 0..3_u8 {
        let (server, done) = (Arc::clone(&server), Arc::clone(&done));
        others.push(tokio::spawn(async move {
            let repository = format!("ann/r{number}");
            let mut round = 0;
            while !done.load(Ordering::SeqCst) {
                round += 1;
                let layers = [noise(number, 3000 + round), noise(round as u8 % 7, 4000)];
                let parts: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
                let tag = format!("v{}", round % 5);
                let image = server.push_image(&repository, &tag, &parts).await;
                if round % 3 == 0 {
                    let name = repository.parse().unwrap();
                    server.admin.remove_manifest(&name, &image).await.unwrap();
                }
            }
        }));
    }
    let collecting = {
        let (server, done) = (Arc::clone(&server), Arc::clone(&done));
        tokio::spawn(async move {
            let mut blobs = 0;
            while !done.load(Ordering::SeqCst) {
                // Long enough for the manifest of each push.
                let grace = Some(Duration::from_secs(1));
                blobs += server.admin.collect(grace, false).await.unwrap().blobs;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            blobs
        })
    };
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let folder = dir.path().join(format!("backup-{}", round % 2));
        let taken = back_up(&server.admin, &folder).await.unwrap();
        assert_eq!(taken.damaged, []);
        let copy = restored(&folder).await;
        let scrubbed = copy.admin.scrub(Some(u64::MAX)).await.unwrap();
        assert!(scrubbed.checked > 0 && scrubbed.damaged.is_empty(), "{scrubbed:?}");
        // No manifest names a blob that is not there.
        let collected = copy.admin.collect(None, true).await.unwrap();
        assert_eq!(collected.unclear, 0);
        drop(copy.close().await);
    }
    done.store(true, Ordering::SeqCst);
    for other in others {
        other.await.unwrap();
    }
    assert!(collecting.await.unwrap() > 0, "files were removed meanwhile");
}

#[tokio::test]
async fn what_is_damaged_is_named_and_the_rest_is_backed_up_and_restored() {
    let server = TestRegistry::open().await;
    server.push_image("ann/cats", "v1", &[b"{}", b"layer"]).await;
    let (lost, rotten) = (Digest::of(b"layer"), Digest::of(b"{}"));
    fs::remove_file(file_of(server.dir.path(), &lost)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("backup");
    let taken = back_up(&server.admin, &folder).await.unwrap();
    assert_eq!((taken.blobs, taken.damaged), (2, vec![lost]));
    // What an earlier backup has is not lost with the registry's.
    fs::remove_file(file_of(server.dir.path(), &rotten)).unwrap();
    let taken = back_up(&server.admin, &folder).await.unwrap();
    assert_eq!((taken.kept, taken.damaged), (2, vec![lost]));
    drop(server.close().await);

    fs::write(file_of(&folder, &rotten), "[]").unwrap();
    let data = tempfile::tempdir().unwrap();
    let found = restore(&folder, data.path()).await.unwrap();
    let mut want = vec![lost, rotten];
    want.sort();
    assert_eq!((found.blobs, found.damaged), (1, want));
    let server = TestRegistry::open_in(data, |_| ()).await;
    assert_eq!(server.ask("ann/cats", "GET /v2/ann/cats/manifests/v1").await.0, 200);
    let request = format!("GET /v2/ann/cats/blobs/{lost}");
    assert_eq!(server.ask("ann/cats", &request).await.0, 404);
    server.push_blob("ann/cats", b"layer").await;
    assert_eq!(server.ask("ann/cats", &request).await.0, 200, "a push heals it");
    drop(server.close().await);
}

#[tokio::test]
async fn a_folder_that_is_no_backup_and_a_registry_that_is_there_are_refused() {
    let server = TestRegistry::open().await;
    let dir = tempfile::tempdir().unwrap();
    let folder = |name: &str| dir.path().join(name);
    fs::create_dir(folder("other")).unwrap();
    fs::write(folder("other").join("letter"), "dear").unwrap();
    let error = back_up(&server.admin, &folder("other")).await.unwrap_err();
    assert!(error.to_string().ends_with("no backup of a registry: it has other files"), "{error}");
    back_up(&server.admin, &folder("good")).await.unwrap();
    let error = restore(&folder("good"), server.dir.path()).await.unwrap_err();
    assert!(matches!(error, Error::RegistryThere { .. }) && error.hint().is_some(), "{error}");
    let dead = crate::Admin::new(folder("nowhere"));
    let error = back_up(&dead, &folder("unreachable")).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    drop(server.close().await);

    fs::create_dir(folder("empty")).unwrap();
    let description = fs::read_to_string(folder("good").join("backup.json")).unwrap();
    let records = serde_json::from_str::<serde_json::Value>(&description).unwrap();
    let records: Digest = records["records"].as_str().unwrap().parse().unwrap();
    for (text, want) in [
        ("{", "its `backup.json` is not valid"),
        (&*description.replace("\"format\": 1", "\"format\": 2"), "a newer margay has made it"),
        (
            &*description.replace("\"records_count\": ", "\"records_count\": 9"),
            "records of it are missing",
        ),
    ] {
        fs::write(folder("good").join("backup.json"), text).unwrap();
        let error = restore(&folder("good"), &folder("data")).await.unwrap_err();
        assert!(error.to_string().ends_with(want), "{error}");
        assert!(!folder("data").join("registry.db").exists(), "no registry is left");
    }
    fs::write(folder("good").join("backup.json"), &description).unwrap();
    fs::write(file_of(&folder("good"), &records), "x").unwrap();
    for (name, want) in [("empty", "it has no `backup.json`"), ("good", "its records are damaged")]
    {
        let error = restore(&folder(name), &folder("data")).await.unwrap_err();
        assert!(error.to_string().ends_with(want), "{error}");
    }
}
