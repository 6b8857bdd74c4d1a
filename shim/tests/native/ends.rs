use std::{
    net::TcpStream,
    path::Path,
    process::{Command, Stdio as Stdin},
    time::{Duration, Instant},
};

use engine::Exit;
use shim::{Adopted, Layer, Runtime, Swept, Task};

use crate::{
    fixture::{TestShim, config, exe, plain, processes},
    streams::{get, served},
};

pub fn no_program(fixture: &TestShim) {
    let error = fixture.spawn(fixture.assignment(&["/bin/nothing"])).unwrap_err();
    assert_eq!((error.code(), error.exit_code()), ("E_START", 127), "{error}");
    assert!(error.to_string().contains("/bin/nothing"), "{error}");
    let error = fixture.spawn(fixture.assignment(&["/etc/passwd"])).unwrap_err();
    assert_eq!((error.code(), error.exit_code()), ("E_START", 126), "{error}");
    let error = fixture.spawn(fixture.assignment(&[])).unwrap_err();
    assert_eq!(error.code(), "E_CONFIG", "{error}");
}

pub fn oom(fixture: &TestShim) {
    let mut assignment =
        fixture.shell("echo begin; dd if=/dev/zero of=/dev/null bs=200M count=1; exit $?");
    assignment.limits.memory_bytes_max = 32 << 20;
    let (exit, usage, _) = fixture.run(assignment);
    assert_eq!((exit.code(), exit.reason()), (137, Some("oom")), "{exit:?}");
    assert!(exit.message().unwrap().contains("32MiB"), "{exit:?}");
    assert!(usage.failed_runs == 1 && usage.memory_bytes_peak > 16 << 20, "{usage:?}");
}

pub fn oom_of_a_child(fixture: &TestShim) {
    let hog = "dd if=/dev/zero of=/dev/null bs=200M count=1; echo child $?";
    let start = |rest: &str| {
        let mut assignment = fixture.shell(&format!("{hog}; {rest}"));
        assignment.limits.memory_bytes_max = 32 << 20;
        let task = fixture.spawn(assignment).unwrap();
        fixture.wait_for("the end of the child", || fixture.log().contains("child 137"));
        task
    };
    assert_eq!(start("exit 0").wait().unwrap().0, Exit::Code(0));
    std::fs::remove_file(fixture.folder().join("log")).unwrap();
    let task = start("trap '' TERM; sleep 1000");
    task.kill(9).unwrap();
    assert_eq!(task.wait().unwrap().0, Exit::Signal(9), "a user killed it, not the kernel");
    std::fs::remove_file(fixture.folder().join("log")).unwrap();
    let task = start("trap '' TERM; sleep 1000");
    task.stop(Duration::from_millis(100)).unwrap();
    assert_eq!(
        task.wait().unwrap().0,
        Exit::Stopped(137),
        "it was stopped, and is not out of memory"
    );
}

pub fn stop_signals(fixture: &TestShim) {
    for (name, number) in
        [("SIGRTMIN+3", 37), ("37", 37), ("SIGPWR", 30), ("SIGWINCH", 28), ("SIGQUIT", 3)]
    {
        let script =
            format!("trap 'exit {number}' {number}; echo ready; while true; do sleep 0.05; done");
        let mut assignment = fixture.shell(&script);
        assignment.program.config = config(|image| image.stop_signal = Some(name.to_owned()));
        let task = fixture.spawn(assignment).unwrap();
        fixture.wait_for("ready", || fixture.log().contains("ready"));
        task.stop(Duration::from_secs(20)).unwrap();
        assert_eq!(task.wait().unwrap().0, Exit::Stopped(number), "{name}");
        std::fs::remove_file(fixture.folder().join("log")).unwrap();
    }
    let mut assignment = fixture.shell("true");
    assignment.program.config = config(|image| image.stop_signal = Some("SIGCATS".to_owned()));
    let error = fixture.spawn(assignment).unwrap_err();
    assert_eq!(error.code(), "E_CONFIG");
    assert!(error.to_string().contains("STOPSIGNAL `SIGCATS`"), "{error}");
}

pub fn fork_bomb(fixture: &TestShim) {
    // A bomb that keeps still once it is full, so that it can be counted: the shell that cannot
    // fork any more ends, and the first process, which the container would end with, forks nothing
    // but it.
    let script = "(i=0; while [ $i -lt 600 ]; do sleep 1000 & i=$((i+1)); echo $i; done); echo full; exec sleep 1000";
    let task = fixture.spawn(fixture.shell(script)).unwrap();
    fixture.wait_for("the limit", || fixture.log().contains("full"));
    let started = fixture.log().lines().filter_map(|line| line.parse().ok()).max().unwrap_or(0);
    assert!((400..512).contains(&started), "{started} processes were started");
    let alive = processes(fixture.root.path()).len();
    assert!((400..=512).contains(&alive), "{alive} processes");
    task.stop(Duration::ZERO).unwrap();
    assert_eq!(task.wait().unwrap().0, Exit::Stopped(137));
}

pub fn log_flood(fixture: &TestShim) {
    let mut assignment = fixture
        .shell("yes aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa | head -c 50000000");
    assignment.limits.log_bytes_max = 1 << 20;
    assert_eq!(fixture.run(assignment).0, Exit::Code(0));
    let log = std::fs::read(fixture.folder().join("log")).unwrap();
    assert!(log.len() <= 2 << 20, "{} bytes", log.len());
    let kept = fixture.log().len() as u64;
    assert!(kept >= 1 << 20, "{kept} bytes of text");
    // Its last line has no end.
    let all = spec::LogHead::of(&log).text + kept;
    assert!((50_000_000..=50_000_001).contains(&all), "{all}");
}

pub fn time_limits(fixture: &TestShim) {
    let mut assignment = fixture.shell("sleep 100");
    assignment.limits.wall_time_max = Some(Duration::from_secs(1));
    assert_eq!(fixture.run(assignment).0.reason(), Some("wall-time"));
    let mut assignment = fixture.shell("while true; do true; done");
    assignment.limits.cpu_time_max = Some(Duration::from_millis(500));
    let (exit, usage, _) = fixture.run(assignment);
    assert_eq!(exit.reason(), Some("cpu-time"));
    assert!(usage.cpu_ns > 500_000_000, "{usage:?}");
}

pub fn stop(fixture: &TestShim) {
    let task = fixture
        .spawn(
            fixture
                .shell("trap 'echo bye; exit 3' TERM; echo ready; while true; do sleep 0.05; done"),
        )
        .unwrap();
    fixture.wait_for("ready", || fixture.log().contains("ready"));
    task.stop(Duration::from_secs(20)).unwrap();
    assert_eq!(task.wait().unwrap().0, Exit::Stopped(3));
    assert_eq!(fixture.log(), "ready\nbye\n");
    // Before the shell has its trap, it is a program that a stop signal ends.
    for _ in 0..10 {
        let script = "trap 'exit 3' TERM; while true; do sleep 0.05; done";
        let task = fixture.spawn(fixture.shell(script)).unwrap();
        task.stop(Duration::from_secs(20)).unwrap();
        let exit = task.wait().unwrap().0;
        assert!(matches!(exit, Exit::Stopped(3 | 143)), "{exit:?}");
    }
    std::fs::remove_file(fixture.folder().join("log")).unwrap();
    let task = fixture.spawn(fixture.shell("trap '' TERM; echo deaf; sleep 1000")).unwrap();
    fixture.wait_for("deaf", || fixture.log().contains("deaf"));
    let began = Instant::now();
    task.stop(Duration::from_millis(300)).unwrap();
    assert_eq!(task.wait().unwrap().0, Exit::Stopped(137));
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(task.stop(Duration::ZERO).unwrap_err().code(), "E_SHIM_LOST");
}

pub fn adopt(fixture: &TestShim) {
    let (task, address) = served(fixture, "httpd -f -p 80 -h /srv");
    drop(task);
    let Adopted::Running(task) = Task::adopt(&fixture.folder()).unwrap() else {
        panic!("it should run")
    };
    assert!(get(&mut TcpStream::connect(address).unwrap(), "/").ends_with("cats</h1>"));
    let second = fixture.spawn(fixture.shell("true")).unwrap_err();
    assert!(second.to_string().contains("second container"), "{second}");
    assert_eq!(shim::sweep(&fixture.folder()).unwrap(), Swept::Alive);
    task.stop(Duration::from_secs(10)).unwrap();
    task.wait().unwrap();
    match Task::adopt(&fixture.folder()).unwrap() {
        Adopted::Ended(exit, usage) => {
            assert_eq!(exit, Exit::Stopped(143));
            assert!(usage.bytes_out > 0);
        }
        Adopted::Running(_) => panic!("it ended"),
    }
}

pub fn orphan(fixture: &TestShim) {
    // A supervisor of its own, killed without a word.
    let mut supervisor = Command::new(exe())
        .arg("supervise")
        .arg(fixture.folder())
        .arg(fixture.base().folder())
        .stdin(Stdin::piped())
        .spawn()
        .unwrap();
    fixture.wait_for("the container", || fixture.log().contains("ready"));
    let Adopted::Running(task) = Task::adopt(&fixture.folder()).unwrap() else {
        panic!("it should run")
    };
    assert!(!task.status().unwrap().stopping, "as long as its supervisor lives, it runs");
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    assert_eq!(task.wait().unwrap().0, Exit::Stopped(5));
}

/// The supervisor of the test above.
pub fn supervise(folder: &Path, layer: &Path) -> ! {
    let mut assignment = plain(
        Runtime::probe().unwrap(),
        folder,
        &["sh", "-c", "trap 'exit 5' TERM; echo ready; while true; do sleep 0.05; done"],
    );
    assignment.adoptable = false;
    assignment.program.layers = vec![Layer::hold(layer).unwrap()];
    let task = Task::spawn(&exe(), assignment).unwrap();
    task.wait().unwrap();
    std::process::exit(0)
}

pub fn killed_shim(fixture: &TestShim) {
    let (task, _) = served(fixture, "sleep 1000");
    let status = task.status().unwrap();
    kill(status.shim_pid as i32);
    assert_eq!(task.wait().unwrap().0.reason(), Some("lost"));
    // Dead, whether or not its parent has waited for it yet.
    let state = std::fs::read_to_string(format!("/proc/{}/stat", status.pid)).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "{state}");
    fixture.assert_nothing_left();
    assert_eq!(shim::sweep(&fixture.folder()).unwrap(), Swept::Nothing);
    assert_eq!(fixture.run(fixture.shell("exit 4")).0, Exit::Code(4), "and it can start again");
}

pub fn frozen_shim(fixture: &TestShim) {
    let task = fixture.spawn(fixture.shell("sleep 1000")).unwrap();
    let status = task.status().unwrap();
    rustix::process::kill_process(pid(status.shim_pid as i32), rustix::process::Signal::STOP)
        .unwrap();
    let began = Instant::now();
    assert_eq!(task.end(Duration::from_millis(300)).unwrap().0.reason(), Some("lost"));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    fixture.assert_nothing_left();
}

pub fn want_of_descriptors(fixture: &TestShim) {
    let task = fixture
        .spawn(fixture.shell("trap 'exit 5' TERM; while true; do sleep 0.05; done"))
        .unwrap();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let none = rustix::process::Rlimit { current: Some(3), ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, none).unwrap();
    let answers = (shim::sweep(&fixture.folder()), Task::adopt(&fixture.folder()), task.status());
    let waiting = task.clone();
    let waiter = std::thread::spawn(move || waiting.wait());
    std::thread::sleep(Duration::from_millis(300));
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    for error in [answers.0.unwrap_err(), answers.1.unwrap_err(), answers.2.unwrap_err()] {
        assert_eq!(error.code(), "E_IO", "{error}");
    }
    task.stop(Duration::from_secs(20)).expect("it was left alone");
    assert_eq!(waiter.join().unwrap().unwrap().0, Exit::Stopped(5));
}

pub fn many_waiters(fixture: &TestShim) {
    let task = fixture
        .spawn(fixture.shell("trap 'exit 5' TERM; while true; do sleep 0.05; done"))
        .unwrap();
    // More than a shim takes at a time.
    let waiters: Vec<_> = (0..80)
        .map(|_| {
            std::thread::spawn({
                let task = task.clone();
                move || task.wait()
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    assert!(!fixture.folder().join("exit.json").exists(), "it runs");
    task.stop(Duration::from_secs(20)).expect("there is still room to ask");
    for waiter in waiters {
        assert_eq!(waiter.join().unwrap().unwrap().0, Exit::Stopped(5));
    }
}

pub fn killed_container(fixture: &TestShim) {
    let task = fixture.spawn(fixture.shell("sleep 1000")).unwrap();
    kill(task.status().unwrap().pid);
    assert_eq!(task.wait().unwrap().0, Exit::Signal(9));
}

pub fn removed_folder(fixture: &TestShim) {
    let task = fixture.spawn(fixture.shell("sleep 1000")).unwrap();
    let number = task.status().unwrap().pid;
    let waiting = task.clone();
    let waiter = std::thread::spawn(move || waiting.wait());
    std::thread::sleep(Duration::from_millis(300));
    std::fs::remove_dir_all(fixture.folder()).unwrap();
    assert_eq!(task.status().unwrap_err().code(), "E_SHIM_LOST", "it cannot be found any more");
    kill(number);
    assert_eq!(
        waiter.join().unwrap().unwrap().0,
        Exit::Signal(9),
        "a client that waits is told all the same"
    );
}

fn kill(number: i32) {
    rustix::process::kill_process(pid(number), rustix::process::Signal::KILL).unwrap();
}

fn pid(number: i32) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(number).unwrap()
}
