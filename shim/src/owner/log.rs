use std::{io, path::Path};

use engine::LogFile;
use spec::LogSource;

use crate::limits::LOG_LINE_BYTES_MAX;

/// A program's output as lines in its log, however it arrives.
pub(crate) struct Log {
    file: LogFile,
    unfinished: [Vec<u8>; 2],
}

impl Log {
    /// Appends to the file at `path`, of which the last `text_max` bytes of text stay.
    pub(crate) fn open(path: &Path, text_max: u64) -> io::Result<Self> {
        let file = disk::open(path, disk::Purpose::Append)?;
        Ok(Self { file: LogFile::open(file, text_max)?, unfinished: Default::default() })
    }

    /// Appends what the program wrote, whole lines or not.
    pub(crate) fn write(&mut self, source: LogSource, mut text: &[u8]) -> io::Result<()> {
        let unfinished = &mut self.unfinished[source as usize];
        let mut lines: Vec<(Vec<u8>, bool)> = Vec::new();
        while let Some(end) = text.iter().position(|b| *b == b'\n') {
            let (line, rest) = (&text[..end], &text[end + 1..]);
            unfinished.extend_from_slice(line);
            split_long(&mut lines, unfinished);
            lines.push((std::mem::take(unfinished), false));
            text = rest;
        }
        unfinished.extend_from_slice(text);
        split_long(&mut lines, unfinished);
        self.file.append(source, lines.iter().map(|(text, partial)| (text.as_slice(), *partial)))
    }

    /// Writes what has no newline yet: the stream is at its end.
    pub(crate) fn close(&mut self, source: LogSource) -> io::Result<()> {
        let unfinished = std::mem::take(&mut self.unfinished[source as usize]);
        match unfinished.is_empty() {
            true => Ok(()),
            false => self.file.append(source, [(unfinished.as_slice(), true)]),
        }
    }

    /// A line of the shim's own, among those of the error stream.
    pub(crate) fn say(&mut self, text: &str) -> io::Result<()> {
        self.file.append(LogSource::Stderr, [(text.as_bytes(), false)])
    }
}

fn split_long(lines: &mut Vec<(Vec<u8>, bool)>, unfinished: &mut Vec<u8>) {
    while unfinished.len() > LOG_LINE_BYTES_MAX {
        let rest = unfinished.split_off(LOG_LINE_BYTES_MAX);
        lines.push((std::mem::replace(unfinished, rest), true));
    }
}

#[cfg(test)]
mod tests {
    use spec::LogDecoder;

    use super::*;

    fn log(text_max: u64) -> (tempfile::TempDir, Log) {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::open(&folder.path().join("log"), text_max).unwrap();
        (folder, log)
    }

    #[test]
    fn output_becomes_lines_however_it_arrives() {
        let (folder, mut log) = log(1 << 20);
        for (source, text) in [
            (LogSource::Stdout, &b"one\ntw"[..]),
            (LogSource::Stderr, b"err\n"),
            (LogSource::Stdout, b"o\n\nthr"),
            (LogSource::Stdout, b"ee"),
        ] {
            log.write(source, text).unwrap();
        }
        log.close(LogSource::Stdout).unwrap();
        log.close(LogSource::Stderr).unwrap();
        log.say("by the way").unwrap();
        let bytes = std::fs::read(folder.path().join("log")).unwrap();
        let mut decoder = LogDecoder::default();
        let records = bytes.split(|byte| *byte == b'\n').filter_map(|line| decoder.decode(line));
        let lines: Vec<_> = records
            .map(|record| {
                let text = String::from_utf8_lossy(record.text);
                format!("{:?} {} {text}", record.source, record.partial)
            })
            .collect();
        let want = [
            "Stdout false one",
            "Stderr false err",
            "Stdout false two",
            "Stdout false ",
            "Stdout true three",
            "Stderr false by the way",
        ];
        assert_eq!(lines, want);
    }

    #[test]
    fn a_line_without_end_costs_no_memory() {
        let (folder, mut log) = log(1 << 20);
        for _ in 0..100 {
            log.write(LogSource::Stdout, &[b'x'; 1000]).unwrap();
        }
        assert!(log.unfinished[0].len() <= LOG_LINE_BYTES_MAX);
        assert!(std::fs::metadata(folder.path().join("log")).unwrap().len() > 90_000);
    }
}
