//! The container's end of a copy: its own process where it runs, and one that has only its files
//! where it does not.

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use disk::Lock;
use engine::{
    exec::{self, Answer, Ask, FileStat, Link, Place},
    frame,
};
use rustix::{event::PollFlags, net::sockopt};

use super::{
    open::{OpenFiles, open_files},
    stream::Signals,
};
use crate::{
    error::{Error, Result},
    exec::{refuse_unless_running, unreachable_task},
    home::Home,
    local,
    request::Note,
    tasks::{Origin, Owned, State, TaskFolder},
};

/// For a start that goes on: an image that has to be made ready takes seconds.
const START_TIME_MAX: Duration = Duration::from_secs(60);
/// Between two looks at whether it is over.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// To look at a path: a machine that swaps takes seconds.
const LOOK_TIME_MAX: Duration = Duration::from_secs(60);

pub(super) struct Far {
    task: TaskFolder,
    /// Of one that does not run. No process can start it meanwhile.
    still: Option<Still>,
}

struct Still {
    // Dropped in this order: the process ends before the folder is free again.
    files: OpenFiles,
    _runtime: tokio::runtime::Runtime,
    _held: Held,
}

/// What keeps a container from being started: its folder where no supervisor has it, and else the
/// lock that its supervisor takes before each start.
struct Held {
    _owned: Option<Owned>,
    _files: Lock,
}

impl Far {
    pub fn open(home: &Home, task: TaskFolder, watch: impl FnMut(Note)) -> Result<Self> {
        let Some((task, held)) = hold(&task)? else {
            refuse_unless_running(home, &task)?;
            return Ok(Self { task, still: None });
        };
        let launch = local::decide_again(home, &task, watch)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| Error::System { verb: "start a runtime", source })?;
        let files = runtime.block_on(open_files(&launch, home, &task))?;
        let still = Still { files, _runtime: runtime, _held: held };
        Ok(Self { task, still: Some(still) })
    }

    pub fn name(&self) -> &str {
        &self.task.record().name
    }

    /// Asks for something; the answer comes over what this returns.
    pub fn ask(&self, ask: Ask, stream: Option<OwnedFd>) -> Result<OwnedFd> {
        let fds: Vec<_> = stream.into_iter().collect();
        let sent = match self.still.as_ref().and_then(|still| still.files.visit()) {
            Some(visit) => {
                exec::send(visit.socket(), ask, &fds).and_then(|()| visit.socket().try_clone())
            }
            None => exec::ask(self.task.path(), ask, &fds),
        };
        sent.map_err(|error| unreachable_task(self.name(), &error))
    }

    /// What is at a path.
    pub fn stat(&self, path: &str, link: Link) -> Result<Option<FileStat>> {
        let socket = self.ask(Ask::Stat(Place { path: path.to_owned(), link }), None)?;
        let limit = |time| sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, time);
        let _ = limit(Some(LOOK_TIME_MAX));
        let answer = self.answer(&socket);
        let _ = limit(None);
        match answer? {
            Answer::Found(found) => Ok(found),
            other => Err(self.odd(&other)),
        }
    }

    /// The answer, with a refusal as an error.
    pub fn answer(&self, socket: &OwnedFd) -> Result<Answer> {
        let no_answer = |why: String| Error::NoAnswer { task: self.name().to_owned(), why };
        let mut answer = frame::receive::<Answer>(socket);
        if matches!(answer, Ok(None)) {
            // One that has no room closes unread what it was sent, and the kernel tells that first.
            answer = frame::receive(socket);
        }
        match answer {
            Ok(Some((Answer::Refused { message, hint, .. }, _))) => {
                let what = format!("copy with `{}`", self.name());
                Err(Error::Copy { what, why: message, hint })
            }
            Ok(Some((answer, _))) => Ok(answer),
            Ok(None) => Err(no_answer("it ended meanwhile".to_owned())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(no_answer(format!("it said nothing for {} s", LOOK_TIME_MAX.as_secs())))
            }
            Err(error) => Err(no_answer(error.to_string())),
        }
    }

    /// The same, given up at a signal: a container may be a liar, and never answer.
    pub fn answer_unless(&self, socket: &OwnedFd, signals: &Signals) -> Result<Answer> {
        let gone = |error: io::Error| Error::NoAnswer {
            task: self.name().to_owned(),
            why: error.to_string(),
        };
        signals.wait(socket, PollFlags::IN).map_err(gone)?;
        self.answer(socket)
    }

    pub fn odd(&self, answer: &Answer) -> Error {
        let why = format!("it answered {answer:?}");
        Error::NoAnswer { task: self.name().to_owned(), why }
    }

    /// Whether only its volumes can be written, and why.
    pub fn is_still_wasm(&self) -> bool {
        self.still.as_ref().is_some_and(|still| still.files.visit().is_none())
    }
}

/// Keeps a container that does not run from being started; `None` for one that runs.
fn hold(task: &TaskFolder) -> Result<Option<(TaskFolder, Held)>> {
    let deadline = Instant::now() + START_TIME_MAX;
    let files = loop {
        match task.try_hold_files()? {
            Some(files) => break files,
            // It is being started, or another copy is at its files.
            None if Instant::now() < deadline => std::thread::sleep(LOOK_EVERY),
            None => return Err(Error::Copied(task.record().name.clone())),
        }
    };
    match task.state()? {
        State::Created | State::Exited(_) | State::Lost => {
            let owned = task.clone().own()?;
            crate::engines::sweep(owned.folder());
            let task = owned.folder().clone();
            Ok(Some((task, Held { _owned: Some(owned), _files: files })))
        }
        // Its supervisor takes the lock before the next start. That of a cluster does not.
        State::Starting | State::BackOff if task.record().origin == Origin::Local => {
            Ok(Some((task.clone(), Held { _owned: None, _files: files })))
        }
        State::Starting | State::BackOff | State::Running | State::Idle | State::Unsupervised => {
            Ok(None)
        }
    }
}
