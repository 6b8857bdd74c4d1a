use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use spec::{
    NodeCondition, NodeId, Protocol, TaskPhase, Tenant,
    wire::{self, Backend, DesiredSet, DesiredTask, RouteTable},
};

use crate::{
    app::App,
    model::{Model, ServiceKey},
    records::{DefinitionRecord, NodeRecord, TaskRecord},
};

/// What each node was last told, so that only a real change has a new revision.
#[derive(Debug, Default)]
pub(crate) struct Sets(Mutex<BTreeMap<NodeId, Arc<DesiredSet>>>);

impl App {
    /// Everything that should run on `node`, and what its ingress should know.
    pub fn desired_set(&self, node: &NodeRecord) -> Arc<DesiredSet> {
        let model = self.model.read();
        let tasks: Vec<DesiredTask> = model
            .tasks_on(&node.id)
            .filter_map(|kept| desired_task(&kept.value, model.definition_of(&kept.value)?))
            .collect();
        let visible: BTreeSet<&Tenant> =
            tasks.iter().map(|task| &task.tenant).chain(&node.tenant).collect();
        let routes = self.route_table(&model, |tenant| node.in_pool() || visible.contains(tenant));
        let mut sets = self.sets.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = sets.get(&node.id);
        if let Some(before) =
            before.filter(|before| before.tasks == tasks && before.routes == routes)
        {
            return before.clone();
        }
        // Routes change with what nodes say, too, and that has no revision in the store.
        let revision = before.map_or(model.rev, |before| model.rev.max(before.revision + 1));
        let set = Arc::new(DesiredSet {
            version: wire::VERSION,
            epoch: self.epoch.number,
            revision,
            tasks,
            routes,
        });
        sets.insert(node.id.clone(), set.clone());
        set
    }

    /// The revision that `node` was last told.
    pub fn told(&self, node: &NodeId) -> Option<i64> {
        let sets = self.sets.0.lock().unwrap_or_else(PoisonError::into_inner);
        sets.get(node).map(|set| set.revision)
    }

    pub fn forget_set(&self, node: &NodeId) {
        self.sets.0.lock().unwrap_or_else(PoisonError::into_inner).remove(node);
    }

    /// Who answers for which host name, of the tenants that `visible` lets through. A service
    /// without a running copy has its name there and nobody behind it.
    pub fn route_table(&self, model: &Model, visible: impl Fn(&Tenant) -> bool) -> RouteTable {
        let mut hosts: BTreeMap<ServiceKey, Vec<Backend>> = model
            .services
            .keys()
            .filter(|(tenant, ..)| visible(tenant))
            .map(|key| (key.clone(), Vec::new()))
            .collect();
        for (node, keys) in &model.by_node {
            if self.live.node(node).condition == NodeCondition::Disconnected {
                continue;
            }
            for kept in keys.iter().filter_map(|key| model.tasks.get(key)) {
                let Some((key, backend)) = backend(model, &kept.value, node) else { continue };
                if let Some(backends) = hosts.get_mut(&key) {
                    backends.push(backend);
                }
            }
        }
        let hosts =
            hosts.into_iter().map(|(key, backends)| (self.host_name(&key), backends)).collect();
        let ingresses = model
            .nodes
            .values()
            .filter(|node| node.in_pool() || node.tenant.as_ref().is_some_and(&visible))
            .filter_map(|node| Some((node.id.clone(), node.spec.ingress_address.clone()?)))
            .collect();
        RouteTable { version: wire::VERSION, hosts, ingresses }
    }

    /// `SERVICE.CLUSTER.localhost` for the operator's services. Every other tenant has its own name
    /// in front of the domain, so nobody can take a name from anybody.
    pub fn host_name(&self, (tenant, cluster, service): &ServiceKey) -> String {
        match *tenant == self.tenant {
            true => format!("{service}.{cluster}.{}", self.domain),
            false => format!("{service}.{cluster}.{tenant}.{}", self.domain),
        }
    }
}

fn desired_task(record: &TaskRecord, definition: &DefinitionRecord) -> Option<DesiredTask> {
    let spec = &record.task.spec;
    Some(DesiredTask {
        id: record.id().clone(),
        tenant: record.tenant.clone(),
        cluster: spec.cluster.clone(),
        service: spec.service.clone(),
        definition_id: spec.task_definition.clone(),
        definition: definition.definition.clone(),
        launch_type: spec.launch_type,
        stop: spec.stop,
        pull_token: None,
    })
}

fn backend(model: &Model, record: &TaskRecord, node: &NodeId) -> Option<(ServiceKey, Backend)> {
    let spec = &record.task.spec;
    if record.task.status.phase != TaskPhase::Running || !record.is_wanted() {
        return None;
    }
    let definition = &model.definition_of(record)?.definition;
    let mut ports = definition.containers.iter().flat_map(|container| &container.ports);
    let container_port = ports.find(|port| port.protocol == Protocol::Http)?.container_port;
    let key = (record.tenant.clone(), spec.cluster.clone(), spec.service.clone()?);
    let (tenant, task) = (record.tenant.clone(), record.id().clone());
    Some((key, Backend { node: node.clone(), tenant, task, container_port }))
}
