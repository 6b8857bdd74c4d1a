//! Small files that are written whole or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::error::{Error, Result};

/// Whether a write must outlive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durable {
    /// Somebody relies on it: fsync file, rename, fsync folder.
    Yes,
    /// It describes processes, which a power cut ends anyway: rename only.
    No,
}

/// Larger than any file of ours that is read whole.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Replaces `path` by `bytes` in one step, mode 0600.
pub(crate) fn write(path: &Path, bytes: &[u8], durable: Durable) -> Result<()> {
    write_for(path, bytes, durable, |_| Ok(()))
}

/// As [`write`]; `give` says who else may read the file, before anybody can see it.
pub(crate) fn write_for(
    path: &Path,
    bytes: &[u8],
    durable: Durable,
    give: impl FnOnce(&File) -> std::io::Result<()>,
) -> Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let unique = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.{unique}", std::process::id()));
    let result = (|| {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        give(&file)?;
        if durable == Durable::Yes {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)?;
        match path.parent() {
            Some(folder) if durable == Durable::Yes => File::open(folder)?.sync_all(),
            _ => Ok(()),
        }
    })();
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result.map_err(Error::file("write", path))
}

/// Replaces `path` by `value` as JSON.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T, durable: Durable) -> Result<()> {
    write(path, &json(path, value)?, durable)
}

/// `value` as JSON, on its way into `path`.
pub(crate) fn json<T: Serialize>(path: &Path, value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value)
        .map_err(|error| Error::Damaged { path: path.to_owned(), why: error.to_string() })
}

/// The bytes of `path`; `None` when there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => {
            file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(Error::file("read", path))?
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::file("open", path)(error)),
    };
    Ok(Some(bytes))
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
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
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

/// Hex digits of fresh randomness.
pub(crate) fn random_hex<const BYTES: usize>() -> String {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).expect("the kernel has randomness");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
