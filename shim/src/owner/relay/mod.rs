use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    io::{self, ErrorKind},
    net::IpAddr,
    os::fd::{BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use engine::{Listeners, ListenersMessage};
use net::AddressPrefix;
use rustix::io::Errno;

use self::{
    connection::{ConnectState, Connection, ProgramStream},
    datagrams::{Datagrams, Relayed},
    framed::FramedDatagrams,
    socket::{ClientStream, Family, HostListener, connect_loopback},
};
use crate::{
    limits::{
        ACCEPTS_MAX, CONNECT_INTERVAL, CONNECTIONS_MAX, CONNECTIONS_PER_ADDRESS_MAX,
        LISTEN_TIME_MAX, LISTENING_INTERVAL, RELAY_CHUNK_BYTES, START_LISTEN_TIME_MAX,
    },
    owner::poller::{EventFlags, Poller, Token},
};

mod listening; // the ports on which the program listens
mod connection; // bytes between one client and the program
mod datagrams; // the same without connections
mod framed; // datagrams of the ingress
mod socket; // listeners and streams, TCP and Unix
mod outbound; // what the program connects to

pub(crate) use outbound::Outbound;

/// Published ports and their connections. Accepts on sockets of the host, connects on the
/// container's loopback: the process has entered the container's network namespace, and a socket
/// stays in the namespace that it was made in.
pub(crate) struct Relay {
    ports: Vec<Port>,
    datagrams: Datagrams,
    /// Where it was granted any connection to others.
    outbound: Option<Outbound>,
    framed: FramedDatagrams,
    /// Describes the listeners to the next supervisor, in the order of `ports`.
    message: ListenersMessage,
    connections: HashMap<u32, Connection>,
    next_id: u32,
    /// Connections that may have bytes to move.
    ready: VecDeque<u32>,
    /// Connections that wait for the program to listen.
    waiting: Vec<u32>,
    /// What is to be said about ports, in the log of the container.
    news: Vec<String>,
    opened_at: Instant,
    /// When it was last looked on which ports the program listens, and on which it did.
    listening: (Option<Instant>, BTreeSet<u16>),
    paused: bool,
    /// The program has ended: what it sent is still delivered, and nothing is accepted.
    draining: bool,
    buffer: Vec<u8>,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

struct Port {
    listener: HostListener,
    container_port: u16,
    /// Whether the program was ever reached on it; until then it may still be starting.
    reached: bool,
    /// Whether it was said that no program listens on it, since it was last reached.
    told: bool,
}

/// Edge-triggered: a connection is served until it has nothing to move.
const CONNECTION_EVENTS: EventFlags =
    EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);

impl Relay {
    pub(crate) fn new(listeners: Listeners, outbound: Option<Outbound>) -> Self {
        let message = listeners.message();
        let tcp = listeners.published.into_iter();
        let tcp = tcp.map(|l| (HostListener::Tcp(l.socket), l.container_port));
        let unix = listeners.ingress.into_iter();
        let unix = unix.map(|l| (HostListener::Unix(l.socket), l.container_port));
        let ports = tcp.chain(unix).map(|(listener, container_port)| Port {
            listener,
            container_port,
            reached: false,
            told: false,
        });
        Self {
            ports: ports.collect(),
            datagrams: Datagrams::new(listeners.datagrams),
            outbound,
            framed: FramedDatagrams::new(listeners.framed),
            message,
            connections: HashMap::new(),
            next_id: 0,
            ready: VecDeque::new(),
            waiting: Vec::new(),
            news: Vec::new(),
            opened_at: Instant::now(),
            listening: (None, BTreeSet::new()),
            paused: false,
            draining: false,
            buffer: vec![0; RELAY_CHUNK_BYTES],
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    /// Begins to accept. This process is in the container's network namespace by now.
    pub(crate) fn open(&self, poller: &Poller) -> io::Result<()> {
        // Where this cannot be written, a connection to itself is still detected, if later.
        let _ = socket::reserve(&self.container_ports());
        for (index, port) in self.ports.iter().enumerate() {
            rustix::io::ioctl_fionbio(port.listener.as_fd(), true)?;
            poller.add(port.listener.as_fd(), Token::Port(index as u32), EventFlags::IN)?;
        }
        if let Some(outbound) = &self.outbound {
            outbound.watch(poller)?;
        }
        self.datagrams.open(poller)?;
        self.framed.open(poller)
    }

    /// The connections that the program opens, where it may open any.
    pub(crate) fn outbound(&mut self) -> Option<&mut Outbound> {
        self.outbound.as_mut()
    }

    /// Takes a supervisor that makes these.
    pub(crate) fn set_broker(&mut self, poller: &Poller, broker: OwnedFd) {
        if let Some(outbound) = &mut self.outbound {
            outbound.set_broker(poller, broker);
        }
    }

    /// The listeners, and their sockets in that order.
    pub(crate) fn listeners(&self) -> (ListenersMessage, Vec<BorrowedFd<'_>>) {
        let sockets = self.ports.iter().map(|port| port.listener.as_fd());
        let sockets = sockets.chain(self.datagrams.sockets()).chain(self.framed.sockets());
        (self.message.clone(), sockets.collect())
    }

    pub(crate) fn container_ports(&self) -> Vec<u16> {
        let ports = self.ports.iter().map(|port| port.container_port);
        let mut ports: Vec<_> = ports.chain(self.datagrams.container_ports()).collect();
        ports.extend(self.framed.container_ports());
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// How long the event loop may sleep as far as the relay is concerned.
    pub(crate) fn timeout(&self) -> Duration {
        match (self.ready.is_empty(), self.waiting.is_empty()) {
            (false, _) => Duration::ZERO,
            (true, false) => CONNECT_INTERVAL.min(self.outbound_timeout()),
            (true, true) => self.datagrams.timeout().min(self.outbound_timeout()),
        }
    }

    fn outbound_timeout(&self) -> Duration {
        self.outbound.as_ref().and_then(Outbound::timeout).unwrap_or(Duration::MAX)
    }

    /// Accepts nothing more, and closes each connection once everything that the program sent is
    /// delivered. Later clients wait in the listener for a program that is started again.
    pub(crate) fn drain(&mut self, poller: &Poller) {
        self.draining = true;
        for port in &self.ports {
            poller.remove(port.listener.as_fd());
        }
        self.datagrams.drain(poller);
        if let Some(outbound) = &mut self.outbound {
            outbound.drain(poller);
        }
        self.framed.drain(poller);
        for id in std::mem::take(&mut self.waiting) {
            if let Some(connection) = self.connections.remove(&id) {
                connection.client.reset();
            }
        }
        self.ready = self.connections.keys().copied().collect();
    }

    /// Whether no connection is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.connections.is_empty() && self.outbound.as_ref().is_none_or(Outbound::is_empty)
    }

    /// Accepts what waits at the listener of port `index`.
    pub(crate) fn accept(&mut self, poller: &Poller, index: u32) {
        for _ in 0..ACCEPTS_MAX {
            let Some(port) = self.ports.get(index as usize) else { return };
            if self.connections.len() >= CONNECTIONS_MAX {
                // More wait in the kernel's queue until a connection ends.
                return self.watch_listeners(poller, false);
            }
            match port.listener.accept() {
                Ok((client, from)) => self.add(poller, client, from, index as usize),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.raw_os_error() == Some(Errno::MFILE.raw_os_error()) => {
                    return self.watch_listeners(poller, false);
                }
                // A client that left before it was accepted.
                Err(_) => {}
            }
        }
    }

    /// Hands on the datagrams that wait at port `index`.
    pub(crate) fn receive(&mut self, poller: &Poller, index: u32) {
        // One that comes while the program starts is lost in silence: clients of datagrams ask
        // again.
        let tells = self.opened_at.elapsed() >= START_LISTEN_TIME_MAX;
        let Relayed { bytes, unheard } = self.datagrams.receive(poller, index, tells);
        self.bytes_in += bytes;
        self.news.extend(unheard.map(listening::message_of_datagrams));
    }

    /// Hands on what the program has answered in session `id`.
    pub(crate) fn reply(&mut self, id: u32) {
        self.bytes_out += self.datagrams.reply(id).bytes;
    }

    /// Accepts connections of the ingress for datagrams, at port `index` of these.
    pub(crate) fn accept_framed(&mut self, poller: &Poller, index: u32) {
        let tells = self.opened_at.elapsed() >= START_LISTEN_TIME_MAX;
        let unheard = self.framed.accept(poller, index, tells);
        self.news.extend(unheard.map(listening::message_of_datagrams));
    }

    /// Hands on the datagrams of session `id` of the ingress.
    pub(crate) fn pump_framed(&mut self, poller: &Poller, id: u32) {
        let (bytes_in, bytes_out) = self.framed.pump(poller, id);
        self.bytes_in += bytes_in;
        self.bytes_out += bytes_out;
    }

    fn add(
        &mut self,
        poller: &Poller,
        client: ClientStream,
        from: Option<IpAddr>,
        listener: usize,
    ) {
        let prefix = from.map(AddressPrefix::from);
        if prefix.is_some_and(|prefix| self.has_its_share(prefix)) {
            return; // closed: the address has enough connections
        }
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        let watched = client
            .prepare()
            .and_then(|()| poller.add(client.as_fd(), Token::Connection(id), CONNECTION_EVENTS));
        if watched.is_ok() {
            self.connections.insert(id, Connection::new(client, prefix, listener));
            self.connect(poller, id, Family::V4);
        }
    }

    /// Whether clients of one address have as many connections as they get. Counted when one more
    /// comes: a count beside the connections could differ from them.
    fn has_its_share(&self, prefix: AddressPrefix) -> bool {
        let same = self.connections.values().filter(|other| other.prefix == Some(prefix));
        same.take(CONNECTIONS_PER_ADDRESS_MAX).count() == CONNECTIONS_PER_ADDRESS_MAX
    }

    /// Begins to connect a connection to the program.
    fn connect(&mut self, poller: &Poller, id: u32, family: Family) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let connecting = connect_loopback(family, self.ports[connection.listener].container_port);
        let watched = connecting.and_then(|stream| {
            poller.add(&stream, Token::Connection(id), CONNECTION_EVENTS).map(|()| stream)
        });
        match watched {
            Ok(stream) => {
                connection.program = ProgramStream::Connecting(stream, family);
                self.ready.push_back(id);
            }
            Err(_) => self.refused(poller, id, family),
        }
    }

    /// What is to be said in the log of the container, since it was last asked.
    pub(crate) fn news(&mut self) -> Vec<String> {
        let of_outbound = self.outbound.as_mut().map(Outbound::news).unwrap_or_default();
        self.news.extend(of_outbound);
        std::mem::take(&mut self.news)
    }

    /// Whether a connection waits for a program that may still be starting. One from the ingress
    /// does, which has chosen this replica; one from a client only where it came at the start, for
    /// clients would rather be refused at once.
    fn may_listen_soon(&mut self, id: u32) -> bool {
        let Some(connection) = self.connections.get(&id) else { return false };
        let port = &self.ports[connection.listener];
        if self.draining || port.reached || connection.accepted_at.elapsed() >= LISTEN_TIME_MAX {
            return false;
        }
        let since_start = connection.accepted_at.saturating_duration_since(self.opened_at);
        match port.listener {
            HostListener::Unix(_) => true,
            HostListener::Tcp(_) if since_start >= START_LISTEN_TIME_MAX => false,
            HostListener::Tcp(_) => {
                let number = port.container_port;
                self.opened_at.elapsed() < START_LISTEN_TIME_MAX || !self.listens_elsewhere(number)
            }
        }
    }

    /// Whether the program listens, and not on `port`: then it has started, and will not.
    fn listens_elsewhere(&mut self, port: u16) -> bool {
        if self.listening.0.is_none_or(|at| at.elapsed() >= LISTENING_INTERVAL) {
            self.listening = (Some(Instant::now()), listening::ports());
        }
        let ports = &self.listening.1;
        !ports.is_empty() && !ports.contains(&port)
    }

    /// No program listens: the client is told at once, and the log once.
    fn reset(&mut self, poller: &Poller, id: u32) {
        let Some(connection) = self.connections.get(&id) else { return };
        connection.client.reset();
        let port = &mut self.ports[connection.listener];
        if !self.draining && !std::mem::replace(&mut port.told, true) {
            self.news.push(listening::message(port.container_port, &listening::ports()));
        }
        self.close(poller, id);
    }

    /// Tries the other family, and again later while the program may still be starting.
    fn refused(&mut self, poller: &Poller, id: u32, family: Family) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.program = ProgramStream::Absent;
        let waits = matches!(family, Family::V6) && self.may_listen_soon(id);
        match family {
            Family::V4 => self.connect(poller, id, Family::V6),
            Family::V6 if waits => self.waiting.push(id),
            Family::V6 => self.reset(poller, id),
        }
    }

    /// Notes that a stream of connection `id` is ready.
    pub(crate) fn wake(&mut self, id: u32) {
        let connected = self
            .connections
            .get(&id)
            .is_some_and(|connection| !matches!(connection.program, ProgramStream::Absent));
        if connected && !self.ready.contains(&id) {
            self.ready.push_back(id);
        }
    }

    /// Tries to connect what waits, and moves bytes of each connection that is ready.
    pub(crate) fn pump(&mut self, poller: &Poller) {
        self.datagrams.sweep();
        if let Some(outbound) = &mut self.outbound {
            outbound.pump(poller, &mut self.buffer, (&mut self.bytes_in, &mut self.bytes_out));
        }
        for id in std::mem::take(&mut self.waiting) {
            self.connect(poller, id, Family::V4);
        }
        for id in std::mem::take(&mut self.ready) {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            match connection.connect_state() {
                ConnectState::Connected => {
                    let port = &mut self.ports[connection.listener];
                    (port.reached, port.told) = (true, false);
                }
                ConnectState::Pending => continue,
                ConnectState::Refused(family) => {
                    self.refused(poller, id, family);
                    continue;
                }
            }
            let (bytes_in, bytes_out) = (&mut self.bytes_in, &mut self.bytes_out);
            let more = connection.pump(&mut self.buffer, bytes_in, bytes_out);
            let inbound_finished = connection.inbound.finished || self.draining;
            match more {
                Ok(true) => self.ready.push_back(id),
                Ok(false) if !(connection.outbound.finished && inbound_finished) => {}
                Ok(false) | Err(_) => self.close(poller, id),
            }
        }
    }

    fn close(&mut self, poller: &Poller, id: u32) {
        // Its descriptors leave the poller as they are closed.
        self.connections.remove(&id);
        if self.paused && !self.draining && self.connections.len() < CONNECTIONS_MAX {
            self.watch_listeners(poller, true);
        }
    }

    fn watch_listeners(&mut self, poller: &Poller, watch: bool) {
        self.paused = !watch;
        let interest = if watch { EventFlags::IN } else { EventFlags::empty() };
        for (index, port) in self.ports.iter().enumerate() {
            let _ = poller.change(port.listener.as_fd(), Token::Port(index as u32), interest);
        }
    }
}
