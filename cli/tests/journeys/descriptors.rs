//! Which files each process of a platform has open. A descriptor is a right that no later check
//! takes away, so that each of them has its reason here.

use std::{collections::BTreeSet, fs};

use crate::{
    native,
    stage::{Stage, eventually},
    up::{Up, page_is_served, serve_cats},
};

/// What a descriptor of a process may be, by how its link begins; `HOME` is the home. Pipes are the
/// output of the processes of a journey.
fn allowed(kind: &str) -> &'static [&'static str] {
    match kind {
        // Listening sockets and connections; its log of requests, its blobs and its database.
        "registry" => &["HOME/registry/"],
        "server" => &["HOME/server/"],
        // Its route table, while it is read.
        "ingress" => &["HOME/ingress/"],
        // It prepares, starts and supervises everything, and is told when a process ends.
        "node" => &["HOME/", "anon_inode:[pidfd]"],
        // Code, index and layers of its image; its log, its usage and the code of `exec`. It asks
        // the kernel which pages of its own memory are in use. One without a task is in a root that
        // is shut later.
        "worker" => &["HOME/prepared/", "HOME/tasks/", "/proc/PID/pagemap", "/"],
        // Its log, that of its program, and the mark that its layers are in use.
        "shim" => &["HOME/tasks/", "HOME/prepared/", "anon_inode:[pidfd]"],
        // Its input and its output, and nothing of the host.
        "program" => &[],
        _ => panic!("{kind}"),
    }
}

const OF_ALL: [&str; 2] = ["/dev/null", "pipe:["];
const OF_OURS: [&str; 3] = ["socket:[", "anon_inode:[eventpoll]", "anon_inode:[eventfd]"];

/// The links of what a process has open.
fn held(stage: &Stage, pid: i32) -> Vec<String> {
    let home = stage.home().display().to_string();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").flatten();
    let links = open.filter_map(|fd| fs::read_link(fd.path()).ok());
    let links = links.map(|link| link.display().to_string().replace(&home, "HOME"));
    links.map(|link| link.replace(&format!("/proc/{pid}/"), "/proc/PID/")).collect()
}

#[track_caller]
fn check(stage: &Stage, kind: &str, pid: i32) {
    let held = held(stage, pid);
    let ours: &[&str] = if kind == "program" { &[] } else { &OF_OURS };
    let wanted: Vec<&str> = [allowed(kind), &OF_ALL, ours].concat();
    for link in &held {
        let has_a_reason = wanted.iter().any(|want| match want.ends_with('/') && want.len() > 1 {
            true => link.starts_with(want),
            false => link == want || want.ends_with('[') && link.starts_with(want),
        });
        assert!(has_a_reason, "{kind} {pid} has `{link}` open: {held:?}");
    }
    let tasks: BTreeSet<&str> = held
        .iter()
        .filter_map(|link| link.strip_prefix("HOME/tasks/")?.split('/').next())
        .collect();
    assert!(kind == "node" || tasks.len() <= 1, "{kind} {pid} has files of {tasks:?} open");
    assert!(kind != "program" || held.len() <= 3, "{kind} {pid}: {held:?}");
}

/// The processes of the machine with this command line.
fn pids(words: &[&str]) -> Vec<i32> {
    let line = words.iter().map(|word| format!("{word}\0")).collect::<String>();
    let pids = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|own| own == line.as_bytes())
    })
    .collect()
}

fn parent(pid: i32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    line.and_then(|parent| parent.trim().parse().ok()).unwrap_or_default()
}

/// Needs root, an OCI runtime and busybox.
#[test]
fn each_process_has_nothing_open_without_a_reason() {
    if !native::ready() {
        return;
    }
    let stage = Stage::new();
    let up = Up::start(&stage);
    serve_cats(&stage, &up, 1);
    eventually("the page is served", || page_is_served(&up));
    native::build(&stage, "sleeper", "CMD [\"/bin/sleep\", \"61728\"]");
    let image = format!("{}/me/sleeper:v1", up.registry);
    stage.margay(["tag", "sleeper", &image]).ok();
    stage.margay(["push", &image]).ok();
    let definition =
        format!("family = \"sleeper\"\n[[containers]]\nname = \"app\"\nimage = \"{image}\"\n");
    let definition = stage.write("sleeper.toml", definition).display().to_string();
    stage.margay(["task", "register", &definition]).ok();
    let task = stage.margay(["task", "run", "sleeper:1", "--cluster", "allthecats"]).ok();
    let first = eventually("it runs", || pids(&["/bin/sleep", "61728"]).pop());
    let _exec = stage.start(["exec", task.trim(), "sleep", "61729"]);
    let second = eventually("its program runs", || pids(&["sleep", "61729"]).pop());

    for name in ["registry", "server", "ingress", "node"] {
        check(&stage, name, up.pid(&stage, name));
    }
    let node = up.pid(&stage, "node");
    let mut workers = pids(&["margay", "worker"]);
    workers.retain(|pid| parent(*pid) == node);
    assert!(workers.len() >= 2, "one that serves and spare ones: {workers:?}");
    for pid in workers {
        check(&stage, "worker", pid);
    }
    for (kind, pid) in [("shim", parent(first)), ("program", first), ("program", second)] {
        check(&stage, kind, pid);
    }
    up.end();
    stage.is_empty();
}

/// Needs root, an OCI runtime and busybox.
#[test]
fn what_a_caller_left_open_is_not_handed_to_a_container_or_a_copy() {
    if !native::ready() {
        return;
    }
    let mut stage = Stage::new();
    native::build(&stage, "sleeper", "CMD [\"/bin/sleep\", \"61730\"]");
    // More than the process of a copy may have.
    let open = "for fd in {20..700}; do eval \"exec $fd</etc/hostname\"; done; exec \"$@\"";
    let margay = env!("CARGO_BIN_EXE_margay");
    stage.start_by(["bash", "-c", open, "bash", margay].map(str::to_owned).to_vec());
    stage.margay(["run", "-d", "--name", "tom", "sleeper"]).ok();
    let program = eventually("it runs", || pids(&["/bin/sleep", "61730"]).pop());
    check(&stage, "shim", parent(program));
    check(&stage, "program", program);
    stage.margay(["stop", "-t", "0", "tom"]).ok();
    stage.margay(["cp", "Dockerfile", "tom:/again"]).ok();
    stage.margay(["cp", "tom:/again", "out"]).ok();
    assert_eq!(fs::read(stage.path("out")).ok(), fs::read(stage.path("Dockerfile")).ok());
    stage.margay(["rm", "-f", "tom"]).ok();
    stage.is_empty();
}
