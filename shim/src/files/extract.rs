use std::{
    collections::HashSet,
    ffi::OsStr,
    fs::File,
    hash::{BuildHasher as _, RandomState},
    io::{self, Read, Seek as _, SeekFrom, Write as _},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
};

use engine::{
    COPY_BYTES_MAX, COPY_ENTRIES_MAX,
    exec::{Copied, FileKind, Owners},
};
use image::{Budget, Entry, EntryKind, LayerReader};
use rustix::{
    fs::{
        AtFlags, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid, chownat, fchmod,
        futimens, linkat, mkdirat, openat2, renameat_with, statat, symlinkat, unlinkat, utimensat,
    },
    io::Errno,
};

use super::{
    STRICT, kind_of, named,
    staged::{Staged, hidden_name},
};

/// What the files of an archive become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extraction {
    pub owners: Owners,
    pub modes: Modes,
}

/// Set-user-id and set-group-id.
const SET_ID: u32 = 0o6000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Modes {
    Kept,
    /// Files without set-user-id and set-group-id: a program of a container must not become another
    /// user's on this machine.
    Plain,
}

/// Writes every entry of `archive`, in whatever compression, below `folder`, in place of files and
/// links that are there already; a folder is never replaced, and never replaces anything. Follows
/// no link. New folders and each file appear whole, once `confirm` has agreed at the end of the
/// archive. Devices, pipes and sockets are left out.
///
/// # Errors
/// When the archive is broken, hostile or cut short, or something cannot be written; files that
/// were written into folders that were there before stay.
pub fn extract(
    archive: impl Read,
    folder: BorrowedFd<'_>,
    how: Extraction,
    confirm: impl FnOnce() -> io::Result<()>,
) -> io::Result<Copied> {
    let budget =
        Budget { bytes_max: COPY_BYTES_MAX, entries_max: COPY_ENTRIES_MAX, ..Budget::default() };
    let mut archive = LayerReader::new(archive, budget).map_err(refused)?;
    let mut extractor = Extractor {
        folder,
        how,
        staged: Staged::in_folder(folder),
        open: None,
        folders: Vec::new(),
        written: HashSet::new(),
        hasher: RandomState::new(),
        copied: Copied::default(),
    };
    while let Some(entry) = archive.next_entry().map_err(refused)? {
        if !entry.path.is_empty() {
            extractor.write(&entry, &mut archive)?;
        }
    }
    if !archive.has_end_mark() {
        let why = "the archive was cut short: it has no end mark";
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
    }
    archive.finish().map_err(refused)?;
    confirm()?;
    extractor.finish()
}

/// The error of an archive, in the words of copies.
fn refused(error: image::Error) -> io::Error {
    let mut why = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        why = format!("{why}: {inner}");
        cause = inner.source();
    }
    let why = why.replace("the layer", "the archive").replace("the whole layer", "all of it");
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn wrong(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

struct Extractor<'a> {
    folder: BorrowedFd<'a>,
    how: Extraction,
    staged: Staged<'a>,
    /// The folder of the last entry: the next one is mostly in the same.
    open: Option<(Vec<u8>, OwnedFd)>,
    /// With their owners, modes and times, which are set at the end: writing into a folder changes
    /// its time, and may need more rights than it will have.
    folders: Vec<Folder>,
    /// Hashes of the paths of files: a hard link to anything else is none of this archive's.
    written: HashSet<u64>,
    hasher: RandomState,
    copied: Copied,
}

struct Folder {
    path: Vec<u8>,
    mode: u32,
    owner: (u32, u32),
    mtime: i64,
}

impl Extractor<'_> {
    fn write<R: Read>(&mut self, entry: &Entry, archive: &mut LayerReader<R>) -> io::Result<()> {
        let failed = || named(&entry.path);
        match &entry.kind {
            EntryKind::Whiteout | EntryKind::Opaque => {
                let path = entry.shown_path();
                return Err(wrong(format!(
                    "`{path}`: names that begin with `.wh.` are those of deletions in an image"
                )));
            }
            EntryKind::Pipe | EntryKind::Device => {
                self.copied.leave_out(&entry.path);
                return Ok(());
            }
            EntryKind::Directory => return self.make_folder(entry),
            EntryKind::File
            | EntryKind::SparseFile
            | EntryKind::Symlink { .. }
            | EntryKind::Hardlink { .. } => {}
        }
        let (parent, name) = split(&entry.path);
        self.enter(parent).map_err(failed())?;
        if self.existing(name) == Some(FileKind::Folder) {
            let path = entry.shown_path();
            return Err(wrong(format!("cannot overwrite folder `{path}` with what is none")));
        }
        let hidden = hidden_name();
        let hidden = OsStr::from_bytes(&hidden);
        let made = match &entry.kind {
            EntryKind::Symlink { target } => {
                symlinkat(OsStr::from_bytes(target), self.here(), hidden)
                    .map_err(failed())
                    .and_then(|()| self.own(hidden, entry))
            }
            EntryKind::Hardlink { target } => self.link(target, hidden, entry),
            _ => self.make_file(hidden, entry, archive),
        };
        let made = made.and_then(|()| {
            renameat_with(self.here(), hidden, self.here(), name, RenameFlags::empty())
                .map_err(failed())
        });
        if made.is_err() {
            let _ = unlinkat(self.here(), hidden, AtFlags::empty());
        }
        made
    }

    fn here(&self) -> BorrowedFd<'_> {
        self.open.as_ref().map_or(self.folder, |(_, open)| open.as_fd())
    }

    fn existing(&self, name: &OsStr) -> Option<FileKind> {
        let stat = statat(self.here(), name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some(kind_of(&stat))
    }

    /// Opens the folder `path`, and makes what is missing of it: archives may leave folders out.
    fn enter(&mut self, path: &[u8]) -> rustix::io::Result<()> {
        if self.open.as_ref().is_some_and(|(open, _)| open == path) {
            return Ok(());
        }
        self.open = None;
        if path.is_empty() {
            return Ok(());
        }
        let open = match self.look_up(path) {
            Err(Errno::NOENT) => {
                let (parent, name) = split(path);
                self.enter(parent)?;
                match parent {
                    b"" => self.staged.make(path)?,
                    _ => mkdirat(self.here(), name, Mode::RWXU)?,
                }
                // As if the archive had it.
                self.folders.push(Folder {
                    path: path.to_vec(),
                    mode: 0o755,
                    owner: (0, 0),
                    mtime: now(),
                });
                self.look_up(path)?
            }
            open => open?,
        };
        self.open = Some((path.to_vec(), open));
        Ok(())
    }

    fn look_up(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = self.staged.place(path);
        openat2(self.folder, OsStr::from_bytes(&place), flags, Mode::empty(), STRICT)
    }

    fn make_folder(&mut self, entry: &Entry) -> io::Result<()> {
        let failed = || named(&entry.path);
        let (parent, name) = split(&entry.path);
        self.enter(parent).map_err(failed())?;
        let is_staged = parent.is_empty() && self.staged.has(&entry.path);
        match self.existing(name) {
            _ if is_staged => {}
            Some(FileKind::Folder) => {}
            Some(_) => {
                let path = entry.shown_path();
                return Err(wrong(format!(
                    "cannot overwrite `{path}`, which is no folder, with a folder"
                )));
            }
            None if parent.is_empty() => self.staged.make(&entry.path).map_err(failed())?,
            None => mkdirat(self.here(), name, Mode::RWXU).map_err(failed())?,
        }
        self.folders.push(Folder {
            path: entry.path.clone(),
            mode: entry.mode,
            owner: (entry.uid, entry.gid),
            mtime: entry.mtime,
        });
        Ok(())
    }

    fn make_file<R: Read>(
        &mut self,
        name: &OsStr,
        entry: &Entry,
        archive: &mut LayerReader<R>,
    ) -> io::Result<()> {
        let failed = || named(&entry.path);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = openat2(self.here(), name, flags, mode, STRICT).map_err(failed())?;
        let mut file = File::from(file);
        fill(&mut archive.content(), &mut file, entry)?;
        self.own(name, entry)?;
        if self.how.modes == Modes::Plain && entry.mode & SET_ID != 0 {
            self.copied.make_plain(&entry.path);
        }
        fchmod(&file, self.mode(entry.mode)).map_err(failed())?;
        let _ = futimens(&file, &times(entry.mtime));
        self.written.insert(self.hasher.hash_one(&entry.path));
        Ok(())
    }

    fn link(&self, target: &[u8], name: &OsStr, entry: &Entry) -> io::Result<()> {
        if !self.written.contains(&self.hasher.hash_one(target)) {
            let (path, target) = (entry.shown_path(), String::from_utf8_lossy(target));
            let why = format!(
                "`{path}` is a hard link to `{target}`, which is not in the archive before it"
            );
            return Err(wrong(why));
        }
        let (parent, existing) = split(target);
        let opened;
        let from = match parent {
            b"" => self.folder,
            parent => {
                opened = self.look_up(parent).map_err(named(&entry.path))?;
                opened.as_fd()
            }
        };
        linkat(from, existing, self.here(), name, AtFlags::empty()).map_err(named(&entry.path))
    }

    fn own(&self, name: &OsStr, entry: &Entry) -> io::Result<()> {
        self.own_as(self.here(), name, (entry.uid, entry.gid)).map_err(|error| {
            let (uid, gid) = (entry.uid, entry.gid);
            let named = named(&entry.path)(error);
            io::Error::new(
                named.kind(),
                format!("cannot give it to user {uid}, group {gid}: {named}"),
            )
        })
    }

    fn own_as(
        &self,
        at: BorrowedFd<'_>,
        name: &OsStr,
        (uid, gid): (u32, u32),
    ) -> rustix::io::Result<()> {
        match self.how.owners {
            Owners::Own => Ok(()),
            Owners::Kept => {
                let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                chownat(at, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            }
        }
    }

    fn mode(&self, mode: u32) -> Mode {
        Mode::from_raw_mode(match self.how.modes {
            Modes::Kept => mode & 0o7777,
            Modes::Plain => mode & 0o7777 & !SET_ID,
        })
    }

    fn finish(mut self) -> io::Result<Copied> {
        self.open = None;
        // The innermost first: the mode of a folder may close it.
        for folder in std::mem::take(&mut self.folders).iter().rev() {
            let open = self.look_up(&folder.path).map_err(named(&folder.path))?;
            let here = OsStr::new(".");
            self.own_as(open.as_fd(), here, folder.owner).map_err(named(&folder.path))?;
            fchmod(&open, self.mode(folder.mode)).map_err(named(&folder.path))?;
            // A file system that keeps no times is no reason to fail.
            let _ = utimensat(&open, here, &times(folder.mtime), AtFlags::empty());
        }
        self.staged.keep()?;
        Ok(self.copied)
    }
}

/// Writes the content of a file, and leaves holes for pages of zeros: a sparse file stays one.
fn fill(content: &mut impl Read, file: &mut File, entry: &Entry) -> io::Result<()> {
    const PAGE_BYTES: usize = 4096;
    let failed = |error: io::Error| match error.raw_os_error() {
        Some(number) => named(&entry.path)(Errno::from_raw_os_error(number)),
        None => match error.downcast::<image::Error>() {
            Ok(error) => refused(error),
            Err(error) => error,
        },
    };
    let mut buffer = vec![0; 16 * PAGE_BYTES];
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match content.read(&mut buffer[filled..]).map_err(failed)? {
                0 => break,
                n => filled += n,
            }
        }
        if filled == 0 {
            return file.set_len(entry.size).map_err(failed);
        }
        for page in buffer[..filled].chunks(PAGE_BYTES) {
            match page.iter().all(|byte| *byte == 0) {
                true => drop(file.seek(SeekFrom::Current(page.len() as i64)).map_err(failed)?),
                false => file.write_all(page).map_err(failed)?,
            }
        }
    }
}

fn split(path: &[u8]) -> (&[u8], &OsStr) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], OsStr::from_bytes(&path[at + 1..])),
        None => (b"", OsStr::from_bytes(path)),
    }
}

fn times(seconds: i64) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

fn now() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0))
}
