use std::{io, os::fd::RawFd};

/// Closes what a parent left open beyond the standard streams and `kept`. To be called at the start
/// of a process, before it has opened anything.
///
/// # Errors
/// When the kernel refuses.
pub fn close_other_descriptors(kept: &[RawFd]) -> io::Result<()> {
    let mut kept: Vec<u32> = kept.iter().filter_map(|fd| u32::try_from(*fd).ok()).collect();
    kept.sort_unstable();
    let mut first = 3;
    for fd in kept.into_iter().chain([u32::MAX]) {
        if let Some(last) = fd.checked_sub(1).filter(|last| *last >= first) {
            close_range(first, last)?;
        }
        first = first.max(fd.saturating_add(1));
    }
    Ok(())
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: plain numbers; nothing in this process owns a descriptor among them yet.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
