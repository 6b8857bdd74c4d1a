//! Processes that join the container, each with the client that asked for it: programs, and copies
//! of files. A client has their streams itself: none of them goes through this process, until the
//! client is gone.

mod enter; // the new process, until it is the program or has copied
mod filter; // the container's profile of system calls, for the kernel
mod session; // a program with all that it has started
mod template; // what each process of the container is made with

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use engine::{
    Exit, StartFailure,
    exec::{self, Answer, Ask, Control, Program},
    frame,
};
use rustix::{
    net::{SocketFlags, accept_with, sockopt},
    process::{
        Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
    },
};

use crate::{
    Error,
    bundle::signal,
    limits::{EXECS_MAX, REQUEST_TIME_MAX, STREAM_CHUNK_BYTES},
    owner::{
        members::Members,
        outcome::Death,
        poller::{EventFlags, Poller, Token},
    },
};
use enter::{Errand, Place, Report};
use filter::Filter;
use template::Template;

/// The socket of a shim on which clients of `exec` connect, and what they have started.
pub(crate) struct Execs {
    listener: OwnedFd,
    bundle: PathBuf,
    members: Members,
    /// Made for the first program.
    walls: Option<(Template, Filter)>,
    visits: HashMap<u32, Visit>,
    next_id: u32,
}

enum Visit {
    /// A client whose request has not arrived.
    Open(OwnedFd),
    Running(Box<Running>),
}

/// A program from its fork to its end.
struct Running {
    /// Gone when it does not wait for the end.
    client: Option<OwnedFd>,
    /// Until it is the program, has failed, or has copied.
    report: Option<OwnedFd>,
    is_program: bool,
    pid: Pid,
    pidfd: OwnedFd,
    ends_with_client: bool,
    /// Where its output can be read, should the client be gone: it must not block, or be ended by
    /// that. Beside the number that the program knows it by.
    outputs: Outputs,
}

type Outputs = Vec<(usize, OwnedFd)>;

/// The number of an output that is the controlling side of a terminal.
const TERMINAL: usize = 0;

impl Execs {
    /// Begins to accept.
    pub(crate) fn open(
        listener: OwnedFd,
        poller: &Poller,
        bundle: &Path,
        members: Members,
    ) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&listener, true)?;
        poller.add(&listener, Token::ExecSocket, EventFlags::IN)?;
        Ok(Self {
            listener,
            bundle: bundle.to_owned(),
            members,
            walls: None,
            visits: HashMap::new(),
            next_id: 0,
        })
    }

    /// What `token` is about; others do nothing. `first` is the container's first process.
    pub(crate) fn handle(&mut self, token: Token, poller: &Poller, first: BorrowedFd<'_>) {
        match token {
            Token::ExecSocket => self.accept(poller),
            Token::ExecClient(id) => match self.visits.get_mut(&id) {
                Some(Visit::Running(running)) => running.obey(id, poller, &self.members),
                Some(Visit::Open(_)) => self.receive(id, poller, first),
                None => {}
            },
            Token::ExecReport(id) => self.hear(id, poller),
            Token::ExecExit(id) => self.reap(id, poller),
            Token::ExecOutput(id) => {
                if let Some(Visit::Running(running)) = self.visits.get_mut(&id) {
                    running.discard_output(poller);
                }
            }
            _ => {}
        }
    }

    fn accept(&mut self, poller: &Poller) {
        while let Ok(stream) = accept_with(&self.listener, SocketFlags::CLOEXEC) {
            if self.visits.len() >= EXECS_MAX {
                let _ = sockopt::set_socket_timeout(
                    &stream,
                    sockopt::Timeout::Send,
                    Some(REQUEST_TIME_MAX),
                );
                let _ = frame::send(&stream, &Answer::busy(EXECS_MAX), &[]);
                continue;
            }
            let id = self.next_id;
            self.next_id = self.next_id.wrapping_add(1);
            let watch = || -> io::Result<()> {
                for timeout in [sockopt::Timeout::Recv, sockopt::Timeout::Send] {
                    sockopt::set_socket_timeout(&stream, timeout, Some(REQUEST_TIME_MAX))?;
                }
                poller.add(&stream, Token::ExecClient(id), EventFlags::IN)
            };
            if watch().is_ok() {
                self.visits.insert(id, Visit::Open(stream));
            }
        }
    }

    /// Does what the client of `id` asks for.
    fn receive(&mut self, id: u32, poller: &Poller, first: BorrowedFd<'_>) {
        let Some(Visit::Open(client)) = self.visits.remove(&id) else { return };
        let started = match exec::receive(&client) {
            Ok(Some((Ask::Exec(program), fds))) => self.start(*program, fds, first),
            Ok(Some((ask, fds))) => self.start_copy(ask, fds, first),
            Ok(None) => return,
            Err(error) => Err(Error::io("read a request")(error)),
        };
        let watched = started.and_then(|running| {
            poller
                .add(&running.pidfd, Token::ExecExit(id), EventFlags::IN)
                .and_then(|()| match &running.report {
                    Some(report) => poller.add(report, Token::ExecReport(id), EventFlags::IN),
                    None => Ok(()),
                })
                .map_err(Error::io("watch a program"))?;
            Ok(running)
        });
        match watched {
            Ok(running) => {
                let running = Running { client: Some(client), ..running };
                self.visits.insert(id, Visit::Running(Box::new(running)));
            }
            Err(error) => {
                let refused = Answer::Refused {
                    failure: error.failure(),
                    message: error.chain(),
                    hint: error.hint(),
                };
                let _ = frame::send(&client, &refused, &[]);
            }
        }
    }

    fn start(
        &mut self,
        program: Program,
        fds: Vec<OwnedFd>,
        first: BorrowedFd<'_>,
    ) -> Result<Running, Error> {
        let (stdio, outputs) = streams(fds, program.terminal.is_some())?;
        self.open_walls()?;
        let Some((template, filter)) = &self.walls else { return Err(Error::protocol("no walls")) };
        let ends_with_client = program.ends_with_client;
        let errand = Errand::Program { order: template.order(program)?, filter };
        let place = Place { first, members: &self.members };
        let running = Running::start(errand, &place, stdio.as_ref(), outputs)?;
        Ok(Running { ends_with_client, ..running })
    }

    /// A process that copies files, or looks at one.
    fn start_copy(
        &mut self,
        ask: Ask,
        fds: Vec<OwnedFd>,
        first: BorrowedFd<'_>,
    ) -> Result<Running, Error> {
        let stream = match fds.into_iter().next() {
            Some(stream) => stream,
            // Of one that only looks.
            None => null().map_err(Error::io("open /dev/null"))?,
        };
        let copy = || stream.try_clone().map_err(Error::io("copy a descriptor"));
        let stdio = [copy()?, copy()?, copy()?];
        let place = Place { first, members: &self.members };
        Running::start(Errand::Files(ask), &place, Some(&stdio), Vec::new())
    }

    fn open_walls(&mut self) -> Result<(), Error> {
        let walls = match self.walls.take() {
            Some(walls) => walls,
            None => {
                let template = Template::read(&self.bundle)?;
                let filter = Filter::of(template.seccomp()).map_err(|why| Error::Config {
                    what: "profile of system calls".to_owned(),
                    why,
                })?;
                (template, filter)
            }
        };
        self.walls = Some(walls);
        Ok(())
    }

    /// What the process of `id` says before it is the program.
    fn hear(&mut self, id: u32, poller: &Poller) {
        let Some(Visit::Running(running)) = self.visits.get_mut(&id) else { return };
        let Some(report) = &running.report else { return };
        let answer = match frame::receive::<Report>(report) {
            Ok(Some((Report::Terminal, fds))) => {
                running.outputs = fds.into_iter().map(|fd| (TERMINAL, fd)).collect();
                return;
            }
            Ok(Some((Report::Answer(answer), _))) => answer,
            Ok(None) if running.is_program => Answer::Started,
            Ok(None) => Answer::refused("the copy was killed, by a limit or with its container"),
            Err(error) => Answer::refused(format!("the new process cannot be heard: {error}")),
        };
        poller.remove(report);
        running.report = None;
        // The controlling side of its terminal is all that there is to hand over.
        let terminal: Vec<_> = match &running.outputs[..] {
            [(TERMINAL, terminal)] => vec![terminal.as_fd()],
            _ => Vec::new(),
        };
        let is_last = answer != Answer::Started;
        if let Some(client) = &running.client {
            let _ = frame::send(client, &answer, if is_last { &[] } else { &terminal });
        }
        if is_last && let Some(client) = running.client.take() {
            // The process is about to end, and its end is no answer.
            poller.remove(client);
        }
    }

    fn reap(&mut self, id: u32, poller: &Poller) {
        // Its last words first.
        while let Some(Visit::Running(running)) = self.visits.get(&id)
            && running.report.is_some()
        {
            self.hear(id, poller);
        }
        let Some(Visit::Running(running)) = self.visits.remove(&id) else { return };
        let exited = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let death = match waitid(WaitId::Pid(running.pid), exited) {
            Ok(None) => {
                self.visits.insert(id, Visit::Running(running));
                return;
            }
            Ok(Some(status)) => Death::of(&status),
            Err(_) => Death::UNKNOWN,
        };
        poller.remove(&running.pidfd);
        for (_, output) in &running.outputs {
            poller.remove(output);
        }
        if let Some(client) = running.client {
            poller.remove(&client);
            let exit = match death {
                Death::Code(code) => Exit::Code(code),
                Death::Signal(signal) => Exit::Signal(signal),
            };
            let _ = frame::send(&client, &Answer::Exited(exit), &[]);
        }
    }

    /// The container is gone, and every process in it.
    pub(crate) fn finish(&self) {
        for visit in self.visits.values() {
            let (client, answer) = match visit {
                Visit::Open(client) => (Some(client), Answer::refused("the container has ended")),
                Visit::Running(running) if running.is_program => {
                    (running.client.as_ref(), Answer::Exited(Exit::Signal(9)))
                }
                Visit::Running(running) => {
                    (running.client.as_ref(), Answer::refused("the container has ended"))
                }
            };
            if let Some(client) = client {
                let _ = frame::send(client, &answer, &[]);
            }
        }
    }
}

impl Running {
    fn start(
        errand: Errand<'_>,
        place: &Place<'_>,
        stdio: Option<&[OwnedFd; 3]>,
        outputs: Outputs,
    ) -> Result<Self, Error> {
        let starting = || Error::io("start a process in the container");
        let (report, theirs) = frame::pair().map_err(starting())?;
        let is_program = matches!(errand, Errand::Program { .. });
        let pid = enter::start(errand, place, stdio, theirs.as_fd()).map_err(starting())?;
        // It was not waited for yet, so the number means it and no other process.
        let pidfd = pidfd_open(pid, PidfdFlags::empty())
            .map_err(Error::io("watch a process in the container"))?;
        Ok(Self {
            client: None,
            report: Some(report),
            is_program,
            pid,
            pidfd,
            ends_with_client: false,
            outputs,
        })
    }

    /// What the client says, or that it is gone.
    fn obey(&mut self, id: u32, poller: &Poller, members: &Members) {
        let Some(client) = &self.client else { return };
        match frame::receive::<Control>(client) {
            Ok(Some((Control::Signal(number), _))) => {
                if let Some(signal) = signal::from_number(number) {
                    // It fails when the program has ended, which the poller reports.
                    let _ = pidfd_send_signal(&self.pidfd, signal);
                }
                return;
            }
            Ok(Some((Control::Unread(stream), _))) => {
                self.outputs.retain(|(number, _)| *number != stream);
                return;
            }
            Ok(None) | Err(_) => {}
        }
        poller.remove(client);
        if self.ends_with_client {
            // The client may still listen for the end.
            return session::kill(self.pid, members);
        }
        self.client = None;
        for (_, output) in &self.outputs {
            let watched = rustix::io::ioctl_fionbio(output, true)
                .map_err(io::Error::from)
                .and_then(|()| poller.add(output, Token::ExecOutput(id), EventFlags::IN));
            if watched.is_err() {
                // Without a reader it would block for ever.
                let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
            }
        }
    }

    fn discard_output(&mut self, poller: &Poller) {
        let mut buffer = [0; STREAM_CHUNK_BYTES];
        self.outputs.retain(|(_, output)| match rustix::io::read(output, &mut buffer) {
            Ok(1..) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => true,
            Ok(0) | Err(_) => {
                poller.remove(output);
                false
            }
        });
    }
}

fn null() -> io::Result<OwnedFd> {
    Ok(std::fs::File::options().read(true).write(true).open("/dev/null")?.into())
}

/// The program's three streams, and where its output can be read.
fn streams(fds: Vec<OwnedFd>, terminal: bool) -> Result<(Option<[OwnedFd; 3]>, Outputs), Error> {
    let wrong = || Error::Reported {
        code: "E_PROTOCOL".to_owned(),
        message: "a program comes with three streams, or with a terminal".to_owned(),
        hint: None,
        failure: StartFailure::Host,
    };
    let mut fds = fds.into_iter();
    if terminal {
        return fds.next().is_none().then_some((None, Vec::new())).ok_or_else(wrong);
    }
    let stdio: Vec<_> = fds.by_ref().take(3).collect();
    let stdio = <[OwnedFd; 3]>::try_from(stdio).map_err(|_| wrong())?;
    Ok((Some(stdio), (1..=2).zip(fds).collect()))
}
