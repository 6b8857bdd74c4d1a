//! Datagrams that the ingress brings. Each client of it has a connection, in which each datagram is
//! a frame, and a socket of its own towards the program.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read as _, Write as _},
    net::UdpSocket,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::net::{UnixListener, UnixStream},
    },
    time::Instant,
};

use engine::{FrameSplitter, Listener};

use super::{datagrams::connect, listening, socket::Family};
use crate::{
    limits::{
        ACCEPTS_MAX, DATAGRAM_BYTES_MAX, DATAGRAM_ROUNDS_MAX, FRAMED_SESSIONS_MAX,
        LISTENING_INTERVAL,
    },
    owner::poller::{EventFlags, Poller, Token},
};

pub(super) struct FramedDatagrams {
    ports: Vec<Port>,
    sessions: HashMap<u32, Session>,
    next_id: u32,
    buffer: Vec<u8>,
}

struct Port {
    listener: UnixListener,
    container_port: u16,
    /// Whether it was said that no program listens on it, since one last did.
    told: bool,
    /// In which family the program listens, and when that was seen: the kernel's table is as long
    /// as there are clients, and many come at once.
    seen: Option<(Family, Instant)>,
}

struct Session {
    client: UnixStream,
    program: UdpSocket,
    frames: FrameSplitter,
    /// The end of an answer that the ingress has not taken yet.
    pending: Vec<u8>,
    used: Instant,
}

/// What a client's connection is watched for.
const CLIENT_EVENTS: EventFlags = EventFlags::IN.union(EventFlags::RDHUP);

impl FramedDatagrams {
    pub fn new(listeners: Vec<Listener<UnixListener>>) -> Self {
        let ports = listeners.into_iter().map(|listener| Port {
            listener: listener.socket,
            container_port: listener.container_port,
            told: false,
            seen: None,
        });
        Self {
            ports: ports.collect(),
            sessions: HashMap::new(),
            next_id: 0,
            buffer: vec![0; DATAGRAM_BYTES_MAX],
        }
    }

    /// Begins to accept. This process is in the container's network namespace by now.
    pub fn open(&self, poller: &Poller) -> std::io::Result<()> {
        for (index, port) in self.ports.iter().enumerate() {
            port.listener.set_nonblocking(true)?;
            poller.add(&port.listener, Token::FramedPort(index as u32), EventFlags::IN)?;
        }
        Ok(())
    }

    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.ports.iter().map(|port| port.listener.as_fd())
    }

    pub fn container_ports(&self) -> impl Iterator<Item = u16> {
        self.ports.iter().map(|port| port.container_port)
    }

    /// Accepts nothing more. The ingress sees its connections end, and asks elsewhere.
    pub fn drain(&mut self, poller: &Poller) {
        for port in &self.ports {
            poller.remove(&port.listener);
        }
        self.sessions.clear();
    }

    /// Accepts what waits at port `index`; the port is handed back when no program listens on it
    /// and that is to be said: where it `tells`.
    pub fn accept(&mut self, poller: &Poller, index: u32, tells: bool) -> Option<u16> {
        let mut unheard = None;
        for _ in 0..ACCEPTS_MAX {
            let port = self.ports.get_mut(index as usize)?;
            let Ok((client, _)) = port.listener.accept() else { break };
            match port.connect() {
                Some(program) => {
                    port.told = false;
                    if self.sessions.len() >= FRAMED_SESSIONS_MAX {
                        self.end_the_oldest();
                    }
                    self.add(poller, client, program);
                }
                // A connection that ends before an answer tells the ingress to ask elsewhere.
                None if tells && !std::mem::replace(&mut port.told, true) => {
                    unheard = Some(port.container_port);
                }
                None => {}
            }
        }
        unheard
    }

    fn add(&mut self, poller: &Poller, client: UnixStream, program: UdpSocket) {
        let token = Token::FramedSession(self.next_id);
        let watched = client
            .set_nonblocking(true)
            .and_then(|()| poller.add(&client, token, CLIENT_EVENTS))
            .and_then(|()| poller.add(&program, token, EventFlags::IN));
        if watched.is_ok() {
            let (frames, pending) = (FrameSplitter::default(), Vec::new());
            let session = Session { client, program, frames, pending, used: Instant::now() };
            self.sessions.insert(self.next_id, session);
            self.next_id = self.next_id.wrapping_add(1);
        }
    }

    /// Makes room: a client that comes back gets a new session.
    fn end_the_oldest(&mut self) {
        let oldest = self.sessions.iter().min_by_key(|(_, session)| session.used);
        if let Some(id) = oldest.map(|(id, _)| *id) {
            self.sessions.remove(&id);
        }
    }

    /// Moves datagrams of session `id` both ways: bytes to the program, and bytes of it.
    pub fn pump(&mut self, poller: &Poller, id: u32) -> (u64, u64) {
        let Some(session) = self.sessions.get_mut(&id) else { return (0, 0) };
        session.used = Instant::now();
        let (mut bytes_in, mut bytes_out) = (0, 0);
        let goes_on = session.hand_in(&mut self.buffer, &mut bytes_in)
            && session.hand_out(&mut self.buffer, &mut bytes_out)
            && session.watch(poller, id);
        if !goes_on {
            self.sessions.remove(&id);
        }
        (bytes_in, bytes_out)
    }
}

impl Port {
    fn connect(&mut self) -> Option<UdpSocket> {
        if self.seen.is_none_or(|(_, at)| at.elapsed() >= LISTENING_INTERVAL) {
            let family = listening::datagrams(self.container_port);
            self.seen = family.map(|family| (family, Instant::now()));
        }
        connect(self.seen?.0, self.container_port)
    }
}

impl Session {
    /// What the client has sent. False at its end.
    fn hand_in(&mut self, buffer: &mut [u8], bytes: &mut u64) -> bool {
        for _ in 0..DATAGRAM_ROUNDS_MAX {
            let read = match self.client.read(buffer) {
                Ok(0) => return false,
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            };
            let program = &self.program;
            self.frames.split(&buffer[..read], |datagram| {
                // The first error may be that of an earlier datagram.
                let sent = program.send(datagram).or_else(|_| program.send(datagram));
                *bytes += sent.unwrap_or_default() as u64;
            });
        }
        true
    }

    /// What the program has answered. False when it does not listen any more.
    fn hand_out(&mut self, buffer: &mut [u8], bytes: &mut u64) -> bool {
        for _ in 0..DATAGRAM_ROUNDS_MAX {
            if !self.write_pending() {
                return false;
            }
            match self.program.recv(buffer) {
                // What has no room is lost, as on any network.
                Ok(_) if !self.pending.is_empty() => {}
                Ok(length) => {
                    self.pending = engine::framed(&buffer[..length]).unwrap_or_default();
                    *bytes += length as u64;
                }
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => return false,
                Err(_) => return true,
            }
        }
        self.write_pending()
    }

    fn write_pending(&mut self) -> bool {
        while !self.pending.is_empty() {
            match self.client.write(&self.pending) {
                Ok(written) => drop(self.pending.drain(..written)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
        // A client that is silent holds no buffer.
        self.pending = Vec::new();
        true
    }

    /// Waits for room as well, where an answer needs some.
    fn watch(&self, poller: &Poller, id: u32) -> bool {
        let room = match self.pending.is_empty() {
            true => EventFlags::empty(),
            false => EventFlags::OUT,
        };
        let events = CLIENT_EVENTS.union(room);
        poller.change(&self.client, Token::FramedSession(id), events).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use super::*;

    /// A relay for a program that echoes, and where the ingress connects.
    fn relay(folder: &std::path::Path) -> (FramedDatagrams, Poller, std::path::PathBuf) {
        let program = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let container_port = program.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while let Ok((bytes, from)) = program.recv_from(&mut buffer) {
                let _ = program.send_to(&buffer[..bytes], from);
            }
        });
        let path = folder.join("framed.sock");
        let socket = UnixListener::bind(&path).unwrap();
        let relay = FramedDatagrams::new(vec![Listener { container_port, socket }]);
        let poller = Poller::new().unwrap();
        relay.open(&poller).unwrap();
        (relay, poller, path)
    }

    /// Relays until `clients` have so many bytes each.
    fn answers(
        (relay, poller): (&mut FramedDatagrams, &mut Poller),
        clients: &mut [UnixStream],
        want: usize,
    ) -> Vec<Vec<u8>> {
        let mut got = vec![Vec::new(); clients.len()];
        let mut events = std::collections::VecDeque::new();
        let deadline = Instant::now() + Duration::from_secs(10);
        while got.iter().any(|one| one.len() < want) {
            assert!(Instant::now() < deadline, "no answer");
            poller.wait(Duration::from_millis(20), &mut events).unwrap();
            for (token, _) in events.drain(..) {
                match token {
                    Token::FramedPort(index) => {
                        assert!(relay.accept(poller, index, true).is_none())
                    }
                    Token::FramedSession(id) => drop(relay.pump(poller, id)),
                    other => panic!("{other:?}"),
                }
            }
            for (client, got) in clients.iter_mut().zip(&mut got) {
                client.set_nonblocking(true).unwrap();
                let mut buffer = vec![0; 1 << 16];
                while let Ok(read @ 1..) = client.read(&mut buffer) {
                    got.extend_from_slice(&buffer[..read]);
                }
            }
        }
        got
    }

    #[test]
    fn each_client_of_the_ingress_hears_its_own_answers() {
        let folder = tempfile::tempdir().unwrap();
        let (mut relay, mut poller, path) = relay(folder.path());
        let mut clients: Vec<_> = (0..4).map(|_| UnixStream::connect(&path).unwrap()).collect();
        // What the program's socket has no room for is lost: large ones come one at a time.
        for (count, size) in [(4, 0), (4, 1), (4, 9000), (1, 60_000)] {
            let clients = &mut clients[..count];
            let bytes = |client: usize| vec![client as u8; size];
            let sent: Vec<_> =
                (0..count).map(|client| engine::framed(&bytes(client)).unwrap()).collect();
            for (client, frame) in clients.iter_mut().zip(&sent) {
                client.set_nonblocking(false).unwrap();
                client.write_all(frame).unwrap();
            }
            let got = answers((&mut relay, &mut poller), clients, size + 2);
            assert!(got == sent, "datagrams of {size} bytes");
        }
        assert_eq!(relay.sessions.len(), 4);
        drop(clients);
        let mut events = std::collections::VecDeque::new();
        while !relay.sessions.is_empty() {
            poller.wait(Duration::from_secs(10), &mut events).unwrap();
            for (token, _) in events.drain(..) {
                let Token::FramedSession(id) = token else { panic!("{token:?}") };
                relay.pump(&poller, id);
            }
        }
    }

    #[test]
    fn a_connection_for_a_port_that_nothing_listens_on_ends_and_that_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("framed.sock");
        let socket = UnixListener::bind(&path).unwrap();
        let unused = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let container_port = unused.local_addr().unwrap().port();
        drop(unused);
        let mut relay = FramedDatagrams::new(vec![Listener { container_port, socket }]);
        let poller = Poller::new().unwrap();
        relay.open(&poller).unwrap();
        let told = [false, true, true].map(|tells| {
            let mut client = UnixStream::connect(&path).unwrap();
            let unheard = relay.accept(&poller, 0, tells);
            assert_eq!(client.read(&mut [0]).unwrap(), 0, "it ended");
            unheard
        });
        assert_eq!(told, [None, Some(container_port), None]);
    }
}
