//! Volumes, and files and folders of the host, opened for a worker.

use std::{
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::Path,
};

use engine::mount::{IdRange, Ids, Programs, Shown, detach, show_ids};
use rustix::fs::{Access, FileType, Mode};
use spec::Rights;

use crate::Error;

/// The folder of a volume, which every worker may enter.
pub(crate) fn volume(path: &Path, rights: Rights) -> Result<OwnedFd, Error> {
    detach(path, rights, Programs::Forbidden).map_err(Error::file("detach the volume folder", path))
}

/// Whether we, and so a worker that is us, may use a file or folder of the host.
///
/// # Errors
/// [`Error::HostFiles`], [`Error::NoFile`].
pub(crate) fn check(path: &Path, rights: Rights) -> Result<(), Error> {
    let found = fs::metadata(path).map_err(Error::file("mount", path))?;
    if !found.is_dir() && !found.is_file() {
        return Err(Error::NoFile(path.to_owned()));
    }
    may_use(path, &found, rights).map_err(|source| denied(path, &found, rights, source))
}

/// A file or folder of the host. The worker has the id `worker`, where that is not our own; it
/// works on the files of the owner of `path`, and what it makes belongs to that owner.
///
/// # Errors
/// [`Error::HostFiles`] when the worker could not use what is at `path`.
pub(crate) fn host(path: &Path, rights: Rights, worker: Option<u32>) -> Result<OwnedFd, Error> {
    let opening = || Error::file("mount", path);
    let found = fs::metadata(path).map_err(opening())?;
    match FileType::from_raw_mode(found.mode()) {
        FileType::RegularFile => {
            file(path, rights).map_err(|source| denied(path, &found, rights, source))
        }
        FileType::Directory => {
            let mount = detach(path, rights, Programs::Forbidden).map_err(opening())?;
            // One that is us was checked before.
            if let Some(worker) = worker {
                as_files_of(worker, &mount, path, &found, rights)?;
            }
            Ok(mount)
        }
        _ => Err(Error::NoFile(path.to_owned())),
    }
}

/// The open file itself: a mount of it could not be opened without its folder.
fn file(path: &Path, rights: Rights) -> io::Result<OwnedFd> {
    let writes = rights.write || rights.delete;
    Ok(File::options().read(true).write(writes).open(path)?.into())
}

fn may_use(path: &Path, found: &fs::Metadata, rights: Rights) -> io::Result<()> {
    let mut wanted = Access::READ_OK;
    wanted.set(Access::EXEC_OK, found.is_dir());
    wanted.set(Access::WRITE_OK, rights.write || rights.delete);
    Ok(rustix::fs::access(path, wanted)?)
}

fn as_files_of(
    worker: u32,
    mount: &OwnedFd,
    path: &Path,
    found: &fs::Metadata,
    rights: Rights,
) -> Result<(), Error> {
    let range = |on_disk| [IdRange { on_disk, shown: worker, count: 1 }];
    let (users, groups) = (range(found.uid()), range(found.gid()));
    let ids = Ids { users: &users, groups: &groups };
    if show_ids(mount, ids).map_err(Error::file("mount", path))? == Shown::Done {
        return Ok(());
    }
    let mut needed = Mode::ROTH | Mode::XOTH;
    needed.set(Mode::WOTH, rights.write || rights.delete);
    match Mode::from_raw_mode(found.mode()).contains(needed) {
        true => Ok(()),
        false => Err(denied(path, found, rights, io::ErrorKind::PermissionDenied.into())),
    }
}

fn denied(path: &Path, found: &fs::Metadata, rights: Rights, source: io::Error) -> Error {
    let writes = rights.write || rights.delete;
    let missing = ::engine::mount::opened_to_others(found.is_dir(), writes);
    Error::HostFiles { path: path.to_owned(), owner: found.uid(), missing, writes, source }
}
