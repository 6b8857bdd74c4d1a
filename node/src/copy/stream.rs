//! The pipe between both ends of a copy, counted, and given up at a signal.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    pipe::PipeFlags,
};

use crate::{
    error::{Error, Result},
    exec::relay::listen_for_signals,
    signals,
};

/// Both ends of a new pipe: to read from, and to write into.
pub(super) fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
        .map_err(|source| Error::System { verb: "make a pipe", source: source.into() })
}

/// Signals to this process that end a copy.
pub(super) struct Signals(OwnedFd);

impl Signals {
    pub fn listen() -> Result<Self> {
        listen_for_signals()
            .map(Self)
            .map_err(|source| Error::System { verb: "listen for signals", source })
    }

    /// Waits until something is at `stream`; the signal that ends this before.
    fn wait(&self, stream: &File, flags: PollFlags) -> io::Result<Option<i32>> {
        loop {
            let mut fds = [
                PollFd::from_borrowed_fd(stream.as_fd(), flags),
                PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let signalled = !fds[1].revents().is_empty();
            let ready = !fds[0].revents().is_empty();
            if signalled {
                let mut number = [0];
                let _ = rustix::io::read(&self.0, &mut number);
                let number = i32::from(number[0]);
                if signals::ENDING.contains(&number) {
                    return Ok(Some(number));
                }
            }
            if ready {
                return Ok(None);
            }
        }
    }
}

/// One end of a pipe.
pub(super) struct Stream<'a> {
    pipe: File,
    signals: &'a Signals,
    /// Told how many bytes have moved.
    moved: &'a mut dyn FnMut(u64),
    bytes: u64,
    /// The signal that ended it.
    pub ended_by: Option<i32>,
}

impl<'a> Stream<'a> {
    pub fn new(pipe: OwnedFd, signals: &'a Signals, moved: &'a mut dyn FnMut(u64)) -> Self {
        Self { pipe: pipe.into(), signals, moved, bytes: 0, ended_by: None }
    }

    pub fn bytes_moved(&self) -> u64 {
        self.bytes
    }

    fn ready(&mut self, flags: PollFlags) -> io::Result<()> {
        if self.ended_by.is_none() {
            self.ended_by = self.signals.wait(&self.pipe, flags)?;
        }
        match self.ended_by {
            Some(_) => Err(io::Error::other("it was interrupted")),
            None => Ok(()),
        }
    }

    fn count(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        (self.moved)(self.bytes);
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.ready(PollFlags::IN)?;
        let n = self.pipe.read(buf)?;
        self.count(n);
        Ok(n)
    }
}

impl Write for Stream<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.ready(PollFlags::OUT)?;
        // As much as a pipe takes that polls as writable, so that no signal waits behind it.
        let n = self.pipe.write(&buf[..buf.len().min(4096)])?;
        self.count(n);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
