use std::io;

use rustix::thread::{CapabilitySet, set_no_new_privs};

/// What writing files of any owner and mode takes.
pub(crate) const FILES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID);

/// What a copy takes: it reads as well, and gives files names that no user of them has.
pub(crate) const COPY: CapabilitySet = FILES.union(CapabilitySet::DAC_READ_SEARCH);

/// Keeps the capabilities `keep` of root and no other, for the rest of this process's life, and
/// gains none by a program that it starts.
pub(crate) fn drop_privileges(keep: CapabilitySet) -> io::Result<()> {
    keep_capabilities(keep)?;
    Ok(set_no_new_privs(true)?)
}

/// Keeps the capabilities `keep` of root and no other. Programs of containers, which are started
/// from here, decide for themselves whether they gain some in their user namespace.
pub(crate) fn keep_capabilities(keep: CapabilitySet) -> io::Result<()> {
    sandbox::keep_capabilities(keep, keep)
}
