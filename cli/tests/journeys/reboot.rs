//! What comes back when the machine has started again: its processes are gone, and the name of its
//! boot is another.

use std::fs;

use serde_json::Value;

use crate::{
    stage::{Stage, eventually, samples, signal},
    up::{Up, page_is_served, running_tasks, serve_cats},
};

/// Kills all that works in this home, and has it believe that this was in another boot.
fn reboot(stage: &Stage) {
    eventually("nothing runs", || {
        let left = stage.processes();
        left.iter().for_each(|(pid, _)| signal(*pid, "KILL"));
        left.is_empty().then_some(())
    });
    for entry in fs::read_dir(stage.home().join("tasks")).expect("tasks").flatten() {
        let path = entry.path().join("status.json");
        let Ok(text) = fs::read(&path) else { continue };
        let mut status: Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!(status["boot"].as_str().map(str::len), Some(36), "{status}");
        status["boot"] = "00000000-0000-0000-0000-000000000000".into();
        fs::write(&path, status.to_string()).expect("a status");
    }
}

fn running(stage: &Stage) -> Vec<String> {
    let out = stage.margay(["ps", "--format", "{{.Names}}"]).ok();
    let mut names: Vec<String> = out.lines().map(str::to_owned).collect();
    names.sort();
    names
}

#[test]
fn a_reboot_brings_back_tasks_as_their_restart_policies_say() {
    let stage = Stage::new();
    let probe = samples().join("hostile/probe-cli.wasm").display().to_string();
    for (name, policy) in [
        ("always", "always"),
        ("always-stopped", "always"),
        ("unless", "unless-stopped"),
        ("unless-stopped", "unless-stopped"),
        ("unless-killed", "unless-stopped"),
        ("failing", "on-failure:3"),
        ("never", "no"),
    ] {
        let run = ["run", "-d", "--name", name, "--restart", policy, &probe, "sleep", "600000"];
        stage.margay(run).ok();
    }
    stage.margay(["stop", "-t", "0", "always-stopped", "unless-stopped"]).ok();
    stage.margay(["kill", "unless-killed"]).ok();
    assert_eq!(stage.margay(["start", "--after-reboot"]).ok(), "", "there was none");

    reboot(&stage);
    let names = "always\nalways-stopped\nunless\nfailing\n";
    assert_eq!(stage.margay(["start", "--after-reboot"]).ok(), names);
    let back = ["always", "always-stopped", "failing", "unless"];
    assert_eq!(running(&stage), back);
    assert_eq!(stage.margay(["start", "--after-reboot"]).ok(), "", "once");

    // One that cannot start is told of, and keeps none of the others from it.
    reboot(&stage);
    fs::remove_dir_all(stage.home().join("files")).expect("where the images of files are");
    let said = stage.margay(["start", "--after-reboot"]);
    assert_eq!(said.code, 1, "{said:?}");
    for name in back {
        let want = format!("task `{name}` did not start again after the reboot");
        assert!(said.err.contains(&want), "{name}: {}", said.err);
    }
    stage.margay(["start", "always", "--after-reboot"]).fails(2);
    for name in ["always", "always-stopped", "unless", "unless-stopped", "unless-killed"] {
        stage.margay(["rm", "-f", name]).ok();
    }
    stage.margay(["rm", "-f", "failing", "never"]).ok();
    stage.is_empty();
}

#[test]
fn after_a_reboot_a_platform_has_its_services_and_starts_tasks_of_run_again() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    serve_cats(&stage, &up, 2);
    eventually("two tasks run", || (running_tasks(&stage).len() == 2).then_some(()));
    let probe = samples().join("hostile/probe-cli.wasm").display().to_string();
    let run = ["run", "-d", "--name", "tom", "--restart", "always", &probe, "sleep", "600000"];
    stage.margay(run).ok();
    reboot(&stage);
    drop(up);

    let up = Up::start(&stage);
    eventually("the page is served", || page_is_served(&up));
    eventually("two tasks run", || (running_tasks(&stage).len() == 2).then_some(()));
    eventually("the task of `run` is back", || {
        running(&stage).contains(&"tom".to_owned()).then_some(())
    });
    let said = up.end();
    assert!(said.err.contains("Starting 1 task of before the reboot again"), "{}", said.err);
    assert_eq!(running(&stage), ["tom"], "it does not end with the platform");
    stage.margay(["rm", "-f", "tom"]).ok();
    stage.is_empty();
}
