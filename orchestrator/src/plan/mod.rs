//! Decides: the wanted and the observed state go in, the steps between them come out, as pure
//! functions over values. The reconciler beside them writes the steps.

mod capacity; // what nodes have left
mod holds; // what is kept of a node for replicas between two tasks
mod attributes; // what placement expressions ask about nodes
mod placement; // the best node for a task, or what each node lacks
mod draft; // a plan in the making
mod shift; // requests that go over to another revision in shares
mod rollout; // how far a deployment has come
mod revisions; // which revision each replica should be of
mod daemon; // which replicas a service has
mod replicas; // the replicas of one service
mod rebalance; // moves that spread replicas better
pub(crate) mod node_groups; // machines that come and go with tasks
mod scaling; // counts that follow load and the clock
mod reason; // why something waits, and why a task ends
pub(crate) mod explain; // why something is as it is, and the line that would change it
pub(crate) mod explain_route; // the same of a host name
pub(crate) mod events; // what happened to objects, read from their records
mod host_names; // under which names services and tasks are reached
mod host_certificates; // which certificate clients of a host are shown
mod routes; // which replicas answer for which host name
mod node_watch; // what each node is told, and when
mod reconciler; // writes what was decided
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use spec::{
    LaunchType, NodeCondition, NodeId, NodeProblemKind, Tenant, Timestamp, wire::RequestCounts,
};
use store::Rev;

use crate::state::{
    model::Model,
    node_groups::NodeGroup,
    objects::Volume,
    records::{ServiceKey, ServiceRecord, Stored, TaskKey, TaskRecord},
};
pub(crate) use capacity::reserved;
use draft::Draft;
pub(crate) use host_names::HostNames;
pub(crate) use node_watch::NodeWatch;
use reason::TaskReason;
pub(crate) use reason::{Waiting, secret_create_command};
pub(crate) use reconciler::Reconciler;
pub(crate) use scaling::Load;

/// Every step that moves what is there towards what was asked for. Each is harmless when it comes
/// too late.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub steps: Vec<Step>,
    pub waiting: BTreeMap<Subject, Waiting>,
    /// How many replicas each service should have.
    pub desired: BTreeMap<ServiceKey, u32>,
}

/// What is seen of nodes and tasks, and stands in no record.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    pub conditions: BTreeMap<NodeId, NodeCondition>,
    /// Nodes that are short of something.
    pub under_pressure: BTreeMap<NodeId, NodeProblemKind>,
    /// Tasks that wait for a request without a process.
    pub idle: BTreeSet<TaskKey>,
    /// What tasks were asked, where that is counted, as their nodes tell.
    pub requests: BTreeMap<NodeId, BTreeMap<TaskKey, RequestCounts>>,
    /// Of services that scale by it.
    pub loads: BTreeMap<ServiceKey, Load>,
    /// What the last plan found to wait.
    pub waiting: BTreeMap<Subject, Waiting>,
}

impl Observed {
    /// What a task was asked. No other node than its own is believed about it.
    fn requests_of(&self, task: &TaskRecord) -> RequestCounts {
        let node = task.task.spec.node.as_ref().and_then(|node| self.requests.get(node));
        node.and_then(|tasks| tasks.get(&task.key())).copied().unwrap_or_default()
    }

    /// What all of them were asked together.
    pub fn requests_of_all<'t>(
        &self,
        tasks: impl Iterator<Item = &'t TaskRecord>,
    ) -> RequestCounts {
        let counts = tasks.map(|task| self.requests_of(task));
        counts.fold(RequestCounts::default(), |sum, one| RequestCounts {
            requests: sum.requests.saturating_add(one.requests),
            failed_requests: sum.failed_requests.saturating_add(one.failed_requests),
            in_flight_ms: sum.in_flight_ms.saturating_add(one.in_flight_ms),
        })
    }

    /// A node that nothing is known of counts as disconnected.
    fn condition(&self, node: &NodeId) -> NodeCondition {
        self.conditions.get(node).copied().unwrap_or(NodeCondition::Disconnected)
    }
}

/// One write.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// A new task, unless it is there already, and volumes that it makes.
    Start { task: Box<TaskRecord>, volumes: Vec<Volume> },
    /// A task's next record, unless it changed since, and volumes that it makes.
    Change { task: Box<TaskRecord>, based_on: Rev, volumes: Vec<Volume> },
    /// What becomes of a service and its deployment, unless it changed since.
    Service { key: ServiceKey, service: Box<ServiceRecord>, based_on: Rev },
    /// What becomes of a node group, unless it changed since.
    NodeGroup { group: Box<NodeGroup>, based_on: Rev },
    /// The record of a task that ended goes, unless it changed since.
    Forget { key: TaskKey, based_on: Rev },
}

/// What waits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    Service(ServiceKey),
    Task(TaskKey),
}

/// Every step that moves what is there towards what was asked for. Same inputs, same plan.
pub(crate) fn plan(model: &Model, observed: &Observed, now: Timestamp) -> Plan {
    let mut draft = Draft::new(model, observed, now);
    let mut replicas: BTreeMap<ServiceKey, Vec<&Stored<TaskRecord>>> = BTreeMap::new();
    for task in model.tasks.values() {
        match task.value.service_key() {
            Some(service) => replicas.entry(service).or_default().push(task),
            None => draft.place_standalone(task),
        }
        draft.settle(task);
        draft.end_drain(task);
    }
    for (key, service) in in_turn(model) {
        let tasks = replicas.remove(key).unwrap_or_default();
        draft.plan_service(key, service, &tasks);
    }
    for task in replicas.into_values().flatten().filter(|task| task.value.is_wanted()) {
        draft.stop(task, TaskReason::ServiceDeleted);
    }
    draft.plan_node_groups();
    draft.forget_old();
    draft.plan
}

/// Services in the order in which they take what is left. In the pool the tenant that has least of
/// it comes first, and a tenant says itself which of its services does.
fn in_turn(model: &Model) -> Vec<(&ServiceKey, &Stored<ServiceRecord>)> {
    let mut shares: BTreeMap<&Tenant, u64> = BTreeMap::new();
    for record in model.tasks.values().map(|stored| &stored.value) {
        if record.task.spec.launch_type == LaunchType::Pool && !record.has_ended() {
            let bytes = model.definition_of(record).map_or(0, |definition| reserved(definition).1);
            *shares.entry(&record.tenant).or_default() += bytes;
        }
    }
    let services = model.services.iter().map(|(key, stored)| (key, &**stored));
    let mut services: Vec<(&ServiceKey, &Stored<ServiceRecord>)> = services.collect();
    services.sort_by_key(|(key, stored)| {
        let share = shares.get(&key.0).copied().unwrap_or_default();
        (share, &key.0, std::cmp::Reverse(stored.value.service.spec.priority))
    });
    services
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start { task, .. } => {
                let node = task.task.spec.node.as_ref().map_or("no node", NodeId::as_str);
                write!(f, "start {} on {node}", task.id())
            }
            Self::Change { task, .. } => {
                let (status, node) = (&task.task.status, task.task.spec.node.as_ref());
                write!(f, "{} is {:?}", task.id(), status.phase)?;
                node.map_or(Ok(()), |node| write!(f, " on {node}"))?;
                if task.moving && task.is_wanted() {
                    f.write_str(", and is to move")?;
                }
                status.reason.as_ref().map_or(Ok(()), |reason| write!(f, ": {reason}"))
            }
            Self::Service { key: (.., name), service, .. } => {
                let event = service.rollout.events.first();
                write!(f, "{name}: {}", event.map_or("", |event| event.message.as_str()))
            }
            Self::NodeGroup { group, .. } => {
                let event = group.events.first();
                write!(f, "group {}: {}", group.name, event.map_or("", |one| one.message.as_str()))
            }
            Self::Forget { key: (_, id), .. } => write!(f, "forget {id}"),
        }
    }
}
