//! Files with records of OSV: one record as JSON, or an archive of them.

use std::io::{Read, Seek, SeekFrom};

use super::{osv::advisory, zip::entries};
use crate::{limits::ZIP_ENTRY_BYTES_MAX, protocol::Advisory};

/// What was read of records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OsvCounts {
    /// Vulnerabilities of packages that images have.
    pub advisories: u64,
    /// Withdrawn, or about something else.
    pub skipped: u64,
    pub malformed: u64,
    /// What is wrong with the first that is malformed.
    pub fault: Option<String>,
}

/// Reads a file of OSV, and hands over each vulnerability.
///
/// # Errors
/// In words, when it can neither be a record nor an archive of them, and what `found` says.
pub fn read_osv(
    mut file: impl Read + Seek,
    counts: &mut OsvCounts,
    found: &mut dyn FnMut(Advisory) -> Result<(), String>,
) -> Result<(), String> {
    let mut head = Vec::new();
    file.by_ref().take(4).read_to_end(&mut head).map_err(|error| error.to_string())?;
    file.seek(SeekFrom::Start(0)).map_err(|error| error.to_string())?;
    if head.starts_with(b"PK") {
        return entries(file, |name, content| match name.ends_with(".json") {
            true => counts.read(name, &content, found),
            false => Ok(()),
        });
    }
    let mut content = Vec::new();
    let read = file.take(ZIP_ENTRY_BYTES_MAX + 1).read_to_end(&mut content);
    read.map_err(|error| error.to_string())?;
    if content.len() as u64 > ZIP_ENTRY_BYTES_MAX {
        return Err(format!("it has more than {ZIP_ENTRY_BYTES_MAX} bytes, and is no archive"));
    }
    counts.read("", &content, found)
}

impl OsvCounts {
    fn read(
        &mut self,
        name: &str,
        content: &[u8],
        found: &mut dyn FnMut(Advisory) -> Result<(), String>,
    ) -> Result<(), String> {
        match advisory(content) {
            Ok(Some(advisory)) => {
                self.advisories += 1;
                found(advisory)?;
            }
            Ok(None) => self.skipped += 1,
            Err(why) => {
                self.malformed += 1;
                let named = if name.is_empty() { why } else { format!("`{name}`: {why}") };
                self.fault.get_or_insert(named);
            }
        }
        Ok(())
    }
}
