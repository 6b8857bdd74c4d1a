//! Decides, and does nothing: what is wanted and what is seen go in, the steps between them come
//! out.

pub(crate) mod reconcile; // doing it
pub(crate) mod sets; // what each node is told
mod room; // what nodes have left, and which one is best
mod copies; // the copies of one service
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fmt,
    sync::Arc,
    time::Duration,
};

use spec::{
    ClusterName, NodeCondition, NodeId, SecretName, TaskDefinitionId, TaskPhase, Tenant, Timestamp,
    VolumeName,
};
use store::Rev;

use crate::{
    api::Volume,
    handle::secrets::to_make,
    model::{Model, ServiceKey, TaskKey},
    records::{DefinitionRecord, Kept, NodeRecord, ServiceRecord, TaskRecord, key_of},
};
use room::{Need, Room};

/// Ended tasks are shown for so long, as ECS does.
const SHOWN_FOR: Duration = Duration::from_secs(3600);
/// And at most so many of one tenant, so that a loop of short tasks cannot fill the store.
const SHOWN_MAX: usize = 1_000;

/// What somebody asked for.
pub(crate) struct Desired<'a> {
    pub clusters: &'a BTreeSet<(Tenant, ClusterName)>,
    pub definitions: &'a BTreeMap<(Tenant, TaskDefinitionId), Arc<DefinitionRecord>>,
    pub services: &'a BTreeMap<ServiceKey, Arc<Kept<ServiceRecord>>>,
    /// Which there are.
    pub secrets: &'a BTreeSet<(Tenant, SecretName)>,
}

/// What is there. Tasks are both: each says what is asked of it and what was seen.
pub(crate) struct Observed<'a> {
    pub nodes: &'a BTreeMap<NodeId, Arc<NodeRecord>>,
    /// A node that is missing here counts as disconnected.
    pub conditions: &'a BTreeMap<NodeId, NodeCondition>,
    pub tasks: &'a BTreeMap<TaskKey, Arc<Kept<TaskRecord>>>,
    pub volumes: &'a BTreeMap<(Tenant, VolumeName), Volume>,
}

/// Every step that moves what is there towards what was asked for. Each is harmless when it comes
/// too late.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub steps: Vec<Step>,
    /// Who has to wait, and for what, in a sentence.
    pub waiting: BTreeMap<Subject, String>,
}

/// One write.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// A new task, unless it is there already, and volumes that it makes.
    Start { task: Box<TaskRecord>, volumes: Vec<Volume> },
    /// A task's next record, unless it changed since, and volumes that it makes.
    Change { task: Box<TaskRecord>, based_on: Rev, volumes: Vec<Volume> },
    /// The record of a task that ended goes, unless it changed since.
    Forget { key: TaskKey, based_on: Rev },
}

/// Who waits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    Service(ServiceKey),
    Task(TaskKey),
}

impl<'a> Desired<'a> {
    pub fn of(model: &'a Model) -> Self {
        let Model { clusters, definitions, services, secrets, .. } = model;
        Self { clusters, definitions, services, secrets }
    }
}

impl<'a> Observed<'a> {
    pub fn of(model: &'a Model, conditions: &'a BTreeMap<NodeId, NodeCondition>) -> Self {
        Self { nodes: &model.nodes, conditions, tasks: &model.tasks, volumes: &model.volumes }
    }

    pub fn condition(&self, node: &NodeId) -> NodeCondition {
        self.conditions.get(node).copied().unwrap_or(NodeCondition::Disconnected)
    }

    /// Whether the task has a node that is there and not disconnected.
    fn is_in_touch(&self, task: &TaskRecord) -> bool {
        let node = task.task.spec.node.as_ref();
        node.is_some_and(|node| {
            self.nodes.contains_key(node) && self.condition(node) != NodeCondition::Disconnected
        })
    }
}

/// Every step that moves `observed` towards `desired`. Same inputs, same plan.
pub(crate) fn plan(desired: &Desired<'_>, observed: &Observed<'_>, now: Timestamp) -> Plan {
    let mut draft = Draft {
        desired,
        observed,
        now,
        room: Room::left_on(desired, observed),
        volumes: observed.volumes.clone(),
        changed: BTreeMap::new(),
        plan: Plan::default(),
    };
    let mut copies: BTreeMap<ServiceKey, Vec<&Kept<TaskRecord>>> = BTreeMap::new();
    for (key, task) in observed.tasks {
        let spec = &task.value.task.spec;
        match &spec.service {
            Some(service) => {
                copies
                    .entry((key.0.clone(), spec.cluster.clone(), service.clone()))
                    .or_default()
                    .push(task);
            }
            None => draft.place_alone(task),
        }
        draft.settle(task);
    }
    for (key, service) in desired.services {
        let mine = copies.remove(key).unwrap_or_default();
        draft.plan_copies(key, service, &mine);
    }
    for task in copies.into_values().flatten().filter(|task| task.value.is_wanted()) {
        draft.stop(task, "its service was deleted");
    }
    draft.forget_old();
    draft.plan
}

/// A plan in the making.
struct Draft<'a> {
    desired: &'a Desired<'a>,
    observed: &'a Observed<'a>,
    now: Timestamp,
    room: Room<'a>,
    /// With those that this plan makes.
    volumes: BTreeMap<(Tenant, VolumeName), Volume>,
    /// Which step is about which task.
    changed: BTreeMap<TaskKey, usize>,
    plan: Plan,
}

impl<'a> Draft<'a> {
    /// What a task's node cannot say any more, or nobody ever could.
    fn settle(&mut self, task: &Kept<TaskRecord>) {
        let record = &task.value;
        if record.has_ended() {
            return;
        }
        let end = |reason: &str| {
            let mut ended = record.at(TaskPhase::Stopped, Some(reason.to_owned()), self.now);
            ended.task.spec.stop = true; // so that nobody takes it for a failure
            ended
        };
        let next = match &record.task.spec.node {
            None if record.task.spec.stop => end("it was stopped before it was placed"),
            None => return,
            Some(node) if !self.observed.nodes.contains_key(node) => {
                end(&format!("its node `{node}` was removed"))
            }
            Some(node)
                if self.observed.condition(node) == NodeCondition::Disconnected
                    && record.task.status.phase != TaskPhase::Unknown =>
            {
                record.at(
                    TaskPhase::Unknown,
                    Some(format!("its node `{node}` is disconnected")),
                    self.now,
                )
            }
            Some(_) => return,
        };
        self.change(task, next, Vec::new());
    }

    /// A task that somebody ran, and that has no node yet.
    fn place_alone(&mut self, task: &Kept<TaskRecord>) {
        let record = &task.value;
        if record.task.spec.node.is_some() || !record.is_wanted() {
            return;
        }
        let key = (record.tenant.clone(), record.id().clone());
        let placed = self.definition_of(record).and_then(|definition| {
            self.check_secrets(&record.tenant, definition)?;
            let launch_type = record.task.spec.launch_type;
            let (tenant, task) = (&record.tenant, record.id());
            self.place(&Need {
                tenant,
                task,
                definition,
                launch_type,
                service: None,
                avoid: Vec::new(),
            })
        });
        match placed {
            Ok((node, volumes)) => {
                let mut next = record.at(TaskPhase::Starting, None, self.now);
                next.task.spec.node = Some(node);
                self.change(task, next, volumes);
            }
            Err(reason) => drop(self.plan.waiting.insert(Subject::Task(key), reason)),
        }
    }

    fn definition_of(&self, record: &TaskRecord) -> Result<&'a DefinitionRecord, String> {
        let id = &record.task.spec.task_definition;
        let found = self.desired.definitions.get(&(record.tenant.clone(), id.clone()));
        found
            .map(|definition| &**definition)
            .ok_or_else(|| format!("there is no task definition `{id}`"))
    }

    /// Nobody is started without what its role promises: it waits until somebody makes it.
    fn check_secrets(&self, tenant: &Tenant, definition: &DefinitionRecord) -> Result<(), String> {
        let names = definition.definition.secrets();
        match names
            .into_iter()
            .find(|name| !self.desired.secrets.contains(&(tenant.clone(), name.clone())))
        {
            Some(name) => Err(format!(
                "there is no secret `{name}`, which its role grants: {}",
                to_make(&name)
            )),
            None => Ok(()),
        }
    }

    /// A node for `need`, whose room is taken from now on, and the volumes that start to exist
    /// there.
    fn place(&mut self, need: &Need<'_>) -> Result<(NodeId, Vec<Volume>), String> {
        let claims = || {
            need.definition.mounted().into_iter().map(|name| (need.tenant.clone(), name.clone()))
        };
        let pinned: BTreeSet<&NodeId> =
            claims().filter_map(|key| self.volumes.get(&key)).map(|volume| &volume.node).collect();
        let pinned = match pinned.len() {
            0 => None,
            1 => pinned.first().copied(),
            _ => return Err("its volumes are on different nodes".to_owned()),
        };
        let node = self.room.take(need, pinned)?;
        let new: Vec<Volume> = claims()
            .filter(|key| !self.volumes.contains_key(key))
            .map(|(_, name)| Volume { name, node: node.clone(), created: self.now })
            .collect();
        self.volumes.extend(
            new.iter().map(|volume| ((need.tenant.clone(), volume.name.clone()), volume.clone())),
        );
        Ok((node, new))
    }

    /// Asks a task to end, on top of what this plan has already decided about it.
    fn stop(&mut self, task: &Kept<TaskRecord>, reason: &str) {
        let decided = self.changed.get(&key_of(&task.value)).copied();
        match decided.and_then(|at| self.plan.steps.get_mut(at)) {
            Some(Step::Change { task: next, .. }) if next.is_wanted() => {
                **next = next.stopped_for(reason, self.now)
            }
            Some(_) => {}
            None => self.change(task, task.value.stopped_for(reason, self.now), Vec::new()),
        }
    }

    /// The first decision about a task stands: a second one would be made from the same old record.
    fn change(&mut self, task: &Kept<TaskRecord>, next: TaskRecord, volumes: Vec<Volume>) {
        let Entry::Vacant(decision) = self.changed.entry(key_of(&next)) else { return };
        decision.insert(self.plan.steps.len());
        self.plan.steps.push(Step::Change {
            task: Box::new(next),
            based_on: task.mod_rev,
            volumes,
        });
    }

    /// Ended tasks that nobody needs to see any more. The newest of each copy stays while its
    /// service does: it says how often that copy was started.
    fn forget_old(&mut self) {
        let mut newest: BTreeMap<(ServiceKey, u32), u32> = BTreeMap::new();
        for (key, task) in self.observed.tasks {
            if let (Some(service), Some(copy)) = (service_of(key, &task.value), task.value.copy) {
                let attempt = newest.entry((service, copy.ordinal)).or_default();
                *attempt = (*attempt).max(copy.attempt);
            }
        }
        let mut ended: Vec<(&TaskKey, &Arc<Kept<TaskRecord>>)> =
            self.observed.tasks.iter().filter(|(_, task)| task.value.has_ended()).collect();
        ended.sort_by_key(|(_, task)| std::cmp::Reverse(task.value.ended));
        let mut shown: BTreeMap<&Tenant, usize> = BTreeMap::new();
        for (key, task) in ended {
            let record = &task.value;
            let last_of_copy = match (service_of(key, record), record.copy) {
                (Some(service), Some(copy)) => {
                    self.desired.services.contains_key(&service)
                        && newest.get(&(service, copy.ordinal)) == Some(&copy.attempt)
                }
                _ => false,
            };
            let homeless =
                !self.desired.clusters.contains(&(key.0.clone(), record.task.spec.cluster.clone()));
            let count = shown.entry(&key.0).or_default();
            *count += 1;
            let old = record.ended.is_some_and(|ended| self.now.since(ended) > SHOWN_FOR)
                || *count > SHOWN_MAX;
            if homeless || (old && !last_of_copy) {
                self.plan.steps.push(Step::Forget { key: key.clone(), based_on: task.mod_rev });
            }
        }
    }
}

fn service_of((tenant, _): &TaskKey, record: &TaskRecord) -> Option<ServiceKey> {
    let spec = &record.task.spec;
    spec.service.clone().map(|service| (tenant.clone(), spec.cluster.clone(), service))
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
            Self::Forget { key: (_, id), .. } => write!(f, "forget {id}"),
        }
    }
}
