//! What a worker and its supervisor say to each other, one message per packet, descriptors riding
//! beside.
//!
//! The socket is of the `SEQPACKET` kind: a message arrives whole or not at all, and its
//! descriptors with it. Each side knows the other by the socket that the supervisor made, never by
//! anything in a message.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{
    self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::process::Pid;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use spec::Scheme;

use crate::{Error, Event};

/// What the kernel carries in one message (`SCM_MAX_FD`).
pub(crate) const FDS_MAX: usize = 253;

/// More than any message of ours; an assignment, which may be long, rides in a memory file.
const FRAME_BYTES_MAX: usize = 16 << 10;

/// From a supervisor to its worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToWorker {
    /// Take this over. The first descriptor holds the [`Order`](crate::assignment::Order), the
    /// others are its slots.
    Assign,
    /// Take no more work, finish what runs, and end within this time.
    Stop { grace_ms: u64 },
    /// Answers [`ToSupervisor::Connect`]: the connected socket rides beside.
    Connected { id: u64 },
    /// Answers [`ToSupervisor::Connect`].
    Refused { id: u64, refusal: Refusal },
}

/// From a worker to its supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToSupervisor {
    /// Made and waiting.
    Blank,
    /// What happened.
    Event(Event),
    /// Please connect me; see [`Broker`](crate::Broker).
    Connect { id: u64, target: Target },
    /// Sent to each new supervisor: what was happening, and the listeners, by container port, in
    /// order. With `ingress` the last descriptor is the ingress's.
    Adopted { started: bool, ports: Vec<u16>, ingress: Option<u16> },
}

/// Whom a guest would like to speak to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Target {
    pub scheme: SchemeName,
    pub host: String,
    pub port: u16,
}

/// [`Scheme`] as it crosses the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum SchemeName {
    Http,
    Https,
}

impl From<SchemeName> for Scheme {
    fn from(name: SchemeName) -> Self {
        match name {
            SchemeName::Http => Self::Http,
            SchemeName::Https => Self::Https,
        }
    }
}

/// Why no connection was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Refusal {
    /// No grant allows it; this line would.
    Denied { line: String },
    /// The name does not resolve.
    NoSuchName,
    /// It resolves only to addresses that are off limits; this line, and the node's own key, would
    /// allow it.
    Forbidden { line: String, why: String },
    /// The other side does not answer, or refuses.
    Unreachable { why: String },
    /// Too many connections at once.
    Busy,
    /// Nobody was there to ask.
    NoBroker,
}

/// A pair of connected sockets: one for us, one for a worker.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends one message. `WouldBlock` when the socket does not wait and is full.
pub(crate) fn send<T: Serialize>(
    socket: impl AsFd,
    message: &T,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > FRAME_BYTES_MAX || fds.len() > FDS_MAX {
        return Err(io::Error::from(io::ErrorKind::ArgumentListTooLong));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one message, or `None` when the other side is gone. `WouldBlock` when the socket does
/// not wait.
pub(crate) fn receive<T: DeserializeOwned>(
    socket: impl AsFd,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    Ok(receive_from(socket)?.map(|received| (received.message, received.fds)))
}

/// A message, and what came with it.
pub(crate) struct Received<T> {
    pub message: T,
    pub fds: Vec<OwnedFd>,
    /// Who sent it, by the word of the kernel, on a socket that asks for it (`SO_PASSCRED`).
    pub sender: Option<Pid>,
}

/// As [`receive`], with the sender.
pub(crate) fn receive_from<T: DeserializeOwned>(
    socket: impl AsFd,
) -> io::Result<Option<Received<T>>> {
    let mut bytes = vec![0; FRAME_BYTES_MAX];
    let mut space =
        [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX), ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = match net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    ) {
        Ok(got) => got,
        Err(rustix::io::Errno::CONNRESET) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let (mut fds, mut sender) = (Vec::new(), None);
    for message in control.drain() {
        match message {
            RecvAncillaryMessage::ScmRights(rights) => fds.extend(rights),
            RecvAncillaryMessage::ScmCredentials(credentials) => sender = Some(credentials.pid),
            _ => {}
        }
    }
    if got.bytes == 0 {
        return Ok(None);
    }
    if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a message is longer than any of ours",
        ));
    }
    Ok(Some(Received { message: serde_json::from_slice(&bytes[..got.bytes])?, fds, sender }))
}

/// Descriptors on their way across a socket, named by their position.
#[derive(Default)]
pub(crate) struct Slots(Vec<Option<OwnedFd>>);

impl Slots {
    pub fn put(&mut self, fd: impl Into<OwnedFd>) -> usize {
        self.0.push(Some(fd.into()));
        self.0.len() - 1
    }

    pub fn take(&mut self, slot: usize) -> Result<OwnedFd, Error> {
        let found = self.0.get_mut(slot).and_then(Option::take);
        found.ok_or_else(|| Error::Protocol(format!("descriptor {slot} is missing or taken twice")))
    }

    pub fn take_if(&mut self, slot: Option<usize>) -> Result<Option<OwnedFd>, Error> {
        slot.map(|slot| self.take(slot)).transpose()
    }

    pub fn into_fds(self) -> Vec<OwnedFd> {
        self.0.into_iter().flatten().collect()
    }
}

impl From<Vec<OwnedFd>> for Slots {
    fn from(fds: Vec<OwnedFd>) -> Self {
        Self(fds.into_iter().map(Some).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_whole_and_its_descriptors_with_it() {
        let (ours, theirs) = pair().unwrap();
        send(&ours, &ToWorker::Stop { grace_ms: 7 }, &[theirs.as_fd(), ours.as_fd()]).unwrap();
        let (message, fds) = receive::<ToWorker>(&theirs).unwrap().unwrap();
        assert!(matches!(message, ToWorker::Stop { grace_ms: 7 }));
        assert_eq!(fds.len(), 2);
        drop((ours, fds));
        assert!(
            receive::<ToWorker>(&theirs).unwrap().is_none(),
            "the end of the other side is an end"
        );
    }

    #[test]
    fn a_message_that_is_none_of_ours_is_an_error_and_no_panic() {
        let (ours, theirs) = pair().unwrap();
        for bytes in [&b"{"[..], b"\xff\xff", b"{\"Stop\":{}}", &[b'a'; FRAME_BYTES_MAX + 1]] {
            net::send(&ours, bytes, SendFlags::empty()).unwrap();
            assert!(receive::<ToWorker>(&theirs).is_err());
        }
    }

    #[test]
    fn a_slot_is_taken_once() {
        let (ours, _theirs) = pair().unwrap();
        let mut slots = Slots::from(vec![ours]);
        assert!(slots.take(0).is_ok());
        assert!(slots.take(0).is_err());
        assert!(slots.take(1).is_err());
    }
}
