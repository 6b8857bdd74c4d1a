use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use runtime::AddressRules;
use rustls::pki_types::CertificateDer;
use spec::{
    HostName, NodeId, Port, RoutePath, Tenant,
    wire::{PeerTrust, RouteCertificate},
};

use super::{
    error::GatewayError,
    folder::{IngressFolder, Shared},
    inside::named_inside,
    limits::ROUTES_EVERY,
    path,
    table::{PortRoute, Replica, Service, Table, Target},
};

/// Where a request came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Arrival {
    Client,
    /// From the ingress of this node, which has chosen a replica here: it does not travel on.
    Peer(NodeId, PeerTrust),
    /// From a guest of this node, of one tenant.
    Inside(Tenant),
}

impl Arrival {
    pub fn is_peer(&self) -> bool {
        matches!(self, Self::Peer(..))
    }

    /// Whether what the request says of its client and proxies is a claim of the sender's, and no
    /// more.
    pub fn hides_the_client(&self) -> bool {
        match self {
            Self::Client | Self::Inside(_) | Self::Peer(_, PeerTrust::Tenant(_)) => true,
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

/// What of a request decides which replica gets it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub host: &'a str,
    pub path: &'a str,
    pub arrival: &'a Arrival,
    /// The replica that the client stays with, or that another ingress has chosen.
    pub replica: Option<&'a str>,
}

/// The places of a request in the rows that are shared, which it keeps when it is tried again.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Number {
    /// Between services.
    service: Option<u64>,
    /// Between revisions of one.
    revision: Option<u64>,
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
                let table = Table::build(seen, shared, self.folder.sockets(), &before);
                let (services, hosts) = (table.services.len(), table.rules.len());
                tracing::info!(services, hosts, "routes changed");
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

    /// Which certificates clients of which hosts are shown.
    pub fn certificates(&self) -> BTreeMap<HostName, RouteCertificate> {
        self.table().certificates.clone()
    }

    /// The ports that services have.
    pub fn ports(&self) -> Vec<Port> {
        self.table().ports.keys().copied().collect()
    }

    /// Where the connections of `port` go.
    pub fn port(&self, port: Port) -> Option<Arc<PortRoute>> {
        self.table().ports.get(&port).cloned()
    }

    /// The answer to an authority that asks `host` for `token`, if it is to have one.
    pub fn challenge(&self, host: &str, token: &str) -> Option<String> {
        let table = self.table();
        let known = table.challenges.get(&host.parse::<HostName>().ok()?)?;
        (known.token == token).then(|| known.key_authorization.clone())
    }

    /// Which addresses may be dialled.
    pub fn addresses(&self) -> AddressRules {
        self.table().addresses.clone()
    }

    /// The host of a service that a guest of `tenant` knows by `name`: its own services, and no
    /// other host.
    pub fn host_inside(&self, tenant: &Tenant, name: &str) -> Result<String, GatewayError> {
        let is_its = |service: &Arc<Service>| {
            service.replicas.iter().any(|replica| replica.tenant == *tenant)
                || service.settings.wakes.as_ref().is_some_and(|wakes| wakes.tenant == *tenant)
        };
        let table = self.table();
        let label = name.strip_suffix(runtime::SERVICES_DOMAIN);
        let known = label.and_then(|label| named_inside(&table.services, label, is_its));
        known.map(|(host, _)| host.to_owned()).ok_or_else(|| GatewayError::no_route(name))
    }

    /// The service that has a request.
    ///
    /// # Errors
    /// Where no service has it, and where its path could mean two things.
    pub fn service(
        &self,
        wanted: Wanted<'_>,
        number: &mut Number,
    ) -> Result<Arc<Service>, GatewayError> {
        let table = self.table();
        if let Some(service) = table.services.get(wanted.host) {
            return Ok(service.clone());
        }
        let no_route = || GatewayError::no_route(wanted.host);
        let rules = table.rules_of(wanted.host).ok_or_else(no_route)?;
        let no_path = || GatewayError::no_path(wanted.host);
        let rule = match rules.as_slice() {
            [rule] if rule.path == RoutePath::all() => rule, // no path decides anything
            rules => {
                let path = path::plain(wanted.path).ok_or_else(GatewayError::ambiguous_path)?;
                rules.iter().find(|rule| rule.path.matches(&path)).ok_or_else(no_path)?
            }
        };
        let named = |service: &&Arc<Service>| {
            service.replicas.iter().any(|replica| Some(&*replica.name) == wanted.replica)
        };
        // Also where it has no share any more: a client that has begun there ends there.
        let stays = match wanted.arrival {
            Arrival::Peer(..) => rule.services.iter().find(named),
            Arrival::Client => rule.services.iter().filter(|s| s.settings.sticky).find(named),
            Arrival::Inside(_) => None,
        };
        let chosen = || {
            let split = rule.split.as_ref()?;
            rule.services.get(split.part(*number.service.get_or_insert_with(|| split.draw())))
        };
        stays.or_else(chosen).cloned().ok_or_else(no_path)
    }

    /// The replicas of `service` in the order in which to try them.
    ///
    /// The first is the one that was named, or the less busy of two that were drawn (one draw would
    /// be fair on average and bad at the tail); the others follow as they come. Where revisions
    /// have shares, those of the other revision come last.
    ///
    /// # Errors
    /// Where the sender may not ask for it, as a node of a tenant for a service of another.
    pub fn candidates(
        &self,
        service: &Service,
        wanted: Wanted<'_>,
        number: &mut Number,
    ) -> Result<Vec<Arc<Replica>>, GatewayError> {
        let mut replicas = service.replicas.clone();
        if let Arrival::Peer(_, trust) = wanted.arrival {
            if let PeerTrust::Tenant(tenant) = trust
                && replicas.iter().any(|replica| replica.tenant != *tenant)
            {
                return Err(GatewayError::no_route(wanted.host));
            }
            replicas.retain(|replica| matches!(replica.target, Target::Local(_)));
        }
        // Where none answers, one of them may still be the slow one that will.
        if replicas.iter().any(|replica| !replica.is_ejected()) {
            replicas.retain(|replica| !replica.is_ejected());
        }
        // A client leaves a revision that has no share any more.
        let may_stay = |replica: &Replica| match wanted.arrival {
            Arrival::Peer(..) => true,
            Arrival::Client | Arrival::Inside(_) => service.has_share(replica),
        };
        let named =
            |replica: &Arc<Replica>| Some(&*replica.name) == wanted.replica && may_stay(replica);
        if let Some(at) = replicas.iter().position(named) {
            replicas.swap(0, at);
            return Ok(replicas);
        }
        match service.is_for_newest(&mut number.revision) {
            None => self.spread(&mut replicas),
            Some(is_for_newest) => {
                replicas.sort_by_key(|replica| replica.newest != is_for_newest);
                let own = replicas.partition_point(|replica| replica.newest == is_for_newest);
                let (own, others) = replicas.split_at_mut(own);
                self.spread(own);
                self.spread(others);
            }
        }
        Ok(replicas)
    }

    /// Closes connections to replicas that were idle for long.
    pub fn close_idle(&self) {
        for replica in self.table().services.values().flat_map(|service| &service.replicas) {
            replica.pool.close_idle();
        }
    }

    /// The replicas here whose requests are counted. Those elsewhere are counted there.
    pub fn counted(&self) -> Vec<Arc<Replica>> {
        let table = self.table();
        let services = table.services.values().filter(|service| service.settings.counted);
        let replicas = services.flat_map(|service| &service.replicas);
        replicas.filter(|one| one.ingress.is_none()).cloned().collect()
    }

    /// The replica on this node that another ingress means by its name.
    pub fn replica_of(&self, trust: &PeerTrust, name: &str) -> Option<Arc<Replica>> {
        let table = self.table();
        let replica = table.here.get(name)?;
        let is_its_own = match trust {
            PeerTrust::Pool => true,
            PeerTrust::Tenant(tenant) => replica.tenant == *tenant,
        };
        is_its_own.then(|| replica.clone())
    }

    fn spread(&self, replicas: &mut [Arc<Replica>]) {
        if replicas.len() > 1 {
            let start = self.draw() % replicas.len();
            replicas.rotate_left(start);
            let other = 1 + self.draw() % (replicas.len() - 1);
            let load = |index: usize| replicas[index].in_flight.load(Ordering::Relaxed);
            if load(other) < load(0) {
                replicas.swap(0, other);
            }
        }
    }

    /// Not secret, only spread: SplitMix64 over a counter.
    fn draw(&self) -> usize {
        let mut z = self.dice.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 33) as usize
    }
}
