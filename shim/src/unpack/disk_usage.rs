//! What a folder takes of the disk.

use std::{collections::HashSet, io, path::Path};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat},
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
    measure(folder, u32::MAX).map(|measured| measured.bytes)
}

/// The same for a tree that changes meanwhile, and in which folders are in each other at most
/// `depth_max` times.
///
/// # Errors
/// [`io::ErrorKind::QuotaExceeded`] for one that is deeper.
pub(crate) fn measure(folder: &Path, depth_max: u32) -> io::Result<Measured> {
    let mut walk = Walk { measured: Measured::default(), seen: HashSet::new() };
    walk.below(CWD, folder, depth_max)?;
    Ok(walk.measured)
}

struct Walk {
    measured: Measured,
    /// Files with several names.
    seen: HashSet<u64>,
}

impl Walk {
    /// By name in an open folder, because whole paths may be longer than the kernel takes.
    fn below(
        &mut self,
        at: impl std::os::fd::AsFd,
        name: impl Arg,
        depth_max: u32,
    ) -> io::Result<()> {
        let Some(depth_left) = depth_max.checked_sub(1) else {
            return Err(io::ErrorKind::QuotaExceeded.into());
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = openat(at, name, flags, Mode::empty())?;
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = match statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                stat => stat?,
            };
            let kind = FileType::from_raw_mode(stat.st_mode);
            self.measured.files += 1;
            self.measured.bytes += ENTRY_BYTES;
            let is_folder = kind == FileType::Directory;
            if is_folder || stat.st_nlink == 1 || self.seen.insert(stat.st_ino) {
                self.measured.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
            }
            if is_folder {
                match self.below(&folder, name, depth_left) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    walked => walked?,
                }
            }
        }
        Ok(())
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
        assert_eq!(measure(&tree, 3).unwrap(), Measured { bytes, files: 5 });
        let error = measure(&tree, 2).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded, "two folders below the first");
    }
}
