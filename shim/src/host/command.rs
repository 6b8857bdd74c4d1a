use std::{
    io::{ErrorKind, Read},
    os::fd::{AsFd, BorrowedFd},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};

use crate::limits::OUTPUT_BYTES_MAX;

/// The output of a command that succeeds in time. The error is a predicate, to follow the name of
/// the program.
pub(crate) fn output(command: &mut Command, time_max: Duration) -> Result<String, String> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot be started: {error}"))?;
    let deadline = Instant::now() + time_max;
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        read_until(stdout, &mut output, deadline);
    }
    let status = wait(&mut child, deadline)?;
    match status.success() || output.len() as u64 == OUTPUT_BYTES_MAX {
        true => Ok(String::from_utf8_lossy(&output).into_owned()),
        false => Err(format!("failed ({status})")),
    }
}

/// Waits for `child`, and kills it at the deadline.
pub(crate) fn wait(child: &mut Child, deadline: Instant) -> Result<ExitStatus, String> {
    let pid = Pid::from_child(child);
    if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty())
        && !wait_readable(pidfd.as_fd(), deadline)
    {
        // It is a child that was not waited for, so its number still means it.
        let _ = child.kill();
        let _ = child.wait();
        return Err("timed out and was killed".to_owned());
    }
    child.wait().map_err(|error| format!("cannot be waited for: {error}"))
}

fn read_until(mut from: impl Read + AsFd, output: &mut Vec<u8>, deadline: Instant) {
    let mut buffer = [0; 4096];
    while (output.len() as u64) < OUTPUT_BYTES_MAX && wait_readable(from.as_fd(), deadline) {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => {
                let free = OUTPUT_BYTES_MAX as usize - output.len();
                output.extend_from_slice(&buffer[..n.min(free)]);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Waits until `fd` has something to read, or its end. False at the deadline.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).ok();
        match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], timeout.as_ref()) {
            Ok(ready) => return ready > 0,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_hangs_is_killed_at_its_deadline() {
        let began = Instant::now();
        let error = output(
            Command::new("/bin/sh").args(["-c", "exec sleep 100"]),
            Duration::from_millis(50),
        )
        .unwrap_err();
        assert!(error.contains("timed out"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(50));
    }
}
