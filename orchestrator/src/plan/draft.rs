use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use spec::{
    NodeCondition, NodeGroupName, NodeId, Placement, SecretName, TaskPhase, Tenant, Timestamp,
    VolumeName,
};

use super::{
    Observed, Plan, Step, Subject,
    capacity::{Capacity, PlacementRequest},
    reason::{TaskReason, Unplaceable, Waiting},
};
use crate::{
    limits::{ENDED_SHOWN_FOR, ENDED_SHOWN_MAX},
    state::{
        model::Model,
        objects::Volume,
        records::{DefinitionRecord, ServiceKey, Stored, TaskKey, TaskRecord},
    },
};

/// A plan in the making.
pub(super) struct Draft<'a> {
    pub model: &'a Model,
    pub observed: &'a Observed,
    pub now: Timestamp,
    pub capacity: Capacity<'a>,
    /// With those that this plan makes.
    volumes: BTreeMap<(Tenant, VolumeName), Volume>,
    /// Index of the step that is about a task.
    changed: BTreeMap<TaskKey, usize>,
    /// Groups in which some task would fit on another node.
    pub wanted_groups: BTreeSet<NodeGroupName>,
    pub plan: Plan,
}

impl<'a> Draft<'a> {
    pub fn new(model: &'a Model, observed: &'a Observed, now: Timestamp) -> Self {
        Self {
            model,
            observed,
            now,
            capacity: Capacity::left_on(model, observed),
            volumes: model.volumes.clone(),
            changed: BTreeMap::new(),
            wanted_groups: BTreeSet::new(),
            plan: Plan::default(),
        }
    }

    pub fn is_disconnected(&self, node: &NodeId) -> bool {
        self.observed.condition(node) == NodeCondition::Disconnected
    }

    /// Whether the task has a node that is there and not disconnected.
    pub fn is_in_touch(&self, task: &TaskRecord) -> bool {
        let node = task.task.spec.node.as_ref();
        node.is_some_and(|node| self.model.nodes.contains_key(node) && !self.is_disconnected(node))
    }

    /// What a task's node cannot report any more, or never could.
    pub fn settle(&mut self, task: &Stored<TaskRecord>) {
        let record = &task.value;
        if record.has_ended() {
            return;
        }
        let end = |reason: TaskReason| {
            let mut ended = record.at(TaskPhase::Stopped, Some(reason.to_string()), self.now);
            ended.task.spec.stop = true; // so that it does not count as a failure
            ended
        };
        let next = match &record.task.spec.node {
            None if record.task.spec.stop => end(TaskReason::StoppedBeforePlacement),
            None => return,
            Some(node) if !self.model.nodes.contains_key(node) => {
                end(TaskReason::NodeRemoved(node.clone()))
            }
            Some(node)
                if self.is_disconnected(node) && record.task.status.phase != TaskPhase::Unknown =>
            {
                let reason = TaskReason::NodeDisconnected(node.clone());
                record.at(TaskPhase::Unknown, Some(reason.to_string()), self.now)
            }
            Some(_) => return,
        };
        self.change(task, next, Vec::new());
    }

    /// Ends a task on a node that is drained when the time for that is over.
    pub fn end_drain(&mut self, task: &Stored<TaskRecord>) {
        let record = &task.value;
        let node = record.task.spec.node.as_ref().and_then(|node| self.model.nodes.get(node));
        let Some(node) = node.filter(|node| node.drain && record.is_wanted()) else { return };
        if node.drain_deadline.is_some_and(|deadline| deadline <= self.now) {
            self.stop(task, TaskReason::DrainDeadline(node.id.clone()));
        }
    }

    /// A standalone task that has no node yet.
    pub fn place_standalone(&mut self, task: &Stored<TaskRecord>) {
        let record = &task.value;
        if record.task.spec.node.is_some() || !record.is_wanted() {
            return;
        }
        match self.place_record(record) {
            Ok((node, volumes)) => {
                let mut next = record.at(TaskPhase::Starting, None, self.now);
                next.task.spec.node = Some(node);
                self.change(task, next, volumes);
            }
            Err(reason) => {
                self.plan.waiting.insert(Subject::Task(record.key()), reason);
            }
        }
    }

    fn place_record(&mut self, record: &TaskRecord) -> Result<(NodeId, Vec<Volume>), Waiting> {
        let id = &record.task.spec.task_definition;
        let definition = self.model.definition_of(record);
        let definition = definition.ok_or_else(|| Waiting::MissingDefinition(id.clone()))?;
        self.check_secrets(&record.tenant, definition)?;
        let placement = Placement::default();
        let request = PlacementRequest {
            task: record,
            definition,
            service: None,
            placement: &placement,
            only: None,
            avoid: Vec::new(),
        };
        self.place(&request).map_err(Waiting::Unplaceable)
    }

    /// No task is started without a secret that its role grants: it waits until there is one.
    pub fn check_secrets(
        &self,
        tenant: &Tenant,
        definition: &DefinitionRecord,
    ) -> Result<(), Waiting> {
        let missing =
            |name: &SecretName| !self.model.secrets.contains(&(tenant.clone(), name.clone()));
        let names = definition.definition.secrets();
        names.into_iter().find(missing).map_or(Ok(()), |name| Err(Waiting::MissingSecret(name)))
    }

    /// A node for `request`, whose share is taken from now on, and the volumes that start to exist
    /// there.
    pub fn place(
        &mut self,
        request: &PlacementRequest<'_>,
    ) -> Result<(NodeId, Vec<Volume>), Unplaceable> {
        let names = request.definition.mounted();
        let key = |name: &VolumeName| (request.task.tenant.clone(), name.clone());
        let known = names.iter().filter_map(|name| self.volumes.get(&key(name)));
        let nodes: BTreeSet<&NodeId> = known.map(|volume| &volume.node).collect();
        if nodes.len() > 1 {
            return Err(Unplaceable::VolumesApart);
        }
        let volume_node = nodes.first().copied();
        let node = match self.capacity.place(request, volume_node) {
            Ok(node) => node,
            // A volume is on no new node.
            Err(why) if volume_node.is_some() => return Err(why),
            Err(why) => return Err(self.with_group(request, why)),
        };
        let mut new = Vec::new();
        for name in names {
            if let Entry::Vacant(vacant) = self.volumes.entry(key(name)) {
                let volume = Volume { name: name.clone(), node: node.clone(), created: self.now };
                new.push(vacant.insert(volume).clone());
            }
        }
        Ok((node, new))
    }

    /// Asks a task to end, on top of what this plan has already decided about it.
    pub fn stop(&mut self, task: &Stored<TaskRecord>, reason: TaskReason) {
        let decided = self.changed.get(&task.value.key()).copied();
        let reason = reason.to_string();
        match decided.and_then(|at| self.plan.steps.get_mut(at)) {
            Some(Step::Change { task: next, .. }) if next.is_wanted() => {
                **next = next.stopped_for(&reason, self.now);
            }
            Some(_) => {}
            None => self.change(task, task.value.stopped_for(&reason, self.now), Vec::new()),
        }
    }

    /// Asks a task to end that is not well. It counts as failed.
    pub fn fail(&mut self, task: &Stored<TaskRecord>, reason: TaskReason) {
        let mut next = task.value.stopped_for(&reason.to_string(), self.now);
        next.failed = Some(self.now);
        self.change(task, next, Vec::new());
    }

    /// The first decision about a task stands: a second one would be made from the same old record.
    pub fn change(&mut self, task: &Stored<TaskRecord>, next: TaskRecord, volumes: Vec<Volume>) {
        let Entry::Vacant(decision) = self.changed.entry(next.key()) else { return };
        decision.insert(self.plan.steps.len());
        self.plan.steps.push(Step::Change {
            task: Box::new(next),
            based_on: task.mod_rev,
            volumes,
        });
    }

    /// Ended tasks that are not shown any more. The newest of each replica stays while its service
    /// does: it says how often that replica was started.
    pub fn forget_old(&mut self) {
        let newest = self.newest_attempts();
        let tasks = self.model.tasks.iter();
        let mut ended: Vec<_> = tasks.filter(|(_, task)| task.value.has_ended()).collect();
        ended.sort_by_key(|(_, task)| std::cmp::Reverse(task.value.ended));
        let mut shown: BTreeMap<&Tenant, usize> = BTreeMap::new();
        for (key, task) in ended {
            let record = &task.value;
            let is_newest_of_its_replica = match (record.service_key(), record.slot) {
                (Some(service), Some(slot)) => {
                    self.model.services.contains_key(&service)
                        && newest.get(&(service, slot.ordinal)) == Some(&slot.attempt)
                }
                _ => false,
            };
            let cluster = (key.0.clone(), record.task.spec.cluster.clone());
            let count = shown.entry(&key.0).or_default();
            *count += 1;
            let is_old = record.ended.is_some_and(|ended| self.now.since(ended) > ENDED_SHOWN_FOR)
                || *count > ENDED_SHOWN_MAX;
            if !self.model.clusters.contains(&cluster) || (is_old && !is_newest_of_its_replica) {
                self.plan.steps.push(Step::Forget { key: key.clone(), based_on: task.mod_rev });
            }
        }
    }

    /// The highest attempt of each replica.
    fn newest_attempts(&self) -> BTreeMap<(ServiceKey, u32), u32> {
        let mut newest: BTreeMap<(ServiceKey, u32), u32> = BTreeMap::new();
        for task in self.model.tasks.values() {
            if let (Some(service), Some(slot)) = (task.value.service_key(), task.value.slot) {
                let attempt = newest.entry((service, slot.ordinal)).or_default();
                *attempt = (*attempt).max(slot.attempt);
            }
        }
        newest
    }
}
