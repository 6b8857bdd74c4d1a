//! One probe of a container's health: a program in it, whose output is kept in part.

mod reach; // whether a container is reached from outside

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use engine::{
    Exit, StartFailure,
    exec::{self, Answer, Ask, Program},
    frame,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::Shutdown,
};

use super::{START_TIME_MAX, Streams, unreachable_task, wait_until_started, wasm};
use crate::{
    error::{Error, Result, chain},
    home::Home,
    tasks::{Check, Kind, ProcessId, TaskFolder},
};

/// The exit code of a probe that did not run, or took too long. Docker's.
pub(crate) const NOT_RUN: i32 = -1;

/// Bytes of one probe's output that are kept. Docker's.
const OUTPUT_BYTES_MAX: usize = 4096;
/// Bytes read at once: a pipe holds as much.
const CHUNK_BYTES: usize = 64 << 10;
/// A program that is killed ends within milliseconds, and later on a machine that swaps.
const KILL_TIME_MAX: Duration = Duration::from_secs(10);

/// Asks what `check` asks for of the container of `task`, which `process` runs: the exit code of a
/// program in it and what that wrote, or 0 or 1 and what was seen from outside.
pub(crate) fn run(
    home: &Home,
    task: &TaskFolder,
    process: Option<ProcessId>,
    check: &Check,
) -> (i32, String) {
    if let Some(asked) = &check.reach {
        let (is_reached, seen) = reach::ask(home, task, process, check, asked);
        return (i32::from(!is_reached), seen);
    }
    let ended = start(home, task, check).and_then(|mut running| {
        let deadline = Instant::now() + check.timeout;
        let watching = |source| Error::System { verb: "watch a check", source };
        running.until(deadline).map_err(watching).map(|exit| (exit, running))
    });
    match ended {
        Ok((Some(exit), running)) => {
            let output = match (running.output.text(), exit.message()) {
                (text, Some(why)) if text.is_empty() => why,
                (text, _) => text,
            };
            (exit.code().into(), output)
        }
        Ok((None, running)) => {
            let text = running.output.text();
            let colon = if text.is_empty() { "" } else { ": " };
            (NOT_RUN, format!("Health check exceeded timeout ({:?}){colon}{text}", check.timeout))
        }
        Err(error) => (NOT_RUN, why_not(&error, check)),
    }
}

/// A check in shell form where there is no shell is a mistake of its own.
fn why_not(error: &Error, check: &Check) -> String {
    let is_missing = error.exit_code() == StartFailure::NotFound.exit_code();
    match check.shell().filter(|_| is_missing) {
        Some(shell) => format!(
            "the check has shell form, and the image has no shell `{shell}`: write it in exec \
             form, as in HEALTHCHECK CMD [\"/PROGRAM\", \"ARG\"]"
        ),
        None => chain(error),
    }
}

/// A probe whose program runs.
struct Running {
    socket: OwnedFd,
    /// Its stdout and stderr.
    pipes: Vec<OwnedFd>,
    output: Output,
}

fn start(home: &Home, task: &TaskFolder, check: &Check) -> Result<Running> {
    let name = &task.record().name;
    let mut program =
        Program { args: check.command.clone(), ends_with_client: true, ..Program::default() };
    if task.record().kind == Kind::Wasm {
        program.code = Some(wasm::place(home, task, &program, None, &mut || {})?);
    }
    let streams = Streams::pipes(false)
        .map_err(|source| Error::System { verb: "make the streams of a program", source })?;
    let asked = exec::ask(task.path(), Ask::Exec(Box::new(program)), &streams.theirs);
    let socket = asked.map_err(|error| unreachable_task(name, &error))?;
    drop(streams.theirs);
    wait_until_started(name, &socket, START_TIME_MAX)?;
    let pipes: Vec<OwnedFd> = streams.ours.into_iter().flatten().collect();
    let pipes_block = |source| Error::System { verb: "make the streams of a program", source };
    for pipe in &pipes {
        rustix::io::ioctl_fionbio(pipe, true).map_err(|error| pipes_block(error.into()))?;
    }
    Ok(Running { socket, pipes, output: Output::default() })
}

impl Running {
    /// Until it has ended, and how; or until it was killed at its deadline.
    fn until(&mut self, deadline: Instant) -> std::io::Result<Option<Exit>> {
        if let Some(exit) = self.wait(deadline)? {
            return Ok(Some(exit));
        }
        // Nothing more to say: it is killed, and its end is still told.
        rustix::net::shutdown(&self.socket, Shutdown::Write)?;
        self.wait(Instant::now() + KILL_TIME_MAX)?;
        Ok(None)
    }

    fn wait(&mut self, deadline: Instant) -> std::io::Result<Option<Exit>> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let (said, readable) = self.poll(left)?;
            self.read(&readable);
            if said {
                let exit = match frame::receive::<Answer>(&self.socket)? {
                    Some((Answer::Exited(exit), _)) => exit,
                    Some(_) => continue,
                    None => Exit::Lost("the task ended meanwhile".to_owned()),
                };
                // What it wrote before lies in its pipes by now, which hold no more than this.
                self.read(&vec![true; self.pipes.len()]);
                return Ok(Some(exit));
            }
        }
    }

    /// Whether there is an answer, and which pipes have something.
    fn poll(&self, time_max: Duration) -> std::io::Result<(bool, Vec<bool>)> {
        let time_max = Timespec::try_from(time_max).map_err(std::io::Error::other)?;
        let all: Vec<BorrowedFd<'_>> =
            [&self.socket].into_iter().chain(&self.pipes).map(AsFd::as_fd).collect();
        let mut fds: Vec<_> =
            all.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        match poll(&mut fds, Some(&time_max)) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok((false, vec![false; self.pipes.len()])),
            Err(error) => return Err(error.into()),
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        Ok((ready.next().unwrap_or_default(), ready.collect()))
    }

    /// Reads once from each pipe that has something, and forgets those that have ended.
    fn read(&mut self, readable: &[bool]) {
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut index = 0;
        self.pipes.retain(|pipe| {
            index += 1;
            if !readable[index - 1] {
                return true;
            }
            match rustix::io::read(pipe, &mut buffer) {
                Ok(bytes @ 1..) => self.output.take(&buffer[..bytes]),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Ok(0) | Err(_) => return false,
            }
            true
        });
    }
}

/// The beginning of what a probe wrote, of both streams in the order in which it came.
#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl Output {
    fn take(&mut self, bytes: &[u8]) {
        let room = OUTPUT_BYTES_MAX - self.bytes.len();
        self.is_cut |= bytes.len() > room;
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        format!("{text}{}", if self.is_cut { "..." } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_kept_to_its_limit_and_a_cut_is_marked() {
        let mut output = Output::default();
        output.take(&[b'a'; 4000]);
        assert_eq!(output.text().len(), 4000);
        output.take(&[b'b'; 96]);
        assert!(output.text().ends_with('b') && output.text().len() == 4096);
        output.take(b"c");
        assert!(output.text().ends_with("b...") && output.text().len() == 4099);
    }

    #[test]
    fn a_missing_shell_is_named() {
        let check = |test: &[&str]| {
            let test = test.iter().map(|word| (*word).to_owned()).collect();
            Check::of(&spec::HealthCheck { test, ..Default::default() }, None).unwrap()
        };
        let missing = Error::Start {
            task: "tom".to_owned(),
            why: "cannot start `/bin/sh`: no such file or directory".to_owned(),
            hint: None,
            exit_code: 127,
        };
        let shell = why_not(&missing, &check(&["CMD-SHELL", "curl localhost"]));
        assert!(shell.contains("no shell `/bin/sh`") && shell.contains("exec form"), "{shell}");
        let plain = why_not(&missing, &check(&["CMD", "/bin/sh"]));
        assert!(plain.contains("cannot start `/bin/sh`"), "{plain}");
    }
}
