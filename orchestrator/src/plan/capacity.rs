use std::collections::{BTreeMap, BTreeSet};

use spec::{LaunchType, NodeCondition, NodeId, TaskId, Tenant, VolumeName};

use super::reason::Lack;
use crate::{
    limits::{CONTAINER_CPU_MILLIS_MIN, CONTAINER_MEMORY_BYTES_MIN, TASKS_PER_NODE_MAX},
    state::{
        model::Model,
        objects::Runs,
        records::{DefinitionRecord, NodeRecord, ServiceKey, TaskRecord},
    },
};

/// What nodes have left while a plan is made. It only shrinks: a task that this plan stops still
/// has its share.
pub(super) struct Capacity<'a> {
    pub nodes: BTreeMap<&'a NodeId, NodeCapacity<'a>>,
    /// Tasks that may be writing to a volume.
    writers: BTreeMap<(Tenant, VolumeName), Vec<TaskId>>,
}

/// One node.
pub(super) struct NodeCapacity<'a> {
    pub node: &'a NodeRecord,
    condition: NodeCondition,
    pub left: Left,
    /// Of each service, without tasks that were asked to end.
    replicas: BTreeMap<ServiceKey, usize>,
}

/// What a node has left.
#[derive(Debug, Clone)]
pub(super) struct Left {
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    /// How many have not ended.
    tasks: usize,
    ports_taken: BTreeSet<u16>,
}

/// A task that needs a node.
pub(super) struct PlacementRequest<'a> {
    pub task: &'a TaskRecord,
    pub definition: &'a DefinitionRecord,
    /// The service whose replicas to spread.
    pub service: Option<&'a ServiceKey>,
    /// Nodes to take only when no other will do.
    pub avoid: Vec<&'a NodeId>,
}

impl<'a> Capacity<'a> {
    /// What every task that has not ended leaves of each node. A task whose node is silent still
    /// counts there: it may well be running.
    pub fn left_on(model: &'a Model, conditions: &BTreeMap<NodeId, NodeCondition>) -> Self {
        let nodes = model.nodes.iter().map(|(id, node)| {
            let left = Left {
                cpu_millis: u64::from(node.spec.capacity.cpu_millis),
                memory_bytes: node.spec.capacity.memory_bytes,
                tasks: 0,
                ports_taken: BTreeSet::new(),
            };
            let condition = conditions.get(id).copied().unwrap_or(NodeCondition::Disconnected);
            (id, NodeCapacity { node, condition, left, replicas: BTreeMap::new() })
        });
        let mut capacity = Self { nodes: nodes.collect(), writers: BTreeMap::new() };
        for record in model.tasks.values().map(|stored| &stored.value) {
            let node = record.task.spec.node.as_ref();
            let Some(node) = node.and_then(|node| capacity.nodes.get_mut(node)) else { continue };
            if record.has_ended() {
                continue;
            }
            node.left.tasks += 1;
            if let (Some(service), true) = (record.service_key(), record.is_wanted()) {
                *node.replicas.entry(service).or_default() += 1;
            }
            if let Some(definition) = model.definition_of(record) {
                node.left.take(definition);
                capacity.write(record, definition);
            }
        }
        capacity
    }

    /// Takes the share of `request` on `node`.
    pub fn take(&mut self, request: &PlacementRequest<'_>, node: &NodeId) {
        let node = self.nodes.get_mut(node).expect("it was found in here");
        node.left.tasks += 1;
        node.left.take(request.definition);
        if let Some(service) = request.service {
            *node.replicas.entry(service.clone()).or_default() += 1;
        }
        self.write(request.task, request.definition);
    }

    /// From now on `task` may write to the volumes of its definition.
    fn write(&mut self, task: &TaskRecord, definition: &DefinitionRecord) {
        for volume in definition.written() {
            let writers = self.writers.entry((task.tenant.clone(), volume.clone())).or_default();
            if !writers.contains(task.id()) {
                writers.push(task.id().clone());
            }
        }
    }

    /// Tasks that may be writing to a volume that `request` wants to write to.
    pub fn writers_of<'r>(
        &'r self,
        request: &'r PlacementRequest<'_>,
    ) -> impl Iterator<Item = (&'r VolumeName, &'r TaskId)> {
        let of = |volume: &'r VolumeName| {
            let writers = self.writers.get(&(request.task.tenant.clone(), volume.clone()));
            writers.into_iter().flatten().map(move |writer| (volume, writer))
        };
        request.definition.written().flat_map(of)
    }
}

impl NodeCapacity<'_> {
    /// Whether its tasks may be of this tenant and launch type.
    pub fn offers(&self, request: &PlacementRequest<'_>) -> bool {
        match request.task.task.spec.launch_type {
            LaunchType::Node => self.node.tenant.as_ref() == Some(&request.task.tenant),
            LaunchType::Pool => self.node.in_pool(),
        }
    }

    /// The first thing that `request` needs and this node, with `left` on it, lacks.
    pub fn lack(
        &self,
        left: &Left,
        request: &PlacementRequest<'_>,
        volume_node: Option<&NodeId>,
    ) -> Option<Lack> {
        if volume_node.is_some_and(|node| *node != self.node.id) {
            return Some(Lack::Volume);
        }
        if self.condition != NodeCondition::Ready {
            return Some(Lack::NotReady);
        }
        if self.node.drain {
            return Some(Lack::Drained);
        }
        if !self.runs(request.definition) {
            return Some(Lack::OciRuntime);
        }
        let mut ports = host_ports(request.definition);
        if let Some(port) = ports.find(|port| left.ports_taken.contains(port)) {
            return Some(Lack::HostPort(port));
        }
        if left.tasks >= TASKS_PER_NODE_MAX {
            return Some(Lack::TaskLimit);
        }
        let (cpu_millis, memory_bytes) = reserved(request.definition);
        (left.cpu_millis < cpu_millis || left.memory_bytes < memory_bytes).then_some(
            Lack::Resources { cpu_millis: left.cpu_millis, memory_bytes: left.memory_bytes },
        )
    }

    pub fn replicas_of(&self, service: Option<&ServiceKey>) -> usize {
        service.and_then(|key| self.replicas.get(key)).copied().unwrap_or_default()
    }

    fn runs(&self, definition: &DefinitionRecord) -> bool {
        definition.runs.iter().all(|runs| match runs {
            Runs::Wasm => true,
            Runs::Native(architectures) => {
                self.node.spec.runs_native && architectures.contains(&self.node.spec.architecture)
            }
        })
    }
}

impl Left {
    fn take(&mut self, definition: &DefinitionRecord) {
        let (cpu, memory) = reserved(definition);
        self.cpu_millis = self.cpu_millis.saturating_sub(cpu);
        self.memory_bytes = self.memory_bytes.saturating_sub(memory);
        self.ports_taken.extend(host_ports(definition));
    }

    /// What would be left without one task of `definition`.
    pub fn without(&self, definition: &DefinitionRecord) -> Self {
        let (cpu, memory) = reserved(definition);
        let freed: BTreeSet<u16> = host_ports(definition).collect();
        Self {
            cpu_millis: self.cpu_millis + cpu,
            memory_bytes: self.memory_bytes.saturating_add(memory),
            tasks: self.tasks.saturating_sub(1),
            ports_taken: self.ports_taken.difference(&freed).copied().collect(),
        }
    }
}

/// What its containers reserve together, and at least: thousandths of a processor, and bytes.
pub(crate) fn reserved(definition: &DefinitionRecord) -> (u64, u64) {
    let containers = &definition.definition.containers;
    let cpu = containers.iter().map(|one| u64::from(one.cpu_millis.max(CONTAINER_CPU_MILLIS_MIN)));
    let memory = containers.iter().map(|one| one.memory_soft_bytes.max(CONTAINER_MEMORY_BYTES_MIN));
    (cpu.sum(), memory.fold(0, u64::saturating_add))
}

/// The ports that it takes on its host; 0 is any free one and takes none.
pub(super) fn host_ports(definition: &DefinitionRecord) -> impl Iterator<Item = u16> {
    let ports = definition.definition.containers.iter().flat_map(|container| &container.ports);
    ports.filter_map(|port| port.host_port).filter(|port| *port != 0)
}
