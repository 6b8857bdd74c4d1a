//! How workers are kept apart from the user that starts them: by what that user may do, not by its
//! number. Root in a container of another engine may often do no more than an ordinary user.

use rustix::thread::{CapabilitySet, capabilities};

/// What a worker gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Separation {
    /// A user id that no other process has.
    OwnIds,
    /// A user namespace in which it is alone, and in which it is no other user than its starter.
    UserNamespace,
}

/// What making namespaces, changing to another user, and going to an empty root folder take.
const NEEDED: CapabilitySet = CapabilitySet::SYS_ADMIN
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SYS_CHROOT);

impl Separation {
    /// What workers that this process starts get.
    pub fn available() -> Self {
        match capabilities(None) {
            Ok(sets) if sets.effective.contains(NEEDED) => Self::OwnIds,
            _ => Self::UserNamespace,
        }
    }
}
