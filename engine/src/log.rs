use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    time::SystemTime,
};

use spec::{LogIndex, LogSource, Timestamp};

/// Bytes read at once of a log that is there already.
const BLOCK_BYTES: usize = 64 << 10;

/// The log of a container, with its one writer: the task shim, or the worker.
///
/// When its text has outgrown the limit by half, the file is cut in place to the last bytes of text
/// within the limit, so readers that follow it see it shrink, and a flood costs no disk.
#[derive(Debug)]
pub struct LogFile {
    file: File,
    index: LogIndex,
    text_max: u64,
}

impl LogFile {
    /// Goes on in a file that is open for reading and appending.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(file: File, text_max: u64) -> io::Result<Self> {
        let mut index = LogIndex::default();
        let (mut offset, mut rest) = (0, Vec::new());
        let mut block = vec![0; BLOCK_BYTES];
        loop {
            let read = file.read_at(&mut block, offset)?;
            offset += read as u64;
            rest.extend_from_slice(&block[..read]);
            let mut start = 0;
            while let Some(length) = rest[start..].iter().position(|byte| *byte == b'\n') {
                index.read(&rest[start..=start + length]);
                start += length + 1;
            }
            rest.drain(..start);
            if read == 0 {
                break;
            }
        }
        if !rest.is_empty() {
            index.read(&rest);
        }
        Ok(Self { file, index, text_max })
    }

    /// Appends lines, or parts of lines, of one moment. What cannot be written is lost, and nothing
    /// else.
    ///
    /// # Errors
    /// When the file cannot be written: the disk is full.
    pub fn append<'a>(
        &mut self,
        source: LogSource,
        lines: impl IntoIterator<Item = (&'a [u8], bool)>,
    ) -> io::Result<()> {
        let (before, now) = (self.index.position(), now());
        let mut records = Vec::new();
        for (text, partial) in lines {
            self.index.push(&mut records, now, source, partial, text);
        }
        if let Err(error) = self.file.write_all(&records) {
            // Half of a record would hide the next one.
            let _ = self.file.set_len(before.bytes);
            self.index.return_to(before);
            return Err(error);
        }
        match self.index.cut_at(self.text_max) {
            Some(offset) => self.cut(offset, now),
            None => Ok(()),
        }
    }

    fn cut(&mut self, offset: u64, now: Timestamp) -> io::Result<()> {
        let length = self.index.position().bytes - offset;
        let mut kept = vec![0; usize::try_from(length).unwrap_or(0)];
        self.file.read_exact_at(&mut kept, offset)?;
        // Empty first: a reader that comes now sees that, and comes again.
        self.file.set_len(0)?;
        let head = self.index.cut(offset, now);
        self.file.write_all(head.as_bytes())?;
        self.file.write_all(&kept)
    }
}

fn now() -> Timestamp {
    Timestamp::of(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;
    use spec::{LogDecoder, LogHead};

    fn open(path: &std::path::Path, text_max: u64) -> LogFile {
        let file = File::options().create(true).read(true).append(true).open(path).unwrap();
        LogFile::open(file, text_max).unwrap()
    }

    #[test]
    fn a_flood_of_short_lines_keeps_the_last_text_over_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let text_max = 1 << 20;
        let lines = 400_000;
        for part in 0..4 {
            let mut log = open(&path, text_max);
            for number in part * lines / 4..(part + 1) * lines / 4 {
                let line = format!("line {number:06}");
                log.append(LogSource::Stdout, [(line.as_bytes(), false)]).unwrap();
            }
        }
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes.len() < 3 << 20, "{} bytes", bytes.len());
        let mut decoder = LogDecoder::default();
        let texts: Vec<_> = bytes
            .split(|byte| *byte == b'\n')
            .filter_map(|line| Some(decoder.decode(line)?.text))
            .collect();
        let kept = texts.iter().map(|text| text.len() as u64 + 1).sum::<u64>();
        assert!(kept >= text_max, "{kept} bytes of text are kept");
        assert_eq!(texts.last(), Some(&&b"line 399999"[..]));
        assert_eq!(LogHead::of(&bytes).text + kept, lines * 12);
    }
}
