use std::{
    error::Error,
    net::SocketAddr,
    time::{Duration, Instant},
};

use http_body_util::{BodyExt, StreamBody};
use hyper::{
    Request,
    body::{Body, Frame},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use spec::Tenant;
use tokio::{net::TcpStream, time::timeout};

use super::fixture::{self, PASSWORD, TestRegistry};
use crate::{
    Action, Auth, Existing, Immutable, Quota, QuotaChange, Repositories, Repository,
    RetentionChange, RetentionRule, RobotScope,
};

const HOUR: Duration = Duration::from_secs(3600);

fn user(name: &str) -> Tenant {
    name.parse().unwrap()
}

fn repositories(names: &[&str]) -> Vec<Repository> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// What the registry has answered.
fn said(error: &crate::Error) -> String {
    error.to_string().trim_start_matches("the registry refused: ").to_owned()
}

/// A connection for requests with any body.
async fn connect<B>(address: SocketAddr) -> http1::SendRequest<B>
where
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(driver);
    sender
}

async fn status(server: &TestRegistry, request: &str, bearer: &str) -> u16 {
    server.request(request, &[("authorization", bearer)], "").await.status.as_u16()
}

#[tokio::test]
async fn a_robot_account_has_its_scope_within_the_rights_of_its_user() {
    let server = TestRegistry::open().await;
    for repository in ["ann/cats", "ann/dogs", "bob/fish"] {
        server.push_blob(repository, b"x").await;
    }
    let (ann, ci, all) = (user("ann"), "ci".parse().unwrap(), "all".parse().unwrap());
    let cats = repositories(&["ann/cats"]);
    let limited = server.admin.create_robot(&ann, &ci, RobotScope::Pull, &cats, HOUR).await;
    let limited = limited.unwrap();
    let pusher = server.admin.create_robot(&ann, &all, RobotScope::Push, &[], HOUR).await.unwrap();
    for (robot, repository, pull, push) in [
        (&limited, "ann/cats", 200, 403),
        (&limited, "ann/dogs", 403, 403),
        (&limited, "bob/fish", 403, 403),
        (&pusher, "ann/cats", 200, 202),
        (&pusher, "ann/dogs", 200, 202),
        (&pusher, "bob/fish", 403, 403),
    ] {
        let scope = format!("repository:{repository}:pull,push,delete&scope=repository:ann/*:pull");
        let (_, token) = server.log_in(&robot.login, &robot.secret, &scope).await;
        let (token, name) = (token.unwrap(), &robot.login);
        let read = status(&server, &format!("GET /v2/{repository}/tags/list"), &token).await;
        assert_eq!(read, pull, "{name} reads {repository}");
        let begun = format!("POST /v2/{repository}/blobs/uploads/");
        assert_eq!(status(&server, &begun, &token).await, push, "{name} pushes to {repository}");
    }
    let (_, token) = server.log_in(&limited.login, &limited.secret, "").await;
    let with = [("authorization", token.as_deref().unwrap())];
    let listed = server.request("GET /v2/_catalog", &with, "").await;
    assert_eq!(listed.bytes, r#"{"repositories":["ann/cats"]}"#);
    // Neither its user's password nor another robot's secret is its own, and none is shown again.
    for (login, password) in [
        ("ann+ci", PASSWORD),
        ("ann+ci", pusher.secret.as_str()),
        ("ann+none", limited.secret.as_str()),
        ("bob+ci", limited.secret.as_str()),
        ("ann", limited.secret.as_str()),
    ] {
        assert_eq!(server.log_in(login, password, "").await.0, 401, "{login}");
    }
    let shown = server.admin.robots().await.unwrap();
    assert!(shown.iter().all(|robot| robot.last_used.is_some()), "{shown:?}");
    for (robot, refused) in [
        (server.admin.create_robot(&ann, &ci, RobotScope::Pull, &[], HOUR).await, "already"),
        (server.admin.create_robot(&user("eve"), &ci, RobotScope::Pull, &[], HOUR).await, "`eve`"),
        (
            server
                .admin
                .create_robot(
                    &ann,
                    &"x".parse().unwrap(),
                    RobotScope::Pull,
                    &repositories(&["bob/fish"]),
                    HOUR,
                )
                .await,
            "`bob/fish` is not a repository of `ann`",
        ),
        (
            server
                .admin
                .create_robot(&ann, &"x".parse().unwrap(), RobotScope::Pull, &[], 9000 * HOUR)
                .await,
            "366 days",
        ),
    ] {
        let error = robot.err().unwrap().to_string();
        assert!(error.contains(refused), "{error}");
    }
}

#[tokio::test]
async fn a_changed_account_loses_its_tokens_at_once() {
    let server = TestRegistry::open().await;
    server.push_blob("ann/cats", b"x").await;
    let (ann, ci) = (user("ann"), "ci".parse().unwrap());
    let read = "GET /v2/ann/cats/tags/list";
    let scope = "repository:ann/cats:pull";
    let robot = server.admin.create_robot(&ann, &ci, RobotScope::Pull, &[], HOUR).await.unwrap();
    let robot_token = server.log_in(&robot.login, &robot.secret, scope).await.1.unwrap();
    let user_token = server.log_in("ann", PASSWORD, scope).await.1.unwrap();
    assert_eq!(status(&server, read, &robot_token).await, 200);
    let rotated = server.admin.rotate_robot(&ann, &ci).await.unwrap();
    assert_eq!(status(&server, read, &robot_token).await, 401);
    assert_eq!(server.log_in(&robot.login, &robot.secret, scope).await.0, 401);
    let robot_token = server.log_in(&robot.login, &rotated.secret, scope).await.1.unwrap();
    assert_eq!(status(&server, read, &user_token).await, 200);
    server.admin.put_user(&ann, "another horse", Existing::Known).await.unwrap();
    assert_eq!(status(&server, read, &user_token).await, 401);
    assert_eq!(status(&server, read, &robot_token).await, 200, "a robot has a secret of its own");
    server.admin.remove_robot(&ann, &ci).await.unwrap();
    assert_eq!(status(&server, read, &robot_token).await, 401);
    for (wanted, want) in [(Existing::New, "there is a user `ann` already"), (Existing::Any, "")] {
        let put = server.admin.put_user(&ann, PASSWORD, wanted).await;
        assert!(put.err().map_or(String::new(), |e| e.to_string()).contains(want));
    }
    let unknown = server.admin.put_user(&user("eve"), PASSWORD, Existing::Known).await;
    assert_eq!(said(&unknown.unwrap_err()), "there is no user `eve`");
}

#[tokio::test]
async fn what_a_removed_account_is_reading_or_writing_breaks_off() {
    let server = TestRegistry::open().await;
    let blob = server.push_blob("ann/cats", &vec![7; 32 << 20]).await;
    let (ann, ci) = (user("ann"), "ci".parse().unwrap());
    let robot = server.admin.create_robot(&ann, &ci, RobotScope::Push, &[], HOUR).await.unwrap();
    let scope = "repository:ann/cats:pull,push";
    let token = server.log_in(&robot.login, &robot.secret, scope).await.1.unwrap();
    let begun =
        server.request("POST /v2/ann/cats/blobs/uploads/", &[("authorization", &token)], "").await;
    let upload = begun.header("location").to_owned();
    let request = |method: &str, path: &str| {
        Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", &token)
            .header("host", "x")
    };
    // A download that is not read to its end, and an upload that never ends.
    let mut sender = connect(server.address).await;
    let get = request("GET", &format!("/v2/ann/cats/blobs/{blob}"));
    let mut download = sender.send_request(get.body(String::new()).unwrap()).await.unwrap();
    assert_eq!(download.status().as_u16(), 200);
    download.body_mut().frame().await.unwrap().unwrap();
    let pieces = futures_util::stream::unfold(0, |n| async move {
        tokio::time::sleep(Duration::from_millis(5)).await;
        Some((Ok::<_, std::io::Error>(Frame::data(bytes::Bytes::from_static(&[1; 1024]))), n + 1))
    });
    let mut sender = connect(server.address).await;
    let patch = request("PATCH", &upload).body(StreamBody::new(Box::pin(pieces))).unwrap();
    let uploading = tokio::spawn(async move { sender.send_request(patch).await });
    server.admin.remove_robot(&ann, &ci).await.unwrap();
    let rest = async {
        let mut bytes = 0;
        while let Some(frame) = download.body_mut().frame().await {
            let Ok(frame) = frame else { return (bytes, true) };
            bytes += frame.data_ref().map_or(0, bytes::Bytes::len);
        }
        (bytes, false)
    };
    let (bytes, broke_off) = timeout(Duration::from_secs(5), rest).await.expect("it ends");
    assert!(broke_off && bytes < 32 << 20, "{bytes} bytes, broke off: {broke_off}");
    let answer = timeout(Duration::from_secs(5), uploading).await.expect("it ends").unwrap();
    assert!(answer.is_err() || answer.unwrap().status().as_u16() == 401);
}

#[tokio::test]
async fn a_removed_node_pulls_no_more_and_one_that_joins_again_does() {
    let server = TestRegistry::open().await;
    server.push_blob("ann/cats", b"x").await;
    let mint = || {
        let access = [("ann/cats".parse().unwrap(), vec![Action::Pull])];
        format!("Bearer {}", server.tokens.mint("n1", &access, HOUR))
    };
    let (read, before) = ("GET /v2/ann/cats/tags/list", mint());
    assert_eq!(status(&server, read, &before).await, 200);
    // The control plane takes them back, and no other client.
    let (address, n1) = (server.address.to_string(), "n1".parse().unwrap());
    let others = [
        fixture::client(&address, Auth::Anonymous),
        server.client("ann"),
        fixture::client(&address, Auth::Token(server.token("ann/cats"))),
    ];
    for client in others {
        let error = client.revoke_machine(&address, &n1).await.unwrap_err();
        let refused =
            matches!(error, crate::Error::LoginNeeded { .. } | crate::Error::Denied { .. });
        assert!(refused, "{error}");
    }
    assert_eq!(status(&server, read, &before).await, 200);
    let token = server.tokens.mint_for_revocation(HOUR);
    let control_plane = fixture::client(&address, Auth::Token(token.clone()));
    control_plane.revoke_machine(&address, &n1).await.unwrap();
    assert_eq!(status(&server, read, &format!("Bearer {token}")).await, 403);
    assert_eq!(status(&server, read, &before).await, 401);
    // Tokens count seconds: one that is minted in the next holds.
    let deadline = Instant::now() + Duration::from_secs(5);
    while status(&server, read, &mint()).await != 200 {
        assert!(Instant::now() < deadline, "the name is refused for ever");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(status(&server, read, &before).await, 401);
}

#[tokio::test]
async fn the_next_holder_of_a_name_inherits_nothing() {
    let server = TestRegistry::open().await;
    let (ann, bob) = (user("ann"), user("bob"));
    let blob = server.push_blob("ann/cats", b"x").await;
    server.push_blob("bob/dogs", b"y").await;
    let scope = "repository:ann/cats:pull,push";
    let token = server.log_in("ann", PASSWORD, scope).await.1.unwrap();
    let begun =
        server.request("POST /v2/ann/cats/blobs/uploads/", &[("authorization", &token)], "").await;
    let upload = begun.header("location").to_owned();
    let ci = "ci".parse().unwrap();
    let robot = server.admin.create_robot(&ann, &ci, RobotScope::Push, &[], HOUR).await.unwrap();
    let refused = server.admin.remove_user(&ann, &Repositories::Keep).await.unwrap_err();
    assert!(said(&refused).starts_with("`ann` owns `ann/cats`: "), "{refused}");
    for (to, want) in [("eve", "there is no user `eve`"), ("ann", "`ann` is the account")] {
        let then = Repositories::TransferTo(user(to));
        let error = said(&server.admin.remove_user(&ann, &then).await.unwrap_err());
        assert!(error.starts_with(want), "{error}");
    }
    server.push_blob("bob/cats", b"z").await;
    let then = Repositories::TransferTo(bob.clone());
    let taken = server.admin.remove_user(&ann, &then).await.unwrap_err();
    assert_eq!(said(&taken), "there is a repository `bob/cats` already");
    assert_eq!(
        status(&server, "GET /v2/ann/cats/tags/list", &token).await,
        200,
        "all is as before"
    );
    server.admin.remove_user(&bob, &Repositories::Delete).await.unwrap();
    server.admin.put_user(&bob, PASSWORD, Existing::New).await.unwrap();
    let rule = RetentionRule { tags: "*".to_owned(), last: Some(9), ..RetentionRule::default() };
    let change = RetentionChange { rule: Some(rule), untagged_seconds: None };
    for name in ["ann", "ann/cats"] {
        server.admin.change_retention(name, &change).await.unwrap();
        let mut quota = QuotaChange::default();
        quota.set("tags=7").unwrap();
        server.admin.change_quota(name, &quota).await.unwrap();
    }
    server
        .admin
        .set_immutable(&"ann/cats".parse().unwrap(), Some(Immutable::default()))
        .await
        .unwrap();
    server.admin.remove_user(&ann, &then).await.unwrap();
    server.admin.put_user(&ann, PASSWORD, Existing::New).await.unwrap();
    // Rules of the repository went with it, those of the user are gone.
    let rules = server.admin.retentions().await.unwrap();
    assert_eq!(rules.iter().map(|info| &*info.name).collect::<Vec<_>>(), ["bob/cats"]);
    let immutable = server.admin.immutable().await.unwrap();
    assert_eq!(immutable.iter().map(|one| &*one.repository).collect::<Vec<_>>(), ["bob/cats"]);
    let quotas = server.admin.quotas().await.unwrap();
    let limited = quotas.iter().filter(|info| info.limits != Quota::default());
    assert_eq!(limited.map(|info| &*info.name).collect::<Vec<_>>(), ["bob/cats"]);
    // Her token, robot, upload and repository are of no use to the next of her name.
    assert_eq!(status(&server, "GET /v2/ann/cats/tags/list", &token).await, 401);
    assert_eq!(server.log_in(&robot.login, &robot.secret, "").await.0, 401);
    let next = server.log_in("ann", PASSWORD, scope).await.1.unwrap();
    assert_eq!(status(&server, &format!("GET {upload}"), &next).await, 404);
    assert_eq!(status(&server, &format!("GET /v2/ann/cats/blobs/{blob}"), &next).await, 404);
    let bobs = server.log_in("bob", PASSWORD, "repository:bob/cats:pull").await.1.unwrap();
    assert_eq!(status(&server, &format!("GET /v2/bob/cats/blobs/{blob}"), &bobs).await, 200);
    // Repositories that an earlier release left behind are not given away either.
    server.push_blob("old/cats", b"x").await;
    let error = server.admin.put_user(&user("old"), PASSWORD, Existing::New).await.unwrap_err();
    assert!(said(&error).starts_with("`old/cats` of an earlier user `old` are left"), "{error}");
    server.admin.remove_user(&user("old"), &Repositories::Delete).await.unwrap();
    server.admin.put_user(&user("old"), PASSWORD, Existing::New).await.unwrap();
}
