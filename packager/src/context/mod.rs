mod ignore; // lists of patterns, of which the last decides
pub(crate) mod pattern; // `*.html`
mod unpack; // a context that comes as an archive

use std::{
    cell::RefCell,
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use crate::{
    diagnostic::ContextProblem,
    error::{Error, io_error},
    items::{ContextFile, Item, MODE_EXECUTABLE, Meta, Owner, Source, Stat, masked},
    limits::{CONTEXT_DEPTH_MAX, CONTEXT_ENTRIES_MAX, IGNORE_BYTES_MAX, LINKS_MAX},
    path::{joined, parts},
};

pub(crate) use ignore::{Matched, Patterns};
pub use unpack::unpack_context;

/// The folder that a build may read, and nothing outside of it: every path is opened below one
/// descriptor with `openat2`, so that the kernel refuses whatever leads out, also through a link
/// that appears in between.
pub(crate) struct Context {
    root: OwnedFd,
    path: PathBuf,
    ignore: Patterns,
    modes: Modes,
    /// What was left out of folders since [`Context::take_left_out`]: no image can hold it.
    left_out: RefCell<Vec<(String, &'static str)>>,
}

/// The permissions that files and folders get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Modes {
    /// Their own, as with Docker.
    Kept,
    /// One of two, whatever the umask of the user was.
    Masked,
}

/// What is left out of every build of a folder.
pub(crate) const IGNORE: &str = ".dockerignore";

/// What is at a path, links followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PathKind {
    Folder,
    File,
}

impl Context {
    /// Opens `path`, of which one file is meant: nothing is left out.
    pub(crate) fn open_unfiltered(path: &Path) -> Result<Self, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from);
        let root = root.map_err(io_error("open", path))?;
        Ok(Self {
            root,
            path: path.to_owned(),
            ignore: Patterns::default(),
            modes: Modes::Masked,
            left_out: RefCell::default(),
        })
    }

    /// Opens `path` for the build file `file`: what the file with its name and `.dockerignore`
    /// behind it leaves out, or `.dockerignore`, does not exist in it.
    pub(crate) fn for_build_file(path: &Path, file: &Path, modes: Modes) -> Result<Self, Error> {
        let mut own = file.as_os_str().to_owned();
        own.push(IGNORE);
        Self::open(path, &[Path::new(&own), &path.join(IGNORE)], modes)
    }

    /// Opens `path`. What the first of the files `ignore` that exists names does not exist in it.
    pub(crate) fn open(path: &Path, ignore: &[&Path], modes: Modes) -> Result<Self, Error> {
        let mut context = Self::open_unfiltered(path)?;
        context.modes = modes;
        for file in ignore {
            let text = match disk::read(file, IGNORE_BYTES_MAX) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                text => text.map_err(io_error("read", *file))?,
            };
            let parsed = Patterns::parse(&String::from_utf8_lossy(&text));
            context.ignore = parsed.map_err(|pattern| {
                wrong(&file.display().to_string(), ContextProblem::IgnorePattern(pattern))
            })?;
            break;
        }
        Ok(context)
    }

    /// What was left out of folders, each once.
    pub(crate) fn take_left_out(&self) -> Vec<(String, &'static str)> {
        self.left_out.take()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What is at `path`, unless it is ignored.
    pub(crate) fn find(&self, path: &str) -> Result<Option<PathKind>, Error> {
        match self.resolve(path)? {
            Some(path) => self.find_resolved(&path),
            None => Ok(None),
        }
    }

    fn find_resolved(&self, path: &str) -> Result<Option<PathKind>, Error> {
        let ignored = self.is_ignored(path);
        if ignored && !self.ignore.has_exceptions() {
            return Ok(None);
        }
        match self.open_at(path, OFlags::PATH) {
            Ok(fd) => {
                let stat = rustix::fs::fstat(&fd).map_err(|errno| self.failed(path, errno))?;
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => Ok(Some(PathKind::Folder)),
                    _ if ignored => Ok(None),
                    FileType::RegularFile | FileType::Socket => Ok(Some(PathKind::File)),
                    other => Err(wrong(path, ContextProblem::Special(kind_name(other)))),
                }
            }
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(self.failed(path, errno)),
        }
    }

    pub(crate) fn is_ignored(&self, path: &str) -> bool {
        !path.is_empty() && self.ignore.matched_from_root(path).0
    }

    /// Whether `.dockerignore` is why [`Context::find`] does not find `path`.
    pub(crate) fn ignores(&self, path: &str) -> bool {
        self.open_as(path, OFlags::PATH, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
            .is_ok()
    }

    /// What `path` leads to, as a path without links: only by this one can `.dockerignore` say
    /// whether it is there. Links lead to what they would in an image whose root is the context.
    /// `None` where nothing is, or where an ignored link stands on the way.
    pub(crate) fn resolve(&self, path: &str) -> Result<Option<String>, Error> {
        let split = |text: &str| -> Vec<String> { parts(text).rev().map(str::to_owned).collect() };
        let (mut here, mut ahead, mut links) = (String::new(), split(path), 0);
        while let Some(part) = ahead.pop() {
            if part == ".." {
                here.truncate(here.rfind('/').unwrap_or(0));
                continue;
            }
            let next = joined(&here, &part);
            match self.link(&next) {
                Ok(None) => here = next,
                Ok(Some(_)) if self.is_ignored(&next) => return Ok(None),
                Ok(Some(_)) if links == LINKS_MAX => return Err(self.failed(path, Errno::LOOP)),
                Ok(Some(target)) => {
                    links += 1;
                    if target.starts_with('/') {
                        here.clear();
                    }
                    ahead.extend(split(&target));
                }
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
                Err(errno) => return Err(self.failed(path, errno)),
            }
        }
        Ok(Some(here))
    }

    /// Where the link at `path` leads; `None` for everything else.
    fn link(&self, path: &str) -> Result<Option<String>, Errno> {
        let fd = self.open_at(path, OFlags::PATH | OFlags::NOFOLLOW)?;
        match FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) {
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&fd, "", Vec::new())?;
                target.into_string().map(Some).map_err(|_| Errno::ILSEQ)
            }
            _ => Ok(None),
        }
    }

    /// What is at `path`, and everything below it, by its path relative to `path`. Sorted within
    /// each folder. Folders of which `enters` says no are not looked into.
    pub(crate) fn walk(
        &self,
        path: &str,
        enters: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<(String, Item)>, Error> {
        let Some(path) = self.resolve(path)? else { return Ok(Vec::new()) };
        match self.find_resolved(&path)? {
            None => Ok(Vec::new()),
            Some(PathKind::File) => Ok(vec![(String::new(), self.file(&path)?)]),
            Some(PathKind::Folder) => {
                let failed = |errno| self.failed(&path, errno);
                let folder = self.open_at(&path, OFlags::RDONLY | OFlags::DIRECTORY);
                let folder = folder.map_err(failed)?;
                let stat = rustix::fs::fstat(&folder).map_err(failed)?;
                let (ignored, matched) = match path.is_empty() {
                    true => (false, Matched::new()),
                    false => self.ignore.matched_from_root(&path),
                };
                let mut walk =
                    Walk { context: self, top: &path, enters, all: Vec::new(), held: Vec::new() };
                walk.put(String::new(), self.folder_item(&stat), ignored);
                walk.folder(&folder, "", &matched, 1)?;
                Ok(walk.all)
            }
        }
    }

    fn folder_item(&self, stat: &rustix::fs::Stat) -> Item {
        let mode = match self.modes {
            Modes::Kept => Stat::of(stat).mode,
            Modes::Masked => MODE_EXECUTABLE,
        };
        Item::Folder { meta: Meta::of(mode) }
    }

    fn file_item(&self, path: String, stat: &rustix::fs::Stat) -> Item {
        let is_socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
        let stat = Stat::of(stat);
        let mode = match self.modes {
            Modes::Kept => stat.mode,
            Modes::Masked => masked(stat.mode),
        };
        let source = match is_socket {
            // As BuildKit sends it.
            true => Source::Bytes(Arc::from([])),
            false => Source::Context(ContextFile { path, stat }),
        };
        Item::File { meta: Meta::of(mode), source }
    }

    fn names(&self, folder: &OwnedFd, here: &str) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        for entry in Dir::read_from(folder).map_err(|errno| self.failed(here, errno))? {
            let entry = entry.map_err(|errno| self.failed(here, errno))?;
            let Ok(name) = entry.file_name().to_str() else {
                let name = joined(here, &entry.file_name().to_string_lossy());
                self.left_out.borrow_mut().push((name, "a name that is not UTF-8"));
                continue;
            };
            if !matches!(name, "." | "..") {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The file at `path`, links followed as long as they stay inside.
    pub(crate) fn file(&self, path: &str) -> Result<Item, Error> {
        let path = self.resolve(path)?.ok_or_else(|| self.failed(path, Errno::NOENT))?;
        let fd = self.open_at(&path, OFlags::PATH).map_err(|errno| self.failed(&path, errno))?;
        let stat = rustix::fs::fstat(&fd).map_err(|errno| self.failed(&path, errno))?;
        Ok(self.file_item(path, &stat))
    }

    /// Opens a file as it was when it was found.
    pub(crate) fn open_file(&self, wanted: &ContextFile) -> Result<File, Error> {
        let path = &wanted.path;
        // Not blocking: what was a file a moment ago may be a pipe now.
        let changed = || wrong(path, ContextProblem::Changed);
        let fd =
            self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK).map_err(|errno| match errno {
                Errno::LOOP => changed(), // a link stands where there was none
                errno => self.failed(path, errno),
            })?;
        let stat = rustix::fs::fstat(&fd).map_err(|errno| self.failed(path, errno))?;
        match Stat::of(&stat) == wanted.stat {
            true => Ok(File::from(fd)),
            false => Err(changed()),
        }
    }

    /// Opens what [`Context::resolve`] found.
    fn open_at(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        self.open_as(path, flags, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
    }

    fn open_as(&self, path: &str, flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { "." } else { path };
        rustix::io::retry_on_intr(|| {
            rustix::fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
        })
    }

    fn failed(&self, path: &str, errno: Errno) -> Error {
        match errno {
            Errno::LOOP => wrong(path, ContextProblem::LinkLoop),
            errno => Error::Io { doing: "read", path: self.path.join(path), source: errno.into() },
        }
    }
}

fn wrong(path: &str, problem: ContextProblem) -> Error {
    Error::Context { path: path.to_owned(), problem }
}

/// What a walk has found so far.
struct Walk<'c> {
    context: &'c Context,
    top: &'c str,
    enters: &'c dyn Fn(&str) -> bool,
    all: Vec<(String, Item)>,
    /// Ignored folders on the way down: they come in with what was taken back in from below them.
    held: Vec<(String, Item)>,
}

impl Walk<'_> {
    fn put(&mut self, below: String, item: Item, ignored: bool) {
        if ignored {
            self.held.push((below, item));
            return;
        }
        self.all.append(&mut self.held);
        self.all.push((below, item));
    }

    fn folder(
        &mut self,
        folder: &OwnedFd,
        below: &str,
        matched: &[bool],
        depth: usize,
    ) -> Result<(), Error> {
        let context = self.context;
        let here = joined(self.top, below);
        if depth > CONTEXT_DEPTH_MAX {
            return Err(wrong(&here, ContextProblem::TooDeep));
        }
        for name in context.names(folder, &here)? {
            let (below, path) = (joined(below, &name), joined(&here, &name));
            let (ignored, matched) = context.ignore.matched(&path, matched);
            if ignored && !context.ignore.has_exceptions() {
                continue;
            }
            if self.all.len() >= CONTEXT_ENTRIES_MAX {
                return Err(wrong(&path, ContextProblem::TooManyFiles));
            }
            let failed = |errno| context.failed(&path, errno);
            let stat = rustix::fs::statat(folder, name.as_str(), AtFlags::SYMLINK_NOFOLLOW);
            let stat = stat.map_err(failed)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    let held = self.held.len();
                    self.put(below.clone(), context.folder_item(&stat), ignored);
                    if (self.enters)(&below) {
                        let flags =
                            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                        let inner = rustix::fs::openat(folder, name.as_str(), flags, Mode::empty());
                        self.folder(&inner.map_err(failed)?, &below, &matched, depth + 1)?;
                    }
                    self.held.truncate(held);
                }
                _ if ignored => {}
                FileType::RegularFile | FileType::Socket => {
                    self.put(below, context.file_item(path, &stat), false);
                }
                FileType::Symlink => {
                    let target = rustix::fs::readlinkat(folder, name.as_str(), Vec::new());
                    let Ok(target) = target.map_err(failed)?.into_string() else {
                        context.left_out.borrow_mut().push((path, "a link that is not UTF-8"));
                        continue;
                    };
                    self.put(below, Item::Symlink { target, owner: Owner::default() }, false);
                }
                other => context.left_out.borrow_mut().push((path, kind_name(other))),
            }
        }
        Ok(())
    }
}

fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "no file",
    }
}

impl Stat {
    #[allow(
        clippy::unnecessary_cast,
        reason = "the field types differ from one architecture to the next"
    )]
    pub(crate) fn of(stat: &rustix::fs::Stat) -> Self {
        let ns = |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
        Self {
            size: stat.st_size as u64,
            mode: stat.st_mode as u32 & 0o7777,
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            mtime_ns: ns(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            ctime_ns: ns(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        }
    }
}
