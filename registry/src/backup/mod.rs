//! Everything that a registry keeps in a folder of files, and a registry from such a folder.
//!
//! ```text
//! backup.json              what the backup is of; written last
//! blobs/sha256/HE/HEX      every blob and manifest, and the records as lines of JSON
//! ```

mod take; // from a registry that runs
mod restore; // into a folder without a registry

use std::path::Path;

use serde::{Deserialize, Serialize};
use spec::{Digest, Timestamp};

use crate::{Error, limits::BACKUP_BYTES_MAX};

pub use restore::{Restored, restore};
pub use take::{BackedUp, back_up};

const BACKUP: &str = "backup.json";

/// The format of a backup. A newer one is refused.
const FORMAT: u32 = 1;

/// What a backup is of.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Description {
    format: u32,
    /// When it was made.
    created: Timestamp,
    /// The blob with the records.
    records: Digest,
    records_count: u64,
}

/// The description of the backup in a folder, if there is one.
fn described(folder: &Path) -> Result<Option<Description>, Error> {
    let path = folder.join(BACKUP);
    let read = disk::read_optional(&path, BACKUP_BYTES_MAX);
    let read = read.map_err(|source| Error::File { action: "read", path, source })?;
    let Some(bytes) = read else { return Ok(None) };
    let broken = |why| Error::NoBackup { path: folder.to_owned(), why };
    let description: Description =
        serde_json::from_slice(&bytes).map_err(|_| broken("its `backup.json` is not valid"))?;
    match description.format > FORMAT {
        true => Err(broken("a newer margay has made it")),
        false => Ok(Some(description)),
    }
}

/// Copies a blob, verified. Whether it has the bytes of its digest.
fn copy(
    digest: &Digest,
    from: &dyn blobs::BlobStore,
    to: &dyn blobs::BlobStore,
) -> Result<Option<u64>, Error> {
    let mut blob = match from.open(digest, 0) {
        Err(blobs::Error::Missing(_)) => return Ok(None),
        opened => opened?,
    };
    let mut writer = to.writer(digest.algorithm())?;
    std::io::copy(&mut blob, &mut writer).map_err(|source| Error::File {
        action: "copy blob",
        path: digest.to_string().into(),
        source,
    })?;
    match writer.commit_as(digest) {
        Err(blobs::Error::WrongDigest { .. }) => Ok(None),
        committed => Ok(Some(committed?)),
    }
}
