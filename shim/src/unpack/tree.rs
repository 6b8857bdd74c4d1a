use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::File,
    io::{self, Read, Seek as _, SeekFrom, Write as _},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
};

use image::{Entry, EntryKind, InvalidName, LayerReader, through_links};
use rustix::{
    fs::{
        AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid,
        XattrFlags, chownat, fchmod, fchown, fsetxattr, futimens, linkat, makedev, mkdirat,
        mknodat, openat, openat2, readlinkat, statat, symlinkat, unlinkat, utimensat,
    },
    io::Errno,
};

use crate::limits::{ID_COUNT, LOWER_LINKS_MAX, OVERFLOW_ID};

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
        image::Error::LayerPath { name: entry.shown_path(), why }.into()
    }

    fn io(entry: &Entry, error: impl Into<io::Error>) -> Self {
        let error = error.into();
        let code = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "E_DISK_FULL",
            _ => "E_IO",
        };
        Self { code, why: format!("cannot write `{}`: {error}", entry.shown_path()) }
    }
}

/// Writes every entry of `layer` below `root`, an empty folder, in the form that overlayfs takes as
/// a lower layer: whiteouts as devices 0:0, opaque folders by their `user.overlay.opaque`. Never
/// leaves `root`, and follows only links of the layer itself, as in a chroot. Device nodes are left
/// out, and extended attributes are dropped; a set-user-id bit means a user of the container.
pub(crate) fn unpack<R: Read>(
    mut layer: LayerReader<R>,
    root: &OwnedFd,
) -> Result<Unpacked, UnpackError> {
    let mut unpacker =
        Unpacker { root, open: None, waiting: HashMap::new(), times: HashMap::new() };
    while let Some(entry) = layer.next_entry()? {
        unpacker.write(&entry, &mut layer)?;
    }
    let summary = layer.finish()?;
    let lower_links = unpacker.link_waiting()?;
    unpacker.set_times()?;
    Ok(Unpacked { summary, lower_links })
}

/// A layer in its folder.
pub(crate) struct Unpacked {
    pub summary: image::LayerSummary,
    /// Hard links to files that lower layers must have: what is to be made, and from what.
    pub lower_links: Vec<(String, String)>,
}

struct Unpacker<'a> {
    root: &'a OwnedFd,
    /// The folder of the last entry: the next one is mostly in the same.
    open: Option<(Vec<u8>, OwnedFd)>,
    /// Hard links whose file has not come yet, in their order, and what they link to.
    waiting: HashMap<Vec<u8>, (usize, Vec<u8>)>,
    /// When folders were changed: set at the end, because writing into them sets it too.
    times: HashMap<Vec<u8>, i64>,
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
                _ => {
                    self.times.insert(Vec::new(), entry.mtime);
                    self.open = None;
                    self.finish_folder(entry, OsStr::new("."))
                }
            };
        }
        if entry.kind == EntryKind::Opaque {
            return self.opaque(entry);
        }
        let (folder, name) = split(&entry.path);
        let folder = self.enter(entry, folder)?;
        let place = joined(&folder, name);
        self.waiting.remove(&place);
        match &entry.kind {
            EntryKind::Directory => {
                self.times.insert(place, entry.mtime);
                self.directory(entry, name)
            }
            EntryKind::File | EntryKind::SparseFile => self.file(entry, name, layer),
            EntryKind::Symlink { target } => {
                self.remove_existing(entry, name)?;
                symlinkat(OsStr::from_bytes(target), self.here(), name)
                    .map_err(|e| UnpackError::io(entry, e))?;
                self.own(entry, name)?;
                utimensat(self.here(), name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|e| UnpackError::io(entry, e))
            }
            EntryKind::Hardlink { target } => self.hardlink(entry, place, target),
            EntryKind::Pipe => {
                self.remove_existing(entry, name)?;
                mknodat(self.here(), name, FileType::Fifo, mode_of(entry), 0)
                    .map_err(|e| UnpackError::io(entry, e))?;
                self.own(entry, name)
            }
            // It hides what lower layers have, and gives access to nothing.
            EntryKind::Device => {
                self.remove_existing(entry, name)?;
                self.whiteout(entry, name)
            }
            EntryKind::Whiteout => self.whiteout(entry, name),
            EntryKind::Opaque => Ok(()),
        }
    }

    fn here(&self) -> &OwnedFd {
        self.open.as_ref().map_or(self.root, |(_, fd)| fd)
    }

    /// Opens `folder`, makes what is missing of it (tars may leave folders out), and says where it
    /// is: links of this layer lead elsewhere.
    fn enter(&mut self, entry: &Entry, folder: &[u8]) -> Result<Vec<u8>, UnpackError> {
        if self.open.as_ref().is_some_and(|(name, _)| name == folder) {
            return Ok(folder.to_vec());
        }
        self.open = None;
        if folder.is_empty() {
            return Ok(Vec::new());
        }
        let path = OsStr::from_bytes(folder);
        let (folder, fd) = match openat2(self.root, path, FOLDER, Mode::empty(), STRICT) {
            Ok(fd) => (folder.to_vec(), fd),
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => {
                let folder = self.resolved(folder).map_err(|why| UnpackError::path(entry, why))?;
                let fd = self.make_folders(entry, &folder)?;
                (folder, fd)
            }
            Err(error) => return Err(through(entry, error)),
        };
        self.open = Some((folder.clone(), fd));
        Ok(folder)
    }

    /// Where the folder `path` is, links followed, whether it is there or not.
    fn resolved(&self, path: &[u8]) -> Result<Vec<u8>, InvalidName> {
        let inside = through_links(&[path, b"/x"].concat(), |path| {
            let (folder, name) = split(path);
            let folder = match folder {
                b"" => None,
                folder => {
                    let path = OsStr::from_bytes(folder);
                    Some(openat2(self.root, path, FOLDER, Mode::empty(), STRICT).ok()?)
                }
            };
            let target = readlinkat(folder.as_ref().unwrap_or(self.root), name, Vec::new());
            Some(target.ok()?.into_bytes())
        })?;
        Ok(split(&inside).0.to_vec())
    }

    fn make_folders(&self, entry: &Entry, folder: &[u8]) -> Result<OwnedFd, UnpackError> {
        let root =
            openat(self.root, ".", FOLDER, Mode::empty()).map_err(|e| UnpackError::io(entry, e))?;
        let mut at = root;
        for part in folder.split(|b| *b == b'/').filter(|part| !part.is_empty()) {
            let part = OsStr::from_bytes(part);
            let mode = Mode::from_raw_mode(0o755);
            let hides_lower = match mkdirat(&at, part, mode) {
                Ok(()) => false,
                // A whiteout of this layer, and then something in a folder of that name.
                Err(Errno::EXIST) if is(&at, part, FileType::CharacterDevice) => {
                    unlinkat(&at, part, AtFlags::empty())
                        .and_then(|()| mkdirat(&at, part, mode))
                        .map_err(|e| UnpackError::io(entry, e))?;
                    true
                }
                Err(Errno::EXIST) => false,
                Err(error) => return Err(UnpackError::io(entry, error)),
            };
            let parent = at;
            at = openat2(&parent, part, FOLDER, Mode::empty(), STRICT)
                .map_err(|e| through(entry, e))?;
            if hides_lower {
                set_opaque(entry, &parent, part)?;
            }
        }
        Ok(at)
    }

    fn directory(&mut self, entry: &Entry, name: &OsStr) -> Result<(), UnpackError> {
        match mkdirat(self.here(), name, Mode::from_raw_mode(0o755)) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                if !is(self.here(), name, FileType::Directory) {
                    let hides_lower = is(self.here(), name, FileType::CharacterDevice);
                    self.remove_existing(entry, name)?;
                    mkdirat(self.here(), name, Mode::from_raw_mode(0o755))
                        .map_err(|e| UnpackError::io(entry, e))?;
                    if hides_lower {
                        set_opaque(entry, self.here(), name)?;
                    }
                }
            }
            Err(error) => return Err(UnpackError::io(entry, error)),
        }
        self.finish_folder(entry, name)
    }

    fn finish_folder(&self, entry: &Entry, name: &OsStr) -> Result<(), UnpackError> {
        self.own(entry, name)?;
        let folder = open_folder(entry, self.here(), name)?;
        fchmod(folder, Mode::from_raw_mode(entry.mode & 0o7777))
            .map_err(|e| UnpackError::io(entry, e))
    }

    fn file<R: Read>(
        &mut self,
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
        let copied = match entry.kind {
            EntryKind::SparseFile => copy_sparse(&mut layer.content(), &mut file, entry.size),
            _ => io::copy(&mut layer.content(), &mut file).map(|_| ()),
        };
        copied.map_err(|error| match error.downcast::<image::Error>() {
            Ok(error) => error.into(),
            Err(error) => UnpackError::io(entry, error),
        })?;
        let (uid, gid) = owner(entry);
        fchown(&file, Some(uid), Some(gid))
            .and_then(|()| fchmod(&file, Mode::from_raw_mode(entry.mode & 0o7777)))
            .and_then(|()| futimens(&file, &times(entry)))
            .map_err(|e| UnpackError::io(entry, e))
    }

    fn hardlink(
        &mut self,
        entry: &Entry,
        place: Vec<u8>,
        target: &[u8],
    ) -> Result<(), UnpackError> {
        let (folder, name) = split(target);
        let folder = self.resolved(folder).map_err(|why| UnpackError::path(entry, why))?;
        let target = joined(&folder, name);
        if self.is_linkable(&target) {
            return match place == target {
                true => Ok(()),
                false => {
                    let (_, name) = split(&place);
                    self.remove_existing(entry, name)?;
                    self.link(&target, &place).map_err(|e| UnpackError::io(entry, e))
                }
            };
        }
        let (_, name) = split(&place);
        self.remove_existing(entry, name)?;
        let number = self.waiting.len();
        self.waiting.insert(place, (number, target));
        Ok(())
    }

    /// Whether there is something at `path` that can have a second name. No link is followed.
    fn is_linkable(&self, path: &[u8]) -> bool {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = openat2(self.root, OsStr::from_bytes(path), flags, Mode::empty(), STRICT);
        found.and_then(rustix::fs::fstat).is_ok_and(|stat| {
            let kind = FileType::from_raw_mode(stat.st_mode);
            matches!(kind, FileType::RegularFile | FileType::Symlink | FileType::Fifo)
        })
    }

    fn link(&self, target: &[u8], place: &[u8]) -> rustix::io::Result<()> {
        let open = |folder: &[u8]| match folder {
            b"" => openat(self.root, ".", FOLDER, Mode::empty()),
            folder => openat2(self.root, OsStr::from_bytes(folder), FOLDER, Mode::empty(), STRICT),
        };
        let ((from, target), (to, name)) = (split(target), split(place));
        linkat(open(from)?, target, open(to)?, name, AtFlags::empty())
    }

    /// Links what came behind its links. What did not come must be in a lower layer.
    fn link_waiting(&mut self) -> Result<Vec<(String, String)>, UnpackError> {
        let mut waiting: Vec<_> = std::mem::take(&mut self.waiting).into_iter().collect();
        waiting.sort_by_key(|(_, (number, _))| *number);
        let mut lower = Vec::new();
        // A link to a link that waits too is one to the same file.
        let mut lower_targets: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
        for (place, (_, target)) in waiting {
            let wrong = |why| image::Error::LayerPath {
                name: String::from_utf8_lossy(&place).escape_debug().to_string(),
                why,
            };
            if self.is_linkable(&target) {
                self.link(&target, &place).map_err(|_| wrong(InvalidName::ThroughLink))?;
                continue;
            }
            let target = lower_targets.get(&target).cloned().unwrap_or(target);
            lower_targets.insert(place.clone(), target.clone());
            match (String::from_utf8(place.clone()), String::from_utf8(target)) {
                (Ok(place), Ok(target)) => lower.push((place, target)),
                _ => return Err(wrong(InvalidName::LinkAbsent).into()),
            }
            if lower.len() > LOWER_LINKS_MAX {
                let why = format!("it has more than {LOWER_LINKS_MAX} hard links to other layers");
                return Err(image::Error::Budget { why }.into());
            }
        }
        Ok(lower)
    }

    fn set_times(&self) -> Result<(), UnpackError> {
        for (path, time) in &self.times {
            let path = if path.is_empty() { b".".as_slice() } else { path };
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let folder = openat2(self.root, OsStr::from_bytes(path), flags, Mode::empty(), STRICT);
            // Another entry may have taken its place.
            let Ok(folder) = folder else { continue };
            // A time that the file system cannot keep is no reason to refuse a layer.
            let _ = futimens(folder, &timestamps(*time));
        }
        Ok(())
    }

    fn whiteout(&self, entry: &Entry, name: &OsStr) -> Result<(), UnpackError> {
        if is(self.here(), name, FileType::Directory) {
            // The layer also brings a folder of this name: it hides the lower one by being opaque.
            return set_opaque(entry, self.here(), name);
        }
        match mknodat(self.here(), name, FileType::CharacterDevice, Mode::empty(), makedev(0, 0)) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(UnpackError::io(entry, error)),
        }
    }

    fn opaque(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        match self.enter(entry, &entry.path)?.is_empty() {
            // A link of this layer leads to its root, which hides nothing.
            true => Ok(()),
            false => set_opaque(entry, self.here(), OsStr::new(".")),
        }
    }

    /// A later entry of the same name wins, also over a folder with all that is in it.
    fn remove_existing(&mut self, entry: &Entry, name: &OsStr) -> Result<(), UnpackError> {
        match unlinkat(self.here(), name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {
                let folder = self.open.as_ref().map_or(&b""[..], |(folder, _)| folder);
                self.remove_folder(joined(folder, name)).map_err(|e| UnpackError::io(entry, e))
            }
            Err(error) => Err(UnpackError::io(entry, error)),
        }
    }

    /// Folders are opened by their whole path, one at a time: a process has few descriptors.
    fn remove_folder(&self, path: Vec<u8>) -> rustix::io::Result<()> {
        let mut folders = vec![path];
        while let Some(path) = folders.last() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let open = || openat2(self.root, OsStr::from_bytes(path), flags, Mode::empty(), STRICT);
            let (folder, mut inner) = (open()?, None);
            for found in Dir::new(open()?)? {
                let found = found?;
                let name = found.file_name();
                match name.to_bytes() {
                    b"." | b".." => continue,
                    _ => {}
                }
                match unlinkat(&folder, name, AtFlags::empty()) {
                    Ok(()) => {}
                    Err(Errno::ISDIR | Errno::PERM) => {
                        inner = Some(joined(path, OsStr::from_bytes(name.to_bytes())));
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
            match inner {
                Some(inner) => folders.push(inner),
                None => {
                    let (parent, name) = split(path);
                    let parent = match parent {
                        b"" => openat(self.root, ".", FOLDER, Mode::empty())?,
                        parent => {
                            let path = OsStr::from_bytes(parent);
                            openat2(self.root, path, FOLDER, Mode::empty(), STRICT)?
                        }
                    };
                    unlinkat(parent, name, AtFlags::REMOVEDIR)?;
                    folders.pop();
                }
            }
        }
        Ok(())
    }

    fn own(&self, entry: &Entry, name: &OsStr) -> Result<(), UnpackError> {
        let (uid, gid) = owner(entry);
        chownat(self.here(), name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| UnpackError::io(entry, e))
    }
}

/// Writes what is not zeros, and leaves holes for the rest.
fn copy_sparse(content: &mut impl Read, file: &mut File, size: u64) -> io::Result<()> {
    const PAGE_BYTES: usize = 4096;
    let mut buffer = vec![0; 16 * PAGE_BYTES];
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match content.read(&mut buffer[filled..])? {
                0 => break,
                n => filled += n,
            }
        }
        if filled == 0 {
            return file.set_len(size);
        }
        for page in buffer[..filled].chunks(PAGE_BYTES) {
            match page.iter().all(|byte| *byte == 0) {
                true => drop(file.seek(SeekFrom::Current(page.len() as i64))?),
                false => file.write_all(page)?,
            }
        }
    }
}

fn open_folder(entry: &Entry, at: &OwnedFd, name: &OsStr) -> Result<OwnedFd, UnpackError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, name, flags, Mode::empty()).map_err(|e| UnpackError::io(entry, e))
}

fn set_opaque(entry: &Entry, at: &OwnedFd, name: &OsStr) -> Result<(), UnpackError> {
    let folder = open_folder(entry, at, name)?;
    fsetxattr(folder, "user.overlay.opaque", b"y", XattrFlags::empty())
        .map_err(|e| UnpackError::io(entry, e))
}

fn is(at: &OwnedFd, name: &OsStr, kind: FileType) -> bool {
    statat(at, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == kind)
}

fn split(path: &[u8]) -> (&[u8], &OsStr) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], OsStr::from_bytes(&path[at + 1..])),
        None => (b"", OsStr::from_bytes(path)),
    }
}

fn joined(folder: &[u8], name: &OsStr) -> Vec<u8> {
    match folder {
        b"" => name.as_bytes().to_vec(),
        folder => [folder, b"/", name.as_bytes()].concat(),
    }
}

fn through(entry: &Entry, error: Errno) -> UnpackError {
    match error {
        Errno::LOOP | Errno::NOTDIR | Errno::XDEV => {
            UnpackError::path(entry, InvalidName::ThroughLink)
        }
        other => UnpackError::io(entry, other),
    }
}

fn mode_of(entry: &Entry) -> Mode {
    Mode::from_raw_mode(entry.mode & 0o777)
}

fn times(entry: &Entry) -> Timestamps {
    timestamps(entry.mtime)
}

fn timestamps(seconds: i64) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

/// Ids outside the user namespace become the one that Linux shows for them.
fn owner(entry: &Entry) -> (Uid, Gid) {
    let mapped = |id| if id < ID_COUNT { id } else { OVERFLOW_ID };
    (Uid::from_raw(mapped(entry.uid)), Gid::from_raw(mapped(entry.gid)))
}
