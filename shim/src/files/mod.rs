//! Files and folders of Linux as archives, and back: on this machine for the client of a copy, and
//! in a container by a process that has joined it. Every path below the first folder is looked up
//! by the kernel without following a link, so that neither a link nor a process that changes one
//! meanwhile leads out of it.

mod pack; // a file or folder into an archive
mod extract; // an archive into a folder
mod staged; // what is written under a hidden name until all of it is there

#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io::{self, BufWriter},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use engine::exec::{Answer, Ask, FileKind, FileStat, Link};
use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags, openat, openat2, readlinkat},
    io::Errno,
};

pub use extract::{Extraction, Modes, extract};
pub use pack::pack;

/// Where a file or folder is.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// On this machine, as every program finds it.
    Host(&'a Path),
    /// Below a root folder, which no link leaves.
    Below(BorrowedFd<'a>, &'a str),
}

/// As a container sees its paths: `/` is its root, and nothing leads out.
const ROOTED: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
/// No link is followed at all.
const STRICT: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

impl Source<'_> {
    fn open(self, flags: OFlags, link: Link) -> rustix::io::Result<OwnedFd> {
        let mut flags = flags | OFlags::CLOEXEC;
        // `openat2` takes no flag about reading together with `O_PATH`.
        flags.set(OFlags::NOCTTY, !flags.contains(OFlags::PATH));
        flags.set(OFlags::NOFOLLOW, link == Link::Itself);
        match self {
            Self::Host(path) => openat(rustix::fs::CWD, path, flags, Mode::empty()),
            Self::Below(root, path) => openat2(root, path, flags, Mode::empty(), ROOTED),
        }
    }

    fn shown(self) -> String {
        match self {
            Self::Host(path) => path.display().to_string(),
            Self::Below(_, path) => path.to_owned(),
        }
    }

    /// What is there; `None` when nothing is.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn stat(self, link: Link) -> io::Result<Option<FileStat>> {
        let named = || named(self.shown().as_bytes());
        let place = match self.open(OFlags::PATH, link) {
            Ok(place) => place,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(named()(error)),
        };
        let stat = rustix::fs::fstat(&place).map_err(named())?;
        let kind = kind_of(&stat);
        let target = match kind {
            FileKind::Link => {
                let target = readlinkat(&place, "", Vec::new()).map_err(named())?;
                Some(target.to_string_lossy().into_owned())
            }
            FileKind::Folder | FileKind::File | FileKind::Other => None,
        };
        Ok(Some(FileStat { kind, bytes: stat.st_size.unsigned_abs(), target }))
    }
}

fn kind_of(stat: &rustix::fs::Stat) -> FileKind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => FileKind::Folder,
        FileType::RegularFile => FileKind::File,
        FileType::Symlink => FileKind::Link,
        _ => FileKind::Other,
    }
}

/// Does what a client of a copy asks, in a process whose root folder is the container's.
pub(crate) fn answer(ask: Ask, stream: Option<OwnedFd>) -> Answer {
    let refused = |error: io::Error| Answer::refused(error.to_string());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = match openat(rustix::fs::CWD, "/", flags, Mode::empty()) {
        Ok(root) => root,
        Err(error) => return refused(error.into()),
    };
    let no_stream = || Answer::refused("a copy comes with a pipe");
    match (ask, stream) {
        (Ask::Exec(_), _) => Answer::refused("no program can run here"),
        (Ask::Stat(place), _) => match Source::Below(root.as_fd(), &place.path).stat(place.link) {
            Ok(found) => Answer::Found(found),
            Err(error) => refused(error),
        },
        (Ask::Pack { place, name }, Some(stream)) => {
            let source = Source::Below(root.as_fd(), &place.path);
            let out = BufWriter::with_capacity(PIPE_BYTES, File::from(stream));
            match pack(source, place.link, name.as_bytes(), out) {
                Ok(copied) => Answer::Copied(copied),
                Err(error) => refused(error),
            }
        }
        (Ask::Unpack { folder, owners }, Some(stream)) => {
            let source = Source::Below(root.as_fd(), &folder);
            let folder = source
                .open(OFlags::RDONLY | OFlags::DIRECTORY, Link::Target)
                .map_err(named(folder.as_bytes()));
            let extracted = folder.and_then(|folder| {
                let how = Extraction { owners, modes: Modes::Kept };
                extract(File::from(stream), folder.as_fd(), how, || Ok(()))
            });
            match extracted {
                Ok(copied) => Answer::Copied(copied),
                Err(error) => refused(error),
            }
        }
        (Ask::Pack { .. } | Ask::Unpack { .. }, None) => no_stream(),
    }
}

/// What a pipe holds.
const PIPE_BYTES: usize = 64 << 10;

/// As [`io::Error`], with the path and in the words of shells.
fn named(path: &[u8]) -> impl FnOnce(Errno) -> io::Error + use<> {
    let path = String::from_utf8_lossy(path).escape_debug().to_string();
    move |error| {
        let kind = io::Error::from(error).kind();
        let why = match error {
            Errno::ROFS => "it is read-only".to_owned(),
            Errno::NOTDIR => "not a folder".to_owned(),
            Errno::NOENT => "no such file or folder".to_owned(),
            Errno::ACCESS => "permission denied".to_owned(),
            Errno::PERM => "operation not permitted".to_owned(),
            Errno::LOOP => "a link is in the way".to_owned(),
            Errno::BUSY => "something is mounted there".to_owned(),
            Errno::NOSPC | Errno::DQUOT => "no space left".to_owned(),
            other => io::Error::from(other).to_string(),
        };
        io::Error::new(kind, format!("`{path}`: {why}"))
    }
}
