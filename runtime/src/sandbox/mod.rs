//! What a worker or a preparer gives up for ever once it holds everything that it will need: system
//! calls, files and networks, capabilities.

mod seccomp; // system calls: the lists, and the filters made of them

use std::{io, os::fd::BorrowedFd};

use ::sandbox::Network;
use rustix::thread::CapabilitySet;

pub(crate) use ::sandbox::{OpenFolder, hide, leave_files, read_auxiliary_vector};
pub(crate) use seccomp::{Filter, Strictness};

/// No file can be opened but `program`, and those below `folders`; no network is reached.
///
/// # Errors
/// When this kernel has no Landlock: a worker without it is not started.
pub(crate) fn restrict_files(
    program: Option<BorrowedFd<'_>>,
    folders: &[OpenFolder<'_>],
) -> io::Result<()> {
    ::sandbox::restrict_files(program, folders, Network::None)
}

/// Gives up every capability but those of `kept`; what is started from here has none.
pub(crate) fn keep_capabilities(kept: CapabilitySet) -> io::Result<()> {
    ::sandbox::keep_capabilities(kept, CapabilitySet::empty())
}
