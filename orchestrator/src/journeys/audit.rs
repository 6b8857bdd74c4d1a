use std::path::Path;

use ::audit::{Record, entries, verify};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::fixture::{TestControlPlane, client, definition};
use crate::{CreateJoinToken, Credential, CredentialScope};

fn records(folder: &Path) -> Vec<Record> {
    let mut records = Vec::new();
    entries(folder, |record| records.push(record)).unwrap();
    records
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_action_is_in_the_audit_log_and_no_secret_is() {
    let mut plane = TestControlPlane::start().await;
    let folder = plane.folder.path().join("server/audit");
    let node = plane.node("n1").await;
    let canary = "a-canary-in-a-secret";
    let value = spec::SecretValue::new(canary.as_bytes().to_vec()).unwrap();
    plane.client.create_secret(&"key".parse().unwrap(), &value).await.unwrap();
    let credential = plane.credential_of("other", CredentialScope::Read).await;
    let name = credential.name.clone().unwrap();
    let access = plane.access_token(&credential).await;
    let wrong = Credential { secret: "a-canary-of-a-guess".to_owned(), ..credential.clone() };
    client(wrong).clusters().await.unwrap_err();
    let body = json!({ "name": "main", "x": canary }).to_string();
    plane.raw_tls("POST", "/v1/clusters", Some(&access), body.as_bytes()).await;
    plane.raw_tls("GET", "/v1/tasks?after=a-canary-in-a-query", Some(&access), b"").await;
    plane.raw_tls("GET", "/v1/tasks", Some("a-canary-as-a-token"), b"").await;
    plane.raw_tls("GET", "/v1/nothing", None, b"").await;
    plane.client.register(&definition("cats", "cats")).await.unwrap();
    for _ in 0..3 {
        node.clone().report().await;
        node.ask(Method::GET, "/v1/node/desired", &Value::Null).await;
        plane.client.health().await.unwrap();
    }
    node.ask(Method::GET, "/v1/tasks", &Value::Null).await;
    let joined = plane.client.create_join_token(CreateJoinToken::default()).await.unwrap();
    let written = records(&folder);
    let has = |principal: &str, action: &str, object: &str, status: u16, code: &str| {
        let found = written.iter().any(|record| {
            let event = &record.event;
            (event.principal.as_str(), event.action.as_str(), event.object.as_str())
                == (principal, action, object)
                && (event.status, event.code.as_str()) == (status, code)
        });
        assert!(found, "{principal} {action} {object} {status} {code}: {written:#?}");
    };
    let other = format!("tenant/other/{name}");
    has("operator", "POST", "/v1/secrets/key", 201, "");
    has("operator", "POST", &format!("/v1/credentials/{name}"), 201, "");
    has("operator", "POST", "/v1/task-definitions/cats:1", 201, "");
    has("", "POST", "/v1/access-tokens", 200, "");
    has("", "POST", &format!("/v1/access-tokens/other/{name}"), 401, "credential");
    has(&other, "POST", "/v1/clusters", 403, "forbidden");
    has(&other, "GET", "/v1/tasks", 200, "");
    has("", "GET", "/v1/tasks", 401, "unauthenticated");
    has("", "GET", "/v1/nothing", 404, "no-route");
    has("", "POST", "/v1/node/join", 201, "");
    has("node/n1", "GET", "/v1/tasks", 403, "forbidden");
    let sources = written.iter().map(|record| record.event.address.as_str());
    assert!(sources.clone().all(|from| ["socket", "127.0.0.1"].contains(&from)));
    assert!(sources.clone().any(|from| from == "127.0.0.1"));
    let routine = |record: &&Record| record.event.object.starts_with("/v1/node/desired");
    assert_eq!(written.iter().filter(routine).count(), 0, "heartbeats are left out");
    // The chain holds, over a restart as well.
    plane.restart().await;
    plane.client.clusters().await.unwrap();
    let verified = verify(&folder, None).unwrap().unwrap();
    assert!(verified.records > written.len() as u64 && verified.first == 1);
    let mut bytes = Vec::new();
    for file in std::fs::read_dir(&folder).unwrap() {
        bytes.extend(std::fs::read(file.unwrap().path()).unwrap());
    }
    let text = String::from_utf8(bytes).unwrap();
    for secret in ["canary", &credential.secret, &access, &joined.token] {
        assert!(!text.contains(secret), "{secret} is in the log");
    }
    let (status, _) = plane.raw_tls("GET", "/v1/tasks", Some(&access), b"").await;
    assert_eq!(status, StatusCode::OK);
}

/// A small file system, mounted until it is dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(bytes: usize) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={bytes},mode=700");
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path());
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        if !mounted {
            println!("SKIPPED: mounting a file system takes root");
        }
        mounted.then_some(Self(folder))
    }

    /// Takes what is left of it; the file of that.
    fn fill(&self) -> std::fs::File {
        let mut ballast = std::fs::File::create(self.0.path().join("ballast")).unwrap();
        let block = [0; 4096];
        while std::io::Write::write_all(&mut ballast, &block).is_ok() {}
        ballast
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_space_for_the_audit_log_changes_are_refused_and_reads_go_on() {
    let Some(disk) = SmallDisk::mount(3 << 20) else { return };
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("server")).unwrap();
    std::os::unix::fs::symlink(disk.0.path(), folder.path().join("server/audit")).unwrap();
    let plane = TestControlPlane::start_in(folder).await;
    let node = plane.node("n1").await;
    plane.client.create_cluster(&"main".parse().unwrap()).await.unwrap();
    let ballast = disk.fill();
    let mut refused = None;
    // Reads take what was reserved ahead.
    for round in 0..20_000 {
        plane.client.clusters().await.unwrap();
        if round % 250 == 0 {
            let name = format!("c{round}").parse().unwrap();
            if let Err(error) = plane.client.create_cluster(&name).await {
                refused = Some(error);
                break;
            }
        }
    }
    let refused = refused.expect("changes are refused");
    let fault = refused.fault().expect("a fault");
    assert_eq!(fault.code, "audit-full");
    assert!(fault.hint.is_some() && fault.message.contains("audit log"), "{fault:?}");
    for _ in 0..100 {
        plane.client.clusters().await.unwrap();
    }
    let desired = node.ask(Method::GET, "/v1/node/desired", &Value::Null).await;
    assert_eq!(desired.0, StatusCode::OK, "{desired:?}");
    node.clone().report().await;
    ballast.set_len(0).unwrap();
    plane.client.create_cluster(&"later".parse().unwrap()).await.unwrap();
    let log = plane.folder.path().join("server/audit");
    assert!(verify(&log, None).unwrap().is_ok(), "the chain holds");
}
