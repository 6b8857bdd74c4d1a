//! Passwords with each request, and administration over the network.

use std::{num::NonZeroU32, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures_util::future::join_all;

use super::fixture::{PASSWORD, TestRegistry};
use crate::{
    Admin, Auth, ClientOptions, Error, Existing, RateLimits, Repositories, RobotScope, Role,
    Switch, TeamChange, Visibility,
};

fn basic(login: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{login}:{password}")))
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

async fn status(server: &TestRegistry, request: &str, authorization: &str) -> u16 {
    server.request(request, &[("authorization", authorization)], "").await.status.as_u16()
}

fn remote(server: &TestRegistry, user: &str, password: &str) -> Admin {
    let (registry, mut options) = (server.address.to_string(), ClientOptions::default());
    let auth = Auth::Password { user: user.to_owned(), password: password.to_owned() };
    options.auth.insert(registry.clone(), auth);
    Admin::remote(options, &registry)
}

#[tokio::test]
async fn a_password_with_each_request_has_the_rights_of_its_account_until_it_is_changed() {
    let server = TestRegistry::open().await;
    let blob = server.push_blob("ann/cats", b"cat").await;
    server.push_blob("ann/dogs", b"dog").await;
    let cats = [parsed("ann/cats")];
    let lifetime = Duration::from_secs(3600);
    let (user, robot) = (parsed("ann"), parsed("ci"));
    let made = server.admin.create_robot(&user, &robot, RobotScope::Pull, &cats, lifetime).await;
    let made = made.unwrap();
    let (ann, bob) = (basic("ann", PASSWORD), basic("bob", PASSWORD));
    let ci = basic(&made.login, &made.secret);
    for (request, of_ann, of_ci, of_bob) in [
        ("GET /v2/".to_owned(), 200, 200, 200),
        (format!("GET /v2/ann/cats/blobs/{blob}"), 200, 200, 403),
        ("GET /v2/ann/dogs/tags/list".to_owned(), 200, 403, 403),
        ("POST /v2/ann/cats/blobs/uploads/".to_owned(), 202, 403, 403),
        (format!("POST /v2/ann/new/blobs/uploads/?mount={blob}"), 201, 403, 403),
    ] {
        for (login, want) in [(&ann, of_ann), (&ci, of_ci), (&bob, of_bob)] {
            assert_eq!(status(&server, &request, login).await, want, "{request}");
        }
    }
    let listed = server.request("GET /v2/_catalog", &[("authorization", &ci)], "").await;
    assert_eq!(listed.bytes, r#"{"repositories":["ann/cats"]}"#);
    let wrong = server.request("GET /v2/", &[("authorization", &basic("ann", "wrong"))], "").await;
    assert_eq!(wrong.status, 401);
    assert!(wrong.header("www-authenticate").starts_with("Bearer "), "{:?}", wrong.headers);
    // What was right a moment ago is wrong from the moment that it is changed.
    server.admin.put_user(&user, "another password", Existing::Known).await.unwrap();
    assert_eq!(status(&server, "GET /v2/", &ann).await, 401);
    assert_eq!(status(&server, "GET /v2/", &basic("ann", "another password")).await, 200);
    server.admin.remove_robot(&user, &robot).await.unwrap();
    assert_eq!(status(&server, "GET /v2/", &ci).await, 401);
}

#[tokio::test]
async fn guesses_of_a_password_end_also_where_it_was_right_before() {
    let server = TestRegistry::open().await;
    assert_eq!(status(&server, "GET /v2/", &basic("ann", PASSWORD)).await, 200);
    for guess in 0..10 {
        let guess = basic("ann", &format!("guess {guess}"));
        assert_eq!(status(&server, "GET /v2/", &guess).await, 401);
    }
    let answer =
        server.request("GET /v2/", &[("authorization", &basic("ann", PASSWORD))], "").await;
    assert_eq!(answer.status, 429);
    assert!(answer.header("retry-after").parse::<u64>().is_ok());
}

#[tokio::test]
async fn where_clients_push_without_a_login_a_wrong_one_is_refused_still() {
    let server = TestRegistry::open().await;
    server.admin.set_switch(Switch::AnonymousPush, true).await.unwrap();
    assert_eq!(server.request("GET /v2/", &[], "").await.status, 200);
    assert_eq!(status(&server, "GET /v2/", &basic("ann", "wrong")).await, 401);
    let answer = server.request("GET /token?scope=repository:x/y:pull,push", &[], "").await;
    let body: serde_json::Value = serde_json::from_slice(&answer.bytes).unwrap();
    let anonymous = format!("Bearer {}", body["token"].as_str().unwrap());
    assert_eq!(status(&server, "GET /v2/", &anonymous).await, 200);
    assert_eq!(status(&server, "POST /v2/x/y/blobs/uploads/", &anonymous).await, 202);
    let push = server.request("POST /v2/x/y/blobs/uploads/", &[], "").await;
    assert_eq!(push.status, 202, "a client that sends nothing pushes as well");
}

#[tokio::test]
async fn an_operator_administers_from_anywhere_and_others_what_is_theirs() {
    let server = TestRegistry::open().await;
    for repository in ["ann/cats", "bob/dogs"] {
        server.push_blob(repository, b"x").await;
    }
    let (ann, bob) = (parsed("ann"), parsed("bob"));
    server.admin.set_operator(&bob, true).await.unwrap();
    let (as_ann, as_bob) = (remote(&server, "ann", PASSWORD), remote(&server, "bob", PASSWORD));
    // The operator.
    as_bob.put_user(&parsed("eve"), PASSWORD, Existing::New).await.unwrap();
    as_bob.add_organisation(&parsed("acme")).await.unwrap();
    let change = TeamChange { add: [parsed("ann")].into(), ..TeamChange::default() };
    as_bob.change_team(&parsed("acme/owners"), &change).await.unwrap();
    as_bob.set_switch(Switch::ReadOnly, true).await.unwrap();
    as_bob.set_switch(Switch::ReadOnly, false).await.unwrap();
    assert!(as_bob.collect(None, true).await.unwrap().dry_run);
    assert_eq!(as_bob.repositories().await.unwrap().len(), 2);
    assert_eq!(as_bob.operators().await.unwrap(), [parsed("bob")]);
    assert!(as_bob.take_snapshot().await.is_err(), "files of that machine");
    // A user, for her own repositories, and for those of which she has become an administrator.
    let admin = [Role::Admin].into();
    let forbidden = as_ann.set_policy(&parsed("acme/*"), &parsed("ann"), &admin).await;
    assert!(forbidden.unwrap_err().to_string().contains("`ann` may not administer `acme/*`"));
    as_bob.set_policy(&parsed("acme/*"), &parsed("acme/owners"), &admin).await.unwrap();
    as_ann.set_policy(&parsed("acme/*"), &parsed("eve"), &[Role::Pull].into()).await.unwrap();
    as_ann.set_policy(&parsed("ann/cats"), &parsed("eve"), &[Role::Pull].into()).await.unwrap();
    as_ann.set_visibility(&parsed("ann/cats"), Visibility::Public).await.unwrap();
    let lifetime = Duration::from_secs(3600);
    as_ann.create_robot(&ann, &parsed("ci"), RobotScope::Pull, &[], lifetime).await.unwrap();
    as_ann.change_team(&parsed("acme/dev"), &change).await.unwrap();
    let seen: Vec<_> =
        as_ann.repositories().await.unwrap().into_iter().map(|one| one.name).collect();
    assert_eq!(seen, ["ann/cats"]);
    assert_eq!(as_ann.policies().await.unwrap().len(), 3);
    assert_eq!(as_ann.robots().await.unwrap().len(), 1);
    assert_eq!(remote(&server, "eve", PASSWORD).robots().await.unwrap(), []);
    for (refused, what) in [
        (as_ann.users().await.map(drop), "users"),
        (as_ann.put_user(&parsed("mal"), PASSWORD, Existing::New).await, "a user"),
        (as_ann.put_user(&bob, "my own password", Existing::Known).await, "a password"),
        (as_ann.remove_user(&ann, &Repositories::Delete).await, "a user"),
        (as_ann.set_operator(&ann, true).await, "an operator"),
        (as_ann.remove_repository(&parsed("bob/dogs")).await, "a repository"),
        (as_ann.set_visibility(&parsed("bob/dogs"), Visibility::Public).await, "a repository"),
        (as_ann.set_switch(Switch::AnonymousPush, true).await, "a switch"),
        (as_ann.collect(None, false).await.map(drop), "a collection"),
        (as_ann.quotas().await.map(drop), "quotas"),
        (as_ann.set_rates(&RateLimits::default()).await.map(drop), "rates"),
        (as_ann.set_policy(&parsed("bob/*"), &parsed("ann"), &admin).await.map(drop), "a policy"),
        (remote(&server, "ann", "wrong").robots().await.map(drop), "a wrong password"),
    ] {
        assert!(refused.is_err(), "{what}");
    }
    // Neither a token nor a robot account administers, whatever its user may.
    let token = server.log_in("bob", PASSWORD, "").await.1.unwrap();
    assert_eq!(status(&server, "GET /v2/_margay/admin/users", &token).await, 403);
    let robot = as_bob.create_robot(&bob, &parsed("ci"), RobotScope::Push, &[], lifetime).await;
    let robot = robot.unwrap();
    let of_robot = basic(&robot.login, &robot.secret);
    assert_eq!(status(&server, "GET /v2/_margay/admin/users", &of_robot).await, 403);
    assert_eq!(server.request("GET /v2/_margay/admin/users", &[], "").await.status, 401);
    // It ends at once, and not by the name: the next user of it is no operator.
    server.admin.set_operator(&bob, false).await.unwrap();
    assert!(as_bob.users().await.is_err());
    server.admin.set_operator(&bob, true).await.unwrap();
    server.admin.remove_user(&bob, &Repositories::Delete).await.unwrap();
    server.admin.put_user(&bob, PASSWORD, Existing::New).await.unwrap();
    assert!(remote(&server, "bob", PASSWORD).users().await.is_err());
}

#[tokio::test]
async fn a_user_changes_their_own_password_and_needs_the_one_before() {
    let server = TestRegistry::open().await;
    let ann = parsed("ann");
    let admin = remote(&server, "ann", PASSWORD);
    let short = admin.put_user(&ann, "short", Existing::Known).await.unwrap_err();
    assert!(short.to_string().contains("a password has 8 to 256 bytes"), "{short}");
    admin.put_user(&ann, "another password", Existing::Known).await.unwrap();
    let again = admin.put_user(&ann, "a third password", Existing::Known).await.unwrap_err();
    assert!(matches!(again, Error::WrongPassword { .. }), "{again}");
    let admin = remote(&server, "ann", "another password");
    admin.put_user(&ann, PASSWORD, Existing::Known).await.unwrap();
}

#[tokio::test]
async fn a_client_that_sends_too_many_requests_is_told_when_to_come_again_and_ours_does() {
    let server = TestRegistry::open().await;
    server.push_image("ann/cats", "v1", &[b"{}", b"layer"]).await;
    let rates = RateLimits { login: NonZeroU32::new(2), address: NonZeroU32::new(1) };
    server.admin.set_rates(&rates).await.unwrap();
    let server = TestRegistry::open_in(server.close().await, |_| ()).await;
    assert_eq!(server.admin.rates().await.unwrap(), rates);
    let login = basic("ann", PASSWORD);
    let with = [("authorization", login.as_str())];
    let answers = join_all((0..60).map(|_| server.request("GET /v2/", &with, ""))).await;
    let (served, refused): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|answer| answer.status == 200);
    // Ten seconds ahead, and two that they were delayed.
    assert!((24..30).contains(&served.len()), "{}", served.len());
    for refused in refused {
        assert_eq!((refused.status.as_u16(), &*refused.code()), (429, "TOOMANYREQUESTS"));
        assert_eq!(refused.header("retry-after"), "1");
    }
    // Another login is not behind it, nor is the platform.
    assert_eq!(status(&server, "GET /v2/", &basic("bob", PASSWORD)).await, 200);
    server.push_blob("ann/cats", b"more").await;
    server.client("ann").resolve(&server.reference("ann/cats:v1")).await.unwrap();
    server.admin.set_rates(&RateLimits::default()).await.unwrap();
    for _ in 0..50 {
        assert_eq!(status(&server, "GET /v2/", &login).await, 200);
    }
}
