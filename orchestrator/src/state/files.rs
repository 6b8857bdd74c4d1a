use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use disk::Survives;

use crate::Error;

/// Keys, certificates and credentials are the only files that are read whole.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Makes a folder that only its owner may enter, or makes one that exists so.
pub(crate) fn private_folder(path: &Path) -> Result<(), Error> {
    disk::private_folder(path)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o700)))
        .map_err(|source| Error::Io { path: path.to_owned(), source })
}

/// The content of a private file, made by `make` when it is missing: whole or not at all.
pub(crate) fn private_file(
    path: &Path,
    make: impl FnOnce() -> Result<Vec<u8>, Error>,
) -> Result<Vec<u8>, Error> {
    if let Some(bytes) = read_private(path)? {
        return Ok(bytes);
    }
    let bytes = make()?;
    write_private(path, &bytes)?;
    Ok(bytes)
}

/// The content of a private file, if it is there. Root reads it too, in a folder that the user of
/// the control plane can change.
pub(crate) fn read_private(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    disk::read_plain(path, FILE_BYTES_MAX)
        .map_err(|source| Error::Io { path: path.to_owned(), source })
}

/// Replaces a file that only its owner may read.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    disk::write(path, bytes, Survives::PowerLoss)
        .map_err(|source| Error::Io { path: path.to_owned(), source })
}
