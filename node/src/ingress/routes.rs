use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use runtime::AddressRules;
use rustls::pki_types::CertificateDer;
use spec::{
    NodeId, Tenant,
    wire::{Backend, PeerTrust, RouteTable},
};

use super::{
    answering::Answering,
    folder::{IngressFolder, Shared, socket_name},
    limits::ROUTES_EVERY,
};
use crate::tuning::PrivateNetwork;

/// Where a replica is reached from here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Target {
    /// A socket in the shared folder.
    Local(PathBuf),
    /// The ingress of another node.
    Peer { node: NodeId, address: SocketAddr },
}

/// One replica, and how many requests of this ingress it has right now.
#[derive(Debug, Clone)]
pub(super) struct Replica {
    pub target: Target,
    /// Whose service it serves.
    tenant: Tenant,
    pub in_flight: Arc<AtomicUsize>,
    pub answering: Arc<Answering>,
}

/// Where a request came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Arrival {
    Client,
    /// From the ingress of this node, which has chosen a replica here: it does not travel on.
    Peer(NodeId, PeerTrust),
}

impl Arrival {
    /// Whether what the request says of its client and proxies is a claim of the sender's, and no
    /// more.
    pub fn hides_the_client(&self) -> bool {
        match self {
            Self::Client | Self::Peer(_, PeerTrust::Tenant(_)) => true,
            Self::Peer(_, PeerTrust::Pool) => false,
        }
    }
}

/// The route table, kept up with its file.
#[derive(Debug)]
pub(super) struct Routes {
    folder: IngressFolder,
    table: RwLock<Arc<Table>>,
    dice: AtomicU64,
}

/// Which file it is: when it was written, its inode and its size.
type Seen = (SystemTime, u64, u64);

#[derive(Debug, Default)]
struct Table {
    seen: Option<Seen>,
    hosts: BTreeMap<String, Vec<Replica>>,
    /// The nodes of the platform that have an ingress, and what each is trusted with.
    nodes: BTreeMap<NodeId, PeerTrust>,
    addresses: AddressRules,
}

impl Routes {
    pub fn open(folder: IngressFolder) -> Self {
        let routes =
            Self { folder, table: RwLock::default(), dice: AtomicU64::new(0x9e37_79b9_7f4a_7c15) };
        routes.refresh();
        routes
    }

    /// Looks at the file again and again.
    pub async fn keep_up(&self) {
        loop {
            tokio::time::sleep(ROUTES_EVERY).await;
            self.refresh();
        }
    }

    /// Takes the file's table if it is another one. A file that is missing or damaged changes
    /// nothing.
    pub fn refresh(&self) {
        use std::os::unix::fs::MetadataExt;
        let Ok(metadata) = fs::metadata(self.folder.routes_file()) else { return };
        let seen = metadata.modified().ok().map(|time| (time, metadata.ino(), metadata.len()));
        let before = self.table();
        if seen.is_none() || before.seen == seen {
            return;
        }
        match crate::files::read_json::<Shared>(&self.folder.routes_file()) {
            Ok(Some(shared))
                if spec::wire::check_version("the route table", shared.version).is_ok() =>
            {
                let table = self.build(seen, shared, &before);
                tracing::info!(hosts = table.hosts.len(), "routes changed");
                *self.table.write().unwrap_or_else(|e| e.into_inner()) = Arc::new(table);
            }
            Ok(Some(shared)) => tracing::warn!(
                version = shared.version,
                "the route table is newer than this margay"
            ),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "the route table cannot be read; the last one stays")
            }
        }
    }

    fn build(&self, seen: Option<Seen>, shared: Shared, before: &Table) -> Table {
        let Shared { node: here, routes, networks, .. } = shared;
        let addresses = AddressRules::new(networks.into_iter().map(PrivateNetwork::host));
        let known: BTreeMap<&Target, &Replica> =
            before.hosts.values().flatten().map(|replica| (&replica.target, replica)).collect();
        let replica = |backend: &Backend| {
            let target = match backend.node == here {
                true => {
                    let name = socket_name(&backend.tenant, &backend.task, backend.container_port);
                    Target::Local(self.folder.sockets().join(name))
                }
                false => peer(&routes, &backend.node)?,
            };
            Some(match known.get(&target) {
                Some(replica) => Replica { tenant: backend.tenant.clone(), ..(*replica).clone() },
                None => Replica {
                    target,
                    tenant: backend.tenant.clone(),
                    in_flight: Arc::default(),
                    answering: Arc::default(),
                },
            })
        };
        let hosts = routes.hosts.iter().map(|(host, backends)| {
            (host.to_ascii_lowercase(), backends.iter().filter_map(replica).collect())
        });
        let hosts = hosts.collect();
        Table { seen, hosts, nodes: routes.peers, addresses }
    }

    fn table(&self) -> Arc<Table> {
        self.table.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// What `node` is trusted with, if it is one of the platform now: a certificate outlives its
    /// node's removal.
    pub fn trust_in(&self, node: &NodeId) -> Option<PeerTrust> {
        self.table().nodes.get(node).cloned()
    }

    /// The node whose ingress a certificate names, if it is one of the platform now, and what it is
    /// trusted with.
    pub fn peer_of(&self, certificate: &CertificateDer<'_>) -> Option<(NodeId, PeerTrust)> {
        self.refresh(); // a node that has joined just now may be the first to know
        let table = self.table();
        let node = net::tls::ingress_of(certificate, table.nodes.keys())?;
        Some((node.clone(), table.nodes[node].clone()))
    }

    /// Which addresses may be dialled.
    pub fn addresses(&self) -> AddressRules {
        self.table().addresses.clone()
    }

    /// The replicas for `host` in the order in which to try them, or `None` for a host without
    /// a route, as one of another tenant is for a node of a tenant.
    ///
    /// The first is the less busy of two that were drawn (one draw would be fair on average and bad
    /// at the tail); the others follow as they come.
    pub fn candidates(&self, host: &str, arrival: &Arrival) -> Option<Vec<Replica>> {
        let table = self.table();
        let mut replicas: Vec<_> = table.hosts.get(host)?.clone();
        if let Arrival::Peer(_, trust) = arrival {
            if let PeerTrust::Tenant(tenant) = trust
                && replicas.iter().any(|replica| replica.tenant != *tenant)
            {
                return None;
            }
            replicas.retain(|replica| matches!(replica.target, Target::Local(_)));
        }
        // Where none answers, one of them may still be the slow one that will.
        if replicas.iter().any(|replica| !replica.answering.is_ejected()) {
            replicas.retain(|replica| !replica.answering.is_ejected());
        }
        if replicas.len() > 1 {
            let start = self.draw() % replicas.len();
            replicas.rotate_left(start);
            let other = 1 + self.draw() % (replicas.len() - 1);
            let load = |index: usize| replicas[index].in_flight.load(Ordering::Relaxed);
            if load(other) < load(0) {
                replicas.swap(0, other);
            }
        }
        Some(replicas)
    }

    /// Not secret, only spread: SplitMix64 over a counter.
    fn draw(&self) -> usize {
        let mut z = self.dice.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 33) as usize
    }
}

/// The ingress of `node`, by the address that it has told the control plane.
fn peer(routes: &RouteTable, node: &NodeId) -> Option<Target> {
    let text = routes.ingresses.get(node)?;
    match text.parse() {
        Ok(address) => Some(Target::Peer { node: node.clone(), address }),
        Err(_) => {
            tracing::warn!(%node, address = text, "the address of its ingress is none");
            None
        }
    }
}
