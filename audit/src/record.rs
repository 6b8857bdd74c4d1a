use serde::{Deserialize, Serialize};
use spec::{Digest, Timestamp};

use crate::limits::{LINE_BYTES_MAX, TEXT_CHARS_MAX};

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// `operator`, `tenant/CREDENTIAL`, `node/NAME`, `user/LOGIN`, `machine/NAME`; empty without a
    /// valid credential.
    pub principal: String,
    /// An IP address, or `socket`.
    pub address: String,
    /// The method and the route.
    pub action: String,
    /// What it was done to.
    pub object: String,
    /// The status of the answer.
    pub status: u16,
    /// The code of the fault.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub code: String,
}

/// One line of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Counts up by one, over all files of the log.
    pub seq: u64,
    pub at: Timestamp,
    #[serde(flatten)]
    pub event: Event,
    /// Records that were left out before this one: of clients without a principal, beyond the
    /// limit, or because the disk was full.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub omitted: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Event {
    /// With texts that fit into a line.
    pub(crate) fn clipped(mut self) -> Self {
        for text in [
            &mut self.principal,
            &mut self.address,
            &mut self.action,
            &mut self.object,
            &mut self.code,
        ] {
            if let Some((end, _)) = text.char_indices().nth(TEXT_CHARS_MAX) {
                text.truncate(end);
                text.push('…');
            }
        }
        self
    }
}

/// The hash before the first line of a log.
pub(crate) fn origin() -> String {
    "0".repeat(64)
}

/// The hash of a line whose predecessor has the hash `previous`.
pub(crate) fn chained(previous: &str, json: &str) -> String {
    Digest::of(format!("{previous} {json}").as_bytes()).hex()
}

/// A line without its end, and its hash.
pub(crate) fn line(previous: &str, record: &Record) -> (String, String) {
    let json = serde_json::to_string(record).expect("a record has string keys");
    let hash = chained(previous, &json);
    (format!("{hash} {json}"), hash)
}

/// The hash and the record of a line that continues `previous`; or why it does not.
pub(crate) fn parse(previous: &str, line: &str) -> Result<(String, Record), &'static str> {
    if line.len() > LINE_BYTES_MAX {
        return Err("the line is too long");
    }
    let (hash, json) = line.split_once(' ').ok_or("the line has no hash")?;
    if hash != chained(previous, json) {
        return Err("its hash does not follow from the line before it");
    }
    let record = serde_json::from_str(json).map_err(|_| "it is no record")?;
    Ok((hash.to_owned(), record))
}
