//! The audit log of a platform: shown, filtered, and checked.

use std::fs;

use serde_json::Value;

use crate::{images::build, stage::Stage, up::Up};

#[test]
fn what_was_done_is_shown_filtered_and_checked() {
    let stage = Stage::new();
    let err = stage.margay(["audit"]).fails(1);
    assert!(err.contains("there is no audit log") && err.contains("margay up"), "{err}");
    let up = Up::start(&stage);
    stage.margay(["cluster", "create", "main"]).ok();
    stage.margay(["login", "-u", "me", &up.registry]).ok();
    build(&stage, "hello").ok();
    let image = format!("{}/me/hello:v1", up.registry);
    stage.margay(["tag", "hello", &image]).ok();
    stage.margay(["push", &image]).ok();
    let wrong = ["login", "-u", "eve", "--password-stdin", &up.registry];
    stage.margay_fed(wrong, "a canary\n").fails(1);

    let all = stage.margay(["audit"]).ok();
    for words in ["/v1/clusters/main", "user/me", "/v2/me/hello/manifests/v1", "/token/eve"] {
        assert!(all.contains(words), "{words}: {all}");
    }
    assert!(!all.contains("canary"), "{all}");
    let only = |flags: &[&str]| {
        let flags = [&["audit", "--output", "json"], flags].concat();
        let rows: Vec<Value> = serde_json::from_str(&stage.margay(flags).ok()).expect("JSON");
        rows
    };
    let refused = only(&["--refused", "--server", "registry", "--object", "/token/eve"]);
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!((&refused[0]["status"], &refused[0]["action"]), (&401.into(), &"GET".into()));
    assert!(only(&["--principal", "user/me"]).iter().all(|row| row["server"] == "registry"));
    assert!(only(&["--address", "socket"]).iter().all(|row| row["principal"] == "operator"));
    assert_eq!(only(&["-n", "2"]).len(), 2);
    assert!(only(&["--since", "1h"]).len() > 5);

    let checked = stage.margay(["audit", "verify"]).ok();
    let head = checked.split(' ').next().expect("a hash").to_owned();
    stage.margay(["audit", "verify", "--hash", &head]).ok();
    let err = stage.margay(["audit", "verify", "--hash", &"ab".repeat(32)]).fails(1);
    assert!(err.contains("no record has the hash"), "{err}");
    up.end();
    let file = stage.home().join("server/audit/audit-00000001.log");
    let text = fs::read_to_string(&file).expect("a log");
    fs::write(&file, text.replacen("/v1/clusters/main", "/v1/clusters/mine", 1)).expect("written");
    let err = stage.margay(["audit", "verify"]).fails(1);
    assert!(err.contains("is not whole: line ") && err.contains("audit-00000001.log"), "{err}");
    stage.is_empty();
}
