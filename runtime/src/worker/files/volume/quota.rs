//! The quota of a volume: a wrapper around it that counts what is there, and refuses what would be
//! more than its limit.

use std::{
    collections::HashMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags},
    io::Errno,
};

use super::{
    folder::{Node, Place, Volume, VolumeFile},
    kernel::{WITHIN, code, flags, make_folder, make_link, open, remove, rename},
    listing::Listing,
};
use crate::limits::{VOLUME_DEPTH_MAX, VOLUME_ENTRY_BYTES};
use crate::worker::files::filesystem::{
    ErrorCode, Filesystem, NewTimes, OpenFile, Opened, Opening, Result, Stat,
};

/// A volume whose content is limited.
pub(super) struct Limited {
    volume: Volume,
    quota: Arc<Quota>,
}

/// How much of a limit is used. Locked for each change of a length or a name, so that what was
/// charged is what there is.
struct Quota {
    root: Arc<OwnedFd>,
    space: Mutex<Space>,
}

struct Space {
    max: u64,
    /// Counted before the first change and kept up from then on.
    used: Option<u64>,
    /// Files that open descriptors keep alive, by inode.
    open: HashMap<u64, Held>,
}

#[derive(Default)]
struct Held {
    handles: usize,
    /// No name leads to it any more: its bytes come back when the last descriptor goes.
    removed: bool,
}

impl Limited {
    pub fn new(volume: Volume, max: u64) -> Self {
        let space = Mutex::new(Space { max, used: None, open: HashMap::new() });
        let quota = Arc::new(Quota { root: volume.root(), space });
        Self { volume, quota }
    }

    /// Opens what is there, or pays for a new file.
    fn create(&self, space: &mut Space, at: &Place, flags: OFlags) -> Result<Node> {
        if !flags.contains(OFlags::EXCL) {
            match self.volume.find(at, flags - OFlags::CREATE) {
                Err(ErrorCode::NoEntry) => {}
                known => return known,
            }
        }
        space.paid(|| self.volume.find(at, flags))
    }

    /// Whether the folder `name` fits below `to` with all that is in it.
    fn must_fit(&self, (folder, name): (&OwnedFd, &str), to: &OwnedFd) -> Result<()> {
        let below = self.depth(to)?;
        if below <= self.depth(folder)? {
            return Ok(());
        }
        let moved = open(folder, name, OFlags::PATH | OFlags::DIRECTORY, false)?;
        match count(&moved, below + 1) {
            Ok(_) => Ok(()),
            Err(Uncounted::TooDeep) => Err(ErrorCode::NameTooLong),
            Err(Uncounted::Failed) => Err(ErrorCode::Io),
        }
    }

    /// How many folders `folder` is below the root.
    fn depth(&self, folder: &OwnedFd) -> Result<usize> {
        let inode =
            |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).map(|stat| stat.st_ino).map_err(code);
        let root = inode(self.quota.root.as_fd())?;
        let mut here = None::<OwnedFd>;
        for depth in 0..=VOLUME_DEPTH_MAX {
            let fd = here.as_ref().map_or(folder.as_fd(), AsFd::as_fd);
            if inode(fd)? == root {
                return Ok(depth);
            }
            // Only to count the way up; a detached mount has nothing above its root.
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let above = rustix::fs::openat2(fd, "..", flags, Mode::empty(), ResolveFlags::NO_XDEV);
            here = Some(above.map_err(code)?);
        }
        Ok(VOLUME_DEPTH_MAX + 1)
    }
}

impl Filesystem for Limited {
    type Folder = Arc<OwnedFd>;
    type Place = Place;
    type Listing = Listing;

    fn open(&self, at: Place, opening: Opening) -> Result<Opened<Arc<OwnedFd>>> {
        self.volume.may_open(opening)?;
        // Locked until the descriptor is counted: no other may remove the file in between.
        let changes = opening.creates() || opening.truncates();
        let mut space = if changes { self.quota.counted() } else { self.quota.space() };
        let node = match opening.creates() {
            true => self.create(&mut space, &at, flags(opening))?,
            false => self.volume.find(&at, flags(opening))?,
        };
        let (file, inode) = match node {
            Node::Folder(fd) => return Ok(Opened::Folder(Arc::new(fd))),
            Node::File { file, inode } => (file, inode),
        };
        if opening.truncates() {
            space.resize(&file, 0)?;
        }
        space.open.entry(inode).or_default().handles += 1;
        drop(space);
        Ok(Opened::File(Box::new(CountedFile { file, inode, quota: self.quota.clone() })))
    }

    fn stat(&self, at: Place) -> Result<Stat> {
        self.volume.stat(at)
    }

    fn list(&self, folder: &Arc<OwnedFd>) -> Result<Listing> {
        self.volume.list(folder)
    }

    fn read_link(&self, at: Place) -> Result<String> {
        self.volume.read_link(at)
    }

    fn make_folder(&self, at: Place) -> Result<()> {
        let (folder, name) = self.volume.to_make_folder(&at)?;
        let mut space = self.quota.counted();
        if self.depth(&folder)? >= VOLUME_DEPTH_MAX {
            return Err(ErrorCode::NameTooLong);
        }
        space.paid(|| make_folder(&folder, name, self.volume.new_files()))
    }

    fn make_link(&self, target: &str, at: Place) -> Result<()> {
        let (folder, name) = self.volume.to_make_link(&at)?;
        self.quota.counted().paid(|| make_link(target, &folder, name))
    }

    fn unlink(&self, at: Place) -> Result<()> {
        let (folder, name) = self.volume.to_remove(&at, false)?;
        self.quota.counted().removing(&folder, name, AtFlags::empty())
    }

    fn remove_folder(&self, at: Place) -> Result<()> {
        let (folder, name) = self.volume.to_remove(&at, true)?;
        self.quota.counted().removing(&folder, name, AtFlags::REMOVEDIR)
    }

    fn may_rename(&self) -> bool {
        self.volume.may_rename()
    }

    fn rename(&self, from: Place, to: Place) -> Result<()> {
        let ((folder, name), (new_folder, new_name)) = self.volume.to_rename(&from, &to)?;
        let mut space = self.quota.counted();
        let (moved, replaced) = (seen(&folder, name)?, seen(&new_folder, new_name));
        if kind(&moved) == FileType::Directory {
            self.must_fit((&folder, name), &new_folder)?;
        }
        rename((&folder, name), (&new_folder, new_name))?;
        if let Ok(replaced) = replaced
            && replaced.stx_ino != moved.stx_ino
        {
            space.lost(&replaced);
        }
        Ok(())
    }

    fn set_folder_times(&self, folder: &Arc<OwnedFd>, times: NewTimes) -> Result<()> {
        self.volume.set_folder_times(folder, times)
    }
}

impl Quota {
    fn space(&self) -> MutexGuard<'_, Space> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`space`](Self::space), with what is there counted: for everything that changes it.
    fn counted(&self) -> MutexGuard<'_, Space> {
        let mut space = self.space();
        if space.used.is_none() {
            space.used = match count(&self.root, 0) {
                Ok(bytes) => Some(bytes),
                Err(Uncounted::TooDeep) => Some(u64::MAX),
                // Tried again next time.
                Err(Uncounted::Failed) => None,
            };
        }
        space
    }
}

impl Space {
    fn take(&mut self, bytes: u64) -> Result<()> {
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

    /// Makes one entry, which is paid for.
    fn paid<T>(&mut self, make: impl FnOnce() -> Result<T>) -> Result<T> {
        self.take(VOLUME_ENTRY_BYTES)?;
        make().inspect_err(|_| self.give_back(VOLUME_ENTRY_BYTES))
    }

    fn removing(&mut self, folder: &OwnedFd, name: &str, flags: AtFlags) -> Result<()> {
        let entry = seen(folder, name);
        remove(folder, name, flags)?;
        if let Ok(entry) = entry {
            self.lost(&entry);
        }
        Ok(())
    }

    /// A name that led to `entry` is gone.
    fn lost(&mut self, entry: &Statx) {
        let whole = kind(entry) == FileType::RegularFile && entry.stx_nlink == 1;
        match self.open.get_mut(&entry.stx_ino).filter(|_| whole) {
            Some(held) => held.removed = true,
            None => self.give_back(VOLUME_ENTRY_BYTES + if whole { entry.stx_size } else { 0 }),
        }
    }

    fn resize(&mut self, file: &VolumeFile, len: u64) -> Result<()> {
        let old = file.len()?;
        self.take(len.saturating_sub(old))?;
        let set = file.set_len(len);
        let over = if set.is_ok() { old.saturating_sub(len) } else { len.saturating_sub(old) };
        self.give_back(over);
        set
    }
}

/// A file whose length is counted.
struct CountedFile {
    file: VolumeFile,
    inode: u64,
    quota: Arc<Quota>,
}

impl OpenFile for CountedFile {
    fn stat(&self) -> Result<Stat> {
        self.file.stat()
    }

    fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        self.file.read_at(offset, len)
    }

    fn write_at(&self, offset: Option<u64>, bytes: &[u8]) -> Result<u64> {
        let mut space = self.quota.counted();
        let len = self.file.len()?;
        let from = offset.unwrap_or(len);
        if bytes.is_empty() {
            return Ok(from);
        }
        let end = from.checked_add(bytes.len() as u64).ok_or(ErrorCode::FileTooLarge)?;
        space.take(end.saturating_sub(len))?;
        self.file.write_at(Some(from), bytes).inspect_err(|_| {
            // It may have been written in part.
            if let Ok(now) = self.file.len() {
                space.give_back(end.saturating_sub(now.max(len)));
            }
        })
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.quota.counted().resize(&self.file, len)
    }

    fn set_times(&self, times: NewTimes) -> Result<()> {
        self.file.set_times(times)
    }

    fn sync(&self) -> Result<()> {
        self.file.sync()
    }
}

impl Drop for CountedFile {
    fn drop(&mut self) {
        let mut space = self.quota.space();
        let Some(held) = space.open.get_mut(&self.inode) else { return };
        held.handles -= 1;
        if held.handles == 0 {
            let removed = held.removed;
            space.open.remove(&self.inode);
            if removed {
                space.give_back(VOLUME_ENTRY_BYTES + self.file.len().unwrap_or(0));
            }
        }
    }
}

fn seen(folder: &OwnedFd, name: &str) -> Result<Statx> {
    rustix::fs::statx(folder, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)
        .map_err(code)
}

fn kind(entry: &Statx) -> FileType {
    FileType::from_raw_mode(entry.stx_mode.into())
}

/// Why there is no count.
enum Uncounted {
    /// There are folders below [`VOLUME_DEPTH_MAX`], which no guest makes.
    TooDeep,
    Failed,
}

/// What all below `folder` costs, which itself is `depth` below the root. What may not be read
/// costs nothing: a guest cannot have made it.
fn count(folder: &OwnedFd, depth: usize) -> Result<u64, Uncounted> {
    if depth > VOLUME_DEPTH_MAX {
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
        sum = sum.saturating_add(content).saturating_add(VOLUME_ENTRY_BYTES);
    }
    Ok(sum)
}

/// `None` for what is not there, not to be read, or another mount.
fn known(opened: Result<OwnedFd, Errno>) -> Result<Option<OwnedFd>, Uncounted> {
    match opened {
        Ok(opened) => Ok(Some(opened)),
        Err(Errno::NOENT | Errno::ACCESS | Errno::PERM | Errno::XDEV) => Ok(None),
        Err(_) => Err(Uncounted::Failed),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, path::Path};

    use super::*;
    use crate::worker::files::filesystem::{DescriptorFlags, OpenFlags};

    const KIB: u64 = 1 << 10;

    fn limited(path: &Path, max: u64) -> Limited {
        let root = File::open(path).unwrap().into();
        Limited::new(Volume::new(root, "rwd".parse().unwrap(), Some(max)).unwrap(), max)
    }

    fn volume(name: &str, max: u64) -> (std::path::PathBuf, Limited) {
        let path =
            std::env::temp_dir().join(format!("margay-volume-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        let volume = limited(&path, max);
        (path, volume)
    }

    fn at(volume: &Limited, path: &str) -> Place {
        Place { from: volume.quota.root.clone(), path: path.to_owned(), follow: false }
    }

    fn used(volume: &Limited) -> u64 {
        volume.quota.counted().used.unwrap()
    }

    fn made(volume: &Limited, path: &str) -> Result<Box<dyn OpenFile>> {
        let flags = DescriptorFlags::READ | DescriptorFlags::WRITE;
        let opening = Opening { follow: true, open: OpenFlags::CREATE, flags };
        match volume.open(at(volume, path), opening)? {
            Opened::File(file) => Ok(file),
            Opened::Folder(_) => Err(ErrorCode::IsDirectory),
        }
    }

    #[test]
    fn bytes_come_back_when_the_last_descriptor_goes() {
        let (path, volume) = volume("unlink", 100 * KIB);
        let (one, two) = (made(&volume, "file").unwrap(), made(&volume, "file").unwrap());
        one.write_at(None, &[1; 60 << 10]).unwrap();
        volume.unlink(at(&volume, "file")).unwrap();
        let other = made(&volume, "other").unwrap();
        assert_eq!(other.write_at(None, &[1; 60 << 10]), Err(ErrorCode::InsufficientSpace));
        drop(one);
        assert_eq!(
            other.set_len(60 * KIB),
            Err(ErrorCode::InsufficientSpace),
            "one still holds it"
        );
        two.set_len(10 * KIB).unwrap();
        assert_eq!(other.set_len(60 * KIB), Ok(()));
        drop(two);
        assert_eq!(used(&volume), 64 * KIB);
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn entries_cost_a_block_each_and_give_it_back() {
        let (path, volume) = volume("entries", 40 * KIB);
        let at = |path: &str| at(&volume, path);
        volume.make_folder(at("folder")).unwrap();
        volume.make_link("folder", at("link")).unwrap();
        let made = (0..100).take_while(|n| made(&volume, &format!("folder/{n}")).is_ok()).count();
        assert_eq!(made, 8);
        assert_eq!(volume.make_folder(at("more")), Err(ErrorCode::InsufficientSpace));
        for n in 0..made {
            volume.unlink(at(&format!("folder/{n}"))).unwrap();
        }
        volume.remove_folder(at("folder")).unwrap();
        volume.unlink(at("link")).unwrap();
        assert_eq!(used(&volume), 0);
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_rename_gives_back_what_it_replaced_and_nothing_else() {
        let (path, volume) = volume("rename", 1 << 20);
        let at = |path: &str| at(&volume, path);
        for name in ["one", "two", "held"] {
            made(&volume, name).unwrap().set_len(10 * KIB).unwrap();
        }
        volume.rename(at("one"), at("two")).unwrap();
        assert_eq!(used(&volume), 2 * 14 * KIB);
        let held = made(&volume, "held").unwrap();
        volume.rename(at("two"), at("held")).unwrap();
        assert_eq!(used(&volume), 2 * 14 * KIB);
        drop(held);
        assert_eq!(used(&volume), 14 * KIB);
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn no_folder_is_made_or_moved_out_of_what_is_counted() {
        let (path, volume) = volume("deep", 100 << 20);
        let at = |path: &str| at(&volume, path);
        let deep = |depth: usize| vec!["d"; depth].join("/");
        for depth in 1..=VOLUME_DEPTH_MAX {
            volume.make_folder(at(&deep(depth))).unwrap();
        }
        assert_eq!(
            volume.make_folder(at(&deep(VOLUME_DEPTH_MAX + 1))),
            Err(ErrorCode::NameTooLong)
        );
        let file = made(&volume, &format!("{}/file", deep(VOLUME_DEPTH_MAX))).unwrap();
        file.set_len(1 << 20).unwrap();
        volume.make_folder(at("below")).unwrap();
        assert_eq!(volume.rename(at("d"), at("below/d")), Err(ErrorCode::NameTooLong));
        assert_eq!(volume.rename(at("d"), at("e")), Ok(()));
        assert_eq!(used(&limited(&path, 1 << 30)), used(&volume));
        std::fs::create_dir_all(path.join(deep(VOLUME_DEPTH_MAX + 1))).unwrap();
        let again = limited(&path, 1 << 30);
        assert_eq!(
            made(&again, "file").map(drop),
            Err(ErrorCode::InsufficientSpace),
            "what cannot be counted is full"
        );
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn concurrent_truncations_give_back_once() {
        let (path, volume) = volume("race", 1 << 30);
        let kept = made(&volume, "kept").unwrap();
        kept.set_len(1 << 20).unwrap();
        let file = made(&volume, "file").unwrap();
        let before = used(&volume);
        for _ in 0..300 {
            file.set_len(1 << 16).unwrap();
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| file.set_len(0).unwrap());
                }
            });
            assert_eq!(used(&volume), before);
        }
        std::fs::remove_dir_all(path).unwrap();
    }
}
