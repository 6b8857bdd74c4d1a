use rustix::thread::{CapabilitySet, capabilities};

use crate::Error;

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

/// Whether this process may run native containers.
///
/// # Errors
/// [`Error::NotRoot`], and [`Error::Restricted`] for a root that is less than that, as in a
/// container.
pub fn check_rights() -> Result<(), Error> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let held = capabilities(None).map_err(Error::io("read our own capabilities"))?.effective;
    match NEEDED.into_iter().find(|(capability, _)| !held.contains(*capability)) {
        Some((_, capability)) => Err(Error::Restricted { capability }),
        None => Ok(()),
    }
}
