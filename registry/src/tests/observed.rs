//! Metrics and the access log.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::Value;

use super::fixture::{PASSWORD, TestRegistry};
use crate::Switch;

/// The values of metrics by their names with labels.
fn values(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let values = lines.map(|line| {
        let (name, value) = line.rsplit_once(' ').expect(line);
        (name.trim_start_matches("margay_registry_").to_owned(), value.parse().expect(line))
    });
    values.collect()
}

/// The lines of the log, once there are `count`: a thread writes them.
async fn lines(folder: &Path, count: usize) -> Vec<Value> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let text = fs::read_to_string(folder.join("access/access.log")).unwrap_or_default();
        let lines: Vec<_> =
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        if lines.len() >= count {
            return lines;
        }
        assert!(Instant::now() < deadline, "{text}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn metrics_count_requests_repositories_and_what_accounts_have() {
    let server = TestRegistry::open().await;
    server.push_image("ann/cats", "v1", &[b"{}", b"layer"]).await;
    for _ in 0..3 {
        assert_eq!(server.ask("ann/cats", "GET /v2/ann/cats/manifests/v1").await.0, 200);
    }
    assert_eq!(server.ask("ann/cats", "GET /v2/ann/cats/manifests/none").await.0, 404);
    server.request("GET /v2/eve/nothing/tags/list", &[], "").await;
    server.request("GET /nonsense", &[], "").await;
    let text = server.admin.metrics().await.unwrap();
    let values = values(&text);
    for (name, want) in [
        (r#"requests_total{endpoint="manifest",code="200"}"#, 3.0),
        (r#"requests_total{endpoint="manifest",code="201"}"#, 1.0),
        (r#"requests_total{endpoint="manifest",code="404"}"#, 1.0),
        (r#"requests_total{endpoint="tags",code="401"}"#, 1.0),
        (r#"requests_total{endpoint="other",code="404"}"#, 1.0),
        (r#"request_seconds_count{endpoint="manifest"}"#, 5.0),
        (r#"pulls_total{repository="ann/cats"}"#, 3.0),
        (r#"pushes_total{repository="ann/cats"}"#, 1.0),
        (r#"account_tags{account="ann"}"#, 1.0),
        ("open_uploads", 0.0),
        ("damaged_blobs", 0.0),
        ("read_only", 0.0),
    ] {
        assert_eq!(values.get(name), Some(&want), "{name} in {text}");
    }
    assert!(values[r#"received_bytes_total{repository="ann/cats"}"#] > 7.0, "{text}");
    assert!(values[r#"sent_bytes_total{repository="ann/cats"}"#] > 3.0 * 100.0, "{text}");
    assert!(values[r#"account_bytes{account="ann"}"#] > 7.0);
    assert!(!text.contains("eve/nothing"), "a name that is not there");
    // Over the network they are for operators alone.
    let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("bob:{PASSWORD}")));
    let with = [("authorization", basic.as_str())];
    let read = "GET /v2/_margay/admin/metrics";
    assert_eq!(server.request(read, &[], "").await.status, 401);
    assert_eq!(server.request(read, &with, "").await.status, 403);
    server.admin.set_operator(&"bob".parse().unwrap(), true).await.unwrap();
    let answer = server.request(read, &with, "").await;
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    assert!(answer.bytes.starts_with(b"# HELP margay_registry_requests_total "));
    drop(server.close().await);
}

#[tokio::test]
async fn the_access_log_has_a_line_for_each_request_and_no_secret() {
    let server = TestRegistry::open().await;
    let blob = server.push_blob("ann/cats", &vec![7; 1 << 20]).await;
    assert!(!server.dir.path().join("access").exists(), "it is off");
    server.admin.set_switch(Switch::AccessLog, true).await.unwrap();
    let server = TestRegistry::open_in(server.close().await, |_| ()).await;
    let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("ann:{PASSWORD}")));
    let read = format!("GET /v2/ann/cats/blobs/{blob}");
    let with = [("authorization", basic.as_str()), ("user-agent", "a-client/1")];
    assert_eq!(server.request(&read, &with, "").await.status, 200);
    server.request("GET /token?scope=repository:ann/cats:pull&key=a-canary", &with, "").await;
    server.request("GET /v2/", &[], "").await;
    let lines = lines(server.dir.path(), 3).await;
    let (path, bytes) = (format!("/v2/ann/cats/blobs/{blob}"), 1 << 20);
    for (n, key, want) in [
        (0, "path", Value::from(path)),
        (0, "principal", Value::from("user/ann")),
        (0, "method", Value::from("GET")),
        (0, "status", Value::from(200)),
        (0, "sent", Value::from(bytes)),
        (0, "address", Value::from("127.0.0.1")),
        (0, "user_agent", Value::from("a-client/1")),
        (1, "path", Value::from("/token")),
        (2, "status", Value::from(401)),
        (2, "principal", Value::from("")),
    ] {
        assert_eq!(lines[n][key], want, "{key} of {}", lines[n]);
    }
    let path = server.dir.path().join("access/access.log");
    let text = fs::read_to_string(&path).unwrap();
    for secret in [PASSWORD, "canary", &basic] {
        assert!(!text.contains(secret), "{text}");
    }
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    server.admin.set_switch(Switch::AccessLog, false).await.unwrap();
    server.request("GET /v2/", &[], "").await;
    server.request("GET /v2/", &[], "").await;
    drop(server.close().await);
}
