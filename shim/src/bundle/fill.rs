//! The first content of a volume: what the image has where the volume is mounted, with its owners.

use std::{
    ffi::CStr,
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, RawMode, Stat, Timespec, Timestamps, Uid,
        chownat, fchmod, fchown, fstat, mkdirat, mknodat, openat, readlinkat, statat, symlinkat,
        utimensat,
    },
    io::Errno,
};

use crate::ids::HostIds;
use crate::limits::{FILL_BYTES_MAX, FILL_DEPTH_MAX, FILL_FILES_MAX};

/// Copies what is in `from` into `to`, which is empty and gets the owner and mode of `from`.
/// Follows no link. Devices, sockets and extended attributes stay behind. `from` is shown with the
/// ids of a container, and `to` is as it is on disk.
///
/// # Errors
/// Also when there is more than a volume is filled with.
pub(crate) fn fill(from: &OwnedFd, to: &Path, ids: HostIds) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let from = openat(from, ".", flags, Mode::empty())?;
    let to = openat(CWD, to, flags, Mode::empty())?;
    let mut copied = Copied { files: 0, bytes: 0, ids };
    copied.folder(&from, &to, 0)
}

struct Copied {
    files: u64,
    bytes: u64,
    ids: HostIds,
}

impl Copied {
    fn owner(&self, stat: &Stat) -> (Uid, Gid) {
        (Uid::from_raw(self.ids.on_disk(stat.st_uid)), Gid::from_raw(self.ids.on_disk(stat.st_gid)))
    }

    fn folder(&mut self, from: &OwnedFd, to: &OwnedFd, depth: u32) -> io::Result<()> {
        if depth > FILL_DEPTH_MAX {
            return Err(io::Error::other(format!("it is deeper than {FILL_DEPTH_MAX} folders")));
        }
        for entry in Dir::read_from(from)? {
            let entry = entry?;
            let name = entry.file_name();
            if !matches!(name.to_bytes(), b"." | b"..") {
                self.entry(from, to, name, depth)?;
            }
        }
        // Last, so that neither its mode nor its time is in the way of its content.
        let stat = fstat(from)?;
        let (uid, gid) = self.owner(&stat);
        fchown(to, Some(uid), Some(gid))?;
        fchmod(to, mode(&stat))?;
        Ok(rustix::fs::futimens(to, &times(&stat))?)
    }

    fn entry(&mut self, from: &OwnedFd, to: &OwnedFd, name: &CStr, depth: u32) -> io::Result<()> {
        self.files += 1;
        if self.files > FILL_FILES_MAX {
            return Err(io::Error::other(format!("it has more than {FILL_FILES_MAX} files")));
        }
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        match kind {
            FileType::Directory => {
                mkdirat(to, name, Mode::RWXU)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let from = openat(from, name, flags, Mode::empty())?;
                let to = openat(to, name, flags, Mode::empty())?;
                return self.folder(&from, &to, depth + 1);
            }
            FileType::RegularFile => return self.file(from, to, name),
            FileType::Symlink => {
                symlinkat(readlinkat(from, name, Vec::new())?.as_c_str(), to, name)?;
            }
            FileType::Fifo => mknodat(to, name, kind, Mode::RUSR | Mode::WUSR, 0)?,
            _ => return Ok(()),
        }
        let (uid, gid) = self.owner(&stat);
        chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if kind == FileType::Fifo {
            rustix::fs::chmodat(to, name, mode(&stat), AtFlags::empty())?;
        }
        Ok(utimensat(to, name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn file(&mut self, from: &OwnedFd, to: &OwnedFd, name: &CStr) -> io::Result<()> {
        let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut source = File::from(openat(from, name, read, Mode::empty())?);
        let stat = fstat(&source)?;
        self.bytes = self.bytes.saturating_add(u64::try_from(stat.st_size).unwrap_or(u64::MAX));
        if self.bytes > FILL_BYTES_MAX {
            return Err(Errno::FBIG.into());
        }
        let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let target = openat(to, name, write, Mode::RUSR | Mode::WUSR)?;
        let mut target = File::from(target);
        io::copy(&mut source, &mut target)?;
        let target = target.as_fd();
        let (uid, gid) = self.owner(&stat);
        fchown(target, Some(uid), Some(gid))?;
        fchmod(target, mode(&stat))?;
        Ok(rustix::fs::futimens(target, &times(&stat))?)
    }
}

fn mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(RawMode::from(stat.st_mode) & 0o7777)
}

fn times(stat: &Stat) -> Timestamps {
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ };
    Timestamps { last_access: time, last_modification: time }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_volume_begins_with_what_the_image_has() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        std::fs::create_dir_all(from.join("a/b")).unwrap();
        std::fs::create_dir(&to).unwrap();
        std::fs::write(from.join("a/b/file"), "text").unwrap();
        std::fs::write(root.path().join("outside"), "no").unwrap();
        std::fs::set_permissions(from.join("a/b/file"), PermissionsExt::from_mode(0o640)).unwrap();
        std::fs::set_permissions(&from, PermissionsExt::from_mode(0o1750)).unwrap();
        symlink("../outside", from.join("link")).unwrap();
        let is_root = rustix::process::geteuid().is_root();
        if is_root {
            std::os::unix::fs::chown(from.join("a/b"), Some(33), Some(34)).unwrap();
        }
        let folder = OwnedFd::from(File::open(&from).unwrap());
        fill(&folder, &to, HostIds::ON_DISK).unwrap();
        assert_eq!(std::fs::read_to_string(to.join("a/b/file")).unwrap(), "text");
        assert_eq!(std::fs::read_link(to.join("link")).unwrap(), Path::new("../outside"));
        let of = |path: &str| std::fs::symlink_metadata(to.join(path)).unwrap();
        assert_eq!((of("a/b/file").mode() & 0o7777, of("").mode() & 0o7777), (0o640, 0o1750));
        if is_root {
            assert_eq!((of("a/b").uid(), of("a/b").gid()), (33, 34));
        }
    }
}
