//! Detached mounts: a file or folder that its holder can open files below, and nothing above.
//!
//! A plain directory descriptor would not do: hostile code walks out of it through `..`, whatever
//! its uid (tried). A mount can also show the files of one user as those of another ([`Ids`]), so
//! that a container with ids of its own works on the files of the user that started it.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::CWD,
    io::Errno,
    mount::{OpenTreeFlags, open_tree},
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal, WaitOptions, kill_process, waitpid},
};
use spec::Rights;

/// What `chmod` adds to a file or folder that every user is to read, or to write: no more than
/// was asked for.
pub fn opened_to_others(folder: bool, writes: bool) -> &'static str {
    match (folder, writes) {
        (true, true) => "o+rwx",
        (true, false) => "o+rx",
        (false, true) => "o+rw",
        (false, false) => "o+r",
    }
}

/// Ids from `on_disk` on are shown as those from `shown` on; all others as the overflow id, whose
/// files cannot be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    pub on_disk: u32,
    pub shown: u32,
    pub count: u32,
}

/// The users and groups of the files below a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids<'a> {
    pub users: &'a [IdRange],
    pub groups: &'a [IdRange],
}

impl<'a> Ids<'a> {
    /// Groups are as users.
    pub fn alike(ranges: &'a [IdRange]) -> Self {
        Self { users: ranges, groups: ranges }
    }
}

/// What may be done below a mount, besides changing files, which its rights say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Programs {
    Forbidden,
    Allowed,
}

/// Clones the mount at `path` into a detached one without set-uid and devices, and without writing
/// unless `rights` has `w` or `d`. Needs `CAP_SYS_ADMIN` in the user namespace that owns the mount
/// namespace.
///
/// # Errors
/// When there is nothing at `path`, or the caller may not mount.
pub fn detach(path: &Path, rights: Rights, programs: Programs) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let (mount, depth) = match open_tree(CWD, path, flags) {
        // In a user namespace what is mounted below it may not be uncovered, so it comes along.
        Err(Errno::INVAL) => {
            (open_tree(CWD, path, flags | OpenTreeFlags::AT_RECURSIVE)?, libc::AT_RECURSIVE)
        }
        mount => (mount?, 0),
    };
    let mut attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    if !rights.write && !rights.delete {
        attributes |= libc::MOUNT_ATTR_RDONLY;
    }
    if programs == Programs::Forbidden {
        attributes |= libc::MOUNT_ATTR_NOEXEC;
    }
    set_attributes(&mount, depth, attributes, None)?;
    Ok(mount)
}

/// The outcome of [`show_ids`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    Done,
    /// The kernel, the file system or our own rights do not allow it.
    Unsupported,
}

/// Other ids that mounts can show. Costs a process, so that one is for many mounts.
#[derive(Debug)]
pub struct IdMap(Option<OwnedFd>);

impl IdMap {
    /// # Errors
    /// Others than that this process may not make such a map.
    pub fn new(ids: Ids<'_>) -> io::Result<Self> {
        match user_namespace(ids) {
            Ok(namespace) => Ok(Self(Some(namespace))),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(Self(None)),
            Err(error) => Err(error),
        }
    }

    /// Shows the files below a detached mount, to which nothing was done before, with other ids.
    /// New files get the ids on disk that are shown as their maker's.
    ///
    /// # Errors
    /// Others than that the mount cannot show other ids.
    pub fn show(&self, mount: &OwnedFd) -> io::Result<Shown> {
        let Some(namespace) = &self.0 else { return Ok(Shown::Unsupported) };
        match set_attributes(mount, 0, libc::MOUNT_ATTR_IDMAP, Some(namespace)) {
            Ok(()) => Ok(Shown::Done),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINVAL | libc::EPERM | libc::ENOSYS | libc::EOPNOTSUPP) => {
                    Ok(Shown::Unsupported)
                }
                _ => Err(error),
            },
        }
    }
}

/// As [`IdMap::show`], for one mount.
///
/// # Errors
/// As there.
pub fn show_ids(mount: &OwnedFd, ids: Ids<'_>) -> io::Result<Shown> {
    IdMap::new(ids)?.show(mount)
}

/// A user namespace with this map, of a process that does nothing and ends here.
fn user_namespace(ids: Ids<'_>) -> io::Result<OwnedFd> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    let child = waiting_child(&reader, &writer)?;
    let made = (|| {
        let line = |range: &IdRange| format!("{} {} {}\n", range.on_disk, range.shown, range.count);
        for (map, ranges) in [("uid_map", ids.users), ("gid_map", ids.groups)] {
            let lines: String = ranges.iter().map(line).collect();
            std::fs::write(format!("/proc/{}/{map}", child.as_raw_nonzero()), lines)?;
        }
        Ok(File::open(format!("/proc/{}/ns/user", child.as_raw_nonzero()))?.into())
    })();
    let _ = kill_process(child, Signal::KILL);
    while matches!(waitpid(Some(child), WaitOptions::empty()), Err(Errno::INTR)) {}
    made
}

#[expect(unsafe_code, reason = "a process in a namespace of its own, which only waits")]
fn waiting_child(reader: &OwnedFd, writer: &OwnedFd) -> io::Result<Pid> {
    let flags = libc::c_long::from(libc::CLONE_NEWUSER | libc::SIGCHLD);
    // SAFETY: as with fork, the child gets a copy of everything. It makes system calls only, on
    // memory that exists before, and never returns.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if pid == 0 {
        let mut byte = 0u8;
        // SAFETY: as above. The read ends when the parent closes its end, or ends.
        unsafe {
            libc::close(writer.as_raw_fd());
            libc::read(reader.as_raw_fd(), (&raw mut byte).cast(), 1);
            libc::_exit(0)
        }
    }
    let pid = i32::try_from(pid).unwrap_or(-1);
    Pid::from_raw(pid).filter(|_| pid > 0).ok_or_else(io::Error::last_os_error)
}

#[expect(unsafe_code, reason = "rustix has no mount_setattr")]
fn set_attributes(
    mount: &OwnedFd,
    depth: libc::c_int,
    set: u64,
    ids: Option<&OwnedFd>,
) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: 0,
        userns_fd: ids.map_or(0, |ids| u64::try_from(ids.as_fd().as_raw_fd()).unwrap_or(0)),
    };
    // SAFETY: the path is empty and terminated, and the length is the structure's.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | depth,
            &attributes,
            size_of_val(&attributes),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_mount_shows_the_files_of_one_user_as_those_of_another() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: mounting needs root");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        let Ok(mount) = detach(folder.path(), Rights::READ, Programs::Forbidden) else {
            println!("SKIPPED: this root may not mount");
            return;
        };
        let range = [IdRange { on_disk: 0, shown: 4_000_000, count: 1 }];
        if show_ids(&mount, Ids::alike(&range)).unwrap() == Shown::Unsupported {
            println!("SKIPPED: no id-mapped mounts in {}", folder.path().display());
            return;
        }
        let path = format!("/proc/self/fd/{}/file", mount.as_raw_fd());
        let seen = std::fs::metadata(path).unwrap();
        assert_eq!((seen.uid(), seen.gid()), (4_000_000, 4_000_000));
        assert_eq!(std::fs::metadata(folder.path().join("file")).unwrap().uid(), 0);
    }
}
