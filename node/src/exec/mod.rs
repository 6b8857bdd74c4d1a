//! `margay exec`: another program in a container that runs.
//!
//! The client speaks with the container's own process, a worker or a task shim, and has the
//! program's streams itself: its supervisor is not asked. The program outlives its client, as with
//! Docker, and ends with the container.

mod wasm; // the machine code of a Wasm program, for its worker
pub(crate) mod relay; // the client's streams, until the program has ended
pub(crate) mod probe; // a program that says whether the container is well

#[cfg(test)]
mod tests;

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    time::{Duration, Instant},
};

use engine::{
    Exit, StartFailure,
    exec::{self, Answer, Ask, Program},
    frame,
};
use rustix::{fs::Mode, net::sockopt, pipe::PipeFlags};

use crate::{
    error::{Error, Result},
    home::Home,
    ports,
    tasks::{Kind, State, TaskFolder},
};
pub(crate) use relay::Client;
use relay::{Relay, Side};

/// What `margay exec` was asked for.
#[derive(Debug, Clone)]
pub struct ExecRequest {
    /// What runs, with the terminal that it gets, if it gets one.
    pub program: Program,
    /// A Wasm program of this machine to run in place of one of the image.
    pub file: Option<PathBuf>,
    /// Hand over our standard input.
    pub interactive: bool,
    /// Return when it runs.
    pub detach: bool,
}

/// What happens before the program has anything to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It was not ready to run, and is being made so.
    Preparing,
    Started,
}

/// A program that is ready is loaded and linked within this; a machine that swaps takes
/// seconds.
const START_TIME_MAX: Duration = Duration::from_secs(60);

/// A task that is starting is waited for this long: what takes longer is an image being made ready.
const STARTING_TIME_MAX: Duration = Duration::from_secs(2);
/// Between two looks at it.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Runs a program in the container of `task`, with this process's streams, to its end. `hear` is
/// told what happens before. How it ended; nothing where it was detached.
///
/// # Errors
/// When the task does not run, or the program cannot be started.
pub fn exec(
    home: &Home,
    task: &TaskFolder,
    request: ExecRequest,
    hear: impl FnMut(Heard),
) -> Result<Option<Exit>> {
    exec_for(home, task, request, Client::own, hear)
}

/// As [`exec`], with the streams of a client that are given.
pub(crate) fn exec_for(
    home: &Home,
    task: &TaskFolder,
    mut request: ExecRequest,
    client: impl FnOnce() -> io::Result<Client>,
    mut hear: impl FnMut(Heard),
) -> Result<Option<Exit>> {
    let name = &task.record().name;
    refuse_unless_running(home, task)?;
    let kind = task.record().kind;
    match kind {
        Kind::Wasm => {
            let mut preparing = || hear(Heard::Preparing);
            let (program, file) = (&request.program, request.file.as_deref());
            let range = wasm::place(home, task, program, file, &mut preparing)?;
            request.program.code = Some(range);
        }
        Kind::Native if request.file.is_some() => {
            return Err(Error::Start {
                task: name.clone(),
                why: "--program takes a Wasm program, and the task runs a Linux image".to_owned(),
                hint: Some(format!("copy it in and run it: margay cp FILE {name}:/tmp/")),
                exit_code: StartFailure::Host.exit_code(),
            });
        }
        Kind::Native => {}
    }
    // A native program has a terminal of its own; a Wasm program knows that it speaks to one.
    let has_own_terminal = kind == Kind::Native && request.program.terminal.is_some();
    let streams = match (has_own_terminal, request.detach) {
        (true, _) => Ok(Streams::default()),
        (false, true) => Streams::null(),
        (false, false) => Streams::pipes(request.interactive),
    }
    .map_err(|source| Error::System { verb: "make the streams of a program", source })?;
    let asked = exec::ask(task.path(), Ask::Exec(Box::new(request.program)), &streams.theirs);
    let socket = asked.map_err(|error| unreachable_task(name, &error))?;
    drop(streams.theirs);
    let fds = wait_until_started(name, &socket, START_TIME_MAX)?;
    if request.detach {
        return Ok(None);
    }
    hear(Heard::Started);
    let side = match fds.into_iter().next() {
        Some(terminal) if has_own_terminal => Side::Terminal(terminal),
        _ => Side::Pipes(streams.ours),
    };
    let ended = client()
        .and_then(|client| Relay::new(&socket, side, request.interactive, client))
        .and_then(Relay::run)
        .map_err(|source| Error::System { verb: "relay the streams of a program", source })?;
    Ok(Some(ended.unwrap_or_else(|| Exit::Lost("the task ended meanwhile".to_owned()))))
}

/// The client's and the program's ends of its streams.
#[derive(Default)]
struct Streams {
    /// Stdin, stdout, stderr.
    ours: [Option<OwnedFd>; 3],
    theirs: Vec<OwnedFd>,
}

impl Streams {
    fn pipes(interactive: bool) -> io::Result<Self> {
        let make = || -> io::Result<(OwnedFd, OwnedFd)> {
            let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
            // The program may be another user, and reopen `/dev/stdout`.
            rustix::fs::fchmod(&read, Mode::from_raw_mode(0o666))?;
            Ok((read, write))
        };
        let (stdin, input) = match interactive {
            true => {
                let (read, write) = make()?;
                (read, Some(write))
            }
            false => (null()?, None),
        };
        let ((out, stdout), (err, stderr)) = (make()?, make()?);
        let copies = [out.try_clone()?, err.try_clone()?];
        let theirs = [stdin, stdout, stderr].into_iter().chain(copies).collect();
        Ok(Self { ours: [input, Some(out), Some(err)], theirs })
    }

    fn null() -> io::Result<Self> {
        Ok(Self { theirs: vec![null()?, null()?, null()?], ..Self::default() })
    }
}

fn null() -> io::Result<OwnedFd> {
    Ok(std::fs::File::options().read(true).write(true).open("/dev/null")?.into())
}

/// A program may have said something before its task is written down as running; and one that is
/// idle starts for a client at one of its ports.
fn state_after_start(home: &Home, task: &TaskFolder) -> Result<State> {
    let deadline = Instant::now() + STARTING_TIME_MAX;
    let client = match task.state()? {
        State::Idle => ports::connect(home, task),
        _ => None,
    };
    loop {
        match task.state()? {
            State::Idle if client.is_some() && Instant::now() < deadline => {
                std::thread::sleep(LOOK_EVERY);
            }
            State::Starting if Instant::now() < deadline => std::thread::sleep(LOOK_EVERY),
            state => return Ok(state),
        }
    }
}

pub(crate) fn refuse_unless_running(home: &Home, task: &TaskFolder) -> Result<()> {
    let state = state_after_start(home, task)?;
    let name = task.record().name.clone();
    let (state, hint) = match state {
        State::Running | State::Unsupervised => return Ok(()),
        State::Exited(code) => {
            (format!("has exited with {code}"), Some(format!("start it: margay start {name}")))
        }
        State::Starting => ("is starting".to_owned(), Some("try again in a moment".to_owned())),
        State::Idle => (
            "is idle: its first request starts it".to_owned(),
            Some("send it a request, and try again at once".to_owned()),
        ),
        State::BackOff => (
            "waits to be started again".to_owned(),
            Some(format!("see why it ended: margay logs {name}")),
        ),
        other => (format!("is {}", other.word()), None),
    };
    Err(Error::NotJoinable { task: name, state, hint })
}

pub(crate) fn unreachable_task(name: &str, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Error::NotJoinable {
            task: name.to_owned(),
            state: "cannot be reached: it has just ended, or an older margay started it".to_owned(),
            hint: Some(format!("see its state: margay inspect {name}")),
        },
        _ => Error::NoAnswer { task: name.to_owned(), why: error.to_string() },
    }
}

/// Waits for the program to run. What comes with that word.
fn wait_until_started(name: &str, socket: &OwnedFd, time_max: Duration) -> Result<Vec<OwnedFd>> {
    let no_answer = |why: String| Error::NoAnswer { task: name.to_owned(), why };
    let _ = sockopt::set_socket_timeout(socket, sockopt::Timeout::Recv, Some(time_max));
    let mut answer = frame::receive::<Answer>(socket.as_fd());
    if matches!(answer, Ok(None)) {
        // A container that has no room closes without having read the request, and the kernel tells
        // that before it hands out what was said.
        answer = frame::receive(socket.as_fd());
    }
    let _ = sockopt::set_socket_timeout(socket, sockopt::Timeout::Recv, None);
    match answer {
        Ok(Some((Answer::Started, fds))) => Ok(fds),
        Ok(Some((Answer::Refused { failure, message, hint }, _))) => Err(Error::Start {
            task: name.to_owned(),
            why: message,
            hint: hint.or_else(|| match failure {
                StartFailure::NotFound => failure.hint().map(str::to_owned),
                // Of a working directory as well.
                StartFailure::NotExecutable | StartFailure::Host => None,
            }),
            exit_code: failure.exit_code(),
        }),
        Ok(Some((other @ (Answer::Exited(_) | Answer::Found(_) | Answer::Copied(_)), _))) => {
            Err(no_answer(format!("it did not start: {other:?}")))
        }
        Ok(None) => Err(Error::Start {
            task: name.to_owned(),
            why: "the task ended meanwhile".to_owned(),
            hint: None,
            exit_code: StartFailure::Host.exit_code(),
        }),
        Err(error) => Err(no_answer(error.to_string())),
    }
}
