//! `margay up`: from an image to a page behind the ingress, and what happens when something is
//! killed.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    images::build_cats,
    stage::{Running, Said, Stage, eventually, get, samples, signal},
};

/// A platform on free ports.
const UP: [&str; 7] = ["up", "--server-port", "0", "--registry-port", "0", "--ingress-port", "0"];

/// A platform on ports of its own.
pub struct Up {
    running: Running,
    pub registry: String,
    pub ingress: String,
}

impl Up {
    pub fn start(stage: &Stage) -> Self {
        Self::run(stage, stage.command(UP))
    }

    /// One that logs everything it has to say.
    pub fn start_loud(stage: &Stage) -> Self {
        let mut command = stage.command(UP);
        command.env("MARGAY_LOG", "debug");
        Self::run(stage, command)
    }

    /// One whose node is told how to behave.
    pub fn start_with(stage: &Stage, flags: &[&str]) -> Self {
        Self::run(stage, stage.command([&UP, flags].concat()))
    }

    fn run(stage: &Stage, command: Command) -> Self {
        let mut running = Running::of(command);
        let first = running.line();
        assert!(first.starts_with("margay is up"), "{first}: {:?}", running.end());
        let record = record(stage);
        let port = |name: &str| {
            record[name]
                .as_str()
                .and_then(|text| text.rsplit(':').next())
                .expect("a port")
                .to_owned()
        };
        let ingress = record["ingress"].as_str().expect("an address").to_owned();
        let registry = format!("localhost:{}", port("registry"));
        Self { running, registry, ingress }
    }

    pub fn pid(&self, stage: &Stage, name: &str) -> i32 {
        pid_of(stage, name).expect("a process")
    }

    pub fn pid_of(&self, stage: &Stage, name: &str) -> Option<i32> {
        pid_of(stage, name)
    }

    pub fn end(self) -> Said {
        self.running.signal("INT");
        let said = self.running.end();
        assert_eq!(said.code, 0, "{said:?}");
        said
    }
}

fn record(stage: &Stage) -> Value {
    serde_json::from_slice(&std::fs::read(stage.home().join("up.json")).expect("up.json"))
        .expect("JSON")
}

fn pid_of(stage: &Stage, name: &str) -> Option<i32> {
    let record = record(stage);
    let processes = record["processes"].as_array()?.clone();
    let process = processes.iter().find(|process| process[0] == name)?;
    process[1].as_i64().and_then(|pid| i32::try_from(pid).ok())
}

/// The guide's way from a checkout to a page, step by step, as `count` replicas.
fn serve_cats(stage: &Stage, up: &Up, count: u32) {
    build_cats(stage);
    let image = format!("{}/me/cats:v1", up.registry);
    assert_eq!(stage.margay(["login", "-u", "me", &up.registry]).ok(), "Login Succeeded\n");
    stage.margay(["tag", "cats", &image]).ok();
    let pushed = stage.margay(["push", &image]).ok();
    assert!(pushed.starts_with(&format!("{image}@sha256:")), "{pushed}");
    assert_eq!(stage.margay(["cluster", "create", "allthecats"]).ok(), "allthecats\n");
    let definition = samples().join("cats/task.toml").display().to_string();
    assert_eq!(stage.margay(["task", "register", &definition]).ok(), "cats:1\n");
    let count = count.to_string();
    let arguments = [
        "service",
        "create",
        "cats",
        "--task",
        "cats:1",
        "--cluster",
        "allthecats",
        "--count",
        &count,
    ];
    assert_eq!(stage.margay(arguments).ok(), "cats\n");
}

const HOST: &str = "cats.allthecats.localhost";

fn page_is_served(up: &Up) -> Option<()> {
    get(&up.ingress, HOST, "/").filter(|answer| answer.status == 200).map(drop)
}

fn running_tasks(stage: &Stage) -> Vec<String> {
    let out = stage.margay(["task", "ls", "--cluster", "allthecats", "--output", "json"]).ok();
    let list: Value = serde_json::from_str(&out).expect("JSON");
    let tasks =
        list.as_array().expect("a list").iter().filter(|task| task["status"]["phase"] == "running");
    tasks.map(|task| task["id"].as_str().expect("an id").to_owned()).collect()
}

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

    // Who serves no request must not cost any when it is killed.
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
    // Agent, ingress, workers: as after a power cut.
    for (pid, _) in other.processes() {
        signal(pid, "KILL");
    }
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
    let token = stage.margay(["node", "token"]).ok();
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
    let up = Up::start_with(&stage, &["--idle-after", "1s", "--blank-workers", "0"]);
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
        "--blank-workers",
        "1",
    ];
    other.margay([&["node", "join", token.trim(), "--no-run"], &said[..]].concat()).ok();
    let settings = std::fs::read(other.home().join("node/settings.json")).expect("settings");
    let tuning = &serde_json::from_slice::<Value>(&settings).expect("JSON")["tuning"];
    assert_eq!(tuning["private_networks"], serde_json::json!(["10.2.0.0/16", "::1/128"]));
    assert_eq!((&tuning["idle_after"]["secs"], &tuning["blank_workers"]), (&120.into(), &1.into()));
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
    let nobody = 65534;
    // A build folder may be closed to others; what is installed is not.
    let margay = other.path("margay");
    std::fs::copy(env!("CARGO_BIN_EXE_margay"), &margay).expect("a copy");
    std::os::unix::fs::chown(&home, Some(nobody), Some(nobody)).expect("a gift");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(other.path(""), open).expect("open");
    let join = |arguments: &[&str]| {
        let mut command = Command::new(&margay);
        command.args(arguments).env_clear().env("MARGAY_HOME", &home).current_dir(other.path(""));
        std::os::unix::process::CommandExt::uid(&mut command, nobody);
        std::os::unix::process::CommandExt::gid(&mut command, nobody);
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
            std::fs::metadata(format!("/proc/{pid}")).map_or(nobody, |m| m.uid()),
            nobody,
            "{line}"
        );
    }
    node.signal("INT");
    assert_eq!(node.end().code, 0);

    // Four days later.
    let identity = home.join("node/identity.json");
    let before = std::fs::read(&identity).expect("an identity");
    let file = std::fs::File::options().write(true).open(&identity).expect("an identity");
    file.set_modified(std::time::SystemTime::now() - Duration::from_secs(4 * 86400))
        .expect("a date");
    let node = join(&["node"]);
    eventually("the certificate is another one", || {
        (std::fs::read(&identity).ok()? != before).then_some(())
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
            ("--blank-workers", "65", "65 is not in 0..=64"),
            ("--blank-workers", "-1", "unexpected argument"),
        ] {
            let err = stage.margay([verb, &[flag, value]].concat()).fails(2);
            assert!(err.contains(want), "{verb:?} {flag} {value}: {err}");
        }
    }
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
