//! Commands: arguments, environment, stdin, exit codes, and what stays of a task.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::stage::{Stage, eventually, samples};

fn hello() -> String {
    samples().join("hello/hello.wasm").display().to_string()
}

fn hello_p1() -> String {
    samples().join("hello/hello-p1.wasm").display().to_string()
}

#[test]
fn a_wasm_file_runs_with_its_arguments() {
    let stage = Stage::new();
    for file in [hello(), hello_p1()] {
        assert_eq!(stage.margay(["run", &file]).ok(), "hello from margay\n", "{file}");
        let said = stage.margay(["run", "--rm", &file, "a", "--b", "-c"]).ok();
        assert_eq!(said, "hello from margay\narguments: a --b -c\n", "{file}");
    }
    stage.is_empty();
}

/// One that is refused traps when it reads its variables; one that is not finds all of them.
#[test]
fn variables_that_no_program_could_take_are_named_before_the_start() {
    let stage = Stage::new();
    let variable = |name: &str, bytes| format!("{name}={}\n", "x".repeat(bytes));
    for (content, want) in [
        (variable("BIG", 57_000), None),
        (variable("BIG", 60_000), Some("variable `BIG` has 60000 bytes")),
        ((0..10).map(|i| variable(&format!("V{i}"), 50_000)).collect(), None),
        ((0..15).map(|i| variable(&format!("V{i}"), 50_000)).collect(), Some("bytes together")),
        ((0..3_500).map(|i| variable(&format!("V{i}"), 1)).collect(), None),
        ((0..4_000).map(|i| variable(&format!("V{i}"), 1)).collect(), Some("it has 400")),
        (variable("BIG", 2 << 20), Some("bytes, which is no list of variables: at most 1048576")),
    ] {
        stage.write("env", &content);
        for file in [hello(), hello_p1()] {
            let said = stage.margay(["run", "--rm", "--env-file", "env", &file]);
            let at = content.len();
            match want {
                None => assert_eq!(said.ok(), "hello from margay\n", "{at} bytes, {file}"),
                Some(want) => {
                    let err = said.fails(125);
                    assert!(err.contains(want) && !err.contains("E_TRAP"), "{at} bytes: {err}");
                }
            }
        }
    }
    stage.is_empty();
}

#[test]
fn the_exit_code_is_the_guests() {
    let stage = Stage::new();
    // A 0.2 component can only say that it failed; a 0.1 module says how.
    for (file, asked, want) in
        [(hello(), "0", 0), (hello(), "3", 1), (hello_p1(), "0", 0), (hello_p1(), "3", 3)]
    {
        let said = stage.margay(["run", &file, "--exit", asked]);
        assert_eq!(said.code, want, "{file} --exit {asked}: {}", said.err);
    }
}

#[test]
fn variables_come_from_flags_files_and_our_own_environment_but_only_when_named() {
    let stage = Stage::new();
    let run = |arguments: &[&str], ours: Option<&str>| {
        let file = hello();
        let mut command = stage.command(["run"].iter().chain(arguments).chain([&file.as_str()]));
        ours.map(|value| command.env("HELLO_TO", value));
        String::from_utf8(command.output().expect("margay runs").stdout).expect("UTF-8")
    };
    assert_eq!(run(&["-e", "HELLO_TO=Freya"], None), "hello from margay\nHELLO_TO: Freya\n");
    assert_eq!(run(&["-e", "HELLO_TO"], Some("Odin")), "hello from margay\nHELLO_TO: Odin\n");
    assert_eq!(run(&[], Some("Odin")), "hello from margay\n");
    stage.write("env", "# a comment\n\nHELLO_TO=a=b c\n");
    assert_eq!(run(&["--env-file", "env"], None), "hello from margay\nHELLO_TO: a=b c\n");
    assert_eq!(
        run(&["--env-file", "env", "-e", "HELLO_TO=last"], None),
        "hello from margay\nHELLO_TO: last\n"
    );
}

#[test]
fn a_component_finds_its_variables_as_configuration_and_its_levels_in_the_log() {
    let stage = Stage::new();
    let greeter = wat::parse_file(samples().join("greeter/greeter.wat")).expect("a component");
    stage.write("greeter.wasm", greeter);
    let logs = |name: &str, arguments: &[&str]| {
        let run = ["run", "--name", name];
        stage.margay(run.iter().chain(arguments).chain(&["./greeter.wasm"])).ok();
        let told = stage.command(["logs", name]).output().expect("margay runs");
        String::from_utf8(told.stderr).expect("UTF-8")
    };
    let ends = "CRITICAL first\n   second\n";
    assert_eq!(
        logs("set", &["-e", "GREETING=meow"]),
        format!("INFO GREETING: meow\nWARN absent: absent\nDEBUG GREETING: meow\n{ends}")
    );
    assert_eq!(logs("unset", &[]), format!("WARN GREETING: absent\nWARN absent: absent\n{ends}"));
    stage.margay(["rm", "set", "unset"]).ok();
    stage.is_empty();
}

#[test]
fn stdin_reaches_the_guest_with_i_only() {
    let stage = Stage::new();
    let with = stage.margay_fed(["run", "-i", &hello(), "-"], "line one\nline two\n").ok();
    assert_eq!(with, "hello from margay\narguments: -\nline one\nline two\n");
    let without = stage.margay_fed(["run", &hello(), "-"], "line one\n").ok();
    assert_eq!(without, "hello from margay\narguments: -\n");
}

#[test]
fn an_ended_task_stays_until_it_is_removed_and_rm_leaves_nothing() {
    let stage = Stage::new();
    stage.margay(["run", "--name", "first", &hello_p1(), "--exit", "7"]).fails(7);
    stage.margay(["run", "--rm", "--name", "second", &hello()]).ok();
    assert_eq!(stage.margay(["ps", "-q"]).ok(), "");
    let listed: Value =
        serde_json::from_str(&stage.margay(["ps", "-a", "--output", "json"]).ok()).expect("JSON");
    let listed = listed.as_array().expect("a list");
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!((&listed[0]["name"], &listed[0]["state"]), (&"first".into(), &"exited".into()));
    assert_eq!(listed[0]["exit_code"], 7);
    assert_eq!(stage.margay(["logs", "first"]).ok(), "hello from margay\narguments: --exit 7\n");
    let inspected: Value =
        serde_json::from_str(&stage.margay(["inspect", "first"]).ok()).expect("JSON");
    assert_eq!(inspected[0]["name"], "first");
    assert_eq!(stage.margay(["rm", "first"]).ok(), "first\n");
    assert_eq!(stage.margay(["ps", "-a", "-q"]).ok(), "");
    let err = stage.margay(["rm", "first"]).fails(1);
    assert_eq!(err, "error: no task is called `first`\nhint: see what there is: margay ps -a\n");
    stage.is_empty();
}

#[test]
fn a_name_is_taken_once() {
    let stage = Stage::new();
    stage.margay(["run", "--name", "tom", &hello()]).ok();
    let err = stage.margay(["run", "--name", "tom", &hello()]).fails(125);
    assert!(err.starts_with("error: the name `tom` is taken by task `"), "{err}");
    assert!(
        err.contains("hint: choose another --name, or remove that task: margay rm tom"),
        "{err}"
    );
}

#[test]
fn what_a_task_used_is_counted() {
    let stage = Stage::new();
    stage.margay(["run", "--name", "counted", &hello()]).ok();
    let stats: Value =
        serde_json::from_str(&stage.margay(["stats", "counted", "--output", "json"]).ok())
            .expect("JSON");
    assert_eq!(stats[0]["runs"], 1, "{stats}");
    assert!(stats[0]["cpu_ns"].as_u64() > Some(0), "{stats}");
    assert!(stats[0]["memory_bytes_peak"].as_u64() > Some(0), "{stats}");
}

#[test]
fn a_followed_log_ends_with_its_task() {
    let stage = Stage::new();
    let probe = samples().join("hostile/probe-cli.wasm").display().to_string();
    stage.margay(["run", "-d", "--name", "sleeper", &probe, "sleep", "700"]).ok();
    let said = stage.margay(["logs", "-f", "-t", "sleeper"]).ok();
    // Each line begins with the time at which it was written.
    assert!(
        said.starts_with("20") && said.contains("Z slept 7") && said.lines().count() == 1,
        "{said}"
    );
    assert_eq!(stage.margay(["ps", "-q"]).ok(), "");
    assert_eq!(stage.margay(["logs", "--tail", "0", "sleeper"]).ok(), "");
    stage.is_empty();
}

#[test]
fn a_command_ends_at_once_by_the_signal_that_it_cannot_hear() {
    let stage = Stage::new();
    let probe = samples().join("hostile/probe-cli.wasm").display().to_string();
    for (signal, want) in [("INT", 130), ("TERM", 143), ("QUIT", 131)] {
        let running = stage.start(["run", "--rm", "--name", signal, &probe, "sleep", "60000"]);
        eventually("it runs", || (!stage.margay(["ps", "-q"]).out.is_empty()).then_some(()));
        // Not for it, and no reason to lose it.
        running.signal("USR1");
        running.signal(signal);
        let (asked, said) = (Instant::now(), running.end());
        assert_eq!(said.code, want, "{signal}: {}", said.err);
        assert!(asked.elapsed() < Duration::from_secs(5), "{signal}: {:?}", asked.elapsed());
        assert_eq!(stage.margay(["ps", "-a", "-q"]).ok(), "", "{signal}: nothing is left of it");
    }
    stage.is_empty();
}

#[test]
fn a_keeper_has_a_session_of_its_own() {
    let stage = Stage::new();
    let probe = samples().join("hostile/probe-cli.wasm").display().to_string();
    stage.margay(["run", "-d", "--name", "kept", &probe, "sleep", "60000"]).ok();
    let keeper = stage
        .processes()
        .into_iter()
        .find(|(_, line)| line.contains(" keeper"))
        .expect("a keeper")
        .0;
    let stat = std::fs::read_to_string(format!("/proc/{keeper}/stat")).expect("its state");
    let session =
        stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(3)).expect("a session");
    assert_eq!(session, keeper.to_string(), "closing the caller's terminal is no reason to stop");
    stage.margay(["rm", "-f", "kept"]).ok();
    stage.is_empty();
}
