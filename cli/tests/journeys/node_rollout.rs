//! An upgrade of agents, node by node, that stops where one fails.

use std::{fs, os::unix::fs::PermissionsExt as _};

use crate::{
    stage::{Stage, cut_power, eventually},
    up::{Up, running_tasks, serve_cats},
};

#[test]
fn nodes_are_upgraded_one_by_one_and_a_failure_stops_the_rollout() {
    let (stage, others) = (Stage::new(), [Stage::new(), Stage::new()]);
    let up = Up::start(&stage);
    let mut running = Vec::new();
    for (other, name) in others.iter().zip(["second", "third"]) {
        let token = stage.margay(["node", "token"]).ok();
        other.margay(["node", "join", token.trim(), "--name", name, "--no-run"]).ok();
        running.push(other.start(["node", "--leave"]));
        eventually("it is ready", || {
            let list = stage.margay(["node", "ls"]).ok();
            list.lines().any(|line| line.starts_with(name) && line.contains("ready")).then_some(())
        });
    }
    serve_cats(&stage, &up, 3);
    eventually("three tasks run", || (running_tasks(&stage).len() == 3).then_some(()));
    let before = running_tasks(&stage);

    // The agent is ended and started again, and its task runs on.
    let [second, _] = others.each_ref().map(|other| other.home().display().to_string());
    let margay = env!("CARGO_BIN_EXE_margay");
    let script = format!(
        "#!/bin/sh\nset -eu\necho \"$MARGAY_NODE\" >>{log}\n\
         [ \"$MARGAY_NODE\" = second ] || {{ echo no >&2; exit 4; }}\n\
         kill -TERM {pid}\nwhile grep -qs node /proc/{pid}/cmdline; do sleep 0.1; done\n\
         MARGAY_HOME={second} setsid {margay} node --leave >/dev/null 2>&1 &\n",
        log = stage.path("log").display(),
        pid = running[0].pid(),
    );
    let upgrade = stage.write("upgrade", script);
    fs::set_permissions(&upgrade, fs::Permissions::from_mode(0o700)).expect("a mode");
    let upgrade = upgrade.display().to_string();
    let rollout = |more: &[&str]| {
        let base = ["node", "rollout", "--timeout", "60s", "--exec", &upgrade];
        stage.margay([&base[..], more].concat())
    };
    let nothing = rollout(&[]);
    assert_eq!((nothing.code, nothing.out.as_str()), (0, ""), "all have the version: {nothing:?}");
    let err = rollout(&["nowhere"]).fails(1);
    assert!(err.contains("there is no node `nowhere`"), "{err}");
    let said = rollout(&["--all", "second", "third", "local"]);
    assert_eq!((said.code, said.out.as_str()), (1, "second\n"), "{said:?}");
    assert!(said.err.contains("the rollout stopped at node `third`"), "{said:?}");
    assert!(said.err.contains("ended with exit status: 4"), "{said:?}");
    assert!(said.err.contains("1 more were not touched"), "{said:?}");
    let log = fs::read_to_string(stage.path("log")).expect("a log");
    assert_eq!(log, "second\nthird\n");
    assert_eq!(running_tasks(&stage), before, "the tasks run on");
    let old = "99.0.0";
    let err = stage
        .margay(["node", "rollout", "third", "--wait-for-version", old, "--timeout", "1s"])
        .fails(1);
    assert!(err.contains("waited 1s until it is ready and of version 99.0.0"), "{err}");

    // With a node that is silent none is touched.
    cut_power(&others[1]);
    drop(running.pop());
    eventually("it is known to be lost", || {
        stage.margay(["node", "ls"]).ok().contains("disconnected").then_some(())
    });
    let err = rollout(&["--all", "local"]).fails(1);
    assert!(err.contains("node `third` is not ready"), "{err}");
    stage.margay(["service", "delete", "cats", "--cluster", "allthecats"]).ok();
    stage.margay(["node", "rm", "--force", "second", "third"]).ok();
    eventually("the second has ended", || others[0].processes().is_empty().then_some(()));
    up.end();
    stage.is_empty();
}
