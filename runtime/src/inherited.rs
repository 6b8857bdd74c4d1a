//! Descriptors by their number: those that a process is born with.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

/// The descriptor `number`, which this process was born with.
///
/// # Safety
/// No other part of the process owns it.
pub(crate) unsafe fn inherited(number: i32) -> OwnedFd {
    // SAFETY: the caller's promise.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Makes the standard descriptor `number` (0, 1 or 2) another name for `fd`.
pub(crate) fn replace(number: i32, fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: plain numbers; no part of the process owns a standard descriptor, and its users
    // expect it to be replaced.
    match unsafe { libc::dup2(fd.as_raw_fd(), number) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
