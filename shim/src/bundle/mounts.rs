//! The volumes of a container, and the files and folders of the host that it was given, where the
//! runtime can reach them; with their restrictions from the first moment.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

use engine::{
    VolumeMount, VolumeSource,
    mount::{IdRange, Ids, Programs, Shown, detach, show_ids},
};
use rustix::{
    fs::{CWD, Mode},
    mount::{MountFlags, MoveMountFlags, mount_remount, move_mount},
};

use crate::limits::{FIRST_ID, ID_COUNT};
use crate::{
    Error,
    bundle::{config::Bind, rootfs::RootFolder},
};

/// Files of the host's users 0 to 65,535 appear as those of the same users of the container, and
/// what the container's root makes is root's: as with an engine without user namespaces.
const SAME_USERS: Ids = {
    let range = IdRange { on_disk: 0, shown: FIRST_ID, count: ID_COUNT };
    Ids { users: range, groups: range }
};

/// Mounts what is behind `volume` at `bind.from`.
pub(crate) fn mount(volume: &VolumeMount, bind: &Bind) -> Result<(), Error> {
    let path = path_of(volume)?;
    let mounting = || format!("mount `{}`", path.display());
    let found = fs::metadata(path).map_err(Error::io(mounting()))?;
    let mount = detach(path, volume.rights, Programs::Allowed).map_err(Error::io(mounting()))?;
    if let VolumeSource::Host(_) = volume.source
        && show_ids(&mount, SAME_USERS).map_err(Error::io(mounting()))? == Shown::Unsupported
    {
        must_be_open_to_all(path, &found, bind)?;
    }
    let made = match found.is_dir() {
        true => fs::create_dir(&bind.from),
        false => fs::write(&bind.from, ""),
    };
    made.and_then(|()| {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        Ok(move_mount(&mount, c"", CWD, &bind.from, flags)?)
    })
    .map_err(Error::io(mounting()))
}

/// Moves what [`mount`] has mounted to its place in the root file system, as a runtime would.
pub(crate) fn graft(bind: &Bind, inside: &RootFolder) -> Result<(), Error> {
    let mounting = || format!("mount the volume at `{}`", bind.to.escape_debug());
    let found = fs::metadata(&bind.from).map_err(Error::io(mounting()))?;
    let place = match found.is_dir() {
        true => {
            inside.folder("volume", &bind.to)?;
            inside.existing(&bind.to)
        }
        // The mount point of a file was made at the first start.
        false => inside.existing_file(&bind.to),
    };
    let Some(place) = place else { return Ok(()) };
    let flags = MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(CWD, &bind.from, &place, c"", flags)
        .map_err(|error| Error::Io { what: mounting(), source: error.into() })
}

/// Lets nothing change below the mount at `path`; those in it stay as they are.
pub(crate) fn make_read_only(path: &Path) -> Result<(), Error> {
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NODEV;
    mount_remount(path, flags, c"").map_err(Error::io(format!("protect `{}`", path.display())))
}

pub(crate) fn path_of(volume: &VolumeMount) -> Result<&Path, Error> {
    match &volume.source {
        VolumeSource::Folder(path) | VolumeSource::Host(path) => Ok(path),
        // The supervisor of a native container detaches none.
        VolumeSource::Detached(_) => Err(Error::Config {
            what: format!("volume at `{}`", volume.path),
            why: "it is no folder".to_owned(),
        }),
    }
}

/// Where the files of the host keep their owners, a container has the rights of all other users.
fn must_be_open_to_all(path: &Path, found: &fs::Metadata, bind: &Bind) -> Result<(), Error> {
    let folder = found.is_dir();
    let mut needed = if folder { Mode::ROTH | Mode::XOTH } else { Mode::ROTH };
    needed.set(Mode::WOTH, bind.writable);
    if Mode::from_raw_mode(found.mode()).contains(needed) || found.uid() == FIRST_ID {
        return Ok(());
    }
    Err(Error::HostFiles { path: path.to_owned(), owner: found.uid(), user: FIRST_ID, folder })
}

/// Whether nothing was ever put in the folder of a volume.
pub(crate) fn is_empty(folder: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(folder)?.next().is_none())
}
