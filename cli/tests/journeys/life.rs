//! The life of a task beyond its first run: created, started again, restarted, killed, waited for,
//! renamed. For both engines; the Linux half needs what `native.rs` needs.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{
    native,
    stage::{Stage, eventually, get, samples, signal},
};

/// Where a program of each kind comes from, and how it is made to do something.
struct Guest {
    image: String,
    sleep: &'static [&'static str],
    fail: &'static [&'static str],
}

/// What runs here.
fn guests(stage: &Stage) -> Vec<Guest> {
    let probe = samples().join("hostile/probe-cli.wasm").display().to_string();
    let mut guests =
        vec![Guest { image: probe, sleep: &["sleep", "60000"], fail: &["sleep", "nonsense"] }];
    if native::ready() {
        native::build(stage, "busy", "CMD [\"/bin/sh\"]");
        guests.push(Guest {
            image: "busy".to_owned(),
            sleep: &["/bin/sleep", "600"],
            fail: &["/bin/sh", "-c", "echo failing; exit 3"],
        });
    }
    guests
}

fn run<'a>(head: &[&'a str], guest: &'a Guest, what: &[&'a str]) -> Vec<&'a str> {
    [head, &[guest.image.as_str()], what].concat()
}

fn inspect(stage: &Stage, name: &str) -> Value {
    let all: Value = serde_json::from_str(&stage.margay(["inspect", name]).ok()).expect("JSON");
    all[0].clone()
}

fn is_running(stage: &Stage, name: &str) -> Option<()> {
    (inspect(stage, name)["state"] == "running").then_some(())
}

#[test]
fn a_created_task_waits_for_its_start_and_starts_again_after_its_end() {
    let stage = Stage::new();
    for guest in guests(&stage) {
        let create = run(&["create", "--name", "tom"], &guest, guest.sleep);
        let id = stage.margay(create).ok().trim().to_owned();
        let seen = inspect(&stage, "tom");
        assert_eq!((seen["id"].as_str(), seen["state"].as_str()), (Some(&*id), Some("created")));
        assert_eq!(stage.margay(["wait", "tom"]).ok(), "0\n");
        for _ in 0..2 {
            assert_eq!(stage.margay(["start", "tom"]).ok(), "tom\n");
            assert_eq!(inspect(&stage, "tom")["state"], "running", "{}", guest.image);
            // Of a task that runs this changes nothing.
            let before = inspect(&stage, "tom")["seen"]["started"].clone();
            assert_eq!(stage.margay(["start", &id]).ok(), format!("{id}\n"));
            assert_eq!(inspect(&stage, "tom")["seen"]["started"], before);
            stage.margay(["stop", "-t", "0", "tom"]).ok();
            assert_eq!(inspect(&stage, "tom")["state"], "exited");
        }
        assert_eq!(inspect(&stage, "tom")["id"], id.as_str());
        stage.margay(["rm", "tom"]).ok();
    }
    stage.is_empty();
}

#[test]
fn an_attached_start_shows_the_output_and_exits_with_the_programs_code() {
    let stage = Stage::new();
    let hello = samples().join("hello/hello-p1.wasm").display().to_string();
    stage.margay(["create", "--name", "tom", "-i", &hello, "-"]).ok();
    let said = stage.margay_fed(["start", "-ai", "tom"], "purr\n");
    assert_eq!((said.out.as_str(), said.code), ("hello from margay\narguments: -\npurr\n", 0));
    let said = stage.margay_fed(["start", "-a", "tom"], "purr\n");
    assert_eq!((said.out.as_str(), said.code), ("hello from margay\narguments: -\n", 0));
    // The log goes on.
    let log = stage.margay(["logs", "tom"]).ok();
    assert_eq!(log.lines().filter(|line| *line == "hello from margay").count(), 2, "{log}");
    let err = stage.margay(["start", "-a", "tom", "tom"]).fails(2);
    assert!(err.contains("only one task"), "{err}");
    let err = stage.margay(["start", "none", "tom"]).fails(1);
    assert!(err.contains("no task is called `none`"), "{err}");
    // The other one was started, and waits for input.
    assert_eq!(stage.margay(["kill", "tom"]).ok(), "tom\n");
    stage.is_empty();
}

#[test]
fn a_restart_keeps_the_task_its_port_and_its_log() {
    let stage = Stage::new();
    crate::images::build_cats(&stage);
    stage.margay(["run", "-d", "--name", "tom", "-p", "127.0.0.1:0:80", "cats"]).ok();
    let address = stage.margay(["port", "tom", "80/tcp"]).ok().trim().to_owned();
    assert_eq!(stage.margay(["port", "tom"]).ok(), format!("80/tcp -> {address}\n"));
    let id = inspect(&stage, "tom")["id"].clone();
    let answers = || get(&address, "localhost", "/").filter(|answer| answer.status == 200);
    eventually("it answers", answers);
    assert_eq!(stage.margay(["restart", "-t", "1", "tom"]).ok(), "tom\n");
    eventually("it answers at the same address", answers);
    assert_eq!(inspect(&stage, "tom")["id"], id);
    let err = stage.margay(["port", "tom", "81"]).fails(1);
    assert!(err.contains("port `81/tcp` of `tom` is not published"), "{err}");
    stage.margay(["stop", "-t", "1", "tom"]).ok();
    assert_eq!(stage.margay(["port", "tom"]).ok(), "");
    // One that has ended is started.
    assert_eq!(stage.margay(["restart", "tom"]).ok(), "tom\n");
    is_running(&stage, "tom").expect("it runs");
    stage.margay(["rm", "-f", "tom"]).ok();
    stage.is_empty();
}

#[test]
fn a_kill_ends_a_task_with_the_signals_code_and_only_one_that_runs() {
    let stage = Stage::new();
    for guest in guests(&stage) {
        stage.margay(run(&["run", "-d", "--name", "tom"], &guest, guest.sleep)).ok();
        assert_eq!(stage.margay(["kill", "tom"]).ok(), "tom\n");
        assert_eq!(stage.margay(["wait", "tom"]).ok(), "137\n", "{}", guest.image);
        let err = stage.margay(["kill", "tom"]).fails(1);
        assert!(err.contains("task `tom` is not running"), "{err}");
        let err = stage.margay(["kill", "-s", "MEOW", "tom"]).fails(1);
        assert!(err.contains("`MEOW` is not a signal"), "{err}");
        stage.margay(["rm", "tom"]).ok();
    }
    stage.is_empty();
}

#[test]
fn signals_reach_a_linux_program_as_they_were_sent_and_end_a_wasm_program() {
    let stage = Stage::new();
    let probe = samples().join("hostile/probe-cli.wasm").display().to_string();
    stage.margay(["run", "-d", "--name", "tom", &probe, "sleep", "60000"]).ok();
    let err = stage.margay(["kill", "-s", "USR1", "tom"]).fails(1);
    assert!(err.contains("a Wasm program cannot receive signal 10"), "{err}");
    stage.margay(["kill", "-s", "SIGINT", "tom"]).ok();
    assert_eq!(stage.margay(["wait", "tom"]).ok(), "130\n");
    stage.margay(["rm", "tom"]).ok();
    if !native::ready() {
        return;
    }
    native::build(&stage, "busy", "CMD [\"/bin/sh\"]");
    let listen = "for s in INT HUP QUIT USR1 USR2; do trap \"echo got $s\" $s; done; \
                  trap 'exit 9' TERM; echo ready; while true; do sleep 0.05; done";
    let mut running = stage.start(["run", "--name", "tom", "busy", "/bin/sh", "-c", listen]);
    assert_eq!(running.line(), "ready");
    for name in ["HUP", "QUIT", "USR1", "USR2", "INT"] {
        running.signal(name);
        assert_eq!(running.line(), format!("got {name}"));
    }
    stage.margay(["kill", "-s", "hup", "tom"]).ok();
    assert_eq!(running.line(), "got HUP");
    running.signal("TERM");
    assert_eq!(running.end().code, 9);
    stage.margay(["rm", "tom"]).ok();
    stage.is_empty();
}

#[test]
fn a_second_interrupt_kills_a_program_that_ignores_the_first_and_says_so() {
    if !native::ready() {
        return;
    }
    let stage = Stage::new();
    native::build(&stage, "busy", "CMD [\"/bin/sh\"]");
    let running = stage.start(["run", "--name", "tom", "busy", "/bin/sleep", "600"]);
    eventually("it runs", || {
        stage.margay(["inspect", "tom"]).out.contains("running").then_some(())
    });
    let begun = Instant::now();
    running.signal("INT");
    // The first process of a container ignores a signal that it does not handle.
    std::thread::sleep(Duration::from_millis(1200));
    running.signal("INT");
    let said = running.end();
    assert_eq!(said.code, 137, "{}", said.err);
    assert!(said.err.contains("Ctrl-C again kills it"), "{}", said.err);
    assert!(said.err.contains("it was interrupted a second time, and killed"), "{}", said.err);
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    stage.is_empty();
}

/// GNU timeout sends each signal to its child and to the group of both.
#[test]
fn one_signal_of_timeout_is_one_signal() {
    if !native::ready() {
        return;
    }
    let stage = Stage::new();
    native::build(&stage, "box", "CMD [\"/bin/sleep\", \"600\"]");
    let line = "trap 'echo stopping; sleep 0.3; echo stopped; exit 7' TERM INT; echo ready; \
                while :; do sleep 0.05; done";
    for signal in ["TERM", "INT"] {
        let mut running = stage.start(["run", "--rm", "box", "sh", "-c", line]);
        assert_eq!(running.line(), "ready");
        let pid = running.pid().to_string();
        let mut kill = std::process::Command::new("kill");
        kill.args([&format!("-{signal}"), &pid, &pid]).status().expect("kill runs");
        let said = running.end();
        assert_eq!(said.code, 7, "{signal}: {}", said.err);
        assert_eq!(said.out, "stopping\nstopped\n", "{signal}");
    }
    stage.is_empty();
}

#[test]
fn a_restart_policy_starts_a_program_again_until_it_is_stopped() {
    let stage = Stage::new();
    for guest in guests(&stage) {
        stage
            .margay(run(&["run", "-d", "--restart", "always", "--name", "tom"], &guest, guest.fail))
            .ok();
        eventually("it was restarted", || {
            (inspect(&stage, "tom")["seen"]["restarts"].as_u64() >= Some(2)).then_some(())
        });
        stage.margay(["stop", "-t", "0", "tom"]).ok();
        assert_eq!(inspect(&stage, "tom")["state"], "exited");
        stage.margay(["rm", "tom"]).ok();
        let limited = ["run", "--restart", "on-failure:1", "--name", "tom"];
        let said = stage.margay(run(&limited, &guest, guest.fail));
        assert_ne!(said.code, 0, "{}", said.err);
        assert_eq!(inspect(&stage, "tom")["seen"]["restarts"], 1);
        stage.margay(["rm", "tom"]).ok();
    }
    let hello = samples().join("hello/hello.wasm").display().to_string();
    let err = stage.margay(["run", "--restart", "sometimes", &hello]).fails(2);
    assert!(err.contains("`sometimes` is not a restart policy"), "{err}");
    let err = stage.margay(["run", "--rm", "--restart", "always", &hello]).fails(125);
    assert!(err.contains("--rm and --restart"), "{err}");
    stage.margay(["run", "--restart", "on-failure", &hello]).ok();
    stage.is_empty();
}

#[test]
fn a_wait_hears_the_end_of_a_task_that_leaves_nothing() {
    let stage = Stage::new();
    for guest in guests(&stage) {
        let start = run(&["run", "-d", "--rm", "--name", "tom"], &guest, guest.sleep);
        stage.margay(start).ok();
        let waiting = stage.start(["wait", "tom"]);
        let following = stage.start(["logs", "-f", "tom"]);
        stage.margay(["kill", "-s", "KILL", "tom"]).ok();
        let said = waiting.end();
        assert!(said.code == 0 && said.out == "137\n" || said.err.contains("no task"), "{said:?}");
        let said = following.end();
        assert!(said.code == 0 || said.err.contains("no task"), "{said:?}");
        assert_eq!(stage.margay(["ps", "-aq"]).ok(), "");
    }
    let err = stage.margay(["wait", "tom"]).fails(1);
    assert!(err.contains("no task is called `tom`"), "{err}");
    stage.is_empty();
}

#[test]
fn a_renamed_task_has_its_new_name_everywhere_and_gives_the_old_one_back() {
    let stage = Stage::new();
    let probe = samples().join("hostile/probe-cli.wasm").display().to_string();
    let sleep = |name: &str| stage.margay(["run", "-d", "--name", name, &probe, "sleep", "60000"]);
    sleep("tom").ok();
    assert_eq!(stage.margay(["rename", "tom", "cat"]).ok(), "");
    sleep("tom").ok();
    let err = stage.margay(["rename", "tom", "cat"]).fails(1);
    assert!(err.contains("the name `cat` is taken"), "{err}");
    let err = stage.margay(["rename", "cat", "cat"]).fails(1);
    assert!(err.contains("called `cat` already"), "{err}");
    let err = stage.margay(["rename", "cat", "no/name"]).fails(1);
    assert!(err.contains("`no/name` cannot name a task"), "{err}");
    stage.margay(["kill", "cat", "tom"]).ok();
    stage.margay(["start", "cat"]).ok();
    // Both names are free again.
    assert_eq!(stage.margay(["rm", "-f", "cat", "tom"]).ok(), "cat\ntom\n");
    sleep("cat").ok();
    stage.margay(["rm", "-f", "cat"]).ok();
    stage.is_empty();
}

#[test]
fn a_task_whose_keeper_was_killed_starts_again() {
    let stage = Stage::new();
    for guest in guests(&stage) {
        stage.margay(run(&["run", "-d", "--name", "tom"], &guest, guest.sleep)).ok();
        let keeper = inspect(&stage, "tom")["seen"]["supervisor"]["pid"].as_i64().expect("a pid");
        signal(i32::try_from(keeper).expect("a pid"), "KILL");
        eventually("its keeper is gone", || {
            (!stage.processes().iter().any(|(pid, _)| i64::from(*pid) == keeper)).then_some(())
        });
        assert_eq!(stage.margay(["start", "tom"]).ok(), "tom\n", "{}", guest.image);
        is_running(&stage, "tom").expect("it runs");
        assert_ne!(inspect(&stage, "tom")["seen"]["supervisor"]["pid"].as_i64(), Some(keeper));
        stage.margay(["rm", "-f", "tom"]).ok();
    }
    stage.is_empty();
}

#[test]
fn a_start_and_a_removal_at_the_same_time_leave_one_of_the_two() {
    let stage = Stage::new();
    let probe = samples().join("hostile/probe-cli.wasm").display().to_string();
    for _ in 0..5 {
        stage.margay(["create", "--name", "tom", &probe, "sleep", "60000"]).ok();
        let (start, remove) = (stage.start(["start", "tom"]), stage.start(["rm", "tom"]));
        let (started, removed) = (start.end(), remove.end());
        let listed = stage.margay(["ps", "-aq"]).ok();
        match (started.code, removed.code) {
            (0, 0) => panic!("both: {started:?} {removed:?}"),
            (0, _) => stage.margay(["rm", "-f", "tom"]).ok(),
            (_, 0) => {
                assert_eq!(listed, "", "{started:?}");
                String::new()
            }
            _ => panic!("neither: {started:?} {removed:?}"),
        };
    }
    stage.is_empty();
}

#[test]
fn a_removal_by_force_ignores_what_does_not_exist() {
    let stage = Stage::new();
    let said = stage.margay(["rm", "-f", "tom"]);
    assert_eq!((said.code, said.err.as_str()), (0, "no task is called `tom`\n"));
    stage.margay(["rm", "tom"]).fails(1);
    stage.is_empty();
}

#[test]
fn an_id_file_holds_the_id_of_a_new_task_and_of_no_other() {
    let stage = Stage::new();
    let hello = samples().join("hello/hello.wasm").display().to_string();
    let missing = stage.path("missing.wasm").display().to_string();
    stage.margay(["run", "--cidfile", "id", &missing]).fails(125);
    assert!(!stage.path("id").exists(), "no task was made");
    stage.margay(["run", "--cidfile", "id", "--name", "tom", &hello]).ok();
    let id = std::fs::read_to_string(stage.path("id")).expect("the file");
    assert_eq!(inspect(&stage, "tom")["id"], id.as_str());
    let err = stage.margay(["create", "--cidfile", "id", &hello]).fails(125);
    assert!(err.contains("cannot make the file of --cidfile, `id`"), "{err}");
    stage.is_empty();
}

#[test]
fn a_server_without_a_published_port_says_so() {
    let stage = Stage::new();
    crate::images::build_cats(&stage);
    let said = stage.margay(["run", "-d", "--name", "tom", "cats"]);
    assert!(said.err.contains("no port is published"), "{}", said.err);
    assert!(said.err.contains("hint: publish it: -p 8080:80"), "{}", said.err);
    stage.margay(["rm", "-f", "tom"]).ok();
    // Nor does one wait for an answer that never comes.
    let probe = samples().join("hostile/probe-cli.wasm").display().to_string();
    let said = stage.margay(["run", "--rm", "-p", "127.0.0.1:0:80", &probe, "args"]);
    assert!(said.err.contains("Port 80 is not published: the program runs once"), "{}", said.err);
    assert!(!said.err.contains("Listening"), "{}", said.err);
    stage.is_empty();
}

/// A shell for Linux, and for WebAssembly a program that repeats each line.
fn listeners(stage: &Stage) -> Vec<(String, Vec<&'static str>, &'static str, &'static str)> {
    let hello = samples().join("hello/hello.wasm").display().to_string();
    let mut all = vec![(hello, vec!["-"], "purr\n", "purr")];
    if native::ready() {
        native::build(stage, "busy", "CMD [\"/bin/sh\"]");
        all.push(("busy".to_owned(), vec![], "echo pu''rr\n", "purr"));
    }
    all
}

#[test]
fn a_terminal_is_left_by_its_keys_and_come_back_to() {
    let stage = Stage::new();
    for (image, arguments, typed, shown) in listeners(&stage) {
        let head = ["run", "-dit", "--name", "tom", &image];
        stage.margay(head.iter().copied().chain(arguments)).ok();
        for (keys, leave) in [("ctrl-p,ctrl-q", "\x10\x11"), ("ctrl-x,y", "\x18y")] {
            let said = stage.margay_fed(
                ["attach", "--detach-keys", keys, "tom"],
                &format!("{typed}{leave}never typed"),
            );
            assert_eq!(said.code, 0, "{image}: {}", said.err);
            assert!(said.err.contains("Detached, and the task runs on"), "{}", said.err);
            is_running(&stage, "tom").expect("it runs");
        }
        eventually("it answered", || {
            stage.margay(["logs", "tom"]).out.contains(shown).then_some(())
        });
        assert!(!stage.margay(["logs", "tom"]).out.contains("never"));
        stage.margay(["rm", "-f", "tom"]).ok();
    }
    let err = stage.margay(["attach", "tom"]).fails(1);
    assert!(err.contains("no task is called `tom`"), "{err}");
    let err = stage.margay(["attach", "--detach-keys", "ctrl-1", "tom"]).fails(2);
    assert!(err.contains("`ctrl-1` is not a sequence of keys"), "{err}");
    stage.is_empty();
}

#[test]
fn an_attached_terminal_ends_with_the_task_and_its_code() {
    let stage = Stage::new();
    let hello = samples().join("hello/hello.wasm").display().to_string();
    stage.margay(["run", "-dit", "--name", "tom", &hello, "-"]).ok();
    // A Wasm program cannot catch the signal that Ctrl-C is.
    assert_eq!(stage.margay_fed(["attach", "tom"], "purr\n\x03").code, 130);
    stage.margay(["rm", "tom"]).ok();
    if native::ready() {
        native::build(&stage, "busy", "CMD [\"/bin/sh\"]");
        stage.margay(["create", "-it", "--name", "tom", "busy"]).ok();
        let said = stage.margay_fed(["start", "-ai", "tom"], "echo pu''rr; exit 5\n");
        assert_eq!(said.code, 5, "{}", said.err);
        assert!(said.out.contains("purr\r\n"), "{}", said.out);
        stage.margay(["rm", "tom"]).ok();
    }
    stage.is_empty();
}

#[test]
fn a_task_in_the_background_takes_input_and_shows_its_output_to_each_that_attaches() {
    let stage = Stage::new();
    let hello = samples().join("hello/hello.wasm").display().to_string();
    stage.margay(["run", "-di", "--name", "tom", &hello, "-"]).ok();
    let mut watching = stage.start(["attach", "--no-stdin", "tom"]);
    let mut other = stage.start(["attach", "--no-stdin", "tom"]);
    // Both are there when the first line comes.
    let typing = std::thread::scope(|scope| {
        let typing = scope.spawn(|| stage.margay_fed(["attach", "tom"], "one\ntwo\n"));
        assert_eq!((watching.line(), other.line()), ("one".to_owned(), "one".to_owned()));
        stage.margay(["kill", "tom"]).ok();
        typing.join().expect("it ends")
    });
    assert_eq!(typing.code, 137, "{}", typing.err);
    assert_eq!((watching.end().code, other.end().code), (137, 137));
    stage.margay(["rm", "tom"]).ok();

    // Without a standard input its output comes from its log.
    let probe = samples().join("hostile/probe-cli.wasm").display().to_string();
    stage.margay(["run", "-d", "--name", "tom", &probe, "sleep", "60000"]).ok();
    let following = stage.start(["attach", "tom"]);
    let left = stage.start(["attach", "--sig-proxy=false", "tom"]);
    left.signal("INT");
    assert_eq!(left.end().code, 130);
    is_running(&stage, "tom").expect("it runs on");
    following.signal("INT");
    assert_eq!(following.end().code, 130);
    let err = stage.margay(["attach", "tom"]).fails(1);
    assert!(err.contains("task `tom` is not running"), "{err}");
    stage.is_empty();
}

#[test]
fn a_connection_to_a_port_that_nothing_listens_on_is_reset_and_told_once() {
    if !native::ready() {
        return;
    }
    let stage = Stage::new();
    native::build(&stage, "busy", "CMD [\"/bin/sh\"]");
    let listen = "httpd -p 3000 -h /srv/www; sleep 600";
    let args =
        ["run", "-d", "-p", "127.0.0.1:0:80", "--name", "tom", "busy", "/bin/sh", "-c", listen];
    stage.margay(args).ok();
    let address = stage.margay(["port", "tom", "80"]).ok().trim().to_owned();
    let begun = Instant::now();
    for _ in 0..3 {
        assert!(get(&address, "localhost", "/").is_none());
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let told = eventually("the log tells", || {
        let said = stage.margay(["logs", "tom"]);
        (!said.err.is_empty()).then_some(said.err)
    });
    let want = "margay: nothing listens on port 80 in the task, which listens on 3000: \
                connections are reset\n";
    assert_eq!(told, want);
    stage.margay(["rm", "-f", "tom"]).ok();
    stage.is_empty();
}

#[test]
fn a_log_keeps_sixteen_mebibytes_of_short_lines_and_says_what_is_gone() {
    let stage = Stage::new();
    for guest in guests(&stage) {
        let flood: &[&str] = match guest.image.as_str() {
            "busy" => &["/bin/sh", "-c", "seq -w 1 4000000"],
            _ => &["flood", "2000000"],
        };
        let said = stage.margay(run(&["run", "--name", "tom"], &guest, flood));
        assert_eq!(said.code, 0, "{}", said.err);
        let log = stage.margay(["logs", "tom"]);
        let (kept, written) = (log.out.len(), said.out.len());
        assert!(kept >= 16 << 20, "{}: {kept} bytes of {written} are kept", guest.image);
        assert!(said.out.ends_with(&log.out), "the last ones, and whole");
        let gone = format!("margay: {} bytes of older log were dropped\n", written - kept);
        assert_eq!(log.err, gone);
        let file = stage.home().join("tasks");
        let file = file.join(inspect(&stage, "tom")["id"].as_str().expect("an id")).join("log");
        assert!(file.metadata().expect("the log").len() <= 64 << 20);
        stage.margay(["rm", "tom"]).ok();
    }
    stage.is_empty();
}

#[test]
fn inspect_shows_what_a_task_was_made_with() {
    if !native::ready() {
        return;
    }
    let stage = Stage::new();
    native::build(&stage, "busy", "USER 7\nWORKDIR /srv\nCMD [\"/bin/sh\"]");
    stage.margay(["create", "--name", "plain", "busy"]).ok();
    let own =
        ["-u", "33", "-w", "/tmp", "--ulimit", "nofile=100:200", "--read-only", "--cpus", "0.5"];
    stage.margay(["create", "--name", "own"].iter().chain(&own).chain(&["busy"])).ok();
    let form = "{{.Config.User}} {{.Config.WorkingDir}} {{.HostConfig.ReadonlyRootfs}} \
                {{.HostConfig.NanoCpus}} {{json .HostConfig.Ulimits}}";
    for (task, want) in [
        ("plain", "7 /srv false 0 []\n"),
        ("own", "33 /tmp true 500000000 [{\"Hard\":200,\"Name\":\"nofile\",\"Soft\":100}]\n"),
    ] {
        assert_eq!(stage.margay(["inspect", "-f", form, task]).ok(), want);
        stage.margay(["rm", task]).ok();
    }
    stage.is_empty();
}
