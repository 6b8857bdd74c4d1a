//! What a container connects to: names and addresses that it was granted, over sockets that a
//! supervisor connects and hands over. What was not granted has no address, and what no supervisor
//! connects stays unconnected.

mod netlink; // devices, addresses and routes
mod gateway; // the network namespace that is the way out
mod dns; // names, and the addresses that stand for them

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use engine::frame;
use rustix::io::Errno;
use spec::{Host, OutboundGrant};

use self::{
    dns::{A, AAAA, Answer, Names, Question},
    gateway::Gateway,
};
use super::{connection::Direction, socket::ClientStream};
use crate::{
    limits::{
        ACCEPTS_MAX, BROKER_TIME_MAX, DATAGRAM_ROUNDS_MAX, NAME_MESSAGE_BYTES_MAX, OUTBOUND_MAX,
        OUTBOUND_TOLD_MAX,
    },
    owner::poller::{EventFlags, Poller, Token},
    protocol::{Brokered, Wanted},
};

/// The connections that a container opens.
pub(crate) struct Outbound {
    grants: Vec<OutboundGrant>,
    listeners: Vec<Listener>,
    /// Where anything is granted.
    resolver: Option<UdpSocket>,
    names: Names,
    /// The supervisor that connects.
    broker: Option<OwnedFd>,
    connections: HashMap<u32, Connection>,
    next_id: u32,
    ready: VecDeque<u32>,
    paused: bool,
    draining: bool,
    /// What was said already.
    told: BTreeSet<String>,
    news: Vec<String>,
}

/// Where connections of the program come in.
struct Listener {
    socket: TcpListener,
    port: u16,
    /// Whether it is the port of another container of the task, on the program's own loopback.
    is_local: bool,
}

/// One connection, and its counterpart outside.
struct Connection {
    program: ClientStream,
    /// Not there yet while the broker connects.
    remote: Option<ClientStream>,
    host: String,
    port: u16,
    accepted_at: Instant,
    /// Whether the broker that is there was asked.
    asked: bool,
    inbound: Direction,
    outbound: Direction,
}

const CONNECTION_EVENTS: EventFlags =
    EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);

impl Outbound {
    /// Makes the way out of the network namespace `network`, which belongs to the user namespace
    /// `user`, where anything is granted.
    pub(crate) fn open(
        user: impl AsFd,
        network: impl AsFd,
        grants: Vec<OutboundGrant>,
    ) -> io::Result<Self> {
        let ports: BTreeSet<u16> = grants.iter().map(|grant| grant.port).collect();
        let ports: Vec<u16> = ports.into_iter().collect();
        let gateway = match ports.is_empty() {
            true => None,
            false => Some(Gateway::open(user, network, &ports)?),
        };
        let (listeners, resolver) = gateway.map(|it| (it.listeners, it.names)).unzip();
        let listeners = listeners.into_iter().flatten().zip(ports);
        let listeners = listeners.map(|(socket, port)| Listener { socket, port, is_local: false });
        Ok(Self {
            grants,
            listeners: listeners.collect(),
            resolver,
            names: Names::default(),
            broker: None,
            connections: HashMap::new(),
            next_id: 0,
            ready: VecDeque::new(),
            paused: false,
            draining: false,
            told: BTreeSet::new(),
            news: Vec::new(),
        })
    }

    /// Listens on ports of the other containers of the task. This process is in the container's
    /// network namespace by now.
    pub(crate) fn listen_locally(&mut self, ports: &[u16]) -> io::Result<()> {
        for port in ports {
            let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, *port))?;
            self.listeners.push(Listener { socket, port: *port, is_local: true });
        }
        Ok(())
    }

    /// Begins to accept and to answer.
    pub fn watch(&self, poller: &Poller) -> io::Result<()> {
        for (index, Listener { socket, .. }) in self.listeners.iter().enumerate() {
            socket.set_nonblocking(true)?;
            poller.add(socket, Token::Outbound(index as u32), EventFlags::IN)?;
        }
        let Some(resolver) = &self.resolver else { return Ok(()) };
        resolver.set_nonblocking(true)?;
        poller.add(resolver, Token::Resolver, EventFlags::IN)
    }

    /// Takes a supervisor that connects from now on, in the place of the one before.
    pub fn set_broker(&mut self, poller: &Poller, broker: OwnedFd) {
        // It is watched already, as the connection of a request.
        let watched = rustix::io::ioctl_fionbio(&broker, true)
            .map_err(io::Error::from)
            .and_then(|()| poller.change(&broker, Token::Broker, EventFlags::IN));
        if watched.is_err() {
            return;
        }
        if let Some(before) = self.broker.replace(broker) {
            poller.remove(&before);
        }
        for connection in self.connections.values_mut() {
            connection.asked = false;
        }
        self.ask();
    }

    /// Takes what the supervisor says.
    pub fn hear(&mut self, poller: &Poller) {
        loop {
            let Some(broker) = &self.broker else { return };
            match frame::receive::<Brokered>(broker) {
                Ok(Some((Brokered { id, refused: None }, fds))) => {
                    let remote = fds.into_iter().next().and_then(|fd| ClientStream::of(fd).ok());
                    self.connected(poller, id, remote);
                }
                Ok(Some((Brokered { id, refused: Some(why) }, _))) => {
                    self.tell(why);
                    self.refuse(poller, id);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // Another one comes, or none does in time.
                Ok(None) | Err(_) => {
                    poller.remove(broker);
                    self.broker = None;
                    return;
                }
            }
        }
    }

    /// Answers the questions of a resolver.
    pub fn resolve(&mut self) {
        let mut buffer = [0; NAME_MESSAGE_BYTES_MAX];
        for _ in 0..DATAGRAM_ROUNDS_MAX {
            let received = self.resolver.as_ref().map(|resolver| resolver.recv_from(&mut buffer));
            let Some(Ok((length, from))) = received else { return };
            let message = &buffer[..length];
            let Some(question) = Question::read(message) else { continue };
            let answer = self.answer(&question);
            // One that is lost is asked for again.
            let response = question.answered(message, answer);
            let _ = self.resolver.as_ref().map(|resolver| resolver.send_to(&response, from));
        }
    }

    fn answer(&mut self, question: &Question) -> Answer {
        let host = Host::Name(question.name.clone());
        if !self.grants.iter().any(|grant| grant.host.includes(&host)) {
            if matches!(question.kind, A | AAAA) {
                self.deny(&format!("net.out:http://{}:80", question.name));
            }
            return Answer::NoSuchName;
        }
        match question.kind {
            A => self.names.address(&question.name).map_or(Answer::Failed, Answer::Address),
            _ => Answer::Nothing,
        }
    }

    /// Accepts what waits at the listener `index`.
    pub fn accept(&mut self, poller: &Poller, index: u32) {
        for _ in 0..ACCEPTS_MAX {
            let Some(listener) = self.listeners.get(index as usize) else { return };
            if self.connections.len() >= OUTBOUND_MAX {
                self.tell(format!(
                    "margay: {OUTBOUND_MAX} connections to others are open, which is the most \
                     that one container has: more wait"
                ));
                return self.watch_listeners(poller, false);
            }
            match listener.socket.accept() {
                Ok((program, _)) => {
                    let (port, is_local) = (listener.port, listener.is_local);
                    self.add(poller, ClientStream::Tcp(program), port, is_local);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.raw_os_error() == Some(Errno::MFILE.raw_os_error()) => {
                    return self.watch_listeners(poller, false);
                }
                Err(_) => {}
            }
        }
    }

    fn add(&mut self, poller: &Poller, program: ClientStream, port: u16, is_local: bool) {
        let Some(IpAddr::V4(address)) = program.local_address() else { return };
        let (host, text) = match self.names.name(address) {
            Some(name) => (Host::Name(name.to_owned()), name.to_owned()),
            None => (Host::Address(address.into()), address.to_string()),
        };
        let mut granted = self.grants.iter().filter(|grant| grant.port == port);
        if !is_local && !granted.any(|grant| grant.host.includes(&host)) {
            self.deny(&format!("net.out:http://{text}:{port}"));
            return program.reset();
        }
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        let token = Token::OutboundConnection(id);
        let watched =
            program.prepare().and_then(|()| poller.add(program.as_fd(), token, CONNECTION_EVENTS));
        if watched.is_ok() {
            let connection = Connection {
                program,
                remote: None,
                host: text,
                port,
                accepted_at: Instant::now(),
                asked: false,
                inbound: Direction::default(),
                outbound: Direction::default(),
            };
            self.connections.insert(id, connection);
            self.ask();
        }
    }

    /// Asks the supervisor for what it was not asked for.
    fn ask(&mut self) {
        let Some(broker) = &self.broker else { return };
        for (id, connection) in &mut self.connections {
            if connection.asked || connection.remote.is_some() {
                continue;
            }
            let (host, port) = (connection.host.clone(), connection.port);
            match frame::send(broker, &Wanted { id: *id, host, port }, &[]) {
                Ok(()) => connection.asked = true,
                Err(_) => return, // it is asked again soon
            }
        }
    }

    fn connected(&mut self, poller: &Poller, id: u32, remote: Option<ClientStream>) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let watched = remote.and_then(|remote| {
            let token = Token::OutboundConnection(id);
            remote.prepare().ok()?;
            poller.add(remote.as_fd(), token, CONNECTION_EVENTS).ok()?;
            Some(remote)
        });
        match watched {
            Some(remote) => {
                connection.remote = Some(remote);
                self.ready.push_back(id);
            }
            None => self.refuse(poller, id),
        }
    }

    /// The program is told by a reset.
    fn refuse(&mut self, poller: &Poller, id: u32) {
        if let Some(connection) = self.connections.get(&id) {
            connection.program.reset();
            self.close(poller, id);
        }
    }

    /// Notes that a stream of connection `id` is ready.
    pub fn wake(&mut self, id: u32) {
        let is_connected = self.connections.get(&id).is_some_and(|one| one.remote.is_some());
        if is_connected && !self.ready.contains(&id) {
            self.ready.push_back(id);
        }
    }

    /// Moves bytes of each connection that is ready.
    pub fn pump(&mut self, poller: &Poller, buffer: &mut [u8], (bytes_in, bytes_out): Bytes<'_>) {
        self.ask();
        self.give_up(poller);
        for id in std::mem::take(&mut self.ready) {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            let more = connection.pump(buffer, bytes_in, bytes_out);
            let inbound_finished = connection.inbound.finished || self.draining;
            match more {
                Ok(true) => self.ready.push_back(id),
                Ok(false) if !(connection.outbound.finished && inbound_finished) => {}
                Ok(false) => self.close(poller, id),
                Err(_) => self.refuse(poller, id),
            }
        }
    }

    /// Ends connections that no supervisor has connected in time.
    fn give_up(&mut self, poller: &Poller) {
        let is_late =
            |one: &Connection| one.remote.is_none() && one.accepted_at.elapsed() >= BROKER_TIME_MAX;
        let late = self.connections.iter().filter(|(_, one)| is_late(one));
        let late: Vec<u32> = late.map(|(id, _)| *id).collect();
        for id in late {
            self.tell("margay: no agent is there to connect this task to others".to_owned());
            self.refuse(poller, id);
        }
    }

    /// How long the event loop may sleep as far as these are concerned.
    pub fn timeout(&self) -> Option<Duration> {
        if !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        let waits = self.connections.values().any(|one| one.remote.is_none());
        waits.then_some(ASK_INTERVAL)
    }

    /// Accepts nothing more, and closes each connection once what the program sent is delivered.
    pub fn drain(&mut self, poller: &Poller) {
        self.draining = true;
        for listener in &self.listeners {
            poller.remove(&listener.socket);
        }
        self.resolver.iter().for_each(|resolver| poller.remove(resolver));
        self.connections.retain(|_, connection| connection.remote.is_some());
        self.ready = self.connections.keys().copied().collect();
    }

    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// What is to be said in the log of the container, since it was last asked.
    pub fn news(&mut self) -> Vec<String> {
        std::mem::take(&mut self.news)
    }

    fn deny(&mut self, line: &str) {
        self.tell(format!("margay: denied {line} (1x); grant it: --allow {line}"));
    }

    /// Says it once.
    fn tell(&mut self, text: String) {
        if self.told.len() < OUTBOUND_TOLD_MAX && self.told.insert(text.clone()) {
            self.news.push(text);
        }
    }

    fn close(&mut self, poller: &Poller, id: u32) {
        self.connections.remove(&id);
        if self.paused && !self.draining && self.connections.len() < OUTBOUND_MAX {
            self.watch_listeners(poller, true);
        }
    }

    fn watch_listeners(&mut self, poller: &Poller, watch: bool) {
        self.paused = !watch;
        let interest = if watch { EventFlags::IN } else { EventFlags::empty() };
        for (index, listener) in self.listeners.iter().enumerate() {
            let _ = poller.change(&listener.socket, Token::Outbound(index as u32), interest);
        }
    }
}

/// What was received and what was sent.
type Bytes<'a> = (&'a mut u64, &'a mut u64);

/// Between two looks at connections that wait for a supervisor.
const ASK_INTERVAL: Duration = Duration::from_millis(100);

impl Connection {
    /// Moves bytes both ways until neither can move. True when it stopped only to let other
    /// connections move theirs.
    fn pump(
        &mut self,
        buffer: &mut [u8],
        bytes_in: &mut u64,
        bytes_out: &mut u64,
    ) -> io::Result<bool> {
        let Some(remote) = &mut self.remote else { return Ok(false) };
        let outbound = self.outbound.pump(&mut self.program, remote, buffer, bytes_out)?;
        if self.outbound.finish() {
            // The other side may have closed already; the other direction will tell.
            let _ = remote.shutdown_write();
        }
        let inbound = self.inbound.pump(remote, &mut self.program, buffer, bytes_in)?;
        if self.inbound.finish() {
            let _ = self.program.shutdown_write();
        }
        Ok(inbound || outbound)
    }
}
