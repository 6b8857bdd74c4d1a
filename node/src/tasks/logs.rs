use std::{fs::File, io, ops::ControlFlow, os::unix::fs::FileExt, time::Duration};

use spec::{LogDecoder, LogHead, LogSource};

use super::folder::TaskFolder;
use crate::error::{Error, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    Stdout,
    Stderr,
}

/// One line that a task wrote, as its bytes: they are a guest's, and must be escaped
/// before they are printed to a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLine<'a> {
    /// When, RFC 3339.
    pub time: &'a str,
    pub stream: LogStream,
    /// Whether the line goes on in the next record.
    pub partial: bool,
    /// What, without the newline.
    pub text: &'a [u8],
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Wait for more until the task ends.
    pub follow: bool,
    /// Only the last so many of the lines that are there.
    pub tail: Option<usize>,
}

/// How often a followed log is looked at: fast enough to feel immediate, 1/1000 of a processor.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A line longer than this is given in parts.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Gives each line of a task's log to `sink`, until it breaks, the log ends, or (following) the
/// task has ended.
///
/// # Errors
/// When the log cannot be read.
pub fn follow(
    task: &TaskFolder,
    options: LogOptions,
    sink: impl FnMut(LogLine<'_>) -> ControlFlow<()>,
) -> Result<()> {
    follow_while(task, options, |_| true, || true, sink)
}

/// As [`follow`], for the lines that are `wanted` alone, and while it `goes_on`: that is asked each
/// time when all that is there was given.
///
/// # Errors
/// As [`follow`].
pub fn follow_while(
    task: &TaskFolder,
    options: LogOptions,
    wanted: impl Fn(&LogLine<'_>) -> bool,
    mut goes_on: impl FnMut() -> bool,
    mut sink: impl FnMut(LogLine<'_>) -> ControlFlow<()>,
) -> Result<()> {
    if task.record().no_log {
        return Err(Error::NoLog(task.record().name.clone()));
    }
    let path = task.log();
    let mut reader = Reader::default();
    let mut skip = match options.tail {
        Some(keep) => count_lines(&path, &wanted)?.saturating_sub(keep),
        None => 0,
    };
    loop {
        // Asked first: a task that ended before the read has written everything that the read will
        // see.
        let alive = options.follow && task.state().is_ok_and(super::State::is_alive);
        let more = reader.read(&path, &mut |line| match skip {
            _ if !wanted(&line) => ControlFlow::Continue(()),
            0 => sink(line),
            _ => {
                skip -= 1;
                ControlFlow::Continue(())
            }
        });
        match more.map_err(Error::file("read", &path))? {
            ControlFlow::Break(()) => return Ok(()),
            ControlFlow::Continue(()) if !goes_on() || !alive => return Ok(()),
            ControlFlow::Continue(()) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

fn count_lines(path: &std::path::Path, wanted: &impl Fn(&LogLine<'_>) -> bool) -> Result<usize> {
    let mut lines = 0;
    let count = &mut |line: LogLine<'_>| {
        lines += usize::from(wanted(&line));
        ControlFlow::Continue(())
    };
    Reader::default().read(path, count).map(|_| lines).map_err(Error::file("read", path))
}

/// Reads on where it stopped.
#[derive(Default)]
struct Reader {
    file: Option<File>,
    head: LogHead,
    decoder: LogDecoder,
    offset: u64,
    rest: Vec<u8>,
}

impl Reader {
    /// The log was cut: what comes next is elsewhere, or gone, as its first line then says.
    fn go_on_in(&mut self, head: LogHead) {
        self.offset = head.offset(self.head.position(self.offset));
        self.head = head;
        if self.offset == 0 {
            self.rest.clear();
        }
    }

    fn read(
        &mut self,
        path: &std::path::Path,
        sink: &mut dyn FnMut(LogLine<'_>) -> ControlFlow<()>,
    ) -> io::Result<ControlFlow<()>> {
        if self.file.is_none() {
            match disk::open(path, disk::Purpose::Read) {
                Ok(file) => (self.head, self.file) = (head(&file)?, Some(file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(ControlFlow::Continue(()));
                }
                Err(error) => return Err(error),
            }
        }
        let mut block = vec![0; 64 << 10];
        loop {
            let Some(file) = &self.file else { return Ok(ControlFlow::Continue(())) };
            let read = file.read_at(&mut block, self.offset)?;
            // Looked at afterwards: only bytes of a log that was not cut meanwhile go on where we
            // were.
            let head = head(file)?;
            if head.dropped > self.head.dropped {
                self.go_on_in(head);
                continue;
            }
            if read == 0 {
                return Ok(ControlFlow::Continue(())); // also of one that is being cut
            }
            self.offset += read as u64;
            self.rest.extend_from_slice(&block[..read]);
            let mut start = 0;
            while let Some(length) = self.rest[start..].iter().position(|byte| *byte == b'\n') {
                let flow = self.give(start, length, sink);
                start += length + 1;
                if flow.is_break() {
                    return Ok(flow);
                }
            }
            self.rest.drain(..start);
            if self.rest.len() > LINE_BYTES_MAX {
                self.rest.clear(); // no record of ours is that long
            }
        }
    }
}

impl Reader {
    /// Gives the record in a line of what was read to `sink`.
    fn give(
        &mut self,
        start: usize,
        length: usize,
        sink: &mut dyn FnMut(LogLine<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let line = &self.rest[start..start + length];
        if line.first() == Some(&b'!') {
            let (time, text) = (self.head.at.to_string(), self.head.message());
            let (stream, text) = (LogStream::Stderr, text.as_bytes());
            return sink(LogLine { time: &time, stream, partial: false, text });
        }
        let Some(record) = self.decoder.decode(line) else { return ControlFlow::Continue(()) };
        let stream = match record.source {
            LogSource::Stdout => LogStream::Stdout,
            LogSource::Stderr => LogStream::Stderr,
        };
        let (time, partial) = (record.time.to_string(), record.partial);
        sink(LogLine { time: &time, stream, partial, text: record.text })
    }
}

/// What the log says of older lines.
fn head(log: &File) -> io::Result<LogHead> {
    let mut start = [0; LogHead::BYTES_MAX];
    let read = log.read_at(&mut start, 0)?;
    Ok(LogHead::of(&start[..read]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Home, tasks::folder};
    use std::{fs::OpenOptions, io::Write};

    const EPOCH: &str = "1970-01-01T00:00:00.";

    #[test]
    fn a_log_is_read_as_it_was_written_and_followed_to_its_end() {
        let temporary = tempfile::tempdir().unwrap();
        let home = Home::at(temporary.path().join("home")).unwrap();
        let owned = folder::create(&home, folder::tests::record("t", "t")).unwrap();
        let task = owned.folder().clone();
        let mut log = OpenOptions::new().create(true).append(true).open(task.log()).unwrap();
        // Records of this version, and of the one before.
        log.write_all(b"@1\no one\n").unwrap();
        let old = ["002Z stderr P two", "003Z stdout F "].map(|end| format!("{EPOCH}{end}\n"));
        log.write_all(format!("{}nonsense\n{}@4\no half", old[0], old[1]).as_bytes()).unwrap();
        let read = |options| {
            let mut lines = Vec::new();
            follow(&task, options, |line| {
                lines.push(format!(
                    "{} {:?} {} {}",
                    line.time,
                    line.stream,
                    line.partial,
                    line.text.escape_ascii()
                ));
                ControlFlow::Continue(())
            })
            .unwrap();
            lines
        };
        let all = ["001Z Stdout false one", "002Z Stderr true two", "003Z Stdout false "];
        let all = all.map(|end| format!("{EPOCH}{end}"));
        assert_eq!(read(LogOptions::default()), all);
        assert_eq!(read(LogOptions { tail: Some(1), ..LogOptions::default() }), all[2..]);
        let writer = std::thread::spawn(move || {
            log.write_all(b" and half\no1 last\n").unwrap();
            drop(owned); // the supervisor is gone, and with it the task
        });
        let followed = read(LogOptions { follow: true, ..LogOptions::default() });
        writer.join().unwrap();
        let rest = ["004Z Stdout false half and half", "005Z Stdout false last"];
        assert_eq!(followed[3..], rest.map(|end| format!("{EPOCH}{end}")));
    }

    #[test]
    fn a_log_that_is_cut_goes_on_where_it_was_and_says_what_is_gone() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("log");
        let mut reader = Reader::default();
        let mut read = |text: &str| {
            std::fs::write(&path, text).unwrap(); // in place, as a cut is
            let mut lines = Vec::new();
            let sink = &mut |line: LogLine<'_>| {
                lines.push(String::from_utf8_lossy(line.text).into_owned());
                ControlFlow::Continue(())
            };
            assert_eq!(reader.read(&path, sink).unwrap(), ControlFlow::Continue(()));
            lines
        };
        let line = |number: u32| format!("o line {number}\n"); // 11 bytes each
        let lines =
            |numbers: std::ops::Range<u32>| numbers.map(|n| line(n + 100)).collect::<String>();
        let said = |numbers: std::ops::Range<u32>| {
            numbers.map(|n| format!("line {}", n + 100)).collect::<Vec<_>>()
        };
        let size = line(100).len() as u64;
        let cut = |count: u64| format!("!{} {} 0\n", count * 9, count * size);

        assert_eq!(read(&lines(0..4)), said(0..4));
        assert_eq!(read(&format!("{}{}", lines(0..5), &line(105)[..9])), said(4..5));
        assert_eq!(read(""), [""; 0], "being cut");
        assert_eq!(
            read(&format!("{}{}", cut(3), lines(3..7))),
            said(5..7),
            "half of a line was there before"
        );
        // Cut again and grown past where it was, and nothing of it was seen.
        let gone = format!("margay: {} bytes of older log were dropped", 20 * 9);
        assert_eq!(
            read(&format!("{}{}", cut(20), lines(20..40))),
            [vec![gone], said(20..40)].concat()
        );
        assert_eq!(read(&format!("{}{}", cut(30), lines(30..41))), said(40..41));
    }
}
