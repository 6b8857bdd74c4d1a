//! The streams of this process, where a task in the foreground shares them with the terminals that
//! attach to it.
//!
//! A read of standard input, and a write to a reader that is slow, can wait for ever: each has a
//! thread of its own, which ends with the process.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::OwnedFd,
    sync::atomic::{AtomicBool, Ordering},
};

use engine::Stdio;
use tokio::sync::{Mutex, mpsc, oneshot};

use super::protocol::Frame;

/// Bytes of our standard input at once: what a pipe holds.
const INPUT_BYTES: usize = 64 << 10;
/// Chunks between a thread and the loop: the pipes on both sides hold more.
const CHUNKS_MAX: usize = 1;

pub(crate) struct OwnStreams {
    stdin: Mutex<mpsc::Receiver<Vec<u8>>>,
    stdout: Option<Writer>,
    stderr: Option<Writer>,
    /// Something could not be written, and not because its reader left.
    lost: AtomicBool,
}

impl OwnStreams {
    /// Takes over what a program would have had itself; `None` for one that keeps its streams: it
    /// has no input, or a terminal.
    pub fn take(stdio: &mut Stdio) -> io::Result<Option<Self>> {
        if stdio.terminal.is_some() {
            return Ok(None);
        }
        let Some(stdin) = stdio.stdin.take() else { return Ok(None) };
        let writer = |stream: Option<OwnedFd>| stream.map(Writer::start).transpose();
        Ok(Some(Self {
            stdin: Mutex::new(read(stdin)?),
            stdout: writer(stdio.stdout.take())?,
            stderr: writer(stdio.stderr.take())?,
            lost: AtomicBool::new(false),
        }))
    }

    /// What comes next from our standard input; `None` at its end.
    pub async fn next_input(&self) -> Option<Vec<u8>> {
        self.stdin.lock().await.recv().await
    }

    /// Writes what a program wrote, where that is shown.
    ///
    /// # Errors
    /// When its reader has left, and when it cannot be kept, which is said on the error stream.
    pub async fn write(&self, frame: Frame, bytes: &[u8]) -> io::Result<()> {
        let writer = if frame == Frame::ErrorOutput { &self.stderr } else { &self.stdout };
        let Some(writer) = writer else { return Ok(()) };
        let written = writer.write(bytes.to_vec()).await;
        if let Err(error) = &written
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            self.lost.store(true, Ordering::Relaxed);
            let said = format!("margay: output was lost: {}\n", error.kind());
            if let Some(stderr) = &self.stderr {
                let _ = stderr.write(said.into_bytes()).await;
            }
        }
        written
    }

    pub fn lost_output(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }
}

fn read(stdin: OwnedFd) -> io::Result<mpsc::Receiver<Vec<u8>>> {
    let (sender, chunks) = mpsc::channel(CHUNKS_MAX);
    let mut stdin = File::from(stdin);
    start_thread("stdin", move || {
        let mut buffer = vec![0; INPUT_BYTES];
        loop {
            match stdin.read(&mut buffer) {
                Ok(read @ 1..) => {
                    if sender.blocking_send(buffer[..read].to_vec()).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return,
            }
        }
    })?;
    Ok(chunks)
}

/// Bytes to write, and where to say whether they were.
type Chunk = (Vec<u8>, oneshot::Sender<io::Result<()>>);

struct Writer(mpsc::Sender<Chunk>);

impl Writer {
    fn start(stream: OwnedFd) -> io::Result<Self> {
        let (sender, mut chunks) = mpsc::channel::<Chunk>(CHUNKS_MAX);
        let mut stream = File::from(stream);
        start_thread("output", move || {
            while let Some((bytes, written)) = chunks.blocking_recv() {
                let _ = written.send(stream.write_all(&bytes));
            }
        })?;
        Ok(Self(sender))
    }

    async fn write(&self, bytes: Vec<u8>) -> io::Result<()> {
        let (sender, written) = oneshot::channel();
        self.0.send((bytes, sender)).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
        written.await.map_err(|_| io::ErrorKind::BrokenPipe)?
    }
}

fn start_thread(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
}
