use std::{fs::File, io, os::fd::AsFd};

use bytes::Bytes;
use rustix::mm::{MapFlags, ProtFlags};

/// All of `file` as memory that is read from disk when it is touched.
pub(crate) fn mapped(file: &File) -> io::Result<Bytes> {
    let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    if len == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: a fresh private mapping of nothing but this file. The file is the node's, complete
    // and never written again; were it cut short all the same, touching what is missing would end
    // this one worker.
    let at = unsafe {
        rustix::mm::mmap(
            std::ptr::null_mut(),
            len,
            ProtFlags::READ,
            MapFlags::PRIVATE,
            file.as_fd(),
            0,
        )?
    };
    Ok(Bytes::from_owner(Mapped { at, len }))
}

struct Mapped {
    at: *mut std::ffi::c_void,
    len: usize,
}

// SAFETY: memory that is never written may be read from everywhere.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: mapped for as long as `self` lives, and never written.
        unsafe { std::slice::from_raw_parts(self.at.cast(), self.len) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: exactly what was mapped; `&mut self` shows that nothing else uses it.
        let _ = unsafe { rustix::mm::munmap(self.at, self.len) };
    }
}
