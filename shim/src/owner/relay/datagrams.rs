//! Datagrams of published ports. Each client has a session: a socket of its own towards the
//! program, so that answers find their way back to it.

use std::{
    collections::HashMap,
    io::ErrorKind,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use engine::Listener;

use super::{listening, socket::Family};
use crate::{
    limits::{
        DATAGRAM_BYTES_MAX, DATAGRAM_ROUNDS_MAX, SESSION_IDLE_TIME_MAX, SESSION_SWEEP_INTERVAL,
        SESSIONS_MAX,
    },
    owner::poller::{EventFlags, Poller, Token},
};

pub(super) struct Datagrams {
    ports: Vec<Port>,
    sessions: HashMap<u32, Session>,
    /// The session of each client of each port.
    clients: HashMap<Client, u32>,
    next_id: u32,
    swept_at: Instant,
    buffer: Vec<u8>,
}

struct Port {
    socket: UdpSocket,
    container_port: u16,
    /// Whether it was said that no program listens on it, since one last did.
    told: bool,
}

/// The number of a port, and an address.
type Client = (usize, SocketAddr);

struct Session {
    client: Client,
    program: UdpSocket,
    used: Instant,
}

/// Bytes that were relayed, and the port on which no program listens, if that is news.
#[derive(Debug, Default)]
pub(super) struct Relayed {
    pub bytes: u64,
    pub unheard: Option<u16>,
}

impl Datagrams {
    pub fn new(listeners: Vec<Listener<UdpSocket>>) -> Self {
        let ports = listeners.into_iter().map(|listener| Port {
            socket: listener.socket,
            container_port: listener.container_port,
            told: false,
        });
        Self {
            ports: ports.collect(),
            sessions: HashMap::new(),
            clients: HashMap::new(),
            next_id: 0,
            swept_at: Instant::now(),
            buffer: vec![0; DATAGRAM_BYTES_MAX],
        }
    }

    /// Begins to receive. This process is in the container's network namespace by now.
    pub fn open(&self, poller: &Poller) -> std::io::Result<()> {
        for (index, port) in self.ports.iter().enumerate() {
            port.socket.set_nonblocking(true)?;
            poller.add(&port.socket, Token::Datagrams(index as u32), EventFlags::IN)?;
        }
        Ok(())
    }

    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.ports.iter().map(|port| port.socket.as_fd())
    }

    pub fn container_ports(&self) -> impl Iterator<Item = u16> {
        self.ports.iter().map(|port| port.container_port)
    }

    /// Receives nothing more. What comes later waits in the socket for the next start.
    pub fn drain(&mut self, poller: &Poller) {
        for port in &self.ports {
            poller.remove(&port.socket);
        }
        self.clients.clear();
        self.sessions.clear();
    }

    /// Until sessions are swept again.
    pub fn timeout(&self) -> Duration {
        match self.sessions.is_empty() {
            true => Duration::MAX,
            false => SESSION_SWEEP_INTERVAL.saturating_sub(self.swept_at.elapsed()),
        }
    }

    /// Ends the sessions of clients that have been silent, and were not answered, for long.
    pub fn sweep(&mut self) {
        if self.swept_at.elapsed() < SESSION_SWEEP_INTERVAL {
            return;
        }
        self.swept_at = Instant::now();
        self.sessions.retain(|_, session| session.used.elapsed() < SESSION_IDLE_TIME_MAX);
        self.clients.retain(|_, id| self.sessions.contains_key(id));
    }

    /// Hands on what waits at port `index`. That no program listens is said where it `tells`.
    pub fn receive(&mut self, poller: &Poller, index: u32, tells: bool) -> Relayed {
        let (index, mut relayed) = (index as usize, Relayed::default());
        for _ in 0..DATAGRAM_ROUNDS_MAX {
            let Some(port) = self.ports.get(index) else { break };
            // Another error is of one datagram, and the next call is of the next one.
            let Ok((bytes, from)) = port.socket.recv_from(&mut self.buffer) else { break };
            let Some(id) = self.session(poller, (index, from)) else {
                let port = &mut self.ports[index];
                if tells && !std::mem::replace(&mut port.told, true) {
                    relayed.unheard = Some(port.container_port);
                }
                continue;
            };
            if let Some(session) = self.sessions.get_mut(&id) {
                session.used = Instant::now();
                let datagram = &self.buffer[..bytes];
                // The first error may be that of an earlier datagram.
                let sent =
                    session.program.send(datagram).or_else(|_| session.program.send(datagram));
                relayed.bytes += sent.unwrap_or_default() as u64;
            }
        }
        relayed
    }

    /// Hands the client of session `id` what the program has answered.
    pub fn reply(&mut self, id: u32) -> Relayed {
        let mut relayed = Relayed::default();
        for _ in 0..DATAGRAM_ROUNDS_MAX {
            let Some(session) = self.sessions.get_mut(&id) else { break };
            match session.program.recv(&mut self.buffer) {
                Ok(bytes) => {
                    session.used = Instant::now();
                    let (index, to) = session.client;
                    // What has no room is lost, as on any network.
                    let sent = self.ports[index].socket.send_to(&self.buffer[..bytes], to);
                    relayed.bytes += sent.unwrap_or_default() as u64;
                }
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    // The program does not listen any more: the next datagram looks again.
                    let client = session.client;
                    self.clients.remove(&client);
                    self.sessions.remove(&id);
                }
                Err(_) => break,
            }
        }
        relayed
    }

    /// The session of a client; `None` when no program listens on the port.
    fn session(&mut self, poller: &Poller, client: Client) -> Option<u32> {
        if let Some(id) = self.clients.get(&client) {
            return Some(*id);
        }
        let port = &mut self.ports[client.0];
        let program = connect(listening::datagrams(port.container_port)?, port.container_port)?;
        port.told = false;
        if self.sessions.len() >= SESSIONS_MAX {
            self.end_the_oldest();
        }
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        poller.add(&program, Token::Session(id), EventFlags::IN).ok()?;
        self.sessions.insert(id, Session { client, program, used: Instant::now() });
        self.clients.insert(client, id);
        Some(id)
    }

    /// Makes room: a client that comes back gets a new session.
    fn end_the_oldest(&mut self) {
        let oldest = self.sessions.iter().min_by_key(|(_, session)| session.used);
        if let Some(id) = oldest.map(|(id, _)| *id)
            && let Some(session) = self.sessions.remove(&id)
        {
            self.clients.remove(&session.client);
        }
    }
}

/// A socket towards `port` on the container's own loopback, in the family in which it is listened
/// on.
pub(super) fn connect(family: Family, port: u16) -> Option<UdpSocket> {
    let (own, program) = match family {
        Family::V4 => (
            SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        ),
        Family::V6 => (
            SocketAddr::from((Ipv6Addr::LOCALHOST, 0)),
            SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
        ),
    };
    let socket = UdpSocket::bind(own).ok()?;
    socket.set_nonblocking(true).and_then(|()| socket.connect(program)).ok()?;
    Some(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay() -> (Datagrams, Poller, SocketAddr) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        let program = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let container_port = program.local_addr().unwrap().port();
        // The program echoes, on a thread that ends with the test's process.
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((bytes, from)) = program.recv_from(&mut buffer) {
                let _ = program.send_to(&buffer[..bytes], from);
            }
        });
        let datagrams = Datagrams::new(vec![Listener { container_port, socket }]);
        let poller = Poller::new().unwrap();
        datagrams.open(&poller).unwrap();
        (datagrams, poller, address)
    }

    fn client(to: SocketAddr) -> UdpSocket {
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        client.connect(to).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        client
    }

    /// Relays until `client` has an answer.
    fn answer(datagrams: &mut Datagrams, poller: &mut Poller, client: &UdpSocket) -> Vec<u8> {
        let mut events = std::collections::VecDeque::new();
        client.set_nonblocking(true).unwrap();
        let mut buffer = [0; 2048];
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Ok(bytes) = client.recv(&mut buffer) {
                return buffer[..bytes].to_vec();
            }
            assert!(Instant::now() < deadline, "no answer");
            poller.wait(Duration::from_millis(20), &mut events).unwrap();
            for (token, _) in events.drain(..) {
                match token {
                    Token::Datagrams(index) => drop(datagrams.receive(poller, index, true)),
                    Token::Session(id) => drop(datagrams.reply(id)),
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[test]
    fn each_client_hears_its_own_answer() {
        let (mut datagrams, mut poller, address) = relay();
        let clients: Vec<_> = (0..8).map(|_| client(address)).collect();
        for round in 0..3u8 {
            for (number, client) in clients.iter().enumerate() {
                client.send(&[number as u8, round]).unwrap();
            }
            for (number, client) in clients.iter().enumerate() {
                let got = answer(&mut datagrams, &mut poller, client);
                assert_eq!(got, [number as u8, round]);
            }
        }
        assert_eq!(datagrams.sessions.len(), 8, "one for each, however often it asks");
        // A silent client's session ends.
        let long_ago = Instant::now().checked_sub(SESSION_IDLE_TIME_MAX).unwrap();
        datagrams.sessions.values_mut().take(5).for_each(|session| session.used = long_ago);
        datagrams.swept_at = long_ago;
        datagrams.sweep();
        assert_eq!((datagrams.sessions.len(), datagrams.clients.len()), (3, 3));
        for client in &clients {
            client.send(b"again").unwrap();
            assert_eq!(answer(&mut datagrams, &mut poller, client), b"again");
        }
    }

    #[test]
    fn sessions_have_a_limit_and_the_one_that_was_used_last_stays() {
        let (mut datagrams, poller, address) = relay();
        let port = address.port();
        let from = |number: usize| -> Client {
            (0, SocketAddr::from(([127, 0, (number >> 8) as u8, number as u8], port)))
        };
        for number in 0..SESSIONS_MAX + 10 {
            assert!(datagrams.session(&poller, from(number)).is_some());
        }
        assert_eq!(
            (datagrams.sessions.len(), datagrams.clients.len()),
            (SESSIONS_MAX, SESSIONS_MAX)
        );
        assert!(!datagrams.clients.contains_key(&from(0)));
        assert!(datagrams.clients.contains_key(&from(SESSIONS_MAX + 9)));
    }

    #[test]
    fn a_datagram_for_a_port_that_nothing_listens_on_is_told_once() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        let unused =
            UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let mut datagrams = Datagrams::new(vec![Listener { container_port: unused, socket }]);
        let poller = Poller::new().unwrap();
        datagrams.open(&poller).unwrap();
        let client = client(address);
        let told = [false, true, true].map(|tells| {
            client.send(b"x").unwrap();
            datagrams.receive(&poller, 0, tells).unheard
        });
        assert_eq!(told, [None, Some(unused), None]);
    }
}
