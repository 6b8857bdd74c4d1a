use ::audit::{Record, entries, verify};

use super::fixture::{PASSWORD, TestRegistry};
use crate::{Repositories, RobotScope};

#[tokio::test]
async fn every_pull_push_and_login_is_in_the_audit_log_and_no_secret_is() {
    let server = TestRegistry::open().await;
    let blob = server.push_blob("ann/cats", b"x").await;
    let (ann, ci) = ("ann".parse().unwrap(), "ci".parse().unwrap());
    let hour = std::time::Duration::from_secs(3600);
    let robot = server.admin.create_robot(&ann, &ci, RobotScope::Pull, &[], hour).await.unwrap();
    let encode = |text: &str| base64::Engine::encode(&base64::prelude::BASE64_STANDARD, text);
    let log_in = async |login: &str| {
        let basic = format!("Basic {}", encode(login));
        let scope = "GET /token?scope=repository:ann/cats:pull";
        server.request(scope, &[("authorization", &basic)], "").await
    };
    log_in("ann:a-canary-of-a-guess").await;
    let answer = log_in(&format!("ann+ci:{}", robot.secret)).await;
    let answer: serde_json::Value = serde_json::from_slice(&answer.bytes).unwrap();
    let token = answer["token"].as_str().unwrap().to_owned();
    let bearer = format!("Bearer {token}");
    let auth = [("authorization", bearer.as_str())];
    server.request(&format!("GET /v2/ann/cats/blobs/{blob}"), &auth, "").await;
    server.request("PUT /v2/ann/cats/manifests/v1", &auth, "a-canary-in-a-body").await;
    server.request("GET /v2/ann/cats/tags/list", &[], "").await;
    server.admin.remove_user(&ann, &Repositories::Keep).await.unwrap_err();
    let folder = server.dir.path().join("audit");
    let mut written: Vec<Record> = Vec::new();
    entries(&folder, |record| written.push(record)).unwrap();
    for (principal, address, action, object, status) in [
        ("machine/test", "127.0.0.1", "POST", "/v2/ann/cats/blobs/uploads/".to_owned(), 201),
        ("operator", "socket", "PUT", "/admin/users/ann".to_owned(), 204),
        ("operator", "socket", "PUT", "/admin/robots/ann+ci".to_owned(), 200),
        ("operator", "socket", "DELETE", "/admin/users/ann".to_owned(), 409),
        ("", "127.0.0.1", "GET", "/token/ann".to_owned(), 401),
        ("user/ann+ci", "127.0.0.1", "GET", "/token/ann+ci".to_owned(), 200),
        ("user/ann+ci", "127.0.0.1", "GET", format!("/v2/ann/cats/blobs/{blob}"), 200),
        ("user/ann+ci", "127.0.0.1", "PUT", "/v2/ann/cats/manifests/v1".to_owned(), 403),
        ("", "127.0.0.1", "GET", "/v2/ann/cats/tags/list".to_owned(), 401),
    ] {
        let found = written.iter().any(|record| {
            let event = &record.event;
            (event.principal.as_str(), event.address.as_str(), event.action.as_str())
                == (principal, address, action)
                && (event.object.as_str(), event.status) == (object.as_str(), status)
        });
        assert!(found, "{principal} {action} {object} {status}: {written:#?}");
    }
    assert!(verify(&folder, None).unwrap().is_ok());
    let text = std::fs::read_to_string(folder.join("audit-00000001.log")).unwrap();
    for secret in ["canary", PASSWORD, &robot.secret, &token] {
        assert!(!text.contains(secret), "{secret} is in the log");
    }
}
