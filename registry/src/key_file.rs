//! Keys of a registry in its data folder, each a file of 32 bytes that only its owner may read.

use std::{
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
};

use crate::Error;

/// The name of the file, in the data folder, of the key that passwords of other registries are
/// sealed with in the database.
pub(crate) const SECRET_KEY: &str = "secret.key";

pub(crate) const KEY_BYTES: usize = 32;

/// Reads the key at `path`, making it when there is none.
pub(crate) fn open(path: &Path) -> Result<Vec<u8>, Error> {
    match load(path) {
        Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            let failed = |source| Error::File { action: "make", path: path.to_owned(), source };
            create(path).map_err(failed)?;
            load(path)
        }
        other => other,
    }
}

/// Reads an existing key.
///
/// # Errors
/// [`Error::File`], and [`Error::InvalidKey`] if the file is not a key or other users may read it.
pub(crate) fn load(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::File { action: "read", path: path.to_owned(), source };
    // Root reads it in the folder of the registry's user.
    let file = disk::open_plain(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.mode() & 0o077 != 0 {
        return Err(Error::InvalidKey { path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    file.take(KEY_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() {
        KEY_BYTES => Ok(bytes),
        _ => Err(Error::InvalidKey { path: path.to_owned() }),
    }
}

fn create(path: &Path) -> io::Result<()> {
    let mut bytes = [0; KEY_BYTES];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    disk::create(path, &bytes)
}
