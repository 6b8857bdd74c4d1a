use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use spec::{ClusterName, NodeId, SecretName, TaskDefinitionId, Tenant, VolumeName};
use store::{Event, Kv, Ranged, Rev};

use super::{
    keys::Kind,
    objects::Volume,
    records::{
        DefinitionRecord, NodeRecord, SecretRecord, ServiceKey, ServiceRecord, Stored, TaskKey,
        TaskRecord,
    },
};

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
    pub nodes: BTreeMap<NodeId, Arc<NodeRecord>>,
    pub volumes: BTreeMap<(Tenant, VolumeName), Volume>,
    /// Their values stay in the store, sealed.
    pub secrets: BTreeSet<(Tenant, SecretName)>,
    /// Of tasks that have not ended.
    pub by_node: BTreeMap<NodeId, BTreeSet<TaskKey>>,
    /// Keys of answers to creates, which go after a day.
    pub idempotency: BTreeSet<Arc<str>>,
    /// By the events that are being applied.
    touched: BTreeSet<NodeId>,
}

impl Model {
    /// From a list of every key.
    pub fn of(list: &Ranged) -> Self {
        let mut model = Self { rev: list.rev, ..Self::default() };
        list.kvs.iter().for_each(|kv| model.put(kv));
        model.routes_rev = list.rev;
        model.touched.clear();
        model
    }

    /// What changed at `rev`. Returns the nodes whose record or tasks changed.
    pub fn apply(&mut self, rev: Rev, events: &[Event]) -> BTreeSet<NodeId> {
        self.rev = rev;
        for event in events {
            match (&event.after, &event.before) {
                (Some(kv), _) => self.put(kv),
                (None, Some(kv)) => self.remove(kv),
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

    pub fn definition_of(&self, record: &TaskRecord) -> Option<&Arc<DefinitionRecord>> {
        self.definitions.get(&(record.tenant.clone(), record.task.spec.task_definition.clone()))
    }

    fn put(&mut self, kv: &Kv) {
        if let Err(error) = self.try_put(kv) {
            // Going on without one object is better than not going on; no release wrote it.
            tracing::error!(%error, "a stored object cannot be read and is left out");
        }
    }

    fn try_put(&mut self, kv: &Kv) -> Result<(), store::Error> {
        match Kind::of(&kv.key) {
            Kind::Cluster(tenant) => {
                let cluster = Stored::<spec::Cluster>::of(kv)?.value;
                self.clusters.insert((tenant, cluster.name));
            }
            Kind::Definition(tenant) => {
                let record = Stored::<DefinitionRecord>::of(kv)?.value;
                self.definitions.insert((tenant, record.id.clone()), Arc::new(record));
            }
            Kind::Service(tenant) => {
                let stored = Stored::<ServiceRecord>::of(kv)?;
                let service = &stored.value.service;
                let key = (tenant, service.cluster.clone(), service.name.clone());
                if self.services.insert(key, Arc::new(stored)).is_none() {
                    self.routes_rev = self.rev;
                }
            }
            Kind::Task(tenant) => self.put_task(tenant, Stored::of(kv)?),
            Kind::Volume(tenant) => {
                let volume = Stored::<Volume>::of(kv)?.value;
                self.volumes.insert((tenant, volume.name.clone()), volume);
            }
            Kind::Secret(tenant) => {
                self.secrets.insert((tenant, Stored::<SecretRecord>::of(kv)?.value.secret.name));
            }
            Kind::Node => {
                let record = Stored::<NodeRecord>::of(kv)?.value;
                self.touched.insert(record.id.clone());
                let ingress = |node: &NodeRecord| {
                    (node.in_pool(), node.tenant.clone(), node.spec.ingress_address.clone())
                };
                let after = ingress(&record);
                let before = self.nodes.insert(record.id.clone(), Arc::new(record));
                if before.is_none_or(|before| ingress(&before) != after) {
                    self.routes_rev = self.rev;
                }
            }
            Kind::Idempotency => drop(self.idempotency.insert(kv.key.clone())),
            Kind::Other => {}
        }
        Ok(())
    }

    fn put_task(&mut self, tenant: Tenant, stored: Stored<TaskRecord>) {
        let key = (tenant, stored.value.id().clone());
        let before = self.tasks.get(&key).is_some_and(|before| before.value.is_routable());
        if before != stored.value.is_routable() {
            self.routes_rev = self.rev;
        }
        if let Some(node) = &stored.value.task.spec.node {
            self.touched.insert(node.clone());
            let on_node = self.by_node.entry(node.clone()).or_default();
            match stored.value.has_ended() {
                true => on_node.remove(&key),
                false => on_node.insert(key.clone()),
            };
        }
        self.tasks.insert(key, Arc::new(stored));
    }

    fn remove(&mut self, kv: &Kv) {
        if let Err(error) = self.try_remove(kv) {
            tracing::error!(%error, "a deleted object cannot be read");
        }
    }

    fn try_remove(&mut self, kv: &Kv) -> Result<(), store::Error> {
        match Kind::of(&kv.key) {
            Kind::Cluster(tenant) => {
                self.clusters.remove(&(tenant, Stored::<spec::Cluster>::of(kv)?.value.name));
            }
            Kind::Definition(tenant) => {
                self.definitions.remove(&(tenant, Stored::<DefinitionRecord>::of(kv)?.value.id));
            }
            Kind::Service(tenant) => {
                let service = Stored::<ServiceRecord>::of(kv)?.value.service;
                self.services.remove(&(tenant, service.cluster, service.name));
                self.routes_rev = self.rev;
            }
            Kind::Task(tenant) => {
                let record = Stored::<TaskRecord>::of(kv)?.value;
                let key = (tenant, record.id().clone());
                if let Some(node) = &record.task.spec.node {
                    self.touched.insert(node.clone());
                    if let Some(on_node) = self.by_node.get_mut(node) {
                        on_node.remove(&key);
                    }
                }
                if self.tasks.remove(&key).is_some_and(|task| task.value.is_routable()) {
                    self.routes_rev = self.rev;
                }
            }
            Kind::Volume(tenant) => {
                drop(self.volumes.remove(&(tenant, Stored::<Volume>::of(kv)?.value.name)))
            }
            Kind::Secret(tenant) => {
                self.secrets.remove(&(tenant, Stored::<SecretRecord>::of(kv)?.value.secret.name));
            }
            Kind::Node => {
                let id = Stored::<NodeRecord>::of(kv)?.value.id;
                self.nodes.remove(&id);
                self.touched.insert(id);
                self.routes_rev = self.rev;
            }
            Kind::Idempotency => drop(self.idempotency.remove(&kv.key)),
            Kind::Other => {}
        }
        Ok(())
    }
}
