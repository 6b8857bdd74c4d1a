//! A granted folder of the host, as a detached mount: one way to open a path in it, which never
//! leads out.

mod listing; // its folders, a few entries at a time
mod quota; // the wrapper that counts what is in it

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
    sync::Arc,
};

use bytes::Bytes;
use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Timespec, Timestamps,
        renameat_with,
    },
    io::Errno,
};
use spec::Rights;

use super::filesystem::{
    self, DescriptorType, ErrorCode, Filesystem, Mtime, OpenFile, Opened, Opening, Result, Stat,
    hashed,
};
use quota::Limited;

pub use listing::Listing;

/// A granted folder of the host, with what may be done in it.
pub(crate) struct Volume {
    root: Arc<OwnedFd>,
    rights: Rights,
    max_bytes: Option<u64>,
}

/// Any volume, with a limit or without.
pub(super) type AnyVolume = dyn Filesystem<Folder = Arc<OwnedFd>, Place = Place>;

/// A path below a folder: the kernel walks it.
pub(super) struct Place {
    pub from: Arc<OwnedFd>,
    pub path: String,
    /// Whether a link at its end is followed.
    pub follow: bool,
}

/// Never out of the folder, not by `..`, not by a link, not into another mount, not through
/// `/proc`.
const WITHIN: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV);

/// What opening led to, before anything is counted.
enum Found {
    Folder(OwnedFd),
    File { file: VolumeFile, inode: u64 },
}

impl Volume {
    pub fn new(root: OwnedFd, rights: Rights, max_bytes: Option<u64>) -> Self {
        Self { root: Arc::new(root), rights, max_bytes }
    }

    /// For the sandbox: where opening stays allowed.
    pub fn folder(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Whether anything may be changed in it.
    pub fn is_writable(&self) -> bool {
        self.rights.write || self.rights.delete
    }

    /// How long a file in it may become.
    pub fn max_bytes(&self) -> Option<u64> {
        self.max_bytes
    }

    pub(super) fn root(&self) -> Arc<OwnedFd> {
        self.root.clone()
    }

    /// As a part of the guest's files, counted where it has a limit.
    pub(super) fn mounted(self) -> Box<AnyVolume> {
        match self.max_bytes {
            Some(max) => Box::new(Limited::new(self, max)),
            None => Box::new(self),
        }
    }

    fn must_write(&self) -> Result<()> {
        if self.rights.write { Ok(()) } else { Err(ErrorCode::ReadOnly) }
    }

    fn must_delete(&self) -> Result<()> {
        match (self.rights.delete, self.rights.write) {
            (true, _) => Ok(()),
            (false, true) => Err(ErrorCode::NotPermitted),
            (false, false) => Err(ErrorCode::ReadOnly),
        }
    }

    fn may_open(&self, opening: Opening) -> Result<()> {
        match opening.writes() || opening.creates() || opening.truncates() {
            true => self.must_write(),
            false => Ok(()),
        }
    }

    /// Opens a file or a folder for a guest.
    fn find(&self, at: &Place, flags: OFlags) -> Result<Found> {
        let fd = open(&at.from, &at.path, flags, at.follow)?;
        let stat = rustix::fs::fstat(&fd).map_err(code)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Ok(Found::Folder(fd)),
            FileType::RegularFile => {
                let file = VolumeFile { file: fd.into(), writable: self.rights.write };
                Ok(Found::File { file, inode: stat.st_ino })
            }
            // A pipe or socket leads to some program of the host.
            _ => Err(ErrorCode::NotPermitted),
        }
    }
}

impl Filesystem for Volume {
    type Folder = Arc<OwnedFd>;
    type Place = Place;

    fn open(&self, at: Place, opening: Opening) -> Result<Opened<Arc<OwnedFd>>> {
        self.may_open(opening)?;
        match self.find(&at, flags(opening))? {
            Found::Folder(fd) => Ok(Opened::Folder(Arc::new(fd))),
            Found::File { file, .. } => {
                if opening.truncates() {
                    file.set_len(0)?;
                }
                Ok(Opened::File(Box::new(file)))
            }
        }
    }

    fn stat(&self, at: Place) -> Result<Stat> {
        stat(&open(&at.from, &at.path, OFlags::PATH, at.follow)?)
    }

    fn list(&self, folder: &Arc<OwnedFd>) -> Result<filesystem::Listing> {
        Listing::of(folder).map(filesystem::Listing::Volume)
    }

    fn read_link(&self, at: Place) -> Result<String> {
        let (folder, name) = at.parent()?;
        let target = rustix::fs::readlinkat(&folder, name, Vec::new()).map_err(code)?;
        target.into_string().map_err(|_| ErrorCode::IllegalByteSequence)
    }

    fn make_folder(&self, at: Place) -> Result<()> {
        let (folder, name) = self.to_make_folder(&at)?;
        make_folder(&folder, name)
    }

    fn make_link(&self, target: &str, at: Place) -> Result<()> {
        let (folder, name) = self.to_make_link(&at)?;
        make_link(target, &folder, name)
    }

    fn unlink(&self, at: Place) -> Result<()> {
        let (folder, name) = self.to_remove(&at, false)?;
        remove(&folder, name, AtFlags::empty())
    }

    fn remove_folder(&self, at: Place) -> Result<()> {
        let (folder, name) = self.to_remove(&at, true)?;
        remove(&folder, name, AtFlags::REMOVEDIR)
    }

    fn rename(&self, from: Place, to: Place) -> Result<()> {
        let ((folder, name), (new_folder, new_name)) = self.to_rename(&from, &to)?;
        rename((&folder, name), (&new_folder, new_name))
    }

    fn set_folder_times(&self, folder: &Arc<OwnedFd>, mtime: Mtime) -> Result<()> {
        self.must_write()?;
        set_times(folder, mtime)
    }
}

impl Place {
    /// The folder that holds the last name, and that name.
    fn parent(&self) -> Result<Name<'_>> {
        let trimmed = self.path.trim_end_matches('/');
        let (folder, name) = trimmed.rsplit_once('/').unwrap_or(("", trimmed));
        if matches!(name, "" | "." | "..") {
            return Err(ErrorCode::NotPermitted);
        }
        Ok((open(&self.from, folder, OFlags::PATH | OFlags::DIRECTORY, true)?, name))
    }

    /// The mount point has no name of its own here: `otherwise`.
    fn must_be_below(&self, otherwise: ErrorCode) -> Result<()> {
        if self.path.is_empty() { Err(otherwise) } else { Ok(()) }
    }
}

/// A name in a folder.
type Name<'a> = (OwnedFd, &'a str);

/// Rights, and then the name that is to change.
impl Volume {
    fn to_make_folder<'a>(&self, at: &'a Place) -> Result<Name<'a>> {
        at.must_be_below(ErrorCode::Exist)?;
        self.must_write()?;
        at.parent()
    }

    fn to_make_link<'a>(&self, at: &'a Place) -> Result<Name<'a>> {
        self.must_write()?;
        at.parent()
    }

    fn to_remove<'a>(&self, at: &'a Place, folder: bool) -> Result<Name<'a>> {
        at.must_be_below(if folder { ErrorCode::Busy } else { ErrorCode::IsDirectory })?;
        if !folder && at.path.ends_with('/') {
            return Err(ErrorCode::NotDirectory);
        }
        self.must_delete()?;
        at.parent()
    }

    fn to_rename<'a>(&self, from: &'a Place, to: &'a Place) -> Result<(Name<'a>, Name<'a>)> {
        self.must_delete()?;
        self.must_write()?;
        Ok((from.parent()?, to.parent()?))
    }
}

/// Opens without counting: for looking, and for folders.
fn open(from: &OwnedFd, path: &str, flags: OFlags, follow: bool) -> Result<OwnedFd> {
    let path = if path.is_empty() { "." } else { path };
    let follow = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
    // Each task has an uid of its own, and the folder above is closed to all that may not mount the
    // volume: what is in it is open to those that may.
    let mode =
        if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o666) } else { Mode::empty() };
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
fn flags(opening: Opening) -> OFlags {
    let writes = opening.writes() || opening.truncates();
    let mut flags = if writes { OFlags::RDWR } else { OFlags::RDONLY };
    flags.set(OFlags::CREATE, opening.creates());
    flags.set(OFlags::EXCL, opening.is_exclusive());
    flags.set(OFlags::DIRECTORY, opening.wants_folder());
    flags
}

fn make_folder(folder: &OwnedFd, name: &str) -> Result<()> {
    rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(0o777)).map_err(code)
}

fn make_link(target: &str, folder: &OwnedFd, name: &str) -> Result<()> {
    rustix::fs::symlinkat(target, folder, name).map_err(code)
}

fn remove(folder: &OwnedFd, name: &str, flags: AtFlags) -> Result<()> {
    rustix::fs::unlinkat(folder, name, flags).map_err(code)
}

fn rename(from: (&OwnedFd, &str), to: (&OwnedFd, &str)) -> Result<()> {
    renameat_with(from.0, from.1, to.0, to.1, RenameFlags::empty()).map_err(code)
}

/// A file of a volume.
struct VolumeFile {
    file: File,
    writable: bool,
}

impl VolumeFile {
    fn len(&self) -> Result<u64> {
        self.file.metadata().map(|metadata| metadata.len()).map_err(io_code)
    }
}

impl OpenFile for VolumeFile {
    fn stat(&self) -> Result<Stat> {
        stat(&self.file)
    }

    fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let mut bytes = vec![0; len];
        let n = self.file.read_at(&mut bytes, offset).map_err(io_code)?;
        bytes.truncate(n);
        Ok(bytes.into())
    }

    fn write_at(&self, offset: Option<u64>, bytes: &[u8]) -> Result<u64> {
        let from = offset.map_or_else(|| self.len(), Ok)?;
        let end = from.checked_add(bytes.len() as u64).ok_or(ErrorCode::FileTooLarge)?;
        self.file.write_all_at(bytes, from).map_err(io_code)?;
        Ok(end)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.file.set_len(len).map_err(io_code)
    }

    fn set_times(&self, mtime: Mtime) -> Result<()> {
        if self.writable { set_times(&self.file, mtime) } else { Err(ErrorCode::ReadOnly) }
    }

    fn sync(&self) -> Result<()> {
        rustix::fs::fsync(&self.file).map_err(code)
    }
}

pub(super) fn stat(fd: &impl AsFd) -> Result<Stat> {
    let stat = rustix::fs::fstat(fd).map_err(code)?;
    Ok(Stat {
        kind: kind(FileType::from_raw_mode(stat.st_mode)),
        size: stat.st_size.cast_unsigned(),
        links: stat.st_nlink,
        mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
        identity: hashed((stat.st_dev, stat.st_ino)),
    })
}

/// When it was read is left as it is.
fn set_times(fd: &impl AsFd, (seconds, nanoseconds): Mtime) -> Result<()> {
    let omit = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    let times = Timestamps {
        last_access: omit,
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() },
    };
    rustix::fs::futimens(fd, &times).map_err(code)
}

fn kind(kind: FileType) -> DescriptorType {
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
fn code(errno: Errno) -> ErrorCode {
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

fn io_code(error: io::Error) -> ErrorCode {
    Errno::from_io_error(&error).map_or(ErrorCode::Io, code)
}
