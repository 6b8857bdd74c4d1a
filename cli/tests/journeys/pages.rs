//! Servers: a port, in the foreground and in the background.

use serde_json::Value;

use crate::{
    images::{build, build_cats},
    stage::{Stage, answering, eventually, get, samples},
};

/// The port on the host that `margay ps` shows for a task.
pub fn published(stage: &Stage, name: &str) -> Option<String> {
    let list: Value =
        serde_json::from_str(&stage.margay(["ps", "--output", "json"]).ok()).expect("JSON");
    let task = list.as_array()?.iter().find(|task| task["name"] == name)?;
    let port = task["ports"][0]["host_port"].as_u64()?;
    (task["state"] == "running").then(|| format!("127.0.0.1:{port}"))
}

#[test]
fn cats_are_served_on_a_port_and_stop_with_ctrl_c() {
    let stage = Stage::new();
    build_cats(&stage);
    let running = stage.start(["run", "-p", "0:80", "--name", "cats", "cats"]);
    let address = eventually("cats has a port", || published(&stage, "cats"));
    let page = eventually("cats answers", || get(&address, "localhost", "/"));
    assert_eq!(page.status, 200);
    assert!(String::from_utf8_lossy(&page.body).contains("<html"), "{page:?}");
    assert_eq!(get(&address, "localhost", "/no-such-cat").map(|answer| answer.status), Some(404));
    running.signal("INT");
    let said = running.end();
    assert!([0, 130, 143].contains(&said.code), "{said:?}");
    stage.is_empty();
}

#[test]
fn a_task_in_the_background_is_seen_followed_stopped_and_removed() {
    let stage = Stage::new();
    build_cats(&stage);
    let id =
        stage.margay(["run", "-d", "-p", "0:80", "--name", "cats", "cats"]).ok().trim().to_owned();
    assert_eq!(id.lines().count(), 1);
    let address = eventually("cats has a port", || published(&stage, "cats"));
    assert_eq!(get(&address, "localhost", "/").map(|answer| answer.status), Some(200));
    assert!(id.starts_with(stage.margay(["ps", "-q"]).ok().trim()), "{id}");
    let err = stage.margay(["rm", "cats"]).fails(1);
    assert_eq!(err, "error: task `cats` is running\nhint: stop it first: margay stop cats\n");
    assert_eq!(stage.margay(["stop", "cats"]).ok(), "cats\n");
    assert!(get(&address, "localhost", "/").is_none());
    assert_eq!(stage.margay(["rm", "cats"]).ok(), "cats\n");
    stage.is_empty();
}

#[test]
fn one_request_is_answered_by_a_worker_of_its_own_and_its_cost_is_told() {
    let stage = Stage::new();
    build_cats(&stage);
    let said = stage.margay(["invoke", "cats", "--path", "/"]);
    assert!(said.err.contains("200 in ") && said.err.contains("Cost: "), "{}", said.err);
    assert!(said.ok().contains("<html"));
    let record: Value = serde_json::from_str(
        &stage.margay(["invoke", "cats", "--path", "/none", "--output", "json"]).out,
    )
    .expect("JSON");
    assert_eq!((&record["status"], &record["usage"]["runs"]), (&404.into(), &1.into()), "{record}");
    for (path, want) in [
        ("cats", "a path begins with `/`"),
        ("/\u{fc} b", "`\u{fc}` cannot stand in a path"),
        ("/a b", "` ` cannot"),
    ] {
        let err = stage.margay(["invoke", "cats", "--path", path]).fails(2);
        assert!(err.contains(want), "{path}: {err}");
    }
    let err = stage.margay(["invoke", "../no-such-image"]).fails(1);
    assert!(err.starts_with("error: there is no file"), "{err}");
    stage.is_empty();
}

#[test]
fn a_port_that_is_taken_is_named() {
    let stage = Stage::new();
    build_cats(&stage);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let err = stage.margay(["run", "-p", &format!("{port}:80"), "cats"]).fails(125);
    assert!(
        err.contains(&format!("port {port}")) && err.contains("taken") && err.contains("hint: "),
        "{err}"
    );
    stage.is_empty();
}

#[test]
fn a_volume_outlives_its_task_and_an_app_without_one_says_so() {
    let stage = Stage::new();
    build(&stage, "adopt").ok();
    let serve = |arguments: &[&str]| {
        let flags = ["run", "-d", "--rm", "--name", "adopt", "-p", "0:80"];
        stage.margay(flags.iter().chain(arguments).chain(&["adopt"])).ok();
        eventually("adopt has a port", || published(&stage, "adopt"))
    };
    let address = serve(&["-v", "book:/data"]);
    assert_eq!(get(&address, "localhost", "/healthz").map(|answer| answer.status), Some(200));
    assert!(stage.home().join("volumes").exists());
    stage.margay(["rm", "-f", "adopt"]).ok();
    let address = serve(&["--allow", "env:MARGAY_TASK", "--allow", "env:MARGAY_IMAGE"]);
    let body = get(&address, "localhost", "/whoami").expect("an answer").body;
    let whoami: Value = serde_json::from_slice(&body).expect("JSON");
    assert!(
        whoami["task"].is_string()
            && whoami["image"].as_str().is_some_and(|i| i.starts_with("sha256:")),
        "{whoami}"
    );
    assert!(whoami["node"].is_null(), "{whoami}");
    stage.margay(["rm", "-f", "adopt"]).ok();
    let address = serve(&[]);
    assert_eq!(get(&address, "localhost", "/healthz").map(|answer| answer.status), Some(200));
    stage.margay(["rm", "-f", "adopt"]).ok();
    stage.is_empty();
}

#[test]
fn an_invocation_that_is_interrupted_leaves_nothing() {
    let stage = Stage::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let probe = samples().join("hostile/probe-http.wasm").display().to_string();
    let (grant, path) =
        (format!("net.out:http://{address};private"), format!("/fetch?url=http://{address}/"));
    for signal in ["INT", "TERM"] {
        let flags = ["--allow", &grant, "--private-network", "127.0.0.1"];
        let running = stage.start([&["invoke", "--path", &path][..], &flags, &[&probe]].concat());
        // The worker is in the middle of its request, and gets no answer to it.
        let (held, _) = listener.accept().expect("a call");
        running.signal(signal);
        let said = running.end();
        assert!(
            said.code == 1 && said.err.contains("did not answer: it was interrupted"),
            "{signal}: {said:?}"
        );
        assert_eq!(stage.margay(["ps", "-a", "-q"]).ok(), "", "{signal}");
        drop(held);
    }
    stage.is_empty();
}

#[test]
fn a_request_that_breaks_is_told_where_the_app_runs() {
    let stage = Stage::new();
    let probe = samples().join("hostile/probe-http.wasm").display().to_string();
    let running = stage.start(["run", "-p", "0:80", "--name", "probe", &probe]);
    let page = eventually("the probe has a port", || published(&stage, "probe"));
    assert_eq!(get(&page, "localhost", "/recurse").map(|answer| answer.status), Some(502));
    running.signal("INT");
    let said = running.end();
    let (fault, place) = ("margay: E_TRAP: wasm trap: call stack exhausted\n", " times more\n");
    assert!(said.err.contains(fault) && said.err.contains(place), "{}", said.err);
    stage.is_empty();
}

#[test]
fn an_internal_address_opens_with_both_keys() {
    let stage = Stage::new();
    let address = answering("inside");
    let probe = samples().join("hostile/probe-http.wasm").display().to_string();
    let (grant, private) =
        (format!("net.out:http://{address}"), format!("net.out:http://{address};private"));
    let path = format!("/fetch?url=http://{address}/");
    let ask =
        |flags: &[&str]| stage.margay([&["invoke", "--path", &path], flags, &[&probe]].concat());
    for keys in [
        &["--allow", &private][..],
        &["--allow", &grant, "--private-network", "127.0.0.1"],
        &["--allow", &private, "--private-network", "127.0.0.2"],
        &["--allow", &private, "--private-network", "10.0.0.0/8"],
    ] {
        let said = ask(keys);
        assert!(said.code == 1 && !said.out.contains("status 200"), "{keys:?}: {said:?}");
    }
    for network in ["127.0.0.1", "127.0.0.0/8"] {
        let out = ask(&["--allow", &private, "--private-network", network]).ok();
        assert!(out.contains("status 200, 6 bytes"), "{network}: {out}");
    }
    // `run` says which of the keys it takes is missing.
    let running =
        stage.start(["run", "-p", "0:80", "--name", "probe", "--allow", &private, &probe]);
    let page = eventually("the probe has a port", || published(&stage, "probe"));
    assert_eq!(get(&page, "localhost", &path).map(|answer| answer.status), Some(403));
    running.signal("INT");
    let said = running.end();
    let hint = "its network is not opened: --private-network 127.0.0.1\n";
    assert!(said.err.contains(hint) && !said.err.contains("--allow"), "{}", said.err);
    stage.is_empty();
}
