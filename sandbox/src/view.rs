use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::CWD,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags,
        MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
        mount_change, mount_remount, move_mount, open_tree,
    },
    thread::UnshareFlags,
};

/// The only thing there besides folders that lead to folders.
const BYTES_MAX: &str = "65536";

/// Makes `home` one in which there is nothing but `folders`, for this process alone and for ever.
/// Their paths stay as they are, and any user may walk to them now. The process must have one
/// thread.
pub(crate) fn only(home: &Path, folders: &[&Path]) -> io::Result<()> {
    // SAFETY: this process has one thread, and CLONE_FILES, which could close descriptors under
    // others, is not among the flags.
    unsafe {
        rustix::thread::unshare_unsafe(
            UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS,
        )?;
    }
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let opened = folders.iter().map(|folder| Ok(open_tree(CWD, *folder, clone)?));
    let opened = opened.collect::<io::Result<Vec<OwnedFd>>>()?;
    let top = closed_top(home)?;
    attach(&empty()?, &top)?;
    for (folder, mount) in folders.iter().zip(&opened) {
        make_open(&top, folder)?;
        attach(mount, folder)?;
        let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount_remount(*folder, MountFlags::BIND | quiet, "")?;
    }
    let sealed = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_remount(&top, MountFlags::BIND | sealed, "")?;
    std::env::set_current_dir("/")
}

/// The first folder on the way to `home` that other users cannot walk through: `home` itself, or
/// one above.
fn closed_top(home: &Path) -> io::Result<PathBuf> {
    let mut above: Vec<&Path> = home.ancestors().collect();
    above.reverse();
    for folder in above {
        if fs::metadata(folder)?.permissions().mode() & 0o001 == 0 {
            return Ok(folder.to_owned());
        }
    }
    Ok(home.to_owned())
}

fn empty() -> io::Result<OwnedFd> {
    let made = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&made, c"mode", c"0755")?;
    fsconfig_set_string(&made, c"size", BYTES_MAX)?;
    fsconfig_create(&made)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(&made, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

fn attach(mount: &OwnedFd, at: &Path) -> io::Result<()> {
    Ok(move_mount(mount, c"", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Makes the folders below `top` on the way to `folder`, open to all whatever the umask.
fn make_open(top: &Path, folder: &Path) -> io::Result<()> {
    let mut way: Vec<&Path> = folder.ancestors().take_while(|above| *above != top).collect();
    way.reverse();
    for above in way {
        if !above.is_dir() {
            fs::create_dir(above)?;
            fs::set_permissions(above, fs::Permissions::from_mode(0o755))?;
        }
    }
    Ok(())
}
