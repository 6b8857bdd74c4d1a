use std::time::Duration;

use super::fixture::{PASSWORD, TestRegistry};
use crate::{Action, Repositories, Visibility};

const SUBJECT: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

/// Every route of a repository, as a request that its owner could send.
fn routes(repository: &str, blob: &str, manifest: &str, upload: &str) -> Vec<String> {
    let v2 = format!("/v2/{repository}");
    vec![
        format!("GET {v2}/tags/list"),
        format!("GET {v2}/manifests/v1"),
        format!("HEAD {v2}/manifests/v1"),
        format!("GET {v2}/manifests/{manifest}"),
        format!("GET {v2}/blobs/{blob}"),
        format!("HEAD {v2}/blobs/{blob}"),
        format!("GET {v2}/referrers/{SUBJECT}"),
        format!("GET {v2}/blobs/uploads/{upload}"),
        format!("PATCH {v2}/blobs/uploads/{upload}"),
        format!("POST {v2}/blobs/uploads/"),
        format!("POST {v2}/blobs/uploads/?mount={blob}&from={repository}"),
        format!("PUT {v2}/manifests/v2"),
        format!("PUT {v2}/blobs/uploads/{upload}?digest={SUBJECT}"),
        format!("DELETE {v2}/blobs/uploads/{upload}"),
        format!("DELETE {v2}/manifests/v1"),
        format!("DELETE {v2}/blobs/{blob}"),
    ]
}

async fn token(server: &TestRegistry, user: &str, scope: &str) -> String {
    let (status, token) = server.log_in(user, PASSWORD, scope).await;
    assert_eq!(status, 200);
    token.unwrap()
}

#[tokio::test]
async fn every_route_requires_authorization_and_public_means_read_only() {
    let server = TestRegistry::open().await;
    let scope = "repository:ann/cats:pull,push,delete";
    let (ann, bob) = (token(&server, "ann", scope).await, token(&server, "bob", scope).await);
    let node = server.tokens.mint(
        "node",
        &[("ann/dogs".parse().unwrap(), vec![Action::Pull])],
        Duration::from_secs(60),
    );
    let node = format!("Bearer {node}");
    for public in [false, true] {
        let blob = server.push_blob("ann/cats", b"cat").await.to_string();
        let manifest =
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#;
        let digest = server.push_manifest("ann/cats", "v1", manifest).await.to_string();
        let begun = server
            .request("POST /v2/ann/cats/blobs/uploads/", &[("authorization", &ann)], "")
            .await;
        let upload = begun.header("location").rsplit('/').next().unwrap().to_owned();
        if public {
            server
                .admin
                .set_visibility(&"ann/cats".parse().unwrap(), Visibility::Public)
                .await
                .unwrap();
        }
        for route in routes("ann/cats", &blob, &digest, &upload) {
            let reads = !route.contains("uploads")
                && (route.starts_with("GET") || route.starts_with("HEAD"));
            let open = public && reads;
            for (client, header, closed) in [
                ("an unauthenticated client", None, 401),
                ("another user", Some(bob.as_str()), 403),
                ("a node with another task", Some(node.as_str()), 403),
                ("an invalid token", Some("Bearer a.b.c"), 401),
            ] {
                let with: Vec<_> = header.iter().map(|value| ("authorization", *value)).collect();
                let answer = server.request(&route, &with, "").await;
                let want = if open && client != "an invalid token" { 200 } else { closed };
                assert_eq!(answer.status.as_u16(), want, "{client}: {route}, public: {public}");
                assert_eq!(
                    answer.status == 401,
                    answer.headers.contains_key("www-authenticate"),
                    "{client}: {route}"
                );
            }
        }
        for route in routes("ann/cats", &blob, &digest, &upload) {
            let answer = server.request(&route, &[("authorization", &ann)], "").await;
            assert!(
                ![401, 403].contains(&answer.status.as_u16()),
                "the owner: {route} {}",
                answer.status
            );
        }
    }
}

#[tokio::test]
async fn private_content_is_indistinguishable_from_absent_content() {
    let server = TestRegistry::open().await;
    let blob = server.push_blob("ann/cats", b"cat").await;
    let absent = spec::Digest::of(b"no such blob");
    let bob = token(&server, "bob", "repository:bob/dogs:pull,push").await;
    for (there, not_there) in [
        (format!("GET /v2/ann/cats/blobs/{blob}"), format!("GET /v2/ann/nothing/blobs/{blob}")),
        ("GET /v2/ann/cats/tags/list".to_owned(), "GET /v2/ann/nothing/tags/list".to_owned()),
    ] {
        let (one, two) = (
            server.request(&there, &[("authorization", &bob)], "").await,
            server.request(&not_there, &[("authorization", &bob)], "").await,
        );
        assert_eq!(one.status, two.status);
        let text = |answer: &super::fixture::TestResponse| {
            String::from_utf8_lossy(&answer.bytes).replace("cats", "nothing")
        };
        assert_eq!(text(&one), text(&two));
    }
    // A digest grants no access: neither in a repository of the user, nor by a mount.
    for digest in [blob, absent] {
        let read = server
            .request(&format!("GET /v2/bob/dogs/blobs/{digest}"), &[("authorization", &bob)], "")
            .await;
        assert_eq!((read.status.as_u16(), read.code().as_str()), (404, "BLOB_UNKNOWN"));
        for query in [format!("mount={digest}&from=ann/cats"), format!("mount={digest}")] {
            let request = format!("POST /v2/bob/dogs/blobs/uploads/?{query}");
            let mount = server.request(&request, &[("authorization", &bob)], "").await;
            assert_eq!(mount.status.as_u16(), 202, "{query}");
        }
    }
}

#[tokio::test]
async fn a_token_allows_the_requested_scopes_within_the_rights_of_its_user() {
    let server = TestRegistry::open().await;
    server.push_blob("ann/cats", b"cat").await;
    let blob = server.push_blob("ann/dogs", b"dog").await;
    for (scope, cats, dogs) in [
        ("repository:ann/cats:pull", 200, 401),
        ("repository:ann/cats:pull%20repository:ann/dogs:pull", 200, 200),
        ("repository:ann/cats:pull&scope=repository:ann/dogs:*", 200, 200),
        ("repository:ann/*:pull", 401, 401),
        ("registry:catalog:*", 401, 401),
        ("nonsense", 401, 401),
        ("", 401, 401),
    ] {
        let ann = token(&server, "ann", scope).await;
        for (repository, want) in [("ann/cats", cats), ("ann/dogs", dogs)] {
            let answer = server
                .request(&format!("GET /v2/{repository}/tags/list"), &[("authorization", &ann)], "")
                .await;
            assert_eq!(answer.status.as_u16(), want, "{scope}: {repository}");
        }
    }
    // A push may mount blobs of the user's other repositories, if its token has that scope.
    for (scope, want) in
        [("", 202), ("&scope=repository:bob/*:pull", 202), ("&scope=repository:ann/*:pull", 201)]
    {
        let ann = token(&server, "ann", &format!("repository:ann/fish:push{scope}")).await;
        let request = format!("POST /v2/ann/fish/blobs/uploads/?mount={blob}");
        assert_eq!(
            server.request(&request, &[("authorization", &ann)], "").await.status.as_u16(),
            want,
            "{scope}"
        );
    }
}

#[tokio::test]
async fn a_token_covers_all_requested_scopes_or_is_not_issued() {
    let server = TestRegistry::open().await;
    let basic =
        base64::Engine::encode(&base64::prelude::BASE64_STANDARD, format!("ann:{PASSWORD}"));
    let basic = format!("Basic {basic}");
    let name = |n: usize, length: usize| format!("ann/{n:0>length$}");
    for (scopes, length, granted) in
        [(1, 30, true), (32, 251, true), (33, 30, false), (80, 30, false)]
    {
        let asked: Vec<_> = (0..scopes)
            .map(|n| format!("scope=repository:{}:pull,push,delete", name(n, length)))
            .collect();
        let answer = server
            .request(&format!("GET /token?{}", asked.join("&")), &[("authorization", &basic)], "")
            .await;
        let want = if granted { (200, "") } else { (400, "UNSUPPORTED") };
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), want, "{scopes} of {length}");
        if granted {
            let answer: serde_json::Value = serde_json::from_slice(&answer.bytes).unwrap();
            let bearer = format!("Bearer {}", answer["token"].as_str().unwrap());
            let last = format!("POST /v2/{}/blobs/uploads/", name(scopes - 1, length));
            let pushed = server.request(&last, &[("authorization", &bearer)], "").await;
            assert_eq!(pushed.status.as_u16(), 202, "{scopes} of {length}");
        }
    }
}

#[tokio::test]
async fn the_catalogue_lists_only_readable_repositories() {
    let server = TestRegistry::open().await;
    for repository in ["ann/cats", "ann/dogs", "bob/fish"] {
        server.push_blob(repository, b"x").await;
    }
    server.admin.set_visibility(&"ann/dogs".parse().unwrap(), Visibility::Public).await.unwrap();
    let (ann, bob) = (token(&server, "ann", "").await, token(&server, "bob", "").await);
    for (token, want) in [
        (Some(&ann), r#"{"repositories":["ann/cats","ann/dogs"]}"#),
        (Some(&bob), r#"{"repositories":["ann/dogs","bob/fish"]}"#),
        (None, r#"{"repositories":["ann/dogs"]}"#),
    ] {
        let with: Vec<_> = token.iter().map(|value| ("authorization", value.as_str())).collect();
        assert_eq!(server.request("GET /v2/_catalog", &with, "").await.bytes, want);
    }
    let page = server.request("GET /v2/_catalog?n=1", &[("authorization", &bob)], "").await;
    assert_eq!(page.header("link"), r#"</v2/_catalog?n=1&last=ann/dogs>; rel="next""#);
    for (query, want) in [
        ("n=2147483647", 200),
        ("n=99999999999999999999", 200),
        ("n=-1", 400),
        ("n=x", 400),
        ("last=%00", 400),
    ] {
        let answer = server
            .request(&format!("GET /v2/_catalog?{query}"), &[("authorization", &bob)], "")
            .await;
        assert_eq!(answer.status.as_u16(), want, "{query}");
    }
}

#[tokio::test]
async fn wrong_passwords_and_unknown_users_get_the_same_answer() {
    let server = TestRegistry::open().await;
    let encode = |text: &str| base64::Engine::encode(&base64::prelude::BASE64_STANDARD, text);
    let mut answers = Vec::new();
    for login in ["ann:wrong", "eve:wrong", "ANN:wrong", ":", "ann"] {
        let basic = format!("Basic {}", encode(login));
        let answer = server.request("GET /token", &[("authorization", &basic)], "").await;
        answers.push((answer.status.as_u16(), answer.bytes));
    }
    for answer in &answers {
        assert_eq!(answer, &answers[0]);
    }
    assert_eq!(answers[0].0, 401);
    let form =
        format!("grant_type=password&username=ann&password={}&scope=", PASSWORD.replace(' ', "+"));
    assert_eq!(server.request("POST /token", &[], form).await.status, 200);
    assert_eq!(server.request("POST /token", &[], "grant_type=refresh_token").await.status, 400);
    assert_eq!(server.request("POST /token", &[], vec![b'x'; 1 << 20]).await.status, 413);
    server.admin.remove_user(&"ann".parse().unwrap(), &Repositories::Keep).await.unwrap();
    let basic = format!("Basic {}", encode(&format!("ann:{PASSWORD}")));
    assert_eq!(server.request("GET /token", &[("authorization", &basic)], "").await.status, 401);
    assert_eq!(server.admin.users().await.unwrap(), ["bob".parse().unwrap()]);
}
