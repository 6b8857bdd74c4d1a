use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize},
    },
    time::{Instant, SystemTime},
};

use runtime::AddressRules;
use spec::{
    HostName, NodeId, Port, Protocol, RoutePath, RouteSettings, ServiceListener, TaskId, Tenant,
    wire::{Backend, HttpChallenge, PeerTrust, RouteCertificate, RouteTable},
};
use tokio::sync::Semaphore;

use super::{
    answering::Answering,
    counts::Counts,
    error::GatewayError,
    folder::{Shared, socket_name},
    limits::UPGRADES_PER_SERVICE_MAX,
    pool::Pool,
    rate::RateLimiter,
    split::Split,
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
#[derive(Debug)]
pub(super) struct Replica {
    pub target: Target,
    /// What other ingresses and clients call it: a digest, which tells nothing of it.
    pub name: Arc<str>,
    pub protocol: Protocol,
    /// Whose service it serves.
    pub tenant: Tenant,
    pub task: TaskId,
    /// Of the revision that requests go over to.
    pub newest: bool,
    pub in_flight: Arc<AtomicUsize>,
    pub counts: Arc<Counts>,
    pub answering: Arc<Answering>,
    /// Its connections that have no request: of all replicas behind one ingress.
    pub pool: Arc<Pool>,
    /// Whether the ingress answers that leads to it, where that is another one: the same for all
    /// replicas behind it.
    pub ingress: Option<Arc<Answering>>,
}

impl Replica {
    pub fn is_ejected(&self) -> bool {
        self.answering.is_ejected() || self.ingress.as_ref().is_some_and(|it| it.is_ejected())
    }

    /// It has begun a response.
    pub fn answered(&self) {
        self.answering.answered();
        self.ingress_answered();
    }

    /// The ingress that leads to it has said something, perhaps not in its name.
    pub fn ingress_answered(&self) {
        if let Some(ingress) = &self.ingress {
            ingress.answered();
        }
    }
}

/// A service, or a task of its own, that answers for a host.
#[derive(Debug)]
pub(super) struct Service {
    /// The name that it has by itself.
    pub host: Arc<str>,
    pub replicas: Vec<Arc<Replica>>,
    pub settings: RouteSettings,
    pub limiter: Option<Arc<RateLimiter>>,
    /// Between the replicas before and the newest ones, where each have a share.
    pub shares: Option<Split>,
    count: Arc<AtomicU64>,
    /// How many connections more may be upgraded.
    pub upgrades: Arc<Semaphore>,
}

/// The services that answer for some paths of a host.
#[derive(Debug)]
pub(super) struct Rule {
    pub path: RoutePath,
    pub services: Vec<Arc<Service>>,
    pub split: Option<Split>,
    count: Arc<AtomicU64>,
}

/// A port of the ingress that a service has.
#[derive(Debug)]
pub(super) struct PortRoute {
    pub listener: ServiceListener,
    /// Its replicas at the port of the container that is meant.
    pub service: Arc<Service>,
}

/// Which file it is: when it was written, its inode and its size.
pub(super) type Seen = (SystemTime, u64, u64);

/// Every route, as of one version of the file.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub seen: Option<Seen>,
    pub services: BTreeMap<String, Arc<Service>>,
    /// The replicas on this node, by their names.
    pub here: HashMap<Arc<str>, Arc<Replica>>,
    /// Of other host names.
    pub rules: BTreeMap<String, Vec<Rule>>,
    /// Of ports whose connections are passed on as they come.
    pub ports: BTreeMap<Port, Arc<PortRoute>>,
    /// Which certificates clients of which hosts are shown.
    pub certificates: BTreeMap<HostName, RouteCertificate>,
    /// What authorities ask of which hosts.
    pub challenges: BTreeMap<HostName, HttpChallenge>,
    /// The nodes of the platform that have an ingress, and what each is trusted with.
    pub nodes: BTreeMap<NodeId, PeerTrust>,
    pub addresses: AddressRules,
}

/// Whether it answers, and connections to it.
type KnownIngress = (Arc<Answering>, Arc<Pool>);

/// What a table keeps of the one before it: counts, and what is known of replicas.
struct Known<'a> {
    before: &'a Table,
    replicas: BTreeMap<&'a str, &'a Replica>,
    /// Of ingresses: those of before, and those that are new.
    ingresses: RefCell<BTreeMap<Target, KnownIngress>>,
}

impl Table {
    pub fn build(seen: Option<Seen>, shared: Shared, folder: PathBuf, before: &Self) -> Self {
        let Shared { node: here, routes, networks, .. } = shared;
        let addresses = AddressRules::new(networks.into_iter().map(PrivateNetwork::host));
        let known = Known::of(before);
        let replica = |backend: &Backend| {
            let name = socket_name(&backend.tenant, &backend.task, backend.port());
            let target = match backend.node == here {
                true => Target::Local(folder.join(&name)),
                false => peer(&routes, &backend.node)?,
            };
            Some(Arc::new(known.replica(target, &name, backend)))
        };
        let ports = routes.listeners.iter().map(|route| {
            let replicas = route.backends.iter().filter_map(replica).collect();
            let settings = routes.settings.get(&route.host).cloned().unwrap_or_default();
            let port = route.listener.port;
            let before = known.before.ports.get(&port).map(|before| &before.service);
            let service = Service::new(port.to_string().into(), replicas, settings, before);
            let (listener, service) = (route.listener.clone(), Arc::new(service));
            (port, Arc::new(PortRoute { listener, service }))
        });
        let ports: BTreeMap<Port, Arc<PortRoute>> = ports.collect();
        let services = routes.hosts.iter().map(|(host, backends)| {
            let replicas = backends.iter().filter_map(replica).collect();
            let settings = routes.settings.get(host).cloned().unwrap_or_default();
            let (before, host) = (known.before.services.get(host), host.to_ascii_lowercase());
            let service = Service::new(host.as_str().into(), replicas, settings, before);
            (host, Arc::new(service))
        });
        let services: BTreeMap<String, Arc<Service>> = services.collect();
        let rules = routes.rules.iter().map(|(host, rules)| {
            let before = known.before.rules.get(host.as_str());
            let rule = |rule| Rule::new(rule, &services, before);
            (host.to_string(), rules.iter().map(rule).collect())
        });
        let rules = rules.collect();
        let of_ports = ports.values().map(|route| &route.service);
        let here = services.values().chain(of_ports).flat_map(|service| &service.replicas);
        let here = here.filter(|replica| replica.ingress.is_none());
        let here = here.map(|replica| (replica.name.clone(), replica.clone())).collect();
        let (certificates, challenges) = (routes.certificates, routes.challenges);
        let nodes = routes.peers;
        Self { seen, rules, services, ports, here, certificates, challenges, nodes, addresses }
    }

    /// The rules of `host`, or of the wildcard that it is one of.
    pub fn rules_of(&self, host: &str) -> Option<&Vec<Rule>> {
        let wildcard = || {
            let (_, parent) = host.split_once('.')?;
            self.rules.get(&format!("*.{parent}"))
        };
        self.rules.get(host).or_else(wildcard)
    }
}

impl<'a> Known<'a> {
    fn of(before: &'a Table) -> Self {
        let replicas = || {
            let of_ports = before.ports.values().map(|route| &route.service);
            before.services.values().chain(of_ports).flat_map(|service| &service.replicas)
        };
        let ingress = |replica: &Arc<Replica>| {
            let known = (replica.ingress.clone()?, replica.pool.clone());
            Some((replica.target.clone(), known))
        };
        Self {
            before,
            replicas: replicas().map(|replica| (&*replica.name, &**replica)).collect(),
            ingresses: RefCell::new(replicas().filter_map(ingress).collect()),
        }
    }

    fn replica(&self, target: Target, file: &str, backend: &Backend) -> Replica {
        let name = file.trim_end_matches(".sock");
        let known = self.replicas.get(name).filter(|known| known.target == target);
        let (ingress, pool) = match &target {
            Target::Local(_) => (None, known.map(|known| known.pool.clone()).unwrap_or_default()),
            Target::Peer { .. } => {
                let mut ingresses = self.ingresses.borrow_mut();
                let (ingress, pool) = ingresses.entry(target.clone()).or_default().clone();
                (Some(ingress), pool)
            }
        };
        Replica {
            name: known.map_or_else(|| name.into(), |known| known.name.clone()),
            protocol: backend.protocol,
            tenant: backend.tenant.clone(),
            task: backend.task.clone(),
            newest: backend.newest,
            in_flight: known.map(|known| known.in_flight.clone()).unwrap_or_default(),
            counts: known.map(|known| known.counts.clone()).unwrap_or_default(),
            answering: known.map(|known| known.answering.clone()).unwrap_or_default(),
            pool,
            ingress,
            target,
        }
    }
}

impl Service {
    fn new(
        host: Arc<str>,
        replicas: Vec<Arc<Replica>>,
        settings: RouteSettings,
        before: Option<&Arc<Self>>,
    ) -> Self {
        let upgrades = before.map(|before| before.upgrades.clone());
        let upgrades =
            upgrades.unwrap_or_else(|| Arc::new(Semaphore::new(UPGRADES_PER_SERVICE_MAX)));
        let known = before.and_then(|before| before.limiter.clone());
        let limiter = settings.rate_limit.map(|limit| {
            let known = known.filter(|known| known.limit() == limit);
            known.unwrap_or_else(|| Arc::new(RateLimiter::new(limit)))
        });
        let count = before.map(|before| before.count.clone()).unwrap_or_default();
        let percent = settings.newest_percent.map(|percent| percent.min(100));
        let shares = percent.and_then(|new| Split::of([100 - new, new], count.clone()));
        Self { host, replicas, settings, limiter, upgrades, shares, count }
    }

    /// Whether the newest replicas have the request with this number, where they have a share.
    pub fn is_for_newest(&self, number: &mut Option<u64>) -> Option<bool> {
        let shares = self.shares.as_ref()?;
        Some(shares.part(*number.get_or_insert_with(|| shares.draw())) == 1)
    }

    /// Whether any request is for replicas as this one.
    pub fn has_share(&self, replica: &Replica) -> bool {
        match self.settings.newest_percent {
            None => true,
            Some(percent) if replica.newest => percent > 0,
            Some(percent) => percent < 100,
        }
    }

    /// Takes one request of a client.
    pub fn check_rate(&self, client: IpAddr) -> Result<(), GatewayError> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        limiter.take(client, Instant::now()).map_err(|after| {
            let each = limiter.limit().requests_per_second;
            let text = format!("a client may make {each} requests a second here");
            GatewayError::too_many(text, after)
        })
    }

    /// Whether it has no replica until a request comes.
    pub fn is_asleep(&self) -> bool {
        self.replicas.is_empty() && self.settings.wakes.is_some()
    }

    /// Whether requests go to its replicas over HTTP/2.
    pub fn speaks_http2(&self) -> bool {
        self.replicas.iter().any(|replica| replica.protocol == Protocol::Http2)
    }
}

impl Rule {
    fn new(
        rule: &spec::RouteRule,
        services: &BTreeMap<String, Arc<Service>>,
        before: Option<&Vec<Self>>,
    ) -> Self {
        let before = before.and_then(|rules| rules.iter().find(|known| known.path == rule.path));
        let count = before.map(|before| before.count.clone()).unwrap_or_default();
        let known = rule.services.iter();
        let known = known.filter_map(|(host, weight)| Some((services.get(host)?.clone(), *weight)));
        let (services, weights): (Vec<_>, Vec<_>) = known.unzip();
        let split = Split::of(weights, count.clone());
        Self { path: rule.path.clone(), services, split, count }
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
