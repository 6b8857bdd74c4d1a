use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use engine::{
    exec::{self, Ask},
    frame,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::unix::AsyncFd;

/// A descriptor that is waited on without a thread: a control socket, a listener, or a process.
#[derive(Debug)]
pub(crate) struct Socket(AsyncFd<OwnedFd>);

impl Socket {
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Self::watching(fd)
    }

    /// As [`Socket::new`], for what knows no reading and writing.
    pub fn watching(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: the descriptor is owned by the value that is registered, which gives out no other
        // one.
        unsafe { AsyncFd::register(fd) }.map(Self).map_err(|e| e.into_parts().1)
    }

    /// One message, now or never.
    pub fn send_now<T: Serialize>(&self, message: &T) -> io::Result<()> {
        frame::send(self.0.get_ref(), message, &[])
    }

    /// One message, as soon as there is room.
    pub async fn send<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        loop {
            let mut guard = self.0.writable().await?;
            if let Ok(done) = guard.try_io(|socket| frame::send(socket.get_ref(), message, fds)) {
                return done;
            }
        }
    }

    /// The next message, or `None` when the other side is gone.
    pub async fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        loop {
            let mut guard = self.0.readable().await?;
            if let Ok(done) = guard.try_io(|socket| frame::receive(socket.get_ref())) {
                return done;
            }
        }
    }

    /// The request of a client that has connected, or `None` when it is gone.
    pub async fn request(&self) -> io::Result<Option<(Ask, Vec<OwnedFd>)>> {
        loop {
            let mut guard = self.0.readable().await?;
            if let Ok(done) = guard.try_io(|socket| exec::receive(socket.get_ref())) {
                return done;
            }
        }
    }

    /// The next connection to a listener.
    pub async fn accept(&self) -> io::Result<OwnedFd> {
        loop {
            let mut guard = self.0.readable().await?;
            let accept = |socket: &AsyncFd<OwnedFd>| {
                Ok(rustix::net::accept_with(socket, rustix::net::SocketFlags::CLOEXEC)?)
            };
            if let Ok(done) = guard.try_io(accept) {
                return done;
            }
        }
    }

    /// When there is something to read: of a process, its end.
    pub async fn readable(&self) -> io::Result<()> {
        self.0.readable().await.map(drop)
    }
}
