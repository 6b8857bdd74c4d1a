//! Another program in a task that runs.

use std::{
    io::{Read as _, Write as _},
    os::fd::{AsFd as _, OwnedFd},
    process::Stdio,
};

use rustix::{
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use crate::{
    native::{build, ready},
    stage::{Said, Stage, eventually, samples},
};

/// A Linux task `tom` that sleeps.
fn sleeping() -> Option<Stage> {
    if !ready() {
        return None;
    }
    let stage = Stage::new();
    build(&stage, "sleeper", "ENV A=image\nWORKDIR /srv\nCMD [\"/bin/sleep\", \"600\"]");
    stage.margay(["run", "-d", "--name", "tom", "sleeper"]).ok();
    Some(stage)
}

fn end(stage: &Stage) {
    stage.margay(["stop", "--time", "0", "tom"]).ok();
    stage.is_empty();
}

/// `margay exec tom sh -c LINE`.
fn sh(stage: &Stage, line: &str) -> Said {
    stage.margay(["exec", "tom", "sh", "-c", line])
}

#[test]
fn a_program_joins_a_linux_task_with_its_folder_variables_and_walls() {
    let Some(stage) = sleeping() else { return };
    assert_eq!(sh(&stage, "echo $A $HOME; echo $PWD; hostname").ok(), "image /\n/srv\nsleeper\n");
    let said = sh(&stage, "echo out; echo err >&2; exit 7");
    assert_eq!((said.out.as_str(), said.err.as_str(), said.code), ("out\n", "err\n", 7));
    let said = stage.margay(["exec", "-e", "A=b", "-w", "/bin", "tom", "sh", "-c", "echo $A $PWD"]);
    assert_eq!(said.ok(), "b /bin\n");
    // The walls of its first process, line by line.
    let walls = |pid: &str| {
        let status = stage.margay(["exec", "tom", "cat", &format!("/proc/{pid}/status")]).ok();
        let walls = status.lines().filter(|line| {
            ["Uid", "Gid", "Groups", "Cap", "Seccomp:", "NoNewPrivs"]
                .iter()
                .any(|start| line.starts_with(start))
        });
        walls.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(walls("self"), walls("1"));
    assert!(walls("self").contains(&"Seccomp:\t2".to_owned()));
    assert!(walls("self").contains(&"NoNewPrivs:\t0".to_owned()));
    let cgroup = |pid| stage.margay(["exec", "tom", "cat", &format!("/proc/{pid}/cgroup")]).ok();
    assert_eq!(cgroup("self"), cgroup("1"));
    // It holds its three streams, and the folder that it looks at.
    let held = sh(&stage, "echo /proc/self/fd/*").ok();
    assert_eq!(held.split_whitespace().count(), 4, "{held}");
    end(&stage);
}

#[test]
fn a_program_that_cannot_run_says_why_and_exits_as_with_docker() {
    let Some(stage) = sleeping() else { return };
    for (arguments, code, why) in [
        (&["tom", "nope"][..], 127, "`nope`: executable file not found in $PATH"),
        (&["tom", "/nope"], 127, "`/nope`: no such file"),
        (&["tom", "/etc/passwd"], 126, "`/etc/passwd`: permission denied"),
        (&["-w", "/nope", "tom", "echo"], 126, "`/nope`"),
        (&["-w", "proc", "tom", "echo"], 125, "`proc`"),
        (&["-u", "ghost", "tom", "echo"], 126, "`ghost`"),
        (&["gone", "echo"], 125, "`gone`"),
        (&["tom"], 2, "no program"),
        (&["-it", "tom", "echo"], 2, "-i and -t together need a terminal"),
    ] {
        let said = stage.margay(["exec"].iter().chain(arguments));
        let err = said.fails(code);
        assert!(err.contains(why), "{arguments:?}: {err}");
    }
    // A link of the container that would lead to a folder of the host leads nowhere.
    let err = stage.margay(["exec", "-w", "/proc/self/fd/0", "tom", "echo"]).fails(126);
    assert!(err.contains("/proc/self/fd/0"), "{err}");
    assert_eq!(sh(&stage, "kill -9 $$").code, 137);
    stage.margay(["stop", "--time", "0", "tom"]).ok();
    let err = stage.margay(["exec", "tom", "echo"]).fails(125);
    assert!(err.contains("`tom` is not running: it has exited with"), "{err}");
    stage.is_empty();
}

#[test]
fn streams_of_any_length_arrive_and_a_reader_that_leaves_ends_its_writer() {
    let Some(stage) = sleeping() else { return };
    let sent: Vec<u8> = (0..10_000_000u32).map(|n| (n % 251) as u8).collect();
    let mut command = stage.command(["exec", "-i", "tom", "cat"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("margay starts");
    let mut stdin = child.stdin.take().expect("piped");
    let fed = sent.clone();
    let feeder = std::thread::spawn(move || stdin.write_all(&fed));
    let got = child.wait_with_output().expect("margay ends").stdout;
    feeder.join().expect("fed").expect("all of it");
    assert!(got == sent, "{} bytes of {}", got.len(), sent.len());

    // `yes | head -1`, with the reader on this side.
    let mut command = stage.command(["exec", "tom", "busybox", "yes"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("margay starts");
    let mut line = [0; 2];
    let mut stdout = child.stdout.take().expect("piped");
    stdout.read_exact(&mut line).expect("a line");
    drop(stdout);
    assert_eq!(child.wait().expect("margay ends").code(), Some(141), "SIGPIPE");
    end(&stage);
}

#[test]
fn a_signal_reaches_the_program_and_the_death_of_the_client_does_not() {
    let Some(stage) = sleeping() else { return };
    let line = "trap 'echo caught; exit 3' USR1; echo ready; while :; do sleep 0.05; done";
    let mut client = stage.start(["exec", "tom", "sh", "-c", line]);
    assert_eq!(client.line(), "ready");
    client.signal("USR1");
    let said = client.end();
    assert_eq!((said.out.as_str(), said.code), ("caught\n", 3), "{}", said.err);

    // As with Docker: it goes on, and nothing that it writes holds it up.
    let line = "echo ready; busybox yes | busybox head -c 1000000; touch /tmp/went-on";
    let mut client = stage.start(["exec", "tom", "sh", "-c", line]);
    assert_eq!(client.line(), "ready");
    client.signal("KILL");
    client.end();
    let went_on = || (sh(&stage, "[ -e /tmp/went-on ]").code == 0).then_some(());
    eventually("the program goes on", went_on);
    stage.margay(["exec", "-d", "tom", "touch", "/tmp/detached"]).ok();
    let detached = || (sh(&stage, "[ -e /tmp/detached ]").code == 0).then_some(());
    eventually("the detached program ran", detached);
    end(&stage);
}

#[test]
fn a_program_has_a_terminal_with_the_size_of_the_clients() {
    let Some(stage) = sleeping() else { return };
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&ours).and_then(|()| unlockpt(&ours)).expect("a terminal");
    let mut ours = std::fs::File::from(ours);
    size_of(&ours, 33, 77);
    let theirs = ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a peer");
    let copy = || -> OwnedFd { theirs.as_fd().try_clone_to_owned().expect("a copy") };
    let mut command = stage.command(["exec", "-it", "tom", "sh"]);
    command.stdin(copy()).stdout(copy()).stderr(copy());
    let mut child = command.spawn().expect("margay starts");
    drop((command, theirs));
    let mut text = String::new();
    let mut until = |ours: &mut std::fs::File, word: &str| {
        while !text.contains(word) {
            let mut bytes = [0; 1024];
            let read = ours.read(&mut bytes).expect("it answers");
            text.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
    };
    ours.write_all(b"busybox stty size; busybox tty\n").expect("typed");
    until(&mut ours, "33 77");
    until(&mut ours, "/dev/pts/");
    size_of(&ours, 44, 88);
    let pid = child.id().cast_signed();
    crate::stage::signal(pid, "WINCH");
    ours.write_all(b"busybox sleep 0.2; busybox stty size; exit 5\n").expect("typed");
    until(&mut ours, "44 88");
    assert_eq!(child.wait().expect("margay ends").code(), Some(5));
    end(&stage);
}

fn size_of(terminal: &std::fs::File, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).expect("a size");
}

#[test]
fn fifty_programs_at_once_run_and_more_than_the_limit_are_refused_by_number() {
    let Some(stage) = sleeping() else { return };
    let mut clients: Vec<_> = (0..50)
        .map(|number| {
            let line = format!("echo {number}; while [ ! -e /tmp/end ]; do sleep 0.1; done");
            stage.start(["exec", "tom", "sh", "-c", &line])
        })
        .collect();
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.line(), number.to_string());
    }
    let line = "echo more; while [ ! -e /tmp/end ]; do sleep 0.1; done";
    let mut more: Vec<_> =
        (0..14).map(|_| stage.start(["exec", "tom", "sh", "-c", line])).collect();
    more.iter_mut().for_each(|client| assert_eq!(client.line(), "more"));
    let err = stage.margay(["exec", "tom", "echo"]).fails(125);
    assert!(err.contains("64 programs"), "{err}");
    more.pop().expect("one").signal("KILL");
    stage.margay(["stop", "--time", "0", "tom"]).ok();
    for client in clients.into_iter().chain(more) {
        assert_eq!(client.end().code, 137);
    }
    stage.is_empty();
}

/// A Wasm task `tom` that sleeps, with three programs in its image.
fn sleeping_wasm() -> Stage {
    let stage = Stage::new();
    for (sample, name) in [
        ("hostile/probe-cli.wasm", "probe.wasm"),
        ("hello/hello.wasm", "hello.wasm"),
        ("hello/hello-p1.wasm", "hello-p1.wasm"),
        ("httpd/httpd.wasm", "httpd.wasm"),
    ] {
        std::fs::create_dir_all(stage.path("bin")).expect("a folder");
        std::fs::copy(samples().join(sample), stage.path("bin").join(name)).expect("a sample");
    }
    stage.write(
        "Dockerfile",
        "FROM scratch\nCOPY bin/ /bin/\nENV HELLO_TO=cats\n\
         ENTRYPOINT [\"/bin/probe.wasm\"]\nCMD [\"sleep\", \"600000\"]\n",
    );
    stage.margay(["build", "-t", "programs", "."]).ok();
    stage
        .margay(["run", "-d", "--name", "tom", "-m", "64m", "--allow", "fs:/#rwd", "programs"])
        .ok();
    stage
}

#[test]
fn another_wasm_program_of_the_image_runs_in_the_same_worker_with_the_same_files() {
    let stage = sleeping_wasm();
    let hello = "hello from margay\narguments: a b\nHELLO_TO: cats\n";
    for program in ["/bin/hello.wasm", "hello", "hello.wasm", "bin/hello-p1.wasm"] {
        assert_eq!(stage.margay(["exec", "tom", program, "a", "b"]).ok(), hello, "{program}");
    }
    let fed = stage.margay_fed(["exec", "-i", "-e", "HELLO_TO=me", "tom", "hello", "-"], "meow\n");
    assert_eq!(fed.ok(), "hello from margay\narguments: -\nHELLO_TO: me\nmeow\n");
    assert_eq!(stage.margay(["exec", "tom", "hello-p1", "--exit", "3"]).code, 3);
    // One writes, another reads; with the quota and the grants of the task.
    stage.margay(["exec", "tom", "probe", "write", "/x", "7"]).ok();
    let read = stage.margay(["exec", "tom", "/bin/probe.wasm", "read", "/x"]).ok();
    assert_eq!(read, "read 7 bytes\n");
    let said = stage.margay(["exec", "tom", "probe", "write", "/bin", "7"]);
    assert_ne!(said.code, 0, "{}", said.out);
    let said = stage.margay(["exec", "-w", "/tmp", "tom", "probe", "env"]).ok();
    assert!(said.contains("PWD=/tmp"), "{said}");
    // Its memory is the task's.
    let said = stage.margay(["exec", "tom", "probe", "hog"]).out;
    assert!(said.starts_with("refused after "), "{said}");
    let number: u32 = said.split(' ').nth(2).and_then(|n| n.parse().ok()).expect("a number");
    assert!(number < 64, "{said}");
    stage.margay(["stop", "--time", "0", "tom"]).ok();
    let err = stage.margay(["exec", "tom", "hello"]).fails(125);
    assert!(err.contains("`tom` is not running"), "{err}");
    stage.is_empty();
}

#[test]
fn a_wasm_program_of_this_machine_runs_in_a_task_and_what_is_none_is_refused_by_name() {
    let stage = sleeping_wasm();
    let file = samples().join("hello/hello-p1.wasm");
    let file = file.to_str().expect("UTF-8");
    let said = stage.margay(["exec", "--program", file, "tom", "x"]).ok();
    assert_eq!(said, "hello from margay\narguments: x\nHELLO_TO: cats\n");
    let httpd = samples().join("httpd/httpd.wasm");
    let httpd = httpd.to_str().expect("UTF-8");
    let text = stage.write("text.wasm", "no program");
    let text = text.to_str().expect("UTF-8");
    for (arguments, code, why) in [
        (&["tom", "nope"][..], 127, "it has no program `nope`"),
        (&["tom", "/bin/httpd.wasm"], 126, "answers HTTP requests"),
        (&["--program", httpd, "tom"], 126, "answers HTTP requests"),
        (&["--program", text, "tom"], 126, "E_NOT_WASM"),
        (&["--program", "/no/such.wasm", "tom"], 125, "/no/such.wasm"),
        (&["-u", "root", "tom", "hello"], 125, "-u means nothing"),
    ] {
        let err = stage.margay(["exec"].iter().chain(arguments)).fails(code);
        assert!(err.contains(why), "{arguments:?}: {err}");
    }
    // Bytes in the task's code area that no preparer has made are no program: what was placed there
    // is written over, as another process of this user could, and the worker goes on.
    let area = std::fs::read_dir(stage.home().join("tasks")).expect("tasks").flatten();
    let area = area.map(|task| task.path().join("exec.code")).find(|path| path.exists());
    let area = area.expect("the task's code area");
    let bytes = std::fs::metadata(&area).expect("the area").len();
    std::fs::write(area.with_file_name("exec.json"), "{").expect("a broken table");
    let err = stage.margay(["exec", "--program", file, "tom"]).fails(125);
    assert!(err.contains("exec.code"), "{err}");
    assert!(bytes > 0);
    stage.margay(["stop", "--time", "0", "tom"]).ok();
    stage.is_empty();
}

#[test]
fn wasm_programs_wait_for_a_place_and_the_death_of_a_client_ends_none() {
    let stage = sleeping_wasm();
    let mut clients: Vec<_> =
        (0..50).map(|n| stage.start(["exec", "tom", "hello", &n.to_string()])).collect();
    for (number, client) in clients.drain(..).enumerate() {
        let said = client.end();
        assert_eq!(said.code, 0, "{}", said.err);
        assert!(said.out.contains(&format!("arguments: {number}\n")), "{}", said.out);
    }
    // A signal ends it: a WASI program has none.
    let client = stage.start(["exec", "tom", "probe", "sleep", "600000"]);
    let running = || {
        let stats = stage.margay(["stats", "tom", "--output", "json"]).ok();
        let stats: serde_json::Value = serde_json::from_str(&stats).ok()?;
        (stats[0]["memory_bytes_peak"].as_u64()? > 0).then_some(())
    };
    eventually("it is counted", running);
    client.signal("TERM");
    assert!([143, 137].contains(&client.end().code));
    stage.margay(["stop", "--time", "0", "tom"]).ok();
    stage.is_empty();
}
