use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Timespec, Timestamps,
        renameat_with,
    },
    io::Errno,
};

use crate::worker::files::filesystem::{
    DescriptorType, ErrorCode, NewTimes, Opening, Result, Stat, Time, Times, hashed,
};

/// Never out of the folder, not by `..`, not by a link, not into another mount, not through
/// `/proc`.
pub(super) const WITHIN: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV);

/// What may be done with what is made in a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NewFiles {
    /// All: each task has an uid of its own, and the folder above is closed to all that may not
    /// mount the volume.
    ForAll,
    /// All may read: they belong to one user of the host, as those of any other program.
    ForOwner,
}

impl NewFiles {
    fn mode(self, all: u32) -> Mode {
        Mode::from_raw_mode(match self {
            Self::ForAll => all,
            Self::ForOwner => all & !0o022,
        })
    }
}

/// Opens without counting and without making anything: for looking, and for folders.
pub(crate) fn open(from: &OwnedFd, path: &str, flags: OFlags, follow: bool) -> Result<OwnedFd> {
    open_or_make(from, path, flags, follow, NewFiles::ForOwner)
}

pub(super) fn open_or_make(
    from: &OwnedFd,
    path: &str,
    flags: OFlags,
    follow: bool,
    new: NewFiles,
) -> Result<OwnedFd> {
    let path = if path.is_empty() { "." } else { path };
    let follow = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
    let mode = if flags.contains(OFlags::CREATE) { new.mode(0o666) } else { Mode::empty() };
    // With `O_PATH` the kernel refuses flags about reading.
    let waits = match flags.contains(OFlags::PATH) {
        true => OFlags::empty(),
        false => OFlags::NOCTTY | OFlags::NONBLOCK,
    };
    let flags = flags | follow | waits | OFlags::CLOEXEC;
    rustix::fs::openat2(from, path, flags, mode, WITHIN).map_err(code)
}

/// The kernel's flags for `opening`. A file that is emptied is opened for writing, whatever its
/// descriptor may do later.
pub(crate) fn flags(opening: Opening) -> OFlags {
    let writes = opening.writes() || opening.truncates();
    let mut flags = if writes { OFlags::RDWR } else { OFlags::RDONLY };
    flags.set(OFlags::CREATE, opening.creates());
    flags.set(OFlags::EXCL, opening.is_exclusive());
    flags.set(OFlags::DIRECTORY, opening.wants_folder());
    flags
}

pub(super) fn make_folder(folder: &OwnedFd, name: &str, new: NewFiles) -> Result<()> {
    rustix::fs::mkdirat(folder, name, new.mode(0o777)).map_err(code)
}

pub(crate) fn make_link(target: &str, folder: &OwnedFd, name: &str) -> Result<()> {
    rustix::fs::symlinkat(target, folder, name).map_err(code)
}

pub(crate) fn remove(folder: &OwnedFd, name: &str, flags: AtFlags) -> Result<()> {
    rustix::fs::unlinkat(folder, name, flags).map_err(code)
}

pub(crate) fn rename(from: (&OwnedFd, &str), to: (&OwnedFd, &str)) -> Result<()> {
    renameat_with(from.0, from.1, to.0, to.1, RenameFlags::empty()).map_err(code)
}

pub(crate) fn stat(fd: &impl AsFd) -> Result<Stat> {
    let stat = rustix::fs::fstat(fd).map_err(code)?;
    Ok(Stat {
        kind: kind(FileType::from_raw_mode(stat.st_mode)),
        size: stat.st_size.cast_unsigned(),
        links: stat.st_nlink,
        times: Times {
            accessed: (stat.st_atime, stat.st_atime_nsec as u32),
            modified: (stat.st_mtime, stat.st_mtime_nsec as u32),
        },
        identity: hashed((stat.st_dev, stat.st_ino)),
    })
}

pub(crate) fn set_times(fd: &impl AsFd, new: NewTimes) -> Result<()> {
    let omit = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    let given = |(tv_sec, nanoseconds): Time| Timespec { tv_sec, tv_nsec: nanoseconds.into() };
    let times = Timestamps {
        last_access: new.accessed.map_or(omit, given),
        last_modification: new.modified.map_or(omit, given),
    };
    rustix::fs::futimens(fd, &times).map_err(code)
}

pub(crate) fn kind(kind: FileType) -> DescriptorType {
    match kind {
        FileType::RegularFile => DescriptorType::RegularFile,
        FileType::Directory => DescriptorType::Directory,
        FileType::Symlink => DescriptorType::SymbolicLink,
        FileType::Fifo => DescriptorType::Fifo,
        FileType::Socket => DescriptorType::Socket,
        FileType::CharacterDevice => DescriptorType::CharacterDevice,
        FileType::BlockDevice => DescriptorType::BlockDevice,
        FileType::Unknown => DescriptorType::Unknown,
    }
}

/// The kernel's words in WASI's.
pub(crate) fn code(errno: Errno) -> ErrorCode {
    match errno {
        Errno::ACCESS => ErrorCode::Access,
        Errno::BUSY => ErrorCode::Busy,
        Errno::DQUOT => ErrorCode::Quota,
        Errno::EXIST => ErrorCode::Exist,
        Errno::FBIG => ErrorCode::FileTooLarge,
        Errno::ILSEQ => ErrorCode::IllegalByteSequence,
        Errno::INTR => ErrorCode::Interrupted,
        Errno::INVAL => ErrorCode::Invalid,
        Errno::ISDIR => ErrorCode::IsDirectory,
        Errno::LOOP => ErrorCode::Loop,
        Errno::MLINK => ErrorCode::TooManyLinks,
        Errno::NAMETOOLONG => ErrorCode::NameTooLong,
        Errno::NOENT => ErrorCode::NoEntry,
        Errno::NOMEM => ErrorCode::InsufficientMemory,
        Errno::NOSPC => ErrorCode::InsufficientSpace,
        Errno::NOTDIR => ErrorCode::NotDirectory,
        Errno::NOTEMPTY => ErrorCode::NotEmpty,
        Errno::NOTSUP => ErrorCode::Unsupported,
        Errno::OVERFLOW => ErrorCode::Overflow,
        // Leaving the volume: `openat2` says that the way leads to another device.
        Errno::PERM | Errno::XDEV => ErrorCode::NotPermitted,
        Errno::ROFS => ErrorCode::ReadOnly,
        Errno::TXTBSY => ErrorCode::TextFileBusy,
        Errno::AGAIN => ErrorCode::WouldBlock,
        _ => ErrorCode::Io,
    }
}

pub(crate) fn io_code(error: io::Error) -> ErrorCode {
    Errno::from_io_error(&error).map_or(ErrorCode::Io, code)
}
