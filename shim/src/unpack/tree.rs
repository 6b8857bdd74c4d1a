use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
};

use image::{Entry, EntryKind, InvalidName, LayerReader};
use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
        chownat, fchmod, fchown, fsetxattr, futimens, linkat, makedev, mkdirat, mknodat, openat,
        openat2, statat, symlinkat, unlinkat,
    },
    io::Errno,
};

use crate::limits::ID_COUNT;

/// Why a layer could not be unpacked: a code such as `E_LAYER_PATH`, and a sentence.
#[derive(Debug)]
pub(crate) struct UnpackError {
    pub code: &'static str,
    pub why: String,
}

impl From<image::Error> for UnpackError {
    fn from(error: image::Error) -> Self {
        let mut why = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(inner) = cause {
            why = format!("{why}: {inner}");
            cause = inner.source();
        }
        Self { code: error.code(), why }
    }
}

impl UnpackError {
    fn path(entry: &Entry, why: InvalidName) -> Self {
        image::Error::LayerPath { name: entry.path.escape_debug().to_string(), why }.into()
    }

    fn io(entry: &Entry, error: impl Into<io::Error>) -> Self {
        let error = error.into();
        let code = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "E_DISK_FULL",
            _ => "E_IO",
        };
        Self { code, why: format!("cannot write `{}`: {error}", entry.path.escape_debug()) }
    }
}

/// Writes every entry of `layer` below `root`, an empty folder, in the form that overlayfs takes as
/// a lower layer: whiteouts as devices 0:0, opaque folders by their `user.overlay.opaque`. Never
/// follows a link on the way, and never leaves `root`. Extended attributes are dropped; a set-user-id bit means a
/// user of the container.
pub(crate) fn unpack<R: Read>(
    mut layer: LayerReader<R>,
    root: &OwnedFd,
) -> Result<image::LayerSummary, UnpackError> {
    let mut unpacker = Unpacker { root, open: None };
    while let Some(entry) = layer.next_entry()? {
        unpacker.write(&entry, &mut layer)?;
    }
    Ok(layer.finish()?)
}

struct Unpacker<'a> {
    root: &'a OwnedFd,
    /// The folder of the last entry: the next one is mostly in the same.
    open: Option<(String, OwnedFd)>,
}

const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const STRICT: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

impl Unpacker<'_> {
    fn write<R: Read>(
        &mut self,
        entry: &Entry,
        layer: &mut LayerReader<R>,
    ) -> Result<(), UnpackError> {
        if entry.path.is_empty() {
            return match entry.kind {
                // The root folder of a layer hides nothing: the image brings everything below it.
                EntryKind::Opaque => Ok(()),
                _ => self.finish_folder(entry, OsStr::new(".")),
            };
        }
        if entry.kind == EntryKind::Opaque {
            return self.opaque(entry);
        }
        let (folder, name) = split(&entry.path);
        self.enter(entry, folder)?;
        match &entry.kind {
            EntryKind::Directory => self.directory(entry, name),
            EntryKind::File => self.file(entry, name, layer),
            EntryKind::Symlink { target } => {
                self.remove_existing(entry, name)?;
                symlinkat(target.as_str(), self.here(), name)
                    .map_err(|e| UnpackError::io(entry, e))?;
                self.own(entry, name)
            }
            EntryKind::Hardlink { target } => self.hardlink(entry, name, target),
            EntryKind::Whiteout => self.whiteout(entry, name),
            EntryKind::Opaque => Ok(()),
        }
    }

    fn here(&self) -> &OwnedFd {
        self.open.as_ref().map_or(self.root, |(_, fd)| fd)
    }

    /// Opens `folder`, and makes what is missing of it: tars may leave folders out.
    fn enter(&mut self, entry: &Entry, folder: &str) -> Result<(), UnpackError> {
        if self.open.as_ref().is_some_and(|(name, _)| name == folder) {
            return Ok(());
        }
        self.open = None;
        if folder.is_empty() {
            return Ok(());
        }
        let fd = match openat2(self.root, folder, FOLDER, Mode::empty(), STRICT) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => self.make_folders(entry, folder)?,
            Err(error) => return Err(through(entry, error)),
        };
        self.open = Some((folder.to_owned(), fd));
        Ok(())
    }

    fn make_folders(&self, entry: &Entry, folder: &str) -> Result<OwnedFd, UnpackError> {
        let mut at: Option<OwnedFd> = None;
        for part in folder.split('/') {
            let parent = at.as_ref().unwrap_or(self.root);
            match mkdirat(parent, part, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(UnpackError::io(entry, error)),
            }
            at = Some(
                openat2(parent, part, FOLDER, Mode::empty(), STRICT)
                    .map_err(|e| through(entry, e))?,
            );
        }
        at.ok_or_else(|| UnpackError::path(entry, InvalidName::Empty))
    }

    fn directory(&self, entry: &Entry, name: &OsStr) -> Result<(), UnpackError> {
        match mkdirat(self.here(), name, Mode::from_raw_mode(0o755)) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                if !self.is(name, FileType::Directory) {
                    let hides_lower = self.is(name, FileType::CharacterDevice);
                    self.remove_existing(entry, name)?;
                    mkdirat(self.here(), name, Mode::from_raw_mode(0o755))
                        .map_err(|e| UnpackError::io(entry, e))?;
                    if hides_lower {
                        self.set_opaque(entry, name)?;
                    }
                }
            }
            Err(error) => return Err(UnpackError::io(entry, error)),
        }
        self.finish_folder(entry, name)
    }

    fn finish_folder(&self, entry: &Entry, name: &OsStr) -> Result<(), UnpackError> {
        self.own(entry, name)?;
        let folder = self.open_folder(entry, name)?;
        fchmod(folder, Mode::from_raw_mode(entry.mode & 0o7777))
            .map_err(|e| UnpackError::io(entry, e))
    }

    fn open_folder(&self, entry: &Entry, name: &OsStr) -> Result<OwnedFd, UnpackError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(self.here(), name, flags, Mode::empty()).map_err(|e| UnpackError::io(entry, e))
    }

    fn file<R: Read>(
        &self,
        entry: &Entry,
        name: &OsStr,
        layer: &mut LayerReader<R>,
    ) -> Result<(), UnpackError> {
        self.remove_existing(entry, name)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(self.here(), name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| UnpackError::io(entry, e))?;
        let mut file = File::from(fd);
        io::copy(&mut layer.content(), &mut file).map_err(|error| {
            match error.downcast::<image::Error>() {
                Ok(error) => error.into(),
                Err(error) => UnpackError::io(entry, error),
            }
        })?;
        let (uid, gid) = owner(entry)?;
        let time = Timespec { tv_sec: entry.mtime, tv_nsec: 0 };
        fchown(&file, Some(uid), Some(gid))
            .and_then(|()| fchmod(&file, Mode::from_raw_mode(entry.mode & 0o7777)))
            .and_then(|()| {
                futimens(&file, &Timestamps { last_access: time, last_modification: time })
            })
            .map_err(|e| UnpackError::io(entry, e))
    }

    fn hardlink(&self, entry: &Entry, name: &OsStr, target: &str) -> Result<(), UnpackError> {
        let absent = |_| UnpackError::path(entry, InvalidName::LinkAbsent);
        // Opened strictly, so that a link in its path leads nowhere; linked by what was opened, so
        // that nothing changes in between.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat2(self.root, target, flags, Mode::empty(), STRICT).map_err(absent)?;
        let stat = rustix::fs::fstat(&file).map_err(absent)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(UnpackError::path(entry, InvalidName::LinkAbsent));
        }
        let (folder, target_name) = split(target);
        let folder = match folder {
            "" => None,
            folder => {
                Some(openat2(self.root, folder, FOLDER, Mode::empty(), STRICT).map_err(absent)?)
            }
        };
        if entry.path == target {
            return Ok(());
        }
        self.remove_existing(entry, name)?;
        let from = folder.as_ref().unwrap_or(self.root);
        linkat(from, target_name, self.here(), name, AtFlags::empty())
            .map_err(|e| UnpackError::io(entry, e))
    }

    fn whiteout(&self, entry: &Entry, name: &OsStr) -> Result<(), UnpackError> {
        if self.is(name, FileType::Directory) {
            // The layer also brings a folder of this name: it hides the lower one by being opaque.
            return self.set_opaque(entry, name);
        }
        match mknodat(self.here(), name, FileType::CharacterDevice, Mode::empty(), makedev(0, 0)) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(UnpackError::io(entry, error)),
        }
    }

    fn opaque(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        self.enter(entry, &entry.path)?;
        self.set_opaque(entry, OsStr::new("."))
    }

    fn set_opaque(&self, entry: &Entry, name: &OsStr) -> Result<(), UnpackError> {
        let folder = self.open_folder(entry, name)?;
        fsetxattr(folder, "user.overlay.opaque", b"y", XattrFlags::empty())
            .map_err(|e| UnpackError::io(entry, e))
    }

    /// A later entry of the same name wins, except over a folder.
    fn remove_existing(&self, entry: &Entry, name: &OsStr) -> Result<(), UnpackError> {
        match unlinkat(self.here(), name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {
                Err(UnpackError::path(entry, InvalidName::ThroughLink))
            }
            Err(error) => Err(UnpackError::io(entry, error)),
        }
    }

    fn own(&self, entry: &Entry, name: &OsStr) -> Result<(), UnpackError> {
        let (uid, gid) = owner(entry)?;
        chownat(self.here(), name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| UnpackError::io(entry, e))
    }

    fn is(&self, name: &OsStr, kind: FileType) -> bool {
        statat(self.here(), name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == kind)
    }
}

fn split(path: &str) -> (&str, &OsStr) {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    (folder, OsStr::from_bytes(name.as_bytes()))
}

fn through(entry: &Entry, error: Errno) -> UnpackError {
    match error {
        Errno::LOOP | Errno::NOTDIR | Errno::XDEV => {
            UnpackError::path(entry, InvalidName::ThroughLink)
        }
        other => UnpackError::io(entry, other),
    }
}

/// Ids outside the user namespace cannot be mapped.
fn owner(entry: &Entry) -> Result<(Uid, Gid), UnpackError> {
    match (u32::try_from(entry.uid), u32::try_from(entry.gid)) {
        (Ok(uid), Ok(gid)) if uid < ID_COUNT && gid < ID_COUNT => {
            Ok((Uid::from_raw(uid), Gid::from_raw(gid)))
        }
        _ => Err(UnpackError {
            code: "E_LAYER_OWNER",
            why: format!(
                "`{}` belongs to {}:{}, and users of a container are below {ID_COUNT}",
                entry.path.escape_debug(),
                entry.uid,
                entry.gid
            ),
        }),
    }
}
