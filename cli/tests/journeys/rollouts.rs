//! Another revision of a service under load: a good one, bad ones that are rolled back, and
//! replicas that freeze.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    native,
    stage::{Said, Stage, eventually, signal},
    up::{Up, push_probe},
};

pub const CLUSTER: [&str; 2] = ["--cluster", "main"];
pub const WEB: &str = "web.main.localhost";

/// Clients that keep their connections, half of which send a body that the program does not read.
pub struct Clients {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    /// What was answered instead of 200.
    failed: Arc<Mutex<Vec<String>>>,
    /// Milliseconds of the longest time until an answer.
    longest: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Clients {
    pub fn of(up: &Up, host: &'static str) -> Self {
        let mut clients = Self {
            stop: Arc::default(),
            served: Arc::default(),
            failed: Arc::default(),
            longest: Arc::default(),
            threads: Vec::new(),
        };
        for number in 0..4 {
            let ingress = up.ingress.clone();
            let (stop, served) = (clients.stop.clone(), clients.served.clone());
            let (failed, longest) = (clients.failed.clone(), clients.longest.clone());
            clients.threads.push(std::thread::spawn(move || {
                let body = if number % 2 == 0 { "" } else { "a body that is not read" };
                let mut connection = None;
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    match ask(&mut connection, &ingress, host, body) {
                        Ok(200) => drop(served.fetch_add(1, Ordering::Relaxed)),
                        other => failed.lock().expect("no panic").push(format!("{other:?}")),
                    }
                    let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                    longest.fetch_max(millis, Ordering::Relaxed);
                }
            }));
        }
        clients
    }

    pub fn served_more(&self, count: u64) {
        let before = self.served.load(Ordering::Relaxed);
        eventually("requests are served", || {
            (self.served.load(Ordering::Relaxed) > before + count).then_some(())
        });
    }

    /// Ends them. Not one request may have failed.
    pub fn end(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("a client"));
        let failed = self.failed.lock().expect("no panic");
        assert!(failed.is_empty(), "{} requests failed: {:?}", failed.len(), failed.first());
        Duration::from_millis(self.longest.load(Ordering::Relaxed))
    }
}

/// One request over a connection that stays, and the status of its answer.
fn ask(
    connection: &mut Option<BufReader<TcpStream>>,
    ingress: &str,
    host: &str,
    body: &str,
) -> std::io::Result<u16> {
    let mut stream = match connection.take() {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(ingress)?;
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            BufReader::new(stream)
        }
    };
    let method = if body.is_empty() { "GET" } else { "POST" };
    let length = body.len();
    let request =
        format!("{method} / HTTP/1.1\r\nhost: {host}\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.get_mut().write_all(request.as_bytes())?;
    let (mut line, mut length, mut closes) = (String::new(), 0, false);
    stream.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other(format!("no answer: {line:?}")))?;
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        let header = line.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(std::io::Error::other)?;
        }
        closes |= header == "connection: close";
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    if !closes {
        *connection = Some(stream);
    }
    Ok(status)
}

/// A platform with the images of the two probes, and the good revision of `web` as a service.
pub fn serve_web(stage: &Stage, up: &Up, count: u32) {
    stage.margay(["login", "-u", "me", &up.registry]).ok();
    for program in ["probe-http", "probe-cli"] {
        push_probe(stage, up, program);
    }
    stage.margay(["cluster", "create", "main"]).ok();
    assert_eq!(register(stage, "probe-http", ""), "web:1");
    let count = count.to_string();
    let create = ["service", "create", "web", "--task", "web:1", "--count", &count];
    stage.margay([&create[..], &CLUSTER].concat()).ok();
    until_ready(stage, count.parse().expect("a number"));
}

/// The next revision of `web`, with `more` in its container.
pub fn register(stage: &Stage, program: &str, more: &str) -> String {
    let definition = format!(
        "family = \"web\"\n[[containers]]\nname = \"app\"\nimage = \"{program}:v1\"\n\
         cpu_millis = 50\nports = [{{ container_port = 80 }}]\n{more}\n"
    );
    let file = stage.write("web.toml", definition).display().to_string();
    stage.margay(["task", "register", &file]).ok().trim().to_owned()
}

pub fn update(stage: &Stage, revision: &str, more: &[&str]) -> Said {
    let update = ["service", "update", "web", "--task", revision];
    stage.margay([&update[..], &CLUSTER, more].concat())
}

pub fn service(stage: &Stage) -> Value {
    let shown = stage.margay([&["service", "inspect", "web"], &CLUSTER[..]].concat()).ok();
    serde_json::from_str::<Value>(&shown).expect("JSON")[0].clone()
}

fn until_ready(stage: &Stage, count: u64) {
    eventually("its copies are ready", || {
        (service(stage)["status"]["ready"] == count).then_some(())
    });
}

pub const HASTY: &str = "interval_ms = 100, timeout_ms = 500, start_period_ms = 0, retries = 1";

#[test]
fn bad_revisions_are_rolled_back_and_no_request_fails() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    serve_web(&stage, &up, 2);
    let clients = Clients::of(&up, WEB);
    clients.served_more(20);
    let bad = [
        ("exits", "probe-cli", "command = [\"clock\"]", "ended"),
        ("traps", "probe-http", "http = \"/panic\"", "GET /panic on port 80 answered 502"),
        (
            "never listens",
            "probe-cli",
            "command = [\"sleep\", \"600000\"]",
            "did not answer within",
        ),
        ("loops", "probe-http", "http = \"/spin\"", "GET /spin on port 80 did not answer within"),
        ("hangs", "probe-http", "http = \"/sleep?ms=60000\"", "did not answer within 500ms"),
        ("wrong status", "probe-http", "http = \"/nope\"", "GET /nope on port 80 answered 404"),
    ];
    for (what, program, line, want) in bad {
        let more = match line.strip_prefix("http") {
            Some(_) => format!("health = {{ {line}, {HASTY} }}"),
            None => format!("{line}\nhealth = {{ {HASTY} }}"),
        };
        let revision = register(&stage, program, &more);
        let err = update(&stage, &revision, &["--timeout", "90s"]).fails(1);
        assert!(
            err.contains("failed and was rolled back to `web:1`: 3 tasks failed in a row")
                && err.contains(want)
                && err.contains("hint: margay service events web --cluster main"),
            "{what}: {err}"
        );
        let table = stage.margay([&["service", "ls"], &CLUSTER[..]].concat()).ok();
        assert!(
            table.contains("web:1") && table.contains(&format!("rolled back from {revision}")),
            "{what}: {table}"
        );
        eventually("the roll-back is completed", || {
            (service(&stage)["status"]["deployments"][0]["state"] == "completed").then_some(())
        });
        clients.served_more(20);
    }
    assert_eq!(service(&stage)["status"]["serving"], serde_json::json!(["web:1"]));
    let good = register(&stage, "probe-http", "");
    update(&stage, &good, &[]).ok();
    assert_eq!(service(&stage)["status"]["serving"], serde_json::json!([good]));
    clients.served_more(20);
    clients.end();
    up.end();
    stage.is_empty();
}

#[test]
fn a_rollout_is_paused_resumed_undone_and_told() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    serve_web(&stage, &up, 2);
    let rollout = |verb: &str, more: &[&str]| {
        stage.margay([&["service", "rollout", verb, "web"], &CLUSTER[..], more].concat())
    };
    let err = rollout("undo", &[]).fails(1);
    assert!(err.contains("no deployment of another revision of service `web`"), "{err}");
    let err = rollout("undo", &["--to", "7"]).fails(1);
    assert!(err.contains("deployment `7`") && err.contains("rollout history web"), "{err}");
    rollout("pause", &[]).ok();
    let second = register(&stage, "probe-http", "env = { REVISION = \"2\" }");
    let err = update(&stage, &second, &["--timeout", "1s"]).fails(1);
    assert!(err.contains("deployment 2 of service `web` goes on: the rollout is paused"), "{err}");
    let status = rollout("status", &[]).ok();
    assert!(status.contains("paused") && status.contains(&second), "{status}");
    assert_eq!(service(&stage)["status"]["serving"], serde_json::json!(["web:1"]));
    rollout("resume", &[]).ok();
    eventually("it goes on", || {
        (service(&stage)["status"]["serving"] == serde_json::json!([second])).then_some(())
    });
    eventually("it is completed", || {
        rollout("status", &[]).out.contains("completed").then_some(())
    });
    rollout("undo", &[]).ok();
    eventually("the first revision is back", || {
        (service(&stage)["status"]["serving"] == serde_json::json!(["web:1"])).then_some(())
    });
    let history = rollout("history", &[]).ok();
    assert_eq!(history.lines().count(), 4, "{history}");
    let said = stage.margay([&["service", "events", "web"], &CLUSTER[..]].concat()).ok();
    for event in [
        "deployment 1 of `web:1` began",
        "the rollout was paused",
        "the rollout was resumed",
        "deployment 2 of `web:2` completed: every replica is ready",
        "deployment 3 of `web:1` began",
    ] {
        assert!(said.contains(event), "no `{event}` in {said}");
    }
    let err = update(&stage, &second, &["--min-healthy", "100", "--max-percent", "100"]).fails(1);
    assert!(err.contains("no replica can be replaced with `minimum_healthy_percent` 100"), "{err}");
    up.end();
    stage.is_empty();
}

#[test]
fn a_frozen_replica_is_left_out_within_two_seconds_and_comes_back() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    serve_web(&stage, &up, 2);
    let clients = Clients::of(&up, WEB);
    clients.served_more(20);
    let worker = stage
        .processes()
        .into_iter()
        .filter(|(_, line)| line.contains(" worker"))
        .find(|(pid, _)| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok() && serves(*pid))
        .expect("a worker that serves")
        .0;
    // Requests that have a body stay with the frozen replica, and are answered when it thaws.
    signal(worker, "STOP");
    eventually("it is seen by the ingress", || {
        std::thread::sleep(Duration::from_secs(2));
        Some(())
    });
    clients.served_more(20);
    signal(worker, "CONT");
    clients.served_more(50);
    clients.end();
    up.end();
    stage.is_empty();
}

#[test]
fn a_frozen_replica_or_node_elsewhere_is_left_out_within_two_seconds() {
    let (stage, other) = (Stage::new(), Stage::new());
    let up = Up::start(&stage);
    let token = stage.margay(["node", "token"]).ok();
    let mut node = other.start(["node", "join", token.trim(), "--name", "second"]);
    assert_eq!(node.line(), "second");
    serve_web(&stage, &up, 2);
    let worker = || {
        let workers = other.processes().into_iter().filter(|(_, line)| line.contains(" worker"));
        workers.map(|(pid, _)| pid).find(|pid| serves(*pid))
    };
    let worker = eventually("a copy runs on the second node", worker);
    let clients = Clients::of(&up, WEB);
    clients.served_more(50);
    let everything = || other.processes().into_iter().map(|(pid, _)| pid).collect::<Vec<_>>();
    for frozen in [vec![worker], everything()] {
        frozen.iter().for_each(|pid| signal(*pid, "STOP"));
        std::thread::sleep(Duration::from_secs(2));
        let mut connection = None;
        for _ in 0..20 {
            let began = Instant::now();
            let status = ask(&mut connection, &up.ingress, WEB, "").expect("an answer");
            let took = began.elapsed();
            assert!(status == 200 && took < Duration::from_secs(1), "{status} after {took:?}");
        }
        frozen.iter().for_each(|pid| signal(*pid, "CONT"));
        clients.served_more(200);
    }
    clients.end();
    for (pid, _) in other.processes() {
        signal(pid, "KILL");
    }
    drop(node);
    up.end();
    stage.is_empty();
    other.is_empty();
}

/// Whether a worker has a guest: a spare one has no socket of a task.
fn serves(pid: i32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    threads > 1
}

#[test]
fn a_linux_program_that_never_listens_is_not_ready_and_says_so() {
    if !native::ready() {
        return;
    }
    let stage = Stage::new();
    let up = Up::start(&stage);
    native::build(&stage, "still", "CMD [\"/bin/busybox\", \"sleep\", \"600\"]");
    let image = format!("{}/me/still:v1", up.registry);
    stage.margay(["login", "-u", "me", &up.registry]).ok();
    stage.margay(["tag", "still", &image]).ok();
    stage.margay(["push", &image]).ok();
    stage.margay(["cluster", "create", "main"]).ok();
    for (name, port) in [
        ("http", "{ container_port = 80 }"),
        ("tcp", "{ container_port = 80, protocol = \"tcp\" }"),
    ] {
        let definition = format!(
            "family = \"{name}\"\n[[containers]]\nname = \"app\"\nimage = \"still:v1\"\n\
             ports = [{port}]\nhealth = {{ {HASTY} }}\n"
        );
        let file = stage.write("still.toml", definition).display().to_string();
        stage.margay(["task", "register", &file]).ok();
        let task = format!("{name}:1");
        let create = ["service", "create", name, "--task", &task, "--timeout", "60s"];
        let err = stage.margay([&create[..], &CLUSTER].concat()).fails(1);
        assert!(
            err.contains("3 tasks failed in a row") && err.contains("nothing listens on port 80"),
            "{name}: {err}"
        );
        stage.margay([&["service", "rm", name], &CLUSTER[..]].concat()).ok();
    }
    up.end();
    stage.is_empty();
}
