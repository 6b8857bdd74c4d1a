use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use net::{ConnectionLimits, Connections, Duplex, Tunnel};
use spec::{Port, Transport};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream, UnixStream},
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, timeout},
};

use super::{
    datagrams::{self, DatagramLimits},
    header::proxy_header,
    reserved::ReservedPorts,
};
use crate::ingress::{
    forward::Forwarder,
    limits::{
        CONNECT_TIME_MAX, LAYER4_CONNECTIONS_MAX, LAYER4_CONNECTIONS_PER_ADDRESS_MAX,
        LAYER4_IDLE_TIME_MAX, LAYER4_LEFT_OUT_FOR, LAYER4_LOOK_EVERY, LAYER4_REPLICAS_TRIED_MAX,
    },
    response_body::InFlight,
    routes::{Arrival, Number, Wanted},
    table::{PortRoute, Replica, Target},
    tunnelled,
};

/// The connections of clients to ports of services.
pub(in crate::ingress) struct Streams {
    ports: ReservedPorts,
    pub(super) forwarder: Arc<Forwarder>,
    connections: Connections,
    limits: ConnectionLimits,
    pub(super) datagrams: DatagramLimits,
    /// What could not be reached a moment ago.
    unreached: Mutex<HashMap<Unreached, Instant>>,
}

/// A replica that a connection leads to.
pub(super) struct Reached {
    pub replica: Arc<Replica>,
    pub stream: Box<dyn Duplex>,
    pub in_flight: InFlight,
}

/// A replica, or the ingress of a node with all that are behind it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Unreached {
    Replica(Arc<str>),
    Ingress(Target),
}

impl Unreached {
    /// What an error of a connection to `replica` says.
    fn of(replica: &Replica, error: &io::Error) -> Self {
        match &replica.target {
            Target::Peer { .. } if error.kind() != io::ErrorKind::NotFound => {
                Self::Ingress(replica.target.clone())
            }
            Target::Peer { .. } | Target::Local(_) => Self::Replica(replica.name.clone()),
        }
    }

    fn is_about(&self, replica: &Replica) -> bool {
        match self {
            Self::Replica(name) => *name == replica.name,
            Self::Ingress(target) => *target == replica.target,
        }
    }
}

impl Streams {
    pub fn new(
        ports: ReservedPorts,
        forwarder: Arc<Forwarder>,
        connections: Connections,
        share: impl Fn(usize) -> usize,
    ) -> Arc<Self> {
        let limits = ConnectionLimits::new(
            share(LAYER4_CONNECTIONS_MAX),
            share(LAYER4_CONNECTIONS_PER_ADDRESS_MAX),
        );
        let unreached = Mutex::default();
        let datagrams = DatagramLimits::new(share);
        Arc::new(Self { ports, forwarder, connections, limits, datagrams, unreached })
    }

    /// Listens on the ports that services have, as long as they have them.
    pub async fn keep_up(self: &Arc<Self>) -> Infallible {
        let mut serving: BTreeMap<Port, AbortHandle> = BTreeMap::new();
        let mut tasks = JoinSet::new();
        loop {
            let wanted = self.forwarder.routes.ports();
            let gone = serving.extract_if(.., |port, _| !wanted.contains(port));
            for (port, task) in gone {
                task.abort();
                match port.transport {
                    Transport::Tcp => self.ports.close(port.number),
                    Transport::Udp => self.ports.refuse_datagrams(port.number),
                }
                tracing::info!(%port, "no service has this port any more");
            }
            for port in wanted {
                if serving.contains_key(&port) {
                    continue;
                }
                match self.serve(port, &mut tasks) {
                    Ok(Some(task)) => {
                        tracing::info!(%port, "listens for a service");
                        serving.insert(port, task);
                    }
                    Ok(None) => {} // not set aside on this node
                    Err(error) => tracing::warn!(%port, %error, "cannot listen for a service"),
                }
            }
            while tasks.try_join_next().is_some() {}
            sleep(LAYER4_LOOK_EVERY).await;
        }
    }

    /// Begins to serve `port`, if it is one of those that were set aside.
    fn serve(
        self: &Arc<Self>,
        port: Port,
        tasks: &mut JoinSet<Infallible>,
    ) -> io::Result<Option<AbortHandle>> {
        let streams = self.clone();
        Ok(match port.transport {
            Transport::Tcp => self
                .ports
                .listen(port.number)?
                .map(|listener| tasks.spawn(async move { streams.accept(port, listener).await })),
            Transport::Udp => self
                .ports
                .receive(port.number)?
                .map(|socket| tasks.spawn(datagrams::relay(streams, port, socket))),
        })
    }

    async fn accept(self: &Arc<Self>, port: Port, listener: TcpListener) -> Infallible {
        let accepted = |client: TcpStream, from: Option<IpAddr>, permit| {
            let streams = self.clone();
            async move {
                let closing = streams.connections.closing();
                if let Some(from) = from
                    && let Some(Err(error)) =
                        closing.run_until_cancelled(streams.relay(port, client, from)).await
                {
                    tracing::debug!(%port, %from, %error, "closed");
                }
                drop(permit);
            }
        };
        self.connections.accept(&listener, &self.limits, accepted).await
    }

    /// One connection, to its end.
    async fn relay(&self, port: Port, client: TcpStream, from: IpAddr) -> io::Result<()> {
        let refused = |why| io::Error::new(io::ErrorKind::ConnectionRefused, why);
        let route = self.forwarder.routes.port(port);
        let route = route.ok_or_else(|| refused("no service has this port"))?;
        if !route.listener.admits(from) {
            return Err(refused("its address may not use this port"));
        }
        let permit = route.service.upgrades.clone().try_acquire_owned();
        let permit = permit.map_err(|_| refused("the port has as many connections as it may"))?;
        client.set_nodelay(true)?;
        let Reached { stream: mut replica, in_flight, .. } = self.connect(&route).await?;
        if route.listener.proxy_protocol {
            let header = proxy_header(client.peer_addr()?, client.local_addr()?);
            replica.write_all(&header).await?;
        }
        let idle = route.listener.idle_seconds_max;
        let idle = idle.map_or(LAYER4_IDLE_TIME_MAX, |idle| Duration::from_secs(idle.into()));
        Tunnel::new(replica, idle, (in_flight, permit)).run(&[], client).await;
        Ok(())
    }

    /// A connection to one of the replicas: to the one with fewer connections of two that were
    /// drawn, and to the next where that cannot be reached.
    pub(super) async fn connect(&self, route: &PortRoute) -> io::Result<Reached> {
        let wanted = Wanted {
            host: &route.service.host,
            path: "/",
            arrival: &Arrival::Client,
            replica: None,
        };
        let routes = &self.forwarder.routes;
        let replicas = routes.candidates(&route.service, wanted, &mut Number::default());
        let mut replicas = replicas.unwrap_or_default();
        self.put_last_what_was_not_reached(&mut replicas);
        let mut failed = io::Error::new(io::ErrorKind::NotConnected, "no replica is ready");
        let mut tried: Vec<Unreached> = Vec::new();
        for replica in &replicas {
            if tried.len() >= LAYER4_REPLICAS_TRIED_MAX {
                break;
            }
            if tried.iter().any(|unreached| unreached.is_about(replica)) {
                continue;
            }
            let in_flight = InFlight::with(&replica.in_flight);
            failed = match timeout(CONNECT_TIME_MAX, self.reach(replica)).await {
                Ok(Ok(stream)) => {
                    return Ok(Reached { replica: replica.clone(), stream, in_flight });
                }
                Ok(Err(error)) => error,
                Err(_) => io::Error::new(io::ErrorKind::TimedOut, "no answer in time"),
            };
            tracing::debug!(task = %replica.task, error = %failed, "a replica was not reached");
            tried.push(self.leave_out(replica, &failed));
        }
        Err(failed)
    }

    /// Tries others first for a while.
    pub(super) fn leave_out(&self, replica: &Replica, why: &io::Error) -> Unreached {
        let unreached = Unreached::of(replica, why);
        self.unreached().insert(unreached.clone(), Instant::now());
        unreached
    }

    /// A client waits for a frozen node once, and others are not sent there for a while.
    fn put_last_what_was_not_reached(&self, replicas: &mut [Arc<Replica>]) {
        let mut unreached = self.unreached();
        if unreached.is_empty() {
            return;
        }
        unreached.retain(|_, at| at.elapsed() < LAYER4_LEFT_OUT_FOR);
        replicas.sort_by_key(|replica| unreached.keys().any(|known| known.is_about(replica)));
    }

    fn unreached(&self) -> MutexGuard<'_, HashMap<Unreached, Instant>> {
        self.unreached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn reach(&self, replica: &Replica) -> io::Result<Box<dyn Duplex>> {
        match &replica.target {
            Target::Local(path) => Ok(Box::new(UnixStream::connect(path).await?)),
            Target::Peer { .. } => {
                let addresses = self.forwarder.routes.addresses();
                let lease = self.forwarder.upstream.fresh(replica, &addresses).await?;
                tunnelled::ask(lease, &replica.name).await
            }
        }
    }
}
