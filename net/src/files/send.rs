use std::{io, time::Duration};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::sendfile,
    io::Errno,
};
use tokio::{io::Interest, net::TcpStream, task::spawn_blocking, time::timeout};

use super::body::Region;
use crate::{
    activity::Activity,
    limits::{FILE_PIECE_BYTES, FILE_WAIT_MAX},
};

/// Sends all of it. The stream comes back when it was sent whole.
pub(crate) async fn send(
    mut stream: TcpStream,
    mut region: Region,
    write_time_max: Duration,
    activity: &Activity,
) -> io::Result<TcpStream> {
    while region.left > 0 {
        let ready = timeout(write_time_max, stream.writable());
        tokio::select! {
            biased;
            () = &mut region.end => return Err(io::ErrorKind::PermissionDenied.into()),
            ready = ready => ready.map_err(|_| reads_too_slowly())??,
        }
        let before = region.left;
        // A file may have to come from a disk, and so this is not a thread that serves others.
        let piece = spawn_blocking(move || {
            let sent = stream.try_io(Interest::WRITABLE, || send_piece(&stream, &mut region));
            (region.sent)(before - region.left);
            (stream, region, sent)
        });
        let sent;
        (stream, region, sent) = piece.await.map_err(io::Error::other)?;
        activity.moved((before - region.left) as usize); // at most a piece
        match sent {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => activity.wait(),
            Err(error) => return Err(error),
        }
    }
    Ok(stream)
}

/// Sends until the piece is out, or the peer takes nothing for a moment. Blocks.
fn send_piece(stream: &TcpStream, region: &mut Region) -> io::Result<()> {
    let end = region.left.saturating_sub(FILE_PIECE_BYTES);
    let mut has_waited = false;
    while region.left > end {
        let most = (region.left - end) as usize; // at most a piece
        match sendfile(stream, &region.file, Some(&mut region.at), most) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()), // it has become shorter
            Ok(sent) => {
                region.left -= sent as u64;
                has_waited = false;
            }
            Err(Errno::INTR) => {}
            // Once: there may be no memory for what the socket has room for.
            Err(Errno::AGAIN) if !has_waited && is_writable_soon(stream) => has_waited = true,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A peer on a fast network takes more at once, and this thread need not be called again for it.
fn is_writable_soon(stream: &TcpStream) -> bool {
    let mut wanted = [PollFd::new(stream, PollFlags::OUT)];
    let time = Timespec::try_from(FILE_WAIT_MAX).ok();
    poll(&mut wanted, time.as_ref()).is_ok_and(|ready| ready > 0)
}

fn reads_too_slowly() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the peer reads too slowly")
}
