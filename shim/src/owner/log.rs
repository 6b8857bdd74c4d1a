use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::Path,
};

use spec::{LogHead, Timestamp};

use crate::limits::{LOG_BYTES_MIN, LOG_LINE_BYTES_MAX};

/// Which of a program's streams a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Stdout,
    Stderr,
}

/// A program's output as lines in the CRI format: `TIME stdout F text`, with `P` for a line that
/// goes on in the next.
///
/// When it has grown to its limit, it is truncated to its newer half in place, so readers that
/// follow it see it shrink, and a flood costs no disk. It begins with a record that says so then.
pub(crate) struct Log {
    file: File,
    bytes: u64,
    bytes_max: u64,
    unfinished: [Vec<u8>; 2],
}

impl Log {
    /// Appends to the file at `path`.
    pub(crate) fn open(path: &Path, bytes_max: u64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self {
            file,
            bytes,
            bytes_max: bytes_max.max(LOG_BYTES_MIN),
            unfinished: Default::default(),
        })
    }

    /// Appends what the program wrote, whole lines or not.
    pub(crate) fn write(
        &mut self,
        source: Source,
        mut text: &[u8],
        now: Timestamp,
    ) -> io::Result<()> {
        let mut lines = Vec::with_capacity(text.len() + 64);
        let unfinished = &mut self.unfinished[source as usize];
        while let Some(end) = text.iter().position(|b| *b == b'\n') {
            let (line, rest) = (&text[..end], &text[end + 1..]);
            unfinished.extend_from_slice(line);
            split_long(&mut lines, source, now, unfinished);
            push_record(&mut lines, source, now, b"F", unfinished);
            unfinished.clear();
            text = rest;
        }
        unfinished.extend_from_slice(text);
        split_long(&mut lines, source, now, unfinished);
        self.append(&lines)
    }

    /// Writes what has no newline yet: the stream is at its end.
    pub(crate) fn close(&mut self, source: Source, now: Timestamp) -> io::Result<()> {
        let unfinished = std::mem::take(&mut self.unfinished[source as usize]);
        if unfinished.is_empty() {
            return Ok(());
        }
        let mut line = Vec::new();
        push_record(&mut line, source, now, b"P", &unfinished);
        self.append(&line)
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.bytes + lines.len() as u64 > self.bytes_max {
            self.cut()?;
        }
        self.file.write_all(lines)?;
        self.bytes += lines.len() as u64;
        Ok(())
    }

    fn cut(&mut self) -> io::Result<()> {
        let mut start = [0; LogHead::BYTES_MAX];
        let read = self.file.read_at(&mut start, 0)?;
        let dropped = self.bytes.saturating_sub(self.bytes_max / 2);
        self.file.seek(SeekFrom::Start(dropped))?;
        let mut newer = Vec::new();
        (&self.file).take(self.bytes_max).read_to_end(&mut newer)?;
        let line_start = newer.iter().position(|b| *b == b'\n').map_or(newer.len(), |end| end + 1);
        let dropped = dropped + line_start as u64;
        let now = Timestamp::of(std::time::SystemTime::now());
        let mut kept = LogHead::of(&start[..read]).after_cut(dropped, now).into_bytes();
        kept.extend_from_slice(&newer[line_start..]);
        self.file.set_len(0)?;
        self.file.write_all(&kept)?;
        self.bytes = kept.len() as u64;
        Ok(())
    }
}

fn split_long(lines: &mut Vec<u8>, source: Source, now: Timestamp, unfinished: &mut Vec<u8>) {
    while unfinished.len() > LOG_LINE_BYTES_MAX {
        push_record(lines, source, now, b"P", &unfinished[..LOG_LINE_BYTES_MAX]);
        unfinished.drain(..LOG_LINE_BYTES_MAX);
    }
}

fn push_record(lines: &mut Vec<u8>, source: Source, now: Timestamp, tag: &[u8], text: &[u8]) {
    let name = match source {
        Source::Stdout => "stdout",
        Source::Stderr => "stderr",
    };
    lines.extend_from_slice(format!("{now} {name} ").as_bytes());
    lines.extend_from_slice(tag);
    lines.push(b' ');
    lines.extend_from_slice(text);
    lines.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(bytes_max: u64) -> (tempfile::TempDir, Log) {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::open(&folder.path().join("log"), bytes_max).unwrap();
        (folder, log)
    }

    #[test]
    fn output_becomes_lines_however_it_arrives() {
        let (folder, mut log) = log(1 << 20);
        let now = Timestamp::from_millis(0);
        for (source, text) in [
            (Source::Stdout, &b"one\ntw"[..]),
            (Source::Stderr, b"err\n"),
            (Source::Stdout, b"o\n\nthr"),
            (Source::Stdout, b"ee"),
        ] {
            log.write(source, text, now).unwrap();
        }
        log.close(Source::Stdout, now).unwrap();
        log.close(Source::Stderr, now).unwrap();
        let text = std::fs::read_to_string(folder.path().join("log")).unwrap();
        let want = ["stdout F one", "stderr F err", "stdout F two", "stdout F ", "stdout P three"];
        let lines: Vec<_> = text
            .lines()
            .map(|line| line.strip_prefix("1970-01-01T00:00:00.000Z ").unwrap())
            .collect();
        assert_eq!(lines, want);
    }

    #[test]
    fn a_flood_costs_no_more_than_the_limit() {
        let (folder, mut log) = log(256 << 10);
        let now = Timestamp::from_millis(0);
        let path = folder.path().join("log");
        for round in 0..200 {
            log.write(Source::Stdout, &[b'x'; 40_000], now).unwrap();
            log.write(Source::Stderr, format!("line {round}\n").as_bytes(), now).unwrap();
            assert!(path.metadata().unwrap().len() <= 256 << 10);
        }
        let text = std::fs::read_to_string(path).unwrap();
        assert!(
            text.lines().next().unwrap().contains("bytes of older log were dropped"),
            "{}",
            &text[..200]
        );
        assert!(text.contains("line 199\n") && !text.contains("line 0\n"));
    }
}
