use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    time::{Duration, Instant},
};

use net::AddressPrefix;
use rustix::net::sockopt;

use super::socket::{ClientStream, Family};
use crate::limits::RELAY_ROUNDS_MAX;

/// One client's connection, and its counterpart in the container.
pub(super) struct Connection {
    pub client: ClientStream,
    /// Whose share of the connections this is one of; the ingress has none.
    pub prefix: Option<AddressPrefix>,
    pub program: ProgramStream,
    /// Index of the listener that it came in through.
    pub listener: usize,
    pub accepted_at: Instant,
    pub inbound: Direction,
    pub outbound: Direction,
}

/// The program's side of a connection.
pub(super) enum ProgramStream {
    /// The program does not listen yet.
    Absent,
    /// The kernel has not finished: on loopback that takes no time, except under load.
    Connecting(TcpStream, Family),
    Connected(TcpStream),
}

/// How far connecting to the program is.
pub(super) enum ConnectState {
    Connected,
    Pending,
    Refused(Family),
}

impl Connection {
    pub(super) fn new(
        client: ClientStream,
        prefix: Option<AddressPrefix>,
        listener: usize,
    ) -> Self {
        let (inbound, outbound) = (Direction::default(), Direction::default());
        let (program, accepted_at) = (ProgramStream::Absent, Instant::now());
        Self { client, prefix, program, listener, accepted_at, inbound, outbound }
    }

    /// Takes the kernel's answer to connecting, as far as there is one.
    pub(super) fn connect_state(&mut self) -> ConnectState {
        let (stream, family) = match std::mem::replace(&mut self.program, ProgramStream::Absent) {
            ProgramStream::Connecting(stream, family) => (stream, family),
            ProgramStream::Connected(stream) => {
                self.program = ProgramStream::Connected(stream);
                return ConnectState::Connected;
            }
            ProgramStream::Absent => return ConnectState::Pending,
        };
        match (stream.take_error(), stream.peer_addr()) {
            (Ok(None), Ok(peer)) if stream.local_addr().is_ok_and(|local| local == peer) => {
                // No program listens, and the kernel chose the very port that it should have
                // reached as the source port: TCP connects such a socket to itself. Reset, because
                // a port that was closed in order stays in TIME_WAIT for a minute.
                let _ = sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
                ConnectState::Refused(family)
            }
            (Ok(None), Ok(_)) => {
                self.program = ProgramStream::Connected(stream);
                ConnectState::Connected
            }
            (Ok(None), Err(error)) if is_pending(&error) => {
                self.program = ProgramStream::Connecting(stream, family);
                ConnectState::Pending
            }
            _ => ConnectState::Refused(family),
        }
    }

    /// Moves bytes both ways until neither can move. True when it stopped only to let other
    /// connections move theirs.
    pub(super) fn pump(
        &mut self,
        buffer: &mut [u8],
        bytes_in: &mut u64,
        bytes_out: &mut u64,
    ) -> io::Result<bool> {
        let ProgramStream::Connected(program) = &self.program else { return Ok(false) };
        let mut program = program;
        let inbound = self.inbound.pump(&mut self.client, &mut program, buffer, bytes_in)?;
        if self.inbound.finish() {
            // The program may have closed already; the other direction will tell.
            let _ = program.shutdown(Shutdown::Write);
        }
        let outbound = self.outbound.pump(&mut program, &mut self.client, buffer, bytes_out)?;
        if self.outbound.finish() {
            let _ = self.client.shutdown_write();
        }
        Ok(inbound || outbound)
    }
}

/// One direction of a connection.
#[derive(Default)]
pub(super) struct Direction {
    pending: Vec<u8>,
    read_finished: bool,
    pub finished: bool,
}

impl Direction {
    /// Whether the end of the source has just been reached and everything before it delivered.
    pub(super) fn finish(&mut self) -> bool {
        let finished = self.read_finished && self.pending.is_empty();
        finished && !std::mem::replace(&mut self.finished, finished)
    }

    pub(super) fn pump(
        &mut self,
        from: &mut impl Read,
        to: &mut impl Write,
        buffer: &mut [u8],
        bytes: &mut u64,
    ) -> io::Result<bool> {
        for _ in 0..RELAY_ROUNDS_MAX {
            while !self.pending.is_empty() {
                match to.write(&self.pending) {
                    Ok(n) => drop(self.pending.drain(..n)),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if is_pending(&error) => return Ok(false),
                    Err(error) => return Err(error),
                }
            }
            // Idle connections hold no buffer.
            self.pending = Vec::new();
            if self.read_finished {
                return Ok(false);
            }
            let n = match from.read(buffer) {
                Ok(0) => {
                    self.read_finished = true;
                    return Ok(false);
                }
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if is_pending(&error) => return Ok(false),
                Err(error) => return Err(error),
            };
            *bytes += n as u64;
            let written = match to.write(&buffer[..n]) {
                Ok(written) => written,
                Err(error) if is_pending(&error) || error.kind() == ErrorKind::Interrupted => 0,
                Err(error) => return Err(error),
            };
            self.pending.extend_from_slice(&buffer[written..n]);
        }
        Ok(true)
    }
}

/// `NotConnected`: the kernel is still connecting, and reports when it is done.
fn is_pending(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected)
}

#[cfg(test)]
mod tests {
    use std::{
        net::{Ipv4Addr, SocketAddr},
        os::unix::net::UnixStream,
    };

    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

    use super::*;

    #[test]
    fn a_connection_to_itself_counts_as_refused_and_frees_its_port() {
        let looped = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&looped, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let looped = TcpStream::from(looped);
        let address = looped.local_addr().unwrap();
        connect(&looped, &address).unwrap();
        let (server_side, _client) = UnixStream::pair().unwrap();
        let mut connection = Connection::new(ClientStream::Unix(server_side), None, 0);
        connection.program = ProgramStream::Connecting(looped, Family::V4);
        assert!(matches!(connection.connect_state(), ConnectState::Refused(Family::V4)));
        let program = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&program, &address).expect("the program gets its port");
    }
}
