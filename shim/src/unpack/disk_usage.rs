//! What a folder takes of the disk.

use std::{
    collections::HashSet,
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, DirEntry, FileType, Mode, OFlags, openat, statat},
    io::Errno,
    path::Arg,
};

/// A name and what the file system notes about it, roughly: a million empty files take space too.
const ENTRY_BYTES: u64 = 512;

/// What was found in a tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Measured {
    pub bytes: u64,
    pub files: u64,
}

/// What the tree below `folder` takes of the disk. Follows no link.
pub(crate) fn of(folder: &Path) -> io::Result<u64> {
    let mut walk = Walk::of(folder, usize::MAX)?;
    while walk.step(usize::MAX)? {}
    Ok(walk.measured.bytes)
}

/// A walk over a tree that may change meanwhile, some entries at a time. Follows no link.
pub(crate) struct Walk {
    pub measured: Measured,
    /// Files with several names.
    seen: HashSet<u64>,
    /// The open folders, each in the one before.
    path: Vec<Level>,
    depth_max: usize,
}

struct Level {
    folder: OwnedFd,
    entries: Dir,
}

impl Walk {
    /// Begins at `folder`, in which folders are in each other at most `depth_max` times.
    pub(crate) fn of(folder: &Path, depth_max: usize) -> io::Result<Self> {
        let (measured, seen) = (Measured::default(), HashSet::new());
        Ok(Self { measured, seen, path: vec![Level::open(CWD, folder)?], depth_max })
    }

    /// Looks at `entries_max` entries. Whether there are more.
    ///
    /// # Errors
    /// [`io::ErrorKind::QuotaExceeded`] for a tree that is deeper.
    pub(crate) fn step(&mut self, entries_max: usize) -> io::Result<bool> {
        for _ in 0..entries_max {
            let Some(level) = self.path.last_mut() else { return Ok(false) };
            match level.entries.read() {
                Some(entry) => self.look(&entry?)?,
                None => drop(self.path.pop()),
            }
        }
        Ok(!self.path.is_empty())
    }

    fn look(&mut self, entry: &DirEntry) -> io::Result<()> {
        let name = entry.file_name();
        let Some(level) = self.path.last() else { return Ok(()) };
        if matches!(name.to_bytes(), b"." | b"..") {
            return Ok(());
        }
        let stat = match statat(&level.folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            stat => stat?,
        };
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        self.measured.files += 1;
        self.measured.bytes += ENTRY_BYTES;
        if is_folder || stat.st_nlink == 1 || self.seen.insert(stat.st_ino) {
            self.measured.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        }
        if !is_folder {
            return Ok(());
        }
        if self.path.len() >= self.depth_max {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        // By name in an open folder, because whole paths may be longer than the kernel takes.
        match Level::open(&level.folder, name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            below => self.path.push(below?),
        }
        Ok(())
    }
}

impl Level {
    fn open(at: impl AsFd, name: impl Arg) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = openat(at, name, flags, Mode::empty())?;
        let entries = Dir::read_from(&folder)?;
        Ok(Self { folder, entries })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_counted_once_for_each_file_and_never_through_a_link() {
        let root = tempfile::tempdir().unwrap();
        let (tree, outside) = (root.path().join("tree"), root.path().join("outside"));
        std::fs::create_dir_all(tree.join("a/b")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("big"), vec![1; 4 << 20]).unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("link")).unwrap();
        std::fs::write(tree.join("a/b/file"), vec![1; 1 << 20]).unwrap();
        std::fs::hard_link(tree.join("a/b/file"), tree.join("a/again")).unwrap();
        let bytes = of(&tree).unwrap();
        assert!((1 << 20..(1 << 20) + (64 << 10)).contains(&bytes), "{bytes}");
        let mut walk = Walk::of(&tree, 3).unwrap();
        while walk.step(1).unwrap() {}
        assert_eq!(walk.measured, Measured { bytes, files: 5 });
        let error = Walk::of(&tree, 2).unwrap().step(100).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded, "two folders below the first");
    }
}
