//! The first content of a volume: what the image has where the volume is mounted, with its owners.

use std::{
    ffi::CStr,
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, RawMode, Stat, Timespec, Timestamps, Uid,
        chmodat, chownat, fchmod, fchown, fstat, mkdirat, mknodat, openat, readlinkat, statat,
        symlinkat, utimensat,
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
            FileType::Fifo => return self.pipe(to, name, &stat),
            _ => return Ok(()),
        }
        let (uid, gid) = self.owner(&stat);
        chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(utimensat(to, name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// A container that runs may have the volume too, and put a link in the place of a name: what
    /// is changed is what was opened, if it is a pipe.
    fn pipe(&self, to: &OwnedFd, name: &CStr, stat: &Stat) -> io::Result<()> {
        mknodat(to, name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let pipe = openat(to, name, flags, Mode::empty())?;
        if FileType::from_raw_mode(fstat(&pipe)?.st_mode) != FileType::Fifo {
            return Err(io::Error::other("another container changes the volume meanwhile"));
        }
        let (uid, gid) = self.owner(stat);
        chownat(&pipe, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
        // The call that changes the mode of a descriptor without rights came with Linux 6.6.
        let opened = format!("/proc/self/fd/{}", pipe.as_raw_fd());
        chmodat(CWD, &opened, mode(stat), AtFlags::empty())?;
        Ok(utimensat(CWD, &opened, &times(stat), AtFlags::empty())?)
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
    use std::{
        os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
        sync::atomic::{AtomicBool, Ordering},
    };

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

    /// Of a program that has the same volume and is root there.
    fn swap_pipes_for_links(to: &Path, target: &Path, until: &AtomicBool) {
        let link = to.with_extension("link");
        while !until.load(Ordering::Relaxed) {
            for entry in std::fs::read_dir(to).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_fifo()) {
                    let _ = symlink(target, &link);
                    let _ = std::fs::rename(&link, entry.path());
                }
            }
        }
    }

    #[test]
    fn a_link_that_takes_the_place_of_a_pipe_meanwhile_leads_nowhere() {
        let root = tempfile::tempdir().unwrap();
        let (from, target) = (root.path().join("from"), root.path().join("target"));
        std::fs::create_dir(&from).unwrap();
        std::fs::write(&target, "of the host").unwrap();
        std::fs::set_permissions(&target, PermissionsExt::from_mode(0o600)).unwrap();
        for n in 0..500 {
            let pipe = from.join(n.to_string());
            mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
            std::fs::set_permissions(&pipe, PermissionsExt::from_mode(0o4777)).unwrap();
        }
        let folder = OwnedFd::from(File::open(&from).unwrap());
        let done = AtomicBool::new(false);
        for n in 0..20 {
            let to = root.path().join(format!("to{n}"));
            std::fs::create_dir(&to).unwrap();
            done.store(false, Ordering::Relaxed);
            std::thread::scope(|scope| {
                scope.spawn(|| swap_pipes_for_links(&to, &target, &done));
                let _ = fill(&folder, &to, HostIds::ON_DISK);
                done.store(true, Ordering::Relaxed);
            });
        }
        let mode = std::fs::metadata(&target).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o600, "a file outside of the volume was changed");
    }
}
