//! Read-only mode and immutable tags.

use super::fixture::TestRegistry;
use crate::{Immutable, Repository};

#[tokio::test]
async fn a_read_only_registry_serves_and_changes_nothing_until_it_is_not() {
    let server = TestRegistry::open().await;
    let image = server.push_image("ann/cats", "v1", &[b"{}"]).await;
    server.admin.set_read_only(true).await.unwrap();
    let server = TestRegistry::open_in(server.close().await, |_| ()).await;
    assert!(server.admin.is_read_only().await.unwrap(), "also after a restart");
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
    server.admin.set_read_only(false).await.unwrap();
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
