use std::{
    fs,
    os::fd::BorrowedFd,
    time::{Duration, Instant},
};

use rustix::process::Pid;

use crate::{RuntimeKind, host::command::wait_readable, limits::PROGRAM_TIME_MAX};

/// No event tells that a process has become another program; it takes less than a millisecond.
const INTERVAL: Duration = Duration::from_millis(1);

/// Waits until a container's first process is its program. A runtime says that the container has
/// started a moment before: until then a signal would be the runtime's own to handle, and runc ends
/// with status 2 at one that the program would have caught.
pub(crate) fn wait_for_program(pid: Pid, pidfd: BorrowedFd<'_>, runtime: RuntimeKind) {
    let name = format!("/proc/{}/comm", pid.as_raw_nonzero());
    // As in `runc:[2:INIT]`. A program of such a name gets its first signal late.
    let is_runtime =
        || fs::read_to_string(&name).is_ok_and(|name| name.starts_with(runtime.name()));
    let deadline = Instant::now() + PROGRAM_TIME_MAX;
    while is_runtime() && Instant::now() < deadline {
        let has_ended = wait_readable(pidfd, Instant::now() + INTERVAL);
        if has_ended {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::{fd::AsFd, unix::fs::PermissionsExt},
        process::Command,
    };

    use rustix::process::{PidfdFlags, pidfd_open};

    use super::*;

    #[test]
    fn a_process_is_waited_for_until_it_is_the_program_or_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = folder.path().join("runc");
        for (script, want) in
            [("sleep 0.2; exec sleep 100", "sleep\n"), ("sleep 0.2; exit 1", "runc\n")]
        {
            fs::write(&runtime, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755)).unwrap();
            let mut child = Command::new(&runtime).spawn().unwrap();
            let pid = Pid::from_child(&child);
            let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
            let name = format!("/proc/{}/comm", child.id());
            // A process that was just started may have the name of this one.
            while fs::read_to_string(&name).unwrap() != "runc\n" {
                std::thread::yield_now();
            }
            wait_for_program(pid, pidfd.as_fd(), RuntimeKind::Runc);
            assert_eq!(fs::read_to_string(&name).unwrap(), want, "{script}");
            let _ = child.kill();
            child.wait().unwrap();
        }
    }
}
