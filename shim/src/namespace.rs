//! The user namespace of a process that handles the files of containers or runs one, and how it
//! gets its users: from a supervisor that is root by writing them down, from another one by
//! `newuidmap`, with that one as user 0.
//!
//! The process of an ordinary user is root there and owns what it mounts; outside it is that user.
//! A task shim is the first process of a namespace of processes as well: without a cgroup, that is
//! what ends all of a container with its shim.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::Instant,
};

use engine::frame;
use rustix::{
    fs::{Mode, OFlags, openat, readlinkat},
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    process::{Pid, WaitOptions, geteuid, waitpid},
    thread::{UnshareFlags, set_thread_groups},
};

use crate::{
    Error,
    host::{
        command::wait_readable,
        rights::{Rights, rights},
    },
    limits::{FIRST_ID, ID_COUNT, UNPACK_START_TIME_MAX},
    protocol::{Reply, expect_reply},
    spawn::Process,
};

/// Whether this process is of an ordinary user, and has not taken its ids yet.
pub(crate) fn is_needed() -> bool {
    !geteuid().is_root()
}

/// Gives the process `pid`, which asks for that over `socket`, the ids of containers in its new
/// user namespace.
pub(crate) fn give_ids(socket: &OwnedFd, pid: Pid) -> Result<(), Error> {
    match expect_reply(socket, UNPACK_START_TIME_MAX)?.0 {
        Reply::Started => {}
        other => return Err(other.into_error()),
    }
    match rights()? {
        Rights::Root => {
            for map in ["gid_map", "uid_map"] {
                let path = format!("/proc/{}/{map}", pid.as_raw_nonzero());
                std::fs::write(&path, format!("0 {FIRST_ID} {ID_COUNT}\n"))
                    .map_err(Error::io(format!("write `{path}`")))?;
            }
        }
        Rights::Subordinate(ids, first) => {
            let number = pid.as_raw_nonzero().get().unsigned_abs();
            ids.map(number, first, ID_COUNT - 1).map_err(Error::NoIds)?;
        }
    }
    frame::send(socket, &Reply::Done, &[]).map_err(Error::io("let the process begin"))
}

/// The other side of [`give_ids`]: from here on this process is in a user namespace of its own, and
/// in `others`.
pub(crate) fn take_ids(socket: &OwnedFd, others: UnshareFlags) -> Result<(), Error> {
    let is_needed = is_needed();
    unshare_namespaces(others).map_err(|error| match is_needed {
        true => Error::NoNamespace { step: "make a user namespace", source: error.into() },
        false => Error::io("confine this process (namespaces)")(error),
    })?;
    frame::send(socket, &Reply::Started, &[]).map_err(Error::io("ask for the id maps"))?;
    match expect_reply(socket, UNPACK_START_TIME_MAX)?.0 {
        Reply::Done => Ok(()),
        other => Err(other.into_error()),
    }
}

#[expect(
    unsafe_code,
    reason = "rustix marks unsharing unsafe for the sake of programs with threads"
)]
fn unshare_namespaces(others: UnshareFlags) -> rustix::io::Result<()> {
    let flags = others
        | UnshareFlags::NEWUSER
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS;
    // SAFETY: this process has one thread, and CLONE_FILES, which could close descriptors under
    // others, is not among the flags.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// The numbers that processes have outside of this process's namespace.
pub(crate) struct Numbers {
    /// `/proc` of the machine, where this process's own shows other numbers.
    proc: Option<OwnedFd>,
}

impl Numbers {
    /// Whether they are others than this process sees.
    pub(crate) fn are_of_namespace(&self) -> bool {
        self.proc.is_some()
    }

    /// Of this process.
    pub(crate) fn own(&self) -> u32 {
        let shown = self.proc.as_ref().and_then(|proc| readlinkat(proc, "self", Vec::new()).ok());
        let number = shown.and_then(|shown| shown.to_str().ok()?.parse().ok());
        number.unwrap_or_else(std::process::id)
    }

    /// Of the process `pid` behind `pidfd`.
    pub(crate) fn of(&self, pid: Pid, pidfd: impl AsFd) -> i32 {
        let shown = self.proc.as_ref().and_then(|proc| {
            let path = format!("self/fdinfo/{}", pidfd.as_fd().as_raw_fd());
            let info = openat(proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
            let info = io::read_to_string(File::from(info)).ok()?;
            info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
        });
        shown.unwrap_or(pid.as_raw_nonzero().get())
    }
}

/// Makes the shim of an ordinary user's container root of a user namespace, in which it is the
/// first process. That is another process, which goes on here; this one ends. Root's stays as it
/// is.
pub(crate) fn enter(socket: &OwnedFd) -> Result<Numbers, Error> {
    if !is_needed() {
        return Ok(Numbers { proc: None });
    }
    take_ids(socket, UnshareFlags::NEWNS | UnshareFlags::NEWPID)?;
    // Groups of the user are none of the container's.
    set_thread_groups(&[]).map_err(Error::io("leave the groups of the user"))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = openat(rustix::fs::CWD, "/proc", flags, Mode::empty());
    let proc = proc.map_err(Error::io("open `/proc`"))?;
    go_on_as_first(socket)?;
    match expect_reply(socket, UNPACK_START_TIME_MAX)?.0 {
        Reply::Done => {}
        other => return Err(other.into_error()),
    }
    mount_proc().map_err(|source| Error::NoNamespace { step: "mount /proc", source })?;
    Ok(Numbers { proc: Some(proc) })
}

/// Returns in a new process, the first of its namespace.
#[expect(unsafe_code, reason = "std offers no fork without an exec at once")]
fn go_on_as_first(socket: &OwnedFd) -> Result<(), Error> {
    // SAFETY: this process has one thread, so that its copy finds every lock free and every value
    // whole.
    match unsafe { libc::fork() } {
        -1 => Err(Error::io("start a process in a namespace")(io::Error::last_os_error())),
        0 => Ok(()),
        pid => {
            let sent = frame::send(socket, &Reply::Moved { pid }, &[]);
            // SAFETY: nothing of this process is to be done at its end: the copy does it.
            unsafe { libc::_exit(i32::from(sent.is_err())) }
        }
    }
}

fn mount_proc() -> io::Result<()> {
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(mount("proc", "/proc", "proc", flags, c"")?)
}

/// Whether this process, which has its ids and is about to have children in a namespace of
/// processes, could do as [`enter`] does. The mount ends with it.
#[expect(unsafe_code, reason = "a process that only mounts")]
pub(crate) fn try_proc() -> Result<(), Error> {
    // SAFETY: as above. The copy makes system calls only, and never returns.
    let pid = match unsafe { libc::fork() } {
        0 => {
            let code = mount_proc().err().and_then(|error| error.raw_os_error()).unwrap_or(0);
            // SAFETY: a number.
            unsafe { libc::_exit(code) }
        }
        pid => Pid::from_raw(pid).filter(|_| pid > 0),
    };
    let ended = waitpid(pid, WaitOptions::empty());
    match ended.ok().flatten().and_then(|(_, status)| status.exit_status()) {
        Some(0) => Ok(()),
        code => {
            let source = io::Error::from_raw_os_error(code.unwrap_or(libc::EPERM));
            Err(Error::NoNamespace { step: "mount /proc", source })
        }
    }
}

/// The other side of [`enter`]: the process that it goes on in.
pub(crate) fn admit(socket: &OwnedFd, shim: &mut Process) -> Result<(), Error> {
    if let Rights::Root = rights()? {
        return Ok(());
    }
    give_ids(socket, shim.pid)?;
    let pid = match expect_reply(socket, UNPACK_START_TIME_MAX)?.0 {
        Reply::Moved { pid } => Pid::from_raw(pid).filter(|pid| !pid.is_init()),
        other => return Err(other.into_error()),
    };
    let lost = || Error::protocol("the number of no process");
    *shim = Process::of(pid.ok_or_else(lost)?).map_err(Error::io("find the task shim"))?;
    // Had it died before, the number might mean another process by now; but its end of the socket
    // would be closed, too.
    if wait_readable(socket.as_fd(), Instant::now()) {
        return Err(lost());
    }
    frame::send(socket, &Reply::Done, &[]).map_err(Error::io("let the task shim begin"))
}
