//! Bytes that a disk has lost or changed.

use std::{fs, path::PathBuf};

use spec::Digest;

use super::fixture::{TestRegistry, noise};
use crate::protocol::Fault;

const FAST: Option<u64> = Some(u64::MAX);

impl TestRegistry {
    fn file(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.dir.path().join("blobs/sha256").join(&hex[..2]).join(&hex)
    }
}

#[tokio::test]
async fn a_scrub_finds_what_is_damaged_and_the_next_push_heals_it() {
    let server = TestRegistry::open().await;
    let [whole, wrong, short, gone] = [0, 1, 2, 3].map(|seed| noise(seed, 3000));
    let parts: [&[u8]; 5] = [b"{}", &whole, &wrong, &short, &gone];
    let image = server.push_image("ann/cats", "v1", &parts).await;
    let sound = server.admin.scrub(FAST).await.unwrap();
    assert_eq!((sound.checked, sound.damaged.len()), (6, 0));
    fs::write(server.file(&Digest::of(&wrong)), noise(9, 3000)).unwrap();
    fs::write(server.file(&Digest::of(&short)), b"short").unwrap();
    fs::remove_file(server.file(&Digest::of(&gone))).unwrap();
    let head = |bytes: &[u8]| format!("HEAD /v2/ann/cats/blobs/{}", Digest::of(bytes));
    assert_eq!(server.ask("ann/cats", &head(&wrong)).await.0, 200, "a look at the record");

    let scrubbed = server.admin.scrub(FAST).await.unwrap();
    let mut found: Vec<_> = scrubbed.damaged.iter().map(|one| (one.digest, one.fault)).collect();
    let mut want = vec![
        (Digest::of(&wrong), Fault::WrongBytes),
        (Digest::of(&short), Fault::WrongSize),
        (Digest::of(&gone), Fault::Missing),
    ];
    found.sort_by_key(|(digest, _)| *digest);
    want.sort_by_key(|(digest, _)| *digest);
    assert_eq!(found, want);
    assert_eq!(fs::read_dir(server.dir.path().join("quarantine")).unwrap().count(), 2);

    // Also by the next process.
    let server = TestRegistry::open_in(server.close().await, |_| ()).await;
    for bytes in [&wrong, &short, &gone] {
        let digest = Digest::of(bytes);
        for request in [head(bytes), format!("GET /v2/ann/cats/blobs/{digest}")] {
            assert_eq!(server.ask("ann/cats", &request).await.0, 404, "{request}");
        }
        let mount = format!("POST /v2/ann/cats/blobs/uploads/?mount={digest}&from=ann/cats");
        assert_eq!(server.ask("ann/cats", &mount).await.0, 202, "it has to be sent");
        server.push_blob("ann/cats", bytes).await;
        let got = server.ask("ann/cats", &format!("GET /v2/ann/cats/blobs/{digest}")).await;
        assert_eq!(got.0, 200);
    }
    assert_eq!(server.ask("ann/cats", &format!("GET /v2/ann/cats/manifests/{image}")).await.0, 200);
    assert_eq!(server.admin.scrub(FAST).await.unwrap().damaged, []);
    assert_eq!(fs::read_dir(server.dir.path().join("quarantine")).unwrap().count(), 0);
    drop(server.close().await);
}

#[tokio::test]
async fn a_rotten_manifest_is_never_served_and_a_lost_blob_is_not_vouched_for() {
    let server = TestRegistry::open().await;
    let layer = noise(1, 3000);
    let image = server.push_image("ann/cats", "v1", &[b"{}", &layer]).await;
    let path = server.file(&image);
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] ^= 1;
    fs::write(&path, bytes).unwrap();
    for _ in 0..2 {
        let got = server.ask("ann/cats", "GET /v2/ann/cats/manifests/v1").await;
        assert_eq!(got, (404, "MANIFEST_UNKNOWN".to_owned()));
    }
    assert_eq!(server.ask("ann/cats", "HEAD /v2/ann/cats/manifests/v1").await.0, 404);
    server.push_image("ann/cats", "v1", &[b"{}", &layer]).await;
    assert_eq!(server.ask("ann/cats", "GET /v2/ann/cats/manifests/v1").await.0, 200);

    let digest = Digest::of(&layer);
    fs::remove_file(server.file(&digest)).unwrap();
    let blob = format!("/v2/ann/cats/blobs/{digest}");
    let got = server.ask("ann/cats", &format!("GET {blob}")).await;
    assert_eq!(got, (404, "BLOB_UNKNOWN".to_owned()));
    assert_eq!(server.ask("ann/cats", &format!("HEAD {blob}")).await.0, 404);
    server.push_blob("ann/cats", &layer).await;
    assert_eq!(server.ask("ann/cats", &format!("HEAD {blob}")).await.0, 200);
    drop(server.close().await);
}
