use std::io;

use rustix::thread::{CapabilitySet, set_no_new_privs};

/// Keeps the capabilities `keep` of root and no other, for the rest of this process's life.
pub(crate) fn drop_privileges(keep: CapabilitySet) -> io::Result<()> {
    sandbox::keep_capabilities(keep, keep)?;
    Ok(set_no_new_privs(true)?)
}
