//! `--init`: process 1 of a Linux task that is none of the image's.

use std::time::{Duration, Instant};

use crate::{
    native::{build, ready},
    stage::{Stage, eventually},
};

fn stage_with_image() -> Option<Stage> {
    if !ready() {
        return None;
    }
    let stage = Stage::new();
    build(&stage, "sleeper", "CMD [\"/bin/sleep\", \"600\"]");
    Some(stage)
}

#[test]
fn an_init_exits_as_its_program_did() {
    let Some(stage) = stage_with_image() else { return };
    let run = |arguments: &[&str]| {
        stage.margay(["run", "--rm", "--init", "sleeper"].iter().chain(arguments))
    };
    let said = run(&["sh", "-c", "echo out; echo err >&2; exit 7"]);
    // Before it there may be a word about the OCI runtime of this machine.
    assert_eq!((said.out.as_str(), said.code), ("out\n", 7), "{}", said.err);
    assert!(said.err.ends_with("err\n"), "{}", said.err);
    assert_eq!(run(&["sh", "-c", "kill -9 $$"]).code, 137);
    assert_eq!(run(&["sh", "-c", "kill -USR1 $$"]).code, 138);
    assert!(run(&["nope"]).fails(127).contains("cannot start `nope`: no such file"));
    assert!(run(&["/etc/passwd"]).fails(126).contains("`/etc/passwd`: permission denied"));
    // Process 1 is the init, also of another user, and where nothing can be written.
    let first = ["busybox", "cat", "/proc/1/cmdline"];
    assert!(run(&first).ok().starts_with("/sbin/docker-init\0--\0busybox\0"));
    let flags = ["run", "--rm", "--init", "--read-only", "-u", "33", "sleeper"];
    let said = stage.margay(flags.iter().chain(&first)).ok();
    assert!(said.starts_with("/sbin/docker-init\0"), "{said}");
    let said = run(&["sh", "-c", "echo x > /sbin/docker-init"]);
    assert!(said.code != 0 && said.err.contains("docker-init"), "it is read-only: {}", said.err);
    stage.is_empty();
}

#[test]
fn an_init_forwards_signals_and_takes_leave_of_orphans() {
    let Some(stage) = stage_with_image() else { return };
    // Orphans of the shell end soon, and none of them stays as a zombie.
    let line = "for n in 1 2 3; do (sleep 0.05 &); done; trap 'echo caught; exit 3' USR1; \
                echo ready; while :; do sleep 0.05; done";
    let mut client = stage.start(["run", "--init", "--name", "tom", "sleeper", "sh", "-c", line]);
    assert_eq!(client.line(), "ready");
    eventually("no zombie is left", || {
        let listed = stage.margay(["exec", "tom", "busybox", "ps", "-o", "stat,args"]).ok();
        (!listed.lines().any(|line| line.starts_with('Z'))).then_some(())
    });
    client.signal("USR1");
    let said = client.end();
    assert_eq!((said.out.as_str(), said.code), ("caught\n", 3), "{}", said.err);
    stage.margay(["rm", "tom"]).ok();

    // Without a handler: as process 1 it would ignore TERM, and a stop would take a minute.
    for how in [&["kill", "-s", "TERM", "tom"][..], &["stop", "--time", "60", "tom"]] {
        stage.margay(["run", "-d", "--init", "--name", "tom", "sleeper"]).ok();
        let begun = Instant::now();
        stage.margay(how).ok();
        assert_eq!(stage.margay(["wait", "tom"]).ok(), "143\n", "{how:?}");
        assert!(begun.elapsed() < Duration::from_secs(30), "{how:?}: {:?}", begun.elapsed());
        stage.margay(["rm", "tom"]).ok();
    }
    stage.is_empty();
}

#[test]
fn an_init_means_nothing_for_a_wasm_program_and_that_is_said() {
    let stage = Stage::new();
    let hello = crate::stage::samples().join("hello/hello.wasm");
    let hello = hello.to_str().expect("UTF-8");
    let err = stage.margay(["run", "--init", hello]).fails(125);
    assert!(err.contains("`--init` means nothing for a Wasm program"), "{err}");
    let err = stage.margay(["run", "--memory-reservation", "8m", hello]).fails(125);
    assert!(err.contains("`--memory-reservation` means nothing for a Wasm program"), "{err}");
}
