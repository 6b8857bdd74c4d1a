//! The volumes of a container, and the files and folders of the host that it was given, where the
//! runtime can reach them; with their restrictions from the first moment.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::Path,
};

use engine::{
    VolumeMount, VolumeSource,
    mount::{IdMap, Ids, Programs, Shown, detach},
};
use rustix::{
    fs::{Access, CWD, Mode, StatVfsMountFlags, access, statvfs},
    io::Errno,
    mount::{MountFlags, MoveMountFlags, mount_remount, move_mount},
};
use spec::Rights;

use crate::{
    Error,
    bundle::{config::Bind, rootfs::RootFolder},
    ids::HostIds,
};

/// How the files of one container are shown to it.
#[derive(Debug)]
pub(crate) struct View {
    pub ids: HostIds,
    /// From the ids on disk to its own, where these are others.
    own: Option<IdMap>,
}

impl View {
    pub fn new(ids: HostIds) -> Result<Self, Error> {
        let own = ids.are_own().then(|| IdMap::new(Ids::alike(&ids.shown()))).transpose();
        Ok(Self { ids, own: own.map_err(Error::io("map the users of a container"))? })
    }

    /// Mounts what is at `from`, a folder with the ids on disk, at `to`, so that what is there is
    /// the container's.
    pub fn mount(&self, from: &Path, rights: Rights, to: &Path) -> Result<(), Error> {
        let mounting = || format!("mount `{}`", from.display());
        let mount = detach(from, rights, Programs::Allowed).map_err(Error::io(mounting()))?;
        if let Some(own) = &self.own
            && own.show(&mount).map_err(Error::io(mounting()))? == Shown::Unsupported
        {
            return Err(Error::NoIdMap { path: from.to_owned() });
        }
        attach(&mount, to).map_err(Error::io(mounting()))
    }
}

/// Mounts what is behind `volume` at `bind.from`.
pub(crate) fn mount(volume: &VolumeMount, bind: &Bind, view: &View) -> Result<(), Error> {
    let path = path_of(volume)?;
    let mounting = || format!("mount `{}`", path.display());
    let found = fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied if view.ids.are_of_namespace() => {
            let missing = engine::mount::opened_to_others(true, bind.writable);
            Error::ClosedFiles { path: path.to_owned(), missing, readable: false }
        }
        _ => Error::io(mounting())(error),
    })?;
    if found.file_type().is_char_device() || found.file_type().is_block_device() {
        return Err(Error::Device { path: path.to_owned() });
    }
    match found.is_dir() {
        true => fs::create_dir(&bind.from),
        false => fs::write(&bind.from, ""),
    }
    .map_err(Error::io(mounting()))?;
    match volume.source {
        VolumeSource::Host(_) => mount_host(path, volume.rights, bind, view, &found),
        _ => view.mount(path, volume.rights, &bind.from),
    }
}

/// Files of the host's users appear as those of the same users of the container.
fn mount_host(
    path: &Path,
    rights: Rights,
    bind: &Bind,
    view: &View,
    found: &fs::Metadata,
) -> Result<(), Error> {
    let mounting = || format!("mount `{}`", path.display());
    let mount = detach(path, rights, Programs::Allowed).map_err(Error::io(mounting()))?;
    if view.ids.are_of_namespace() {
        // What is its root's there is the user's that started it.
        must_be_open(path, bind)?;
        return attach(&mount, &bind.from).map_err(Error::io(mounting()));
    }
    let map = IdMap::new(Ids::alike(&view.ids.of_host())).map_err(Error::io(mounting()))?;
    if map.show(&mount).map_err(Error::io(mounting()))? == Shown::Unsupported {
        // What it made there would keep ids that another container has later.
        if view.ids.are_own() {
            return Err(Error::NoIdMap { path: path.to_owned() });
        }
        must_be_open_to_all(path, found, bind, view.ids)?;
    }
    attach(&mount, &bind.from).map_err(Error::io(mounting()))
}

/// A runtime mounts it once more, in a user namespace: there no mount loses that it is read-only,
/// or that no program runs from it, and one that would lose it is refused.
pub(crate) fn keep_flags(bind: &mut Bind) -> Result<(), Error> {
    let looking = || format!("look at the mount for `{}`", bind.to.escape_debug());
    let flags = statvfs(&bind.from).map_err(Error::io(looking()))?.f_flag;
    bind.noexec = flags.contains(StatVfsMountFlags::NOEXEC);
    bind.writable &= !flags.contains(StatVfsMountFlags::RDONLY);
    Ok(())
}

fn attach(mount: &OwnedFd, to: &Path) -> io::Result<()> {
    Ok(move_mount(mount, c"", CWD, to, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
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

/// Of an ordinary user's container: what the user may not open, its root may not either.
fn must_be_open(path: &Path, bind: &Bind) -> Result<(), Error> {
    let is_folder = path.is_dir();
    let mut read = Access::READ_OK;
    read.set(Access::EXEC_OK, is_folder);
    let mut needed = read;
    needed.set(Access::WRITE_OK, bind.writable);
    match access(path, needed) {
        // What is mounted to be read is not written by the container's root either.
        Ok(()) | Err(Errno::ROFS) => Ok(()),
        Err(_) => {
            let readable = access(path, read).is_ok();
            let missing = engine::mount::opened_to_others(is_folder, bind.writable);
            Err(Error::ClosedFiles { path: path.to_owned(), missing, readable })
        }
    }
}

/// Where the files of the host keep their owners, a container has the rights of all other users.
fn must_be_open_to_all(
    path: &Path,
    found: &fs::Metadata,
    bind: &Bind,
    ids: HostIds,
) -> Result<(), Error> {
    let folder = found.is_dir();
    let mut needed = if folder { Mode::ROTH | Mode::XOTH } else { Mode::ROTH };
    needed.set(Mode::WOTH, bind.writable);
    if Mode::from_raw_mode(found.mode()).contains(needed) || found.uid() == ids.first() {
        return Ok(());
    }
    let missing = engine::mount::opened_to_others(folder, bind.writable);
    Err(Error::HostFiles { path: path.to_owned(), owner: found.uid(), user: ids.first(), missing })
}

/// Whether nothing was ever put in the folder of a volume.
pub(crate) fn is_empty(folder: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(folder)?.next().is_none())
}
