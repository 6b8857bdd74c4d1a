//! One line for each request of a client, written by a thread of its own: a slow disk holds up no
//! request, and costs lines, which are counted.

use std::{
    fmt,
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use super::{
    access_entry::Entry,
    limits::{ACCESS_LINES_WAITING_MAX, ACCESS_LOG_BYTES_MAX},
};

/// How a line of the access log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// An object of JSON with everything that is known.
    Json,
    /// Apache's and nginx's `combined`, for programs that read it.
    Combined,
}

impl FromStr for AccessLogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "json" => Ok(Self::Json),
            "combined" => Ok(Self::Combined),
            _ => Err("use json or combined".to_owned()),
        }
    }
}

impl fmt::Display for AccessLogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Json => "json",
            Self::Combined => "combined",
        })
    }
}

/// Takes lines and never waits.
#[derive(Debug)]
pub(super) struct AccessLog {
    format: AccessLogFormat,
    lines: SyncSender<Vec<u8>>,
    lost: Arc<AtomicU64>,
}

impl AccessLog {
    /// Goes on in `files`. Its thread ends with the log.
    pub fn start(
        format: AccessLogFormat,
        files: AccessLogFiles,
    ) -> io::Result<(Self, JoinHandle<()>)> {
        let (lines, waiting) = sync_channel(ACCESS_LINES_WAITING_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = lost.clone();
        let write = move || write_all(&waiting, files, &counted);
        let writing = std::thread::Builder::new().name("access-log".to_owned()).spawn(write)?;
        Ok((Self { format, lines, lost }, writing))
    }

    pub fn write(&self, entry: &Entry) {
        let line = match self.format {
            AccessLogFormat::Json => entry.json(),
            AccessLogFormat::Combined => entry.combined(),
        };
        if self.lines.try_send(line).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn write_all(waiting: &Receiver<Vec<u8>>, mut files: AccessLogFiles, lost: &AtomicU64) {
    while let Ok(mut lines) = waiting.recv() {
        // As many as wait, in one call.
        lines.extend(waiting.try_iter().take(ACCESS_LINES_WAITING_MAX).flatten());
        if let Err(error) = files.append(&lines) {
            let count = lines.iter().filter(|byte| **byte == b'\n').count() as u64;
            tracing::debug!(%error, count, "lines of the access log are lost");
            lost.fetch_add(count, Ordering::Relaxed);
        }
        match lost.swap(0, Ordering::Relaxed) {
            0 => {}
            lines => {
                tracing::warn!(lines, "lost lines of the access log: the disk is slow or full")
            }
        }
    }
}

/// The log as it is written, and the one before it.
#[derive(Debug)]
pub struct AccessLogFiles {
    now: File,
    before: File,
    bytes: u64,
    bytes_max: u64,
}

impl AccessLogFiles {
    /// Of files that are open for reading and appending: a process without rights opens none.
    ///
    /// # Errors
    /// When their size cannot be read.
    pub fn new(now: File, before: File) -> io::Result<Self> {
        let bytes = now.metadata()?.len();
        Ok(Self { now, before, bytes, bytes_max: ACCESS_LOG_BYTES_MAX })
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + lines.len() as u64 > self.bytes_max {
            self.rotate()?;
        }
        if let Err(error) = self.now.write_all(lines) {
            // Half of a line would spoil the next one.
            self.now.set_len(self.bytes)?;
            return Err(error);
        }
        self.bytes += lines.len() as u64;
        Ok(())
    }

    /// The log becomes the one before it. In place, as both stay open, and without an end that
    /// neither has: a reader that follows sees the file shrink.
    fn rotate(&mut self) -> io::Result<()> {
        self.before.set_len(0)?;
        let (mut block, mut offset) = (vec![0; 1 << 20], 0);
        loop {
            let read = match self.now.read_at(&mut block, offset)? {
                0 => break,
                read => read,
            };
            if let Err(error) = self.before.write_all(&block[..read]) {
                // Where the disk is full the older half goes, and the log goes on.
                self.before.set_len(0)?;
                tracing::warn!(%error, "the older lines of the access log are lost");
                break;
            }
            offset += read as u64;
        }
        self.now.set_len(0)?;
        self.bytes = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &std::path::Path, bytes_max: u64) -> AccessLogFiles {
        let open = |name: &str| disk::open(&folder.join(name), disk::Purpose::Append).unwrap();
        AccessLogFiles { bytes_max, ..AccessLogFiles::new(open("log"), open("log.1")).unwrap() }
    }

    #[test]
    fn the_log_is_bounded_and_its_older_half_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = files(folder.path(), 100);
        for number in 0..50 {
            files.append(format!("line {number:04}\n").as_bytes()).unwrap();
        }
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let (now, before) = (read("log"), read("log.1"));
        assert!(now.len() <= 100 && before.len() == 100, "{} {}", now.len(), before.len());
        let all = before + &now;
        let numbers: Vec<u32> = all.lines().map(|line| line[5..].parse().unwrap()).collect();
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{all}");
        assert_eq!(numbers.last(), Some(&49));
    }

    #[test]
    fn lines_that_the_disk_does_not_take_in_time_are_counted_and_hold_up_nothing() {
        let (lines, waiting) = sync_channel(2);
        let lost = Arc::new(AtomicU64::new(0));
        let log = AccessLog { format: AccessLogFormat::Combined, lines, lost: lost.clone() };
        let entry = Entry::example();
        (0..5).for_each(|_| log.write(&entry));
        assert_eq!(lost.load(Ordering::Relaxed), 3);
        drop(log);
        let folder = tempfile::tempdir().unwrap();
        write_all(&waiting, files(folder.path(), 1 << 20), &lost);
        let text = std::fs::read_to_string(folder.path().join("log")).unwrap();
        assert_eq!((text.lines().count(), lost.load(Ordering::Relaxed)), (2, 0));
        // A disk that takes nothing.
        let full = || File::options().read(true).append(true).open("/dev/full").unwrap();
        let mut files = AccessLogFiles { now: full(), before: full(), bytes: 0, bytes_max: 10 };
        assert!(files.append(b"line\n").is_err());
    }
}
