use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use spec::{
    ClusterName, NodeId, SecretName, ServiceName, TaskDefinitionId, TaskId, Tenant, VolumeName,
};
use store::{Event, Kv, Ranged, Rev};

use crate::{
    api::Volume,
    keys::Kind,
    records::{DefinitionRecord, Kept, NodeRecord, SecretRecord, ServiceRecord, TaskRecord},
};

pub(crate) type ServiceKey = (Tenant, ClusterName, ServiceName);
pub(crate) type TaskKey = (Tenant, TaskId);

/// Everything that planning and routing need, in memory, as of one revision of the store. It
/// follows a watch, so it may be behind; whatever is decided from it is written with a compare that
/// fails when it was.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub rev: Rev,
    pub clusters: BTreeSet<(Tenant, ClusterName)>,
    pub definitions: BTreeMap<(Tenant, TaskDefinitionId), Arc<DefinitionRecord>>,
    pub services: BTreeMap<ServiceKey, Arc<Kept<ServiceRecord>>>,
    pub tasks: BTreeMap<TaskKey, Arc<Kept<TaskRecord>>>,
    pub nodes: BTreeMap<NodeId, Arc<NodeRecord>>,
    pub volumes: BTreeMap<(Tenant, VolumeName), Volume>,
    /// Which there are. Their values stay in the store, sealed.
    pub secrets: BTreeSet<(Tenant, SecretName)>,
    /// Of tasks that have not ended.
    pub by_node: BTreeMap<NodeId, BTreeSet<TaskKey>>,
    /// Keys of answers to creates, which go after a day.
    pub idempotency: BTreeSet<Arc<str>>,
}

impl Model {
    /// From a list of everything.
    pub fn of(list: &Ranged) -> Self {
        let mut model = Self { rev: list.rev, ..Self::default() };
        list.kvs.iter().for_each(|kv| model.put(kv));
        model
    }

    /// What changed at `rev`.
    pub fn apply(&mut self, rev: Rev, events: &[Event]) {
        for event in events {
            match (&event.after, &event.before) {
                (Some(kv), _) => self.put(kv),
                (None, Some(kv)) => self.remove(kv),
                (None, None) => {}
            }
        }
        self.rev = rev;
    }

    /// Tasks on `node` that have not ended, in the order of their keys.
    pub fn tasks_on(&self, node: &NodeId) -> impl Iterator<Item = &Arc<Kept<TaskRecord>>> {
        self.by_node.get(node).into_iter().flatten().filter_map(|key| self.tasks.get(key))
    }

    pub fn definition_of(&self, record: &TaskRecord) -> Option<&Arc<DefinitionRecord>> {
        self.definitions.get(&(record.tenant.clone(), record.task.spec.task_definition.clone()))
    }

    fn put(&mut self, kv: &Kv) {
        if let Err(error) = self.try_put(kv) {
            // Going on without one object is better than not going on; it cannot be what we wrote.
            tracing::error!(%error, "a stored object cannot be read and is left out");
        }
    }

    fn try_put(&mut self, kv: &Kv) -> Result<(), store::Error> {
        match Kind::of(&kv.key) {
            Kind::Cluster(tenant) => {
                let cluster = Kept::<spec::Cluster>::of(kv)?.value;
                self.clusters.insert((tenant, cluster.name));
            }
            Kind::Definition(tenant) => {
                let record = Kept::<DefinitionRecord>::of(kv)?.value;
                self.definitions.insert((tenant, record.id.clone()), Arc::new(record));
            }
            Kind::Service(tenant) => {
                let kept = Kept::<ServiceRecord>::of(kv)?;
                let service = &kept.value.service;
                self.services.insert(
                    (tenant, service.cluster.clone(), service.name.clone()),
                    Arc::new(kept),
                );
            }
            Kind::Task(tenant) => self.put_task(tenant, Kept::of(kv)?),
            Kind::Volume(tenant) => {
                let volume = Kept::<Volume>::of(kv)?.value;
                self.volumes.insert((tenant, volume.name.clone()), volume);
            }
            Kind::Secret(tenant) => {
                self.secrets.insert((tenant, Kept::<SecretRecord>::of(kv)?.value.secret.name));
            }
            Kind::Node => {
                let record = Kept::<NodeRecord>::of(kv)?.value;
                self.nodes.insert(record.id.clone(), Arc::new(record));
            }
            Kind::Idempotency => drop(self.idempotency.insert(kv.key.clone())),
            Kind::Other => {}
        }
        Ok(())
    }

    fn put_task(&mut self, tenant: Tenant, kept: Kept<TaskRecord>) {
        let key = (tenant, kept.value.id().clone());
        if let Some(node) = &kept.value.task.spec.node {
            let on_node = self.by_node.entry(node.clone()).or_default();
            match kept.value.has_ended() {
                true => on_node.remove(&key),
                false => on_node.insert(key.clone()),
            };
        }
        self.tasks.insert(key, Arc::new(kept));
    }

    fn remove(&mut self, kv: &Kv) {
        if let Err(error) = self.try_remove(kv) {
            tracing::error!(%error, "a deleted object cannot be read");
        }
    }

    fn try_remove(&mut self, kv: &Kv) -> Result<(), store::Error> {
        match Kind::of(&kv.key) {
            Kind::Cluster(tenant) => {
                self.clusters.remove(&(tenant, Kept::<spec::Cluster>::of(kv)?.value.name));
            }
            Kind::Definition(tenant) => {
                self.definitions.remove(&(tenant, Kept::<DefinitionRecord>::of(kv)?.value.id));
            }
            Kind::Service(tenant) => {
                let service = Kept::<ServiceRecord>::of(kv)?.value.service;
                self.services.remove(&(tenant, service.cluster, service.name));
            }
            Kind::Task(tenant) => {
                let record = Kept::<TaskRecord>::of(kv)?.value;
                let key = (tenant, record.id().clone());
                if let Some(on_node) =
                    record.task.spec.node.as_ref().and_then(|node| self.by_node.get_mut(node))
                {
                    on_node.remove(&key);
                }
                self.tasks.remove(&key);
            }
            Kind::Volume(tenant) => {
                drop(self.volumes.remove(&(tenant, Kept::<Volume>::of(kv)?.value.name)))
            }
            Kind::Secret(tenant) => {
                self.secrets.remove(&(tenant, Kept::<SecretRecord>::of(kv)?.value.secret.name));
            }
            Kind::Node => drop(self.nodes.remove(&Kept::<NodeRecord>::of(kv)?.value.id)),
            Kind::Idempotency => drop(self.idempotency.remove(&kv.key)),
            Kind::Other => {}
        }
        Ok(())
    }
}
