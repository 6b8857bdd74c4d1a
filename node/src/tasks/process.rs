use std::{
    fs, io,
    time::{Duration, Instant},
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// One process for all time: its number, and when it started, because numbers are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: i32,
    /// Clock ticks from boot to its start (`/proc/PID/stat`, field 22).
    pub started: u64,
}

impl ProcessId {
    /// The process that has number `pid` now.
    pub fn of(pid: i32) -> Option<Self> {
        let (started, dead) = read_stat(pid)?;
        (!dead).then_some(Self { pid, started })
    }

    pub fn this() -> Self {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        Self { pid, started: read_stat(pid).map_or(0, |(started, _)| started) }
    }

    /// Waits for its end, at most `time_max`. Blocks.
    pub(crate) fn wait(self, time_max: Duration) {
        let deadline = Instant::now() + time_max;
        while self.is_alive() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether it still runs. One that has ended and waits to be reaped does not.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

/// When the process started, and whether it has ended.
fn read_stat(pid: i32) -> Option<(u64, bool)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, and may hold anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let dead = matches!(fields.next()?, "Z" | "X");
    Some((fields.nth(18)?.parse().ok()?, dead))
}

/// Sends `signal` to exactly that process; `false` when it is no more.
pub(crate) fn signal(process: ProcessId, signal: Signal) -> io::Result<bool> {
    let Some(pid) = Pid::from_raw(process.pid) else { return Ok(false) };
    let handle = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => handle,
        Err(rustix::io::Errno::SRCH) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    // The handle is held: if the process is the one that is meant now, it is the one that gets the
    // signal.
    if !process.is_alive() {
        return Ok(false);
    }
    match pidfd_send_signal(&handle, signal) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::SRCH) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Asks exactly that process to end; `false` when it is no more.
pub(crate) fn terminate(process: ProcessId) -> io::Result<bool> {
    signal(process, Signal::TERM)
}

/// Ends exactly that process at once; `false` when it is no more.
pub(crate) fn kill(process: ProcessId) -> io::Result<bool> {
    signal(process, Signal::KILL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_a_later_one_with_its_number() {
        let this = ProcessId::this();
        assert!(this.is_alive());
        assert!(!ProcessId { started: this.started + 1, ..this }.is_alive());
        assert!(!signal(ProcessId { started: this.started + 1, ..this }, Signal::KILL).unwrap());
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let id = ProcessId::of(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(id.is_alive());
        assert!(kill(id).unwrap());
        child.wait().unwrap();
        assert!(!id.is_alive());
        assert!(!kill(id).unwrap());
    }
}
