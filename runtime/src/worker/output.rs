//! What a guest writes, and what the worker writes about it: passed through, and kept line by line
//! in a log.

use std::{
    fs::File,
    io::{self, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use engine::LogFile;
use spec::LogSource;
use tokio::io::AsyncWrite;
use wasmtime_wasi::{
    async_trait,
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamError, StreamResult},
};

use crate::limits::{LOG_LINE_BYTES_MAX, OUTPUT_WRITE_BYTES_MAX};

/// A container's log. What a full disk does not take is lost, and nothing else.
#[derive(Debug)]
pub(crate) struct Log {
    /// Whether there is a file.
    is_kept: bool,
    lines: Mutex<Lines>,
}

#[derive(Debug)]
struct Lines {
    file: Option<LogFile>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Log {
    /// Goes on in `file`, of which the last `text_max` bytes of text stay.
    pub fn new(file: Option<File>, text_max: u64) -> Self {
        let file = file.and_then(|file| LogFile::open(file, text_max).ok());
        let is_kept = file.is_some();
        let lines = Lines { file, stdout: Vec::new(), stderr: Vec::new() };
        Self { is_kept, lines: Mutex::new(lines) }
    }

    /// A line of the worker's own, in the error stream.
    pub fn say(&self, line: &str) {
        self.say_all(&[line.to_owned()]);
    }

    /// The same of several, with none of a guest's between them.
    pub fn say_all(&self, lines: &[String]) {
        let lines = lines.iter().map(|line| (plain(line).into_bytes(), false)).collect::<Vec<_>>();
        self.lines().keep(LogSource::Stderr, &lines);
    }

    fn take(&self, source: LogSource, mut bytes: &[u8]) {
        if !self.is_kept {
            return;
        }
        let mut lines = self.lines();
        let mut whole: Vec<(Vec<u8>, bool)> = Vec::new();
        while !bytes.is_empty() {
            let open = lines.open(source);
            let left = LOG_LINE_BYTES_MAX - open.len();
            let (text, ended) = match memchr::memchr(b'\n', &bytes[..left.min(bytes.len())]) {
                Some(at) => (&bytes[..at], true),
                None => (&bytes[..left.min(bytes.len())], false),
            };
            open.extend_from_slice(text);
            bytes = &bytes[text.len() + usize::from(ended)..];
            if ended || open.len() == LOG_LINE_BYTES_MAX {
                whole.push((std::mem::take(open), !ended));
            }
        }
        lines.keep(source, &whole);
    }

    /// Keeps what has no line end yet.
    pub fn finish(&self) {
        let mut lines = self.lines();
        for source in [LogSource::Stdout, LogSource::Stderr] {
            let open = std::mem::take(lines.open(source));
            if !open.is_empty() {
                lines.keep(source, &[(open, true)]);
            }
        }
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn open(&mut self, source: LogSource) -> &mut Vec<u8> {
        match source {
            LogSource::Stdout => &mut self.stdout,
            LogSource::Stderr => &mut self.stderr,
        }
    }

    fn keep(&mut self, source: LogSource, lines: &[(Vec<u8>, bool)]) {
        if let Some(file) = self.file.as_mut().filter(|_| !lines.is_empty()) {
            let lines = lines.iter().map(|(text, partial)| (text.as_slice(), *partial));
            let _ = file.append(source, lines);
        }
    }
}

/// A line that may quote a guest, without what would end it or mean something to a terminal.
fn plain(line: &str) -> String {
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// One of a guest's two output streams.
#[derive(Debug, Clone)]
pub(crate) struct Output(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    source: LogSource,
    log: Arc<Log>,
    through: Option<File>,
    terminal: bool,
}

impl Output {
    pub fn new(source: LogSource, through: Option<File>, log: Arc<Log>, terminal: bool) -> Self {
        Self(Arc::new(Inner { source, log, through, terminal }))
    }

    /// Whether it goes into a file of the caller's, whose size is the caller's own matter.
    pub fn is_file(&self) -> bool {
        let through = self.0.through.as_ref();
        through.is_some_and(|through| through.metadata().is_ok_and(|meta| meta.is_file()))
    }

    /// Lines of the worker's own, also where the guest's go. A client that does not take them has
    /// them in the log.
    pub fn say_all(&self, lines: &[String]) {
        self.0.log.say_all(lines);
        if let Some(through) = self.0.through.as_ref().filter(|_| !lines.is_empty()) {
            let text: String = lines.iter().map(|line| plain(line) + "\n").collect();
            let _ = (&*through).write_all(text.as_bytes());
        }
    }

    fn put(&self, bytes: &[u8]) -> io::Result<()> {
        self.0.log.take(self.0.source, bytes);
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
    use spec::LogDecoder;

    use super::*;

    fn logged(write: impl FnOnce(&Log)) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let file = File::options().create(true).read(true).append(true).open(&path).unwrap();
        let log = Log::new(Some(file), 1 << 20);
        write(&log);
        log.finish();
        let bytes = std::fs::read(&path).unwrap();
        let mut decoder = LogDecoder::default();
        let records = bytes.split(|byte| *byte == b'\n').filter_map(|line| decoder.decode(line));
        let shown = records.map(|record| {
            assert!(record.time > spec::Timestamp::from_millis(0));
            let text = String::from_utf8_lossy(record.text);
            format!("{:?} {} {text}", record.source, record.partial)
        });
        shown.collect()
    }

    #[test]
    fn lines_are_kept_whole_with_their_time_and_stream() {
        let lines = logged(|log| {
            log.take(LogSource::Stdout, b"one\ntw");
            log.take(LogSource::Stderr, b"oops\n");
            log.take(LogSource::Stdout, b"o\nno end");
            log.say_all(&["two\x1blines\n".to_owned(), "more".to_owned()]);
        });
        let want = [
            "Stdout false one",
            "Stderr false oops",
            "Stdout false two",
            "Stderr false two lines ",
            "Stderr false more",
            "Stdout true no end",
        ];
        assert_eq!(lines, want);
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let lines = logged(|log| {
            log.take(LogSource::Stdout, &vec![b'x'; 3 * LOG_LINE_BYTES_MAX]);
        });
        assert_eq!(lines.len(), 3);
    }
}
