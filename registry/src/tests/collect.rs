//! Online garbage collection.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use spec::Digest;

use super::{
    deletion::manifest_of,
    fixture::{TestRegistry, TestResponse, noise},
};
use crate::Collected;

const AT_ONCE: Option<Duration> = Some(Duration::ZERO);

/// The files of blobs.
pub fn files(data_dir: &Path) -> usize {
    let shards = data_dir.join("blobs/sha256").read_dir().into_iter().flatten().flatten();
    shards.map(|shard| shard.path().read_dir().unwrap().count()).sum()
}

async fn collect(server: &TestRegistry, grace: Option<Duration>) -> Collected {
    server.admin.collect(grace, false).await.unwrap()
}

#[tokio::test]
async fn what_no_manifest_names_is_collected_after_its_grace_time() {
    let server = TestRegistry::open().await;
    let image = server.push_image("ann/cats", "v1", &[b"{}", b"layer"]).await;
    let spare = server.push_blob("ann/cats", b"spare").await;
    for _ in 0..2 {
        let found = collect(&server, None).await;
        let want = Collected { waiting: 1, waiting_bytes: 5, ..Collected::default() };
        assert_eq!(found, want, "an hour is not over");
    }
    let gone = Collected { blobs: 1, bytes: 5, ..Collected::default() };
    let dry = server.admin.collect(AT_ONCE, true).await.unwrap();
    assert_eq!(dry, Collected { dry_run: true, ..gone.clone() });
    assert_eq!(files(server.dir.path()), 4);
    assert_eq!(collect(&server, AT_ONCE).await, gone);
    assert_eq!(server.ask("ann/cats", &format!("HEAD /v2/ann/cats/blobs/{spare}")).await.0, 404);
    assert_eq!(files(server.dir.path()), 3);

    // What two repositories have stays until both are gone.
    server.push_image("ann/dogs", "v1", &[b"{}", b"layer"]).await;
    server.admin.remove_repository(&"ann/cats".parse().unwrap()).await.unwrap();
    assert_eq!(collect(&server, None).await.blobs, 0);
    for path in [format!("manifests/{image}"), format!("blobs/{}", Digest::of(b"layer"))] {
        let request = format!("GET /v2/ann/dogs/{path}");
        assert_eq!(server.ask("ann/dogs", &request).await.0, 200, "{path}");
    }
    server.admin.remove_repository(&"ann/dogs".parse().unwrap()).await.unwrap();
    assert_eq!(collect(&server, None).await.blobs, 3, "no record is left to wait for");
    assert_eq!(files(server.dir.path()), 0);
    drop(server.close().await);
}

/// Without the grace time the manifest would be refused.
#[tokio::test]
async fn a_push_that_pauses_before_its_manifest_loses_nothing_to_a_collection() {
    let server = TestRegistry::open().await;
    server.push_blob("ann/cats", b"{}").await;
    server.push_blob("ann/cats", b"layer").await;
    for _ in 0..3 {
        assert_eq!(collect(&server, None).await.waiting, 2);
    }
    server.push_image("ann/cats", "v1", &[b"{}", b"layer"]).await;
    assert_eq!(collect(&server, None).await, Collected::default());
    drop(server.close().await);
}

#[tokio::test]
async fn the_registry_collects_by_itself() {
    let server = TestRegistry::open_with(|config| {
        config.limits.collect_interval = Duration::from_millis(20);
        config.limits.collect_grace = Duration::from_millis(20);
    })
    .await;
    server.push_blob("ann/cats", b"spare").await;
    let collected = async {
        while files(server.dir.path()) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), collected).await.expect("it is collected");
    drop(server.close().await);
}

/// A client that pushes as Docker does: what is said to be there is not sent.
struct Pusher {
    server: Arc<TestRegistry>,
    number: u32,
}

impl Pusher {
    async fn send(&self, repository: &str, request: &str, bytes: Vec<u8>) -> TestResponse {
        let bearer = format!(
            "Bearer {}",
            self.server.tokens.mint(
                "test",
                &["ann/a", "ann/b", "ann/c"].map(|name| {
                    let all = [crate::Action::Pull, crate::Action::Push, crate::Action::Delete];
                    (name.parse().unwrap(), all.to_vec())
                }),
                Duration::from_secs(60),
            )
        );
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let headers = [("authorization", bearer.as_str()), ("content-type", media_type)];
        let (method, path) = request.split_once(' ').unwrap();
        self.server.request(&format!("{method} /v2/{repository}/{path}"), &headers, bytes).await
    }

    async fn push_blob(&self, repository: &str, from: &str, bytes: &[u8]) {
        let digest = Digest::of(bytes);
        if self.send(repository, &format!("HEAD blobs/{digest}"), vec![]).await.status == 200 {
            return;
        }
        let mount = format!("POST blobs/uploads/?mount={digest}&from={from}");
        let mounted = self.send(repository, &mount, vec![]).await;
        if mounted.status == 202 {
            let upload = mounted.header("location").rsplit_once('/').unwrap().1.to_owned();
            let finish = format!("PUT blobs/uploads/{upload}?digest={digest}");
            let pushed = self.send(repository, &finish, bytes.to_vec()).await;
            assert_eq!(pushed.status, 201, "{:?}", pushed.bytes);
        }
    }

    /// Every blob of an image that the registry has acknowledged.
    async fn check(&self, repository: &str, image: &Digest, blobs: &[&[u8]]) {
        let manifest = self.send(repository, &format!("GET manifests/{image}"), vec![]).await;
        assert_eq!(Digest::of(&manifest.bytes), *image);
        for blob in blobs {
            let request = format!("GET blobs/{}", Digest::of(blob));
            let answer = self.send(repository, &request, vec![]).await;
            assert_eq!((answer.status.as_u16(), &answer.bytes[..]), (200, *blob), "{repository}");
        }
    }

    /// Pushes an image of shared layers and deletes every second. Returns what stays.
    async fn run(self, rounds: u32) -> Vec<(&'static str, Digest, Vec<Vec<u8>>)> {
        let (mut kept, repositories) = (Vec::new(), ["ann/a", "ann/b", "ann/c"]);
        for round in 0..rounds {
            let pick = (self.number * 31 + round * 7) as usize;
            let (repository, from) = (repositories[pick % 3], repositories[(pick + 1) % 3]);
            let config = format!("{{\"of\":{},\"round\":{round}}}", self.number).into_bytes();
            let layers = [pick % 5, (pick / 2) % 5 + 5];
            let mut blobs = vec![config];
            blobs.extend(layers.iter().map(|layer| noise(*layer as u8, 2000 + layer)));
            let parts: Vec<&[u8]> = blobs.iter().map(Vec::as_slice).collect();
            for blob in &parts {
                self.push_blob(repository, from, blob).await;
            }
            let manifest = manifest_of(&parts);
            let request = format!("PUT manifests/v{}-{round}", self.number);
            let put = self.send(repository, &request, manifest.clone().into_bytes()).await;
            match put.status.as_u16() {
                // Without a grace time a blob can go before its manifest comes.
                400 => assert_eq!(put.code(), "MANIFEST_BLOB_UNKNOWN"),
                201 => {
                    let image = Digest::of(manifest.as_bytes());
                    self.check(repository, &image, &parts).await;
                    match round % 2 {
                        0 => kept.push((repository, image, blobs)),
                        _ => {
                            let request = format!("DELETE manifests/{image}");
                            let deleted = self.send(repository, &request, vec![]).await;
                            assert_eq!(deleted.status, 202);
                        }
                    }
                }
                status => panic!("{status}: {:?}", put.bytes),
            }
        }
        kept
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pushes_mounts_and_deletions_lose_nothing_to_collections_without_any_grace_time() {
    let server = Arc::new(TestRegistry::open().await);
    let done = Arc::new(AtomicBool::new(false));
    let collecting = tokio::spawn({
        let (server, done) = (server.clone(), done.clone());
        async move {
            let (mut passes, mut blobs) = (0, 0);
            while !done.load(Ordering::SeqCst) {
                blobs += collect(&server, AT_ONCE).await.blobs;
                passes += 1;
            }
            (passes, blobs)
        }
    });
    let pushers: Vec<_> = (0..6)
        .map(|number| tokio::spawn(Pusher { server: server.clone(), number }.run(40)))
        .collect();
    let mut kept = Vec::new();
    for pusher in pushers {
        kept.extend(pusher.await.unwrap());
    }
    done.store(true, Ordering::SeqCst);
    let (passes, blobs) = collecting.await.unwrap();
    assert!(passes > 3 && blobs > 0 && kept.len() > 5, "{passes}, {blobs}, {}", kept.len());
    collect(&server, AT_ONCE).await;
    let pusher = Pusher { server: server.clone(), number: 0 };
    for (repository, image, blobs) in &kept {
        let parts: Vec<&[u8]> = blobs.iter().map(Vec::as_slice).collect();
        pusher.check(repository, image, &parts).await;
    }
    for name in ["ann/a", "ann/b", "ann/c"] {
        server.admin.remove_repository(&name.parse().unwrap()).await.unwrap();
    }
    collect(&server, AT_ONCE).await;
    assert_eq!(files(server.dir.path()), 0, "all space comes back");
}
