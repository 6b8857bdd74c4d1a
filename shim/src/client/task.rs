use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use engine::{Exit, Listeners, Slots, Stop, frame};
use rustix::process::Pid;
use spec::Usage;

use crate::limits::{REPLY_TIME_MAX, RETRY_TIME, START_TIME_MAX};
use crate::{
    Assignment, Error,
    assignment::split,
    client::sweep::{self, Swept},
    host::rights::check_rights,
    namespace,
    protocol::{Job, Reply, Request, ShimMessage, Status, expect_reply, set_read_timeout},
    record::{self, Ended},
    spawn::{Process, end_process, start_process},
};

/// A native container that runs (or ran) under its own shim process. Only a name for its folder:
/// cheap to copy, and any number of processes may hold one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    folder: PathBuf,
}

/// What was found in a container's folder.
#[derive(Debug)]
pub enum Adopted {
    /// It runs.
    Running(Task),
    /// It ended, and how. [`Exit::Lost`] when the shim was killed; its remains are swept by then.
    Ended(Exit, Usage),
}

impl Task {
    /// Starts a container under a new shim process, and returns when it runs.
    ///
    /// `exe` is a program that calls [`main`](crate::main) when its first argument is `shim`. The
    /// assignment's folder is this container's own, and must exist; the shim keeps its socket, its
    /// exit status and the runtime's state there.
    ///
    /// # Errors
    /// Everything that keeps it from running. Nothing of it is left then, but what it said in
    /// `shim.log`.
    pub fn spawn(exe: &Path, assignment: Assignment) -> Result<Self, Error> {
        Ok(Self::spawn_under(exe, assignment)?.0)
    }

    /// The same, with the number of its shim's process.
    pub(crate) fn spawn_under(
        exe: &Path,
        mut assignment: Assignment,
    ) -> Result<(Self, Pid), Error> {
        check_rights()?;
        let folder = &assignment.folder;
        let folder =
            folder.canonicalize().map_err(Error::io(format!("find `{}`", folder.display())))?;
        sweep::prepare(&folder)?;
        // Until the shim holds them itself.
        let _layers = assignment.program.layers.clone();
        assignment.folder.clone_from(&folder);
        let adoptable = assignment.adoptable;
        let (message, fds) = split(assignment);
        let (socket, mut shim) = start_process(exe, &folder.join("shim.log"))?;
        let task = Self { folder };
        match task.introduce(&socket, &mut shim, message, fds) {
            Ok(()) => {
                if !adoptable {
                    // The shim sees the end of this socket when this process ends, and only then.
                    std::mem::forget(socket);
                }
                Ok((task, shim.pid))
            }
            Err(error) => {
                // A shim that failed has cleaned up; one that did not answer, or was killed in the
                // middle, has not.
                end_process(&shim);
                let _ = sweep::sweep(&task.folder);
                Err(error)
            }
        }
    }

    fn introduce(
        &self,
        socket: &OwnedFd,
        shim: &mut Process,
        message: ShimMessage,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Error> {
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let job = Job::Run(Box::new(message));
        frame::send_document(socket, &job, &borrowed)
            .map_err(Error::io("hand the task shim its assignment"))?;
        drop(fds);
        namespace::admit(socket, shim).map_err(|error| self.or_lost(error))?;
        match expect_reply(socket, START_TIME_MAX).map_err(|error| self.or_lost(error))?.0 {
            Reply::Started => Ok(()),
            other => Err(other.into_error()),
        }
    }

    /// Finds what became of the container of `folder`, and clears away what a killed shim left of
    /// it.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be read, or something cannot be cleared away.
    pub fn adopt(folder: &Path) -> Result<Adopted, Error> {
        let folder =
            folder.canonicalize().map_err(Error::io(format!("find `{}`", folder.display())))?;
        let task = Self { folder };
        if sweep::reach(&task.folder)?.is_some() {
            return Ok(Adopted::Running(task));
        }
        Ok(match task.ended()? {
            Some(ended) => Adopted::Ended(ended.exit, ended.usage),
            None => Adopted::Running(task),
        })
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// How it is.
    ///
    /// # Errors
    /// [`Error::ShimLost`] when it is no more.
    pub fn status(&self) -> Result<Status, Error> {
        match self.ask(&Request::Status)?.0 {
            Reply::Status(status) => Ok(status),
            other => Err(other.into_error()),
        }
    }

    /// Sends the image's stop signal, or the one that is named, and after the grace the one that
    /// cannot be ignored. Returns at once.
    ///
    /// # Errors
    /// [`Error::ShimLost`] when it is no more.
    pub fn stop(&self, stop: impl Into<Stop>) -> Result<(), Error> {
        self.ask(&Request::Stop(stop.into())).map(drop)
    }

    /// Sends a signal to the container's first process.
    ///
    /// # Errors
    /// [`Error::ShimLost`] when it is no more.
    pub fn kill(&self, signal: i32) -> Result<(), Error> {
        self.ask(&Request::Kill { signal }).map(drop)
    }

    /// Tells its terminal a new size.
    ///
    /// # Errors
    /// [`Error::ShimLost`] when it is no more.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<(), Error> {
        self.ask(&Request::Resize { rows, columns }).map(drop)
    }

    /// Copies of the listeners that it relays from, so that an agent that was restarted can start
    /// it again behind the same ports, and clients that wait there are served.
    ///
    /// # Errors
    /// [`Error::ShimLost`] when it is no more.
    pub fn listeners(&self) -> Result<Listeners, Error> {
        match self.ask(&Request::Listeners)? {
            (Reply::Listeners(listeners), fds) => listeners
                .join(&mut Slots::from(fds))
                .map_err(Error::io("take over the listeners of a task shim")),
            (other, _) => Err(other.into_error()),
        }
    }

    /// A socket over which its shim says what the container wants to connect to. Nothing once it
    /// has ended.
    ///
    /// # Errors
    /// When it cannot be known whether its shim is alive.
    pub(crate) fn connections(&self) -> Result<Option<OwnedFd>, Error> {
        let Some(socket) = sweep::reach(&self.folder)? else { return Ok(None) };
        let sent = frame::send(&socket, &Request::Connect, &[]);
        Ok(sent.is_ok().then_some(socket))
    }

    /// Blocks until it has ended, and nothing of it is left.
    ///
    /// # Errors
    /// [`Error::Io`] when what a killed shim left cannot be cleared away.
    pub fn wait(&self) -> Result<(Exit, Usage), Error> {
        self.wait_until(None)
    }

    /// The same, and after `time_max` it is ended by force: its shim is killed, and what that
    /// leaves is cleared away.
    ///
    /// # Errors
    /// [`Error::Io`] when the shim cannot be reached or killed, or what it left cannot be cleared
    /// away.
    pub fn end(&self, time_max: Duration) -> Result<(Exit, Usage), Error> {
        // What is beyond the clock is as good as no limit.
        self.wait_until(Instant::now().checked_add(time_max))
    }

    fn wait_until(&self, deadline: Option<Instant>) -> Result<(Exit, Usage), Error> {
        let mut was_reached = false;
        loop {
            let late = || deadline.is_some_and(|deadline| deadline <= Instant::now());
            match sweep::reach(&self.folder) {
                Ok(Some(socket)) => {
                    if let Some(ended) = wait_for_exit(&socket, deadline) {
                        return Ok((ended.exit, ended.usage));
                    }
                    // A shim that was about to end takes no new connection: it has ended now, and
                    // its exit status is there.
                    if !std::mem::replace(&mut was_reached, true) {
                        continue;
                    }
                    if late()
                        && let Some(shim) = Process::behind(&socket)?
                        && !end_process(&shim)
                    {
                        let what = format!("kill the task shim in `{}`", self.folder.display());
                        return Err(Error::Io { what, source: io::ErrorKind::TimedOut.into() });
                    }
                }
                Ok(None) => {
                    if let Some(ended) = self.ended()? {
                        return Ok((ended.exit, ended.usage));
                    }
                }
                Err(error) if late() => return Err(error),
                // It may be running, and we are out of descriptors.
                Err(_) => {}
            }
            // Or its shim has more visitors than it takes.
            std::thread::sleep(RETRY_TIME);
        }
    }

    /// How a container ended whose shim is dead. `None` when it is alive after all.
    fn ended(&self) -> Result<Option<Ended>, Error> {
        if let Some(ended) = record::read_ended(&self.folder)? {
            return Ok(Some(ended));
        }
        if sweep::sweep(&self.folder)? == Swept::Alive {
            return Ok(None);
        }
        let ended = Ended::new(lost(), Usage { runs: 1, failed_runs: 1, ..Usage::default() });
        record::write_ended(&self.folder, &ended, true)?;
        Ok(Some(ended))
    }

    fn ask(&self, request: &Request) -> Result<(Reply, Vec<OwnedFd>), Error> {
        let lost = || Error::ShimLost { folder: self.folder.clone() };
        let socket = sweep::reach(&self.folder)?.ok_or_else(lost)?;
        frame::send(&socket, request, &[]).map_err(|_| lost())?;
        expect_reply(&socket, REPLY_TIME_MAX).map_err(|error| self.or_lost(error))
    }

    fn or_lost(&self, error: Error) -> Error {
        match error {
            Error::Protocol(_) => Error::ShimLost { folder: self.folder.clone() },
            other => other,
        }
    }
}

/// Waits for the shim behind `socket` to say how its container ended.
fn wait_for_exit(socket: &OwnedFd, deadline: Option<Instant>) -> Option<Ended> {
    // Zero would mean no limit.
    let left = deadline.map(|deadline| {
        deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
    });
    set_read_timeout(socket, left).ok()?;
    frame::send(socket, &Request::Wait, &[]).ok()?;
    match frame::receive(socket) {
        Ok(Some((Reply::Exited(ended), _))) => Some(ended),
        _ => None,
    }
}

fn lost() -> Exit {
    Exit::Lost("E_SHIM_LOST: the container's shim was killed or broke".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shim whose container ends while a supervisor connects: its connection is never accepted.
    fn wait_for_one_that_ends() -> Duration {
        let folder = tempfile::tempdir().unwrap();
        let listener = frame::listen(folder.path(), record::SOCKET).unwrap();
        let task = Task { folder: folder.path().to_owned() };
        let waiter = std::thread::spawn(move || {
            let began = Instant::now();
            (task.wait().unwrap().0, began)
        });
        assert!(crate::host::command::wait_readable(
            listener.as_fd(),
            Instant::now() + REPLY_TIME_MAX
        ));
        let ended = Ended::new(Exit::Code(7), Usage::default());
        record::write_ended(folder.path(), &ended, false).unwrap();
        std::fs::remove_file(folder.path().join(record::SOCKET)).unwrap();
        drop(listener);
        let (exit, began) = waiter.join().unwrap();
        assert_eq!(exit, Exit::Code(7));
        began.elapsed()
    }

    #[test]
    fn an_end_while_a_supervisor_connects_is_told_at_once() {
        let fastest = (0..10).map(|_| wait_for_one_that_ends()).min().unwrap();
        assert!(fastest < RETRY_TIME, "it waited for the next attempt: {fastest:?}");
    }
}
