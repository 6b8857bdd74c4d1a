use std::{borrow::Cow, time::Duration};

use spec::{Digest, NodeId, SchedulingStrategy, Service, TaskId, TaskPhase, TaskSpec, Toleration};
use store::Rev;

use super::{
    Step, Subject,
    capacity::PlacementRequest,
    daemon::{Ordinals, Replicas},
    draft::Draft,
    reason::{Lack, TaskReason, Unplaceable, Waiting},
    revisions::{Revision, Revisions},
    rollout, scaling,
};
use crate::{
    limits::{AVOIDED_FOR, BACK_OFF_MAX, STEADY_AFTER},
    state::{
        records::{ReplicaSlot, ServiceKey, ServiceRecord, Stored, TaskRecord},
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
struct ServicePlan<'p, 'a> {
    key: &'p ServiceKey,
    create_rev: Rev,
    service: &'p Service,
    revisions: Revisions<'a>,
    /// How many replicas there should be.
    count: u32,
    /// Whether a replica is on its way up or down, so that no further one is stopped to make room.
    in_flux: bool,
    /// Tasks that are meant to run, and those of them that are ready.
    live: u32,
    ready: u32,
}

/// One replica of it.
struct Replica<'p, 'a> {
    ordinal: u32,
    tasks: &'p [&'p Stored<TaskRecord>],
    /// The attempts that others of its ordinal have had.
    attempts: u32,
    /// What it should be of.
    revision: Revision<'a>,
    /// The one node that it is for, as of a daemon.
    only: Option<NodeId>,
    tolerations: &'p [Toleration],
}

impl<'a> Draft<'a> {
    /// One live task for each ordinal that the service should have, and no other.
    pub(super) fn plan_service(
        &mut self,
        key: &ServiceKey,
        stored: &Stored<ServiceRecord>,
        tasks: &[&Stored<TaskRecord>],
    ) {
        let mut replicas = Replicas::new();
        for &task in tasks {
            let ordinal = task.value.slot.map_or(u32::MAX, |slot| slot.ordinal);
            replicas.entry(ordinal).or_default().push(task);
        }
        let ordinals = self.ordinals(key, &stored.value, &replicas);
        self.plan.desired.insert(key.clone(), ordinals.count());
        let record = self.advance(key, stored, tasks, (&ordinals, &replicas));
        let service = &record.service;
        let revisions = match self.revisions(key, &record, &ordinals, &replicas) {
            Ok(revisions) => revisions,
            Err(id) => {
                let reason = Waiting::MissingDefinition(id);
                self.plan.waiting.insert(Subject::Service(key.clone()), reason);
                return;
            }
        };
        let records = || tasks.iter().map(|task| &task.value);
        let in_flux = records().any(|task| {
            let ending = task.task.spec.stop && !task.has_ended();
            let rising = task.is_wanted()
                && (task.task.status.phase == TaskPhase::Starting
                    || record.is_requested(task) && !task.task.status.is_ready());
            (ending || rising) && self.is_in_touch(task)
        });
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        // The others are on their way out.
        let kept = || {
            let is_kept = |slot: &ReplicaSlot| ordinals.wanted.contains_key(&slot.ordinal);
            records().filter(move |task| task.slot.as_ref().is_some_and(is_kept))
        };
        let live = count(kept().filter(|task| self.is_live(task)).count());
        let ready = count(kept().filter(|task| self.is_ready(task)).count());
        let (create_rev, count) = (stored.create_rev, ordinals.count());
        let mut plan =
            ServicePlan { key, create_rev, service, revisions, count, in_flux, live, ready };
        let before = self.shifted_from(key, &record);
        for (&ordinal, only) in &ordinals.wanted {
            let tasks = replicas.remove(&ordinal).unwrap_or_default();
            if let Some(before) = &before {
                self.plan_both(&mut plan, ordinal, &tasks, before);
                continue;
            }
            let place = (ordinal, service.spec.launch_type_of(ordinal));
            let revision = self.revision_of(key, &plan.revisions, place, &tasks);
            let (attempts, only) = (0, only.clone());
            let tolerations = &service.spec.placement.tolerations;
            let replica = Replica { ordinal, tasks: &tasks, attempts, revision, only, tolerations };
            self.plan_replica(&mut plan, &replica);
        }
        let in_flux = plan.in_flux || before.is_some();
        replicas.retain(|ordinal, _| !ordinals.left.contains(ordinal));
        for task in replicas.into_values().flatten().filter(|task| task.value.is_wanted()) {
            let reason = match record.service.spec.scheduling {
                SchedulingStrategy::Replica => TaskReason::ScaledDown,
                SchedulingStrategy::Daemon => TaskReason::NodeNotForIt,
            };
            self.stop(task, reason);
        }
        if !in_flux && matches!(record, Cow::Borrowed(_)) {
            self.rebalance(key, stored, tasks);
        }
    }

    /// A task of the requested revision and one of that before, which share the requests.
    fn plan_both(
        &mut self,
        plan: &mut ServicePlan<'_, 'a>,
        ordinal: u32,
        tasks: &[&Stored<TaskRecord>],
        before: &Revision<'a>,
    ) {
        let attempts = tasks.iter().filter_map(|task| task.value.slot).map(|slot| slot.attempt);
        let attempts = attempts.max().unwrap_or_default();
        let launch_type = plan.service.spec.launch_type_of(ordinal);
        let (requested, before) = (&plan.revisions.requested, before.on(launch_type));
        let requested = requested.on(launch_type);
        let (new, old): (Vec<_>, Vec<_>) =
            tasks.iter().copied().partition(|task| requested.is_of(&task.value));
        let tolerations = &plan.service.spec.placement.tolerations;
        // The next attempt is for the new one, also where it needs none.
        for (revision, tasks, attempts) in
            [(before, old, attempts.saturating_add(1)), (requested, new, attempts)]
        {
            let (tasks, only) = (&tasks[..], None);
            let replica = Replica { ordinal, tasks, attempts, revision, only, tolerations };
            self.plan_replica(plan, &replica);
        }
    }

    /// The service after what its deployment has come to.
    fn advance<'s>(
        &mut self,
        key: &ServiceKey,
        stored: &'s Stored<ServiceRecord>,
        tasks: &[&Stored<TaskRecord>],
        (ordinals, replicas): (&Ordinals, &Replicas<'_>),
    ) -> Cow<'s, ServiceRecord> {
        let load = self.observed.loads.get(key);
        let scaled = scaling::after(&stored.value, load, self.now);
        let waits = self.observed.waiting.get(&Subject::Service(key.clone()));
        let progress = rollout::Progress {
            tasks,
            count: ordinals.count(),
            has_all: self.has_all(&stored.value, ordinals, replicas),
            is_complete: self.is_complete(&stored.value, ordinals, replicas),
            requests: self.requests_of(&stored.value, tasks),
            waits: waits.map(Waiting::to_string),
        };
        let definitions = &self.model.definitions;
        let is_known = |id: &_| definitions.contains_key(&(key.0.clone(), Clone::clone(id)));
        let next = match scaled {
            Some(scaled) => Cow::Owned(scaled),
            None => rollout::after(&stored.value, progress, is_known, self.now),
        };
        if let Cow::Owned(service) = &next {
            let (key, service) = (key.clone(), Box::new(service.clone()));
            self.plan.steps.push(Step::Service { key, service, based_on: stored.mod_rev });
        }
        next
    }

    fn plan_replica(&mut self, plan: &mut ServicePlan<'_, 'a>, replica: &Replica<'_, 'a>) {
        let live = replica.tasks.iter().filter(|task| self.is_live(&task.value));
        let (current, outdated): (Vec<&&Stored<TaskRecord>>, Vec<&&Stored<TaskRecord>>) =
            live.partition(|task| self.is_current(replica, &task.value));
        // Decided once: what is ready before what is not, then the older one, which is the original
        // that came back.
        let keep = current.iter().min_by_key(|task| {
            let status = &task.value.task.status;
            let attempt = task.value.slot.map(|slot| slot.attempt);
            (!status.is_ready(), status.phase != TaskPhase::Running, attempt)
        });
        match keep {
            Some(keep) if keep.value.task.status.is_ready() => {
                let kept_id = keep.value.id().clone();
                for task in current.iter().filter(|task| *task.value.id() != kept_id) {
                    self.stop(task, TaskReason::RunsInItsPlace(kept_id.clone()));
                }
                for task in &outdated {
                    self.stop(task, TaskReason::ReplacedBy(kept_id.clone()));
                }
            }
            // It is on its way up, and until then the outdated ones serve.
            Some(keep) => {
                if let Some(why) = rollout::failure(&keep.value) {
                    self.fail(keep, TaskReason::NotReady(why));
                }
            }
            None => self.replace(plan, replica, &outdated),
        }
    }

    /// Whether a task is what its replica should be, well, and on a node that may keep it.
    fn is_current(&self, replica: &Replica<'_, '_>, record: &TaskRecord) -> bool {
        let node = record.task.spec.node.as_ref().and_then(|node| self.model.nodes.get(node));
        let may_stay = node.is_none_or(|node| {
            !node.expels(replica.tolerations) && (!node.drain || replica.only.is_some())
        });
        let was_well = record.readied.is_some() && rollout::failure(record).is_some();
        replica.revision.is_of(record) && may_stay && !record.moving && !was_well
    }

    /// A new task for a replica that has none, once it may be started and a node has capacity.
    fn replace(
        &mut self,
        plan: &mut ServicePlan<'_, 'a>,
        replica: &Replica<'_, 'a>,
        outdated: &[&&Stored<TaskRecord>],
    ) {
        let last = replica
            .tasks
            .iter()
            .filter_map(|task| Some((task.value.slot?, &task.value)))
            .max_by_key(|(slot, _)| slot.attempt);
        let failures = match self.failures(replica, last) {
            Ok(failures) => failures,
            Err(reason) => return self.wait(plan, reason),
        };
        let definition = replica.revision.definition;
        // Before an old replica makes way for one that cannot start.
        if let Err(reason) = self.check_secrets(&plan.key.0, definition) {
            return self.wait(plan, reason);
        }
        let attempts = last.map_or(0, |(slot, _)| slot.attempt).max(replica.attempts);
        let attempt = attempts.saturating_add(1);
        let generation = plan.service.generation;
        let slot = ReplicaSlot { generation, ordinal: replica.ordinal, attempt, failures };
        let mut task = new_task(plan, &replica.revision, slot, self.now);
        let request = PlacementRequest {
            task: &task,
            definition,
            service: Some(plan.key),
            placement: &plan.service.spec.placement,
            only: replica.only.as_ref(),
            avoid: self.avoided(replica.tasks),
        };
        if definition.writes_volumes() && self.has_writer(replica.tasks) {
            return self.hand_volume_over(plan, &request, outdated);
        }
        let settings = plan.service.spec.deployment;
        // One beside each old one is within 200 %.
        let is_full = settings.maximum_percent < 200 && plan.live >= settings.live_max(plan.count);
        if let (true, Some(old)) = (is_full, outdated.first()) {
            return self.stop_first(plan, old, None);
        }
        match self.place(&request) {
            Ok((node, volumes)) => {
                task.task.spec.node = Some(node);
                plan.in_flux = true;
                plan.live += 1;
                self.plan.steps.push(Step::Start { task: Box::new(task), volumes });
            }
            Err(_) if outdated.iter().any(|old| self.only_moves(replica, &old.value)) => {
                self.end_moves(outdated);
            }
            Err(reason) => {
                // Without capacity for both, an old one makes way: one replica at a time, and only
                // where that helps.
                match outdated.iter().find(|old| self.makes_room(&request, &old.value)) {
                    Some(old) if self.is_pinned(&request, &old.value) => {
                        self.make_way(plan, old);
                        self.wait(plan, Waiting::Unplaceable(reason));
                    }
                    Some(old) => self.stop_first(plan, old, Some(reason)),
                    None => self.wait(plan, Waiting::Unplaceable(reason)),
                }
            }
        }
    }

    /// Whether nothing is wrong with a task but that another node was better for it.
    fn only_moves(&self, replica: &Replica<'_, '_>, record: &TaskRecord) -> bool {
        let stays = TaskRecord { moving: false, ..record.clone() };
        record.moving && record.task.status.is_ready() && self.is_current(replica, &stays)
    }

    /// They stay where they are.
    fn end_moves(&mut self, tasks: &[&&Stored<TaskRecord>]) {
        for task in tasks.iter().filter(|task| task.value.moving) {
            let stays = TaskRecord { moving: false, ..task.value.clone() };
            self.change(task, stays, Vec::new());
        }
    }

    /// Two tasks never write to one volume: the old one ends before the new one starts.
    fn hand_volume_over(
        &mut self,
        plan: &ServicePlan<'_, '_>,
        request: &PlacementRequest<'_>,
        outdated: &[&&Stored<TaskRecord>],
    ) {
        let may_go: Vec<_> =
            outdated.iter().filter(|old| self.makes_room(request, &old.value)).collect();
        let node_of = |old: &&&&Stored<TaskRecord>| old.value.task.spec.node.clone();
        let drained = |node: &NodeId| self.model.nodes.get(node).is_some_and(|node| node.drain);
        let pinned = outdated.iter().find_map(|old| node_of(&old).filter(drained));
        for task in &may_go {
            self.stop(task, TaskReason::VolumeHandover);
        }
        self.wait(
            plan,
            match pinned.filter(|_| may_go.is_empty()) {
                Some(node) => Waiting::VolumeOnDrainedNode(node),
                None => Waiting::PredecessorWrites,
            },
        );
    }

    /// An old task ends before its replacement starts, where enough others stay ready.
    fn stop_first(
        &mut self,
        plan: &mut ServicePlan<'_, '_>,
        old: &Stored<TaskRecord>,
        reason: Option<Unplaceable>,
    ) {
        let settings = plan.service.spec.deployment;
        let minimum = settings.healthy_min(plan.count);
        let is_spare = !old.value.task.status.is_ready() || plan.ready > minimum;
        match (is_spare, reason) {
            (true, reason) => {
                self.make_way(plan, old);
                if let Some(reason) = reason {
                    self.wait(plan, Waiting::Unplaceable(reason));
                }
            }
            (false, Some(reason)) => self.wait(plan, Waiting::NoCapacityBeside(reason)),
            (false, None) => self.wait(plan, Waiting::NoStepAllowed(settings)),
        }
    }

    fn make_way(&mut self, plan: &mut ServicePlan<'_, '_>, old: &Stored<TaskRecord>) {
        if plan.in_flux {
            return;
        }
        plan.in_flux = true;
        plan.ready -= u32::from(old.value.task.status.is_ready());
        self.stop(old, TaskReason::MakesRoom);
    }

    /// Whether `request` could be met where `old` is, if that were not there. Stopping it for
    /// anything else would take away a replica that serves and give nothing for it.
    fn makes_room(&self, request: &PlacementRequest<'_>, old: &TaskRecord) -> bool {
        let definition = self.model.definition_of(old);
        let node = old.task.spec.node.as_ref();
        node.zip(definition).is_some_and(|(node, definition)| {
            let share = self.capacity.share_of(old, definition);
            self.capacity.would_fit(request, node, old, &share)
        })
    }

    /// Whether `request` needs the host port that `old` has.
    fn is_pinned(&self, request: &PlacementRequest<'_>, old: &TaskRecord) -> bool {
        let node = old.task.spec.node.as_ref().and_then(|node| self.capacity.nodes.get(node));
        let lack = node.and_then(|node| node.lack(&node.left_for(request), 0, request, None));
        matches!(lack, Some(Lack::HostPort(_)))
    }

    /// Nodes on which this replica could not be started lately: its next task goes elsewhere where
    /// that is possible.
    fn avoided<'t>(&self, tasks: &[&'t Stored<TaskRecord>]) -> Vec<&'t NodeId> {
        let could_not_start = |record: &TaskRecord| {
            let lately = record.ended.is_some_and(|ended| self.now.since(ended) < AVOIDED_FOR);
            let by_itself = !record.ran && !record.task.spec.stop;
            lately && (by_itself || record.failed.is_some() && record.readied.is_none())
        };
        let failed = tasks.iter().map(|task| &task.value).filter(|record| could_not_start(record));
        failed.filter_map(|record| record.task.spec.node.as_ref()).collect()
    }

    /// Failures in a row before a new try, or why it is too early for one.
    fn failures(
        &self,
        replica: &Replica<'_, '_>,
        last: Option<(ReplicaSlot, &TaskRecord)>,
    ) -> Result<u32, Waiting> {
        let Some((slot, record)) = last else { return Ok(0) };
        let by_itself = record.ended.filter(|_| !record.task.spec.stop);
        let same = record.task.spec.task_definition == replica.revision.id;
        let (Some(ended), true) = (record.failed.or(by_itself), same) else {
            return Ok(0);
        };
        // One that never ran was tried by its node for longer than that, and is a failure all the
        // same; and so is one that never became ready.
        let ran_well = record.ran && record.failed.is_none();
        if ran_well && ended.since(record.task.created) >= STEADY_AFTER {
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

    fn wait(&mut self, plan: &ServicePlan<'_, '_>, reason: Waiting) {
        self.plan.waiting.entry(Subject::Service(plan.key.clone())).or_insert(reason);
    }
}

impl Draft<'_> {
    /// A task of a service as it would be placed.
    pub(super) fn sample(&self, key: &ServiceKey, record: &ServiceRecord) -> TaskRecord {
        let spec = &record.service.spec;
        let spec = TaskSpec {
            cluster: key.1.clone(),
            task_definition: spec.task_definition.clone(),
            launch_type: spec.launch_type,
            service: Some(key.2.clone()),
            node: None,
            stop: false,
            overrides: None,
        };
        let id = label_stem(key.2.as_str()).parse().expect("the stem of a label is one");
        TaskRecord::new(key.0.clone(), id, spec, TaskPhase::Pending, None, self.now)
    }
}

fn new_task(
    plan: &ServicePlan<'_, '_>,
    revision: &Revision<'_>,
    slot: ReplicaSlot,
    now: spec::Timestamp,
) -> TaskRecord {
    let (tenant, service) = (plan.key.0.clone(), plan.service);
    let spec = TaskSpec {
        cluster: service.cluster.clone(),
        task_definition: revision.id.clone(),
        launch_type: revision.launch_type,
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
fn task_id(plan: &ServicePlan<'_, '_>, slot: ReplicaSlot) -> TaskId {
    let service = plan.service;
    let all = format!(
        "{}/{}/{}/{}/{}/{}",
        service.cluster, service.name, plan.create_rev, slot.generation, slot.ordinal, slot.attempt
    );
    let hash = &Digest::of(all.as_bytes()).hex()[..10];
    let name = label_stem(service.name.as_str());
    format!("{name}-{}-{hash}", slot.ordinal)
        .parse()
        .expect("a short label, a number and hex digits make a label")
}
