//! The pipe between both ends of a copy, counted, and given up at a signal.

use std::{
    cell::Cell,
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
pub(super) struct Signals {
    numbers: OwnedFd,
    ended_by: Cell<Option<i32>>,
}

impl Signals {
    pub fn listen() -> Result<Self> {
        let numbers = listen_for_signals()
            .map_err(|source| Error::System { verb: "listen for signals", source })?;
        Ok(Self { numbers, ended_by: Cell::new(None) })
    }

    /// The signal that has ended the copy.
    pub fn ended_by(&self) -> Option<i32> {
        self.ended_by.get()
    }

    /// Waits until something is at `stream`.
    ///
    /// # Errors
    /// When a signal ends the copy before.
    pub fn wait(&self, stream: impl AsFd, flags: PollFlags) -> io::Result<()> {
        while self.ended_by.get().is_none() {
            let mut fds = [
                PollFd::from_borrowed_fd(stream.as_fd(), flags),
                PollFd::from_borrowed_fd(self.numbers.as_fd(), PollFlags::IN),
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
                let _ = rustix::io::read(&self.numbers, &mut number);
                let number = i32::from(number[0]);
                if signals::ENDING.contains(&number) {
                    self.ended_by.set(Some(number));
                    break;
                }
            }
            if ready {
                return Ok(());
            }
        }
        Err(io::Error::other("it was interrupted"))
    }
}

/// One end of a pipe, or a standard stream of this process.
pub(super) struct Stream<'a> {
    pipe: File,
    signals: &'a Signals,
    /// Told how many bytes have moved.
    moved: &'a mut dyn FnMut(u64),
    bytes: u64,
}

impl<'a> Stream<'a> {
    pub fn new(pipe: OwnedFd, signals: &'a Signals, moved: &'a mut dyn FnMut(u64)) -> Self {
        Self { pipe: pipe.into(), signals, moved, bytes: 0 }
    }

    pub fn bytes_moved(&self) -> u64 {
        self.bytes
    }

    fn count(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        (self.moved)(self.bytes);
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.signals.wait(&self.pipe, PollFlags::IN)?;
        let n = self.pipe.read(buf)?;
        self.count(n);
        Ok(n)
    }
}

impl Write for Stream<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.signals.wait(&self.pipe, PollFlags::OUT)?;
        // As much as a pipe takes that polls as writable, so that no signal waits behind it.
        let n = self.pipe.write(&buf[..buf.len().min(4096)])?;
        self.count(n);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
