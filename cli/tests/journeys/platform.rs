//! `margay up`: from an image to a page behind the ingress, and what happens when a process is
//! killed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    stage::{Stage, eventually, get, samples, signal},
    up::{HOST, UP, Up, page_is_served, pid_of, record, running_tasks, serve_cats},
};

#[test]
fn cats_go_from_source_to_a_page_behind_the_ingress() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    serve_cats(&stage, &up, 3);
    eventually("the page is served", || page_is_served(&up));
    let tasks = eventually("three tasks run", || {
        Some(running_tasks(&stage)).filter(|tasks| tasks.len() == 3)
    });
    assert_eq!(
        get(&up.ingress, "dogs.allthecats.localhost", "/").map(|answer| answer.status),
        Some(404)
    );

    // A task that is asked to end is replaced, for a service wants three.
    stage.margay(["task", "stop", &tasks[0]]).ok();
    eventually("it is replaced", || {
        let now = running_tasks(&stage);
        (now.len() == 3 && !now.contains(&tasks[0])).then_some(())
    });

    stage.margay(["service", "scale", "cats", "1", "--cluster", "allthecats"]).ok();
    eventually("one is left", || (running_tasks(&stage).len() == 1).then_some(()));
    eventually("what was used is counted", || {
        let usage: Value =
            serde_json::from_str(&stage.margay(["usage", "--output", "json"]).ok()).ok()?;
        usage.as_array()?.iter().any(|row| row["runs"].as_u64() > Some(0)).then_some(())
    });
    stage.margay(["service", "delete", "cats", "--cluster", "allthecats"]).ok();
    eventually("none is left", || running_tasks(&stage).is_empty().then_some(()));
    assert_eq!(stage.margay(["task", "deregister", "cats:1"]).ok(), "cats:1\n");
    eventually("the cluster can go", || {
        (stage.margay(["cluster", "delete", "allthecats"]).code == 0).then_some(())
    });
    up.end();
    stage.is_empty();
}

#[test]
fn a_second_up_on_the_same_home_is_refused_and_one_after_the_other_is_not() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    let err = stage.margay(["up"]).fails(1);
    assert!(err.contains("is up already") && err.contains("hint: "), "{err}");
    up.end();
    assert!(!stage.home().join("up.json").exists());
    Up::start(&stage).end();
    stage.is_empty();
}

#[test]
fn an_up_at_another_address_serves_what_it_served_before() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    serve_cats(&stage, &up, 1);
    eventually("the page is served", || page_is_served(&up));
    up.end();
    let up = Up::start_with(&stage, &["--listen", "127.0.0.2"]);
    assert!(up.ingress.starts_with("127.0.0.2:"), "{}", up.ingress);
    eventually("the page is served there", || page_is_served(&up));
    up.end();

    // Everywhere: what others are told is an address all the same.
    let up = Up::start_with(&stage, &["--listen", "0.0.0.0", "--advertise", "127.0.0.3"]);
    let record = record(&stage);
    for name in ["server", "registry", "peers"] {
        assert!(
            record[name].as_str().is_some_and(|address| address.starts_with("127.0.0.3:")),
            "{record}"
        );
    }
    eventually("the page is served everywhere", || page_is_served(&up));
    up.end();
    stage.is_empty();
}

#[test]
fn without_a_platform_the_verbs_that_need_one_say_how_to_start_it() {
    let stage = Stage::new();
    for arguments in [
        vec!["cluster", "ls"],
        vec!["task", "definitions"],
        vec!["service", "ls", "--cluster", "c"],
        vec!["node", "ls"],
        vec!["usage"],
    ] {
        let err = stage.margay(&arguments).fails(1);
        assert!(
            err.contains("control plane") && err.contains("hint: start it: margay up"),
            "{arguments:?}: {err}"
        );
    }
}

/// Asks for the page over and over, and counts.
struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    /// Milliseconds of the longest time without an answer.
    gap: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn on(up: &Up) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            served: Arc::default(),
            failed: Arc::default(),
            gap: Arc::default(),
            threads: Vec::new(),
        };
        for _ in 0..2 {
            let (stop, served, failed, gap) =
                (load.stop.clone(), load.served.clone(), load.failed.clone(), load.gap.clone());
            let ingress = up.ingress.clone();
            load.threads.push(std::thread::spawn(move || {
                let mut last = Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    if get(&ingress, HOST, "/").is_some_and(|answer| answer.status == 200) {
                        served.fetch_add(1, Ordering::Relaxed);
                        let millis = u64::try_from(last.elapsed().as_millis()).unwrap_or(u64::MAX);
                        gap.fetch_max(millis, Ordering::Relaxed);
                        last = Instant::now();
                    } else {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }));
        }
        load
    }

    fn served_more(&self) {
        let before = self.served.load(Ordering::Relaxed);
        eventually("the page is served again", || {
            (self.served.load(Ordering::Relaxed) > before + 50).then_some(())
        });
    }

    fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    fn end(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("a loader"));
        Duration::from_millis(self.gap.load(Ordering::Relaxed))
    }
}

#[test]
fn whatever_of_the_platform_is_killed_under_load_the_page_stays_or_is_back_in_two_seconds() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    serve_cats(&stage, &up, 2);
    eventually("two tasks run", || (running_tasks(&stage).len() == 2).then_some(()));
    eventually("the page is served", || page_is_served(&up));
    let load = Load::on(&up);
    load.served_more();

    // A process that serves no request must not cost any when it is killed.
    for name in ["server", "registry", "node"] {
        let (before, failed) = (pid_of(&stage, name).expect("a process"), load.failed());
        signal(before, "KILL");
        eventually(&format!("the {name} is back"), || {
            pid_of(&stage, name).filter(|now| *now != before)
        });
        load.served_more();
        assert_eq!(load.failed(), failed, "the death of the {name} cost requests");
    }
    // The ingress's own connections die with it; new ones wait in the queue of the socket that `up`
    // holds.
    let before = pid_of(&stage, "ingress").expect("a process");
    signal(before, "KILL");
    load.served_more();

    // A worker.
    eventually("the control plane answers", || (running_tasks(&stage).len() == 2).then_some(()));
    let worker = stage
        .processes()
        .into_iter()
        .find(|(_, line)| line.contains(" worker"))
        .expect("a worker")
        .0;
    signal(worker, "KILL");
    load.served_more();
    eventually("two tasks run again", || (running_tasks(&stage).len() == 2).then_some(()));

    let gap = load.end();
    assert!(gap < Duration::from_secs(2), "the page was away for {gap:?}");
    up.end();
    stage.is_empty();
}

#[test]
fn an_up_that_is_killed_ends_no_task_and_the_next_one_adopts_them() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    serve_cats(&stage, &up, 2);
    let workers = || {
        let list: Value =
            serde_json::from_str(&stage.margay(["ps", "--output", "json"]).ok()).expect("JSON");
        let names = list.as_array().expect("a list").iter().map(|task| task["name"].clone());
        let pid = |name: Value| {
            let name = name.as_str().expect("a name").to_owned();
            let shown: Value =
                serde_json::from_str(&stage.margay(["inspect", &name]).ok()).expect("JSON");
            shown[0]["seen"]["process"]["pid"].as_i64()
        };
        let mut pids: Vec<i64> = names.filter_map(pid).collect();
        pids.sort_unstable();
        pids
    };
    let before = workers();
    assert_eq!(before.len(), 2);
    let node = up.pid(&stage, "node");
    signal(i32::try_from(record(&stage)["pid"].as_i64().expect("a pid")).expect("a pid"), "KILL");
    drop(up);
    eventually("its agent ends", || {
        (!std::path::Path::new(&format!("/proc/{node}")).exists()).then_some(())
    });
    let began = Instant::now();
    let up = Up::start(&stage);
    eventually("the page is served", || page_is_served(&up));
    // Two seconds on a quiet machine; a node that ended its tasks first was waited for for twelve.
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert_eq!(workers(), before, "the same workers");
    up.end();
    stage.is_empty();
}

#[test]
fn the_command_of_the_readme_serves_the_page_and_ends() {
    let stage = Stage::new();
    let samples = samples().display().to_string();
    let said = stage.margay([
        "demo",
        "--once",
        "--samples",
        &samples,
        "--server-port",
        "0",
        "--registry-port",
        "0",
        "--ingress-port",
        "0",
    ]);
    let out = said.ok();
    for step in ["build", "up", "push", "service", "page"] {
        assert!(out.contains(step), "no step `{step}`: {out}");
    }
    assert!(out.contains("http://cats.allthecats.localhost:"), "{out}");
    // The commands below it in the README begin with a platform without cats.
    assert_eq!(stage.margay(["images", "-q"]).ok(), "");
    let up = Up::start(&stage);
    assert!(!stage.margay(["cluster", "ls"]).ok().contains("allthecats"));
    up.end();
    stage.is_empty();
}

#[test]
fn a_home_may_lie_deeper_than_the_address_of_a_socket_reaches() {
    let stage = Stage::new();
    let deep = stage.path(&"deep/".repeat(30)).display().to_string();
    let mut up = stage.start([&["--home", &deep], &UP[..]].concat());
    assert!(up.line().starts_with("margay is up"));
    assert!(stage.margay(["--home", &deep, "node", "ls"]).ok().contains("ready"));
    up.signal("INT");
    up.end().ok();
    stage.is_empty();
}

#[test]
fn an_up_that_is_interrupted_while_it_starts_leaves_nothing_and_starts_again() {
    let stage = Stage::new();
    for after in [20, 60, 120, 250] {
        let running = stage.start(UP);
        std::thread::sleep(Duration::from_millis(after));
        running.signal("INT");
        let said = running.end();
        assert!([0, 130].contains(&said.code), "after {after} ms: {said:?}"); // 130 before it could listen
        stage.is_empty();
    }
    Up::start(&stage).end();
    stage.is_empty();
}

#[test]
fn what_is_said_about_tasks_and_services_leads_on() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    serve_cats(&stage, &up, 1);
    eventually("it runs", || (running_tasks(&stage).len() == 1).then_some(()));
    let service = "margay service delete cats --cluster allthecats";
    for verb in ["stop", "rm"] {
        let shown: Value =
            serde_json::from_str(&stage.margay(["ps", "--output", "json"]).ok()).expect("JSON");
        let err = stage.margay([verb, shown[0]["name"].as_str().expect("a name")]).fails(1);
        assert!(err.contains("copy of service `cats`") && err.contains(service), "{verb}: {err}");
    }
    let err = stage.margay(["service", "ls", "--cluster", "nope"]).fails(1);
    assert!(err.contains("there is no cluster `nope`"), "{err}");
    let err = stage.margay(["registry", "visibility", "me/nothing", "public"]).fails(1);
    assert!(err.contains("there is no repository `me/nothing`"), "{err}");
    // A task can be stopped by the name under which `ps` shows its container.
    let shown: Value =
        serde_json::from_str(&stage.margay(["ps", "--output", "json"]).ok()).expect("JSON");
    stage.margay(["task", "stop", shown[0]["name"].as_str().expect("a name")]).ok();
    stage.write("task.toml", "family = \"cats\"\n\n[[containers]]\nnme = \"x\"\n");
    let err = stage.margay(["task", "register", "task.toml"]).fails(1);
    assert!(
        err.contains("task.toml`, line 4: unknown field `nme`") && !err.contains("\\n"),
        "{err}"
    );
    up.end();
    stage.is_empty();
}
