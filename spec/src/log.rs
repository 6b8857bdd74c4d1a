//! The log of a task: lines with their time and stream, in a file whose text is bounded.
//!
//! A record is a line of text: `oDELTA TEXT`, with `o` for stdout and `e` for stderr, as a capital
//! where the line goes on in the next record. DELTA is the milliseconds since the record before,
//! in base 36, left out for 0. `@TIME` sets the time; each [`MARK_BYTES`] begin with one, so that a
//! log can be cut there. A log that was cut begins with a [`LogHead`]. Records of older versions,
//! in the form of Kubernetes' CRI, are read as well.

use std::collections::VecDeque;

use crate::Timestamp;

/// Between two places at which a log can be cut.
const MARK_BYTES: u64 = 64 << 10;
/// A log is cut when its text has grown by half of what is kept: each byte is moved twice at most.
const GROWTH: u64 = 2;
/// The bytes of the file for each byte of text that is kept: what lines without text need.
const FILE_FACTOR: u64 = 4;

/// Which of a program's streams a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogSource {
    /// Its results.
    Stdout,
    /// Its talk.
    Stderr,
}

/// The first line of a log whose older lines were dropped: `!TEXT BYTES TIME`.
///
/// It lets a reader that follows the log find its place again, and the next cut count on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogHead {
    /// Bytes of text in all lines that were dropped, in all cuts, with their ends.
    pub text: u64,
    /// Bytes of their records.
    pub dropped: u64,
    /// Bytes of this line.
    pub bytes: u64,
    /// When the log was last cut.
    pub at: Timestamp,
}

impl LogHead {
    /// No head is longer.
    pub const BYTES_MAX: usize = 128;

    /// Reads the first line of a log that begins with `start`; zero when nothing was dropped.
    pub fn of(start: &[u8]) -> Self {
        let read = || {
            let end = start.iter().take(Self::BYTES_MAX).position(|byte| *byte == b'\n')?;
            let line = std::str::from_utf8(&start[..end]).ok()?;
            let bytes = end as u64 + 1;
            let Some(fields) = line.strip_prefix('!') else { return of_cri(line, bytes) };
            let mut fields = fields.split(' ').map(|field| field.parse::<u64>().ok());
            let (text, dropped, at) = (fields.next()??, fields.next()??, fields.next()??);
            Some(Self { text, dropped, bytes, at: Timestamp::from_millis(at) })
        };
        read().unwrap_or_default()
    }

    fn line(self) -> String {
        format!("!{} {} {}\n", self.text, self.dropped, self.at.millis())
    }

    /// Where the byte at `offset` is in all that was ever written.
    pub fn position(self, offset: u64) -> u64 {
        self.dropped.saturating_add(offset.saturating_sub(self.bytes))
    }

    /// Where the byte at `position` of all that was ever written is in the file; its beginning if
    /// that was dropped.
    pub fn offset(self, position: u64) -> u64 {
        position.checked_sub(self.dropped).map_or(0, |kept| kept.saturating_add(self.bytes))
    }

    /// What a reader is told in place of what was dropped.
    pub fn message(self) -> String {
        format!("margay: {} bytes of older log were dropped", self.text)
    }
}

/// The head that older versions wrote: a record like all others.
fn of_cri(line: &str, bytes: u64) -> Option<LogHead> {
    let (time, text) = line.split_once(" stderr F margay: ")?;
    let dropped = text.strip_suffix(" bytes of older log were dropped")?.parse().ok()?;
    Some(LogHead { text: dropped, dropped, bytes, at: time.parse().unwrap_or_default() })
}

/// One line as its record has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRecord<'a> {
    /// When it was written.
    pub time: Timestamp,
    /// Where it came from.
    pub source: LogSource,
    /// Whether the line goes on in the next record.
    pub partial: bool,
    /// What, without the end of the line.
    pub text: &'a [u8],
}

/// Reads records, one after the other.
#[derive(Debug, Default, Clone, Copy)]
pub struct LogDecoder {
    time: Timestamp,
}

impl LogDecoder {
    /// The record in a line without its end; `None` for one that only sets the time, and for one
    /// that is none.
    pub fn decode<'a>(&mut self, line: &'a [u8]) -> Option<LogRecord<'a>> {
        let (source, partial) = match line.first()? {
            b'o' => (LogSource::Stdout, false),
            b'O' => (LogSource::Stdout, true),
            b'e' => (LogSource::Stderr, false),
            b'E' => (LogSource::Stderr, true),
            b'@' => {
                let millis = std::str::from_utf8(&line[1..]).ok()?.parse().ok()?;
                self.time = Timestamp::from_millis(millis);
                return None;
            }
            b'0'..=b'9' => return cri_record(line),
            _ => return None,
        };
        let space = line.iter().take(16).position(|byte| *byte == b' ')?;
        let delta = match std::str::from_utf8(&line[1..space]).ok()? {
            "" => 0,
            digits => u64::from_str_radix(digits, 36).ok()?,
        };
        self.time = Timestamp::from_millis(self.time.millis().saturating_add(delta));
        Some(LogRecord { time: self.time, source, partial, text: &line[space + 1..] })
    }
}

/// `TIME stdout|stderr F|P TEXT`.
fn cri_record(line: &[u8]) -> Option<LogRecord<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    let source = match parts.next()? {
        b"stdout" => LogSource::Stdout,
        b"stderr" => LogSource::Stderr,
        _ => return None,
    };
    let partial = parts.next()? == b"P";
    Some(LogRecord { time, source, partial, text: parts.next().unwrap_or_default() })
}

/// Where a log can be cut.
#[derive(Debug, Clone, Copy)]
struct Mark {
    offset: u64,
    /// Bytes of text before it, in the file.
    text: u64,
}

/// What its one writer knows about a log: how much is in it, and where it can be cut. It reads and
/// writes nothing itself.
#[derive(Debug, Default)]
pub struct LogIndex {
    head: LogHead,
    bytes: u64,
    text: u64,
    marks: VecDeque<Mark>,
    /// Of the last record.
    time: Option<Timestamp>,
    /// The last line has no end: its writer was killed.
    unfinished: bool,
}

impl LogIndex {
    /// The most bytes of a file whose last `text_max` bytes of text are kept.
    pub fn file_max(text_max: u64) -> u64 {
        text_max.saturating_mul(FILE_FACTOR)
    }

    /// Takes in what is in the file already, line by line with their ends.
    pub fn read(&mut self, line: &[u8]) {
        if self.bytes == 0 {
            self.head = LogHead::of(line);
        }
        let ended = line.strip_suffix(b"\n");
        self.unfinished = ended.is_none();
        let line = ended.unwrap_or(line);
        let is_mark = line.first() == Some(&b'@')
            || line.first().is_some_and(u8::is_ascii_digit) && self.is_mark_due();
        if is_mark {
            self.marks.push_back(Mark { offset: self.bytes, text: self.text });
        }
        if let Some(record) = LogDecoder::default().decode(line)
            && (self.bytes > 0 || self.head == LogHead::default())
        {
            self.text += text_of(record.partial, record.text);
        }
        self.bytes += line.len() as u64 + u64::from(!self.unfinished);
    }

    fn is_mark_due(&self) -> bool {
        self.marks.back().is_none_or(|mark| self.bytes - mark.offset >= MARK_BYTES)
    }

    /// Appends the record of one line to `out`, which is written to the end of the file next.
    pub fn push(
        &mut self,
        out: &mut Vec<u8>,
        now: Timestamp,
        source: LogSource,
        partial: bool,
        text: &[u8],
    ) {
        let before = out.len();
        if std::mem::take(&mut self.unfinished) {
            out.push(b'\n');
            self.bytes += 1;
        }
        let went_back = self.time.is_none_or(|time| now < time);
        if went_back || self.is_mark_due() {
            self.marks.push_back(Mark { offset: self.bytes, text: self.text });
            out.extend_from_slice(format!("@{}\n", now.millis()).as_bytes());
            self.time = Some(now);
        }
        let delta = self.time.map_or(0, |time| now.millis() - time.millis());
        self.time = Some(now);
        out.push(match (source, partial) {
            (LogSource::Stdout, false) => b'o',
            (LogSource::Stdout, true) => b'O',
            (LogSource::Stderr, false) => b'e',
            (LogSource::Stderr, true) => b'E',
        });
        push_base_36(out, delta);
        out.push(b' ');
        out.extend_from_slice(text);
        out.push(b'\n');
        self.text += text_of(partial, text);
        // The end of the line before is counted above.
        let unfinished_end = u64::from(out.get(before) == Some(&b'\n'));
        self.bytes += (out.len() - before) as u64 - unfinished_end;
    }

    /// Where to cut the log so that the last `text_max` bytes of text stay, once it has outgrown
    /// them by half.
    pub fn cut_at(&self, text_max: u64) -> Option<u64> {
        let file_max = Self::file_max(text_max);
        if self.text <= text_max + text_max / GROWTH && self.bytes <= file_max {
            return None;
        }
        let fits = |mark: &&Mark| self.bytes - mark.offset <= file_max / 4 * 3;
        let keeps = |mark: &&Mark| self.text - mark.text >= text_max;
        let last = self.marks.iter().rev().find(|mark| keeps(mark) && fits(mark));
        let first_that_fits = || self.marks.iter().find(|mark| fits(mark) && mark.offset > 0);
        let at = last.or_else(first_that_fits).map_or(self.bytes, |mark| mark.offset);
        Some(at).filter(|at| *at > self.head.bytes)
    }

    /// Forgets what stands before `offset`, a place that [`cut_at`](Self::cut_at) named; the line
    /// that the file begins with from now on.
    pub fn cut(&mut self, offset: u64, now: Timestamp) -> String {
        let at = self.marks.iter().find(|mark| mark.offset == offset).copied();
        let text = at.map_or(self.text, |mark| mark.text);
        let mut head = LogHead {
            text: self.head.text.saturating_add(text),
            dropped: self.head.position(offset),
            bytes: 0,
            at: now,
        };
        let line = head.line();
        head.bytes = line.len() as u64;
        self.head = head;
        self.marks.retain(|mark| mark.offset >= offset);
        for mark in &mut self.marks {
            mark.offset = mark.offset - offset + head.bytes;
            mark.text -= text;
        }
        self.bytes = self.bytes - offset + head.bytes;
        self.text -= text;
        line
    }

    /// Where the file ends now.
    pub fn position(&self) -> LogPosition {
        LogPosition {
            bytes: self.bytes,
            text: self.text,
            marks: self.marks.len(),
            time: self.time,
            unfinished: self.unfinished,
        }
    }

    /// What was pushed since `position` is not in the file.
    pub fn return_to(&mut self, position: LogPosition) {
        self.bytes = position.bytes;
        self.text = position.text;
        self.marks.truncate(position.marks);
        self.time = position.time;
        self.unfinished = position.unfinished;
    }
}

/// The end of a log at some time, before which nothing was cut since.
#[derive(Debug, Clone, Copy)]
pub struct LogPosition {
    /// Bytes of the file.
    pub bytes: u64,
    text: u64,
    marks: usize,
    time: Option<Timestamp>,
    unfinished: bool,
}

/// What a line counts: as it was written, with its end.
fn text_of(partial: bool, text: &[u8]) -> u64 {
    text.len() as u64 + u64::from(!partial)
}

fn push_base_36(out: &mut Vec<u8>, mut number: u64) {
    let start = out.len();
    while number > 0 {
        out.push(b"0123456789abcdefghijklmnopqrstuvwxyz"[(number % 36) as usize]);
        number /= 36;
    }
    out[start..].reverse();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn records_are_read_as_they_were_written_however_the_clock_goes() {
        let mut index = LogIndex::default();
        let mut out = Vec::new();
        let lines: [(u64, LogSource, bool, &[u8]); 6] = [
            (1000, LogSource::Stdout, false, b"one"),
            (1000, LogSource::Stderr, false, b""),
            (1035, LogSource::Stdout, true, b"half"),
            (1036, LogSource::Stdout, false, b"@9 and \xff half"),
            (500, LogSource::Stderr, true, b"o  back"),
            (99_999_999_999, LogSource::Stdout, false, b"later"),
        ];
        for (at, source, partial, text) in lines {
            index.push(&mut out, millis(at), source, partial, text);
        }
        assert!(out.starts_with(b"@1000\no one\ne \nOz half\no1 @9 and"), "{}", out.escape_ascii());
        let mut decoder = LogDecoder::default();
        let read: Vec<_> = out
            .split(|byte| *byte == b'\n')
            .filter_map(|line| decoder.decode(line))
            .map(|record| (record.time.millis(), record.source, record.partial, record.text))
            .collect();
        assert_eq!(read, lines);
        assert_eq!(index.bytes, out.len() as u64);
        assert_eq!(index.text, 4 + 1 + 4 + 14 + 7 + 6);
    }

    #[test]
    fn records_of_older_versions_are_read() {
        let mut decoder = LogDecoder::default();
        let record = decoder.decode(b"1970-01-01T00:00:00.007Z stderr P a b").unwrap();
        assert_eq!(
            (record.time, record.source, record.partial, record.text),
            (millis(7), LogSource::Stderr, true, &b"a b"[..])
        );
        for nonsense in ["", "x", "o", "1970", "1970-01-01T00:00:00.007Z file F x", "ozz\u{e9} x"] {
            assert_eq!(decoder.decode(nonsense.as_bytes()), None, "{nonsense}");
        }
        let head = LogHead::of(
            b"1970-01-01T00:00:00.000Z stderr F margay: 100 bytes of older log were dropped\n",
        );
        assert_eq!((head.text, head.dropped, head.bytes), (100, 100, 78));
    }

    #[test]
    fn a_place_in_a_log_is_found_again_after_cuts() {
        let cut = LogHead { text: 60, dropped: 100, bytes: 0, at: millis(5) };
        let cut = LogHead::of(cut.line().as_bytes());
        assert_eq!(cut, LogHead { text: 60, dropped: 100, bytes: 10, at: millis(5) });
        // The byte that was the 150th is the 50th after the head; one that was dropped leads to the
        // head.
        assert_eq!((cut.offset(150), cut.offset(99)), (cut.bytes + 50, 0));
        assert_eq!(cut.position(cut.offset(150)), 150);
        let most = LogHead { text: u64::MAX, dropped: u64::MAX, bytes: 0, at: millis(u64::MAX) };
        assert!(most.line().len() <= LogHead::BYTES_MAX, "{}", most.line());
        for nonsense in ["", "\n", "!\n", "!1 2\n", "!1 2 x\n", "!1 2 3"] {
            assert_eq!(LogHead::of(nonsense.as_bytes()), LogHead::default(), "{nonsense}");
        }
    }

    /// A writer of a file in memory, as both engines have one on disk.
    fn write(index: &mut LogIndex, file: &mut Vec<u8>, text: &[u8], text_max: u64) {
        let mut out = Vec::new();
        index.push(&mut out, millis(1_700_000_000_000), LogSource::Stdout, false, text);
        file.extend_from_slice(&out);
        if let Some(at) = index.cut_at(text_max) {
            let kept = file.split_off(usize::try_from(at).unwrap());
            *file = index.cut(at, millis(0)).into_bytes();
            file.extend_from_slice(&kept);
        }
        assert_eq!(index.bytes, file.len() as u64);
    }

    #[test]
    fn the_last_text_is_kept_whole_in_a_bounded_file_and_the_rest_is_counted() {
        const TEXT_MAX: u64 = 1 << 20;
        for line in [&b""[..], b"x", b"line 12345", &[b'x'; 8000]] {
            let (mut index, mut file) = (LogIndex::default(), Vec::new());
            let lines = 4 * TEXT_MAX / (line.len() as u64 + 1);
            let mut largest = 0;
            for _ in 0..lines {
                write(&mut index, &mut file, line, TEXT_MAX);
                largest = largest.max(file.len() as u64);
            }
            assert!(largest <= TEXT_MAX * FILE_FACTOR, "{}: {largest} bytes", line.len());
            assert!(index.text >= TEXT_MAX, "{}: {} bytes of text", line.len(), index.text);
            let head = LogHead::of(&file);
            assert_eq!(head.text + index.text, lines * (line.len() as u64 + 1));
            // The next writer of the file knows as much.
            let mut again = LogIndex::default();
            file.split_inclusive(|byte| *byte == b'\n').for_each(|line| again.read(line));
            assert_eq!((again.bytes, again.text), (index.bytes, index.text));
            assert_eq!(again.head, head);
            assert_eq!(again.marks.len(), index.marks.len());
        }
    }

    #[test]
    fn a_log_whose_writer_was_killed_in_a_line_goes_on_in_the_next() {
        let mut index = LogIndex::default();
        index.read(b"@1000\n");
        index.read(b"o half of a li");
        let mut out = Vec::new();
        index.push(&mut out, millis(2000), LogSource::Stdout, false, b"next");
        assert_eq!(out, b"\n@2000\no next\n");
        assert_eq!(index.bytes, 6 + 14 + out.len() as u64);
    }
}
