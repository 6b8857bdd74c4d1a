//! Small files of JSON, with errors that name them.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use disk::Survives;
use serde::{Serialize, de::DeserializeOwned};

use crate::error::{Error, Result};

/// Larger than any file that a node reads whole; a usage log has 16 MiB.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Replaces `path` by `value` as JSON.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T, survives: Survives) -> Result<()> {
    disk::write(path, &json(path, value)?, survives).map_err(Error::file("write", path))
}

/// `value` as JSON, on its way into `path`.
pub(crate) fn json<T: Serialize>(path: &Path, value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value)
        .map_err(|error| Error::Damaged { path: path.to_owned(), why: error.to_string() })
}

/// Writers that began before a folder had another name leave one file each.
const REMOVE_TRIES_MAX: u32 = 20;

/// Removes a folder that has another name by now, and with which other processes may not be done.
pub(crate) fn remove_all(folder: &Path) -> io::Result<()> {
    for _ in 1..REMOVE_TRIES_MAX {
        match shim::remove_tree(folder) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                std::thread::sleep(Duration::from_millis(5));
            }
            removed => return removed,
        }
    }
    shim::remove_tree(folder)
}

/// The bytes of `path`; `None` when there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    disk::read_optional(path, FILE_BYTES_MAX).map_err(Error::file("read", path))
}

/// The JSON of `path` as a value; `None` when there is no such file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let Some(bytes) = read(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| Error::Damaged { path: path.to_owned(), why: error.to_string() })
}

/// The entries of a folder, oldest name first; none when there is no such folder. Hidden ones are
/// left out.
pub(crate) fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::file("list", folder)(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::file("list", folder))?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}
