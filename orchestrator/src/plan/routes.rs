use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use spec::{
    ContainerDefinition, HostName, IngressSettings, NodeId, Port, RoutePath, RouteRule,
    RouteSettings, Scaling, ServiceRef, Tenant,
    wire::{self, Backend, HttpChallenge, ListenerRoute, PeerTrust, RouteCertificate, RouteTable},
};

use super::{host_certificates::HostCertificates, host_names::HostNames};
use crate::state::{
    hosts::{HostClaim, HostRoute},
    model::Model,
    records::{NodeRecord, ServiceRecord, TaskRecord},
};

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
    tenants: BTreeMap<Tenant, TenantRoutes>,
    pool_ingresses: BTreeMap<NodeId, String>,
    slices: BTreeMap<Scope, Arc<RouteTable>>,
}

/// The routes of one tenant.
#[derive(Debug, Default, PartialEq, Eq)]
struct TenantRoutes {
    hosts: BTreeMap<String, Vec<Backend>>,
    rules: BTreeMap<HostName, Vec<RouteRule>>,
    settings: BTreeMap<String, RouteSettings>,
    /// Of this tenant.
    certificates: BTreeMap<HostName, RouteCertificate>,
    challenges: BTreeMap<HostName, HttpChallenge>,
    listeners: BTreeMap<Port, ListenerRoute>,
    /// Of nodes that only their owner sees.
    own_ingresses: BTreeMap<NodeId, String>,
}

/// What differs between two revisions.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct RouteChanges {
    tenants: BTreeSet<Tenant>,
    pool_ingresses: bool,
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
        for (key, stored) in &model.services {
            let of_tenant = routes.tenants.entry(key.0.clone()).or_default();
            let host = names.of(key);
            let settings = settings_of(model, &key.0, &stored.value);
            if settings != RouteSettings::default() {
                of_tenant.settings.insert(host.clone(), settings);
            }
            for listener in &stored.value.service.spec.ingress.listeners {
                let (listener, host) = (listener.clone(), host.clone());
                let route = ListenerRoute { listener, host, backends: Vec::new() };
                of_tenant.listeners.insert(route.listener.port, route);
            }
            of_tenant.hosts.insert(host, Vec::new());
        }
        for claim in model.hosts.values() {
            let of_tenant = routes.tenants.entry(claim.tenant.clone()).or_default();
            of_tenant.rules.insert(claim.host.clone(), rules_of(claim, names));
        }
        for (node, keys) in model.by_node.iter().filter(|(node, _)| !disconnected.contains(*node)) {
            for stored in keys.iter().filter_map(|key| model.tasks.get(key)) {
                routes.add_task(model, &stored.value, node, names);
                routes.add_to_listeners(model, &stored.value, node);
            }
        }
        routes.add_certificates(model, names);
        routes.add_challenges(model);
        for node in model.nodes.values() {
            let Some(address) = node.spec.ingress_address.clone() else { continue };
            let ingresses = match (&node.tenant, node.in_pool()) {
                (_, true) => &mut routes.pool_ingresses,
                (Some(tenant), false) => {
                    &mut routes.tenants.entry(tenant.clone()).or_default().own_ingresses
                }
                (None, false) => continue,
            };
            ingresses.insert(node.id.clone(), address);
        }
        routes
    }

    fn add_certificates(&mut self, model: &Model, names: &HostNames) {
        if model.certificates.is_empty() {
            return;
        }
        let generated = self.tenants.iter();
        let generated = generated
            .flat_map(|(tenant, own)| own.hosts.keys().map(move |host| (tenant, host.as_str())));
        let certificates = HostCertificates::of(model, &names.operator, generated);
        let shown = certificates.shown().map(|(tenant, host, shown)| (tenant.clone(), host, shown));
        for (tenant, host, certificate) in shown.collect::<Vec<_>>() {
            let of_tenant = self.tenants.entry(tenant).or_default();
            of_tenant.certificates.insert(host, certificate);
        }
    }

    /// Of hosts that their tenant still has.
    fn add_challenges(&mut self, model: &Model) {
        for ((tenant, host), record) in &model.orders {
            let is_its = model.hosts.get(host).is_some_and(|claim| claim.tenant == *tenant);
            if let Some(challenge) = record.challenge.as_ref().filter(|_| is_its) {
                let of_tenant = self.tenants.entry(tenant.clone()).or_default();
                of_tenant.challenges.insert(host.clone(), challenge.clone());
            }
        }
    }

    /// A replica as a backend of its service, and any other task as one of its own name.
    fn add_task(&mut self, model: &Model, record: &TaskRecord, node: &NodeId, names: &HostNames) {
        let Some(definition) = model.definition_of(record) else { return };
        let Some((port, container)) = definition.http_port() else { return };
        let of_tenant = self.tenants.entry(record.tenant.clone()).or_default();
        let cluster = &record.task.spec.cluster;
        let host = match record.service_key() {
            Some(key) => names.of(&key),
            None if record.has_own_host() => {
                let host = names.of_task(&record.tenant, cluster, record.id());
                let settings = settings_with(container, &IngressSettings::default());
                if !of_tenant.hosts.contains_key(&host) && settings != RouteSettings::default() {
                    of_tenant.settings.insert(host.clone(), settings);
                }
                of_tenant.hosts.entry(host.clone()).or_default();
                host
            }
            None => return,
        };
        if let Some(backends) = of_tenant.hosts.get_mut(&host).filter(|_| record.is_routable()) {
            let (tenant, task) = (record.tenant.clone(), record.id().clone());
            let (node, container_port) = (node.clone(), port.container_port);
            let service = record.service_key().and_then(|key| model.services.get(&key));
            let shares = service.filter(|service| service.value.newest_percent().is_some());
            let newest = shares.is_some_and(|service| service.value.is_requested(record));
            let protocol = port.protocol;
            backends.push(Backend { node, tenant, task, container_port, newest, protocol });
        }
    }

    /// A replica as a backend of the ports of its service.
    fn add_to_listeners(&mut self, model: &Model, record: &TaskRecord, node: &NodeId) {
        let service = record.service_key().and_then(|key| model.services.get(&key));
        let (Some(service), true) = (service, record.is_routable()) else { return };
        let listeners = &service.value.service.spec.ingress.listeners;
        let Some(definition) = model.definition_of(record).filter(|_| !listeners.is_empty()) else {
            return;
        };
        let of_tenant = self.tenants.entry(record.tenant.clone()).or_default();
        let newest = service.value.newest_percent().is_some() && service.value.is_requested(record);
        for listener in listeners {
            let mapping = definition.listener_port(listener);
            if let Some(route) = of_tenant.listeners.get_mut(&listener.port)
                && let Some(mapping) = mapping
            {
                let (tenant, task) = (record.tenant.clone(), record.id().clone());
                let (container_port, protocol) = (mapping.container_port, mapping.protocol);
                let node = node.clone();
                route.backends.push(Backend {
                    node,
                    tenant,
                    task,
                    container_port,
                    newest,
                    protocol,
                });
            }
        }
    }

    /// What has changed since `before`, whose slices stay where they hold.
    pub fn succeed(&mut self, before: Self) -> RouteChanges {
        let tenants = self.tenants.keys().chain(before.tenants.keys());
        let differs = |tenant: &&Tenant| self.tenants.get(*tenant) != before.tenants.get(*tenant);
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
            ingresses: self.pool_ingresses.clone(),
            peers: self.pool_ingresses.keys().map(|node| (node.clone(), PeerTrust::Pool)).collect(),
            ..RouteTable::default()
        };
        let is_visible = |tenant: &Tenant| match scope {
            Scope::All => true,
            Scope::Tenants(tenants) => tenants.contains(tenant),
        };
        for (tenant, own) in self.tenants.iter().filter(|(tenant, _)| is_visible(tenant)) {
            table.hosts.extend(own.hosts.clone());
            table.rules.extend(own.rules.clone());
            table.settings.extend(own.settings.clone());
            table.certificates.extend(own.certificates.clone());
            table.challenges.extend(own.challenges.clone());
            table.listeners.extend(own.listeners.values().cloned());
            let trusts = own
                .own_ingresses
                .keys()
                .map(|node| (node.clone(), PeerTrust::Tenant(tenant.clone())));
            table.peers.extend(trusts);
            table.ingresses.extend(own.own_ingresses.clone());
        }
        let slice = Arc::new(table);
        self.slices.insert(scope.clone(), slice.clone());
        slice
    }
}

/// What an ingress does with the requests of a service.
fn settings_of(model: &Model, tenant: &Tenant, record: &ServiceRecord) -> RouteSettings {
    let spec = &record.service.spec;
    let key = (tenant.clone(), spec.task_definition.clone());
    let definition = model.definitions.get(&key);
    let Some((_, container)) = definition.and_then(|definition| definition.http_port()) else {
        return RouteSettings::default();
    };
    let newest_percent = record.newest_percent();
    let scales_by_requests = spec.scaling.as_ref().is_some_and(Scaling::follows_requests);
    let counted = scales_by_requests || newest_percent.is_some();
    let wakes = spec.scaling.as_ref().is_some_and(Scaling::wakes).then(|| ServiceRef {
        tenant: tenant.clone(),
        cluster: record.service.cluster.clone(),
        service: record.service.name.clone(),
    });
    RouteSettings { newest_percent, counted, wakes, ..settings_with(container, &spec.ingress) }
}

/// The times of the container that answers, and the rest of its service.
fn settings_with(container: &ContainerDefinition, ingress: &IngressSettings) -> RouteSettings {
    let seconds = |limit: Option<u64>| limit.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX));
    RouteSettings {
        request_seconds_max: seconds(container.limits.request_seconds_max),
        idle_seconds_max: seconds(container.limits.idle_seconds_max),
        https: ingress.https,
        sticky: ingress.sticky,
        rate_limit: ingress.rate_limit,
        errors: ingress.errors.clone(),
        ..RouteSettings::default()
    }
}

/// The rules of a host in the order in which they are tried.
fn rules_of(claim: &HostClaim, names: &HostNames) -> Vec<RouteRule> {
    let mut rules: BTreeMap<&RoutePath, BTreeMap<String, u32>> = BTreeMap::new();
    for HostRoute { path, cluster, service, weight } in &claim.routes {
        let host = names.of(&(claim.tenant.clone(), cluster.clone(), service.clone()));
        rules.entry(path).or_default().insert(host, weight.unwrap_or(1));
    }
    let rule = |(path, services): (&RoutePath, _)| RouteRule { path: path.clone(), services };
    let mut rules: Vec<RouteRule> = rules.into_iter().map(rule).collect();
    rules.sort_by_key(|rule| rule.path.rank());
    rules
}
