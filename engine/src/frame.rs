//! Messages between a container's process and its supervisor, one per packet, descriptors riding
//! beside.
//!
//! The socket is of the `SEQPACKET` kind: a message arrives whole or not at all, and its
//! descriptors with it. A longer one, a *document*, rides in a memory file that is its first
//! descriptor. Each side knows the other by the socket that the supervisor made, never by anything
//! in a message.

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use disk::SocketPath;
use rustix::{
    fs::{MemfdFlags, SealFlags},
    net::{
        self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
        SocketType,
    },
    process::Pid,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::limits::{BACKLOG, FDS_MAX, FRAME_BYTES_MAX};

/// A pair of connected sockets: one for the supervisor, one for the container's process.
///
/// # Errors
/// When the process has no descriptor left.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Listens at `name` in `folder`, in place of an old socket. The mode of the folder decides which
/// users may connect.
///
/// # Errors
/// When the socket cannot be made.
pub fn listen(folder: &Path, name: &str) -> io::Result<OwnedFd> {
    let short = SocketPath::of(&folder.join(name))?;
    disk::remove(short.as_ref())?;
    let listener = socket()?;
    net::bind(&listener, &SocketAddrUnix::new(short.as_ref())?)?;
    net::listen(&listener, BACKLOG)?;
    Ok(listener)
}

/// Connects to the socket `name` in `folder`.
///
/// # Errors
/// `NotFound` and `ConnectionRefused` when nothing listens there; others say nothing about that.
pub fn connect(folder: &Path, name: &str) -> io::Result<OwnedFd> {
    connect_by(socket()?, folder, name)
}

/// As [`connect`], and [`receive_from`] says which process sent a message, from the first one on.
///
/// # Errors
/// As [`connect`].
pub fn connect_expecting_sender(folder: &Path, name: &str) -> io::Result<OwnedFd> {
    let socket = socket()?;
    // Before connecting: what is sent until then carries no sender.
    net::sockopt::set_socket_passcred(&socket, true)?;
    connect_by(socket, folder, name)
}

fn connect_by(socket: OwnedFd, folder: &Path, name: &str) -> io::Result<OwnedFd> {
    let short = SocketPath::of(&folder.join(name))?;
    match net::connect(&socket, &SocketAddrUnix::new(short.as_ref())?) {
        Ok(()) => Ok(socket),
        Err(rustix::io::Errno::PROTOTYPE) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "it was started by an older margay, which speaks another protocol",
        )),
        Err(error) => Err(error.into()),
    }
}

fn socket() -> io::Result<OwnedFd> {
    let kind = SocketType::SEQPACKET;
    Ok(net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?)
}

/// Sends one message.
///
/// # Errors
/// `WouldBlock` when the socket does not wait and is full.
pub fn send<T: Serialize>(
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

/// Receives one message, or `None` when the other side is gone.
///
/// # Errors
/// `WouldBlock` when the socket does not wait and is empty; `InvalidData` for a message that is
/// too long or makes no sense.
pub fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    Ok(receive_from(socket)?.map(|received| (received.message, received.fds)))
}

/// A message, and what came with it.
#[derive(Debug)]
pub struct Received<T> {
    pub message: T,
    pub fds: Vec<OwnedFd>,
    /// By the word of the kernel, on a socket that asks for it (`SO_PASSCRED`).
    pub sender: Option<Pid>,
}

/// As [`receive`], with the sender.
///
/// # Errors
/// As [`receive`].
pub fn receive_from<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<Received<T>>> {
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
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"));
    }
    Ok(Some(Received { message: serde_json::from_slice(&bytes[..got.bytes])?, fds, sender }))
}

/// What announces a document.
const DOCUMENT: &str = "document";

/// Sends a message of any length.
///
/// # Errors
/// When it cannot be sent, or has too many descriptors.
pub fn send_document<T: Serialize>(
    socket: impl AsFd,
    document: &T,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let file = memory_file(&serde_json::to_vec(document)?)?;
    let all: Vec<_> = [file.as_fd()].into_iter().chain(fds.iter().copied()).collect();
    send(socket, &DOCUMENT, &all)
}

/// The other side of [`send_document`]; `None` when the other side is gone.
///
/// # Errors
/// When something else came.
pub fn receive_document<T: DeserializeOwned>(
    socket: impl AsFd,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    match receive::<String>(socket)? {
        Some((word, mut fds)) if word == DOCUMENT && !fds.is_empty() => {
            let mut document = File::from(fds.remove(0));
            io::Seek::rewind(&mut document)?;
            Ok(Some((serde_json::from_reader(io::BufReader::new(document))?, fds)))
        }
        Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "a document was expected")),
        None => Ok(None),
    }
}

/// A file without a name that holds `bytes` and will never hold anything else.
fn memory_file(bytes: &[u8]) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = File::from(rustix::fs::memfd_create("document", flags)?);
    io::Write::write_all(&mut &file, bytes)?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file)
}

/// Descriptors on their way across a socket, named by their position.
#[derive(Debug, Default)]
pub struct Slots(Vec<Option<OwnedFd>>);

impl Slots {
    pub fn put(&mut self, fd: impl Into<OwnedFd>) -> usize {
        self.0.push(Some(fd.into()));
        self.0.len() - 1
    }

    /// # Errors
    /// When the descriptor is missing or taken twice.
    pub fn take(&mut self, slot: usize) -> io::Result<OwnedFd> {
        let found = self.0.get_mut(slot).and_then(Option::take);
        found.ok_or_else(|| {
            let why = format!("descriptor {slot} is missing or taken twice");
            io::Error::new(io::ErrorKind::InvalidData, why)
        })
    }

    /// # Errors
    /// As [`Slots::take`].
    pub fn take_if(&mut self, slot: Option<usize>) -> io::Result<Option<OwnedFd>> {
        slot.map(|slot| self.take(slot)).transpose()
    }

    /// Whether every descriptor was taken.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// Those that were not taken.
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
        send(&ours, &vec!["cats", "and dogs"], &[theirs.as_fd(), ours.as_fd()]).unwrap();
        let (message, fds) = receive::<Vec<String>>(&theirs).unwrap().unwrap();
        assert_eq!((message, fds.len()), (vec!["cats".to_owned(), "and dogs".to_owned()], 2));
        drop((ours, fds));
        let end = receive::<String>(&theirs).unwrap();
        assert!(end.is_none(), "the end of the other side is an end");
    }

    #[test]
    fn a_document_of_any_length_arrives_with_its_descriptors() {
        let (ours, theirs) = pair().unwrap();
        let text = "x".repeat(2 * FRAME_BYTES_MAX);
        assert!(send(&ours, &text, &[]).is_err(), "too long for a message");
        send_document(&ours, &text, &[ours.as_fd()]).unwrap();
        let (got, fds) = receive_document::<String>(&theirs).unwrap().unwrap();
        assert!(got == text && fds.len() == 1);
        send(&ours, &"something else", &[]).unwrap();
        assert!(receive_document::<String>(&theirs).is_err());
    }

    #[test]
    fn a_message_that_makes_no_sense_is_an_error_and_no_panic() {
        let (ours, theirs) = pair().unwrap();
        for bytes in [&b"["[..], b"\xff\xff", b"{\"Stop\":{}}", &[b'a'; FRAME_BYTES_MAX + 1]] {
            net::send(&ours, bytes, SendFlags::empty()).unwrap();
            assert!(receive::<Vec<String>>(&theirs).is_err());
        }
    }

    #[test]
    fn a_slot_is_taken_once() {
        let (ours, _theirs) = pair().unwrap();
        let mut slots = Slots::from(vec![ours]);
        assert!(slots.take(0).is_ok() && slots.is_empty());
        assert!(slots.take(0).is_err());
        assert!(slots.take(1).is_err());
    }

    #[test]
    fn a_socket_in_a_deep_folder_is_reached_and_one_of_an_older_protocol_is_named() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("d".repeat(100)).join("e".repeat(100));
        std::fs::create_dir_all(&folder).unwrap();
        let refused = |error: io::Error| error.kind();
        assert_eq!(connect(&folder, "s").map_err(refused).unwrap_err(), io::ErrorKind::NotFound);
        let listener = listen(&folder, "s").unwrap();
        connect(&folder, "s").unwrap();
        drop(listener);
        let gone = connect(&folder, "s").map_err(refused).unwrap_err();
        assert_eq!(gone, io::ErrorKind::ConnectionRefused);
        let _stream = std::os::unix::net::UnixListener::bind(root.path().join("old")).unwrap();
        let error = connect(root.path(), "old").unwrap_err();
        assert!(error.to_string().contains("an older margay"), "{error}");
    }
}
