//! Node groups whose hook starts and ends real nodes on this machine.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::Value;

use crate::{
    stage::{Stage, eventually},
    up::{HOST, Up, page_is_served, serve_cats},
};

/// A machine is a folder with a node in it. With a file `broken` beside them nothing works.
const HOOK: &str = r#"#!/bin/sh
set -eu
folder=MACHINES/$MARGAY_NODE
if [ -e MACHINES/broken ]; then echo "the quota is used up" >&2; exit 3; fi
mkdir -p "$folder"
export MARGAY_HOME=$folder/home
case $MARGAY_HOOK in
add)
    read -r token
    printf '%s\n' "$token" | setsid MARGAY node join - >"$folder/log" 2>&1 &
    ;;
remove)
    pid=$(pgrep -f "^MARGAY node join -" | while read -r one; do
        tr '\0' '\n' <"/proc/$one/environ" | grep -qx "MARGAY_HOME=$MARGAY_HOME" && echo "$one"
    done) || true
    [ -z "$pid" ] || kill -TERM $pid
    ;;
esac
"#;

fn groups(stage: &Stage) -> Value {
    let list = stage.margay(["node-group", "ls", "--output", "json"]).ok();
    serde_json::from_str::<Value>(&list).expect("JSON")[0].clone()
}

fn machines(stage: &Stage) -> usize {
    groups(stage)["machines"].as_array().expect("a list").len()
}

#[test]
fn nodes_come_for_tasks_that_wait_and_go_when_nothing_is_left_on_them() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    let create = ["node-group", "create", "workers", "--hook", "exec:machines", "--max", "0"];
    let refused = stage.margay(create).fails(1);
    assert!(refused.contains("hook `exec:machines` is missing"), "{refused}");
    assert!(refused.contains("hint: put a program of mode 700 there"), "{refused}");
    let folder = stage.path("machines");
    fs::create_dir_all(&folder).expect("a folder");
    let script = HOOK.replace("MACHINES", folder.to_str().expect("UTF-8"));
    let script = script.replace(" MARGAY node", &format!(" {} node", env!("CARGO_BIN_EXE_margay")));
    let script = script.replace("^MARGAY node", &format!("^{} node", env!("CARGO_BIN_EXE_margay")));
    let hook = stage.write("home/hooks/machines", script);
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o700)).expect("a mode");
    let times = ["--scale-in-after", "2s", "--label", "kind=worker"];
    assert_eq!(stage.margay([&create[..], &times].concat()).ok(), "workers\n");

    // A task that fits on no node but one of the group.
    serve_cats(&stage, &up, 1);
    let service = ["service", "create", "far", "--task", "cats:1", "--cluster", "allthecats"];
    let wanted = ["--constraint", "kind == worker", "-d"];
    stage.margay([&service[..], &wanted].concat()).ok();
    let explain = || stage.margay(["explain", "service", "far", "--cluster", "allthecats"]).ok();
    eventually("it says what it waits for", || {
        explain().contains("node group `workers` gets no node more: its max is 0").then_some(())
    });
    assert!(explain().contains("margay node-group update workers --max 1"), "{}", explain());
    // A hook that fails is told, and the next try waits.
    fs::write(folder.join("broken"), "").expect("a file");
    stage.margay(["node-group", "update", "workers", "--max", "1"]).ok();
    let events = || stage.margay(["node-group", "events", "workers"]).ok();
    eventually("its failure is told", || {
        events().contains("could not be added (exit status: 3: the quota is used up)").then_some(())
    });
    assert!(explain().contains("it waits for a node of group `workers`"), "{}", explain());
    fs::remove_file(folder.join("broken")).expect("a file");

    let ready = || {
        let list = stage.margay(["node", "ls"]).ok();
        list.lines().any(|line| line.starts_with("workers-") && line.contains("ready"))
    };
    eventually("a node has joined", || ready().then_some(()));
    eventually("its task is served", || {
        let answer = crate::stage::get(&up.ingress, &HOST.replace("cats.all", "far.all"), "/");
        answer.filter(|answer| answer.status == 200).map(drop)
    });
    assert_eq!(machines(&stage), 1);

    // Another machine takes the place of the one that is there, and the task moves over.
    let name = || groups(&stage)["machines"][0]["node"].as_str().unwrap_or_default().to_owned();
    let first = name();
    stage.margay(["node-group", "update", "workers", "--max", "2"]).ok();
    let rollout = ["node", "rollout", "--group", "workers"];
    let said = stage.margay(rollout);
    assert_eq!((said.code, said.out.as_str()), (0, ""), "{said:?}");
    assert!(said.err.contains("every node has version"), "{said:?}");
    let replaced = stage.margay([&rollout[..], &["--all", "--timeout", "60s"]].concat()).ok();
    assert_eq!(replaced, format!("{first}\n"));
    assert!(!stage.margay(["node", "ls"]).ok().contains(&first));
    assert!(events().contains(&format!("`{first}` was removed")), "{}", events());
    stage.margay(["service", "rm", "far", "--cluster", "allthecats"]).ok();
    eventually("the node is gone", || (machines(&stage) == 0).then_some(()));
    assert!(events().contains("has had no tasks for 2 s: it is removed"), "{}", events());
    assert!(!stage.margay(["node", "ls"]).ok().contains("workers-"));
    page_is_served(&up).expect("the page");
    assert_eq!(stage.margay(["node-group", "rm", "workers"]).ok(), "workers\n");
    up.end();
    stage.is_empty();
}
