use std::{
    collections::HashMap,
    fs::File,
    io,
    ops::Deref,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Statx, StatxFlags,
        Timestamps,
    },
    io::Errno,
};
use spec::Rights;

use super::host::ErrorCode;

/// A granted folder of the host, as a detached mount.
pub(crate) struct Volume {
    root: Arc<OwnedFd>,
    pub(super) rights: Rights,
    /// What its limit counts; `None` without a limit. Locked for each change of a length or a name,
    /// so that what was charged is what there is.
    space: Option<Arc<Mutex<Space>>>,
}

/// Never out of the folder, not by `..`, not by a link, not into another mount, not through
/// `/proc`.
const WITHIN: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV);

/// No folder is made or moved below this depth of a volume with a limit: each level of counting
/// holds descriptors.
const DEPTH_MAX: usize = 64;

/// What a file, folder or link costs beyond its content: a block, so that a limit of bytes is one
/// of inodes too.
const ENTRY_BYTES: u64 = 4096;

/// How much of a volume's limit is used.
struct Space {
    max: u64,
    /// Counted before the first change and kept up from then on.
    used: Option<u64>,
    /// Files that descriptors of ours keep alive, by inode.
    open: HashMap<u64, Held>,
}

#[derive(Default)]
struct Held {
    handles: usize,
    /// No name leads to it any more: its bytes come back when the last descriptor goes.
    removed: bool,
}

impl Space {
    fn take(&mut self, bytes: u64) -> Result<(), ErrorCode> {
        // What could not be counted counts as full.
        let sum = self.used.and_then(|used| used.checked_add(bytes)).filter(|sum| *sum <= self.max);
        self.used = Some(sum.ok_or(ErrorCode::InsufficientSpace)?);
        Ok(())
    }

    fn give_back(&mut self, bytes: u64) {
        if let Some(used) = self.used.as_mut().filter(|used| **used != u64::MAX) {
            *used = used.saturating_sub(bytes);
        }
    }

    /// A name that led to `thing` is gone.
    fn lost(&mut self, thing: &Statx) {
        let whole = kind(thing) == FileType::RegularFile && thing.stx_nlink == 1;
        match self.open.get_mut(&thing.stx_ino).filter(|_| whole) {
            Some(held) => held.removed = true,
            None => self.give_back(ENTRY_BYTES + if whole { thing.stx_size } else { 0 }),
        }
    }
}

/// A file of a volume, held open.
pub struct OpenFile {
    file: File,
    held: Option<(u64, Arc<Mutex<Space>>)>,
}

impl Deref for OpenFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let Some((inode, space)) = &self.held else { return };
        let mut space = space.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(held) = space.open.get_mut(inode) else { return };
        held.handles -= 1;
        if held.handles == 0 {
            let removed = held.removed;
            space.open.remove(inode);
            if removed {
                space.give_back(
                    ENTRY_BYTES + self.file.metadata().map_or(0, |metadata| metadata.len()),
                );
            }
        }
    }
}

/// What opening led to.
pub(super) enum Opened {
    Folder(OwnedFd),
    File(OpenFile),
}

impl Volume {
    pub fn new(root: OwnedFd, rights: Rights, max_bytes: Option<u64>) -> Self {
        let space = max_bytes
            .map(|max| Arc::new(Mutex::new(Space { max, used: None, open: HashMap::new() })));
        Self { root: Arc::new(root), rights, space }
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
        self.space.as_ref().map(|space| space.lock().unwrap_or_else(PoisonError::into_inner).max)
    }

    pub(super) fn root(&self) -> Arc<OwnedFd> {
        self.root.clone()
    }

    /// Opens without counting: for looking, and for folders.
    pub(super) fn open(
        &self,
        from: &OwnedFd,
        path: &str,
        flags: OFlags,
        follow: bool,
    ) -> Result<OwnedFd, ErrorCode> {
        let path = if path.is_empty() { "." } else { path };
        let follow = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
        // Everyone who may mount the volume may use what is in it: each task has an uid of its own,
        // and the folder above is closed to all others.
        let mode =
            if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o666) } else { Mode::empty() };
        // A descriptor for nothing but its place takes no word on how to read it.
        let waits = if flags.contains(OFlags::PATH) {
            OFlags::empty()
        } else {
            OFlags::NOCTTY | OFlags::NONBLOCK
        };
        let flags = flags | follow | waits | OFlags::CLOEXEC;
        rustix::fs::openat2(from, path, flags, mode, WITHIN).map_err(code)
    }

    /// Opens a file or a folder for a guest.
    pub(super) fn open_thing(
        &self,
        from: &OwnedFd,
        path: &str,
        flags: OFlags,
        follow: bool,
    ) -> Result<Opened, ErrorCode> {
        let creates = flags.contains(OFlags::CREATE);
        // Locked until the descriptor is counted: nobody may remove the file in between.
        let mut space = if creates { self.counted() } else { self.space() };
        let fd = match &mut space {
            Some(space) if creates => self.create(space, from, path, flags, follow)?,
            _ => self.open(from, path, flags, follow)?,
        };
        let stat = rustix::fs::fstat(&fd).map_err(code)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Ok(Opened::Folder(fd)),
            FileType::RegularFile => {
                if let Some(space) = &mut space {
                    space.open.entry(stat.st_ino).or_default().handles += 1;
                }
                let held = self.space.clone().map(|space| (stat.st_ino, space));
                Ok(Opened::File(OpenFile { file: fd.into(), held }))
            }
            // Pipes and sockets of somebody else's program are no files of ours.
            _ => Err(ErrorCode::NotPermitted),
        }
    }

    /// Opens what is there, or pays for a new file.
    fn create(
        &self,
        space: &mut Space,
        from: &OwnedFd,
        path: &str,
        flags: OFlags,
        follow: bool,
    ) -> Result<OwnedFd, ErrorCode> {
        if !flags.contains(OFlags::EXCL) {
            match self.open(from, path, flags - OFlags::CREATE, follow) {
                Err(ErrorCode::NoEntry) => {}
                known => return known,
            }
        }
        space.take(ENTRY_BYTES)?;
        self.open(from, path, flags, follow).inspect_err(|_| space.give_back(ENTRY_BYTES))
    }

    /// The folder that holds the last name of `path`, and that name.
    pub(super) fn parent<'p>(
        &self,
        from: &OwnedFd,
        path: &'p str,
    ) -> Result<(OwnedFd, &'p str), ErrorCode> {
        let trimmed = path.trim_end_matches('/');
        let (folder, name) = trimmed.rsplit_once('/').unwrap_or(("", trimmed));
        if matches!(name, "" | "." | "..") {
            return Err(ErrorCode::NotPermitted);
        }
        Ok((self.open(from, folder, OFlags::PATH | OFlags::DIRECTORY, true)?, name))
    }

    pub(super) fn make_folder(&self, from: &OwnedFd, path: &str) -> Result<(), ErrorCode> {
        self.must_write()?;
        let mut space = self.counted();
        let (folder, name) = self.parent(from, path)?;
        if space.is_some() && self.depth(&folder)? >= DEPTH_MAX {
            return Err(ErrorCode::NameTooLong);
        }
        paid(space.as_deref_mut(), || {
            rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o777))
        })
    }

    pub(super) fn make_link(
        &self,
        from: &OwnedFd,
        path: &str,
        target: &str,
    ) -> Result<(), ErrorCode> {
        self.must_write()?;
        let mut space = self.counted();
        let (folder, name) = self.parent(from, path)?;
        paid(space.as_deref_mut(), || rustix::fs::symlinkat(target, &folder, name))
    }

    pub(super) fn read_link(&self, from: &OwnedFd, path: &str) -> Result<String, ErrorCode> {
        let (folder, name) = self.parent(from, path)?;
        let target = rustix::fs::readlinkat(&folder, name, Vec::new()).map_err(code)?;
        target.into_string().map_err(|_| ErrorCode::IllegalByteSequence)
    }

    pub(super) fn unlink(&self, from: &OwnedFd, path: &str) -> Result<(), ErrorCode> {
        self.remove(from, path, AtFlags::empty())
    }

    pub(super) fn remove_folder(&self, from: &OwnedFd, path: &str) -> Result<(), ErrorCode> {
        self.remove(from, path, AtFlags::REMOVEDIR)
    }

    fn remove(&self, from: &OwnedFd, path: &str, flags: AtFlags) -> Result<(), ErrorCode> {
        self.must_delete()?;
        let mut space = self.counted();
        let (folder, name) = self.parent(from, path)?;
        let thing = seen(&folder, name);
        rustix::fs::unlinkat(&folder, name, flags).map_err(code)?;
        if let (Some(space), Ok(thing)) = (&mut space, thing) {
            space.lost(&thing);
        }
        Ok(())
    }

    pub(super) fn rename(
        &self,
        from: (&OwnedFd, &str),
        to: (&OwnedFd, &str),
    ) -> Result<(), ErrorCode> {
        self.must_delete()?;
        self.must_write()?;
        let mut space = self.counted();
        let (folder, name) = self.parent(from.0, from.1)?;
        let (new_folder, new_name) = self.parent(to.0, to.1)?;
        let (moved, replaced) = (seen(&folder, name)?, seen(&new_folder, new_name));
        if space.is_some() && kind(&moved) == FileType::Directory {
            self.must_fit((&folder, name), &new_folder)?;
        }
        rustix::fs::renameat_with(&folder, name, &new_folder, new_name, RenameFlags::empty())
            .map_err(code)?;
        if let (Some(space), Ok(replaced)) = (&mut space, replaced)
            && replaced.stx_ino != moved.stx_ino
        {
            space.lost(&replaced);
        }
        Ok(())
    }

    /// Whether the folder `name` fits below `to` with all that is in it.
    fn must_fit(&self, (folder, name): (&OwnedFd, &str), to: &OwnedFd) -> Result<(), ErrorCode> {
        let below = self.depth(to)?;
        if below <= self.depth(folder)? {
            return Ok(());
        }
        let moved = self.open(folder, name, OFlags::PATH | OFlags::DIRECTORY, false)?;
        match count(&moved, below + 1) {
            Ok(_) => Ok(()),
            Err(Uncounted::TooDeep) => Err(ErrorCode::NameTooLong),
            Err(Uncounted::Failed) => Err(ErrorCode::Io),
        }
    }

    /// How many folders `folder` is below the root.
    fn depth(&self, folder: &OwnedFd) -> Result<usize, ErrorCode> {
        let inode =
            |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).map(|stat| stat.st_ino).map_err(code);
        let root = inode(self.root.as_fd())?;
        let mut here = None::<OwnedFd>;
        for depth in 0..=DEPTH_MAX {
            let fd = here.as_ref().map_or(folder.as_fd(), AsFd::as_fd);
            if inode(fd)? == root {
                return Ok(depth);
            }
            // Only to count the way up; a detached mount has nothing above its root.
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            here = Some(
                rustix::fs::openat2(fd, "..", flags, Mode::empty(), ResolveFlags::NO_XDEV)
                    .map_err(code)?,
            );
        }
        Ok(DEPTH_MAX + 1)
    }

    pub(super) fn set_times(&self, file: &impl AsFd, times: &Timestamps) -> Result<(), ErrorCode> {
        self.must_write()?;
        rustix::fs::futimens(file, times).map_err(code)
    }

    pub(super) fn write(
        &self,
        file: &OpenFile,
        offset: Option<u64>,
        bytes: &[u8],
    ) -> Result<u64, ErrorCode> {
        self.must_write()?;
        let mut space = self.counted();
        let len = file.metadata().map_err(io_code)?.len();
        let from = offset.unwrap_or(len);
        if bytes.is_empty() {
            return Ok(from);
        }
        let end = from.checked_add(bytes.len() as u64).ok_or(ErrorCode::FileTooLarge)?;
        if let Some(space) = &mut space {
            space.take(end.saturating_sub(len))?;
        }
        std::os::unix::fs::FileExt::write_all_at(&**file, bytes, from).map_err(|error| {
            // It may have been written in part.
            if let (Some(space), Ok(now)) = (&mut space, file.metadata()) {
                space.give_back(end.saturating_sub(now.len().max(len)));
            }
            io_code(error)
        })?;
        Ok(end)
    }

    pub(super) fn set_len(&self, file: &OpenFile, len: u64) -> Result<(), ErrorCode> {
        self.must_write()?;
        let mut space = self.counted();
        let old = file.metadata().map_err(io_code)?.len();
        if let Some(space) = &mut space {
            space.take(len.saturating_sub(old))?;
        }
        let set = file.set_len(len).map_err(io_code);
        if let Some(space) = &mut space {
            let over = if set.is_ok() { old.saturating_sub(len) } else { len.saturating_sub(old) };
            space.give_back(over);
        }
        set
    }

    fn space(&self) -> Option<MutexGuard<'_, Space>> {
        self.space.as_ref().map(|space| space.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// As [`space`](Self::space), with what is there counted: for everything that changes it.
    fn counted(&self) -> Option<MutexGuard<'_, Space>> {
        let mut space = self.space()?;
        if space.used.is_none() {
            space.used = match count(&self.root, 0) {
                Ok(bytes) => Some(bytes),
                Err(Uncounted::TooDeep) => Some(u64::MAX),
                // Tried again next time.
                Err(Uncounted::Failed) => None,
            };
        }
        Some(space)
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

/// Makes one entry, paid for if there is a limit.
fn paid(
    space: Option<&mut Space>,
    make: impl FnOnce() -> Result<(), Errno>,
) -> Result<(), ErrorCode> {
    let Some(space) = space else { return make().map_err(code) };
    space.take(ENTRY_BYTES)?;
    make().map_err(|errno| {
        space.give_back(ENTRY_BYTES);
        code(errno)
    })
}

fn seen(folder: &OwnedFd, name: &str) -> Result<Statx, ErrorCode> {
    rustix::fs::statx(folder, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)
        .map_err(code)
}

fn kind(thing: &Statx) -> FileType {
    FileType::from_raw_mode(thing.stx_mode.into())
}

/// Why there is no count.
enum Uncounted {
    /// There are folders below [`DEPTH_MAX`], which we do not make.
    TooDeep,
    Failed,
}

/// What all below `folder` costs, which itself is `depth` below the root. What may not be read
/// costs nothing: a guest cannot have made it.
fn count(folder: &OwnedFd, depth: usize) -> Result<u64, Uncounted> {
    if depth > DEPTH_MAX {
        return Err(Uncounted::TooDeep);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Some(opened) = known(rustix::fs::openat2(folder, ".", flags, Mode::empty(), WITHIN))?
    else {
        return Ok(0);
    };
    let mut sum = 0u64;
    for entry in Dir::new(opened).map_err(|_| Uncounted::Failed)? {
        let entry = entry.map_err(|_| Uncounted::Failed)?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Some(opened) = known(rustix::fs::openat2(folder, name, flags, Mode::empty(), WITHIN))?
        else {
            continue;
        };
        let stat = rustix::fs::fstat(&opened).map_err(|_| Uncounted::Failed)?;
        let content = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => stat.st_size.cast_unsigned(),
            FileType::Directory => count(&opened, depth + 1)?,
            _ => 0,
        };
        sum = sum.saturating_add(content).saturating_add(ENTRY_BYTES);
    }
    Ok(sum)
}

/// `None` for what is not there, not ours to read, or another mount.
fn known(opened: Result<OwnedFd, Errno>) -> Result<Option<OwnedFd>, Uncounted> {
    match opened {
        Ok(opened) => Ok(Some(opened)),
        Err(Errno::NOENT | Errno::ACCESS | Errno::PERM | Errno::XDEV) => Ok(None),
        Err(_) => Err(Uncounted::Failed),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;

    fn volume(name: &str, max: u64) -> (std::path::PathBuf, Volume) {
        let path =
            std::env::temp_dir().join(format!("margay-volume-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        let root = File::open(&path).unwrap().into();
        (path, Volume::new(root, "rwd".parse().unwrap(), Some(max)))
    }

    fn used(volume: &Volume) -> u64 {
        volume.counted().unwrap().used.unwrap()
    }

    fn made(volume: &Volume, path: &str) -> Result<OpenFile, ErrorCode> {
        match volume.open_thing(&volume.root, path, OFlags::RDWR | OFlags::CREATE, true)? {
            Opened::File(file) => Ok(file),
            Opened::Folder(_) => Err(ErrorCode::IsDirectory),
        }
    }

    #[test]
    fn bytes_come_back_when_the_last_descriptor_goes() {
        let (path, volume) = volume("unlink", 100 * KIB);
        let (one, two) = (made(&volume, "file").unwrap(), made(&volume, "file").unwrap());
        volume.write(&one, None, &[1; 60 << 10]).unwrap();
        volume.unlink(&volume.root, "file").unwrap();
        let other = made(&volume, "other").unwrap();
        assert_eq!(volume.write(&other, None, &[1; 60 << 10]), Err(ErrorCode::InsufficientSpace));
        drop(one);
        assert_eq!(
            volume.set_len(&other, 60 * KIB),
            Err(ErrorCode::InsufficientSpace),
            "one still holds it"
        );
        volume.set_len(&two, 10 * KIB).unwrap();
        assert_eq!(volume.set_len(&other, 60 * KIB), Ok(()));
        drop(two);
        assert_eq!(used(&volume), 64 * KIB);
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn entries_cost_a_block_each_and_give_it_back() {
        let (path, volume) = volume("entries", 40 * KIB);
        let root = &volume.root;
        volume.make_folder(root, "folder").unwrap();
        volume.make_link(root, "link", "folder").unwrap();
        let made = (0..100).take_while(|n| made(&volume, &format!("folder/{n}")).is_ok()).count();
        assert_eq!(made, 8);
        assert_eq!(volume.make_folder(root, "more"), Err(ErrorCode::InsufficientSpace));
        for n in 0..made {
            volume.unlink(root, &format!("folder/{n}")).unwrap();
        }
        volume.remove_folder(root, "folder").unwrap();
        volume.unlink(root, "link").unwrap();
        assert_eq!(used(&volume), 0);
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_rename_gives_back_what_it_replaced_and_nothing_else() {
        let (path, volume) = volume("rename", 1 << 20);
        let root = &volume.root;
        for name in ["one", "two", "held"] {
            volume.set_len(&made(&volume, name).unwrap(), 10 * KIB).unwrap();
        }
        volume.rename((root, "one"), (root, "two")).unwrap();
        assert_eq!(used(&volume), 2 * 14 * KIB);
        let held = made(&volume, "held").unwrap();
        volume.rename((root, "two"), (root, "held")).unwrap();
        assert_eq!(used(&volume), 2 * 14 * KIB);
        drop(held);
        assert_eq!(used(&volume), 14 * KIB);
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn no_folder_is_made_or_moved_out_of_what_is_counted() {
        let (path, volume) = volume("deep", 100 << 20);
        let root = &volume.root;
        let deep = |depth: usize| vec!["d"; depth].join("/");
        for depth in 1..=DEPTH_MAX {
            volume.make_folder(root, &deep(depth)).unwrap();
        }
        assert_eq!(volume.make_folder(root, &deep(DEPTH_MAX + 1)), Err(ErrorCode::NameTooLong));
        volume
            .set_len(&made(&volume, &format!("{}/file", deep(DEPTH_MAX))).unwrap(), 1 << 20)
            .unwrap();
        volume.make_folder(root, "below").unwrap();
        assert_eq!(volume.rename((root, "d"), (root, "below/d")), Err(ErrorCode::NameTooLong));
        assert_eq!(volume.rename((root, "d"), (root, "e")), Ok(()));
        let (kept, again) = (
            used(&volume),
            Volume::new(File::open(&path).unwrap().into(), volume.rights, Some(1 << 30)),
        );
        assert_eq!(used(&again), kept);
        std::fs::create_dir_all(path.join(deep(DEPTH_MAX + 1))).unwrap();
        let again = Volume::new(File::open(&path).unwrap().into(), volume.rights, Some(1 << 30));
        assert_eq!(
            made(&again, "file").map(drop),
            Err(ErrorCode::InsufficientSpace),
            "what cannot be counted is full"
        );
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn two_who_truncate_at_once_give_back_once() {
        let (path, volume) = volume("race", 1 << 30);
        let kept = made(&volume, "kept").unwrap();
        volume.set_len(&kept, 1 << 20).unwrap();
        let file = made(&volume, "file").unwrap();
        let before = used(&volume);
        for _ in 0..300 {
            volume.set_len(&file, 1 << 16).unwrap();
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| volume.set_len(&file, 0).unwrap());
                }
            });
            assert_eq!(used(&volume), before);
        }
        std::fs::remove_dir_all(path).unwrap();
    }
}
