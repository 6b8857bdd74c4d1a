use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Timestamps},
    io::Errno,
};
use spec::Rights;

use super::host::ErrorCode;

/// A granted folder of the host, as a detached mount.
pub(crate) struct Volume {
    root: Arc<OwnedFd>,
    pub(super) rights: Rights,
    max_bytes: Option<u64>,
    /// Bytes in its files, counted at the first write and kept up from then on.
    used: OnceLock<AtomicU64>,
}

/// Never out of the folder, not by `..`, not by a link, not into another mount, not through `/proc`.
const WITHIN: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV);

/// Folders below this depth are not looked into when counting: more is a trick.
const DEPTH_MAX: usize = 64;

impl Volume {
    pub fn new(root: OwnedFd, rights: Rights, max_bytes: Option<u64>) -> Self {
        Self { root: Arc::new(root), rights, max_bytes, used: OnceLock::new() }
    }

    /// For the walls: where opening stays allowed.
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

    pub(super) fn open(&self, from: &OwnedFd, path: &str, flags: OFlags, follow: bool) -> Result<OwnedFd, ErrorCode> {
        let path = if path.is_empty() { "." } else { path };
        let follow = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
        // Everyone who may mount the volume may use what is in it: each task has an uid of its own, and the folder
        // above is closed to all others.
        let mode = if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o666) } else { Mode::empty() };
        let flags = flags | follow | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        rustix::fs::openat2(from, path, flags, mode, WITHIN).map_err(code)
    }

    /// The folder that holds the last name of `path`, and that name.
    pub(super) fn parent<'p>(&self, from: &OwnedFd, path: &'p str) -> Result<(OwnedFd, &'p str), ErrorCode> {
        let trimmed = path.trim_end_matches('/');
        let (folder, name) = trimmed.rsplit_once('/').unwrap_or(("", trimmed));
        if matches!(name, "" | "." | "..") {
            return Err(ErrorCode::NotPermitted);
        }
        Ok((self.open(from, folder, OFlags::PATH | OFlags::DIRECTORY, true)?, name))
    }

    pub(super) fn make_folder(&self, from: &OwnedFd, path: &str) -> Result<(), ErrorCode> {
        self.must_write()?;
        let (folder, name) = self.parent(from, path)?;
        rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o777)).map_err(code)
    }

    pub(super) fn make_link(&self, from: &OwnedFd, path: &str, target: &str) -> Result<(), ErrorCode> {
        self.must_write()?;
        let (folder, name) = self.parent(from, path)?;
        rustix::fs::symlinkat(target, &folder, name).map_err(code)
    }

    pub(super) fn read_link(&self, from: &OwnedFd, path: &str) -> Result<String, ErrorCode> {
        let (folder, name) = self.parent(from, path)?;
        let target = rustix::fs::readlinkat(&folder, name, Vec::new()).map_err(code)?;
        target.into_string().map_err(|_| ErrorCode::IllegalByteSequence)
    }

    pub(super) fn unlink(&self, from: &OwnedFd, path: &str) -> Result<(), ErrorCode> {
        self.must_delete()?;
        let (folder, name) = self.parent(from, path)?;
        let size =
            match rustix::fs::statx(&folder, name, AtFlags::SYMLINK_NOFOLLOW, rustix::fs::StatxFlags::BASIC_STATS) {
                Ok(stat) if stat.stx_nlink == 1 && stat.stx_mode & libc::S_IFMT as u16 == libc::S_IFREG as u16 => {
                    stat.stx_size
                }
                _ => 0,
            };
        rustix::fs::unlinkat(&folder, name, AtFlags::empty()).map_err(|errno| match errno {
            // What Linux says about a folder here, in the words of POSIX.
            Errno::ISDIR => ErrorCode::IsDirectory,
            other => code(other),
        })?;
        self.give_back(size);
        Ok(())
    }

    pub(super) fn remove_folder(&self, from: &OwnedFd, path: &str) -> Result<(), ErrorCode> {
        self.must_delete()?;
        let (folder, name) = self.parent(from, path)?;
        rustix::fs::unlinkat(&folder, name, AtFlags::REMOVEDIR).map_err(code)
    }

    pub(super) fn rename(&self, from: (&OwnedFd, &str), to: (&OwnedFd, &str)) -> Result<(), ErrorCode> {
        self.must_delete()?;
        self.must_write()?;
        let (folder, name) = self.parent(from.0, from.1)?;
        let (new_folder, new_name) = self.parent(to.0, to.1)?;
        rustix::fs::renameat_with(&folder, name, &new_folder, new_name, RenameFlags::empty()).map_err(code)?;
        // A file that was replaced has given its bytes back; counting again is the simple way to know.
        if let Some(used) = self.used.get() {
            used.store(count(&self.root, 0), Ordering::Relaxed);
        }
        Ok(())
    }

    pub(super) fn set_times(&self, file: &impl AsFd, times: &Timestamps) -> Result<(), ErrorCode> {
        self.must_write()?;
        rustix::fs::futimens(file, times).map_err(code)
    }

    pub(super) fn write(&self, file: &File, offset: Option<u64>, bytes: &[u8]) -> Result<u64, ErrorCode> {
        self.must_write()?;
        let len = file.metadata().map_err(io_code)?.len();
        let from = offset.unwrap_or(len);
        let end = from.checked_add(bytes.len() as u64).ok_or(ErrorCode::FileTooLarge)?;
        self.take(end.saturating_sub(len))?;
        match std::os::unix::fs::FileExt::write_all_at(file, bytes, from) {
            Ok(()) => Ok(end),
            Err(error) => {
                self.give_back(end.saturating_sub(len));
                Err(io_code(error))
            }
        }
    }

    pub(super) fn set_len(&self, file: &File, len: u64) -> Result<(), ErrorCode> {
        self.must_write()?;
        let old = file.metadata().map_err(io_code)?.len();
        self.take(len.saturating_sub(old))?;
        file.set_len(len).map_err(|error| {
            self.give_back(len.saturating_sub(old));
            io_code(error)
        })?;
        self.give_back(old.saturating_sub(len));
        Ok(())
    }

    /// A file was emptied by opening it.
    pub(super) fn give_back(&self, bytes: u64) {
        if let Some(used) = self.used.get() {
            let less = |used: u64| Some(used.saturating_sub(bytes));
            let _ = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }

    fn take(&self, bytes: u64) -> Result<(), ErrorCode> {
        let Some(max) = self.max_bytes else { return Ok(()) };
        let used = self.used.get_or_init(|| AtomicU64::new(count(&self.root, 0)));
        let sum = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= max);
        used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum).map(drop).map_err(|_| ErrorCode::InsufficientSpace)
    }

    pub(super) fn must_write(&self) -> Result<(), ErrorCode> {
        if self.rights.write { Ok(()) } else { Err(ErrorCode::ReadOnly) }
    }

    fn must_delete(&self) -> Result<(), ErrorCode> {
        match (self.rights.delete, self.rights.write) {
            (true, _) => Ok(()),
            (false, true) => Err(ErrorCode::NotPermitted),
            (false, false) => Err(ErrorCode::ReadOnly),
        }
    }
}

/// Bytes in the files below `folder`. What cannot be read counts as nothing.
fn count(folder: &OwnedFd, depth: usize) -> u64 {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(opened) = rustix::fs::openat2(folder, ".", flags, Mode::empty(), WITHIN) else { return 0 };
    let Ok(entries) = Dir::new(opened) else { return 0 };
    let mut sum = 0u64;
    for entry in entries.flatten() {
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(opened) = rustix::fs::openat2(folder, name, flags, Mode::empty(), WITHIN) else { continue };
        let Ok(stat) = rustix::fs::fstat(&opened) else { continue };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => sum = sum.saturating_add(stat.st_size.cast_unsigned()),
            FileType::Directory if depth < DEPTH_MAX => sum = sum.saturating_add(count(&opened, depth + 1)),
            _ => {}
        }
    }
    sum
}

/// The kernel's words in WASI's.
pub(super) fn code(errno: Errno) -> ErrorCode {
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

pub(super) fn io_code(error: io::Error) -> ErrorCode {
    Errno::from_io_error(&error).map_or(ErrorCode::Io, code)
}
