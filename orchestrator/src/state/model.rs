use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use spec::{
    CertificateName, Cluster, ClusterName, HostName, NodeGroupName, NodeId, SecretName,
    TaskDefinitionId, Tenant, TenantQuota, VolumeName,
};
use store::{Event, Kv, Ranged, Rev};

use super::{
    hosts::HostClaim,
    keys::Kind,
    node_groups::NodeGroup,
    objects::{Certificate, Volume},
    orders::OrderRecord,
    records::{
        CertificateRecord, DefinitionRecord, NodeRecord, SecretRecord, ServiceKey, ServiceRecord,
        Stored, TaskKey, TaskRecord, decode,
    },
};
use crate::limits::FORGOTTEN_TASKS_MAX;

/// Everything that planning and routing need, in memory, as of one revision of the store. It
/// follows a watch, so it may be behind; whatever is decided from it is written with a compare that
/// fails when it was.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub rev: Rev,
    /// The newest revision that changed what [routes](crate::plan::Routes) are built from.
    pub routes_rev: Rev,
    pub clusters: BTreeSet<(Tenant, ClusterName)>,
    pub definitions: BTreeMap<(Tenant, TaskDefinitionId), Arc<DefinitionRecord>>,
    pub services: BTreeMap<ServiceKey, Arc<Stored<ServiceRecord>>>,
    pub tasks: BTreeMap<TaskKey, Arc<Stored<TaskRecord>>>,
    /// Definitions as tasks have them that change something of theirs.
    own_definitions: BTreeMap<TaskKey, Arc<DefinitionRecord>>,
    pub nodes: BTreeMap<NodeId, Arc<NodeRecord>>,
    pub node_groups: BTreeMap<NodeGroupName, Arc<Stored<NodeGroup>>>,
    pub volumes: BTreeMap<(Tenant, VolumeName), Volume>,
    /// Host names that services have beside their own.
    pub hosts: BTreeMap<HostName, HostClaim>,
    /// Of host names. Their keys stay in the store, sealed.
    pub certificates: BTreeMap<(Tenant, CertificateName), Certificate>,
    /// Certificates that an authority is asked for, by their hosts.
    pub orders: BTreeMap<(Tenant, HostName), OrderRecord>,
    /// Their values stay in the store, sealed.
    pub secrets: BTreeSet<(Tenant, SecretName)>,
    /// Those that the operator has set.
    pub quotas: BTreeMap<Tenant, TenantQuota>,
    /// Bytes of each definition, as it is stored.
    definition_bytes: BTreeMap<(Tenant, TaskDefinitionId), u64>,
    /// Of tasks that have not ended.
    pub by_node: BTreeMap<NodeId, BTreeSet<TaskKey>>,
    /// The newest tasks that were forgotten: their last usage may come later.
    forgotten: VecDeque<ForgottenTask>,
    /// Keys of answers to creates, which go after a day.
    pub idempotency: BTreeSet<Arc<str>>,
    /// By the events that are being applied.
    touched: BTreeSet<NodeId>,
}

/// A task that is not in the store any more.
#[derive(Debug)]
struct ForgottenTask {
    task: Arc<Stored<TaskRecord>>,
    definition: Option<Arc<DefinitionRecord>>,
}

impl Model {
    /// From a list of every key.
    pub fn of(list: &Ranged) -> Self {
        let mut model = Self { rev: list.rev, ..Self::default() };
        list.kvs.iter().for_each(|kv| model.set(kv, true));
        // Definitions may have come after their tasks.
        let tasks: Vec<_> = model.tasks.values().cloned().collect();
        tasks.iter().for_each(|task| model.set_own_definition(&task.value));
        model.routes_rev = list.rev;
        model.touched.clear();
        model
    }

    /// What changed at `rev`. Returns the nodes whose record or tasks changed.
    pub fn apply(&mut self, rev: Rev, events: &[Event]) -> BTreeSet<NodeId> {
        self.rev = rev;
        for event in events {
            match (&event.after, &event.before) {
                (Some(kv), _) => self.set(kv, true),
                (None, Some(kv)) => self.set(kv, false),
                (None, None) => {}
            }
        }
        std::mem::take(&mut self.touched)
    }

    /// Tasks on `node` that have not ended, in the order of their keys.
    pub fn tasks_on(&self, node: &NodeId) -> impl Iterator<Item = &Arc<Stored<TaskRecord>>> {
        self.by_node.get(node).into_iter().flatten().filter_map(|key| self.tasks.get(key))
    }

    /// Tasks of `tenant` that have not ended.
    pub fn live_tasks_of(&self, tenant: &Tenant) -> impl Iterator<Item = &TaskRecord> {
        let tasks = self.tasks.values().map(|stored| &stored.value);
        tasks.filter(move |task| task.tenant == *tenant && !task.has_ended())
    }

    pub fn services_of(&self, tenant: &Tenant) -> impl Iterator<Item = &ServiceRecord> {
        let of = move |((owner, ..), _): &(&ServiceKey, _)| owner == tenant;
        self.services.iter().filter(of).map(|(_, stored)| &stored.value)
    }

    pub fn volumes_of(&self, tenant: &Tenant) -> impl Iterator<Item = &VolumeName> {
        self.volumes.keys().filter(move |(owner, _)| owner == tenant).map(|(_, name)| name)
    }

    pub fn definition_bytes_of(&self, tenant: &Tenant) -> u64 {
        let own = self.definition_bytes.iter().filter(|((owner, _), _)| owner == tenant);
        own.map(|(_, bytes)| bytes).sum()
    }

    /// Tenants that have something, or a quota of their own.
    pub fn tenants(&self) -> BTreeSet<Tenant> {
        let owners = self.clusters.iter().map(|(owner, _)| owner);
        let owners = owners.chain(self.definitions.keys().map(|(owner, _)| owner));
        let owners = owners.chain(self.nodes.values().filter_map(|node| node.tenant.as_ref()));
        let owners = owners.chain(self.secrets.iter().map(|(owner, _)| owner));
        owners.chain(self.quotas.keys()).cloned().collect()
    }

    /// A task and its definition as they are, or as they were when the task was forgotten.
    pub fn known_task(&self, key: &TaskKey) -> Option<(&TaskRecord, &DefinitionRecord)> {
        if let Some(task) = self.tasks.get(key) {
            return Some((&task.value, &**self.definition_of(&task.value)?));
        }
        let mut forgotten = self.forgotten.iter().rev();
        let ForgottenTask { task, definition } =
            forgotten.find(|forgotten| forgotten.task.value.key() == *key)?;
        Some((&task.value, &**definition.as_ref()?))
    }

    /// With what the task changes in it.
    pub fn definition_of(&self, record: &TaskRecord) -> Option<&Arc<DefinitionRecord>> {
        match record.task.spec.overrides {
            None => self.registered_definition_of(record),
            Some(_) => self.own_definitions.get(&record.key()),
        }
    }

    fn registered_definition_of(&self, record: &TaskRecord) -> Option<&Arc<DefinitionRecord>> {
        self.definitions.get(&(record.tenant.clone(), record.task.spec.task_definition.clone()))
    }

    fn set(&mut self, kv: &Kv, exists: bool) {
        if let Err(error) = self.try_set(kv, exists) {
            // Going on without one object is better than not going on; no release wrote it.
            tracing::error!(%error, exists, "a stored object cannot be read and is left out");
        }
    }

    /// Takes over the object of `kv`; one that does not exist any more is the last that was there.
    fn try_set(&mut self, kv: &Kv, exists: bool) -> Result<(), store::Error> {
        match Kind::of(&kv.key) {
            Kind::Cluster(tenant) => {
                set_member(&mut self.clusters, (tenant, decode::<Cluster>(kv)?.name), exists);
            }
            Kind::Definition(tenant) => {
                let record: DefinitionRecord = decode(kv)?;
                let key = (tenant, record.id.clone());
                let bytes = exists.then_some(kv.value.len() as u64);
                set_entry(&mut self.definition_bytes, key.clone(), bytes);
                set_entry(&mut self.definitions, key, exists.then(|| Arc::new(record)));
            }
            Kind::Service(tenant) => self.set_service(tenant, Stored::of(kv)?, exists),
            Kind::Task(tenant) => self.set_task(tenant, Stored::of(kv)?, exists),
            Kind::Volume(tenant) => {
                let volume: Volume = decode(kv)?;
                let key = (tenant, volume.name.clone());
                set_entry(&mut self.volumes, key, exists.then_some(volume));
            }
            Kind::Secret(tenant) => {
                let name = decode::<SecretRecord>(kv)?.secret.name;
                set_member(&mut self.secrets, (tenant, name), exists);
            }
            Kind::HostCertificate(tenant) => {
                let certificate = decode::<CertificateRecord>(kv)?.certificate;
                let key = (tenant, certificate.name.clone());
                set_entry(&mut self.certificates, key, exists.then_some(certificate));
                self.routes_rev = self.rev;
            }
            Kind::Order(tenant) => self.set_order(tenant, decode(kv)?, exists),
            Kind::Node => {
                let node = Arc::new(decode::<NodeRecord>(kv)?);
                self.touched.insert(node.id.clone());
                let after = exists.then(|| node.clone());
                let before = set_entry(&mut self.nodes, node.id.clone(), after.clone());
                let ingress = |node: Arc<NodeRecord>| {
                    (node.in_pool(), node.tenant.clone(), node.spec.ingress_address.clone())
                };
                if before.map(ingress) != after.map(ingress) {
                    self.routes_rev = self.rev;
                }
            }
            Kind::NodeGroup => {
                let group = Stored::<NodeGroup>::of(kv)?;
                let name = group.value.name.clone();
                set_entry(&mut self.node_groups, name, exists.then(|| Arc::new(group)));
            }
            Kind::Quota(tenant) => {
                set_entry(&mut self.quotas, tenant, exists.then_some(decode(kv)?));
            }
            Kind::Host => {
                let claim: HostClaim = decode(kv)?;
                set_entry(&mut self.hosts, claim.host.clone(), exists.then_some(claim));
                self.routes_rev = self.rev;
            }
            Kind::Idempotency => set_member(&mut self.idempotency, kv.key.clone(), exists),
            Kind::Other => {}
        }
        Ok(())
    }

    fn set_order(&mut self, tenant: Tenant, record: OrderRecord, exists: bool) {
        let key = (tenant, record.order.host.clone());
        let challenge = record.challenge.clone().filter(|_| exists);
        let before = set_entry(&mut self.orders, key, exists.then_some(record));
        if before.and_then(|before| before.challenge) != challenge {
            self.routes_rev = self.rev;
        }
    }

    fn set_service(&mut self, tenant: Tenant, stored: Stored<ServiceRecord>, exists: bool) {
        let service = &stored.value.service;
        let key = (tenant, service.cluster.clone(), service.name.clone());
        let after = exists.then(|| Arc::new(stored));
        let before = set_entry(&mut self.services, key, after.clone());
        let route = |service: Arc<Stored<ServiceRecord>>| {
            let spec = &service.value.service.spec;
            let follows = spec.scaling.as_ref().map(spec::Scaling::follows_requests);
            let share = (service.value.newest_percent(), follows);
            (spec.ingress.clone(), spec.task_definition.clone(), share)
        };
        if before.map(route) != after.map(route) {
            self.routes_rev = self.rev;
        }
    }

    /// A revision never changes, nor does what a task changes in it.
    fn set_own_definition(&mut self, record: &TaskRecord) {
        let Some(overrides) = &record.task.spec.overrides else { return };
        let Some(registered) = self.registered_definition_of(record) else { return };
        match DefinitionRecord::clone(registered).with(Some(overrides)) {
            Ok(own) => {
                self.own_definitions.insert(record.key(), Arc::new(own));
            }
            // What it was to have less of, it must not have more of.
            Err(error) => {
                tracing::error!(%error, task = %record.id(), "its overrides cannot be applied");
            }
        }
    }

    fn set_task(&mut self, tenant: Tenant, stored: Stored<TaskRecord>, exists: bool) {
        let key = (tenant, stored.value.id().clone());
        if let Some(node) = &stored.value.task.spec.node {
            self.touched.insert(node.clone());
            let on_node = self.by_node.entry(node.clone()).or_default();
            set_member(on_node, key.clone(), exists && !stored.value.has_ended());
        }
        let stored = Arc::new(stored);
        if exists && !self.own_definitions.contains_key(&key) {
            self.set_own_definition(&stored.value);
        }
        if !exists {
            let definition = self.definition_of(&stored.value).cloned();
            self.own_definitions.remove(&key);
            self.forgotten.push_back(ForgottenTask { task: stored.clone(), definition });
            if self.forgotten.len() > FORGOTTEN_TASKS_MAX {
                self.forgotten.pop_front();
            }
        }
        let after = exists.then_some(stored);
        let before = set_entry(&mut self.tasks, key, after.clone());
        let route = |task: Option<Arc<Stored<TaskRecord>>>| {
            task.map(|task| (task.value.is_routable(), task.value.has_own_host()))
        };
        if route(before).unwrap_or_default() != route(after).unwrap_or_default() {
            self.routes_rev = self.rev;
        }
    }
}

fn set_member<K: Ord>(set: &mut BTreeSet<K>, key: K, exists: bool) {
    match exists {
        true => set.insert(key),
        false => set.remove(&key),
    };
}

/// The value before.
fn set_entry<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) -> Option<V> {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    }
}
