//! How workers are kept apart from the user that starts them: by what that user may do, not by its
//! number. Root in a container of another engine may often do no more than an ordinary user.

use std::sync::LazyLock;

use engine::subordinate_ids;
use rustix::thread::{CapabilitySet, capabilities};

/// Own uids start here: above every range that distributions hand out, and unique among living
/// processes without any bookkeeping, because a pid is.
const UID_BASE: u32 = 1_000_000_000;
/// No kernel has a pid above it.
const PID_MAX: u32 = 1 << 22;

/// The user of a worker in a process of this number.
pub(crate) fn own_id(pid: u32) -> u32 {
    UID_BASE + pid
}

/// Whether the users of workers exist: in a user namespace, as root has it in a container of an
/// ordinary user, mostly not. A process keeps the namespace that it has.
static HAS_OWN_IDS: LazyLock<bool> =
    LazyLock::new(|| [own_id(0), own_id(PID_MAX)].into_iter().all(::sandbox::has_id));

/// What a worker gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Separation {
    /// A user id that no other process has.
    OwnIds,
    /// A user namespace in which it is alone, and in it a user id of the range of its starter's
    /// subordinate ids that no other process has.
    SubordinateIds,
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
            Ok(sets) if sets.effective.contains(NEEDED) && *HAS_OWN_IDS => Self::OwnIds,
            _ if subordinate_ids::available().is_ok() => Self::SubordinateIds,
            _ => Self::UserNamespace,
        }
    }
}
