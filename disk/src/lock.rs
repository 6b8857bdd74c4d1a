use std::{
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::{Errno, retry_on_intr},
};

use crate::{Purpose, open};

/// An advisory lock on a file, which is made with mode 0600 when it is missing. It ends with its
/// process, however that ends.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Waits until no other lock exists.
    ///
    /// # Errors
    /// When the file cannot be opened or locked.
    pub fn exclusive(path: &Path) -> io::Result<Self> {
        Self::wait(path, FlockOperation::LockExclusive)
    }

    /// Waits until no exclusive lock exists.
    ///
    /// # Errors
    /// When the file cannot be opened or locked.
    pub fn shared(path: &Path) -> io::Result<Self> {
        Self::wait(path, FlockOperation::LockShared)
    }

    /// The lock, unless another one exists.
    ///
    /// # Errors
    /// When the file cannot be opened or locked.
    pub fn try_exclusive(path: &Path) -> io::Result<Option<Self>> {
        Self::try_once(path, FlockOperation::NonBlockingLockExclusive)
    }

    fn wait(path: &Path, operation: FlockOperation) -> io::Result<Self> {
        loop {
            if let Some(lock) = Self::try_once(path, operation)? {
                return Ok(lock);
            }
        }
    }

    fn try_once(path: &Path, operation: FlockOperation) -> io::Result<Option<Self>> {
        let file = open(path, Purpose::Keep)?;
        match retry_on_intr(|| flock(&file, operation)) {
            // The file may have been removed between its opening and its locking.
            Ok(()) if is_at(path, &file) => Ok(Some(Self { file, path: path.to_owned() })),
            Ok(()) | Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The locked file, whose content is the caller's.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Removes the file, and with it the lock. Those that wait for the lock find out.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(self) -> io::Result<()> {
        crate::remove(&self.path)
    }
}

/// Whether an exclusive lock on the file at `path` exists; not so for one that cannot be opened.
pub fn is_locked(path: &Path) -> bool {
    open(path, Purpose::Read)
        .is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared).is_err())
}

/// Whether `path` still leads to what was opened there.
pub fn is_at(path: &Path, opened: &File) -> bool {
    match (path.metadata(), opened.metadata()) {
        (Ok(there), Ok(opened)) => (there.dev(), there.ino()) == (opened.dev(), opened.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_exclude_each_other_until_they_are_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        assert!(!is_locked(&path) && !path.exists());
        let (one, two) = (Lock::shared(&path).unwrap(), Lock::shared(&path).unwrap());
        assert!(Lock::try_exclusive(&path).unwrap().is_none() && !is_locked(&path));
        drop((one, two));
        let lock = Lock::exclusive(&path).unwrap();
        assert!(Lock::try_exclusive(&path).unwrap().is_none() && is_locked(&path));
        drop(lock);
        assert!(Lock::try_exclusive(&path).unwrap().is_some());
    }

    #[test]
    fn a_lock_on_a_removed_file_is_taken_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let lock = Lock::exclusive(&path).unwrap();
        let waiting = std::thread::spawn({
            let path = path.clone();
            move || Lock::shared(&path).unwrap()
        });
        lock.remove().unwrap();
        let waited = waiting.join().unwrap();
        assert!(is_at(&path, waited.file()));
        assert!(Lock::try_exclusive(&path).unwrap().is_none());
    }
}
