//! The shared pool: what it gives at most, whatever a role or a definition says.

use serde_json::Value;

use crate::{
    stage::{Stage, eventually, samples, signal},
    up::{Up, page_is_served, push_probe, serve_cats},
};

/// Registers a definition of one container.
fn register(stage: &Stage, family: &str, image: &str, role: &str, container: &str) {
    let definition = format!(
        "family = \"{family}\"\n[role]\nallow = [{role}]\n[[containers]]\nname = \"app\"\n\
         image = \"{image}\"\n{container}\n"
    );
    let file = stage.write(&format!("{family}.toml"), definition).display().to_string();
    assert_eq!(stage.margay(["task", "register", &file]).ok(), format!("{family}:1\n"));
}

/// What the probe said of a million turns, in nanoseconds.
fn turns(log: &str) -> Option<u64> {
    log.lines()
        .find_map(|line| line.split_once("a million turns ")?.1.split_once(" ns")?.0.parse().ok())
}

#[test]
fn a_service_in_the_pool_has_a_clock_that_stands_still_while_it_computes() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    stage.margay(["login", "-u", "me", &up.registry]).ok();
    let image = push_probe(&stage, &up, "probe-cli");
    stage.margay(["cluster", "create", "main"]).ok();
    for (family, role) in [("still", ""), ("fine", "\"clock:fine\"")] {
        register(&stage, family, &image, role, "command = [\"clock\"]");
    }
    let create = |family: &str, launch_type: &str| {
        let (name, task) = (format!("{family}-{launch_type}"), format!("{family}:1"));
        let arguments = ["--cluster", "main", "--launch-type", launch_type, "--detach"];
        stage.margay([&["service", "create", &name, "--task", &task], &arguments[..]].concat())
    };
    let read = |name: &str| {
        eventually("the clock is read", || {
            turns(&stage.margay(["service", "logs", name, "--cluster", "main"]).out)
        })
    };
    create("still", "pool").ok();
    assert_eq!(read("still-pool"), 0, "a million turns take no time that a guest can see");
    create("fine", "node").ok();
    assert!(read("fine-node") > 0);
    let err = create("fine", "pool").fails(1);
    let want = "container `app` of task definition `fine:1` asks for `clock:fine`, and the pool \
                gives `clock:frozen` at most";
    assert!(err.contains(want) && err.contains("--launch-type node"), "{err}");
    up.end();
    stage.is_empty();
}

#[test]
fn what_the_pool_would_clamp_is_refused_before_anything_starts() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    stage.margay(["login", "-u", "me", &up.registry]).ok();
    let image = push_probe(&stage, &up, "probe-cli");
    stage.margay(["cluster", "create", "main"]).ok();
    for (family, role, container, want) in [
        ("time", "", "cpu_time_max_ms = 900001", "`cpu_time_max_ms = 900001`"),
        (
            "hard",
            "",
            "memory_soft_bytes = 65536\nmemory_hard_bytes = 1073741824",
            "`memory_hard_bytes = 131072` at most",
        ),
        ("open", "", "limits = { handles_max = 100000 }", "`handles_max = 8192` at most"),
        ("disk", "\"fs:/data#rw;volume=a;max=1TiB\"", "", "`max=10GiB` at most"),
    ] {
        register(&stage, family, &image, role, container);
        let task = format!("{family}:1");
        let run = ["task", "run", &task, "--cluster", "main", "--launch-type", "pool"];
        let err = stage.margay(run).fails(1);
        assert!(err.contains(want) && err.contains("--launch-type node"), "{family}: {err}");
    }
    let tasks = stage.margay(["task", "ls", "--output", "json"]).ok();
    let tasks: Value = serde_json::from_str(&tasks).expect("JSON");
    assert_eq!(tasks.as_array().map(Vec::len), Some(0), "{tasks}");
    up.end();
    stage.is_empty();
}

/// Needs root: an ordinary user may make no cgroups.
#[test]
fn a_worker_is_in_a_cgroup_of_its_own_and_leaves_none() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: no cgroups: not root");
        return;
    }
    let stage = Stage::new();
    let probe = samples().join("hostile/probe-cli.wasm").display().to_string();
    let score = |pid: &str| -> i32 {
        let path = format!("/proc/{pid}/oom_score_adj");
        std::fs::read_to_string(path).expect("a score").trim().parse().expect("a number")
    };
    for end in ["stop", "kill", "SIGKILL"] {
        let run = ["run", "-d", "--name", "held", "--cpus", "0.5", &probe, "sleep", "600000"];
        stage.margay(run).ok();
        let pid = eventually("it runs", || worker_of(&stage, "held"));
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its cgroups");
        assert!(groups.contains(".me/") || groups.contains(".local/"), "{groups}");
        assert!(!stage.cgroups().is_empty());
        assert!(score(&pid.to_string()) >= (score("self") + 500).min(1000), "ended first");
        match end {
            "SIGKILL" => signal(pid, "KILL"),
            verb => drop(stage.margay([verb, "held"]).ok()),
        }
        eventually("its cgroup is gone", || stage.cgroups().is_empty().then_some(()));
        stage.margay(["rm", "-f", "held"]).ok();
    }
    stage.is_empty();
}

/// Needs root. A cgroup is taken for one of a worker that is about to start for ten seconds.
#[test]
fn what_a_supervisor_left_that_was_killed_with_its_worker_goes_with_the_next_look() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: no cgroups: not root");
        return;
    }
    let stage = Stage::new();
    let probe = samples().join("hostile/probe-cli.wasm").display().to_string();
    stage.margay(["run", "-d", "--name", "lost", &probe, "sleep", "600000"]).ok();
    let worker = eventually("it runs", || worker_of(&stage, "lost"));
    stage.processes().into_iter().for_each(|(pid, _)| signal(pid, "KILL"));
    eventually("its worker is gone", || {
        (!std::path::Path::new(&format!("/proc/{worker}/cgroup")).exists()).then_some(())
    });
    assert!(!stage.cgroups().is_empty(), "no process is left that could remove it");
    eventually("a look removes it", || {
        stage.margay(["ps", "-a"]).ok();
        stage.cgroups().is_empty().then_some(())
    });
    stage.margay(["rm", "-f", "lost"]).ok();
    stage.is_empty();
}

/// Needs root. What a killed agent has left is adopted, and goes with its worker.
#[test]
fn cgroups_outlive_an_agent_and_go_with_their_workers() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: no cgroups: not root");
        return;
    }
    let stage = Stage::new();
    let up = Up::start(&stage);
    serve_cats(&stage, &up, 1);
    eventually("the page is served", || page_is_served(&up));
    let leaves = || {
        let groups = stage.cgroups().into_iter().flat_map(std::fs::read_dir).flatten().flatten();
        groups.filter(|entry| entry.path().is_dir()).count()
    };
    let before = leaves();
    assert!(before > 0);
    signal(up.pid(&stage, "node"), "KILL");
    eventually("another agent serves", || page_is_served(&up));
    assert_eq!(leaves(), before);
    stage.margay(["service", "rm", "cats", "--cluster", "allthecats"]).ok();
    eventually("its cgroups are gone", || stage.cgroups().is_empty().then_some(()));
    up.end();
    stage.is_empty();
}

/// The process of a local task.
fn worker_of(stage: &Stage, name: &str) -> Option<i32> {
    let seen: Value = serde_json::from_str(&stage.margay(["inspect", name]).ok()).expect("JSON");
    let pid = seen[0]["seen"]["process"]["pid"].as_i64()?;
    i32::try_from(pid).ok()
}

#[test]
fn copies_are_shared_between_own_nodes_and_the_pool() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    stage.margay(["login", "-u", "me", &up.registry]).ok();
    let image = push_probe(&stage, &up, "probe-http");
    stage.margay(["cluster", "create", "main"]).ok();
    register(&stage, "web", &image, "", "ports = [{ container_port = 80 }]");
    let service = |verb: &str, more: &[&str]| {
        stage.margay([&["service", verb, "web", "--cluster", "main"], more].concat())
    };
    let own = "node=1,base=1";
    let shared = ["--capacity-provider", own, "--capacity-provider", "pool=1"];
    service("create", &[&["--task", "web:1", "--count", "4"], &shared[..]].concat()).ok();
    let kinds = || -> Vec<String> {
        let tasks = stage.margay(["task", "ls", "--output", "json"]).ok();
        let tasks: Value = serde_json::from_str(&tasks).expect("JSON");
        let ready = |task: &&Value| task["status"]["ready"] == true && task["spec"]["stop"] != true;
        let tasks = tasks.as_array().expect("tasks").iter().filter(ready);
        let kind = |task: &Value| task["spec"]["launch_type"].as_str().map(str::to_owned);
        let mut kinds: Vec<String> = tasks.filter_map(kind).collect();
        kinds.sort();
        kinds
    };
    eventually("three are on own nodes and one is in the pool", || {
        (kinds() == ["node", "node", "node", "pool"]).then_some(())
    });
    let explained = stage.margay(["explain", "service", "web", "--cluster", "main"]).ok();
    assert!(
        explained.contains("of 4 copies 3 are for nodes of yours and 1 for the pool"),
        "{explained}"
    );
    service("update", &["--capacity-provider", "pool=1"]).ok();
    eventually("all are in the pool", || (kinds() == ["pool"; 4]).then_some(()));
    for (line, want) in [
        ("spot=1", "`spot=1` is not a capacity provider: use node=WEIGHT"),
        ("pool=0", "one capacity provider at least has a weight above 0"),
    ] {
        let err = service("update", &["--capacity-provider", line]).fails(1);
        assert!(err.contains(want), "{line}: {err}");
    }
    up.end();
    stage.is_empty();
}
