//! What a guest writes, and what the worker writes about it: passed through, and kept line by line
//! in a log.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use spec::{LogHead, Timestamp};
use tokio::io::AsyncWrite;
use wasmtime_wasi::{
    async_trait,
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamError, StreamResult},
};

use crate::limits::{LOG_LINE_BYTES_MAX, OUTPUT_WRITE_BYTES_MAX};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    Stdout,
    Stderr,
}

/// A container's log: a file of lines `TIME STREAM F TEXT` that never outgrows its limit.
#[derive(Debug)]
pub(crate) struct Log {
    file: Option<File>,
    bytes_max: u64,
    lines: Mutex<Lines>,
}

#[derive(Debug, Default)]
struct Lines {
    bytes: u64,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Log {
    pub fn new(file: Option<File>, bytes_max: u64) -> Self {
        let bytes =
            file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |meta| meta.len());
        Self { file, bytes_max, lines: Mutex::new(Lines { bytes, ..Lines::default() }) }
    }

    /// A line of the worker's own, in the error stream.
    pub fn say(&self, text: &str) {
        let mut lines = self.lines();
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.keep(&mut lines, Which::Stderr, 'F', text.as_bytes());
    }

    fn take(&self, which: Which, mut bytes: &[u8]) {
        if self.file.is_none() {
            return;
        }
        let mut lines = self.lines();
        while !bytes.is_empty() {
            let mut open = std::mem::take(lines.open(which));
            let left = LOG_LINE_BYTES_MAX - open.len();
            let (text, ended) = match memchr::memchr(b'\n', &bytes[..left.min(bytes.len())]) {
                Some(at) => (&bytes[..at], true),
                None => (&bytes[..left.min(bytes.len())], false),
            };
            open.extend_from_slice(text);
            bytes = &bytes[text.len() + usize::from(ended)..];
            match (ended, open.len() == LOG_LINE_BYTES_MAX) {
                (true, _) => self.keep(&mut lines, which, 'F', &open),
                (false, true) => self.keep(&mut lines, which, 'P', &open),
                (false, false) => *lines.open(which) = open,
            }
        }
    }

    /// Keeps what has no line end yet.
    pub fn finish(&self) {
        let mut lines = self.lines();
        for which in [Which::Stdout, Which::Stderr] {
            let open = std::mem::take(lines.open(which));
            if !open.is_empty() {
                self.keep(&mut lines, which, 'P', &open);
            }
        }
    }

    fn keep(&self, lines: &mut Lines, which: Which, mark: char, text: &[u8]) {
        let Some(file) = &self.file else { return };
        let stream = match which {
            Which::Stdout => "stdout",
            Which::Stderr => "stderr",
        };
        let mut line = format!("{} {stream} {mark} ", now()).into_bytes();
        line.extend_from_slice(text);
        line.push(b'\n');
        if lines.bytes + line.len() as u64 > self.bytes_max {
            lines.bytes = shorten(file, lines.bytes, self.bytes_max / 2).unwrap_or(0);
        }
        // A full disk loses lines of the log and nothing else.
        if (&*file).write_all(&line).is_ok() {
            lines.bytes += line.len() as u64;
        }
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn open(&mut self, which: Which) -> &mut Vec<u8> {
        match which {
            Which::Stdout => &mut self.stdout,
            Which::Stderr => &mut self.stderr,
        }
    }
}

/// Drops all but the last `keep` bytes of a file opened for appending, from the start of a line;
/// its new length.
fn shorten(file: &File, bytes: u64, keep: u64) -> io::Result<u64> {
    let mut start = [0; LogHead::BYTES_MAX];
    let read = file.read_at(&mut start, 0)?;
    let from = bytes.saturating_sub(keep);
    let mut tail = vec![0; usize::try_from(bytes - from).unwrap_or(0)];
    let kept = match file.read_exact_at(&mut tail, from) {
        Ok(()) => memchr::memchr(b'\n', &tail).map_or(&[][..], |at| &tail[at + 1..]),
        Err(_) => &[][..],
    };
    file.set_len(0)?;
    let head = LogHead::of(&start[..read]).after_cut(bytes - kept.len() as u64, now());
    (&*file).write_all(head.as_bytes())?;
    (&*file).write_all(kept)?;
    Ok((head.len() + kept.len()) as u64)
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(0))
}

/// One of a guest's two output streams.
#[derive(Debug, Clone)]
pub(crate) struct Output(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    which: Which,
    log: Arc<Log>,
    through: Option<File>,
    terminal: bool,
}

impl Output {
    pub fn new(which: Which, through: Option<File>, log: Arc<Log>, terminal: bool) -> Self {
        Self(Arc::new(Inner { which, log, through, terminal }))
    }

    fn put(&self, bytes: &[u8]) -> io::Result<()> {
        self.0.log.take(self.0.which, bytes);
        match &self.0.through {
            Some(through) => (&*through).write_all(bytes),
            None => Ok(()),
        }
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        self.0.terminal
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        match self.put(&bytes) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(StreamError::Closed),
            Err(error) => Err(StreamError::LastOperationFailed(error.into())),
        }
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(OUTPUT_WRITE_BYTES_MAX)
    }
}

impl AsyncWrite for Output {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        std::task::Poll::Ready(self.put(bytes).map(|()| bytes.len()))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(bytes_max: u64, write: impl FnOnce(&Log)) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let file = File::options().create(true).read(true).append(true).open(&path).unwrap();
        let log = Log::new(Some(file), bytes_max);
        write(&log);
        log.finish();
        std::fs::read_to_string(&path).unwrap()
    }

    #[test]
    fn lines_are_kept_whole_with_their_time_and_stream() {
        let text = logged(1 << 20, |log| {
            log.take(Which::Stdout, b"one\ntw");
            log.take(Which::Stderr, b"oops\n");
            log.take(Which::Stdout, b"o\nno end");
        });
        let lines: Vec<_> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
        assert_eq!(lines, ["stdout F one", "stderr F oops", "stdout F two", "stdout P no end"]);
        assert!(
            text.lines().all(|line| line.split(' ').next().unwrap().parse::<Timestamp>().is_ok())
        );
    }

    #[test]
    fn a_flood_never_outgrows_the_limit_and_the_last_lines_stay() {
        let text = logged(10_000, |log| {
            for number in 0..10_000 {
                log.take(Which::Stdout, format!("line {number}\n").as_bytes());
            }
        });
        assert!(text.len() <= 10_000, "{} bytes", text.len());
        assert!(text.contains("line 9999") && text.contains("bytes of older log were dropped"));
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let text =
            logged(1 << 20, |log| log.take(Which::Stdout, &vec![b'x'; 3 * LOG_LINE_BYTES_MAX]));
        assert_eq!(text.lines().count(), 3);
    }
}
