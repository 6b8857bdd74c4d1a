//! Builds every situation of `differential/` with this crate and with BuildKit's own packages, and
//! compares the configs and the files: what a Dockerfile says means the same here, or is refused by
//! name.
//!
//! `buildkit/` is BuildKit without a daemon. `tests/run` builds it with Go; without it, and without
//! root, this says that it did not run.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

#[path = "differential/situation.rs"]
mod situation; // a situation, read and laid out
#[path = "differential/outcome.rs"]
mod outcome; // what a build gives, by either builder

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use outcome::Outcome;
use situation::{Expected, Situation};

#[test]
fn dockerfiles_give_what_buildkit_gives() {
    let situations = Situation::all();
    assert!(situations.len() >= 150, "{} situations", situations.len());
    let Some(program) = buildkit() else { return };
    let laid_out: Vec<_> = situations.iter().map(Situation::lay_out).collect();
    let theirs = built_by_buildkit(&program, &laid_out);
    assert_eq!(theirs.len(), situations.len());
    let mut failures = Vec::new();
    for ((situation, bench), theirs) in situations.iter().zip(&laid_out).zip(theirs) {
        let ours = outcome::built_here(bench);
        if let Some(difference) = difference(&situation.expected, &ours, &theirs) {
            failures.push(format!("{}\n  {}", situation.name, difference.replace('\n', "\n  ")));
        }
    }
    let (count, all) = (failures.len(), situations.len());
    assert!(failures.is_empty(), "{count} of {all} differ:\n\n{}\n", failures.join("\n\n"));
    println!("{all} situations are built as BuildKit builds them");
}

/// The program that `tests/run` made, if it can work here.
fn buildkit() -> Option<PathBuf> {
    let places = std::env::var("MARGAY_TEST_CLIENTS").unwrap_or_default();
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/clients");
    let mut folders = places.split(':').chain([built]).map(PathBuf::from);
    let found =
        folders.find_map(|folder| Some(folder.join("margay-buildkit")).filter(|p| p.is_file()));
    let own = std::fs::metadata("/proc/self").expect("/proc");
    match (found, std::os::unix::fs::MetadataExt::uid(&own) == 0) {
        (Some(program), true) => Some(program),
        (None, _) => {
            println!("NOT RUN: there is no margay-buildkit, which `tests/run` builds with Go");
            None
        }
        (Some(_), false) => {
            println!("NOT RUN: BuildKit gives files away, which needs root");
            None
        }
    }
}

fn built_by_buildkit(program: &PathBuf, benches: &[situation::Bench]) -> Vec<Outcome> {
    let input: Vec<_> = benches.iter().map(situation::Bench::for_buildkit).collect();
    let mut child = Command::new(program)
        .env("TMPDIR", situation::scratch())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("margay-buildkit starts");
    let stdin = child.stdin.take().unwrap();
    let writing = std::thread::spawn(move || serde_json::to_writer(stdin, &input).unwrap());
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap();
    assert!(output.status.success(), "margay-buildkit: {}", output.status);
    let raw: Vec<outcome::Raw> = serde_json::from_slice(&output.stdout).unwrap();
    raw.into_iter().map(Outcome::from).collect()
}

/// Why the two are not what was expected, if they are not.
fn difference(expected: &Expected, ours: &Outcome, theirs: &Outcome) -> Option<String> {
    match (ours, theirs) {
        (Outcome::Image { .. }, Outcome::Image { .. }) => {
            let listed = outcome::differences(ours, theirs, &expected.without);
            let ours = match ours {
                Outcome::Image { notes, .. } => notes.join("\n"),
                Outcome::Refused(_) => String::new(),
            };
            match &expected.noted {
                Some(note) if !ours.contains(note) => {
                    Some(format!("no note says `{note}`: {ours}"))
                }
                _ if expected.refused.is_some() => Some("it was to be refused".to_owned()),
                _ => Some(listed).filter(|listed| !listed.is_empty()),
            }
        }
        (Outcome::Refused(ours), Outcome::Image { .. }) => match &expected.refused {
            Some(text) if ours.contains(text) && ours.contains("line ") => None,
            Some(text) => Some(format!("the refusal is not `{text}`: {ours}")),
            None => Some(format!("BuildKit builds it, and here: {ours}")),
        },
        (Outcome::Image { .. }, Outcome::Refused(theirs)) => match expected.only_here {
            true => None,
            false => Some(format!("it is built here, and BuildKit says: {theirs}")),
        },
        (Outcome::Refused(_), Outcome::Refused(_)) => match expected.fails {
            true => None,
            false => {
                Some(format!("both refuse it:\nhere: {}\nBuildKit: {}", text(ours), text(theirs)))
            }
        },
    }
}

fn text(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Refused(text) => text,
        Outcome::Image { .. } => "",
    }
}
