//! Files of a home that something else has taken the place of.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    stage::{PATIENCE, Running, Stage, eventually, signal},
    up::{UP, Up, page_is_served, serve_cats},
};

/// Every file of `folder` but blobs, which have names of their content.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let kind = entry.file_type().expect("a kind");
        if kind.is_dir() && entry.file_name() != "blobs" {
            files(&entry.path(), found);
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
}

/// Whether a start has said that it is up, or has ended, in time.
fn comes_to_an_end(stage: &Stage, arguments: &[&str], file: &Path) {
    let mut running = Running::of(stage.command(arguments));
    let pid = running.pid();
    let began = Instant::now();
    let waiting = std::thread::spawn(move || {
        let line = running.line();
        running.signal("INT");
        (line, running.end())
    });
    while !waiting.is_finished() {
        if began.elapsed() > PATIENCE {
            signal(pid, "KILL");
            panic!("`{arguments:?}` waits for `{}`", file.display());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let (line, said) = waiting.join().expect("it was waited for");
    if said.code != 0 && line.is_empty() {
        let folder = file.parent().expect("a folder").to_string_lossy();
        assert!(said.err.contains(&*folder), "{} is not named: {said:?}", file.display());
    }
}

/// A process that was taken over, or a mistake, may leave a pipe where a start reads: it has no end
/// and no beginning.
#[test]
fn a_pipe_in_place_of_any_file_of_a_home_keeps_no_start_waiting() {
    let origin = Stage::new();
    let up = Up::start(&origin);
    serve_cats(&origin, &up, 1);
    eventually("the page", || page_is_served(&up));
    up.end();
    let mut found = Vec::new();
    files(&origin.home(), &mut found);
    assert!(found.len() > 30, "{found:?}");
    let rest = Mutex::new(found);
    let next = || rest.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let try_all = || {
        while let Some(file) = next() {
            let stage = Stage::new();
            let copied = Command::new("cp").arg("-a").args([origin.home(), stage.home()]).status();
            assert!(copied.expect("cp runs").success());
            let place = stage.home().join(file.strip_prefix(origin.home()).expect("in the home"));
            let owner = fs::metadata(&place).expect("a file");
            fs::remove_file(&place).expect("a file");
            rustix::fs::mknodat(
                rustix::fs::CWD,
                &place,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::from_raw_mode(0o600),
                0,
            )
            .expect("a pipe");
            chown(&place, Some(owner.uid()), Some(owner.gid())).expect("it has the same owner");
            comes_to_an_end(&stage, &["ps", "-a"], &place);
            comes_to_an_end(&stage, &UP, &place);
        }
    };
    // Most of a start is waiting.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(try_all);
        }
    });
}
