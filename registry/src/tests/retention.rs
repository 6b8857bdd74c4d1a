//! Retention rules.

use std::time::Duration;

use spec::{Digest, MediaType};

use super::fixture::TestRegistry;
use crate::{Error, Repository, Retained, RetentionChange, RetentionRule, Switch};

const AT_ONCE: Option<Duration> = Some(Duration::ZERO);

fn repository(name: &str) -> Repository {
    name.parse().unwrap()
}

impl TestRegistry {
    async fn set_rule(&self, name: &str, rule: RetentionRule) {
        let change = RetentionChange { rule: Some(rule), untagged_seconds: None };
        self.admin.change_retention(name, &change).await.unwrap();
    }

    async fn tags_of(&self, name: &str) -> Vec<String> {
        let tags = self.admin.tags(&repository(name)).await.unwrap();
        tags.into_iter().map(|tag| tag.tag).collect()
    }

    /// Pushes an index of manifests with a subject that may be absent.
    async fn push_index(
        &self,
        name: &str,
        tag: &str,
        children: &[Digest],
        subject: Option<Digest>,
    ) -> Digest {
        let link = |digest: &Digest| {
            serde_json::json!({
                "mediaType": MediaType::OCI_MANIFEST, "digest": digest, "size": 1
            })
        };
        let index = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MediaType::OCI_INDEX,
            "manifests": children.iter().map(link).collect::<Vec<_>>(),
            "subject": subject.as_ref().map(link),
        });
        self.push_manifest(name, tag, &index.to_string()).await
    }
}

fn last(tags: &str, last: u32) -> RetentionRule {
    RetentionRule { tags: tags.to_owned(), last: Some(last), ..RetentionRule::default() }
}

#[tokio::test]
async fn rules_delete_what_they_do_not_keep_and_a_dry_run_says_it_before() {
    let server = TestRegistry::open().await;
    for tag in ["v1", "v2", "v3", "dev-1"] {
        server.push_image("ann/cats", tag, &[b"{}", tag.as_bytes()]).await;
        server.push_image("ann/dogs", tag, &[b"{}", tag.as_bytes()]).await;
    }
    server.push_image("ann/cats", "latest", &[b"{}", b"v3"]).await;
    assert_eq!(server.admin.retain(None, AT_ONCE, false).await.unwrap(), Retained::default());
    server.set_rule("ann/cats", last("v*", 9)).await;
    server.set_rule("ann/cats", last("v*", 1)).await;
    let server = TestRegistry::open_in(server.close().await, |_| ()).await;
    assert_eq!(server.admin.retentions().await.unwrap()[0].retention.rules, [last("v*", 1)]);

    let waiting = server.admin.retain(None, None, false).await.unwrap();
    assert_eq!(waiting, Retained { waiting: 2, ..Retained::default() }, "the grace time");
    let dry = server.admin.retain(None, AT_ONCE, true).await.unwrap();
    assert_eq!((dry.tags, dry.manifests, dry.expired.len()), (2, 2, 4));
    assert_eq!(server.tags_of("ann/cats").await.len(), 5);
    let other = server.admin.retain(Some("bob"), AT_ONCE, false).await.unwrap();
    assert_eq!(other, Retained::default());
    let done = server.admin.retain(Some("ann"), AT_ONCE, false).await.unwrap();
    assert_eq!(done, Retained { dry_run: false, ..dry }, "what the dry run said");
    assert_eq!(server.tags_of("ann/cats").await, ["dev-1", "latest", "v3"]);
    assert_eq!(server.tags_of("ann/dogs").await.len(), 4, "it has no rules");
    let collected = server.admin.collect(AT_ONCE, false).await.unwrap();
    assert_eq!(collected.blobs, 0, "ann/dogs has them all");

    // Rules of the account, then of all; those of a repository come before them.
    server.set_rule("*", last("*", 1)).await;
    server.set_rule("ann", last("*", 2)).await;
    server.push_image("bob/cats", "v1", &[b"{}"]).await;
    server.push_image("bob/cats", "v2", &[b"{}", b"2"]).await;
    server.admin.retain(None, AT_ONCE, false).await.unwrap();
    assert_eq!(server.tags_of("ann/cats").await.len(), 3);
    assert_eq!(server.tags_of("ann/dogs").await.len(), 2);
    assert_eq!(server.tags_of("bob/cats").await, ["v2"]);
    server.admin.remove_retention("ann", Some("*"), false).await.unwrap();
    let error = server.admin.remove_retention("ann", None, false).await.unwrap_err();
    assert!(error.to_string().contains("`ann` has no such retention rule"), "{error}");
    drop(server.close().await);
}

#[tokio::test]
async fn an_index_goes_with_its_children_and_signatures_and_what_is_shared_stays() {
    let server = TestRegistry::open().await;
    let child = async |layer: &'static [u8]| {
        let digest = server.push_image("ann/cats", "child", &[b"{}", layer]).await;
        assert_eq!(server.ask("ann/cats", "DELETE /v2/ann/cats/manifests/child").await.0, 202);
        digest
    };
    let (one, shared, loose) = (child(b"1").await, child(b"2").await, child(b"3").await);
    let old = server.push_index("ann/cats", "v1", &[one, shared], None).await;
    let new = server.push_index("ann/cats", "v2", &[shared], None).await;
    let sbom = server.push_index("ann/cats", "sbom", &[], Some(old)).await;
    assert_eq!(server.ask("ann/cats", "DELETE /v2/ann/cats/manifests/sbom").await.0, 202);
    let tag = format!("sha256-{}.sig", old.hex());
    let signature = server.push_image("ann/cats", &tag, &[b"{}", b"signature"]).await;
    server.set_rule("ann/cats", last("*", 1)).await;
    let done = server.admin.retain(None, AT_ONCE, false).await.unwrap();
    assert_eq!((done.tags, done.manifests), (2, 4), "{done:?}");
    for (digest, want) in [
        (old, 404),
        (one, 404),
        (sbom, 404),
        (signature, 404),
        (new, 200),
        (shared, 200),
        (loose, 200),
    ] {
        let request = format!("GET /v2/ann/cats/manifests/{digest}");
        assert_eq!(server.ask("ann/cats", &request).await.0, want, "{digest}");
    }
    let change = RetentionChange { rule: None, untagged_seconds: Some(0) };
    server.admin.change_retention("ann/cats", &change).await.unwrap();
    let done = server.admin.retain(None, AT_ONCE, false).await.unwrap();
    assert_eq!((done.tags, done.manifests), (0, 1), "{done:?}");
    assert_eq!(done.expired[0].digest, loose);
    drop(server.close().await);
}

#[tokio::test]
async fn what_was_pulled_stays_also_after_a_restart_and_another_push() {
    let server = TestRegistry::open().await;
    for tag in ["v1", "v2"] {
        server.push_image("ann/cats", tag, &[b"{}", tag.as_bytes()]).await;
    }
    assert_eq!(server.ask("ann/cats", "HEAD /v2/ann/cats/manifests/v1").await.0, 200);
    let server = TestRegistry::open_in(server.close().await, |_| ()).await;
    server.push_image("ann/cats", "v1", &[b"{}", b"v1"]).await;
    let pulled = server.admin.manifests(&repository("ann/cats")).await.unwrap();
    let pulled = pulled.iter().filter(|manifest| manifest.pulled.is_some()).count();
    assert_eq!(pulled, 1);
    let rule = RetentionRule {
        tags: "*".to_owned(),
        pulled_within_seconds: Some(3600),
        ..RetentionRule::default()
    };
    server.set_rule("ann/cats", rule).await;
    let done = server.admin.retain(None, AT_ONCE, false).await.unwrap();
    assert_eq!((done.tags, done.manifests), (1, 1), "{done:?}");
    assert_eq!(server.tags_of("ann/cats").await, ["v1"]);
    drop(server.close().await);
}

#[tokio::test]
async fn the_registry_applies_the_rules_by_itself_and_records_it_but_not_while_it_is_read_only() {
    let server = TestRegistry::open_with(|config| {
        config.limits.retain_interval = Duration::from_millis(20);
        config.limits.retain_grace = Duration::ZERO;
    })
    .await;
    for tag in ["v1", "v2"] {
        server.push_image("ann/cats", tag, &[b"{}", tag.as_bytes()]).await;
    }
    server.admin.set_switch(Switch::ReadOnly, true).await.unwrap();
    server.set_rule("ann/cats", last("*", 1)).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(server.tags_of("ann/cats").await.len(), 2);
    server.admin.set_switch(Switch::ReadOnly, false).await.unwrap();
    let retained = async {
        while server.tags_of("ann/cats").await.len() > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), retained).await.expect("the rules are applied");
    let dir = server.close().await;
    let mut by_retention = Vec::new();
    let visit = |record: audit::Record| {
        if record.event.principal == "retention" {
            by_retention.push(record.event.object);
        }
    };
    audit::entries(&dir.path().join("audit"), visit).unwrap();
    assert_eq!(by_retention.len(), 1, "{by_retention:?}");
    assert!(by_retention[0].starts_with("/v2/ann/cats/manifests/sha256:"), "{by_retention:?}");
}

#[tokio::test]
async fn rules_for_names_that_are_none_and_rules_that_keep_nothing_are_refused() {
    let server = TestRegistry::open().await;
    for (name, rule, want) in [
        ("eve", last("*", 1), "there is no user `eve`"),
        ("eve/cats", last("*", 1), "there is no user `eve`"),
        ("Ann/cats", last("*", 1), "Ann"),
        ("ann/cats", last("*", 0), "a rule keeps at least the last 1"),
    ] {
        let change = RetentionChange { rule: Some(rule), untagged_seconds: None };
        let error = server.admin.change_retention(name, &change).await.unwrap_err();
        assert!(error.to_string().contains(want), "{name}: {error}");
    }
    for n in 0..32 {
        server.set_rule("ann", last(&format!("v{n}"), 1)).await;
    }
    let change = RetentionChange { rule: Some(last("*", 1)), untagged_seconds: None };
    let error = server.admin.change_retention("ann", &change).await.unwrap_err();
    assert!(error.to_string().contains("`ann` has at most 32 rules"), "{error}");
    for name in ["ann/none", "eve"] {
        let error = server.admin.retain(Some(name), None, true).await.unwrap_err();
        assert!(matches!(error, Error::Admin { .. }), "{error}");
    }
    drop(server.close().await);
}
