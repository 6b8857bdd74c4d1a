//! A process of `exe shim`: a task shim or an unpacking process.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use engine::frame;
use rustix::{
    net::sockopt,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use crate::{Error, host::command::wait_readable, limits::REPLY_TIME_MAX};

/// A shim process.
pub(crate) struct Process {
    pub pid: Pid,
    pidfd: OwnedFd,
}

impl Process {
    /// The process `pid`, which is known to be there.
    pub(crate) fn of(pid: Pid) -> rustix::io::Result<Self> {
        Ok(Self { pid, pidfd: pidfd_open(pid, PidfdFlags::empty())? })
    }

    /// The process that listens at the other end of `socket`, if it is alive.
    pub(crate) fn behind(socket: &OwnedFd) -> Result<Option<Self>, Error> {
        let finding = || "find the process of a task shim";
        let pid = sockopt::socket_peercred(socket).map_err(Error::io(finding()))?.pid;
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            other => other.map_err(Error::io(finding()))?,
        };
        // Had it died before, the number might mean another process by now; but its end of the
        // socket would be closed, too.
        let died = wait_readable(socket.as_fd(), Instant::now());
        Ok(if died { None } else { Some(Self { pid, pidfd }) })
    }
}

/// Kills it if it still runs, and waits for its end. False when that takes too long.
pub(crate) fn end_process(process: &Process) -> bool {
    let _ = pidfd_send_signal(&process.pidfd, Signal::KILL);
    wait_readable(process.pidfd.as_fd(), Instant::now() + REPLY_TIME_MAX)
}

/// Starts `exe shim`. Returns the socket whose other end is its standard input. A thread waits for
/// the process.
pub(crate) fn start_process(exe: &Path, log: &Path) -> Result<(OwnedFd, Process), Error> {
    let starting = || format!("start the task shim `{} shim`", exe.display());
    let (socket, stdin) = frame::pair().map_err(Error::io(starting()))?;
    let stderr =
        std::fs::File::create(log).map_err(Error::io(format!("write `{}`", log.display())))?;
    let mut child = Command::new(exe)
        .arg("shim")
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir("/")
        .stdin(stdin)
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .map_err(Error::io(starting()))?;
    let pid = Pid::from_child(&child);
    // It was not waited for yet, so the number means it and no other process.
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(Error::io(starting()))?;
    std::thread::Builder::new()
        .name("shim-reaper".to_owned())
        .stack_size(64 << 10)
        .spawn(move || child.wait())
        .map_err(Error::io(starting()))?;
    Ok((socket, Process { pid, pidfd }))
}
