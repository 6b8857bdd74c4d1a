use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::{Duration, Instant, SystemTime},
};

use rustix::fs::{FallocateFlags, fallocate};
use spec::Timestamp;

use crate::{
    files,
    limits::{
        FILE_BYTES_MAX, FILES_MAX, RESERVE_LOW_BYTES, RESERVED_BYTES,
        UNAUTHENTICATED_PER_SECOND_MAX,
    },
    record::{Event, Record, line, origin},
};

/// Writes the audit log of one server. Its lines are in the page cache when [`AuditLog::record`]
/// returns, so they survive the end of the process; a loss of power may cost the last seconds.
#[derive(Debug)]
pub struct AuditLog(Mutex<Writer>);

#[derive(Debug)]
struct Writer {
    folder: PathBuf,
    file: File,
    number: u64,
    /// Of the file, with what is reserved ahead of it.
    bytes: u64,
    reserved: u64,
    /// Lines that are not written yet, and how many records they are, with those that they omit.
    lines: String,
    records: u64,
    /// The last line, and the last of the file.
    last: Link,
    written: Link,
    omitted: u64,
    /// Records of clients without a principal, since when.
    unauthenticated: (Instant, u32),
    file_bytes_max: u64,
    /// Whether the disk has refused.
    is_full: bool,
}

/// The number of a line, and the hash that the next one follows from.
#[derive(Debug, Clone)]
struct Link {
    seq: u64,
    hash: String,
}

impl AuditLog {
    /// Continues the log in `folder`, or begins one. What a crash left of a last line is removed.
    ///
    /// # Errors
    /// When the folder or its newest file cannot be used.
    pub fn open(folder: &Path) -> io::Result<Self> {
        disk::private_folder(folder)?;
        let numbers = files::numbers(folder)?;
        let number = numbers.last().copied().unwrap_or(1);
        let path = files::path(folder, number);
        let mut file = disk::open(&path, disk::Purpose::Keep)?;
        let mut text = Vec::new();
        (&mut file).take(2 * FILE_BYTES_MAX).read_to_end(&mut text)?;
        let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        file.set_len(end as u64)?;
        file.seek(SeekFrom::End(0))?;
        let mut ended = last(&text[..end]);
        // A file that was begun and has no line yet goes on where the one before it ended.
        for number in numbers.iter().rev().skip(1) {
            if ended.is_none() {
                ended = last(&disk::read(&files::path(folder, *number), 2 * FILE_BYTES_MAX)?);
            }
        }
        let (hash, seq) = ended.unwrap_or_else(|| (origin(), 0));
        let last = Link { seq, hash };
        Ok(Self(Mutex::new(Writer {
            folder: folder.to_owned(),
            file,
            number,
            bytes: end as u64,
            reserved: end as u64,
            lines: String::new(),
            records: 0,
            written: last.clone(),
            last,
            omitted: 0,
            unauthenticated: (Instant::now(), 0),
            file_bytes_max: FILE_BYTES_MAX,
            is_full: false,
        })))
    }

    /// Whether what is done next can be recorded. When the disk has no space left, it cannot: then
    /// changes are to be refused.
    pub fn has_space(&self) -> bool {
        let mut writer = self.lock();
        writer.reserve();
        !writer.is_full
    }

    /// Records what happened. What cannot be written is counted by the next record that can.
    pub fn record(&self, event: Event) {
        drop(self.append(event));
    }

    /// The same, in one write with what other tasks of this thread have to record: a write costs
    /// several times what a line does.
    pub async fn record_together(&self, event: Event) {
        let appended = self.append(event);
        let mut is_their_turn = true;
        std::future::poll_fn(|cx| match std::mem::take(&mut is_their_turn) {
            true => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            false => Poll::Ready(()),
        })
        .await;
        drop(appended);
    }

    fn append(&self, event: Event) -> Appended<'_> {
        let at = Timestamp::of(SystemTime::now());
        let mut writer = self.lock();
        writer.append(event, at, Instant::now());
        Appended { log: self, seq: writer.last.seq }
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A record that is written when this is dropped, also where its task is not carried on.
struct Appended<'a> {
    log: &'a AuditLog,
    seq: u64,
}

impl Drop for Appended<'_> {
    fn drop(&mut self) {
        let mut writer = self.log.lock();
        if writer.written.seq < self.seq {
            writer.flush();
        }
    }
}

/// The hash and the number of the last record of a file.
fn last(text: &[u8]) -> Option<(String, u64)> {
    let text = String::from_utf8_lossy(text);
    let (hash, json) = text.lines().next_back()?.split_once(' ')?;
    let record: Record = serde_json::from_str(json).ok()?;
    Some((hash.to_owned(), record.seq))
}

impl Writer {
    fn append(&mut self, event: Event, at: Timestamp, now: Instant) {
        if event.principal.is_empty() && !self.admit_unauthenticated(now) {
            self.omitted += 1;
            return;
        }
        let omitted = std::mem::take(&mut self.omitted);
        let record = Record { seq: self.last.seq + 1, at, event: event.clipped(), omitted };
        let (line, hash) = line(&self.last.hash, &record);
        self.lines.push_str(&line);
        self.lines.push('\n');
        self.records += 1 + omitted;
        self.last = Link { seq: record.seq, hash };
    }

    fn flush(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        match self.write() {
            Ok(()) => self.written = self.last.clone(),
            Err(error) => {
                if !self.is_full {
                    tracing::error!(%error, "the audit log cannot be written");
                }
                self.is_full = true;
                self.last = self.written.clone();
                self.omitted += self.records;
            }
        }
        self.lines.clear();
        self.records = 0;
    }

    fn admit_unauthenticated(&mut self, now: Instant) -> bool {
        let (since, count) = &mut self.unauthenticated;
        if now.duration_since(*since) >= Duration::from_secs(1) {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count <= UNAUTHENTICATED_PER_SECOND_MAX
    }

    fn write(&mut self) -> io::Result<()> {
        if self.bytes >= self.file_bytes_max {
            self.rotate()?;
        }
        self.reserve();
        if let Err(error) = self.file.write_all(self.lines.as_bytes()) {
            // No half of a line stays, and no line whose answer says that it does not.
            self.file.set_len(self.bytes)?;
            self.file.seek(SeekFrom::Start(self.bytes))?;
            self.reserved = self.bytes;
            return Err(error);
        }
        self.bytes += self.lines.len() as u64;
        Ok(())
    }

    /// Takes space from the disk ahead of the next records.
    fn reserve(&mut self) {
        if self.reserved.saturating_sub(self.bytes) > RESERVE_LOW_BYTES {
            self.is_full = false;
            return;
        }
        let reserved = fallocate(&self.file, FallocateFlags::KEEP_SIZE, self.bytes, RESERVED_BYTES);
        match reserved {
            Ok(()) => (self.reserved, self.is_full) = (self.bytes + RESERVED_BYTES, false),
            // A file system that reserves nothing: then a failed write says that it is full.
            Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => {
                if !self.is_full {
                    tracing::error!(%error, "no space for the audit log: changes are refused");
                }
                self.is_full = true;
            }
        }
    }

    /// The next file goes on with the chain; the oldest are deleted.
    fn rotate(&mut self) -> io::Result<()> {
        self.file.set_len(self.bytes)?; // gives back what was reserved
        self.file.sync_all()?;
        let next = self.number + 1;
        self.file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(files::path(&self.folder, next))?;
        (self.number, self.bytes, self.reserved) = (next, 0, 0);
        for number in files::numbers(&self.folder)? {
            if number + FILES_MAX <= next {
                fs::remove_file(files::path(&self.folder, number))?;
            }
        }
        disk::sync_folder(&self.folder)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // What was reserved would look like the rest of a line.
        let _ = self.file.set_len(self.bytes);
        let _ = self.file.sync_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Broken, entries, verify};

    fn event(principal: &str, object: &str) -> Event {
        Event {
            principal: principal.to_owned(),
            address: "10.0.0.1".to_owned(),
            action: "GET /v1/tasks".to_owned(),
            object: object.to_owned(),
            status: 200,
            code: String::new(),
        }
    }

    fn records(folder: &Path) -> Vec<Record> {
        let mut records = Vec::new();
        entries(folder, |record| records.push(record)).unwrap();
        records
    }

    fn whole(folder: &Path) -> crate::Verified {
        verify(folder, None).unwrap().unwrap()
    }

    #[test]
    fn a_log_goes_on_after_a_crash_in_the_middle_of_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let log = AuditLog::open(folder.path()).unwrap();
        log.record(event("operator", "a\nb \u{1b}[31m"));
        log.record(event("operator", &"x".repeat(100_000)));
        let file = files::path(folder.path(), 1);
        assert_eq!(whole(folder.path()).records, 2, "also while it is written");
        drop(log);
        File::options().append(true).open(&file).unwrap().write_all(b"0123 {\"seq").unwrap();
        let log = AuditLog::open(folder.path()).unwrap();
        log.record(event("operator", "c"));
        let verified = whole(folder.path());
        assert_eq!((verified.first, verified.records), (1, 3));
        let read = records(folder.path());
        assert_eq!(read[0].event.object, "a\nb \u{1b}[31m");
        assert_eq!(read[1].event.object.chars().count(), 513);
        assert_eq!(read[2].seq, 3);
        // Its owner alone reads it, and what is reserved is given back.
        use std::os::unix::fs::MetadataExt;
        drop(log);
        let metadata = fs::metadata(file).unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o600);
        assert!(metadata.blocks() * 512 < RESERVED_BYTES, "{}", metadata.blocks());
    }

    #[test]
    fn records_of_one_turn_are_written_together_and_none_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let log = AuditLog::open(folder.path()).unwrap();
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let mut recorded: Vec<_> = (0..10)
            .map(|n| Box::pin(log.record_together(event("operator", &n.to_string()))))
            .collect();
        let mut poll = |at: usize| recorded[at].as_mut().poll(&mut cx).is_ready();
        assert!((0..10).all(|at| !poll(at)), "each waits for its turn");
        assert_eq!(records(folder.path()).len(), 0);
        assert!(poll(3), "the first of them writes");
        assert_eq!(whole(folder.path()).records, 10, "for all");
        assert!(poll(0) && poll(9));
        // One that is not carried on is written as well, also beside others.
        let mut dropped = Box::pin(log.record_together(event("operator", "dropped")));
        assert!(dropped.as_mut().poll(&mut cx).is_pending());
        log.record(event("operator", "at once"));
        assert_eq!(whole(folder.path()).records, 12);
        let mut dropped_alone = Box::pin(log.record_together(event("operator", "alone")));
        assert!(dropped_alone.as_mut().poll(&mut cx).is_pending());
        drop((dropped, dropped_alone));
        assert_eq!(whole(folder.path()).records, 13);
        let read = records(folder.path());
        assert!(read.iter().zip(1..).all(|(record, seq)| record.seq == seq));
    }

    #[test]
    fn a_line_that_is_changed_or_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let log = AuditLog::open(folder.path()).unwrap();
        (0..5).for_each(|n| log.record(event("tenant/ci", &format!("/v1/tasks/t{n}"))));
        let head = whole(folder.path()).head;
        log.record(event("tenant/ci", "/v1/tasks/t5"));
        let has = |hash: &str| verify(folder.path(), Some(hash)).unwrap().unwrap().has_hash;
        assert!(has(&head) && !has(&"ab".repeat(32)));
        drop(log);
        let file = files::path(folder.path(), 1);
        let text = fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let without = |n: usize| {
            let kept = lines.iter().enumerate().filter(|(at, _)| *at != n);
            kept.map(|(_, line)| format!("{line}\n")).collect::<String>()
        };
        for (name, text, line) in [
            ("changed", text.replace("t3", "t9"), 4),
            ("left out", without(2), 3),
            ("the first left out", without(0), 1),
            ("added", text.replacen('\n', "\nab {}\n", 1), 2),
            ("no line", text.replacen(' ', "", 1), 1),
            ("very long", text.replacen('\n', &format!("\n{}\n", "x".repeat(100_000)), 1), 2),
        ] {
            fs::write(&file, text).unwrap();
            let Err(Broken { line: found, .. }) = verify(folder.path(), None).unwrap() else {
                panic!("{name} is not found")
            };
            assert_eq!(found, line, "{name}");
        }
    }

    #[test]
    fn files_rotate_and_the_oldest_go() {
        let folder = tempfile::tempdir().unwrap();
        let log = AuditLog::open(folder.path()).unwrap();
        log.lock().file_bytes_max = 1000;
        for n in 0..200 {
            log.record(event("operator", &format!("{n}")));
        }
        let numbers = files::numbers(folder.path()).unwrap();
        assert_eq!(numbers.len() as u64, FILES_MAX);
        let (verified, read) = (whole(folder.path()), records(folder.path()));
        assert_eq!(verified.records as usize, read.len());
        assert_eq!((verified.first, read.last().unwrap().seq), (read[0].seq, 200));
        assert!(verified.first > 1);
        // A file that was begun by a process which then ended has no line.
        drop(log);
        File::create(files::path(folder.path(), numbers.last().unwrap() + 1)).unwrap();
        let log = AuditLog::open(folder.path()).unwrap();
        log.record(event("operator", "next"));
        assert_eq!(records(folder.path()).last().unwrap().seq, 201);
        assert_eq!(whole(folder.path()).records, verified.records + 1);
        fs::remove_file(files::path(folder.path(), numbers[3])).unwrap();
        assert_eq!(
            verify(folder.path(), None).unwrap().unwrap_err().why,
            "the file after it is missing"
        );
    }

    #[test]
    fn refused_clients_rotate_nothing_away() {
        let folder = tempfile::tempdir().unwrap();
        let log = AuditLog::open(folder.path()).unwrap();
        (0..10_000).for_each(|_| log.record(event("", "/v1/tasks")));
        log.record(event("operator", "/v1/tasks"));
        let read = records(folder.path());
        assert!(read.len() < 1_000, "{}", read.len());
        let omitted: u64 = read.iter().map(|record| record.omitted).sum();
        assert_eq!(omitted + read.len() as u64, 10_001, "but counted");
    }

    /// Fills a file system of its own, which takes root to mount; without, it says so.
    #[test]
    fn a_reader_follows_no_link_and_waits_for_no_pipe() {
        let folder = tempfile::tempdir().unwrap();
        let log = AuditLog::open(folder.path()).unwrap();
        log.record(event("ann", "/v1/clusters"));
        drop(log);
        let (first, next) = (files::path(folder.path(), 1), files::path(folder.path(), 2));
        assert!(verify(folder.path(), None).unwrap().is_ok());
        std::os::unix::fs::symlink(&first, &next).unwrap();
        assert!(verify(folder.path(), None).is_err(), "a link was followed");
        fs::remove_file(&next).unwrap();
        let made = rustix::fs::mknodat(
            rustix::fs::CWD,
            &next,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        );
        made.unwrap();
        assert!(verify(folder.path(), None).is_err(), "a pipe was opened");
    }

    #[test]
    fn a_full_disk_is_said_before_something_cannot_be_recorded() {
        let folder = tempfile::tempdir().unwrap();
        let mount = |arguments: &[&str]| {
            let path = folder.path().to_str().unwrap();
            std::process::Command::new(arguments[0]).args(&arguments[1..]).arg(path).output()
        };
        let mounted = mount(&["mount", "-t", "tmpfs", "-o", "size=4194304,mode=700", "tmpfs"]);
        if !mounted.is_ok_and(|mounted| mounted.status.success()) {
            println!("SKIPPED: mounting a file system needs root");
            return;
        }
        let log = AuditLog::open(&folder.path().join("audit")).unwrap();
        log.record(event("operator", "a"));
        let filler = folder.path().join("filler");
        let _ = fs::write(&filler, vec![0; 8 << 20]);
        let mut recorded = 1;
        while log.has_space() {
            log.record(event("operator", "while there is space"));
            recorded += 1;
        }
        let reserve = (RESERVED_BYTES - RESERVE_LOW_BYTES) / 400;
        assert!(recorded > reserve as usize, "{recorded}: what was reserved is used");
        log.record(event("operator", "under way"));
        assert_eq!(records(&folder.path().join("audit")).len(), recorded + 1, "the rest is for it");
        for _ in 0..10_000 {
            log.record(event("operator", &"x".repeat(500)));
        }
        fs::remove_file(&filler).unwrap();
        assert!(log.has_space(), "without a new start");
        log.record(event("operator", "after"));
        let read = records(&folder.path().join("audit"));
        assert!(read.last().unwrap().omitted > 0, "what was lost is counted");
        assert!(whole(&folder.path().join("audit")).records > 0);
        drop(log);
        let _ = mount(&["umount", "--lazy"]);
    }
}
