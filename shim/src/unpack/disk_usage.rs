use std::{collections::HashSet, io, path::Path};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat},
    path::Arg,
};

/// A name and what the file system notes about it, roughly: a million empty files take space too.
const ENTRY_BYTES: u64 = 512;

/// What the tree below `folder` takes of the disk. Follows no link.
pub(crate) fn of(folder: &Path) -> io::Result<u64> {
    below(CWD, folder, &mut HashSet::new())
}

/// By name in an open folder, because whole paths may be longer than the kernel takes.
fn below(at: impl std::os::fd::AsFd, name: impl Arg, seen: &mut HashSet<u64>) -> io::Result<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(at, name, flags, Mode::empty())?;
    let mut bytes = 0;
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        bytes += ENTRY_BYTES;
        if kind == FileType::Directory || stat.st_nlink == 1 || seen.insert(stat.st_ino) {
            bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        }
        if kind == FileType::Directory {
            bytes += below(&folder, name, seen)?;
        }
    }
    Ok(bytes)
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
    }
}
