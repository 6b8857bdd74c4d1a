use engine::subordinate_ids::{self, OwnUser, SubordinateIds};
use rustix::thread::{CapabilitySet, capabilities};

use crate::{Error, limits::ID_COUNT};

/// What mounting a root file system, giving it to the users of containers, and making cgroups take.
const NEEDED: [(CapabilitySet, &str); 7] = [
    (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN"),
    (CapabilitySet::CHOWN, "CAP_CHOWN"),
    (CapabilitySet::DAC_OVERRIDE, "CAP_DAC_OVERRIDE"),
    (CapabilitySet::FOWNER, "CAP_FOWNER"),
    (CapabilitySet::KILL, "CAP_KILL"),
    (CapabilitySet::SETGID, "CAP_SETGID"),
    (CapabilitySet::SETUID, "CAP_SETUID"),
];

/// By what right this process runs native containers.
pub(crate) enum Rights {
    Root,
    /// In user namespaces, with an ordinary user as root and the ids from the first one on.
    Subordinate(SubordinateIds, OwnUser),
}

/// Whether this process may run native containers, as far as can be told without a trial.
///
/// # Errors
/// [`Error::NoIds`] for an ordinary user, and [`Error::Restricted`] for a root that is less than
/// that, as in a container.
pub fn check_rights() -> Result<(), Error> {
    rights().map(drop)
}

/// # Errors
/// As [`check_rights`].
pub(crate) fn rights() -> Result<Rights, Error> {
    if !rustix::process::geteuid().is_root() {
        let ids = subordinate_ids::available().map_err(Error::NoIds)?;
        let first = ids.first_of(ID_COUNT - 1).map_err(Error::NoIds)?;
        return Ok(Rights::Subordinate(ids, first));
    }
    let held = capabilities(None).map_err(Error::io("read our own capabilities"))?.effective;
    match NEEDED.into_iter().find(|(capability, _)| !held.contains(*capability)) {
        Some((_, capability)) => Err(Error::Restricted { capability }),
        None => Ok(Rights::Root),
    }
}
