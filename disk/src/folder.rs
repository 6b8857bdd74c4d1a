use std::{
    fs::{DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::Path,
};

use crate::trace::{Step, note};

/// Makes `path` and what is missing above it with mode 0700, and each new name durable. A folder
/// that exists keeps its mode.
///
/// # Errors
/// When a folder cannot be made, or something else has its name.
pub fn private_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = parent(path);
    if above != path {
        private_folder(above)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => sync_folder(above),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes the names in a folder survive a loss of power.
///
/// # Errors
/// When the folder cannot be opened for reading, or the disk fails.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    note(Step::SyncFolder, path);
    Ok(())
}

/// The folder that `path` lies in; the working directory for a bare name.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        None => path,
        Some(above) if above.as_os_str().is_empty() => Path::new("."),
        Some(above) => above,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::trace;

    #[test]
    fn new_folders_are_private_and_durable_and_existing_ones_keep_their_mode() {
        let root = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (a, b) = (root.path().join("a"), root.path().join("a/b"));
        let (made, steps) = trace(|| private_folder(&b));
        made.unwrap();
        assert_eq!((mode(root.path()), mode(&a), mode(&b)), (0o755, 0o700, 0o700));
        assert_eq!(steps, [Step::SyncFolder(root.path().to_owned()), Step::SyncFolder(a)]);
        assert_eq!(trace(|| private_folder(&b)).1, []);
        fs::write(root.path().join("file"), "").unwrap();
        assert!(private_folder(&root.path().join("file")).is_err());
        assert!(private_folder(&root.path().join("file/below")).is_err());
    }
}
