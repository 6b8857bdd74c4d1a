//! Decides: the wanted and the observed state go in, the steps between them come out, as pure
//! functions over values. The reconciler beside them writes the steps.

mod capacity; // what nodes have left
mod placement; // the best node for a task, or what each node lacks
mod draft; // a plan in the making
mod rollout; // how far a deployment has come
mod revisions; // which revision each replica should be of
mod replicas; // the replicas of one service
mod reason; // why something waits, and why a task ends
pub(crate) mod explain; // why something is as it is, and the line that would change it
pub(crate) mod events; // what happened to objects, read from their records
mod routes; // which replicas answer for which host name
mod node_watch; // what each node is told, and when
mod reconciler; // writes what was decided
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt};

use spec::{NodeCondition, NodeId, Timestamp};
use store::Rev;

use crate::state::{
    model::Model,
    objects::Volume,
    records::{ServiceKey, ServiceRecord, Stored, TaskKey, TaskRecord},
};
pub(crate) use capacity::reserved;
use draft::Draft;
pub(crate) use node_watch::NodeWatch;
use reason::TaskReason;
pub(crate) use reason::{Waiting, secret_create_command};
pub(crate) use reconciler::Reconciler;
pub(crate) use routes::HostNames;

/// Every step that moves what is there towards what was asked for. Each is harmless when it comes
/// too late.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub steps: Vec<Step>,
    pub waiting: BTreeMap<Subject, Waiting>,
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
    /// The record of a task that ended goes, unless it changed since.
    Forget { key: TaskKey, based_on: Rev },
}

/// What waits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    Service(ServiceKey),
    Task(TaskKey),
}

/// Every step that moves what is there towards what was asked for. Same inputs, same plan. A node
/// that is missing in `conditions` counts as disconnected.
pub(crate) fn plan(
    model: &Model,
    conditions: &BTreeMap<NodeId, NodeCondition>,
    now: Timestamp,
) -> Plan {
    let mut draft = Draft::new(model, conditions, now);
    let mut replicas: BTreeMap<ServiceKey, Vec<&Stored<TaskRecord>>> = BTreeMap::new();
    for task in model.tasks.values() {
        match task.value.service_key() {
            Some(service) => replicas.entry(service).or_default().push(task),
            None => draft.place_standalone(task),
        }
        draft.settle(task);
    }
    for (key, service) in &model.services {
        let tasks = replicas.remove(key).unwrap_or_default();
        draft.plan_service(key, service, &tasks);
    }
    for task in replicas.into_values().flatten().filter(|task| task.value.is_wanted()) {
        draft.stop(task, TaskReason::ServiceDeleted);
    }
    draft.forget_old();
    draft.plan
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
                status.reason.as_ref().map_or(Ok(()), |reason| write!(f, ": {reason}"))
            }
            Self::Service { key: (.., name), service, .. } => {
                let event = service.rollout.events.first();
                write!(f, "{name}: {}", event.map_or("", |event| event.message.as_str()))
            }
            Self::Forget { key: (_, id), .. } => write!(f, "forget {id}"),
        }
    }
}
