//! A task in the foreground that takes input: its own terminal shares it with others.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, Stdio},
};

use crate::{
    native,
    stage::{Stage, eventually, samples},
};

/// A program of each kind that writes what it reads.
fn echoes(stage: &Stage) -> Vec<Vec<String>> {
    let hello = samples().join("hello/hello.wasm").display().to_string();
    let mut echoes = vec![vec![hello, "-".to_owned()]];
    if native::ready() {
        native::build(stage, "busy", "CMD [\"/bin/sh\"]");
        echoes.push(["busy", "cat"].map(str::to_owned).to_vec());
    }
    echoes
}

fn start(stage: &Stage, arguments: &[&str], echo: &[String]) -> Child {
    let echo = echo.iter().map(String::as_str);
    let mut command = stage.command(arguments.iter().copied().chain(echo));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("margay starts")
}

fn type_in(child: &mut Child, text: &str) {
    child.stdin.as_mut().expect("piped").write_all(text.as_bytes()).expect("it reads");
}

#[test]
fn input_comes_from_its_own_terminal_and_from_each_that_attaches() {
    let stage = Stage::new();
    for echo in echoes(&stage) {
        let mut own = start(&stage, &["run", "-i", "--name", "tom"], &echo);
        let mut lines = BufReader::new(own.stdout.take().expect("piped")).lines();
        let mut line = || lines.next().expect("a line").expect("text");
        type_in(&mut own, "one\n");
        let first = std::iter::repeat_with(&mut line).find(|line| line == "one");
        assert_eq!(first.as_deref(), Some("one"), "{echo:?}");
        let mut other = stage.command(["attach", "tom"]);
        other.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut other = other.spawn().expect("attach");
        type_in(&mut other, "two\n");
        assert_eq!(line(), "two", "{echo:?}");
        // The input of the one that attached has an end; that of the task has not.
        drop(other.stdin.take());
        type_in(&mut own, "three\n");
        assert_eq!(line(), "three", "{echo:?}");
        drop(own.stdin.take());
        assert_eq!(own.wait().expect("it ends").code(), Some(0), "{echo:?}");
        let other = other.wait_with_output().expect("it ends");
        assert_eq!(other.status.code(), Some(0), "{echo:?}");
        assert_eq!(String::from_utf8_lossy(&other.stdout), "two\nthree\n", "{echo:?}");
        stage.margay(["rm", "tom"]).ok();
    }
    stage.is_empty();
}

#[test]
fn a_pipeline_loses_no_byte_and_ends_when_its_reader_leaves() {
    let stage = Stage::new();
    let big: Vec<u8> = (0..400_000_u32).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    for echo in echoes(&stage) {
        let mut run = start(&stage, &["run", "-i", "--rm"], &echo);
        let (mut stdin, mut stdout) =
            (run.stdin.take().expect("piped"), run.stdout.take().expect("piped"));
        let read = std::thread::scope(|scope| {
            scope.spawn(|| {
                stdin.write_all(&big).expect("it reads");
                drop(stdin);
            });
            let mut read = Vec::new();
            stdout.read_to_end(&mut read).expect("it writes");
            read
        });
        assert!(read.ends_with(&big), "{echo:?}: {} of {} bytes", read.len(), big.len());
        assert_eq!(run.wait().expect("it ends").code(), Some(0), "{echo:?}");
    }
    // A program whose output has no end, and a reader that takes one line of it.
    let probe = samples().join("hostile/probe-cli.wasm").display().to_string();
    let mut run = start(&stage, &["run", "-i", "--rm"], &[probe, "flood".to_owned()]);
    let mut line = String::new();
    BufReader::new(run.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    eventually("it ends without its reader", || run.try_wait().expect("a child"));
    stage.is_empty();
}
