//! How a task is asked to end: with which signal, within which time, and what events tell of it.

use std::time::{Duration, Instant};

use crate::{
    native,
    stage::{Stage, eventually, samples},
};

fn events(stage: &Stage, task: &str) -> String {
    let format = "{{.Action}}{{with .Actor.Attributes.signal}} {{.}}{{end}}";
    let container = format!("container={task}");
    let told = ["events", "--since", "1h", "--until", "0s", "-f", &container, "--format", format];
    stage.margay(told).ok().replace('\n', ", ")
}

#[test]
fn a_stop_and_a_restart_send_the_signal_that_is_named() {
    if !native::ready() {
        return;
    }
    let stage = Stage::new();
    native::build(&stage, "busy", "STOPSIGNAL QUIT\nCMD [\"/bin/sh\"]");
    let listen = "for s in USR1 HUP TERM QUIT; do trap \"echo got $s; exit 7\" $s; done; \
                  echo ready; while true; do sleep 0.05; done";
    let run = ["run", "-d", "--name", "tom", "busy", "/bin/sh", "-c", listen];
    stage.margay(run).ok();
    let said = |want: &str| {
        eventually(want, || stage.margay(["logs", "tom"]).out.ends_with(want).then_some(()));
    };
    said("ready\n");
    stage.margay(["restart", "--signal", "SIGHUP", "tom"]).ok();
    said("got HUP\nready\n");
    stage.margay(["stop", "-s", "10", "tom"]).ok();
    said("got USR1\n");
    assert_eq!(stage.margay(["wait", "tom"]).ok(), "7\n");
    // What was asked once does not stay.
    stage.margay(["start", "tom"]).ok();
    said("ready\n");
    stage.margay(["stop", "tom"]).ok();
    said("got QUIT\n");
    stage.margay(["start", "tom"]).ok();
    said("ready\n");
    stage.margay(["stop", "-s", "KILL", "tom"]).ok();
    assert_eq!(stage.margay(["wait", "tom"]).ok(), "137\n");
    assert_eq!(
        events(&stage, "tom"),
        "create, start, kill 1, die, stop, start, restart, kill 10, die, stop, start, kill 3, die, \
         stop, start, kill 9, die, stop, "
    );
    stage.margay(["rm", "tom"]).ok();
    stage.is_empty();
}

#[test]
fn a_wasm_program_ends_by_the_signals_that_end_programs() {
    let stage = Stage::new();
    let probe = samples().join("hostile/probe-cli.wasm").display().to_string();
    stage.margay(["run", "-d", "--rm", "--name", "tom", &probe, "sleep", "60000"]).ok();
    for verb in ["stop", "restart"] {
        let err = stage.margay([verb, "-s", "USR1", "tom"]).fails(1);
        assert!(err.contains("a Wasm program cannot receive signal 10"), "{err}");
        let err = stage.margay([verb, "-s", "MEOW", "tom"]).fails(1);
        assert!(err.contains("`MEOW` is not a signal"), "{err}");
    }
    stage.margay(["stop", "-s", "INT", "tom"]).ok();
    assert_eq!(events(&stage, "tom"), "create, start, kill 2, die, stop, destroy, ");
    stage.is_empty();
}

#[test]
fn a_stop_takes_the_time_that_the_task_was_made_with() {
    if !native::ready() {
        return;
    }
    let stage = Stage::new();
    native::build(&stage, "busy", "CMD [\"/bin/sh\"]");
    let deaf = "trap '' TERM; echo ready; while true; do sleep 0.05; done";
    let run = ["run", "-d", "--name", "tom", "--stop-timeout", "1", "busy", "/bin/sh", "-c", deaf];
    stage.margay(run).ok();
    eventually("it runs", || stage.margay(["logs", "tom"]).out.contains("ready").then_some(()));
    let begun = Instant::now();
    stage.margay(["stop", "tom"]).ok();
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(6), "{took:?}");
    stage.margay(["rm", "tom"]).ok();
    stage.is_empty();
}

#[test]
fn a_stop_without_a_limit_waits_for_as_long_as_the_task_takes() {
    if !native::ready() {
        return;
    }
    let stage = Stage::new();
    native::build(&stage, "busy", "CMD [\"/bin/sh\"]");
    // Longer than what `run` gives it, and than a limit of zero would.
    let slow = "trap 'sleep 2; exit 7' TERM; echo ready; while true; do sleep 0.05; done";
    for (run, stop) in [
        (&["--stop-timeout", "1"][..], &["stop", "-t", "-1", "tom"][..]),
        (&["--stop-timeout", "-1"], &["stop", "tom"]),
        (&["--stop-timeout", "0"], &["stop", "--time", "99999999999999", "tom"]),
        (&["--stop-timeout", "0"], &["stop", "--timeout=-5", "tom"]),
    ] {
        let run = [&["run", "-d", "--name", "tom"], run, &["busy", "/bin/sh", "-c", slow]].concat();
        stage.margay(run).ok();
        let ready = || stage.margay(["logs", "tom"]).out.contains("ready").then_some(());
        eventually("it runs", ready);
        stage.margay(stop).ok();
        assert_eq!(stage.margay(["wait", "tom"]).ok(), "7\n", "{stop:?}");
        stage.margay(["rm", "tom"]).ok();
    }
    let err = stage.margay(["stop", "-t", "soon", "tom"]).fails(2);
    assert!(err.contains("give whole seconds, or -1 to wait without end"), "{err}");
    stage.is_empty();
}
