use std::{collections::BTreeMap, time::Duration};

use spec::{Digest, NodeId, Service, TaskId, TaskPhase, TaskSpec};

use super::{
    Step, Subject,
    capacity::PlacementRequest,
    draft::Draft,
    reason::{TaskReason, Waiting},
};
use crate::{
    limits::{AVOIDED_FOR, BACK_OFF_MAX, STEADY_AFTER},
    state::{
        records::{DefinitionRecord, ReplicaSlot, ServiceKey, ServiceRecord, Stored, TaskRecord},
        tokens::label_stem,
    },
};

/// How long to wait after so many failures in a row: nothing after the first, then 1, 2, 4 … 60
/// seconds.
fn back_off(failures: u32) -> Duration {
    match failures {
        0 | 1 => Duration::ZERO,
        n => Duration::from_secs(1 << (n - 2).min(6)).min(BACK_OFF_MAX),
    }
}

/// What is planned for one service.
struct ServicePlan<'a> {
    key: &'a ServiceKey,
    stored: &'a Stored<ServiceRecord>,
    service: &'a Service,
    definition: &'a DefinitionRecord,
    /// Whether a replica is on its way up or down, so that no further one is stopped to make room.
    in_flux: bool,
}

impl<'a> Draft<'a> {
    /// One live task for each ordinal below the count, and none above.
    pub(super) fn plan_service(
        &mut self,
        key: &'a ServiceKey,
        stored: &'a Stored<ServiceRecord>,
        tasks: &[&'a Stored<TaskRecord>],
    ) {
        let service = &stored.value.service;
        let id = &service.spec.task_definition;
        let Some(definition) = self.model.definitions.get(&(key.0.clone(), id.clone())) else {
            let reason = Waiting::MissingDefinition(id.clone());
            self.plan.waiting.insert(Subject::Service(key.clone()), reason);
            return;
        };
        let in_flux = tasks.iter().map(|task| &task.value).any(|task| {
            let ending = task.task.spec.stop && !task.has_ended();
            (ending || task.task.status.phase == TaskPhase::Starting) && self.is_in_touch(task)
        });
        let mut plan = ServicePlan { key, stored, service, definition, in_flux };
        let mut by_ordinal: BTreeMap<u32, Vec<&Stored<TaskRecord>>> = BTreeMap::new();
        for &task in tasks {
            by_ordinal
                .entry(task.value.slot.map_or(u32::MAX, |slot| slot.ordinal))
                .or_default()
                .push(task);
        }
        for ordinal in 0..service.spec.count {
            let tasks = by_ordinal.remove(&ordinal).unwrap_or_default();
            self.plan_replica(&mut plan, ordinal, &tasks);
        }
        for task in by_ordinal.into_values().flatten().filter(|task| task.value.is_wanted()) {
            self.stop(task, TaskReason::ScaledDown);
        }
    }

    fn plan_replica(
        &mut self,
        plan: &mut ServicePlan<'a>,
        ordinal: u32,
        tasks: &[&Stored<TaskRecord>],
    ) {
        let in_touch =
            |task: &&&Stored<TaskRecord>| task.value.is_wanted() && self.is_in_touch(&task.value);
        let (current, outdated): (Vec<&&Stored<TaskRecord>>, Vec<&&Stored<TaskRecord>>) =
            tasks.iter().filter(in_touch).partition(|task| self.is_current(plan, &task.value));
        // Decided once: what runs before what starts, then the older one, which is the original
        // that came back.
        let keep = current.iter().min_by_key(|task| {
            (
                task.value.task.status.phase != TaskPhase::Running,
                task.value.slot.map(|slot| slot.attempt),
            )
        });
        match keep {
            Some(keep) if keep.value.task.status.phase == TaskPhase::Running => {
                let kept_id = keep.value.id().clone();
                for task in current.iter().filter(|task| *task.value.id() != kept_id) {
                    self.stop(task, TaskReason::RunsInItsPlace(kept_id.clone()));
                }
                for task in &outdated {
                    self.stop(task, TaskReason::ReplacedBy(kept_id.clone()));
                }
            }
            Some(_) => {} // it is on its way up, and until then the outdated ones serve
            None => self.replace(plan, ordinal, tasks, &outdated),
        }
    }

    /// Whether a task is what its service asks for now, on a node that may keep it.
    fn is_current(&self, plan: &ServicePlan<'_>, record: &TaskRecord) -> bool {
        let (spec, wanted) = (&record.task.spec, &plan.service.spec);
        let drained = spec
            .node
            .as_ref()
            .and_then(|node| self.model.nodes.get(node))
            .is_some_and(|node| node.drain);
        spec.task_definition == wanted.task_definition
            && spec.launch_type == wanted.launch_type
            && !drained
    }

    /// A new task for a replica that has none, once it may be started and a node has capacity.
    fn replace(
        &mut self,
        plan: &mut ServicePlan<'a>,
        ordinal: u32,
        tasks: &[&Stored<TaskRecord>],
        outdated: &[&&Stored<TaskRecord>],
    ) {
        let last = tasks
            .iter()
            .filter_map(|task| Some((task.value.slot?, &task.value)))
            .max_by_key(|(slot, _)| slot.attempt);
        let failures = match self.failures(plan, last) {
            Ok(failures) => failures,
            Err(reason) => return self.wait(plan, reason),
        };
        // Before an old replica makes way for one that cannot start.
        if let Err(reason) = self.check_secrets(&plan.key.0, plan.definition) {
            return self.wait(plan, reason);
        }
        let service = plan.service;
        let attempt = last.map_or(1, |(slot, _)| slot.attempt.saturating_add(1));
        let slot = ReplicaSlot { generation: service.generation, ordinal, attempt, failures };
        let mut task = new_task(plan, slot, self.now);
        let request = PlacementRequest {
            task: &task,
            definition: plan.definition,
            service: Some(plan.key),
            avoid: self.avoided(tasks),
        };
        if plan.definition.writes_volumes() && self.has_writer(tasks) {
            for task in outdated
                .iter()
                .filter(|old| self.makes_room(&request, &old.value))
                .collect::<Vec<_>>()
            {
                self.stop(task, TaskReason::VolumeHandover);
            }
            return self.wait(plan, Waiting::PredecessorWrites);
        }
        match self.place(&request) {
            Ok((node, volumes)) => {
                task.task.spec.node = Some(node);
                plan.in_flux = true;
                self.plan.steps.push(Step::Start { task: Box::new(task), volumes });
            }
            Err(reason) => {
                // Without capacity for both, an old one makes way: one replica at a time, and only
                // where that helps.
                let old = outdated.iter().find(|old| self.makes_room(&request, &old.value));
                if let (Some(old), false) = (old, plan.in_flux) {
                    plan.in_flux = true;
                    self.stop(old, TaskReason::MakesRoom);
                }
                self.wait(plan, Waiting::Unplaceable(reason));
            }
        }
    }

    /// Whether `request` could be met where `old` is, if that were not there. Stopping it for
    /// anything else would take away a replica that serves and give nothing for it.
    fn makes_room(&self, request: &PlacementRequest<'_>, old: &TaskRecord) -> bool {
        let definition = self.model.definition_of(old);
        let node = old.task.spec.node.as_ref();
        node.zip(definition).is_some_and(|(node, definition)| {
            self.capacity.would_fit(request, node, old.id(), definition)
        })
    }

    /// Nodes on which this replica could not be started lately: its next task goes elsewhere where
    /// that is possible.
    fn avoided<'t>(&self, tasks: &[&'t Stored<TaskRecord>]) -> Vec<&'t NodeId> {
        let could_not_start = |record: &TaskRecord| {
            let lately = record.ended.is_some_and(|ended| self.now.since(ended) < AVOIDED_FOR);
            lately && !record.ran && !record.task.spec.stop
        };
        let failed = tasks.iter().map(|task| &task.value).filter(|record| could_not_start(record));
        failed.filter_map(|record| record.task.spec.node.as_ref()).collect()
    }

    /// Failures in a row before a new try, or why it is too early for one.
    fn failures(
        &self,
        plan: &ServicePlan<'_>,
        last: Option<(ReplicaSlot, &TaskRecord)>,
    ) -> Result<u32, Waiting> {
        let Some((slot, record)) = last else { return Ok(0) };
        let same = record.task.spec.task_definition == plan.service.spec.task_definition;
        let (Some(ended), true, false) = (record.ended, same, record.task.spec.stop) else {
            return Ok(0);
        };
        // One that never ran was tried by its node for longer than that, and is a failure all the
        // same.
        if record.ran && ended.since(record.task.created) >= STEADY_AFTER {
            return Ok(0);
        }
        let failures = slot.failures.saturating_add(1);
        // A clock that was set back must not make a replica wait for it to come round again.
        if ended <= self.now && self.now.since(ended) < back_off(failures) {
            let (task, reason) = (record.id().clone(), record.task.status.reason.clone());
            return Err(Waiting::BackOff { task, failures, reason });
        }
        Ok(failures)
    }

    /// Whether a task of this replica may still be writing.
    fn has_writer(&self, tasks: &[&Stored<TaskRecord>]) -> bool {
        tasks.iter().any(|task| !task.value.has_ended() && task.value.task.spec.node.is_some())
    }

    fn wait(&mut self, plan: &ServicePlan<'_>, reason: Waiting) {
        self.plan.waiting.entry(Subject::Service(plan.key.clone())).or_insert(reason);
    }
}

fn new_task(plan: &ServicePlan<'_>, slot: ReplicaSlot, now: spec::Timestamp) -> TaskRecord {
    let (tenant, service) = (plan.key.0.clone(), plan.service);
    let spec = TaskSpec {
        cluster: service.cluster.clone(),
        task_definition: service.spec.task_definition.clone(),
        launch_type: service.spec.launch_type,
        service: Some(service.name.clone()),
        node: None,
        stop: false,
        overrides: None,
    };
    let id = task_id(plan, slot);
    TaskRecord::new(tenant, id, spec, TaskPhase::Starting, Some(slot), now)
}

/// The same replica has the same id, however often it is planned; and no two replicas ever have,
/// also not those of a service that was deleted and created again.
fn task_id(plan: &ServicePlan<'_>, slot: ReplicaSlot) -> TaskId {
    let service = plan.service;
    let all = format!(
        "{}/{}/{}/{}/{}/{}",
        service.cluster,
        service.name,
        plan.stored.create_rev,
        slot.generation,
        slot.ordinal,
        slot.attempt
    );
    let hash = &Digest::of(all.as_bytes()).hex()[..10];
    let name = label_stem(service.name.as_str());
    format!("{name}-{}-{hash}", slot.ordinal)
        .parse()
        .expect("a short label, a number and hex digits make a label")
}
