use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use spec::{
    NodeId, Protocol, Tenant,
    wire::{self, Backend, PeerTrust, RouteTable},
};

use crate::state::{
    model::Model,
    records::{NodeRecord, ServiceKey, TaskRecord},
};

/// The names under which ingresses serve services.
#[derive(Debug, Clone)]
pub(crate) struct HostNames {
    /// Its services have the shortest names.
    pub operator: Tenant,
    pub domain: String,
}

/// Which tenants' routes a node is told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// A node of the pool serves the requests of every tenant.
    All,
    Tenants(BTreeSet<Tenant>),
}

/// Every route, by tenant: built once for a revision, and sliced for each scope once. A slice that
/// a revision does not change stays the same allocation.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    hosts: BTreeMap<Tenant, BTreeMap<String, Vec<Backend>>>,
    /// Of nodes that only their owner sees.
    own_ingresses: BTreeMap<Tenant, BTreeMap<NodeId, String>>,
    pool_ingresses: BTreeMap<NodeId, String>,
    slices: BTreeMap<Scope, Arc<RouteTable>>,
}

/// What differs between two revisions.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct RouteChanges {
    tenants: BTreeSet<Tenant>,
    pool_ingresses: bool,
}

impl HostNames {
    /// `SERVICE.CLUSTER.localhost` for the operator's services. Every other tenant has its own name
    /// in front of the domain, so no tenant can take a name of another.
    pub fn of(&self, (tenant, cluster, service): &ServiceKey) -> String {
        match *tenant == self.operator {
            true => format!("{service}.{cluster}.{}", self.domain),
            false => format!("{service}.{cluster}.{tenant}.{}", self.domain),
        }
    }
}

impl Scope {
    /// Of a node that has tasks of `tenants`.
    pub fn of(node: &NodeRecord, tenants: impl Iterator<Item = Tenant>) -> Self {
        match node.in_pool() {
            true => Self::All,
            false => Self::Tenants(tenants.chain(node.tenant.clone()).collect()),
        }
    }

    pub fn is_changed_by(&self, changes: &RouteChanges) -> bool {
        changes.pool_ingresses
            || match self {
                Self::All => !changes.tenants.is_empty(),
                Self::Tenants(tenants) => !tenants.is_disjoint(&changes.tenants),
            }
    }
}

impl RouteChanges {
    pub fn extend(&mut self, other: Self) {
        self.tenants.extend(other.tenants);
        self.pool_ingresses |= other.pool_ingresses;
    }
}

impl Routes {
    /// A service without a running replica has its name there and no backend.
    pub fn build(model: &Model, disconnected: &BTreeSet<NodeId>, names: &HostNames) -> Self {
        let mut routes = Self::default();
        for key in model.services.keys() {
            routes.hosts.entry(key.0.clone()).or_default().insert(names.of(key), Vec::new());
        }
        for (node, keys) in model.by_node.iter().filter(|(node, _)| !disconnected.contains(*node)) {
            for stored in keys.iter().filter_map(|key| model.tasks.get(key)) {
                let Some((key, backend)) = backend(model, &stored.value, node) else { continue };
                let hosts = routes.hosts.get_mut(&key.0);
                if let Some(backends) = hosts.and_then(|hosts| hosts.get_mut(&names.of(&key))) {
                    backends.push(backend);
                }
            }
        }
        for node in model.nodes.values() {
            let Some(address) = node.spec.ingress_address.clone() else { continue };
            let ingresses = match (&node.tenant, node.in_pool()) {
                (_, true) => &mut routes.pool_ingresses,
                (Some(tenant), false) => routes.own_ingresses.entry(tenant.clone()).or_default(),
                (None, false) => continue,
            };
            ingresses.insert(node.id.clone(), address);
        }
        routes
    }

    /// What has changed since `before`, whose slices stay where they hold.
    pub fn succeed(&mut self, before: Self) -> RouteChanges {
        let tenants = [&self.hosts, &before.hosts].into_iter().flat_map(BTreeMap::keys);
        let owners = [&self.own_ingresses, &before.own_ingresses];
        let tenants = tenants.chain(owners.into_iter().flat_map(BTreeMap::keys));
        let differs = |tenant: &&Tenant| {
            self.hosts.get(*tenant) != before.hosts.get(*tenant)
                || self.own_ingresses.get(*tenant) != before.own_ingresses.get(*tenant)
        };
        let changes = RouteChanges {
            tenants: tenants.filter(differs).cloned().collect(),
            pool_ingresses: self.pool_ingresses != before.pool_ingresses,
        };
        // A slice that no node was told last is not wanted any more.
        self.slices.extend(before.slices.into_iter().filter(|(scope, slice)| {
            !scope.is_changed_by(&changes) && Arc::strong_count(slice) > 1
        }));
        changes
    }

    /// What the ingress of a node with this scope should know.
    pub fn slice(&mut self, scope: &Scope) -> Arc<RouteTable> {
        if let Some(slice) = self.slices.get(scope) {
            return slice.clone();
        }
        let mut table = RouteTable {
            version: wire::VERSION,
            hosts: BTreeMap::new(),
            ingresses: self.pool_ingresses.clone(),
            peers: self.pool_ingresses.keys().map(|node| (node.clone(), PeerTrust::Pool)).collect(),
        };
        let is_visible = |tenant: &Tenant| match scope {
            Scope::All => true,
            Scope::Tenants(tenants) => tenants.contains(tenant),
        };
        for (_, hosts) in self.hosts.iter().filter(|(tenant, _)| is_visible(tenant)) {
            table.hosts.extend(hosts.clone());
        }
        for (tenant, own) in self.own_ingresses.iter().filter(|(tenant, _)| is_visible(tenant)) {
            table.ingresses.extend(own.clone());
            table
                .peers
                .extend(own.keys().map(|node| (node.clone(), PeerTrust::Tenant(tenant.clone()))));
        }
        let slice = Arc::new(table);
        self.slices.insert(scope.clone(), slice.clone());
        slice
    }
}

fn backend(model: &Model, record: &TaskRecord, node: &NodeId) -> Option<(ServiceKey, Backend)> {
    if !record.is_routable() {
        return None;
    }
    let definition = &model.definition_of(record)?.definition;
    let mut ports = definition.containers.iter().flat_map(|container| &container.ports);
    let container_port = ports.find(|port| port.protocol == Protocol::Http)?.container_port;
    let (tenant, task) = (record.tenant.clone(), record.id().clone());
    let backend = Backend { node: node.clone(), tenant, task, container_port };
    Some((record.service_key()?, backend))
}
