//! Linux programs between others in a shell: readers that leave, and disks that are full.

use std::{fs::File, io::Read as _, process::Stdio};

use crate::{
    native::{build, ready},
    stage::Stage,
};

fn stage_with_image() -> Option<Stage> {
    if !ready() {
        return None;
    }
    let stage = Stage::new();
    build(&stage, "box", "CMD [\"/bin/sleep\", \"600\"]");
    Some(stage)
}

#[test]
fn a_program_ends_when_its_reader_has_left() {
    let Some(stage) = stage_with_image() else { return };
    // `yes | head -1`, with and without input.
    for flags in [&["run", "--rm"][..], &["run", "--rm", "-i"]] {
        let mut command = stage.command(flags.iter().chain(&["box", "busybox", "yes"]));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("margay starts");
        let _input = child.stdin.take();
        let mut stdout = child.stdout.take().expect("piped");
        let mut line = [0; 2];
        stdout.read_exact(&mut line).expect("a line");
        assert_eq!(&line, b"y\n");
        drop(stdout);
        // The first process of a task is not killed by SIGPIPE: it gets an error.
        assert_eq!(child.wait().expect("it ends").code(), Some(1), "{flags:?}");
    }
    // One that handles it goes on, and one that writes to the other stream is not touched.
    let line = "trap '' PIPE; echo out; sleep 0.1; echo more; echo err >&2; exit 5";
    let mut command = stage.command(["run", "--rm", "box", "sh", "-c", line]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("margay starts");
    drop(child.stdout.take());
    let said = crate::stage::said(child.wait_with_output().expect("it ends"));
    assert_eq!(said.code, 5, "{}", said.err);
    assert!(said.err.contains("err\n"), "{}", said.err);
    stage.is_empty();
}

#[test]
fn output_that_nothing_keeps_is_said_and_ends_the_program() {
    let Some(stage) = stage_with_image() else { return };
    let full = || File::options().write(true).open("/dev/full").expect("/dev/full");
    for (flags, line, code) in [
        (&[][..], "yes", 1),
        (&["-i"], "yes", 1),
        // They have ended well before any write fails.
        (&[], "echo hi", 1),
        (&[], "exec 2>&-; echo hi", 1),
        (&["-i"], "echo hi", 1),
        (&["-t"], "echo hi", 1),
        (&[], "echo hi; exit 5", 5),
        (&["-i"], "echo hi; exit 5", 5),
        (&[], "true", 0),
    ] {
        let run = [&["run", "--rm"], flags, &["box", "sh", "-c", line]].concat();
        let mut command = stage.command(run);
        command.stdin(Stdio::null()).stdout(full()).stderr(Stdio::piped());
        let child = command.spawn().expect("margay starts");
        let said = crate::stage::said(child.wait_with_output().expect("it ends"));
        assert_eq!(said.code, code, "{flags:?} {line}: {}", said.err);
        let lost = said.err.contains("margay: output was lost: no storage space");
        assert_eq!(lost, line != "true", "{flags:?} {line}: {}", said.err);
    }
    stage.is_empty();
}

#[test]
fn a_program_has_the_variables_that_docker_gives_it() {
    let Some(stage) = stage_with_image() else { return };
    let env = |flags: &[&str]| {
        stage.margay([&["run", "--rm"], flags, &["box", "busybox", "env"]].concat()).ok()
    };
    assert!(env(&[]).contains("HOSTNAME=box\n"), "{}", env(&[]));
    assert!(env(&["--hostname", "cat"]).contains("HOSTNAME=cat\n"));
    assert!(env(&["-e", "HOSTNAME=other"]).contains("HOSTNAME=other\n"));
    // A server's ports are spoken of when the server runs.
    build(&stage, "server", "EXPOSE 80\nCMD [\"/bin/busybox\", \"true\"]");
    let note = "The image serves on port 80";
    assert!(stage.margay(["run", "--rm", "server"]).err.contains(note));
    assert!(!stage.margay(["run", "--rm", "server", "busybox", "env"]).err.contains(note));
    stage.is_empty();
}

#[test]
fn a_program_that_the_image_has_not_is_named_with_what_to_do() {
    let Some(stage) = stage_with_image() else { return };
    for (program, code, want) in [
        ("nope", 127, "cannot start `nope`: executable file not found in $PATH"),
        ("/bin", 126, "cannot start `/bin`: "),
    ] {
        let err = stage.margay(["run", "--rm", "box", program]).fails(code);
        assert!(err.contains(want) && err.contains("\nhint: "), "{err}");
        assert!(!err.contains("unable to start container process"), "{err}");
    }
    stage.is_empty();
}
