//! Ports of services that speak no HTTP: Redis of Debian as a service. It needs root, an OCI
//! runtime, and what `tests/fetch-servers` has unpacked; without, the journey says that it did not
//! run.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{
    servers,
    stage::{Stage, eventually},
    up::{Up, running_tasks},
};

const CLUSTER: [&str; 2] = ["--cluster", "allthecats"];

/// Redis with the libraries that it links to, and nothing else, as an image of the registry.
fn push_redis(stage: &Stage, up: &Up, root: &Path) -> String {
    let server = root.join("usr/bin/redis-server");
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let linked = Command::new("ldd").env("LD_LIBRARY_PATH", &libraries).arg(&server).output();
    let linked = String::from_utf8(linked.expect("ldd").stdout).expect("text");
    let paths = linked.split_whitespace().filter(|word| word.starts_with('/'));
    for path in paths.map(Path::new) {
        let name = path.file_name().expect("a library").to_str().expect("text");
        let folder = if name.starts_with("ld-linux") { "lib64" } else { "lib/x86_64-linux-gnu" };
        stage.write(&format!("redis/{folder}/{name}"), fs::read(path).expect("a library"));
    }
    let program = stage.write("redis/redis-server", fs::read(&server).expect("a program"));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(program, mode).expect("a mode");
    let _ = fs::set_permissions(
        stage.path("redis/lib64/ld-linux-x86-64.so.2"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    );
    stage.write(
        "redis/Dockerfile",
        "FROM scratch\nCOPY lib/ /lib/\nCOPY lib64/ /lib64/\nCOPY redis-server /\n\
         ENTRYPOINT [\"/redis-server\", \"--bind\", \"0.0.0.0\", \"--protected-mode\", \"no\", \
         \"--save\", \"\"]\n",
    );
    let image = format!("{}/me/redis:v1", up.registry);
    stage.margay(["build", "-t", &image, "redis"]).ok();
    stage.margay(["login", "-u", "me", &up.registry]).ok();
    stage.margay(["push", &image]).ok();
    image
}

/// What Redis answers at `port` to one command, over a connection of its own.
fn say(port: u16, command: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(format!("{command}\r\n").as_bytes()).ok()?;
    let mut answer = [0; 512];
    let read = stream.read(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer[..read]).into_owned()).filter(|text| !text.is_empty())
}

fn free_ports() -> u16 {
    let free = || TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().unwrap().port();
    let pair = |port: &u16| TcpListener::bind(("127.0.0.1", port + 1)).is_ok();
    std::iter::repeat_with(free).take(50).find(pair).expect("two free ports in a row")
}

/// Clients that come one after the other until they are asked to end.
struct Load {
    ends: Arc<AtomicBool>,
    clients: Vec<thread::JoinHandle<(usize, usize)>>,
}

impl Load {
    fn start(port: u16) -> (Self, Arc<AtomicUsize>) {
        let (ends, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let clients = (0..4).map(|_| {
            let (ends, asked) = (ends.clone(), asked.clone());
            thread::spawn(move || {
                let (mut good, mut bad) = (0, 0);
                while !ends.load(Ordering::Relaxed) {
                    match say(port, "PING").as_deref() {
                        Some("+PONG\r\n") => good += 1,
                        _ => bad += 1,
                    }
                    asked.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(5));
                }
                (good, bad)
            })
        });
        (Self { clients: clients.collect(), ends }, asked)
    }

    fn end(self) -> (usize, usize) {
        self.ends.store(true, Ordering::Relaxed);
        let counts = self.clients.into_iter().map(|client| client.join().expect("a client"));
        counts.fold((0, 0), |(good, bad), (more, worse)| (good + more, bad + worse))
    }
}

#[test]
fn redis_has_a_port_of_the_ingress_and_answers_through_a_rolling_deployment() {
    let Some(root) = servers::rootfs() else { return };
    let stage = Stage::new();
    let port = free_ports();
    let range = format!("{port}-{}", port + 1);
    let up = Up::start_with(&stage, &["--ingress-ports", &range]);
    let image = push_redis(&stage, &up, &root);
    stage.margay(["cluster", "create", "allthecats"]).ok();
    let definition = |grace: u32| {
        let text = format!(
            "family = \"redis\"\n[[containers]]\nname = \"redis\"\nimage = \"{image}\"\n\
             ports = [{{ container_port = 6379, protocol = \"tcp\" }}]\n\
             stop_timeout_seconds = {grace}\n"
        );
        let file = stage.write("redis.toml", text).display().to_string();
        stage.margay(["task", "register", &file]).ok().trim().to_owned()
    };
    let (first, second) = (definition(5), definition(6));
    let create = |name: &str, more: &[&str]| {
        let words = ["service", "create", name, "--task", &first];
        stage.margay([&words[..], &CLUSTER, more].concat())
    };
    let (listener, other) = (format!("{port}:6379"), format!("{}", port + 1));
    let said = create("redis", &["--count", "2", "--listener", &listener]);
    assert!(said.err.contains(&format!("Reach it at tcp://127.0.0.1:{port}")), "{said:?}");
    said.ok();
    eventually("it answers", || say(port, "PING").filter(|said| said == "+PONG\r\n"));
    assert!(TcpStream::connect(("127.0.0.1", port + 1)).is_err(), "no service has the other port");
    let listed = stage.margay(["service", "ls"]).ok();
    assert!(listed.contains(&format!("{port}/tcp")), "{listed}");

    for (name, more, want) in [
        ("two", &["--listener", &listener][..], "is that of service `redis` in cluster"),
        ("two", &["--listener", "1"], "none of those that the operator has set aside"),
        ("two", &["--listener", &format!("{other}:80")], "has no port 80/tcp"),
        ("two", &["--listener", "20000/sctp"], "is no listener"),
        ("two", &["--listener-proxy-protocol"], "--listener <PORT"),
        ("two", &["--listener", &other, "--listener-source", "10.0.0.1/8"], "is no network"),
    ] {
        let said = create(name, &[more, &["--detach"]].concat());
        assert!(said.code != 0 && said.err.contains(want), "{more:?}: {said:?}");
    }

    // A connection stays with its replica; others come and go while all replicas change.
    let (load, asked) = Load::start(port);
    let update = ["service", "update", "redis", "--task", &second];
    stage.margay([&update[..], &CLUSTER].concat()).ok();
    let before = asked.load(Ordering::Relaxed);
    eventually("some more clients", || (asked.load(Ordering::Relaxed) > before + 50).then_some(()));
    let (good, bad) = load.end();
    assert!(good > 100 && bad == 0, "{bad} of {} connections failed", good + bad);
    assert_eq!(running_tasks(&stage).len(), 2);

    // From another network than the one that is named no client is let in.
    let update = |more: &[&str]| {
        stage.margay([&["service", "update", "redis"], &CLUSTER[..], more].concat()).ok()
    };
    update(&["--listener", &listener, "--listener-source", "10.0.0.0/8"]);
    eventually("it is closed to this machine", || say(port, "PING").is_none().then_some(()));
    update(&["--listener", &other, "--listener-source", "127.0.0.0/8"]);
    eventually("it has another port", || say(port + 1, "PING"));
    eventually("and not the one before", || TcpStream::connect(("127.0.0.1", port)).err());
    update(&["--no-listeners"]);
    eventually("and then none", || TcpStream::connect(("127.0.0.1", port + 1)).err());
    create("two", &["--listener", &listener]).ok();
    up.end();
    stage.is_empty();
}
