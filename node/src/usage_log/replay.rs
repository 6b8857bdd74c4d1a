use std::path::Path;

use spec::{Usage, UsageRecord};

use super::{
    Meter, boot_of,
    line::{Chain, Entry},
};
use crate::{error::Result, files};

/// What a log holds, up to its first broken line.
#[derive(Debug, Default)]
pub(super) struct Replay {
    pub records: Vec<UsageRecord>,
    /// In the order of the file.
    pub readings: Vec<(Meter, Usage)>,
}

pub(super) fn replay(path: &Path) -> Result<Replay> {
    let bytes = files::read(path)?.unwrap_or_default();
    let mut chain = Chain::begin(&boot_of(path));
    let mut replay = Replay::default();
    // What follows the last newline was never acknowledged: it was still being written.
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    for line in bytes[..whole].split(|byte| *byte == b'\n') {
        let Some(entry) = chain.read(line) else { break };
        replay.readings.push(entry.reading());
        if let Entry::Record { record, .. } = entry {
            replay.records.push(record);
        }
    }
    Ok(replay)
}
