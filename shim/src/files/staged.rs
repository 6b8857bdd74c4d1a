use std::{
    collections::HashMap,
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
};

use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags, RenameFlags, mkdirat, openat, renameat_with, unlinkat},
    io::Errno,
};

use super::named;

/// New folders of a copy, each under a hidden name until all of it is there: a copy that breaks off
/// leaves none that looks whole.
pub(super) struct Staged<'a> {
    folder: BorrowedFd<'a>,
    /// By the name that it will have.
    hidden: HashMap<Vec<u8>, Vec<u8>>,
    kept: bool,
}

/// A name that no other file has.
pub(super) fn hidden_name() -> Vec<u8> {
    format!(".margay-cp-{}", disk::random_hex::<8>()).into_bytes()
}

impl<'a> Staged<'a> {
    pub fn in_folder(folder: BorrowedFd<'a>) -> Self {
        Self { folder, hidden: HashMap::new(), kept: false }
    }

    /// Makes a new folder that will be called `name`.
    pub fn make(&mut self, name: &[u8]) -> rustix::io::Result<()> {
        let hidden = hidden_name();
        mkdirat(self.folder, OsStr::from_bytes(&hidden), Mode::RWXU)?;
        self.hidden.insert(name.to_vec(), hidden);
        Ok(())
    }

    pub fn has(&self, name: &[u8]) -> bool {
        self.hidden.contains_key(name)
    }

    /// Where `path` is until then.
    pub fn place(&self, path: &[u8]) -> Vec<u8> {
        let end = path.iter().position(|byte| *byte == b'/').unwrap_or(path.len());
        match self.hidden.get(&path[..end]) {
            Some(hidden) => [hidden, &path[end..]].concat(),
            None => path.to_vec(),
        }
    }

    /// Gives each its name.
    pub fn keep(mut self) -> io::Result<()> {
        let hidden = std::mem::take(&mut self.hidden);
        for (name, from) in &hidden {
            let (old, new) = (OsStr::from_bytes(from), OsStr::from_bytes(name));
            let flags = RenameFlags::NOREPLACE;
            if let Err(error) = renameat_with(self.folder, old, self.folder, new, flags) {
                self.hidden.clone_from(&hidden);
                return Err(named(name)(error));
            }
        }
        self.kept = true;
        Ok(())
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if !self.kept {
            for hidden in self.hidden.values() {
                let _ = remove(self.folder, OsStr::from_bytes(hidden), 0);
            }
        }
    }
}

/// Removes a folder with all that is in it; follows no link.
fn remove(at: BorrowedFd<'_>, name: &OsStr, depth: usize) -> rustix::io::Result<()> {
    if depth > engine::COPY_DEPTH_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder: OwnedFd = openat(at, name, flags, Mode::empty())?;
    let listed = openat(&folder, ".", flags, Mode::empty())?;
    for entry in Dir::new(listed)? {
        let entry = entry?;
        let entry = entry.file_name();
        if matches!(entry.to_bytes(), b"." | b"..") {
            continue;
        }
        match unlinkat(&folder, entry, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => {
                remove(folder.as_fd(), OsStr::from_bytes(entry.to_bytes()), depth + 1)?;
            }
            other => other?,
        }
    }
    unlinkat(at, name, AtFlags::REMOVEDIR)
}
