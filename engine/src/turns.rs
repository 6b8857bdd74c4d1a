//! How soon a process that waits gets a processor.

use std::{io, time::Duration};

/// The shortest turn that the kernel takes.
const TURN: Duration = Duration::from_micros(100);

/// Asks for short turns on a processor, for this thread and all that it starts. One that has waited
/// then runs at once when a request comes, instead of after the turn of a program that computes,
/// which takes 3 ms and longer; no share grows by it. Linux before 6.12 has no such turns, and
/// prefers what has waited by itself: there it does nothing.
///
/// # Errors
/// Where the kernel refuses, as behind a list of system calls.
pub fn prefer_short_turns() -> io::Result<()> {
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        sched_flags: 0,
        sched_nice: nice(),
        sched_priority: 0,
        sched_runtime: u64::try_from(TURN.as_nanos()).unwrap_or(u64::MAX),
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the structure is whole, says its size, and is only read.
    #[expect(unsafe_code, reason = "rustix has no sched_setattr")]
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What this process has, which stays as it is.
fn nice() -> i32 {
    rustix::process::getpriority_process(None).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_turns_are_kept_by_what_a_thread_starts() {
        std::thread::spawn(|| {
            let before = nice();
            prefer_short_turns().unwrap();
            let of = |child: std::thread::JoinHandle<u64>| child.join().unwrap();
            let (own, child) = (turn(), of(std::thread::spawn(turn)));
            assert_eq!(own, child);
            // Before Linux 6.12 it stays 0.
            assert!([0, 100_000].contains(&own), "{own}");
            assert_eq!(nice(), before);
        })
        .join()
        .unwrap();
    }

    #[expect(unsafe_code, reason = "rustix has no sched_getattr")]
    fn turn() -> u64 {
        // SAFETY: the kernel writes as many bytes as it is told that there are.
        unsafe {
            let mut found: libc::sched_attr = std::mem::zeroed();
            let size = size_of::<libc::sched_attr>();
            let got = libc::syscall(libc::SYS_sched_getattr, 0, &raw mut found, size, 0);
            assert_eq!(got, 0);
            found.sched_runtime
        }
    }
}
