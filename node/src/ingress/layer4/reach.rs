use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use net::Duplex;
use tokio::{
    net::UnixStream,
    time::{Instant, timeout},
};

use crate::ingress::{
    forward::Forwarder,
    limits::{CONNECT_TIME_MAX, LAYER4_LEFT_OUT_FOR, LAYER4_REPLICAS_TRIED_MAX},
    response_body::InFlight,
    routes::{Arrival, Number, Wanted},
    table::{PortRoute, Replica, Target},
    tunnelled,
};

/// The way to replicas.
pub(super) struct Reach {
    pub forwarder: Arc<Forwarder>,
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

impl Reach {
    pub fn new(forwarder: Arc<Forwarder>) -> Self {
        Self { forwarder, unreached: Mutex::default() }
    }

    /// A connection to one of the replicas: to the one with fewer connections of two that were
    /// drawn, and to the next where that cannot be reached.
    pub async fn connect(&self, route: &PortRoute) -> io::Result<Reached> {
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
    pub fn leave_out(&self, replica: &Replica, why: &io::Error) -> Unreached {
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
