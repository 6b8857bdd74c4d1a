//! Copies in every state of a task, and copies that are interrupted.

use std::{fs, io::Read as _, process::Stdio};

use crate::{
    native,
    stage::{Stage, eventually, samples, signal},
    up::{Up, serve_cats},
};

fn state(stage: &Stage, task: &str) -> String {
    stage.margay(["inspect", "-f", "{{.State.Status}}", task]).out.trim().to_owned()
}

#[test]
fn files_go_in_and_out_of_a_task_between_its_starts() {
    if !native::ready() {
        return;
    }
    let stage = Stage::new();
    native::build(&stage, "busy", "CMD [\"/bin/sh\"]");
    stage.write("go", "");
    let wait = "[ -e /go ] && exec sleep 600; echo 7 >/left; exit 1";
    let run = ["run", "-d", "--restart", "always", "--name", "tom", "busy", "/bin/sh", "-c", wait];
    stage.margay(run).ok();
    let restarts = || {
        let restarts = stage.margay(["inspect", "-f", "{{.RestartCount}}", "tom"]).out;
        (restarts.trim().parse::<u32>().is_ok_and(|count| count > 3)).then_some(())
    };
    eventually("its pauses are long", restarts);
    assert_eq!(state(&stage, "tom"), "restarting");
    stage.margay(["cp", "tom:/left", "left"]).ok();
    assert_eq!(fs::read_to_string(stage.path("left")).expect("a file"), "7\n");
    // A start waits for a copy that is at its files.
    let mut copy = stage.command(["cp", "-", "tom:/"]);
    let mut copy = copy.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().expect("cp");
    drop(copy.stdin.take());
    copy.wait().expect("it ends");
    stage.margay(["cp", "go", "tom:/go"]).ok();
    eventually("it found the file", || (state(&stage, "tom") == "running").then_some(()));
    assert_eq!(stage.margay(["exec", "tom", "cat", "/left"]).ok(), "7\n");
    stage.margay(["rm", "-f", "tom"]).ok();
    stage.is_empty();
}

#[test]
fn an_interrupted_copy_ends_at_once_wherever_it_waits_and_leaves_nothing() {
    let stage = Stage::new();
    let probe = samples().join("hostile/probe-cli.wasm").display().to_string();
    stage.write("big", vec![7; 40 << 20]);
    let run = ["run", "-d", "--name", "tom", "-v", "v:/data", &probe, "sleep", "600000"];
    stage.margay(run).ok();
    stage.margay(["cp", "big", "tom:/data/big"]).ok();
    // For its own input, and for the reader of its output, which takes one byte.
    for (from, to) in [("-", "tom:/data"), ("tom:/data/big", "-")] {
        let mut copy = stage.command(["cp", from, to]);
        copy.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = copy.spawn().expect("cp");
        let pid = child.id().cast_signed();
        match from {
            "-" => eventually("it listens to signals", || {
                let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
                let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
                let caught = u64::from_str_radix(caught.trim(), 16).ok()?;
                (caught & (1 << 1) != 0).then_some(())
            }),
            _ => {
                let out = child.stdout.as_mut().expect("piped");
                out.read_exact(&mut [0]).expect("it begins");
            }
        }
        signal(pid, "INT");
        assert_eq!(child.wait().expect("it ends").code(), Some(130), "{from} {to}");
    }
    // Out, halfway: what it has written has no name.
    fs::create_dir(stage.path("there")).expect("a folder");
    let mut child = stage.command(["cp", "tom:/data/big", "there"]).spawn().expect("cp");
    let begun = || (fs::read_dir(stage.path("there")).ok()?.count() > 0).then_some(());
    eventually("it writes", begun);
    signal(child.id().cast_signed(), "INT");
    let code = child.wait().expect("it ends").code();
    let left: Vec<_> = fs::read_dir(stage.path("there")).expect("a folder").flatten().collect();
    match code {
        Some(130) => assert!(left.is_empty(), "{left:?}"),
        // It was faster.
        code => assert_eq!((code, left.len()), (Some(0), 1)),
    }
    stage.margay(["rm", "-f", "tom"]).ok();
    stage.is_empty();
}

#[test]
fn a_replica_that_is_idle_is_woken_for_a_copy_and_for_another_program() {
    let stage = Stage::new();
    let up = Up::start_with(&stage, &["--idle-after", "1s", "--spare-workers", "0"]);
    serve_cats(&stage, &up, 0);
    let service = ["service", "create", "still", "--task", "cats:1", "--cluster", "allthecats"];
    stage.margay([&service[..], &["--launch-type", "pool"]].concat()).ok();
    let task = eventually("it is idle", || {
        let list = stage.margay(["ps", "--format", "{{.ID}} {{.Status}}", "--no-trunc"]).ok();
        let line = list.lines().find(|line| line.ends_with(" Idle"))?;
        line.split(' ').next().map(str::to_owned)
    });
    // It has no port of this machine: the ingress alone reaches it.
    assert_eq!(stage.margay(["port", &task]).ok(), "");
    stage.margay(["cp", &format!("{task}:/srv/www/index.html"), "page"]).ok();
    let page = fs::read(stage.path("page")).expect("the page");
    assert_eq!(page, fs::read(samples().join("cats/www/index.html")).expect("the page"));
    let state = || stage.margay(["inspect", "-f", "{{.state}}", &task]).out;
    eventually("it is idle again", || (state().trim() == "idle").then_some(()));
    let err = stage.margay(["exec", &task, "nothing.wasm"]).fails(127);
    assert!(err.contains("nothing.wasm"), "{err}");
    up.end();
    stage.is_empty();
}
