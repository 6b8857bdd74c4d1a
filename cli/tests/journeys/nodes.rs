//! Nodes: join, drain, remove, adopt, and run as an ordinary user.

use std::{process::Command, time::Duration};

use serde_json::Value;

use crate::{
    stage::{Running, Stage, cut_power, eventually, get, signal},
    up::{Up, page_is_served, running_tasks, serve_cats},
};

#[test]
fn a_second_node_takes_its_share_and_its_copies_are_replaced_when_it_is_lost() {
    let (stage, other) = (Stage::new(), Stage::new());
    let up = Up::start(&stage);
    let token = stage.margay(["node", "token"]).ok();
    let mut node =
        other.start(["node", "join", token.trim(), "--name", "second", "--zone", "elsewhere"]);
    assert_eq!(node.line(), "second");
    let err = Stage::new().margay(["node", "join", token.trim()]).fails(1);
    assert!(err.contains("this join token was used"), "{err}");
    serve_cats(&stage, &up, 4);
    eventually("four tasks run", || (running_tasks(&stage).len() == 4).then_some(()));
    let nodes = || {
        let out = stage.margay(["task", "ls", "--service", "cats", "--output", "json"]).ok();
        let list: Value = serde_json::from_str(&out).expect("JSON");
        let running = list
            .as_array()
            .expect("a list")
            .iter()
            .filter(|task| task["status"]["phase"] == "running");
        running
            .map(|task| task["spec"]["node"].as_str().expect("a node").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(nodes().iter().filter(|name| *name == "second").count(), 2, "{:?}", nodes());
    // Half of these go through the other node's ingress.
    for _ in 0..8 {
        eventually("the page is served", || page_is_served(&up));
    }
    cut_power(&other);
    drop(node);
    eventually("the lost copies are replaced", || {
        let nodes = nodes();
        (nodes.len() == 4 && nodes.iter().all(|name| name == "local")).then_some(())
    });
    page_is_served(&up).expect("the page");
    up.end();
    stage.is_empty();
    other.is_empty();
}

#[test]
fn a_node_is_not_removed_by_a_slip_and_one_that_was_ends_its_tasks_and_says_so() {
    let (stage, other) = (Stage::new(), Stage::new());
    let up = Up::start(&stage);
    let token = stage.margay(["token", "create"]).ok();
    let mut node = other.start(["node", "join", token.trim(), "--name", "second"]);
    assert_eq!(node.line(), "second");
    serve_cats(&stage, &up, 2);
    eventually("two tasks run", || (running_tasks(&stage).len() == 2).then_some(()));
    let err = stage.margay(["node", "rm", "second"]).fails(1);
    assert!(err.contains("node `second` has a task") && err.contains("--force"), "{err}");

    assert_eq!(stage.margay(["node", "rm", "--force", "second"]).ok(), "second\n");
    let said = node.end();
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("this node was removed from its platform"), "{}", said.err);
    assert!(said.err.contains("hint: join again: margay node join TOKEN"), "{}", said.err);
    other.is_empty();
    let err = other.margay(["node"]).fails(1);
    assert!(err.contains("has not joined a control plane"), "{err}");
    let left: Value =
        serde_json::from_str(&other.margay(["ps", "-a", "--output", "json"]).ok()).expect("JSON");
    for task in left.as_array().expect("a list") {
        assert_eq!(task["state"], "exited", "{task}");
        other.margay(["rm", task["name"].as_str().expect("a name")]).ok();
    }

    // The platform's own comes back by itself, whether it notices while it runs or when it starts.
    let served = || (running_tasks(&stage).len() == 2).then(|| page_is_served(&up)).flatten();
    assert_eq!(stage.margay(["node", "rm", "-f", "local"]).ok(), "local\n");
    let here = || {
        stage
            .margay(["node", "ls"])
            .out
            .lines()
            .any(|line| line.starts_with("local") && line.contains("ready"))
    };
    eventually("it joins again", || here().then_some(()));
    eventually("its tasks are back", served);
    assert_eq!(stage.margay(["node", "rm", "-f", "local"]).ok(), "local\n");
    up.end();
    let up = Up::start(&stage);
    assert!(here());
    eventually("its tasks are back", || {
        (running_tasks(&stage).len() == 2).then(|| page_is_served(&up)).flatten()
    });
    up.end();
    stage.is_empty();
}

#[test]
fn a_worker_is_adopted_whatever_its_status_says_and_an_agent_has_the_descriptors_that_the_system_allows()
 {
    let stage = Stage::new();
    let up = Up::start(&stage);
    serve_cats(&stage, &up, 1);
    eventually("the page is served", || page_is_served(&up));
    eventually("it runs", || (running_tasks(&stage).len() == 1).then_some(()));
    let agent = up.pid(&stage, "node");
    let limits = std::fs::read_to_string(format!("/proc/{agent}/limits")).expect("its limits");
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .expect("a limit of open files");
    let mut numbers = files.split_whitespace().skip(3);
    assert_eq!(numbers.next(), numbers.next(), "{files}");
    // As a full disk leaves it.
    let folders = std::fs::read_dir(stage.home().join("tasks")).expect("tasks").flatten();
    let path = folders
        .map(|entry| entry.path().join("status.json"))
        .find(|path| path.exists())
        .expect("a status");
    let mut status: Value =
        serde_json::from_slice(&std::fs::read(&path).expect("a status")).expect("JSON");
    let worker = status["process"]["pid"].clone();
    (status["process"], status["phase"]) = (Value::Null, "starting".into());
    std::fs::write(&path, status.to_string()).expect("a status");
    signal(agent, "KILL");
    eventually("the worker is adopted", || {
        let seen: Value = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
        (seen["phase"] == "running" && seen["process"]["pid"] == worker).then_some(())
    });
    page_is_served(&up).expect("the page");
    up.end();
    stage.is_empty();
}

#[test]
fn what_is_said_about_a_node_holds() {
    let (stage, other) = (Stage::new(), Stage::new());
    let up = Up::start_with(&stage, &["--idle-after", "1s", "--spare-workers", "0"]);
    let workers =
        || stage.processes().into_iter().filter(|(_, line)| line.contains(" worker")).count();
    assert_eq!(workers(), 0, "no worker waits");
    serve_cats(&stage, &up, 0);
    let arguments = [
        "service",
        "create",
        "idle",
        "--task",
        "cats:1",
        "--cluster",
        "allthecats",
        "--launch-type",
        "pool",
    ];
    stage.margay(arguments).ok();
    let page =
        || get(&up.ingress, "idle.allthecats.localhost", "/").filter(|answer| answer.status == 200);
    eventually("the page is served", page);
    eventually("no worker is left without requests", || (workers() == 0).then_some(()));
    eventually("it wakes up", page);

    // What is said at the join is kept for every start after it.
    let token = stage.margay(["node", "token"]).ok();
    let said = [
        "--private-network",
        "10.2.0.0/16",
        "--private-network",
        "::1",
        "--idle-after",
        "2m",
        "--spare-workers",
        "1",
    ];
    other.margay([&["node", "join", token.trim(), "--no-run"], &said[..]].concat()).ok();
    let settings = std::fs::read(other.home().join("node/settings.json")).expect("settings");
    let tuning = &serde_json::from_slice::<Value>(&settings).expect("JSON")["tuning"];
    assert_eq!(tuning["private_networks"], serde_json::json!(["10.2.0.0/16", "::1/128"]));
    assert_eq!((&tuning["idle_after"]["secs"], &tuning["spare_workers"]), (&120.into(), &1.into()));
    up.end();
    stage.is_empty();
}

#[test]
fn an_ordinary_user_joins_and_runs_their_share_and_the_certificate_is_renewed_in_time() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: no node of another user: not root");
        return;
    }
    let stage = Stage::new();
    let up = Up::start(&stage);
    let other = Stage::new();
    let home = other.home();
    std::fs::create_dir(&home).expect("a home");
    let unprivileged = 65534;
    // A build folder may be closed to others; what is installed is not.
    let margay = other.path("margay");
    std::fs::copy(env!("CARGO_BIN_EXE_margay"), &margay).expect("a copy");
    std::os::unix::fs::chown(&home, Some(unprivileged), Some(unprivileged)).expect("a gift");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(other.path(""), open).expect("open");
    let join = |arguments: &[&str]| {
        let mut command = Command::new(&margay);
        command.args(arguments).env_clear().env("MARGAY_HOME", &home).current_dir(other.path(""));
        std::os::unix::process::CommandExt::uid(&mut command, unprivileged);
        std::os::unix::process::CommandExt::gid(&mut command, unprivileged);
        Running::of(command)
    };
    let token = stage.margay(["node", "token"]).ok();
    let mut node = join(&["node", "join", token.trim(), "--name", "plain"]);
    assert_eq!(node.line(), "plain");
    serve_cats(&stage, &up, 2);
    let nodes = || {
        let out = stage.margay(["task", "ls", "--service", "cats", "--output", "json"]).ok();
        let list: Value = serde_json::from_str(&out).expect("JSON");
        let running = list
            .as_array()
            .expect("a list")
            .iter()
            .filter(|task| task["status"]["phase"] == "running");
        let mut nodes: Vec<_> =
            running.map(|task| task["spec"]["node"].as_str().expect("a node").to_owned()).collect();
        nodes.sort();
        nodes
    };
    eventually("each node has one", || (nodes() == ["local", "plain"]).then_some(()));
    for _ in 0..4 {
        eventually("the page is served", || page_is_served(&up));
    }
    let all: Value =
        serde_json::from_str(&stage.margay(["node", "ls", "--output", "json"]).ok()).expect("JSON");
    let plain = all
        .as_array()
        .expect("a list")
        .iter()
        .find(|node| node["id"] == "plain")
        .expect("it is known");
    assert_eq!(plain["spec"]["runs_native"], false, "native images take root: {plain}");
    for (pid, line) in other.processes() {
        use std::os::unix::fs::MetadataExt as _;
        assert_eq!(
            std::fs::metadata(format!("/proc/{pid}")).map_or(unprivileged, |m| m.uid()),
            unprivileged,
            "{line}"
        );
    }
    node.signal("INT");
    assert_eq!(node.end().code, 0);

    // Four days later.
    let identities = ["node/identity.json", "ingress/ingress.json"].map(|file| home.join(file));
    let read = || identities.clone().map(|path| std::fs::read(path).expect("an identity"));
    let before = read();
    for path in &identities {
        let file = std::fs::File::options().write(true).open(path).expect("an identity");
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(4 * 86400))
            .expect("a date");
    }
    let node = join(&["node"]);
    eventually("both certificates are others", || {
        let now = read();
        (0..2).all(|one| now[one] != before[one]).then_some(())
    });
    eventually("each node has one", || (nodes() == ["local", "plain"]).then_some(()));
    for _ in 0..4 {
        eventually("the page is served", || page_is_served(&up));
    }
    node.signal("INT");
    assert_eq!(node.end().code, 0);
    up.end();
    other.is_empty();
    stage.is_empty();
}

#[test]
fn what_cannot_be_said_about_a_node_is_refused_in_words() {
    let stage = Stage::new();
    for verb in [&["up"][..], &["node"], &["node", "join", "margay1.7b7d"]] {
        for (flag, value, want) in [
            (
                "--private-network",
                "10.2.0.7/8",
                "`10.2.0.7/8` is not a network: ADDRESS/BITS as in 10.2.0.0/16",
            ),
            ("--private-network", "localhost", "`localhost` is not a network"),
            ("--idle-after", "10", "`10` is not a duration"),
            ("--idle-after", "999ms", "use 1s to 24h"),
            ("--idle-after", "25h", "use 1s to 24h"),
            ("--spare-workers", "65", "65 is not in 0..=64"),
            ("--spare-workers", "-1", "-1 is not in 0..=64"),
        ] {
            let err = stage.margay([verb, &[flag, value]].concat()).fails(2);
            assert!(err.contains(want), "{verb:?} {flag} {value}: {err}");
        }
    }
}

#[test]
fn a_machine_that_has_joined_nothing_says_so_at_once() {
    let stage = Stage::new();
    let err = stage.margay(["node"]).fails(1);
    assert!(
        err.contains("has not joined a control plane") && err.contains("margay node join TOKEN"),
        "{err}"
    );
    let err = stage.margay(["registry", "ls"]).fails(1);
    assert!(err.contains("there is no registry in") && err.contains("margay up"), "{err}");
}
