use std::{
    fs::{self, File, Permissions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::{
    folder::{parent, sync_folder},
    random_hex,
    trace::{Step, note},
};

/// What a write that has returned survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survives {
    /// The end of its process at any moment: the file is renamed when it is whole. For files that
    /// describe processes, which a loss of power ends anyway.
    Crash,
    /// A loss of power as well: the file is synced, renamed, and its folder synced.
    PowerLoss,
}

/// What a temporary file is called: this, its writer's process, and chance.
const UNFINISHED: &str = ".new-";

/// A file on its way to its name. It gets the name when it is complete; dropped before that, it is
/// removed. After a crash [`remove_unfinished`] finds it.
#[derive(Debug)]
pub struct NewFile {
    file: File,
    path: PathBuf,
}

impl NewFile {
    /// An empty file for its owner alone in `folder`, which must be on the file system of the final
    /// name.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create_in(folder: &Path) -> io::Result<Self> {
        Self::create(folder, 0o600)
    }

    /// The same for a file that others may read, as far as the umask allows.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create_public_in(folder: &Path) -> io::Result<Self> {
        Self::create(folder, 0o666)
    }

    fn create(folder: &Path, mode: u32) -> io::Result<Self> {
        // Containers that share a folder have processes of the same numbers: chance tells their
        // files apart.
        let name = format!("{UNFINISHED}{}-{}", std::process::id(), random_hex::<8>());
        let path = folder.join(name);
        let file =
            File::options().create_new(true).read(true).write(true).mode(mode).open(&path)?;
        Ok(Self { file, path })
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where it is until it is committed.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Changes the mode, whatever the umask.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.file.set_permissions(Permissions::from_mode(mode))
    }

    /// Gives the file its name, in place of one that has it.
    ///
    /// # Errors
    /// When the disk fails. Then `path` is as it was, unless only the folder's sync failed.
    pub fn commit(self, path: &Path, survives: Survives) -> io::Result<()> {
        rename(&self.file, &self.path, path, survives)
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Read for NewFile {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.file.read(bytes)
    }
}

impl Seek for NewFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // Not there any more when it was committed.
        let _ = fs::remove_file(&self.path);
    }
}

/// Gives the complete file at `from`, which is open as `file`, the name `to`, in place of one that
/// has it.
///
/// # Errors
/// When the disk fails. Then `to` is as it was, unless only the folder's sync failed.
pub fn rename(file: &File, from: &Path, to: &Path, survives: Survives) -> io::Result<()> {
    if survives == Survives::PowerLoss {
        sync(file, from)?;
    }
    fs::rename(from, to)?;
    note(Step::Rename, to);
    match survives {
        Survives::Crash => Ok(()),
        Survives::PowerLoss => sync_folder(parent(to)),
    }
}

fn sync(file: &File, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    note(Step::SyncFile, path);
    Ok(())
}

/// Replaces `path` by `bytes` in one step, mode 0600: readers see the old bytes or the new ones.
///
/// # Errors
/// When the disk fails.
pub fn write(path: &Path, bytes: &[u8], survives: Survives) -> io::Result<()> {
    write_with(path, survives, |file| file.write_all(bytes))
}

/// As [`write`], with what `fill` writes. `fill` may also change the file's mode and owner, before
/// others can see it.
///
/// # Errors
/// What `fill` returned, or when the disk fails.
pub fn write_with(
    path: &Path,
    survives: Survives,
    fill: impl FnOnce(&mut NewFile) -> io::Result<()>,
) -> io::Result<()> {
    let mut file = NewFile::create_in(parent(path))?;
    fill(&mut file)?;
    file.commit(path, survives)
}

/// Writes a durable file with mode 0600 that is not there yet. Of several processes that create one
/// at the same time, one wins, and all return when its bytes are there: read them back.
///
/// # Errors
/// When the disk fails.
pub fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = NewFile::create_in(parent(path))?;
    file.write_all(bytes)?;
    sync(&file.file, &file.path)?;
    match fs::hard_link(&file.path, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => sync_folder(parent(path)),
    }
}

/// Removes a file, if there is one.
///
/// # Errors
/// When it is there and cannot be removed.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Removes what processes that died have left half-written in `folder`. Only for folders whose
/// writers all run in one PID namespace.
pub fn remove_unfinished(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let writer = name
            .to_str()
            .and_then(|name| name.strip_prefix(UNFINISHED))
            .and_then(|rest| rest.split('-').next());
        if writer.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{read, trace};

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_write_survives_what_it_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for survives in [Survives::Crash, Survives::PowerLoss] {
            let (written, steps) = trace(|| write(&path, b"cat", survives));
            written.unwrap();
            assert_eq!(read(&path, 3).unwrap(), b"cat");
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            let renamed = Step::Rename(path.clone());
            match survives {
                Survives::Crash => assert_eq!(steps, [renamed]),
                Survives::PowerLoss => {
                    assert!(matches!(&steps[0], Step::SyncFile(_)), "{steps:?}");
                    assert_eq!(steps[1..], [renamed, Step::SyncFolder(folder.path().to_owned())]);
                }
            }
        }
        assert_eq!(names(folder.path()), ["file"]);
    }

    #[test]
    fn a_write_that_fails_leaves_the_file_of_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write(&path, b"first", Survives::PowerLoss).unwrap();
        let torn = write_with(&path, Survives::PowerLoss, |file| {
            file.write_all(b"half")?;
            Err(io::Error::other("the disk is full"))
        });
        assert_eq!(torn.unwrap_err().to_string(), "the disk is full");
        assert_eq!(read(&path, 100).unwrap(), b"first");
        assert_eq!(names(folder.path()), ["file"]);
    }

    #[test]
    fn a_file_is_created_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let (created, steps) = trace(|| create(&path, b"first"));
        created.unwrap();
        assert!(matches!(&steps[..], [Step::SyncFile(_), Step::SyncFolder(_)]), "{steps:?}");
        create(&path, b"second").unwrap();
        assert_eq!(read(&path, 100).unwrap(), b"first");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(names(folder.path()), ["key"]);
    }

    #[test]
    fn files_of_dead_writers_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let alive = NewFile::create_in(folder.path()).unwrap();
        fs::write(folder.path().join(format!("{UNFINISHED}4194305-00")), b"half").unwrap();
        fs::write(folder.path().join("file"), b"whole").unwrap();
        remove_unfinished(folder.path());
        assert_eq!(names(folder.path()).len(), 2);
        drop(alive);
        assert_eq!(names(folder.path()), ["file"]);
    }
}
