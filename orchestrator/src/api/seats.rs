//! Who may hold how many connections, and who asks registries when: so that nobody takes what
//! others need.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::StatusCode;
use spec::{NodeId, Tenant};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::error::Refusal;

/// Of the operator's own socket: people and scripts.
const SOCKETS_MAX: usize = 256;
/// TLS handshakes under way, and those from one address: each may take five seconds to come to
/// nothing.
const HANDSHAKES_MAX: usize = 512;
const HANDSHAKES_OF_ONE_MAX: usize = 128;
/// Without the certificate of a node: tenants' clients, nodes that join, and whoever else finds the
/// port.
const STRANGERS_MAX: usize = 1024;
const STRANGERS_OF_ONE_MAX: usize = 256;
/// With one: each holds one for its long poll and one for its reports. One node, which a tenant may
/// own, cannot take all.
const NODES_MAX: usize = 4096;
const NODES_OF_ONE_MAX: usize = 16;
/// Descriptors for all of these, the store, the registry and the log.
pub(crate) const DESCRIPTORS_MIN: u64 =
    (SOCKETS_MAX + HANDSHAKES_MAX + STRANGERS_MAX + NODES_MAX + 256) as u64;

/// Connections at one time, by who is at the other end.
pub(crate) struct Seats {
    sockets: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    nodes: Arc<Semaphore>,
    shaking: Tally<IpAddr>,
    strange: Tally<IpAddr>,
    known: Tally<NodeId>,
}

/// A connection's right to be there, until it is dropped.
pub(crate) struct Seat {
    _permit: OwnedSemaphorePermit,
    _counted: Option<Box<dyn Send>>,
}

impl Seats {
    pub fn new() -> Self {
        let of = |max| Arc::new(Semaphore::new(max));
        Self {
            sockets: of(SOCKETS_MAX),
            handshakes: of(HANDSHAKES_MAX),
            strangers: of(STRANGERS_MAX),
            nodes: of(NODES_MAX),
            shaking: Tally::default(),
            strange: Tally::default(),
            known: Tally::default(),
        }
    }

    /// For the next one through the socket, as soon as there is one.
    pub async fn socket(&self) -> Seat {
        Seat {
            _permit: self.sockets.clone().acquire_owned().await.expect("it is never closed"),
            _counted: None,
        }
    }

    /// For the next handshake, as soon as there is one.
    pub async fn handshake(&self) -> OwnedSemaphorePermit {
        self.handshakes.clone().acquire_owned().await.expect("it is never closed")
    }

    /// The same, now that it is known where it comes from; nothing when too many do.
    pub fn shake(&self, permit: OwnedSemaphorePermit, from: IpAddr) -> Option<Seat> {
        Some(Seat {
            _permit: permit,
            _counted: Some(Box::new(self.shaking.enter(from, HANDSHAKES_OF_ONE_MAX)?)),
        })
    }

    /// After the handshake, by what it showed. Nobody waits: a client that is sent away comes
    /// again.
    pub fn sit(&self, node: Option<NodeId>, from: IpAddr) -> Option<Seat> {
        let (all, counted): (_, Box<dyn Send>) = match node {
            Some(node) => (&self.nodes, Box::new(self.known.enter(node, NODES_OF_ONE_MAX)?)),
            None => (&self.strangers, Box::new(self.strange.enter(from, STRANGERS_OF_ONE_MAX)?)),
        };
        Some(Seat { _permit: all.clone().try_acquire_owned().ok()?, _counted: Some(counted) })
    }
}

/// How many of each there are.
struct Tally<K>(Arc<Mutex<BTreeMap<K, usize>>>);

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// One of them, until it is dropped.
struct Counted<K: Ord>(Arc<Mutex<BTreeMap<K, usize>>>, K);

impl<K: Ord + Clone> Tally<K> {
    fn enter(&self, key: K, max: usize) -> Option<Counted<K>> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(key.clone()).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Counted(self.0.clone(), key))
    }
}

impl<K: Ord> Drop for Counted<K> {
    fn drop(&mut self) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
    }
}

/// Definitions whose images are being resolved at one time, of all tenants and of one: each holds a
/// connection to a registry, which may be one that never answers.
const RESOLVING_MAX: usize = 16;
const RESOLVING_OF_ONE_MAX: usize = 2;
/// Whoever waits for longer is told to come again.
const RESOLVING_WAIT_MAX: Duration = Duration::from_secs(5);

/// Whose turn it is to ask registries.
pub(crate) struct Turns {
    all: Semaphore,
    tenants: Mutex<BTreeMap<Tenant, Arc<Semaphore>>>,
    wait_max: Duration,
}

/// A turn, until it is dropped.
pub(crate) struct Turn<'a> {
    _own: OwnedSemaphorePermit,
    _all: tokio::sync::SemaphorePermit<'a>,
}

impl Turns {
    pub fn new() -> Self {
        Self {
            all: Semaphore::new(RESOLVING_MAX),
            tenants: Mutex::default(),
            wait_max: RESOLVING_WAIT_MAX,
        }
    }

    /// A turn for `tenant`, which waits for its own first: so it takes none from others while it
    /// does.
    pub async fn take(&self, tenant: &Tenant) -> Result<Turn<'_>, Refusal> {
        let own = {
            let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
            tenants.retain(|_, turns| Arc::strong_count(turns) > 1); // nobody of these asks or waits
            tenants
                .entry(tenant.clone())
                .or_insert_with(|| Arc::new(Semaphore::new(RESOLVING_OF_ONE_MAX)))
                .clone()
        };
        let own = timeout(self.wait_max, own.acquire_owned()).await.map_err(|_| {
            let message = format!(
                "tenant `{tenant}` registers {RESOLVING_OF_ONE_MAX} task definitions already"
            );
            Refusal::new(StatusCode::TOO_MANY_REQUESTS, "busy", message)
                .hint("send it again when one of them is done")
        })?;
        let all = timeout(self.wait_max, self.all.acquire()).await.map_err(|_| {
            let message = format!("{RESOLVING_MAX} task definitions are being registered already");
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message)
                .hint("send it again in a few seconds")
        })?;
        Ok(Turn { _own: own.expect("it is never closed"), _all: all.expect("it is never closed") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_takes_the_seats_of_others() {
        let seats = Seats::new();
        let address = |n: usize| IpAddr::from([10, 0, (n >> 8) as u8, n as u8]);
        let node = |n: usize| Some(format!("n{n}").parse::<NodeId>().unwrap());
        // One address, and then every address: strangers end where theirs end.
        let mut strangers: Vec<Seat> =
            (0..10_000).map_while(|_| seats.sit(None, address(0))).collect();
        assert_eq!(strangers.len(), STRANGERS_OF_ONE_MAX);
        strangers.extend((1..10_000).map_while(|n| seats.sit(None, address(n))));
        assert_eq!(strangers.len(), STRANGERS_MAX);
        // One node, and then every node.
        let mut nodes: Vec<Seat> =
            (0..10_000).map_while(|_| seats.sit(node(0), address(0))).collect();
        assert_eq!(nodes.len(), NODES_OF_ONE_MAX);
        nodes.extend((1..10_000).map_while(|n| seats.sit(node(n), address(0))));
        assert_eq!(nodes.len(), NODES_MAX);
        // Handshakes that come to nothing.
        let mut shaking = Vec::new();
        for n in 0..HANDSHAKES_MAX {
            let permit = seats.handshake().await;
            let seat = seats.shake(permit, address(n / HANDSHAKES_OF_ONE_MAX));
            shaking.push(seat.expect("none of these comes from one address too often"));
        }
        assert_eq!(seats.handshakes.available_permits(), 0);
        drop(shaking.pop());
        let permit = seats.handshake().await;
        assert!(seats.shake(permit, address(0)).is_none(), "this address has all of its own");
        assert_eq!(seats.handshakes.available_permits(), 1, "and took none from others");
        // Whatever they do, the operator gets in.
        let _seat = seats.socket().await;
        // Who leaves makes room.
        drop((strangers, nodes, shaking));
        assert!(seats.sit(None, address(0)).is_some() && seats.sit(node(0), address(0)).is_some());
        assert!(
            seats.strange.0.lock().unwrap().is_empty() && seats.known.0.lock().unwrap().is_empty()
        );
    }

    #[tokio::test]
    async fn one_tenant_leaves_registries_to_others() {
        let turns = Turns { wait_max: Duration::from_millis(10), ..Turns::new() };
        let tenant = |name: &str| name.parse::<Tenant>().unwrap();
        let (first, _second) =
            (turns.take(&tenant("ann")).await.unwrap(), turns.take(&tenant("ann")).await.unwrap());
        let refused = turns.take(&tenant("ann")).await.err().unwrap();
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(refused.fault.message, "tenant `ann` registers 2 task definitions already");
        let mut others = Vec::new();
        for n in 0..RESOLVING_MAX - RESOLVING_OF_ONE_MAX {
            others.push(turns.take(&tenant(&format!("t{n}"))).await.unwrap());
        }
        let refused = turns.take(&tenant("bob")).await.err().unwrap();
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{:?}", refused.fault);
        drop(first);
        drop(turns.take(&tenant("bob")).await.unwrap());
        drop(turns.take(&tenant("ann")).await.unwrap());
        drop(others);
        drop(turns.take(&tenant("bob")).await.unwrap());
        assert_eq!(
            turns.tenants.lock().unwrap().keys().map(Tenant::as_str).collect::<Vec<_>>(),
            ["ann", "bob"]
        );
    }
}
