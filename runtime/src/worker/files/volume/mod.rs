//! A granted folder of the host, as a detached mount: one way to open a path in it, which never
//! leads out.

mod kernel; // the system calls, and their errors in WASI's words
mod listing; // entries of a folder, a few at a time
mod folder; // a volume, and what may be done in it
mod quota; // the wrapper that counts what is in it

use std::{os::fd::OwnedFd, sync::Arc};

use super::filesystem::Filesystem;
use quota::Limited;

pub(crate) use folder::Volume;
pub use listing::Listing;
pub(super) use {folder::Place, kernel::stat};

/// Any volume, with a limit or without.
pub(super) type AnyVolume = dyn Filesystem<Folder = Arc<OwnedFd>, Place = Place, Listing = Listing>;

/// A volume as a part of the guest's files, counted where it has a limit.
pub(super) fn mounted(volume: Volume) -> Box<AnyVolume> {
    match volume.max_bytes() {
        Some(max) => Box::new(Limited::new(volume, max)),
        None => Box::new(volume),
    }
}
