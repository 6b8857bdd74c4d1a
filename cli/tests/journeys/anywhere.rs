//! Tasks of a platform seen from a machine that has nothing but a credential: logs, programs,
//! connections, statistics, events and explanations, on whichever node.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Stdio,
};

use serde_json::Value;

use crate::{
    images, native,
    stage::{Said, Stage, eventually, signal},
    up::{Up, serve_cats},
};

/// A machine with a credential of `tenant`.
struct Elsewhere {
    stage: Stage,
    file: String,
}

impl Elsewhere {
    fn of(platform: &Stage, tenant: &str, scope: &str) -> Self {
        let stage = Stage::new();
        let name = format!("{tenant}-{scope}");
        let create = ["credential", "create", &name, "--tenant", tenant, "--scope", scope];
        let file = stage.write("credential.json", platform.margay(create).ok());
        Self { stage, file: file.display().to_string() }
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = self.stage.command(arguments);
        command.env("MARGAY_CREDENTIAL", &self.file);
        command
    }

    fn margay(&self, arguments: &[&str]) -> Said {
        crate::stage::said(self.command(arguments).output().expect("margay runs"))
    }
}

fn tasks_of(stage: &Stage, service: &str) -> Vec<(String, String)> {
    let out = stage.margay(["task", "ls", "--service", service, "--output", "json"]).ok();
    let list: Value = serde_json::from_str(&out).expect("JSON");
    let running = list.as_array().expect("a list").iter();
    let running = running.filter(|task| task["status"]["phase"] == "running");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    running.map(|task| (text(&task["id"]), text(&task["spec"]["node"]))).collect()
}

#[test]
fn an_ended_task_a_service_and_a_port_are_seen_from_another_machine() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    serve_cats(&stage, &up, 1);
    let far = Elsewhere::of(&stage, "me", "deploy");
    images::build(&stage, "hello").ok();
    let image = format!("{}/me/hello:v1", up.registry);
    stage.margay(["tag", "hello", &image]).ok();
    stage.margay(["push", &image]).ok();
    let definition =
        format!("family = \"hello\"\n[[containers]]\nname = \"app\"\nimage = \"{image}\"\n");
    let definition = stage.write("hello.toml", definition).display().to_string();
    far.margay(&["task", "register", &definition]).ok();
    let task = far.margay(&["task", "run", "hello:1", "--cluster", "allthecats"]).ok();
    let task = task.trim();
    let ended = || {
        let listed = far.margay(&["task", "ls", "-a", "--output", "json"]).ok();
        let listed: Value = serde_json::from_str(&listed).expect("JSON");
        let mut tasks = listed.as_array().expect("a list").iter();
        let it = tasks.find(|one| one["id"] == task).expect("it is listed").clone();
        (it["status"]["phase"] == "stopped").then_some(it)
    };
    let it = eventually("it ends", ended);
    assert_eq!(it["status"]["containers"][0]["exit_code"], 0, "{it}");
    // A variable that is empty names no file.
    let mut here = stage.command(["task", "ls", "-a"]);
    let said = crate::stage::said(here.env("MARGAY_CREDENTIAL", "").output().expect("it runs"));
    assert!(said.ok().contains(task));
    let table = far.margay(&["task", "ls", "-a"]).ok();
    assert!(table.lines().next().is_some_and(|line| line.contains("EXIT")), "{table}");
    let log = far.margay(&["logs", task]).ok();
    assert!(log.to_lowercase().contains("hello"), "{log}");
    assert_eq!(far.margay(&["logs", "--grep", "no such words", task]).ok(), "");
    assert_eq!(far.margay(&["logs", "--tail", "1", "-t", task]).ok().lines().count(), 1);
    let inspected: Value =
        serde_json::from_str(&far.margay(&["task", "inspect", task]).ok()).expect("JSON");
    assert_eq!(inspected[0]["id"], task);
    let said = far.margay(&["explain", "task", task]).ok();
    assert!(said.contains("it has ended") && said.contains("exit code 0"), "{said}");
    let events = far.margay(&["events", "--until", "0s", "--filter", &format!("task={task}")]).ok();
    assert!(events.contains("it ended") && events.contains("exit code 0"), "{events}");
    let err = far.margay(&["exec", task, "/x"]).fails(125);
    assert!(err.contains("is not running: it has exited with 0"), "{err}");

    let said = far.margay(&["explain", "service", "cats", "--cluster", "allthecats"]).ok();
    assert!(said.contains("1 of 1 copies are ready"), "{said}");
    let said = far.margay(&["explain", "route", "http://cats.allthecats.localhost/"]).ok();
    assert!(said.contains("it leads to one copy"), "{said}");
    let said = far.margay(&["explain", "route", "dogs.allthecats.localhost"]).ok();
    assert!(
        said.contains("no service of yours") && said.contains("cats.allthecats.localhost"),
        "{said}"
    );
    let said = far.margay(&["explain", "node", "local"]).ok();
    assert!(said.contains("it is ready") && said.contains("not reserved"), "{said}");
    let events = ["events", "--until", "0s", "--filter", "service=cats"];
    let events = far.margay(&events).ok();
    assert!(events.contains("service cats deployment 1 of `cats:1` began"), "{events}");
    let stats = far.margay(&["stats", "--output", "json", "cats"]).ok();
    let stats: Value = serde_json::from_str(&stats).expect("JSON");
    assert!(stats[0]["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{stats}");

    // A connection, through the control plane and the node, to where the ingress would go.
    let mut child = far.command(&["port-forward", "cats", "0:80"]).stdout(Stdio::piped()).spawn();
    let child = child.as_mut().expect("margay starts");
    let mut out = std::io::BufReader::new(child.stdout.take().expect("piped"));
    let mut address = String::new();
    std::io::BufRead::read_line(&mut out, &mut address).expect("an address");
    for _ in 0..3 {
        let mut stream = TcpStream::connect(address.trim()).expect("it listens");
        let request = b"GET / HTTP/1.1\r\nhost: cats\r\nconnection: close\r\n\r\n";
        stream.write_all(request).expect("a request");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    let err = far.margay(&["port-forward", "cats", "0:81"]).fails(1);
    assert!(err.contains("port 81 is not open") && err.contains("it has: 80"), "{err}");

    // Another tenant sees none of it, and a credential that reads runs nothing.
    let other = Elsewhere::of(&stage, "other", "manage");
    let (cats, _) = eventually("a copy runs", || tasks_of(&stage, "cats").pop());
    for refused in
        [&["logs", task][..], &["logs", "cats"], &["stats", &cats], &["exec", &cats, "x"]]
    {
        let said = other.margay(refused);
        assert!(said.code != 0 && said.err.contains("no task or service is called"), "{said:?}");
    }
    let reader = Elsewhere::of(&stage, "me", "read");
    let said = reader.margay(&["exec", &cats, "x"]);
    assert!(said.err.contains("has the scope `read`, and this needs `deploy`"), "{said:?}");
    reader.margay(&["logs", "--tail", "1", task]).ok();
    let audit = stage.margay(["audit", "--since", "1h"]).ok();
    for line in [format!("/v1/tasks/{cats}/exec"), format!("/v1/tasks/{task}/logs")] {
        assert!(audit.contains(&line), "{line}: {audit}");
    }
    up.end();
    stage.is_empty();
}

/// Needs root, runc and busybox.
#[test]
fn copies_on_two_nodes_are_followed_and_joined_and_a_lost_node_is_told() {
    if !native::ready() {
        return;
    }
    let (stage, other) = (Stage::new(), Stage::new());
    let up = Up::start(&stage);
    let token = stage.margay(["node", "token"]).ok();
    let mut node =
        other.start(["node", "join", token.trim(), "--name", "second", "--zone", "elsewhere"]);
    assert_eq!(node.line(), "second");
    let image = format!("{}/me/ticks:v1", up.registry);
    let ticks = "i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.2; done";
    native::build(&stage, "ticks", &format!("CMD [\"/bin/sh\", \"-c\", \"{ticks}\"]"));
    stage.margay(["login", "-u", "me", &up.registry]).ok();
    stage.margay(["tag", "ticks", &image]).ok();
    stage.margay(["push", &image]).ok();
    let definition = format!(
        "family = \"ticks\"\n[[containers]]\nname = \"app\"\nimage = \"{image}\"\ncpu_millis = 10\n\
         memory_soft_bytes = 33554432\n"
    );
    let definition = stage.write("ticks.toml", definition).display().to_string();
    stage.margay(["task", "register", &definition]).ok();
    stage.margay(["cluster", "create", "main"]).ok();
    let create = ["service", "create", "ticks", "--task", "ticks:1", "--cluster", "main"];
    stage.margay([&create[..], &["--count", "2"]].concat()).ok();
    let copies = eventually("two copies run on two nodes", || {
        let copies = tasks_of(&stage, "ticks");
        (copies.len() == 2 && copies[0].1 != copies[1].1).then_some(copies)
    });
    let far = Elsewhere::of(&stage, "me", "deploy");
    let log = far.margay(&["logs", "--tail", "2", "ticks"]).ok();
    for (task, _) in &copies {
        assert_eq!(log.lines().filter(|line| line.starts_with(task.as_str())).count(), 2, "{log}");
    }
    let on = |name: &str| copies.iter().find(|(_, node)| node == name).expect("one").0.clone();
    let (here, there) = (on("local"), on("second"));
    for task in [&here, &there] {
        let said = far.margay(&["exec", task, "sh", "-c", "echo out; echo err >&2; exit 7"]);
        assert_eq!((said.out.as_str(), said.err.as_str(), said.code), ("out\n", "err\n", 7));
        let err = far.margay(&["exec", task, "nope"]).fails(127);
        assert!(err.contains("`nope`: executable file not found"), "{err}");
    }
    let mut cat = far.command(&["exec", "-i", &there, "cat"]);
    let mut cat = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("margay starts");
    let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let (mut stdin, fed) = (cat.stdin.take().expect("piped"), sent.clone());
    let feeder = std::thread::spawn(move || stdin.write_all(&fed));
    let got = cat.wait_with_output().expect("margay ends").stdout;
    feeder.join().expect("fed").expect("all of it");
    assert!(got == sent, "{} bytes of {}", got.len(), sent.len());

    // A client that goes away takes its program with it, also one that reads nothing of what was
    // sent to it.
    let zero = std::fs::File::open("/dev/zero").expect("it is there");
    let mut sleeper = far.command(&["exec", "-i", &there, "sleep", "4242"]);
    let mut sleeper = sleeper.stdin(zero).spawn().expect("it starts");
    let runs = || {
        let lines = std::fs::read_dir("/proc").expect("/proc").flatten();
        let lines = lines.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        lines.filter(|line| line.as_slice() == b"sleep\x004242\0").count()
    };
    eventually("the program runs", || (runs() == 1).then_some(()));
    std::thread::sleep(std::time::Duration::from_secs(1)); // until every buffer on the way is full
    signal(sleeper.id().cast_signed(), "INT");
    assert_eq!(sleeper.wait().expect("it ends").code(), Some(130));
    eventually("its program has ended", || (runs() == 0).then_some(()));

    let mut following = far.command(&["logs", "-f", "--tail", "0", &there]);
    let following = following.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut following = following.expect("margay starts");
    let mut lines = std::io::BufReader::new(following.stdout.take().expect("piped"));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut lines, &mut line).expect("a line");
    assert!(line.starts_with("tick "), "{line}");
    // The node and its ingress; the shim and its program run on, for the next agent.
    let is_of_node = |line: &str| line.contains(" node ") || line.contains(" ingress ");
    for (pid, _) in other.processes().into_iter().filter(|(_, line)| is_of_node(line)) {
        signal(pid, "KILL");
    }
    let _ = lines.read_to_end(&mut Vec::new());
    let said = crate::stage::said(following.wait_with_output().expect("margay ends"));
    let err = said.fails(1);
    assert!(err.contains("node `second` is gone: the stream broke off"), "{err}");
    assert!(err.contains("hint: see how it is: margay node ls"), "{err}");
    let said = far.margay(&["logs", &there]);
    assert!(said.code == 1 && said.err.contains("`second`"), "{said:?}");
    drop(node);
    let node = other.start(["node"]);
    far.margay(&["service", "delete", "ticks", "--cluster", "main"]).ok();
    eventually("every copy has ended", || {
        let listed = far.margay(&["task", "ls", "--service", "ticks", "--output", "json"]).ok();
        (listed.trim() == "[]").then_some(())
    });
    node.signal("INT");
    assert_eq!(node.end().code, 0);
    up.end();
    stage.is_empty();
    other.is_empty();
}
