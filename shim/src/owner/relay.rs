use std::{
    collections::{HashMap, VecDeque},
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    time::{Duration, Instant},
};

use engine::{Listeners, ListenersMessage};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt},
};

use crate::limits::{
    ACCEPTS_MAX, CONNECT_INTERVAL, CONNECTIONS_MAX, LISTEN_TIME_MAX, RELAY_CHUNK_BYTES,
    RELAY_ROUNDS_MAX,
};
use crate::owner::poller::{EventFlags, Poller, Token};

/// Published ports and their connections. Accepts on sockets of the host, connects on the
/// container's loopback: the process has entered the container's network namespace, and a socket
/// stays in the one it was made in.
pub(crate) struct Relay {
    doors: Vec<Door>,
    /// What the doors are, for the next supervisor.
    message: ListenersMessage,
    pairs: HashMap<u32, Pair>,
    next: u32,
    /// Pairs that had more to move when their turn was over.
    busy: VecDeque<u32>,
    /// Connections that wait for the program to listen.
    early: Vec<u32>,
    paused: bool,
    /// The program is gone: what it sent still goes out, and nothing more comes in.
    draining: bool,
    buffer: Vec<u8>,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

struct Door {
    socket: DoorSocket,
    container_port: u16,
    /// Whether the program was ever reached on it; until then it may still be starting.
    reached: bool,
}

enum DoorSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

enum Peer {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// One connection: what came in through a door, and its counterpart in the container.
struct Pair {
    outer: Peer,
    inner: Inner,
    door: usize,
    since: Instant,
    inward: Flow,
    outward: Flow,
}

/// The container's side of a pair.
enum Inner {
    /// Nothing listens yet.
    Early,
    /// The kernel is at it: on loopback that takes no time, except on a machine that is busy.
    Entering(TcpStream, Family),
    /// Connected.
    Open(TcpStream),
}

/// A program may listen in either family.
#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

/// One direction of a pair.
#[derive(Default)]
struct Flow {
    pending: Vec<u8>,
    read_over: bool,
    over: bool,
}

impl Relay {
    pub(crate) fn new(listeners: Listeners) -> Self {
        let message = listeners.message();
        let tcp = listeners.published.into_iter();
        let tcp = tcp.map(|l| (DoorSocket::Tcp(l.socket), l.container_port));
        let unix = listeners.ingress.into_iter();
        let unix = unix.map(|l| (DoorSocket::Unix(l.socket), l.container_port));
        let doors = tcp.chain(unix).map(|(socket, container_port)| Door {
            socket,
            container_port,
            reached: false,
        });
        Self {
            doors: doors.collect(),
            message,
            pairs: HashMap::new(),
            next: 0,
            busy: VecDeque::new(),
            early: Vec::new(),
            paused: false,
            draining: false,
            buffer: vec![0; RELAY_CHUNK_BYTES],
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    /// Begins to accept. This process is in the container's network namespace by now.
    pub(crate) fn open(&self, poller: &Poller) -> io::Result<()> {
        // Where this cannot be written, a connection that met itself is still told apart, if later.
        let _ = reserve(&self.ports());
        for (index, door) in self.doors.iter().enumerate() {
            rustix::io::ioctl_fionbio(door.socket.as_fd(), true)?;
            poller.add(door.socket.as_fd(), Token::Port(index as u32), EventFlags::IN)?;
        }
        Ok(())
    }

    /// The listeners, and their sockets in that order.
    pub(crate) fn listeners(&self) -> (ListenersMessage, Vec<BorrowedFd<'_>>) {
        (self.message.clone(), self.doors.iter().map(|door| door.socket.as_fd()).collect())
    }

    pub(crate) fn ports(&self) -> Vec<u16> {
        let mut ports: Vec<_> = self.doors.iter().map(|door| door.container_port).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// How long the loop may sleep, as far as this is concerned.
    pub(crate) fn patience(&self) -> Duration {
        match (self.busy.is_empty(), self.early.is_empty()) {
            (false, _) => Duration::ZERO,
            (true, false) => CONNECT_INTERVAL,
            (true, true) => Duration::MAX,
        }
    }

    /// Takes nothing new, and closes each connection once everything that the program sent is
    /// through. Who comes now waits in the listener for a later program.
    pub(crate) fn drain(&mut self, poller: &Poller) {
        self.draining = true;
        for door in &self.doors {
            poller.remove(door.socket.as_fd());
        }
        for id in std::mem::take(&mut self.early) {
            self.pairs.remove(&id);
        }
        self.busy = self.pairs.keys().copied().collect();
    }

    /// Whether no connection is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Takes what waits at a door.
    pub(crate) fn accept(&mut self, poller: &Poller, index: u32) {
        for _ in 0..ACCEPTS_MAX {
            let Some(door) = self.doors.get(index as usize) else { return };
            if self.pairs.len() >= CONNECTIONS_MAX {
                // The rest waits in the kernel's queue until somebody leaves.
                self.pause(poller);
                return;
            }
            match door.socket.accept() {
                Ok(outer) => self.welcome(poller, outer, index as usize),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if matches!(error.raw_os_error(), Some(code) if code == Errno::MFILE.raw_os_error()) =>
                {
                    self.pause(poller);
                    return;
                }
                // Somebody who left before we came.
                Err(_) => {}
            }
        }
    }

    fn welcome(&mut self, poller: &Poller, outer: Peer, door: usize) {
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        if outer.prepare().is_err()
            || poller.add(outer.as_fd(), Token::Relay(id), interest).is_err()
        {
            return;
        }
        let flows = (Flow::default(), Flow::default());
        let (inner, since) = (Inner::Early, Instant::now());
        let pair = Pair { outer, inner, door, since, inward: flows.0, outward: flows.1 };
        self.pairs.insert(id, pair);
        self.enter(poller, id, Family::V4);
    }

    /// Begins to connect a pair to the program.
    fn enter(&mut self, poller: &Poller, id: u32, family: Family) {
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        let entering = connect_loopback(family, self.doors[pair.door].container_port);
        let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        match entering
            .and_then(|inner| poller.add(&inner, Token::Relay(id), interest).map(|()| inner))
        {
            Ok(inner) => {
                pair.inner = Inner::Entering(inner, family);
                self.busy.push_back(id);
            }
            Err(_) => self.refused(poller, id, family),
        }
    }

    /// Tries the other family, and then again later while the program may still be starting.
    fn refused(&mut self, poller: &Poller, id: u32, family: Family) {
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        pair.inner = Inner::Early;
        match family {
            Family::V4 => self.enter(poller, id, Family::V6),
            Family::V6
                if !self.draining
                    && !self.doors[pair.door].reached
                    && pair.since.elapsed() < LISTEN_TIME_MAX =>
            {
                self.early.push(id);
            }
            Family::V6 => self.close(poller, id),
        }
    }

    /// A side of a pair can move.
    pub(crate) fn touch(&mut self, id: u32) {
        let waits = self.pairs.get(&id).is_none_or(|pair| matches!(pair.inner, Inner::Early));
        if !waits && !self.busy.contains(&id) {
            self.busy.push_back(id);
        }
    }

    /// One turn for everybody who has something to move or to try.
    pub(crate) fn turn(&mut self, poller: &Poller) {
        for id in std::mem::take(&mut self.early) {
            self.enter(poller, id, Family::V4);
        }
        for id in std::mem::take(&mut self.busy) {
            let Some(pair) = self.pairs.get_mut(&id) else { continue };
            match pair.settle() {
                Settled::Open => self.doors[pair.door].reached = true,
                Settled::Waits => continue,
                Settled::Refused(family) => {
                    self.refused(poller, id, family);
                    continue;
                }
            }
            match pair.pump(&mut self.buffer, &mut self.bytes_in, &mut self.bytes_out) {
                Ok(true) => self.busy.push_back(id),
                Ok(false) if pair.outward.over && (pair.inward.over || self.draining) => {
                    self.close(poller, id)
                }
                Ok(false) => {}
                Err(_) => self.close(poller, id),
            }
        }
    }

    fn close(&mut self, poller: &Poller, id: u32) {
        // Its descriptors leave the poller as they are closed.
        self.pairs.remove(&id);
        if self.paused && !self.draining && self.pairs.len() < CONNECTIONS_MAX {
            self.paused = false;
            for (index, door) in self.doors.iter().enumerate() {
                let _ =
                    poller.change(door.socket.as_fd(), Token::Port(index as u32), EventFlags::IN);
            }
        }
    }

    fn pause(&mut self, poller: &Poller) {
        self.paused = true;
        for (index, door) in self.doors.iter().enumerate() {
            let _ =
                poller.change(door.socket.as_fd(), Token::Port(index as u32), EventFlags::empty());
        }
    }
}

enum Settled {
    Open,
    Waits,
    Refused(Family),
}

impl Pair {
    /// How connecting to the program came out, as far as is known.
    fn settle(&mut self) -> Settled {
        let (inner, family) = match std::mem::replace(&mut self.inner, Inner::Early) {
            Inner::Entering(inner, family) => (inner, family),
            Inner::Open(inner) => {
                self.inner = Inner::Open(inner);
                return Settled::Open;
            }
            Inner::Early => return Settled::Waits,
        };
        match (inner.take_error(), inner.peer_addr()) {
            (Ok(None), Ok(peer)) if inner.local_addr().is_ok_and(|own| own == peer) => {
                // Nobody listens, and the kernel gave us the very port that we asked for: TCP
                // connects such a socket to itself. Reset, because a port that was closed politely
                // stays taken for a minute.
                let _ = sockopt::set_socket_linger(&inner, Some(Duration::ZERO));
                Settled::Refused(family)
            }
            (Ok(None), Ok(_)) => {
                self.inner = Inner::Open(inner);
                Settled::Open
            }
            (Ok(None), Err(error)) if waits(&error) => {
                self.inner = Inner::Entering(inner, family);
                Settled::Waits
            }
            _ => Settled::Refused(family),
        }
    }

    /// Moves bytes both ways until nothing moves. Says whether it stopped only to let others have a
    /// turn.
    fn pump(
        &mut self,
        buffer: &mut [u8],
        bytes_in: &mut u64,
        bytes_out: &mut u64,
    ) -> io::Result<bool> {
        let Inner::Open(inner) = &self.inner else { return Ok(false) };
        let mut inner = inner;
        let inward = self.inward.pump(&mut self.outer, &mut inner, buffer, bytes_in)?;
        if self.inward.read_over && self.inward.pending.is_empty() && !self.inward.over {
            self.inward.over = true;
            // It may be gone already; the other direction will tell.
            let _ = inner.shutdown(Shutdown::Write);
        }
        let outward = self.outward.pump(&mut inner, &mut self.outer, buffer, bytes_out)?;
        if self.outward.read_over && self.outward.pending.is_empty() && !self.outward.over {
            self.outward.over = true;
            let _ = self.outer.shutdown_write();
        }
        Ok(inward || outward)
    }
}

impl Flow {
    fn pump(
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
                    Err(error) if waits(&error) => return Ok(false),
                    Err(error) => return Err(error),
                }
            }
            // Idle connections hold no buffer.
            self.pending = Vec::new();
            if self.read_over {
                return Ok(false);
            }
            let n = match from.read(buffer) {
                Ok(0) => {
                    self.read_over = true;
                    return Ok(false);
                }
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if waits(&error) => return Ok(false),
                Err(error) => return Err(error),
            };
            *bytes += n as u64;
            let written = match to.write(&buffer[..n]) {
                Ok(written) => written,
                Err(error) if waits(&error) || error.kind() == ErrorKind::Interrupted => 0,
                Err(error) => return Err(error),
            };
            self.pending.extend_from_slice(&buffer[written..n]);
        }
        Ok(true)
    }
}

/// `NotConnected`: the kernel is still at it, and will say when it is done.
fn waits(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected)
}

/// Keeps `ports` out of what the kernel hands out by itself in this network namespace. Otherwise
/// one of our attempts to reach a program that is still starting gets its port as its own, meets
/// itself, and is in the program's way.
fn reserve(ports: &[u16]) -> io::Result<()> {
    let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
    std::fs::write("/proc/sys/net/ipv4/ip_local_reserved_ports", ports.join(","))
}

/// To whatever listens on the container's own loopback.
fn connect_loopback(family: Family, port: u16) -> io::Result<TcpStream> {
    match family {
        Family::V4 => {
            connect_to(AddressFamily::INET, SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        }
        Family::V6 => {
            connect_to(AddressFamily::INET6, SocketAddr::from((Ipv6Addr::LOCALHOST, port)))
        }
    }
}

fn connect_to(family: AddressFamily, address: SocketAddr) -> io::Result<TcpStream> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket: OwnedFd = socket_with(family, SocketType::STREAM, flags, None)?;
    match connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => {
            sockopt::set_tcp_nodelay(&socket, true)?;
            Ok(TcpStream::from(socket))
        }
        Err(error) => Err(error.into()),
    }
}

impl DoorSocket {
    fn accept(&self) -> io::Result<Peer> {
        match self {
            Self::Tcp(listener) => listener.accept().map(|(stream, _)| Peer::Tcp(stream)),
            Self::Unix(listener) => listener.accept().map(|(stream, _)| Peer::Unix(stream)),
        }
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

impl Peer {
    fn prepare(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                stream.set_nonblocking(true)?;
                // A client whose machine vanished must not hold a place for ever.
                sockopt::set_socket_keepalive(stream, true)?;
                stream.set_nodelay(true)
            }
            Self::Unix(stream) => stream.set_nonblocking(true),
        }
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }

    fn shutdown_write(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }
}

impl Read for Peer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Peer {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buffer),
            Self::Unix(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_to_itself_counts_as_refused_and_frees_its_port() {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let inner = TcpStream::from(socket);
        let address = inner.local_addr().unwrap();
        connect(&inner, &address).unwrap();
        let (outer, _client) = UnixStream::pair().unwrap();
        let mut pair = Pair {
            outer: Peer::Unix(outer),
            inner: Inner::Entering(inner, Family::V4),
            door: 0,
            since: Instant::now(),
            inward: Flow::default(),
            outward: Flow::default(),
        };
        assert!(matches!(pair.settle(), Settled::Refused(Family::V4)));
        let program = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&program, &address).expect("the program gets its port");
    }
}
