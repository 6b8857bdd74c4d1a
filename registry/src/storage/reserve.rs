use std::{
    fs::{self, File},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use crate::limits::{RESERVE_BYTES_MAX, RESERVE_SHARE};

/// Space of the disk that is taken in advance and given back when a deletion finds none: a database
/// writes before it deletes, and a full disk must not keep its operator from making space.
#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
}

impl Reserve {
    /// The reserve in `data_dir`, which takes its space now if there is enough.
    pub fn open(data_dir: &Path) -> Self {
        let reserve = Self { path: data_dir.join("reserve") };
        reserve.take();
        reserve
    }

    /// Takes the space, unless it has it. On a disk that is full, or that cannot reserve, it has
    /// none.
    pub fn take(&self) {
        if self.path.exists() {
            return;
        }
        let Some(folder) = self.path.parent() else { return };
        let free = statvfs(folder).map_or(0, |found| found.f_bavail.saturating_mul(found.f_frsize));
        let bytes = RESERVE_BYTES_MAX.min(free / RESERVE_SHARE);
        let made = File::options().write(true).create_new(true).mode(0o600).open(&self.path);
        let taken = made.is_ok_and(|file| {
            bytes > 0 && fallocate(&file, FallocateFlags::empty(), 0, bytes).is_ok()
        });
        if !taken {
            self.give_back();
        }
    }

    /// Gives the space back. Whether there was any.
    pub fn give_back(&self) -> bool {
        fs::remove_file(&self.path).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_taken_once_and_given_back_once() {
        let folder = tempfile::tempdir().unwrap();
        let reserve = Reserve::open(folder.path());
        let size = || fs::metadata(folder.path().join("reserve")).map_or(0, |found| found.len());
        let taken = size();
        assert!(taken > 0 && taken <= RESERVE_BYTES_MAX);
        reserve.take();
        assert_eq!(size(), taken);
        assert!(reserve.give_back() && !reserve.give_back());
        assert_eq!(size(), 0);
        reserve.take();
        assert!(size() > 0);
    }
}
