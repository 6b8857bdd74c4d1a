//! A platform without a terminal: `up -d`, and as a service of systemd.

use std::{
    fs,
    net::TcpListener,
    os::unix::{fs::PermissionsExt as _, net::UnixDatagram},
    path::Path,
    process::Command,
    time::Duration,
};

use crate::{
    stage::{Running, Said, Stage, eventually, signal},
    up::{UP, pid_of, record},
};

/// A platform in the background, ended also when its test fails.
struct Background<'a>(&'a Stage);

impl<'a> Background<'a> {
    fn start(stage: &'a Stage) -> (Self, Said) {
        let said = stage.margay([&UP[..], &["-d"]].concat());
        (Self(stage), said)
    }
}

impl Drop for Background<'_> {
    fn drop(&mut self) {
        self.0.margay(["down"]);
    }
}

#[test]
fn an_up_in_the_background_serves_when_it_returns_and_ends_by_down() {
    let stage = Stage::new();
    let (up, said) = Background::start(&stage);
    let out = said.ok();
    assert!(out.starts_with("margay is up (") && out.contains("margay down ends it"), "{out}");
    let log = stage.home().join("run/up.log");
    assert!(out.contains(&format!("log            {}", log.display())), "{out}");
    let mode = fs::metadata(&log).expect("a log").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(stage.margay(["node", "ls"]).ok().contains("ready"));

    let pid = record(&stage)["pid"].as_i64().expect("a pid");
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let session = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(3));
    assert_eq!(session, Some(pid.to_string().as_str()), "a session of its own");
    let folder = fs::read_link(format!("/proc/{pid}/cwd")).expect("it runs");
    assert_eq!(folder, Path::new("/"));

    let err = stage.margay([&UP[..], &["-d"]].concat()).fails(1);
    assert!(err.contains("is up already") && err.contains("`margay down`"), "{err}");
    // What is said later is in the log.
    let registry = pid_of(&stage, "registry").expect("a process");
    signal(registry, "KILL");
    eventually("the log tells of it", || {
        fs::read_to_string(&log).ok()?.contains("the registry exited (signal: 9").then_some(())
    });
    stage.margay(["down"]).ok();
    drop(up);
    stage.is_empty();
}

#[test]
fn an_up_in_the_background_that_cannot_start_says_why_and_leaves_nothing() {
    let stage = Stage::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let flags = ["up", "-d", "--server-port", "0", "--ingress-port", "0", "--registry-port", &port];
    let err = stage.margay(flags).fails(1);
    assert!(err.contains(&format!("port {port} on 127.0.0.1 is taken")), "{err}");
    assert!(err.contains("hint: choose another: --registry-port PORT"), "{err}");
    stage.is_empty();

    // A process that exits at its start has said why in the log, which is shown.
    fs::create_dir_all(stage.home().join("server")).expect("a folder");
    fs::write(stage.home().join("server/store.db"), "no store").expect("a file");
    let err = Background::start(&stage).1.fails(1);
    assert!(err.contains("the server exited during start-up"), "{err}");
    assert!(err.lines().count() > 2, "what it said itself comes first: {err}");
    stage.is_empty();
}

#[test]
fn an_up_whose_caller_is_killed_before_it_serves_ends_too() {
    let stage = Stage::new();
    let caller = stage.start([&UP[..], &["-d"]].concat());
    let log = stage.home().join("run/up.log");
    eventually("it starts", || log.exists().then_some(()));
    caller.signal("KILL");
    caller.end();
    // It served already, or it has ended.
    eventually("it serves or has ended", || {
        let ended = stage.processes().is_empty();
        (ended || stage.margay(["down"]).code == 0 && stage.processes().is_empty()).then_some(())
    });
    stage.is_empty();
}

#[test]
fn a_service_manager_is_told_when_a_platform_serves_and_when_it_ends() {
    let stage = Stage::new();
    let path = stage.path("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a time");
    let heard = || {
        let mut bytes = [0; 64];
        let size = socket.recv(&mut bytes).expect("a message");
        String::from_utf8_lossy(&bytes[..size]).into_owned()
    };
    let mut command = stage.command(UP);
    command.env("NOTIFY_SOCKET", &path);
    let running = Running::of(command);
    assert_eq!(heard(), "READY=1");
    assert!(stage.margay(["node", "ls"]).ok().contains("ready"));
    running.signal("TERM");
    assert_eq!(heard(), "STOPPING=1");
    assert_eq!(running.end().code, 0);
    stage.is_empty();
}

#[test]
fn the_unit_is_one_that_systemd_takes() {
    let stage = Stage::new();
    let unit = stage.margay(["up", "--leave", "--domain", "a.example", "--systemd-unit"]).ok();
    let program = env!("CARGO_BIN_EXE_margay");
    for line in [
        &format!("ExecStart={program} up --leave --domain a.example"),
        &format!("Environment=MARGAY_HOME={}", stage.home().display()),
        "Type=notify",
        "KillMode=process",
        "Delegate=yes",
    ] {
        assert!(unit.lines().any(|found| found == line), "`{line}` in:\n{unit}");
    }
    assert!(stage.processes().is_empty(), "nothing was started");
    if !Path::new("/usr/bin/systemd-analyze").exists() {
        eprintln!("not run: systemd-analyze is not installed");
        return;
    }
    let path = stage.write("margay-journey.service", &unit);
    let checked = Command::new("systemd-analyze").arg("verify").arg(&path).output();
    let checked = checked.expect("it runs");
    let text = String::from_utf8_lossy(&checked.stderr).into_owned();
    // Of other units of this machine it may say what it likes.
    let ours: Vec<&str> = text.lines().filter(|line| line.contains("margay-journey")).collect();
    assert!(checked.status.success() && ours.is_empty(), "{text}\n{unit}");
}
