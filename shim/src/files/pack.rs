use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
};

use engine::{
    COPY_BYTES_MAX, COPY_DEPTH_MAX, COPY_ENTRIES_MAX,
    exec::{Copied, FileKind, Link},
};
use image::{ArchiveWriter, Attributes};
use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags, Stat, fstat, openat, readlinkat, statat},
    io::Errno,
};

use super::{Source, kind_of, named};

/// Writes what is at `source` as an archive, under the name `name`; without a name, the content of
/// a folder. Follows no link but the one at the end of `source`, where `link` says so.
///
/// # Errors
/// When something cannot be read, or the archive not be written; when there is more of it than one
/// copy takes.
pub fn pack(source: Source<'_>, link: Link, name: &[u8], out: impl Write) -> io::Result<Copied> {
    let failed = || named(source.shown().as_bytes());
    let place = source.open(OFlags::PATH, link).map_err(failed())?;
    let stat = fstat(&place).map_err(failed())?;
    let mut packer = Packer {
        archive: ArchiveWriter::new(out),
        copied: Copied::default(),
        entries: 0,
        bytes: 0,
        linked: HashMap::new(),
    };
    packer.count(1)?;
    match kind_of(&stat) {
        FileKind::Folder => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let open = openat(&place, ".", flags, Mode::empty()).map_err(failed())?;
            packer.folder(&open, name, &stat, 0)?;
        }
        FileKind::Link => packer.link(place.as_fd(), OsStr::new(""), name, &stat)?,
        FileKind::File => {
            let file = source.open(OFlags::RDONLY | OFlags::NONBLOCK, link).map_err(failed())?;
            packer.file(file, name)?;
        }
        FileKind::Other => packer.copied.leave_out(name),
    }
    packer.archive.finish()?;
    Ok(packer.copied)
}

struct Packer<W> {
    archive: ArchiveWriter<W>,
    copied: Copied,
    entries: u64,
    bytes: u64,
    /// Names of files that have another one, by device and inode.
    linked: HashMap<(u64, u64), Vec<u8>>,
}

fn too_much(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

impl<W: Write> Packer<W> {
    fn count(&mut self, entries: u64) -> io::Result<()> {
        self.entries += entries;
        match self.entries > COPY_ENTRIES_MAX {
            true => Err(too_much(format!("there are more than {COPY_ENTRIES_MAX} files to copy"))),
            false => Ok(()),
        }
    }

    fn folder(&mut self, open: &OwnedFd, name: &[u8], stat: &Stat, depth: usize) -> io::Result<()> {
        if depth > COPY_DEPTH_MAX {
            let shown = String::from_utf8_lossy(name);
            let why = format!("`{shown}` lies more than {COPY_DEPTH_MAX} folders deep");
            return Err(too_much(why));
        }
        if !name.is_empty() {
            self.archive.folder(name, attributes(stat))?;
        }
        let mut names: Vec<OsString> = Vec::new();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let listed = openat(open, ".", flags, Mode::empty()).map_err(named(name))?;
        for entry in Dir::new(listed).map_err(named(name))? {
            let entry = entry.map_err(named(name))?;
            let entry = entry.file_name().to_bytes();
            if entry != b"." && entry != b".." {
                self.count(1)?;
                names.push(OsString::from_vec(entry.to_vec()));
            }
        }
        names.sort_unstable();
        for entry in names {
            let inner = match name {
                b"" => entry.as_bytes().to_vec(),
                name => [name, b"/", entry.as_bytes()].concat(),
            };
            self.entry(open, &entry, &inner, depth)?;
        }
        Ok(())
    }

    fn entry(&mut self, at: &OwnedFd, entry: &OsStr, name: &[u8], depth: usize) -> io::Result<()> {
        let stat = match statat(at, entry, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // It was removed meanwhile.
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(named(name)(error)),
        };
        let open = |flags: OFlags| {
            let flags = flags | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
            openat(at, entry, flags, Mode::empty())
        };
        match kind_of(&stat) {
            FileKind::Folder => {
                let folder = open(OFlags::RDONLY | OFlags::DIRECTORY).map_err(named(name))?;
                self.folder(&folder, name, &stat, depth + 1)
            }
            FileKind::File => {
                self.file(open(OFlags::RDONLY | OFlags::NONBLOCK).map_err(named(name))?, name)
            }
            FileKind::Link => self.link(at.as_fd(), entry, name, &stat),
            FileKind::Other => {
                self.copied.leave_out(name);
                Ok(())
            }
        }
    }

    fn file(&mut self, file: OwnedFd, name: &[u8]) -> io::Result<()> {
        // Of what was opened, which may be another file than the one that was looked at.
        let stat = fstat(&file).map_err(named(name))?;
        if kind_of(&stat) != FileKind::File {
            self.copied.leave_out(name);
            return Ok(());
        }
        if stat.st_nlink > 1 {
            let inode = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.linked.get(&inode) {
                return self.archive.hard_link(name, first, attributes(&stat));
            }
            self.linked.insert(inode, name.to_vec());
        }
        let size = stat.st_size.unsigned_abs();
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > COPY_BYTES_MAX {
            let (shown, most) = (String::from_utf8_lossy(name), COPY_BYTES_MAX);
            let why = format!("with `{shown}` there are more than {most} bytes to copy");
            return Err(too_much(why));
        }
        self.archive.file(name, size, &mut File::from(file), attributes(&stat))
    }

    fn link(
        &mut self,
        at: BorrowedFd<'_>,
        entry: &OsStr,
        name: &[u8],
        stat: &Stat,
    ) -> io::Result<()> {
        let target = readlinkat(at, entry, Vec::new()).map_err(named(name))?;
        self.archive.symlink(name, target.as_bytes(), attributes(stat))
    }
}

fn attributes(stat: &Stat) -> Attributes {
    Attributes {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: stat.st_mtime,
    }
}
