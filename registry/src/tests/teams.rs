//! Organisations, teams and policies, as clients and operators see them.

use std::{collections::BTreeSet, time::Duration};

use http_body_util::BodyExt;
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use super::{
    deletion::manifest_of,
    fixture::{PASSWORD, TestRegistry},
};
use crate::{Existing, Repositories, RobotScope, Role, TeamChange};

const OCI: (&str, &str) = ("content-type", "application/vnd.oci.image.manifest.v1+json");
const SCOPE: &str = "repository:acme/app:pull,push,delete";

fn parsed<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

/// Lets `subject` do something in the repositories of a pattern.
async fn set(server: &TestRegistry, pattern: &str, subject: &str, roles: &[Role]) {
    let roles: BTreeSet<Role> = roles.iter().copied().collect();
    server.admin.set_policy(&parsed(pattern), &parsed(subject), &roles).await.unwrap();
}

async fn join(server: &TestRegistry, team: &str, user: &str) {
    let change = TeamChange { add: [parsed(user)].into(), ..TeamChange::default() };
    server.admin.change_team(&parsed(team), &change).await.unwrap();
}

async fn token(server: &TestRegistry, login: &str, scope: &str) -> String {
    server.log_in(login, PASSWORD, scope).await.1.unwrap()
}

async fn put(server: &TestRegistry, token: &str, tag: &str, layer: &[u8]) -> (u16, String) {
    let manifest = manifest_of(&[b"{}", layer]);
    let request = format!("PUT /v2/acme/app/manifests/{tag}");
    let answer = server.request(&request, &[("authorization", token), OCI], manifest).await;
    (answer.status.as_u16(), answer.code())
}

/// An organisation with the team `acme/dev`, which is bob, and two images.
async fn open() -> TestRegistry {
    let server = TestRegistry::open().await;
    server.admin.add_organisation(&parsed("acme")).await.unwrap();
    join(&server, "acme/dev", "bob").await;
    server.push_image("acme/app", "v1", &[b"{}", b"one"]).await;
    server.push_image("acme/app", "v2", &[b"{}", b"two"]).await;
    server.push_blob("acme/app", b"new").await;
    server
}

#[tokio::test]
async fn each_role_allows_its_requests_and_no_others() {
    let server = open().await;
    for (roles, read, upload, create, over, promote, add, delete) in [
        (&[Role::Pull][..], 200, 403, 403, 403, 403, 403, 403),
        (&[Role::Push], 200, 202, 201, 201, 201, 201, 403),
        (&[Role::TagCreate], 200, 202, 201, 403, 201, 403, 403),
        (&[Role::TagOverwrite], 200, 403, 403, 403, 201, 403, 403),
        (&[Role::Delete], 200, 403, 403, 403, 403, 403, 202),
        (&[Role::Admin], 200, 202, 201, 201, 201, 201, 202),
    ] {
        server.push_image("acme/app", "v1", &[b"{}", b"one"]).await;
        server.push_image("acme/app", "v2", &[b"{}", b"two"]).await;
        let manifest = spec::Digest::of(manifest_of(&[b"{}", b"new"]).as_bytes());
        let removed = server.admin.remove_manifest(&parsed("acme/app"), &manifest).await;
        drop(removed); // of the roles before
        set(&server, "acme/*", "acme/dev", roles).await;
        let bob = token(&server, "bob", SCOPE).await;
        let with = [("authorization", bob.as_str())];
        let answer = server.request("GET /v2/acme/app/manifests/v1", &with, "").await;
        assert_eq!(answer.status.as_u16(), read, "{roles:?} reads");
        let answer = server.request("POST /v2/acme/app/blobs/uploads/", &with, "").await;
        assert_eq!(answer.status.as_u16(), upload, "{roles:?} uploads");
        assert_eq!(put(&server, &bob, "new", b"new").await.0, create, "{roles:?} pushes a new tag");
        assert_eq!(put(&server, &bob, "v2", b"new").await.0, over, "{roles:?} pushes over a tag");
        drop(server.admin.remove_tag(&parsed("acme/app"), "prod").await);
        let (status, code) = put(&server, &bob, "prod", b"one").await;
        assert_eq!(status, promote, "{roles:?} tags what is there: {code}");
        server.push_image("acme/app", "prod", &[b"{}", b"two"]).await;
        let moved = put(&server, &bob, "prod", b"one").await.0;
        let may_move = roles[0] == Role::TagOverwrite || over == 201;
        assert_eq!(moved == 201, may_move, "{roles:?} moves a tag: {moved}");
        let by_digest = put(&server, &bob, &manifest.to_string(), b"new").await.0;
        assert_eq!(by_digest == 201, upload == 202, "{roles:?} adds a manifest: {add} {by_digest}");
        let answer = server.request("DELETE /v2/acme/app/manifests/v1", &with, "").await;
        assert_eq!(answer.status.as_u16(), delete, "{roles:?} deletes");
    }
    drop(server.close().await);
}

#[tokio::test]
async fn what_a_role_allowed_ends_with_the_team_the_policy_and_the_membership() {
    let server = open().await;
    let read = "GET /v2/acme/app/tags/list";
    let out = TeamChange { remove: [parsed("bob")].into(), ..TeamChange::default() };
    for end in ["member", "policy", "team", "organisation's policy for a robot"] {
        join(&server, "acme/dev", "bob").await;
        set(&server, "acme/*", "acme/dev", &[Role::Pull]).await;
        let bob = token(&server, "bob", SCOPE).await;
        let with = [("authorization", bob.as_str())];
        assert_eq!(server.request(read, &with, "").await.status.as_u16(), 200, "{end}");
        match end {
            "member" => drop(server.admin.change_team(&parsed("acme/dev"), &out).await.unwrap()),
            "team" => server.admin.remove_team(&parsed("acme/dev")).await.unwrap(),
            _ => {
                let policy = (parsed("acme/*"), parsed("acme/dev"));
                server.admin.remove_policy(&policy.0, &policy.1).await.unwrap();
            }
        }
        assert_eq!(server.request(read, &with, "").await.status.as_u16(), 403, "{end}");
        let listed = server.request("GET /v2/_catalog", &with, "").await;
        assert_eq!(listed.bytes, r#"{"repositories":[]}"#, "{end}");
    }
    // It holds after a restart as well, and a team that is made again has no policies.
    join(&server, "acme/dev", "bob").await;
    set(&server, "acme/app", "acme/dev", &[Role::Pull]).await;
    let server = TestRegistry::open_in(server.close().await, |_| ()).await;
    let bob = token(&server, "bob", SCOPE).await;
    let with = [("authorization", bob.as_str())];
    assert_eq!(server.request(read, &with, "").await.status.as_u16(), 200);
    server.admin.remove_team(&parsed("acme/dev")).await.unwrap();
    join(&server, "acme/dev", "bob").await;
    assert_eq!(server.request(read, &with, "").await.status.as_u16(), 403);
    drop(server.close().await);
}

#[tokio::test]
async fn a_download_by_a_role_breaks_off_when_the_role_ends() {
    let server = open().await;
    let blob = server.push_blob("acme/app", &vec![7; 32 << 20]).await;
    set(&server, "acme/app", "bob", &[Role::Pull]).await;
    let bob = token(&server, "bob", SCOPE).await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(driver);
    let get = Request::builder()
        .uri(format!("/v2/acme/app/blobs/{blob}"))
        .header("authorization", bob)
        .header("host", "x");
    let mut download = sender.send_request(get.body(String::new()).unwrap()).await.unwrap();
    download.body_mut().frame().await.unwrap().unwrap();
    // A change that is not about it does not end it.
    join(&server, "acme/dev", "ann").await;
    download.body_mut().frame().await.unwrap().unwrap();
    server.admin.remove_policy(&parsed("acme/app"), &parsed("bob")).await.unwrap();
    let rest = async {
        while let Some(frame) = download.body_mut().frame().await {
            if frame.is_err() {
                return true;
            }
        }
        false
    };
    assert!(timeout(Duration::from_secs(5), rest).await.expect("it ends"), "it broke off");
}

#[tokio::test]
async fn an_account_that_is_removed_leaves_its_teams_and_policies() {
    let server = open().await;
    set(&server, "acme/*", "acme/dev", &[Role::Push]).await;
    set(&server, "acme/app", "bob", &[Role::Admin]).await;
    set(&server, "bob/*", "ann", &[Role::Pull]).await;
    server.admin.remove_user(&parsed("bob"), &Repositories::Keep).await.unwrap();
    server.admin.put_user(&parsed("bob"), PASSWORD, Existing::New).await.unwrap();
    assert!(server.admin.teams().await.unwrap()[0].members.is_empty());
    let left = server.admin.policies().await.unwrap();
    assert_eq!(left.len(), 1, "{left:?}");
    // An organisation's repositories are handed over with what policies say of them.
    let refused = server.admin.remove_organisation(&parsed("acme"), &Repositories::Keep).await;
    assert!(refused.unwrap_err().to_string().contains("`acme` owns `acme/app`"));
    set(&server, "acme/app", "bob", &[Role::Pull]).await;
    let then = Repositories::TransferTo(parsed("ann"));
    server.admin.remove_organisation(&parsed("acme"), &then).await.unwrap();
    let left = server.admin.policies().await.unwrap();
    let left: Vec<_> =
        left.iter().map(|one| format!("{} {}", one.repositories, one.subject)).collect();
    assert_eq!(left, ["ann/app bob"]);
    assert!(server.admin.teams().await.unwrap().is_empty());
    assert!(server.admin.organisations().await.unwrap().is_empty());
    let bob = token(&server, "bob", "repository:ann/app:pull").await;
    let read = server.request("GET /v2/ann/app/tags/list", &[("authorization", &bob)], "").await;
    assert_eq!(read.status.as_u16(), 200);
    drop(server.close().await);
}

#[tokio::test]
async fn organisations_have_robots_and_names_of_their_own() {
    let server = open().await;
    let (acme, ci) = (parsed("acme"), parsed("ci"));
    let lifetime = Duration::from_secs(3600);
    let robot = server.admin.create_robot(&acme, &ci, RobotScope::Pull, &[], lifetime).await;
    let robot = robot.unwrap();
    let logged_in = server.log_in(&robot.login, &robot.secret, SCOPE).await.1.unwrap();
    let with = [("authorization", logged_in.as_str())];
    assert_eq!(server.request("GET /v2/acme/app/tags/list", &with, "").await.status, 200);
    let push = server.request("POST /v2/acme/app/blobs/uploads/", &with, "").await;
    assert_eq!(push.status, 403);
    for (made, want) in [
        (server.admin.put_user(&acme, PASSWORD, Existing::New).await, "there is an organisation"),
        (server.admin.put_user(&acme, PASSWORD, Existing::Any).await, "there is an organisation"),
        (server.admin.add_organisation(&acme).await, "there is an organisation `acme` already"),
        (server.admin.add_organisation(&parsed("ann")).await, "there is a user `ann` already"),
        (server.admin.remove_user(&acme, &Repositories::Keep).await, "there is no user `acme`"),
        (
            server.admin.remove_organisation(&parsed("ann"), &Repositories::Keep).await,
            "there is no organisation `ann`",
        ),
    ] {
        let error = made.unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
    assert_eq!(server.log_in("acme", PASSWORD, "").await.0, 401);
    drop(server.close().await);
}

#[tokio::test]
async fn a_name_without_an_account_works_where_a_policy_opens_it() {
    let server = open().await;
    let push = "POST /v2/base-1/blobs/uploads/";
    let scope = "repository:base-1:pull,push";
    let before = token(&server, "bob", scope).await;
    assert_eq!(server.request(push, &[("authorization", &before)], "").await.status, 403);
    set(&server, "base-*", "*", &[Role::Push]).await;
    let after = token(&server, "bob", scope).await;
    assert_eq!(server.request(push, &[("authorization", &after)], "").await.status, 202);
    let other = token(&server, "bob", "repository:other:pull,push").await;
    let with = [("authorization", other.as_str())];
    assert_eq!(server.request("POST /v2/other/blobs/uploads/", &with, "").await.status, 403);
    let anonymous = server.request("POST /v2/base-1/blobs/uploads/", &[], "").await;
    assert_eq!(anonymous.status, 401);
    drop(server.close().await);
}

#[tokio::test]
async fn a_node_pulls_for_a_tenant_what_that_user_may_read_and_no_longer() {
    let server = open().await;
    let pull = |repository: &str| [(parsed(repository), vec![crate::Action::Pull])];
    let mint = |tenant: &str, repository: &str| {
        let access = pull(repository);
        let lifetime = Duration::from_secs(60);
        format!("Bearer {}", server.tokens.mint_for("n1", &parsed(tenant), &access, lifetime))
    };
    let read = async |token: &str, repository: &str| {
        let request = format!("GET /v2/{repository}/tags/list");
        server.request(&request, &[("authorization", token)], "").await.status.as_u16()
    };
    server.push_image("ann/cats", "v1", &[b"{}", b"one"]).await;
    set(&server, "acme/*", "acme/dev", &[Role::Pull]).await;
    for (tenant, repository, want) in [
        ("ann", "ann/cats", 200),
        ("bob", "ann/cats", 403),
        ("bob", "acme/app", 200),
        ("ann", "acme/app", 403),
    ] {
        let token = mint(tenant, repository);
        assert_eq!(read(&token, repository).await, want, "{tenant} {repository}");
    }
    let token = mint("bob", "acme/app");
    assert_eq!(read(&token, "ann/cats").await, 403, "a repository that it is not for");
    let with = [("authorization", token.as_str())];
    assert_eq!(server.request("POST /v2/acme/app/blobs/uploads/", &with, "").await.status, 403);
    server.admin.remove_team(&parsed("acme/dev")).await.unwrap();
    assert_eq!(read(&token, "acme/app").await, 403);
    drop(server.close().await);
}
