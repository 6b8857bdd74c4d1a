use std::{mem::MaybeUninit, os::fd::OwnedFd};

use rustix::fs::{Mode, OFlags, RawDir};

use super::kernel::{WITHIN, code, kind};
use crate::limits::LISTING_BYTES;
use crate::worker::files::filesystem::{DescriptorType, Result};

/// Entries of a folder of the host, a few at a time.
pub struct Listing {
    fd: OwnedFd,
    /// Read and not yet given, the next one last.
    ready: Vec<(String, DescriptorType)>,
    ended: bool,
}

impl Listing {
    pub(super) fn of(folder: &OwnedFd) -> Result<Self> {
        // A folder's own descriptor keeps a position that other listings would move.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat2(folder, ".", flags, Mode::empty(), WITHIN).map_err(code)?;
        Ok(Self { fd, ready: Vec::new(), ended: false })
    }

    pub(in crate::worker::files) fn next_entry(
        &mut self,
    ) -> Result<Option<(String, DescriptorType)>> {
        while self.ready.is_empty() && !self.ended {
            self.read()?;
        }
        Ok(self.ready.pop())
    }

    fn read(&mut self) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); LISTING_BYTES];
        let mut entries = RawDir::new(&self.fd, &mut space);
        loop {
            let Some(entry) = entries.next() else {
                self.ended = true;
                break;
            };
            let entry = entry.map_err(code)?;
            // A name that is no UTF-8 has no form in `wasi:filesystem`; it is left out.
            if let Ok(name) = entry.file_name().to_str()
                && !matches!(name, "." | "..")
            {
                self.ready.push((name.to_owned(), kind(entry.file_type())));
            }
            if entries.is_buffer_empty() {
                break;
            }
        }
        self.ready.reverse();
        Ok(())
    }
}
