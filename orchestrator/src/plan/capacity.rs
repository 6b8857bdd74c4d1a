use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use spec::{
    LaunchType, NodeCondition, NodeId, NodeProblemKind, Placement, PlacementConstraint,
    TaskDefinition, TaskId, Tenant, VolumeName,
};

use super::{Observed, reason::Lack};
use crate::{
    limits::{CONTAINER_CPU_MILLIS_MIN, CONTAINER_MEMORY_BYTES_MIN, TASKS_PER_NODE_MAX},
    state::{
        model::Model,
        objects::Runs,
        records::{DefinitionRecord, NodeRecord, ServiceKey, TaskKey, TaskRecord},
    },
};

/// A replica of a service.
pub(super) type ReplicaKey = (ServiceKey, u32);

/// What nodes have left while a plan is made. It only shrinks: a task that this plan stops still
/// has its share.
pub(super) struct Capacity<'a> {
    pub nodes: BTreeMap<&'a NodeId, NodeCapacity<'a>>,
    /// Tasks that may be writing to a volume.
    writers: BTreeMap<(Tenant, VolumeName), Vec<TaskId>>,
    idle: &'a BTreeSet<TaskKey>,
}

/// One node.
pub(super) struct NodeCapacity<'a> {
    pub node: &'a NodeRecord,
    condition: NodeCondition,
    /// What it is short of, if anything.
    pressure: Option<NodeProblemKind>,
    pub left: Left,
    /// Of each service, without tasks that were asked to end.
    replicas: BTreeMap<ServiceKey, usize>,
    /// What is kept for replicas that are between two tasks.
    pub holds: BTreeMap<ReplicaKey, Share>,
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

/// What a task takes of a node.
#[derive(Debug, Clone, Default)]
pub(super) struct Share {
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    pub tasks: usize,
    pub ports: BTreeSet<u16>,
}

/// A task that needs a node.
pub(super) struct PlacementRequest<'a> {
    pub task: &'a TaskRecord,
    pub definition: &'a DefinitionRecord,
    /// The service whose replicas to spread.
    pub service: Option<&'a ServiceKey>,
    pub placement: &'a Placement,
    /// The one node that its task is for, as of a daemon.
    pub only: Option<&'a NodeId>,
    /// Nodes to take only when no other will do.
    pub avoid: Vec<&'a NodeId>,
}

impl PlacementRequest<'_> {
    /// The replica that it is for.
    fn replica(&self) -> Option<ReplicaKey> {
        Some((self.service?.clone(), self.task.slot?.ordinal))
    }
}

impl<'a> Capacity<'a> {
    /// What every task that has not ended leaves of each node. A task whose node is silent still
    /// counts there: it may well be running.
    pub fn left_on(model: &'a Model, observed: &'a Observed) -> Self {
        let nodes = model.nodes.iter().map(|(id, node)| {
            let condition = observed.condition(id);
            let pressure = observed.under_pressure.get(id).copied();
            (id, NodeCapacity { condition, pressure, ..NodeCapacity::unused(node) })
        });
        let (nodes, writers) = (nodes.collect(), BTreeMap::new());
        let mut capacity = Self { nodes, writers, idle: &observed.idle };
        for record in model.tasks.values().map(|stored| &stored.value) {
            if record.has_ended() {
                continue;
            }
            let definition = model.definition_of(record);
            let share = definition.map(|definition| capacity.share_of(record, definition));
            let node = record.task.spec.node.as_ref();
            let Some(node) = node.and_then(|node| capacity.nodes.get_mut(node)) else { continue };
            if let (Some(service), true) = (record.service_key(), record.is_wanted()) {
                *node.replicas.entry(service).or_default() += 1;
            }
            match share {
                Some(share) => node.left.take(&share),
                None => node.left.tasks += 1,
            }
            if let Some(definition) = definition {
                capacity.write(record, definition);
            }
        }
        capacity.hold_places(model);
        capacity
    }

    /// What a task has of its node. One without a process takes no processor; its memory is kept
    /// for its next request.
    pub fn share_of(&self, record: &TaskRecord, definition: &DefinitionRecord) -> Share {
        let share = Share::of(definition);
        match self.idle.contains(&record.key()) {
            true => Share { cpu_millis: 0, ..share },
            false => share,
        }
    }

    /// Takes the share of `request` on `node`.
    pub fn take(&mut self, request: &PlacementRequest<'_>, node: &NodeId) {
        if let Some(replica) = request.replica() {
            self.release(&replica);
        }
        let node = self.nodes.get_mut(node).expect("it was found in here");
        node.left.take(&Share::of(request.definition));
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

impl<'a> NodeCapacity<'a> {
    /// A node that has joined and has no task yet.
    pub fn unused(node: &'a NodeRecord) -> Self {
        let left = Left {
            cpu_millis: u64::from(node.spec.capacity.cpu_millis),
            memory_bytes: node.spec.capacity.memory_bytes,
            tasks: 0,
            ports_taken: BTreeSet::new(),
        };
        Self {
            node,
            condition: NodeCondition::Ready,
            pressure: None,
            left,
            replicas: BTreeMap::new(),
            holds: BTreeMap::new(),
        }
    }
}

impl NodeCapacity<'_> {
    /// Whether its tasks may be of this tenant and launch type.
    pub fn offers(&self, request: &PlacementRequest<'_>) -> bool {
        let is_it = request.only.is_none_or(|only| *only == self.node.id);
        is_it && self.node.takes(&request.task.tenant, request.task.task.spec.launch_type)
    }

    pub fn condition(&self) -> NodeCondition {
        self.condition
    }

    /// Whether it is of the kind that `request` is for, whatever it has left.
    pub fn suits(&self, request: &PlacementRequest<'_>) -> bool {
        !self.node.repels(&request.placement.tolerations)
            && self.meets(0, request)
            && self.runs(request.definition)
            && !self.is_without_consent(request)
    }

    /// Whether it takes new tasks at all.
    pub fn is_open(&self) -> bool {
        self.condition == NodeCondition::Ready
            && !self.node.drain
            && !self.node.cordoned
            && self.pressure.is_none()
    }

    /// What is left for `request`: without what is kept for others.
    pub fn left_for(&self, request: &PlacementRequest<'_>) -> Cow<'_, Left> {
        if self.holds.is_empty() {
            return Cow::Borrowed(&self.left);
        }
        let own = request.replica();
        let mut left = self.left.clone();
        let others = self.holds.iter().filter(|(replica, _)| own.as_ref() != Some(*replica));
        others.for_each(|(_, share)| left.take(share));
        Cow::Owned(left)
    }

    /// The first thing that `request` needs and this node lacks, with `left` on it and so many
    /// replicas of the same service.
    pub fn lack(
        &self,
        left: &Left,
        replicas: usize,
        request: &PlacementRequest<'_>,
        volume_node: Option<&NodeId>,
    ) -> Option<Lack> {
        if volume_node.is_some_and(|node| *node != self.node.id) {
            return Some(Lack::Volume);
        }
        if self.condition != NodeCondition::Ready {
            return Some(Lack::NotReady);
        }
        // A daemon serves what is still on its node, and goes last.
        let is_daemon = request.only.is_some();
        if self.node.drain && !is_daemon {
            return Some(Lack::Drained);
        }
        if self.node.cordoned && !is_daemon {
            return Some(Lack::Cordoned);
        }
        if let (Some(kind), false) = (self.pressure, is_daemon) {
            return Some(Lack::Pressure(kind));
        }
        if self.node.repels(&request.placement.tolerations) {
            return Some(Lack::Taint);
        }
        if !self.meets(replicas, request) {
            return Some(Lack::Constraint);
        }
        if !self.runs(request.definition) {
            return Some(Lack::OciRuntime);
        }
        if self.is_without_consent(request) {
            return Some(Lack::PoolNative);
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

    /// Whether it is what `request` and its definition say that a node must be.
    fn meets(&self, replicas: usize, request: &PlacementRequest<'_>) -> bool {
        let own = request.placement.constraints.iter().all(|constraint| match constraint {
            PlacementConstraint::DistinctInstance => replicas == 0,
            PlacementConstraint::MemberOf(expression) => self.fulfils(expression, request),
        });
        let mut of_definition = request.definition.definition.placement_constraints.iter();
        own && of_definition.all(|expression| self.fulfils(expression, request))
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

    /// Programs of other tenants run in a kernel that they share with the node's own, so its
    /// operator has to consent.
    fn is_without_consent(&self, request: &PlacementRequest<'_>) -> bool {
        request.task.task.spec.launch_type == LaunchType::Pool
            && request.definition.is_native()
            && !self.node.takes_native_of_pool()
    }
}

impl Left {
    fn take(&mut self, share: &Share) {
        self.cpu_millis = self.cpu_millis.saturating_sub(share.cpu_millis);
        self.memory_bytes = self.memory_bytes.saturating_sub(share.memory_bytes);
        self.tasks += share.tasks;
        self.ports_taken.extend(&share.ports);
    }

    /// What would be left without a task that has `share`.
    pub fn without(&self, share: &Share) -> Self {
        Self {
            cpu_millis: self.cpu_millis + share.cpu_millis,
            memory_bytes: self.memory_bytes.saturating_add(share.memory_bytes),
            tasks: self.tasks.saturating_sub(share.tasks),
            ports_taken: self.ports_taken.difference(&share.ports).copied().collect(),
        }
    }
}

impl Share {
    pub fn of(definition: &DefinitionRecord) -> Self {
        let (cpu_millis, memory_bytes) = reserved(definition);
        Self { cpu_millis, memory_bytes, tasks: 1, ports: host_ports(definition).collect() }
    }
}

/// What it reserves as a whole, or its containers together, and at least: thousandths of a
/// processor, and bytes.
pub(crate) fn reserved(definition: &DefinitionRecord) -> (u64, u64) {
    let TaskDefinition { containers, cpu_millis, memory_bytes, .. } = &definition.definition;
    let cpu = containers.iter().map(|one| u64::from(one.cpu_millis.max(CONTAINER_CPU_MILLIS_MIN)));
    let memory = containers.iter().map(|one| one.memory_soft_bytes.max(CONTAINER_MEMORY_BYTES_MIN));
    let cpu = cpu.sum::<u64>().max(cpu_millis.unwrap_or_default().into());
    (cpu, memory.fold(0, u64::saturating_add).max(memory_bytes.unwrap_or_default()))
}

/// The ports that it takes on its host; 0 is any free one and takes none.
pub(super) fn host_ports(definition: &DefinitionRecord) -> impl Iterator<Item = u16> {
    let ports = definition.definition.containers.iter().flat_map(|container| &container.ports);
    ports.filter_map(|port| port.host_port).filter(|port| *port != 0)
}
