//! The streams of a program that was asked for: pipes of its client, which are never waited for.

use std::os::fd::OwnedFd;

use rustix::fs::{FileType, fstat};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite},
    net::unix::pipe::{Receiver, Sender},
};
use wasmtime_wasi::{
    cli::{AsyncStdinStream, AsyncStdoutStream, IsTerminal, StdinStream, StdoutStream},
    p2::{InputStream, OutputStream},
};

use crate::limits::{READ_BYTES_MAX, STREAM_WRITE_BYTES_MAX};

pub(super) struct Streams {
    pub stdin: Input,
    pub stdout: Output,
    pub stderr: Output,
    /// Where what it writes can be read, should the client be gone: its number, and the pipe.
    pub unread: Vec<(usize, OwnedFd)>,
}

pub(super) struct Input {
    stream: AsyncStdinStream,
    terminal: bool,
}

pub(super) struct Output {
    stream: AsyncStdoutStream,
    terminal: bool,
}

impl Streams {
    /// Of the descriptors that came with a request.
    pub fn of(fds: Vec<OwnedFd>, terminal: bool) -> Result<Self, String> {
        let mut fds = fds.into_iter();
        let (Some(stdin), Some(stdout), Some(stderr)) = (fds.next(), fds.next(), fds.next()) else {
            return Err("a program comes with three streams".to_owned());
        };
        Ok(Self {
            stdin: Input { stream: input(stdin)?, terminal },
            stdout: Output { stream: output(stdout)?, terminal },
            stderr: Output { stream: output(stderr)?, terminal },
            unread: (1..=2).zip(fds).collect(),
        })
    }
}

/// What is no pipe is the client's word for nothing at all.
fn input(fd: OwnedFd) -> Result<AsyncStdinStream, String> {
    if !is_pipe(&fd) {
        return Ok(AsyncStdinStream::new(tokio::io::empty()));
    }
    Ok(AsyncStdinStream::new(receiver(fd)?))
}

fn output(fd: OwnedFd) -> Result<AsyncStdoutStream, String> {
    if !is_pipe(&fd) {
        return Ok(AsyncStdoutStream::new(STREAM_WRITE_BYTES_MAX, tokio::io::sink()));
    }
    rustix::io::ioctl_fionbio(&fd, true).map_err(|error| error.to_string())?;
    let sender = Sender::from_owned_fd_unchecked(fd).map_err(|error| error.to_string())?;
    Ok(AsyncStdoutStream::new(STREAM_WRITE_BYTES_MAX, sender))
}

fn receiver(fd: OwnedFd) -> Result<Receiver, String> {
    rustix::io::ioctl_fionbio(&fd, true).map_err(|error| error.to_string())?;
    Receiver::from_owned_fd_unchecked(fd).map_err(|error| error.to_string())
}

fn is_pipe(fd: &OwnedFd) -> bool {
    fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo)
}

/// Reads in place of a client that is gone, so that the program goes on.
pub(super) async fn discard(fd: OwnedFd) {
    let Ok(mut pipe) = receiver(fd) else { return };
    let mut buffer = vec![0; STREAM_WRITE_BYTES_MAX.min(READ_BYTES_MAX as usize)];
    while matches!(pipe.read(&mut buffer).await, Ok(1..)) {}
}

impl IsTerminal for Input {
    fn is_terminal(&self) -> bool {
        self.terminal
    }
}

impl StdinStream for Input {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        self.stream.async_stream()
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        self.stream.p2_stream()
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        self.terminal
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        self.stream.async_stream()
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        self.stream.p2_stream()
    }
}
