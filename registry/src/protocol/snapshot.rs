use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use spec::Digest;

/// Where snapshots are, in the data folder: `SNAPSHOTS/ID` is an OCI layout's `blobs` folder of
/// everything, with the records in a blob as well.
pub(crate) const SNAPSHOTS: &str = "snapshots";

/// A copy of everything at one moment, in files that share their bytes with those of the registry.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SnapshotInfo {
    pub id: String,
    /// The blob with the records, one [`RecordLine`] in each line.
    pub records: Digest,
    pub records_count: u64,
    /// Records with a password that only the registry's key opens.
    pub sealed: u64,
    /// Blobs and manifests whose files are gone.
    pub missing: Vec<Digest>,
}

/// A record of the registry's database.
#[derive(Serialize, Deserialize)]
pub(crate) struct RecordLine {
    pub key: String,
    /// Of the format of its value.
    pub version: u8,
    pub value: Box<RawValue>,
}

/// Whether a record has a password, or the key of signatures, that is sealed.
pub(crate) fn is_sealed(key: &str, json: &[u8]) -> bool {
    let may = key.starts_with("upstream/") || key.starts_with("webhook/");
    // In a text the quotes would have backslashes.
    may && memchr::memmem::find(json, br#""sealed":{"#).is_some()
}

/// The blob or manifest that a record is about.
pub(crate) fn named_by(key: &str) -> Option<Digest> {
    let rest = key.strip_prefix("blob/").or_else(|| key.strip_prefix("manifest/"))?;
    rest.split_once(':')?.1.parse().ok()
}
