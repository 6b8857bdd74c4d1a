//! What was used here, kept until the ledger has it: exactly once, across crashes of this process
//! and of the network.
//!
//! A log is one append-only file for each life (`boot`), a line for each entry. Each line carries a
//! hash over itself and the line before it, so a torn tail, a flipped bit and a missing line are
//! all the same thing: where the log ends. Records are differences between readings of counters
//! that outlive the worker and the agent, so nothing is lost when either is killed; the reading
//! that a difference was made from lies in the same line, so nothing is counted twice.
//!
//! The caller of [`UsageLog::measure`] decides how often the disk is flushed: once for each call,
//! whatever it holds.

mod line; // one entry as a line of the file, and back
mod replay; // what a file holds, up to its first broken line

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use disk::Survives;
use spec::{
    ContainerName, Digest, NodeId, TaskId, Tenant, Timestamp, Usage, UsageBatch, UsageRecord,
};

use self::{
    line::{Chain, Entry},
    replay::replay,
};
use crate::{
    error::{Error, Result},
    files,
    home::make_private,
};

/// Whose counters a reading is of. They count up from zero for as long as the key is the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Meter {
    pub tenant: Tenant,
    pub task: TaskId,
    pub container: ContainerName,
    pub image: Digest,
}

#[derive(Debug)]
pub struct UsageLog {
    folder: PathBuf,
    boot: String,
    file: File,
    chain: Chain,
    length: u64,
    next_seq: u64,
    last: BTreeMap<Meter, Usage>,
}

/// A log longer than this is closed, and the next begins: about fifty thousand records.
const LOG_BYTES_MAX: u64 = 16 << 20;
/// Records in one upload: some hundred kilobytes, well below what the control plane takes.
const BATCH_RECORDS_MAX: usize = 500;

impl UsageLog {
    /// Opens the logs in `folder` and begins a new one that goes on from their readings.
    ///
    /// # Errors
    /// When the folder cannot be read or written. A damaged log is read up to its damage, never an
    /// error.
    pub fn open(folder: &Path) -> Result<Self> {
        make_private(folder)?;
        let mut last = BTreeMap::new();
        for path in logs(folder)? {
            // Readings only grow, so the largest is the latest, in whatever order the files are
            // read.
            for (meter, reading) in replay(&path)?.readings {
                let known = last.entry(meter).or_insert(reading);
                *known = later(*known, reading);
            }
        }
        Self::begin(folder.to_owned(), last)
    }

    fn begin(folder: PathBuf, last: BTreeMap<Meter, Usage>) -> Result<Self> {
        let boot = format!(
            "{:013x}-{}",
            Timestamp::of(std::time::SystemTime::now()).millis(),
            disk::random_hex::<4>()
        );
        let path = log_path(&folder, &boot);
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(Error::file("make", &path))?;
        let mut log = Self {
            folder,
            chain: Chain::begin(&boot),
            boot,
            file,
            length: 0,
            next_seq: 1,
            last: BTreeMap::new(),
        };
        let entries =
            last.iter().map(|(meter, reading)| Entry::baseline(meter, *reading)).collect();
        log.last = last;
        log.append(entries)?;
        disk::sync_folder(&log.folder).map_err(Error::file("flush", &log.folder))?;
        Ok(log)
    }

    /// Takes readings of counters: what each has grown by since the reading before it becomes a
    /// record. Durable when it returns.
    ///
    /// # Errors
    /// When the disk does not take it; the readings count as not taken then.
    pub fn measure(
        &mut self,
        at: Timestamp,
        readings: impl IntoIterator<Item = (Meter, Usage)>,
    ) -> Result<()> {
        let mut entries = Vec::new();
        let mut changed = Vec::new();
        for (meter, reading) in readings {
            let before = self.last.get(&meter).copied().unwrap_or_default();
            if later(before, reading) == before {
                continue;
            }
            let record = UsageRecord {
                seq: self.next_seq + entries.len() as u64,
                tenant: meter.tenant.clone(),
                task: meter.task.clone(),
                container: meter.container.clone(),
                image: meter.image,
                at,
                usage: reading.since(before),
            };
            entries.push(Entry::record(record, reading));
            changed.push((meter, reading));
        }
        let count = entries.len() as u64;
        self.append(entries)?;
        self.next_seq += count;
        self.last.extend(changed);
        if self.length > LOG_BYTES_MAX {
            *self = Self::begin(self.folder.clone(), std::mem::take(&mut self.last))?;
        }
        Ok(())
    }

    /// Forgets counters that are gone for good, so that their readings are not carried on for ever.
    pub fn forget(&mut self, meter: &Meter) {
        self.last.remove(meter);
    }

    fn append(&mut self, entries: Vec<Entry>) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let (mut bytes, mut chain) = (Vec::new(), self.chain.clone());
        for entry in &entries {
            chain.write(entry, &mut bytes);
        }
        let path = log_path(&self.folder, &self.boot);
        let written = self.file.write_all(&bytes).and_then(|()| self.file.sync_data());
        if let Err(source) = written {
            // What was half written would end the log for its readers: cut it off, so that the next
            // attempt can follow.
            let _ = self.file.set_len(self.length);
            return Err(Error::File { verb: "write", path, source });
        }
        self.chain = chain;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// The oldest records that the ledger has not acknowledged, if any.
    ///
    /// # Errors
    /// When a log cannot be read.
    pub fn batch(&self, node: &NodeId) -> Result<Option<UsageBatch>> {
        for path in logs(&self.folder)? {
            let boot = boot_of(&path);
            if boot == self.boot && self.next_seq <= 1 {
                continue;
            }
            let acknowledged = read_cursor(&path)?;
            if boot == self.boot && acknowledged + 1 >= self.next_seq {
                continue;
            }
            let records: Vec<_> = replay(&path)?
                .records
                .into_iter()
                .filter(|record| record.seq > acknowledged)
                .take(BATCH_RECORDS_MAX)
                .collect();
            if !records.is_empty() {
                return Ok(Some(UsageBatch { version: 1, node: node.clone(), boot, records }));
            }
        }
        Ok(None)
    }

    /// The ledger has the log `boot` up to record `seq`: that is not sent again, and a log of which
    /// it has everything goes.
    ///
    /// # Errors
    /// When that cannot be written down. The records are then sent again, which the ledger takes as
    /// one.
    pub fn acknowledge(&mut self, boot: &str, seq: u64) -> Result<()> {
        let path = log_path(&self.folder, boot);
        if read_cursor(&path)? < seq {
            let cursor = cursor_path(&path);
            disk::write(&cursor, seq.to_string().as_bytes(), Survives::Crash)
                .map_err(Error::file("write", cursor))?;
        }
        self.remove_finished()
    }

    /// The ledger misses records of the log `boot` that it had acknowledged: all of them are sent
    /// again. It takes those that it has as taken.
    ///
    /// # Errors
    /// When that cannot be written down.
    pub fn rewind(&mut self, boot: &str) -> Result<()> {
        let cursor = cursor_path(&log_path(&self.folder, boot));
        match fs::remove_file(&cursor) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::file("remove", cursor)(error))
            }
            _ => Ok(()),
        }
    }

    /// Removes logs that the ledger has in full. Their readings live on as the baselines of this
    /// one.
    fn remove_finished(&self) -> Result<()> {
        for path in logs(&self.folder)? {
            if boot_of(&path) == self.boot {
                continue;
            }
            let last = replay(&path)?.records.last().map_or(0, |record| record.seq);
            if read_cursor(&path)? >= last {
                fs::remove_file(&path).map_err(Error::file("remove", &path))?;
                let _ = fs::remove_file(cursor_path(&path));
            }
        }
        Ok(())
    }

    /// Every record that is still here, oldest first, acknowledged or not: for a node without a
    /// control plane.
    ///
    /// # Errors
    /// When a log cannot be read.
    pub fn records(&self) -> Result<Vec<UsageRecord>> {
        let mut records = Vec::new();
        for path in logs(&self.folder)? {
            records.extend(replay(&path)?.records);
        }
        Ok(records)
    }
}

/// The larger of two readings, counter by counter.
fn later(a: Usage, b: Usage) -> Usage {
    Usage {
        runs: a.runs.max(b.runs),
        failed_runs: a.failed_runs.max(b.failed_runs),
        cpu_ns: a.cpu_ns.max(b.cpu_ns),
        memory_byte_ms: a.memory_byte_ms.max(b.memory_byte_ms),
        memory_bytes_peak: a.memory_bytes_peak.max(b.memory_bytes_peak),
        bytes_in: a.bytes_in.max(b.bytes_in),
        bytes_out: a.bytes_out.max(b.bytes_out),
    }
}

fn log_path(folder: &Path, boot: &str) -> PathBuf {
    folder.join(format!("{boot}.log"))
}

/// The logs, oldest first: a boot begins with its time.
fn logs(folder: &Path) -> Result<Vec<PathBuf>> {
    Ok(files::list(folder)?
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "log"))
        .collect())
}

fn boot_of(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn cursor_path(log: &Path) -> PathBuf {
    log.with_extension("cursor")
}

/// Up to where the ledger has a log. One that cannot be read counts as nothing: what is sent twice
/// is taken once.
fn read_cursor(log: &Path) -> Result<u64> {
    let bytes = files::read(&cursor_path(log))?.unwrap_or_default();
    Ok(std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0))
}

#[cfg(test)]
mod tests;
