//! What accounts and repositories may have.

use std::{sync::Arc, time::Duration};

use spec::Digest;

use super::fixture::{TestRegistry, noise};
use crate::{Error, QuotaChange, QuotaResource};

impl TestRegistry {
    pub async fn limit(&self, name: &str, lines: &[&str]) {
        let mut change = QuotaChange::default();
        lines.iter().for_each(|line| change.set(line).unwrap());
        self.admin.change_quota(name, &change).await.unwrap();
    }

    async fn used(&self, name: &str, resource: QuotaResource) -> u64 {
        let all = self.admin.quotas().await.unwrap();
        let found = all.iter().find(|info| info.name == name);
        found.map_or(0, |info| info.used[&resource])
    }

    /// A push of a blob in one request: status and body.
    async fn try_blob(&self, repository: &str, bytes: &[u8]) -> (u16, String) {
        let bearer = format!("Bearer {}", self.token(repository));
        let digest = Digest::of(bytes);
        let request = format!("POST /v2/{repository}/blobs/uploads/?digest={digest}");
        let answer = self.request(&request, &[("authorization", &bearer)], bytes.to_vec()).await;
        (answer.status.as_u16(), String::from_utf8_lossy(&answer.bytes).into_owned())
    }
}

#[tokio::test]
async fn a_push_beyond_a_quota_is_refused_by_name_with_used_and_limit() {
    let server = TestRegistry::open().await;
    server.push_image("ann/cats", "v1", &[b"{}", &noise(1, 1000)]).await;
    let used = server.used("ann", QuotaResource::Bytes).await;
    server.limit("ann", &[&format!("bytes={}", used + 500), "repositories=2"]).await;
    server.limit("ann/cats", &["tags=2"]).await;
    let (status, body) = server.try_blob("ann/cats", &noise(2, 501)).await;
    let want = format!(
        "the quota of `ann` for bytes is exceeded: {used} of {} are used, and this takes 501",
        used + 500
    );
    assert!(status == 403 && body.contains(&want) && body.contains("DENIED"), "{status} {body}");
    assert_eq!(server.dir.path().join("uploads").read_dir().unwrap().count(), 0);
    let there = Digest::of(&noise(1, 1000));
    let mount = format!("POST /v2/ann/cats/blobs/uploads/?mount={there}&from=ann/cats");
    assert_eq!(server.ask("ann/cats", &mount).await.0, 201, "it is there already");
    assert_eq!(server.try_blob("ann/dogs", &noise(2, 400)).await.0, 201);
    let (status, body) = server.try_blob("ann/third", b"x").await;
    let want = "the quota of `ann` for repositories is exceeded: 2 of 2 are used";
    assert!(status == 403 && body.contains(want), "{status} {body}");
    assert_eq!(server.try_blob("bob/third", &noise(3, 5000)).await.0, 201);

    server.limit("ann", &["bytes=none"]).await;
    server.push_image("ann/cats", "v2", &[b"{}"]).await;
    server.push_image("ann/cats", "v2", &[b"{}", &noise(1, 1000)]).await;
    let digest = Digest::of(b"x");
    let request = format!("PUT /v2/ann/cats/manifests/v3?digest={digest}");
    assert_eq!(
        server.ask("ann/cats", &request).await.0,
        400,
        "a bad manifest says so before any quota"
    );
    let client = server.client("ann");
    let images = super::fixture::MemoryImages::default();
    let image = super::fixture::PutBlobs::image(&images, &[b"another"]);
    let (reference, source) = (server.reference("ann/cats:v3"), Arc::new(images));
    let pushed = client.push(&reference, &image, source, &crate::PushOptions::default()).await;
    let Err(error) = pushed else { panic!("the tag is one too many") };
    assert!(
        matches!(&error, Error::Denied { message, .. } if message.contains("2 of 2")),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("registry quota ls"));
    for (name, line, want) in [
        ("eve", "tags=1", "there is no user `eve`"),
        ("ann/cats", "repositories=1", "only an account has repositories"),
    ] {
        let mut change = QuotaChange::default();
        change.set(line).unwrap();
        let Err(Error::Admin { message }) = server.admin.change_quota(name, &change).await else {
            panic!("{name} {line}");
        };
        assert!(message.contains(want), "{message}");
    }
    // Quotas and counters are the same after a restart.
    let before = server.admin.quotas().await.unwrap();
    let server = TestRegistry::open_in(server.close().await, |_| ()).await;
    assert_eq!(server.admin.quotas().await.unwrap(), before);
    drop(server.close().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn counters_are_exact_after_parallel_pushes_deletions_and_collections() {
    let server = Arc::new(TestRegistry::open().await);
    server.limit("ann", &["bytes=20KiB"]).await;
    let pushers: Vec<_> = (0..8u8)
        .map(|lane| {
            let server = server.clone();
            tokio::spawn(async move {
                let repository = ["ann/a", "ann/b"][usize::from(lane % 2)];
                let mut pushed = 0;
                for n in 0..10 {
                    // Half of them are pushed by several at once.
                    let seed = if n % 2 == 0 { n } else { 100 + lane * 10 + n };
                    let (status, _) = server.try_blob(repository, &noise(seed, 512)).await;
                    pushed += u64::from(status == 201);
                }
                pushed
            })
        })
        .collect();
    let mut accepted = 0;
    for pusher in pushers {
        accepted += pusher.await.unwrap();
    }
    let used = server.used("ann", QuotaResource::Bytes).await;
    assert!(used <= 20 << 10 && used > 18 << 10 && accepted >= used / 512, "{used}, {accepted}");
    server.limit("ann", &["bytes=none"]).await;
    let image = server.push_image("ann/a", "v1", &[b"{}", &noise(0, 512)]).await;
    server.push_image("ann/a", "v2", &[b"{}", &noise(0, 512)]).await;
    server.ask("ann/b", &format!("DELETE /v2/ann/b/blobs/{}", Digest::of(&noise(0, 512)))).await;
    server.admin.remove_tag(&"ann/a".parse().unwrap(), "v1").await.unwrap();
    server.admin.collect(Some(Duration::ZERO), false).await.unwrap();
    let all = async |server: &TestRegistry| {
        let mut all = Vec::new();
        for resource in QuotaResource::ALL {
            all.push(server.used("ann", resource).await);
        }
        all
    };
    let counted = all(&server).await;
    let Some(server) = Arc::into_inner(server) else { panic!("no pusher is left") };
    let server = TestRegistry::open_in(server.close().await, |_| ()).await;
    assert_eq!(all(&server).await, counted, "as the records say");
    assert_eq!(counted[1..], [2, 1, 0]);

    server.admin.remove_manifest(&"ann/a".parse().unwrap(), &image).await.unwrap();
    let bob = crate::Repositories::TransferTo("bob".parse().unwrap());
    server.admin.remove_user(&"ann".parse().unwrap(), &bob).await.unwrap();
    assert_eq!(all(&server).await, [0, 0, 0, 0]);
    assert_eq!(server.used("bob", QuotaResource::Repositories).await, 2);
    for name in ["bob/a", "bob/b"] {
        server.admin.remove_repository(&name.parse().unwrap()).await.unwrap();
    }
    for resource in QuotaResource::ALL {
        assert_eq!(server.used("bob", resource).await, 0, "{resource}");
    }
    drop(server.close().await);
}

#[tokio::test]
async fn open_uploads_have_a_quota_and_are_listed_and_cancelled() {
    let server = TestRegistry::open().await;
    server.limit("ann/cats", &["uploads=2"]).await;
    let begin = "POST /v2/ann/cats/blobs/uploads/";
    assert_eq!(server.ask("ann/cats", begin).await.0, 202);
    assert_eq!(server.ask("ann/cats", begin).await.0, 202);
    assert_eq!(server.ask("ann/cats", begin).await, (429, "TOOMANYREQUESTS".to_owned()));
    assert_eq!(server.ask("ann/dogs", "POST /v2/ann/dogs/blobs/uploads/").await.0, 202);
    let open = server.admin.uploads().await.unwrap();
    assert_eq!(open.iter().filter(|upload| upload.repository == "ann/cats").count(), 2);
    assert_eq!(server.used("ann/cats", QuotaResource::Uploads).await, 2);
    server.admin.cancel_upload(&open[0].id).await.unwrap();
    assert!(server.admin.cancel_upload(&open[0].id).await.is_err());
    server.admin.cancel_upload(&open[1].id).await.unwrap();
    assert_eq!(server.ask("ann/cats", begin).await.0, 202);
    drop(server.close().await);
}
