mod ignore; // what `.dockerignore` excludes
pub(crate) mod pattern; // `*.html`

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use crate::{
    error::{ContextProblem, Error, io_error},
    items::{ContextFile, Item, MODE_EXECUTABLE, Source, Stat, masked},
    limits::{CONTEXT_DEPTH_MAX, CONTEXT_ENTRIES_MAX, IGNORE_BYTES_MAX, LINKS_MAX},
    path::{joined, outermost, parts},
};

pub(crate) use ignore::Ignore;

/// The folder that a build may read, and nothing outside of it: every path is opened below one
/// descriptor with `openat2`, so that the kernel refuses whatever leads out, also through a link
/// that appears in between.
pub(crate) struct Context {
    root: OwnedFd,
    path: PathBuf,
    ignore: Ignore,
}

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
        Ok(Self { root, path: path.to_owned(), ignore: Ignore::default() })
    }

    /// Opens `path`. What `.dockerignore` (or `BUILDFILE.dockerignore`, which wins) names does not
    /// exist in it.
    pub(crate) fn open(path: &Path, build_file: Option<&str>) -> Result<Self, Error> {
        let mut context = Self::open_unfiltered(path)?;
        let own = build_file.map(|name| format!("{name}.dockerignore"));
        for name in own.iter().map(String::as_str).chain([".dockerignore"]) {
            if let Some(text) = context.read_if_there(name, IGNORE_BYTES_MAX)? {
                context.ignore = Ignore::parse(&String::from_utf8_lossy(&text));
                break;
            }
        }
        Ok(context)
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
        if self.is_ignored(path) && self.ignore.is_final() {
            return Ok(None);
        }
        match self.open_at(path, OFlags::PATH) {
            Ok(fd) => {
                let stat = rustix::fs::fstat(&fd).map_err(|errno| self.failed(path, errno))?;
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => Ok(Some(PathKind::Folder)),
                    FileType::RegularFile if self.is_ignored(path) => Ok(None),
                    FileType::RegularFile => Ok(Some(PathKind::File)),
                    other => Err(wrong(path, ContextProblem::Special(kind_name(other)))),
                }
            }
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(self.failed(path, errno)),
        }
    }

    pub(crate) fn is_ignored(&self, path: &str) -> bool {
        !path.is_empty() && self.ignore.ignores(path)
    }

    /// Whether `.dockerignore` is why [`Context::find`] does not find `path`.
    pub(crate) fn ignores(&self, path: &str) -> bool {
        std::fs::metadata(self.path.join(path)).is_ok()
    }

    /// What `path` leads to, as a path without links: only by this one can `.dockerignore` say
    /// whether it is there. `None` where nothing is, or where an ignored link stands on the way.
    fn resolve(&self, path: &str) -> Result<Option<String>, Error> {
        let split = |text: &str| -> Vec<String> { parts(text).rev().map(str::to_owned).collect() };
        let (mut here, mut ahead, mut links) = (String::new(), split(path), 0);
        while let Some(part) = ahead.pop() {
            if part == ".." {
                match (here.is_empty(), here.rfind('/')) {
                    (true, _) => return Err(self.failed(path, Errno::XDEV)),
                    (false, end) => here.truncate(end.unwrap_or(0)),
                }
                continue;
            }
            let next = joined(&here, &part);
            match self.link(&next) {
                Ok(None) => here = next,
                Ok(Some(_)) if self.is_ignored(&next) => return Ok(None),
                Ok(Some(target)) if target.starts_with('/') => {
                    return Err(self.failed(path, Errno::XDEV));
                }
                Ok(Some(_)) if links == LINKS_MAX => return Err(self.failed(path, Errno::LOOP)),
                Ok(Some(target)) => {
                    links += 1;
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

    /// Every path that `pattern` describes, sorted.
    pub(crate) fn glob(&self, text: &str) -> Result<Vec<String>, Error> {
        let mut paths = Vec::new();
        // Only what stands above the first special character has to be listed.
        let fixed = text
            .split('/')
            .take_while(|part| !pattern::is_pattern(part))
            .collect::<Vec<_>>()
            .join("/");
        if self.find(&fixed)? != Some(PathKind::Folder) {
            return Ok(paths);
        }
        for (below, _) in self.walk(&fixed)? {
            let path = joined(&fixed, &below);
            if !below.is_empty() && pattern::matches(text, &path) {
                paths.push(path);
            }
        }
        Ok(outermost(paths))
    }

    /// What is at `path`, and everything below it, by its path relative to `path`. Sorted within
    /// each folder.
    pub(crate) fn walk(&self, path: &str) -> Result<Vec<(String, Item)>, Error> {
        let mut all = Vec::new();
        let Some(path) = self.resolve(path)? else { return Ok(all) };
        match self.find_resolved(&path)? {
            None => return Ok(all),
            Some(PathKind::File) => all.push((String::new(), self.file(&path)?)),
            Some(PathKind::Folder) => {
                all.push((String::new(), Item::Folder { mode: MODE_EXECUTABLE }));
                let folder = self.open_at(&path, OFlags::RDONLY | OFlags::DIRECTORY);
                let folder = folder.map_err(|errno| self.failed(&path, errno))?;
                self.walk_folder(folder, &path, "", 1, &mut all)?;
                // Only looked into for the sake of what a line with `!` might have taken back in.
                if all.len() == 1 && self.is_ignored(&path) {
                    all.clear();
                }
            }
        }
        Ok(all)
    }

    fn walk_folder(
        &self,
        folder: OwnedFd,
        top: &str,
        below: &str,
        depth: usize,
        all: &mut Vec<(String, Item)>,
    ) -> Result<(), Error> {
        let here = joined(top, below);
        if depth > CONTEXT_DEPTH_MAX {
            return Err(wrong(&here, ContextProblem::TooDeep));
        }
        for name in self.names(&folder, &here)? {
            let (below, path) = (joined(below, &name), joined(&here, &name));
            let ignored = self.is_ignored(&path);
            if ignored && self.ignore.is_final() {
                continue;
            }
            if all.len() >= CONTEXT_ENTRIES_MAX {
                return Err(wrong(&path, ContextProblem::TooManyFiles));
            }
            let stat = rustix::fs::statat(&folder, name.as_str(), AtFlags::SYMLINK_NOFOLLOW);
            let stat = stat.map_err(|errno| self.failed(&path, errno))?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    let flags =
                        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let inner = rustix::fs::openat(&folder, name.as_str(), flags, Mode::empty());
                    let inner = inner.map_err(|errno| self.failed(&path, errno))?;
                    if !ignored {
                        all.push((below.clone(), Item::Folder { mode: MODE_EXECUTABLE }));
                    }
                    self.walk_folder(inner, top, &below, depth + 1, all)?;
                }
                _ if ignored => {}
                FileType::RegularFile => all.push((below, file_item(path, &stat))),
                FileType::Symlink => {
                    let target = rustix::fs::readlinkat(&folder, name.as_str(), Vec::new());
                    let target = target.map_err(|errno| self.failed(&path, errno))?;
                    let target = target
                        .into_string()
                        .map_err(|_| wrong(&path, ContextProblem::LinkNotUtf8))?;
                    all.push((below, Item::Symlink { target }));
                }
                other => return Err(wrong(&path, ContextProblem::Special(kind_name(other)))),
            }
        }
        Ok(())
    }

    fn names(&self, folder: &OwnedFd, here: &str) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        for entry in Dir::read_from(folder).map_err(|errno| self.failed(here, errno))? {
            let entry = entry.map_err(|errno| self.failed(here, errno))?;
            let name = entry.file_name().to_str().map_err(|_| {
                let path = joined(here, &entry.file_name().to_string_lossy());
                wrong(&path, ContextProblem::NameNotUtf8)
            })?;
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
        Ok(file_item(path, &stat))
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

    /// The bytes of a small file, if there is one.
    pub(crate) fn read_if_there(
        &self,
        path: &str,
        bytes_max: u64,
    ) -> Result<Option<Vec<u8>>, Error> {
        let followed = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let fd = match self.open_as(path, OFlags::RDONLY | OFlags::NONBLOCK, followed) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(errno) => return Err(self.failed(path, errno)),
        };
        let mut bytes = Vec::new();
        let read = File::from(fd).take(bytes_max + 1).read_to_end(&mut bytes);
        read.map_err(io_error("read", self.path.join(path)))?;
        match bytes.len() as u64 > bytes_max {
            true => Err(wrong(path, ContextProblem::TooLarge { bytes_max })),
            false => Ok(Some(bytes)),
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
            Errno::XDEV => wrong(path, ContextProblem::LeavesContext),
            Errno::LOOP => wrong(path, ContextProblem::LinkLoop),
            errno => Error::Io { doing: "read", path: self.path.join(path), source: errno.into() },
        }
    }
}

fn wrong(path: &str, problem: ContextProblem) -> Error {
    Error::Context { path: path.to_owned(), problem }
}

fn file_item(path: String, stat: &rustix::fs::Stat) -> Item {
    let stat = Stat::of(stat);
    Item::File { mode: masked(stat.mode), source: Source::Context(ContextFile { path, stat }) }
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
