use std::{
    collections::HashMap,
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use engine::frame;
use rustix::net::{SocketFlags, accept_with, sockopt};

use crate::{
    limits::{REQUEST_TIME_MAX, REQUESTS_MAX, WAITERS_MAX},
    owner::poller::{EventFlags, Poller, Token},
    protocol::{Reply, Request},
    record::Ended,
};

/// The control socket of a shim, and the supervisors that are connected to it. A connection
/// carries one request.
pub(crate) struct ControlSocket {
    listener: OwnedFd,
    connections: HashMap<u32, Connection>,
    next_id: u32,
}

enum Connection {
    /// Its request has not arrived.
    Open(OwnedFd),
    /// It asked to be told how the container ends.
    Waiting(OwnedFd),
}

impl ControlSocket {
    /// Begins to accept.
    pub(crate) fn open(listener: OwnedFd, poller: &Poller) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&listener, true)?;
        poller.add(&listener, Token::ControlSocket, EventFlags::IN)?;
        Ok(Self { listener, connections: HashMap::new(), next_id: 0 })
    }

    /// Accepts what waits. Above the limit connections are closed: supervisors try again.
    pub(crate) fn accept(&mut self, poller: &Poller) {
        while let Ok(stream) = accept_with(&self.listener, SocketFlags::CLOEXEC) {
            if self.connections.len() - self.waiting() >= REQUESTS_MAX {
                continue;
            }
            let id = self.next_id;
            self.next_id = self.next_id.wrapping_add(1);
            let watch = || -> io::Result<()> {
                for timeout in [sockopt::Timeout::Recv, sockopt::Timeout::Send] {
                    sockopt::set_socket_timeout(&stream, timeout, Some(REQUEST_TIME_MAX))?;
                }
                poller.add(&stream, Token::Control(id), EventFlags::IN)
            };
            if watch().is_ok() {
                self.connections.insert(id, Connection::Open(stream));
            }
        }
    }

    /// The request of connection `id`, which is to be answered. `None` when there is nothing to
    /// answer: it waits from now on, or it is closed, as one that waits and sends again is.
    pub(crate) fn receive(&mut self, id: u32) -> Option<(Request, Answer)> {
        let Some(Connection::Open(stream)) = self.connections.remove(&id) else { return None };
        match frame::receive::<Request>(&stream) {
            Ok(Some((Request::Wait, _))) => {
                // Above the limit it is closed, and asks again.
                if self.waiting() < WAITERS_MAX {
                    self.connections.insert(id, Connection::Waiting(stream));
                }
                None
            }
            Ok(Some((request, _))) => Some((request, Answer(stream))),
            Ok(None) | Err(_) => None,
        }
    }

    /// Tells every supervisor that waits how the container ended.
    pub(crate) fn report(self, ended: &Ended) {
        for connection in self.connections.into_values() {
            if let Connection::Waiting(stream) = connection {
                let _ = frame::send(&stream, &Reply::Exited(ended.clone()), &[]);
            }
        }
    }

    fn waiting(&self) -> usize {
        let waits = |connection: &&Connection| matches!(connection, Connection::Waiting(_));
        self.connections.values().filter(waits).count()
    }
}

/// Where the reply to a request goes.
pub(crate) struct Answer(OwnedFd);

impl Answer {
    /// The connection itself, where the supervisor stays.
    pub(crate) fn into_stream(self) -> OwnedFd {
        self.0
    }

    /// Sends the reply. The supervisor may have left, which concerns the supervisor alone.
    pub(crate) fn send(self, reply: &Reply, fds: &[BorrowedFd<'_>]) {
        let _ = frame::send(&self.0, reply, fds);
    }
}
