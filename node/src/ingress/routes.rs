use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    sync::{
        Arc, RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use rustls::pki_types::CertificateDer;
use spec::NodeId;

use super::{
    folder::{IngressFolder, Shared, socket_name},
    limits::ROUTES_EVERY,
};

/// Where a replica is reached from here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Target {
    /// A socket in the shared folder.
    Local(PathBuf),
    /// The ingress of another node.
    Peer { node: NodeId, address: String },
}

/// One replica, and how many requests of this ingress it has right now.
#[derive(Debug, Clone)]
pub(super) struct Replica {
    pub target: Target,
    pub in_flight: Arc<AtomicUsize>,
}

/// Where a request came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Arrival {
    Client,
    /// From the ingress of this node, which has chosen a replica here: it does not travel on.
    Peer(NodeId),
}

/// The route table, kept up with its file.
#[derive(Debug)]
pub(super) struct Routes {
    folder: IngressFolder,
    table: RwLock<Arc<Table>>,
    dice: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    seen: Option<(SystemTime, u64, u64)>,
    hosts: BTreeMap<String, Vec<Replica>>,
    /// The nodes of the platform that have an ingress.
    nodes: BTreeSet<NodeId>,
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
                let hosts = self.build(&shared, &before);
                tracing::info!(hosts = hosts.len(), "routes changed");
                let nodes = shared.routes.ingresses.into_keys().collect();
                *self.table.write().unwrap_or_else(|e| e.into_inner()) =
                    Arc::new(Table { seen, hosts, nodes });
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

    fn build(&self, shared: &Shared, before: &Table) -> BTreeMap<String, Vec<Replica>> {
        let known: BTreeMap<&Target, &Replica> =
            before.hosts.values().flatten().map(|replica| (&replica.target, replica)).collect();
        let replica = |target: Target| match known.get(&target) {
            Some(replica) => (*replica).clone(),
            None => Replica { target, in_flight: Arc::default() },
        };
        let replicas = |backends: &[spec::wire::Backend]| {
            let targets = backends.iter().filter_map(|backend| match backend.node == shared.node {
                true => {
                    let name = socket_name(&backend.tenant, &backend.task, backend.container_port);
                    Some(Target::Local(self.folder.sockets().join(name)))
                }
                false => {
                    let address = shared.routes.ingresses.get(&backend.node)?.clone();
                    Some(Target::Peer { node: backend.node.clone(), address })
                }
            });
            targets.map(replica).collect::<Vec<_>>()
        };
        shared
            .routes
            .hosts
            .iter()
            .map(|(host, backends)| (host.to_ascii_lowercase(), replicas(backends)))
            .collect()
    }

    fn table(&self) -> Arc<Table> {
        self.table.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Whether `node` is one of the platform now: a certificate outlives its node's removal.
    pub fn knows(&self, node: &NodeId) -> bool {
        self.table().nodes.contains(node)
    }

    /// The node that a certificate names, if it is one of the platform now.
    pub fn node_of(&self, certificate: &CertificateDer<'_>) -> Option<NodeId> {
        self.refresh(); // a node that has joined just now may be the first to know
        net::tls::node_of(certificate, self.table().nodes.iter()).cloned()
    }

    /// The replicas for `host` in the order in which to try them, or `None` for a host without
    /// a route.
    ///
    /// The first is the less busy of two that were drawn (one draw would be fair on average and bad
    /// at the tail); the others follow as they come.
    pub fn candidates(&self, host: &str, arrival: &Arrival) -> Option<Vec<Replica>> {
        let table = self.table();
        let mut replicas: Vec<_> = table.hosts.get(host)?.clone();
        if let Arrival::Peer(_) = arrival {
            replicas.retain(|replica| matches!(replica.target, Target::Local(_)));
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
