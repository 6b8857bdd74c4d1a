//! The container's end of a copy: its own process where it runs, and one that has only its files
//! where it does not.

use std::{io, os::fd::OwnedFd, time::Duration};

use engine::{
    exec::{self, Answer, Ask, FileStat, Link, Place},
    frame,
};
use rustix::net::sockopt;

use super::open::{OpenFiles, open_files};
use crate::{
    error::{Error, Result},
    exec::{refuse_unless_running, unreachable_task},
    home::Home,
    local,
    request::Note,
    tasks::{Owned, State, TaskFolder},
};

/// To look at a path: a machine that swaps takes seconds.
const LOOK_TIME_MAX: Duration = Duration::from_secs(60);

pub(super) enum Far {
    Running(TaskFolder),
    /// No other process can start it meanwhile.
    Ended(Ended),
}

pub(super) struct Ended {
    // Dropped in this order: the process ends before the folder is free again.
    files: OpenFiles,
    _runtime: tokio::runtime::Runtime,
    owned: Owned,
}

impl Far {
    pub fn open(home: &Home, task: TaskFolder, watch: impl FnMut(Note)) -> Result<Self> {
        match task.state()? {
            State::Created | State::Exited(_) | State::Lost => {}
            _ => {
                refuse_unless_running(&task)?;
                return Ok(Self::Running(task));
            }
        }
        let owned = task.own()?;
        crate::engines::sweep(owned.folder());
        let launch = local::decide_again(home, &owned, watch)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| Error::System { verb: "start a runtime", source })?;
        let files = runtime.block_on(open_files(&launch, home, owned.folder()))?;
        Ok(Self::Ended(Ended { files, _runtime: runtime, owned }))
    }

    fn task(&self) -> &TaskFolder {
        match self {
            Self::Running(task) => task,
            Self::Ended(ended) => ended.owned.folder(),
        }
    }

    pub fn name(&self) -> &str {
        &self.task().record().name
    }

    /// Asks for something; the answer comes over what this returns.
    pub fn ask(&self, ask: Ask, stream: Option<OwnedFd>) -> Result<OwnedFd> {
        let fds: Vec<_> = stream.into_iter().collect();
        let sent = match self {
            Self::Ended(Ended { files: OpenFiles::Native(visit), .. }) => {
                exec::send(visit.socket(), ask, &fds).and_then(|()| visit.socket().try_clone())
            }
            Self::Running(_) | Self::Ended(_) => exec::ask(self.task().path(), ask, &fds),
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

    pub fn odd(&self, answer: &Answer) -> Error {
        let why = format!("it answered {answer:?}");
        Error::NoAnswer { task: self.name().to_owned(), why }
    }

    /// Whether only its volumes can be written, and why.
    pub fn is_ended_wasm(&self) -> bool {
        matches!(self, Self::Ended(Ended { files: OpenFiles::Wasm(_), .. }))
    }
}
