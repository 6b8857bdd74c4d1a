//! Volumes as detached mounts: a folder that its holder can open files below, and nothing above.
//!
//! A plain directory descriptor would not do: hostile code walks out of it through `..`, whatever
//! its uid (tried).

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::CWD,
    mount::{OpenTreeFlags, open_tree},
};
use spec::Rights;

use crate::Error;

/// Clones the mount at `path` into a detached one without set-uid, devices and programs, and
/// without writing unless `rights` has `w` or `d`. Needs `CAP_SYS_ADMIN` in the user namespace that
/// owns the mount namespace.
///
/// # Errors
/// When the folder is not there, or the caller may not mount.
pub fn detach(path: &Path, rights: Rights) -> Result<OwnedFd, Error> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(CWD, path, flags)
        .map_err(|e| Error::file("detach the volume folder", path)(e.into()))?;
    restrict(&mount, rights).map_err(Error::file("restrict the volume folder", path))?;
    Ok(mount)
}

fn restrict(mount: &OwnedFd, rights: Rights) -> io::Result<()> {
    let read_only = if rights.write || rights.delete { 0 } else { libc::MOUNT_ATTR_RDONLY };
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_NOSUID
            | libc::MOUNT_ATTR_NODEV
            | libc::MOUNT_ATTR_NOEXEC
            | read_only,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path is empty and terminated, and the length is the structure's.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &attributes,
            size_of_val(&attributes),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
