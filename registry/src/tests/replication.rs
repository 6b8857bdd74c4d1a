//! What goes to other registries, and what does not.

use std::time::Duration;

use spec::{Digest, MediaType};
use tokio::time::timeout;

use super::fixture::{PASSWORD, TestRegistry, noise};
use crate::{
    DeliveryOutcome, Error, NewReplication, RegistryLogin, Replica, ReplicationInfo,
    ReplicationName, Repository,
};

fn named(text: &str) -> ReplicationName {
    text.parse().unwrap()
}

fn replication(to: &TestRegistry) -> NewReplication {
    let login = RegistryLogin { username: "bob".to_owned(), password: PASSWORD.to_owned() };
    NewReplication {
        url: format!("http://{}", to.address),
        repositories: "ann/*".parse().unwrap(),
        replica: Replica { to: Some("bob".to_owned()), deletions: false, login: Some(login) },
        private: true,
    }
}

impl TestRegistry {
    async fn replication(&self) -> ReplicationInfo {
        self.admin.replications().await.unwrap().remove(0)
    }

    /// Waits until nothing waits any more.
    async fn at_rest(&self) -> ReplicationInfo {
        let rest = async {
            loop {
                let one = self.replication().await;
                if one.waiting_since.is_none() && one.last.is_some() {
                    return one;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(60), rest).await.expect("it comes to rest")
    }

    async fn has(&self, repository: &str, target: &str) -> Option<Digest> {
        let bearer = format!("Bearer {}", self.token(repository));
        let headers = [("authorization", &*bearer)];
        let request = format!("GET /v2/{repository}/manifests/{target}");
        let answer = self.request(&request, &headers, "").await;
        (answer.status == 200).then(|| Digest::of(&answer.bytes))
    }
}

#[tokio::test]
async fn what_is_there_and_what_is_pushed_is_at_the_other_registry_with_its_referrers() {
    let (here, there) = (TestRegistry::open().await, TestRegistry::open().await);
    let layer = noise(1, 800_000);
    let before = here.push_image("ann/cats", "v1", &[b"{}", &layer]).await;
    here.push_image("bob/dogs", "v1", &[b"{}", b"dog"]).await;
    here.admin.create_replication(&named("ann/dr"), &replication(&there)).await.unwrap();
    let info = here.at_rest().await;
    assert_eq!(info.last.unwrap().outcome, DeliveryOutcome::Delivered);
    assert_eq!(there.has("bob/cats", "v1").await, Some(before));
    assert_eq!(there.has("bob/dogs", "v1").await, None, "bob's own are not ann's");
    let after = here.push_image("ann/cats", "v2", &[b"{}", &layer, b"more"]).await;
    let referrer = serde_json::json!({
        "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
        "artifactType": "application/vnd.example.sbom",
        "config": {"mediaType": MediaType::OCI_EMPTY, "digest": Digest::of(b"{}"), "size": 2},
        "layers": [],
        "subject": {"mediaType": MediaType::OCI_MANIFEST, "digest": after, "size": 1},
    });
    let referrer = referrer.to_string();
    let digest = Digest::of(referrer.as_bytes());
    here.push_manifest("ann/cats", &digest.to_string(), &referrer).await;
    here.at_rest().await;
    assert_eq!(there.has("bob/cats", "v2").await, Some(after));
    assert_eq!(there.has("bob/cats", &digest.to_string()).await, Some(digest));
    let bearer = format!("Bearer {}", there.token("bob/cats"));
    let path = format!("GET /v2/bob/cats/referrers/{after}");
    let list = there.request(&path, &[("authorization", &*bearer)], "").await;
    assert!(String::from_utf8_lossy(&list.bytes).contains(&digest.to_string()));
    // A deletion here is none there, unless that is wanted.
    let cats: Repository = "ann/cats".parse().unwrap();
    here.admin.remove_tag(&cats, "v1").await.unwrap();
    let mut wanted = replication(&there);
    wanted.replica.deletions = true;
    here.admin.create_replication(&named("ann/dr"), &wanted).await.unwrap();
    here.at_rest().await;
    assert_eq!(there.has("bob/cats", "v1").await, Some(before));
    here.admin.remove_tag(&cats, "v2").await.unwrap();
    here.at_rest().await;
    assert_eq!(there.has("bob/cats", "v2").await, None);
    assert_eq!(there.has("bob/cats", &after.to_string()).await, Some(after));
    here.push_image("ann/fish", "v1", &[b"{}", b"fish"]).await;
    here.at_rest().await;
    here.admin.remove_repository(&"ann/fish".parse().unwrap()).await.unwrap();
    here.at_rest().await;
    assert_eq!(there.has("bob/fish", "v1").await, None);
    here.close().await;
    there.close().await;
}

#[tokio::test]
async fn a_change_waits_for_a_registry_that_is_gone_also_in_another_process() {
    let (here, there) = (TestRegistry::open().await, TestRegistry::open().await);
    here.admin.create_replication(&named("ann/dr"), &replication(&there)).await.unwrap();
    here.at_rest().await;
    let (address, dir) = (there.address, there.close().await);
    let image = here.push_image("ann/cats", "v1", &[b"{}", &noise(2, 100_000)]).await;
    let failed = async {
        loop {
            let one = here.replication().await;
            if one.last.as_ref().is_some_and(|last| last.outcome == DeliveryOutcome::Failed) {
                return one;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let one = timeout(Duration::from_secs(60), failed).await.unwrap();
    assert!(one.pending >= 1 && one.waiting_since.is_some(), "{one:?}");
    let error = one.last.unwrap().error.unwrap();
    assert!(error.contains("cannot reach"), "{error}");
    let here = TestRegistry::open_in(here.close().await, |_| ()).await;
    // At another address, which only its definition knows.
    let there = TestRegistry::open_in(dir, |_| ()).await;
    assert_ne!(there.address, address);
    here.admin.create_replication(&named("ann/dr"), &replication(&there)).await.unwrap();
    here.at_rest().await;
    assert_eq!(there.has("bob/cats", "v1").await, Some(image));
    here.close().await;
    there.close().await;
}

#[tokio::test]
async fn two_registries_that_replicate_to_each_other_come_to_rest() {
    let (one, two) = (TestRegistry::open().await, TestRegistry::open().await);
    for (from, to) in [(&one, &two), (&two, &one)] {
        let login = RegistryLogin { username: "ann".to_owned(), password: PASSWORD.to_owned() };
        let replica = Replica { to: None, deletions: true, login: Some(login) };
        let wanted = NewReplication { replica, ..replication(to) };
        from.admin.create_replication(&named("ann/peer"), &wanted).await.unwrap();
    }
    let image = one.push_image("ann/cats", "v1", &[b"{}", b"cat"]).await;
    let other = two.push_image("ann/dogs", "v1", &[b"{}", b"dog"]).await;
    for _ in 0..3 {
        one.at_rest().await;
        two.at_rest().await;
    }
    assert_eq!(two.has("ann/cats", "v1").await, Some(image));
    assert_eq!(one.has("ann/dogs", "v1").await, Some(other));
    let before = (one.replication().await.last, two.replication().await.last);
    one.at_rest().await;
    assert_eq!((one.replication().await.last, two.replication().await.last), before);
    one.close().await;
    two.close().await;
}

#[tokio::test]
async fn a_replication_sends_what_its_repository_has_and_nothing_of_others() {
    let (here, there) = (TestRegistry::open().await, TestRegistry::open().await);
    let secret = here.push_image("bob/private", "v1", &[b"{}", b"a secret of bob"]).await;
    here.admin.create_replication(&named("ann/dr"), &replication(&there)).await.unwrap();
    // An index may name a manifest that its repository lacks.
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX,
        "manifests": [{"mediaType": MediaType::OCI_MANIFEST, "digest": secret, "size": 200}],
    });
    let index = index.to_string();
    let bearer = format!("Bearer {}", here.token("ann/spy"));
    let headers = [("authorization", &*bearer), ("content-type", MediaType::OCI_INDEX)];
    let put = here.request("PUT /v2/ann/spy/manifests/v1", &headers, index.clone()).await;
    assert_eq!(put.status, 201, "{:?}", put.bytes);
    here.at_rest().await;
    assert_eq!(there.has("bob/spy", "v1").await, Some(Digest::of(index.as_bytes())));
    assert_eq!(there.has("bob/spy", &secret.to_string()).await, None);
    let bearer = format!("Bearer {}", there.token("bob/spy"));
    let blob = Digest::of(b"a secret of bob");
    let path = format!("GET /v2/bob/spy/blobs/{blob}");
    assert_eq!(there.request(&path, &[("authorization", &*bearer)], "").await.status, 404);
    here.close().await;
    there.close().await;
}

#[tokio::test]
async fn a_replication_is_of_its_account_and_reaches_no_internal_address() {
    let here = TestRegistry::open().await;
    let url = |url: &str, private| NewReplication {
        url: url.to_owned(),
        repositories: "ann/*".parse().unwrap(),
        replica: Replica::default(),
        private,
    };
    for (name, change, want) in [
        ("none/dr", url("https://example.com", false), "no user"),
        ("bob/dr", url("https://example.com", false), "is about repositories of it, as in bob/*"),
        ("ann/dr", url("https://example.com/path", false), "is not the URL of a registry"),
        ("ann/dr", url("http://example.com", false), "plain HTTP"),
        (
            "ann/dr",
            NewReplication {
                replica: Replica { to: Some("A/..".to_owned()), ..Replica::default() },
                ..url("https://example.com", false)
            },
            "is not the start of the name",
        ),
    ] {
        let refused = here.admin.create_replication(&named(name), &change).await.unwrap_err();
        assert!(refused.to_string().contains(want), "{name} {}: {refused}", change.url);
    }
    here.push_image("ann/cats", "v1", &[b"{}", b"cat"]).await;
    let inside = url("https://127.0.0.1:1", false);
    here.admin.create_replication(&named("ann/dr"), &inside).await.unwrap();
    let tried = async {
        loop {
            if let Some(last) = here.replication().await.last {
                return last;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let last = timeout(Duration::from_secs(60), tried).await.unwrap();
    assert!(last.error.unwrap().contains("internal address"));
    let listed = serde_json::to_string(&here.replication().await).unwrap();
    assert!(!listed.contains("password"), "{listed}");
    let metrics = here.admin.metrics().await.unwrap();
    assert!(metrics.contains("margay_registry_replication_pending{replication=\"ann/dr\"} 1"));
    let Err(Error::Admin { message }) = here.admin.test_webhook(&named("ann/dr")).await else {
        panic!("a replication is no webhook")
    };
    assert!(message.contains("there is no webhook"), "{message}");
    here.admin.remove_replication(&named("ann/dr")).await.unwrap();
    assert_eq!(here.admin.replications().await.unwrap(), []);
    here.close().await;
}
