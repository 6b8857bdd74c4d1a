//! Hard links of a layer to files of the layers below.
//!
//! Each layer is unpacked alone, so that images can share it: such a link becomes a copy of the
//! file that the layers below show at its name.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
};

use image::{InvalidName, through_links};
use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid,
        chownat, fchmod, fgetxattr, fstat, futimens, openat, openat2, readlinkat, statat,
        symlinkat,
    },
    io::Errno,
};

use crate::Error;

const STRICT: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);
const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Makes `links` (what is to be made, and from what) below `folder`, the unpacked layer with the
/// name `layer`, from the layers `lower`.
///
/// # Errors
/// [`Error::Layer`] for one that has no file below.
pub(super) fn make(
    layer: &str,
    folder: &Path,
    links: &[(String, String)],
    lower: &[PathBuf],
) -> Result<(), Error> {
    if links.is_empty() {
        return Ok(());
    }
    let doing = || format!("link files of lower layers into `{}`", folder.display());
    let root = open(folder).map_err(Error::io(doing()))?;
    let below = lower.iter().rev().map(|layer| open(layer));
    let below = below.collect::<io::Result<Vec<_>>>().map_err(Error::io(doing()))?;
    for (place, target) in links {
        let refused = |why| {
            let error = image::Error::LayerPath { name: place.escape_debug().to_string(), why };
            Error::Layer {
                layer: layer.to_owned(),
                code: error.code().to_owned(),
                why: error.to_string(),
            }
        };
        let absent = || refused(InvalidName::LinkAbsent);
        let link_at = |path: &[u8]| match find(&below, path)? {
            Found { parent, name, stat } if kind(&stat) == FileType::Symlink => {
                readlinkat(parent, OsStr::from_bytes(name), Vec::new()).ok().map(|t| t.into_bytes())
            }
            _ => None,
        };
        let target = through_links(target.as_bytes(), link_at).map_err(refused)?;
        let found = find(&below, &target).ok_or_else(absent)?;
        match copy(&root, place, &found) {
            Ok(true) => {}
            Ok(false) => return Err(absent()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(refused(InvalidName::ThroughLink));
            }
            Err(source) => return Err(Error::Io { what: doing(), source }),
        }
    }
    Ok(())
}

fn open(folder: &Path) -> io::Result<OwnedFd> {
    Ok(openat(rustix::fs::CWD, folder, FOLDER, Mode::empty())?)
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// What the layers show at a path.
struct Found<'p> {
    parent: OwnedFd,
    name: &'p [u8],
    stat: Stat,
}

/// What is at `path`, upper layers first, no link followed.
fn find<'p>(layers: &[OwnedFd], path: &'p [u8]) -> Option<Found<'p>> {
    layers.iter().find_map(|layer| look(layer, path).transpose())?.ok()
}

/// What one layer has at `path`: nothing, so that the layer below it decides, or an error when it
/// hides what is below.
fn look<'p>(layer: &OwnedFd, path: &'p [u8]) -> Result<Option<Found<'p>>, Hidden> {
    let mut at = openat(layer, ".", FOLDER, Mode::empty()).map_err(|_| Hidden)?;
    let mut parts = path.split(|b| *b == b'/').peekable();
    let mut opaque = false;
    while let Some(part) = parts.next() {
        let name = OsStr::from_bytes(part);
        let stat = match statat(&at, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) if !opaque => return Ok(None),
            Err(_) => return Err(Hidden),
        };
        if kind(&stat) == FileType::CharacterDevice {
            return Err(Hidden);
        }
        if parts.peek().is_none() {
            return Ok(Some(Found { parent: at, name: part, stat }));
        }
        at = openat(&at, name, FOLDER, Mode::empty()).map_err(|_| Hidden)?;
        let mut value = [0; 1];
        opaque |= fgetxattr(&at, "user.overlay.opaque", &mut value).is_ok_and(|_| value == *b"y");
    }
    Ok(None)
}

/// A whiteout, an opaque folder, or a file where a folder is looked for.
struct Hidden;

/// Makes a file or a link at `place` like the one that was found. `false` when that is neither.
fn copy(root: &OwnedFd, place: &str, found: &Found<'_>) -> io::Result<bool> {
    let (folder, name) = place.rsplit_once('/').unwrap_or((".", place));
    let folder = openat2(root, folder, FOLDER, Mode::empty(), STRICT)?;
    let from = OsStr::from_bytes(found.name);
    let owner = (Some(Uid::from_raw(found.stat.st_uid)), Some(Gid::from_raw(found.stat.st_gid)));
    match kind(&found.stat) {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut source = File::from(openat(&found.parent, from, flags, Mode::empty())?);
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = File::from(openat(&folder, name, flags, Mode::RUSR | Mode::WUSR)?);
            io::copy(&mut source, &mut file)?;
            chownat(&folder, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
            let stat = fstat(&source)?;
            fchmod(&file, Mode::from_raw_mode(stat.st_mode))?;
            let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: 0 };
            futimens(&file, &Timestamps { last_access: time, last_modification: time })?;
            Ok(true)
        }
        FileType::Symlink => {
            let target = readlinkat(&found.parent, from, Vec::new())?;
            symlinkat(target, &folder, name)?;
            chownat(&folder, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(true)
        }
        _ => Ok(false),
    }
}
