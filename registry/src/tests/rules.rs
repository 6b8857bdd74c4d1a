//! Read-only mode and immutable tags.

use super::fixture::TestRegistry;
use crate::{Immutable, Repository, Switch};

#[tokio::test]
async fn a_read_only_registry_serves_and_changes_nothing_until_it_is_not() {
    let server = TestRegistry::open().await;
    let image = server.push_image("ann/cats", "v1", &[b"{}"]).await;
    server.admin.set_switch(Switch::ReadOnly, true).await.unwrap();
    let server = TestRegistry::open_in(server.close().await, |_| ()).await;
    assert!(server.admin.is_on(Switch::ReadOnly).await.unwrap(), "also after a restart");
    for (request, want) in [
        ("GET /v2/ann/cats/manifests/v1".to_owned(), 200),
        ("GET /v2/ann/cats/tags/list".to_owned(), 200),
        ("POST /v2/ann/cats/blobs/uploads/".to_owned(), 405),
        (format!("PUT /v2/ann/cats/manifests/{image}"), 405),
        ("DELETE /v2/ann/cats/manifests/v1".to_owned(), 405),
        (format!("DELETE /v2/ann/cats/manifests/{image}"), 405),
    ] {
        let (status, code) = server.ask("ann/cats", &request).await;
        assert_eq!(status, want, "{request}");
        assert!(status == 200 || code == "UNSUPPORTED", "{request}: {code}");
    }
    // A client without the right to push learns nothing of it.
    assert_eq!(server.request("POST /v2/ann/cats/blobs/uploads/", &[], "").await.status, 401);
    server.admin.set_switch(Switch::ReadOnly, false).await.unwrap();
    server.push_image("ann/cats", "v2", &[b"{}"]).await;
    drop(server.close().await);
}

#[tokio::test]
async fn an_immutable_tag_is_set_once_unless_it_is_excepted_or_deleted() {
    let server = TestRegistry::open().await;
    let cats: Repository = "ann/cats".parse().unwrap();
    let except = vec!["latest".to_owned(), "dev-*".to_owned()];
    server.admin.set_immutable(&cats, Some(Immutable { except })).await.unwrap();
    let one = server.push_image("ann/cats", "v1", &[b"{}", b"one"]).await;
    assert_eq!(server.push_image("ann/cats", "v1", &[b"{}", b"one"]).await, one, "the same again");
    server.push_blob("ann/cats", b"two").await;
    let put = async |server: &TestRegistry, repository: &str, tag: &str| {
        let bearer = format!("Bearer {}", server.token(repository));
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let headers = [("authorization", bearer.as_str()), ("content-type", media_type)];
        let manifest = super::deletion::manifest_of(&[b"{}", b"two"]);
        let request = format!("PUT /v2/{repository}/manifests/{tag}");
        let answer = server.request(&request, &headers, manifest).await;
        (answer.status.as_u16(), answer.code())
    };
    let server = TestRegistry::open_in(server.close().await, |_| ()).await;
    assert_eq!(put(&server, "ann/cats", "v1").await, (400, "TAG_INVALID".to_owned()));
    assert_eq!(server.admin.tags(&cats).await.unwrap()[0].digest, one);
    for tag in ["latest", "dev-1", "v2"] {
        server.push_image("ann/cats", tag, &[b"{}", b"one"]).await;
    }
    for (tag, want) in [("latest", 201), ("dev-1", 201), ("v2", 400)] {
        assert_eq!(put(&server, "ann/cats", tag).await.0, want, "{tag}");
    }
    assert_eq!(server.ask("ann/cats", "DELETE /v2/ann/cats/manifests/v2").await.0, 202);
    assert_eq!(put(&server, "ann/cats", "v2").await.0, 201, "a deleted tag is set anew");
    server.push_image("ann/dogs", "v1", &[b"{}", b"two", b"one"]).await;
    assert_eq!(put(&server, "ann/dogs", "v1").await.0, 201, "another repository has no rule");
    assert_eq!(server.admin.immutable().await.unwrap()[0].repository, "ann/cats");
    server.admin.set_immutable(&cats, None).await.unwrap();
    assert_eq!(put(&server, "ann/cats", "v1").await.0, 201);
    drop(server.close().await);
}

#[tokio::test]
async fn a_sparse_manifest_is_taken_where_the_operator_allows_it() {
    let server = TestRegistry::open().await;
    server.push_blob("ann/cats", b"{}").await;
    let bearer = format!("Bearer {}", server.token("ann/cats"));
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let headers = [("authorization", bearer.as_str()), ("content-type", media_type)];
    let manifest = super::deletion::manifest_of(&[b"{}", b"elsewhere"]);
    let put = async || {
        let answer = server.request("PUT /v2/ann/cats/manifests/v1", &headers, manifest.clone());
        let answer = answer.await;
        (answer.status.as_u16(), answer.code())
    };
    assert_eq!(put().await, (400, "MANIFEST_BLOB_UNKNOWN".to_owned()));
    server.admin.set_switch(Switch::Sparse, true).await.unwrap();
    assert_eq!(put().await.0, 201);
    assert_eq!(server.ask("ann/cats", "GET /v2/ann/cats/manifests/v1").await.0, 200);
    let missing = format!("GET /v2/ann/cats/blobs/{}", spec::Digest::of(b"elsewhere"));
    assert_eq!(server.ask("ann/cats", &missing).await.0, 404);
    // A later push of the blob makes the image whole, and a collection keeps it.
    server.push_blob("ann/cats", b"elsewhere").await;
    server.admin.collect(Some(std::time::Duration::ZERO), false).await.unwrap();
    assert_eq!(server.ask("ann/cats", &missing).await.0, 200);
    drop(server.close().await);
}

#[tokio::test]
async fn a_client_without_a_login_pushes_only_where_the_operator_allows_it() {
    let server = TestRegistry::open().await;
    let upload = format!("POST /v2/cats/blobs/uploads/?digest={}", spec::Digest::of(b"{}"));
    let requests = [
        ("GET /v2/", 401, 200),
        (&*upload, 401, 201),
        ("GET /v2/_catalog", 200, 200),
        ("DELETE /v2/cats/manifests/v1", 401, 404),
        ("DELETE /v2/_margay/machines/n1", 401, 401),
    ];
    for (request, closed, _) in &requests {
        assert_eq!(server.request(request, &[], "{}").await.status, *closed, "{request}");
    }
    server.admin.set_switch(Switch::AnonymousPush, true).await.unwrap();
    let server = TestRegistry::open_in(server.close().await, |_| ()).await;
    for (request, _, open) in &requests {
        assert_eq!(server.request(request, &[], "{}").await.status, *open, "{request}");
    }
    let listed = server.request("GET /v2/_catalog", &[], "").await;
    assert_eq!(&listed.bytes[..], br#"{"repositories":["cats"]}"#);
    server.admin.set_switch(Switch::AnonymousPush, false).await.unwrap();
    for (request, closed, _) in &requests {
        assert_eq!(server.request(request, &[], "{}").await.status, *closed, "{request}");
    }
    drop(server.close().await);
}
