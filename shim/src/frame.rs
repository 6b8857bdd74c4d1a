//! A frame is four bytes of length, big-endian, and that many bytes of JSON. Descriptors ride on
//! the length.

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Serialize, de::DeserializeOwned};

/// The largest honest frame is an order with a hundred kilobytes of environment.
const FRAME_BYTES_MAX: u32 = 4 << 20;
/// Linux hands over 253 at once.
pub(crate) const FDS_MAX: usize = 253;

/// Sends one frame.
pub(crate) fn send(
    socket: &UnixStream,
    value: &impl Serialize,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let body = serde_json::to_vec(value).map_err(io::Error::other)?;
    let length = u32::try_from(body.len()).ok().filter(|length| *length <= FRAME_BYTES_MAX);
    let length = length
        .ok_or_else(|| io::Error::other(format!("a frame of {} bytes is too long", body.len())))?;
    if fds.len() > FDS_MAX {
        return Err(io::Error::other(format!("{} descriptors are more than {FDS_MAX}", fds.len())));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("no room for the descriptors"));
    }
    let head = length.to_be_bytes();
    let sent = sendmsg(socket, &[IoSlice::new(&head)], &mut control, SendFlags::NOSIGNAL)?;
    let mut socket = socket;
    socket.write_all(&head[sent..])?;
    socket.write_all(&body)
}

/// Receives one frame, or `None` at the end of the stream.
pub(crate) fn receive<T: DeserializeOwned>(
    socket: &UnixStream,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut head = [0; 4];
    let received = recvmsg(
        socket.as_fd(),
        &mut [IoSliceMut::new(&mut head)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL,
    )?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    let mut socket = socket;
    socket.read_exact(&mut head[received.bytes..])?;
    let length = u32::from_be_bytes(head);
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::other(format!("a frame announces {length} bytes")));
    }
    let mut body = vec![0; length as usize];
    socket.read_exact(&mut body)?;
    Ok(Some((serde_json::from_slice(&body).map_err(io::Error::other)?, fds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_carries_a_value_and_descriptors() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        send(&ours, &vec!["cats", "and dogs"], &[file.as_fd(), ours.as_fd()]).unwrap();
        let (value, fds): (Vec<String>, _) = receive(&theirs).unwrap().unwrap();
        assert_eq!((value, fds.len()), (vec!["cats".to_owned(), "and dogs".to_owned()], 2));
        drop((ours, fds));
        assert!(receive::<String>(&theirs).unwrap().is_none());
    }

    #[test]
    fn a_frame_that_lies_about_its_length_is_refused() {
        for bytes in [&[0xff; 4][..], &[0, 0, 0, 9, b'{'], &[0, 0, 0, 1, b'x'], &[0, 0]] {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            ours.write_all(bytes).unwrap();
            drop(ours);
            assert!(receive::<String>(&theirs).is_err(), "{bytes:?}");
        }
    }
}
