//! `exec` against guests that do what they can against it: each attempt has an end in a moment, and
//! says why.

use std::{fs, path::PathBuf, time::Instant};

use crate::{
    native,
    stage::{PATIENCE, Stage, eventually, samples},
};

/// A Linux task `tom` that sleeps.
fn sleeping(terminals: bool) -> Option<Stage> {
    if !native::ready() {
        return None;
    }
    let stage = Stage::new();
    let applets = "COPY applets/ /bin/\nCMD [\"/bin/sleep\", \"600\"]";
    fs::create_dir_all(stage.path("applets")).expect("a folder");
    for applet in ["mkfifo", "rm", "ln", "mkdir", "yes", "ls", "kill", "pidof", "chroot", "mv"] {
        std::os::unix::fs::symlink("busybox", stage.path("applets").join(applet)).expect("a link");
    }
    native::build(&stage, "busy", applets);
    let run = ["run", "-d", "--name", "tom", "busy"];
    stage.margay(run).ok();
    if terminals {
        let other = ["run", "-d", "--name", "other", "busy"];
        stage.margay(other).ok();
    }
    Some(stage)
}

fn sh(stage: &Stage, line: &str) {
    stage.margay(["exec", "tom", "sh", "-c", line]).ok();
}

fn end(stage: &Stage, tasks: &[&str]) {
    for task in tasks {
        stage.margay(["rm", "-f", task]).ok();
    }
    stage.is_empty();
}

#[test]
fn files_that_exec_reads_lead_neither_out_of_the_container_nor_into_a_wait() {
    let Some(stage) = sleeping(false) else { return };
    sh(&stage, "ln -s /proc/self/exe /exe; ln -s /proc/self/fd/3 /fd; ln -s /proc/1/root /root1");
    for (prepare, arguments, code, why) in [
        (
            "rm /etc/passwd; mkfifo /etc/passwd",
            &["-u", "app", "tom", "sh"][..],
            126,
            "`/etc/passwd`",
        ),
        (
            "rm /etc/passwd; ln -s /dev/zero /etc/passwd",
            &["-u", "app", "tom", "sh"],
            126,
            "`/etc/passwd`",
        ),
        ("rm /etc/passwd; mkdir /etc/passwd", &["-u", "app", "tom", "sh"], 126, "`/etc/passwd`"),
        // The program of the host that becomes it.
        ("", &["tom", "/exe"], 127, "`/exe`"),
        ("", &["-w", "/fd", "tom", "sh"], 126, "`/fd`"),
        ("mkfifo /pipe", &["tom", "/pipe"], 126, "`/pipe`"),
        ("", &["tom", "/root1/etc/hostname"], 127, "no such file"),
    ] {
        if !prepare.is_empty() {
            sh(&stage, prepare);
        }
        let begun = Instant::now();
        let err = stage.margay(["exec"].iter().chain(arguments)).fails(code);
        assert!(err.contains(why), "{arguments:?}: {err}");
        assert!(begun.elapsed() < PATIENCE / 4, "{arguments:?}: {:?}", begun.elapsed());
        stage.margay(["exec", "tom", "sh", "-c", "exit 0"]).ok();
    }
    // A container whose programs are gone can still be looked at.
    sh(&stage, "mv /bin /gone");
    stage.margay(["exec", "tom", "sh"]).fails(127);
    stage.margay(["exec", "tom", "/gone/busybox", "true"]).ok();
    stage.margay(["cp", "tom:/gone/busybox", "out"]).ok();
    end(&stage, &["tom"]);
}

#[test]
fn what_others_write_for_ever_into_a_programs_output_does_not_hold_its_client() {
    let Some(stage) = sleeping(false) else { return };
    let begun = Instant::now();
    let said = stage.margay(["exec", "tom", "sh", "-c", "yes & exit 3"]);
    assert_eq!(said.code, 3, "{}", said.err);
    assert!(said.out.len() <= 4 << 20, "{} bytes", said.out.len());
    assert!(begun.elapsed() < PATIENCE / 4, "{:?}", begun.elapsed());
    end(&stage, &["tom"]);
}

#[test]
fn a_container_that_holds_every_terminal_it_may_have_takes_none_from_others() {
    let Some(stage) = sleeping(true) else { return };
    // One that is asked for meanwhile may have the last of them, and give it back.
    let hold = "i=0; while [ $i -lt 300 ]; do sleep 600 <>/dev/ptmx & i=$((i+1)); done
                while sleep 1; do sleep 600 <>/dev/ptmx & done";
    stage.margay(["exec", "-d", "tom", "sh", "-c", hold]).ok();
    let with_terminal = |task: &str| stage.margay(["exec", "-dt", task, "sh", "-c", "exit 0"]);
    let refused = eventually("all of its terminals are taken", || {
        Some(with_terminal("tom")).filter(|said| said.code != 0)
    });
    assert!(refused.err.contains("cannot enter the container (terminal)"), "{}", refused.err);
    stage.margay(["exec", "tom", "sh", "-c", "exit 0"]).ok();
    with_terminal("other").ok();
    end(&stage, &["tom", "other"]);
}

#[test]
fn a_container_that_ends_ends_its_programs_and_takes_no_more() {
    let Some(stage) = sleeping(false) else { return };
    let mut programs: Vec<_> = (0..5)
        .map(|_| stage.start(["exec", "tom", "sh", "-c", "echo ready; exec sleep 600"]))
        .collect();
    for program in &mut programs {
        assert_eq!(program.line(), "ready");
    }
    stage.margay(["kill", "tom"]).ok();
    for program in programs {
        assert_eq!(program.end().code, 137);
    }
    let err = stage.margay(["exec", "tom", "sh"]).fails(125);
    assert!(err.contains("`tom` is not running: it has exited with 137"), "{err}");
    end(&stage, &["tom"]);
}

/// The machine code that this home has prepared.
fn machine_code(stage: &Stage) -> Vec<PathBuf> {
    let folders = fs::read_dir(stage.home().join("prepared/local")).expect("prepared").flatten();
    folders.map(|folder| folder.path().join("code")).filter(|code| code.exists()).collect()
}

#[test]
fn machine_code_that_was_changed_runs_neither_in_a_task_nor_by_exec() {
    let stage = Stage::new();
    let file = |name: &str| samples().join(name).display().to_string();
    let (probe, hello) = (file("hostile/probe-cli.wasm"), file("hello/hello.wasm"));
    let run = ["run", "-d", "--name", "tom", &probe, "sleep", "600000"];
    stage.margay(run).ok();
    let exec = ["exec", "--program", hello.as_str(), "tom"];
    let want = stage.margay(exec).ok();
    // Every byte of what was prepared is another: were it loaded, the worker would crash.
    for code in machine_code(&stage) {
        let mut bytes = fs::read(&code).expect("machine code");
        let from = bytes.len() / 2;
        bytes[from..].iter_mut().for_each(|byte| *byte = !*byte);
        fs::write(&code, bytes).expect("changed");
    }
    stage.margay(["rm", "-f", "tom"]).ok();
    stage.margay(run).ok();
    assert_eq!(stage.margay(exec).ok(), want);
    stage.margay(["rm", "-f", "tom"]).ok();
    stage.is_empty();
}
