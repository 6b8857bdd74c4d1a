use std::{collections::BTreeMap, time::Duration};

use spec::{Digest, NodeId, Service, Task, TaskId, TaskPhase, TaskSpec, TaskStatus};

use super::{Draft, Need, Step, Subject};
use crate::{
    model::ServiceKey,
    records::{Copy, DefinitionRecord, Kept, ServiceRecord, TaskRecord},
};

/// A copy that ran for so long has not failed at once: its next one starts without a wait.
const STEADY_AFTER: Duration = Duration::from_secs(60);
/// The longest wait between two tries.
const BACK_OFF_MAX: Duration = Duration::from_secs(60);

/// For so long a copy is kept from a node on which it could not be started. A registry that was
/// away is back by then, a full disk swept; and the node is tried all the same when no other has
/// room.
const AVOIDED_FOR: Duration = Duration::from_secs(300);

/// How long to wait after so many failures in a row: nothing after the first, then 1, 2, 4 … 60
/// seconds.
fn back_off(failures: u32) -> Duration {
    match failures {
        0 | 1 => Duration::ZERO,
        n => Duration::from_secs(1 << (n - 2).min(6)).min(BACK_OFF_MAX),
    }
}

/// What is planned for one service.
struct Line<'a> {
    key: &'a ServiceKey,
    kept: &'a Kept<ServiceRecord>,
    service: &'a Service,
    definition: &'a DefinitionRecord,
    /// Whether some copy is on its way up or down, so that no further one is taken down to make
    /// room.
    in_flux: bool,
}

impl<'a> Draft<'a> {
    /// One live task for each ordinal below the count, and none above.
    pub(super) fn plan_copies(
        &mut self,
        key: &'a ServiceKey,
        kept: &'a Kept<ServiceRecord>,
        mine: &[&'a Kept<TaskRecord>],
    ) {
        let service = &kept.value.service;
        let id = &service.spec.task_definition;
        let Some(definition) = self.desired.definitions.get(&(key.0.clone(), id.clone())) else {
            let reason = format!("there is no task definition `{id}`");
            self.plan.waiting.insert(Subject::Service(key.clone()), reason);
            return;
        };
        let in_flux = mine.iter().map(|task| &task.value).any(|task| {
            let ending = task.task.spec.stop && !task.has_ended();
            (ending || task.task.status.phase == TaskPhase::Starting)
                && self.observed.is_in_touch(task)
        });
        let mut line = Line { key, kept, service, definition, in_flux };
        let mut by_ordinal: BTreeMap<u32, Vec<&Kept<TaskRecord>>> = BTreeMap::new();
        for &task in mine {
            by_ordinal
                .entry(task.value.copy.map_or(u32::MAX, |copy| copy.ordinal))
                .or_default()
                .push(task);
        }
        for ordinal in 0..service.spec.count {
            let tasks = by_ordinal.remove(&ordinal).unwrap_or_default();
            self.plan_copy(&mut line, ordinal, &tasks);
        }
        for task in by_ordinal.into_values().flatten().filter(|task| task.value.is_wanted()) {
            self.stop(task, "its service was scaled down");
        }
    }

    fn plan_copy(&mut self, line: &mut Line<'a>, ordinal: u32, tasks: &[&Kept<TaskRecord>]) {
        let in_touch = |task: &&&Kept<TaskRecord>| {
            task.value.is_wanted() && self.observed.is_in_touch(&task.value)
        };
        let (current, outdated): (Vec<&&Kept<TaskRecord>>, Vec<&&Kept<TaskRecord>>) =
            tasks.iter().filter(in_touch).partition(|task| self.is_current(line, &task.value));
        // Decided once: what runs before what starts, then the older one, which is the original
        // that came back.
        let keep = current.iter().min_by_key(|task| {
            (
                task.value.task.status.phase != TaskPhase::Running,
                task.value.copy.map(|copy| copy.attempt),
            )
        });
        match keep {
            Some(keep) if keep.value.task.status.phase == TaskPhase::Running => {
                let kept_id = keep.value.id().clone();
                for task in current.iter().filter(|task| *task.value.id() != kept_id) {
                    self.stop(task, &format!("`{kept_id}` runs in its place"));
                }
                for task in &outdated {
                    self.stop(task, &format!("`{kept_id}` replaces it"));
                }
            }
            Some(_) => {} // it is on its way up, and until then the outdated ones serve
            None => self.replace(line, ordinal, tasks, &outdated),
        }
    }

    /// Whether a task is what its service asks for now, on a node that may keep it.
    fn is_current(&self, line: &Line<'_>, record: &TaskRecord) -> bool {
        let (spec, wanted) = (&record.task.spec, &line.service.spec);
        let drained = spec
            .node
            .as_ref()
            .and_then(|node| self.observed.nodes.get(node))
            .is_some_and(|node| node.drain);
        spec.task_definition == wanted.task_definition
            && spec.launch_type == wanted.launch_type
            && !drained
    }

    /// A new task for a copy that has none, once it may be started and there is room.
    fn replace(
        &mut self,
        line: &mut Line<'a>,
        ordinal: u32,
        tasks: &[&Kept<TaskRecord>],
        outdated: &[&&Kept<TaskRecord>],
    ) {
        let last = tasks
            .iter()
            .filter_map(|task| Some((task.value.copy?, &task.value)))
            .max_by_key(|(copy, _)| copy.attempt);
        let failures = match self.failures(line, last) {
            Ok(failures) => failures,
            Err(reason) => return self.wait(line, reason),
        };
        // Before an old copy makes way for one that cannot start.
        if let Err(reason) = self.check_secrets(&line.key.0, line.definition) {
            return self.wait(line, reason);
        }
        let service = line.service;
        let attempt = last.map_or(1, |(copy, _)| copy.attempt.saturating_add(1));
        let copy = Copy { generation: service.generation, ordinal, attempt, failures };
        let mut task = new_task(line, copy, self.now);
        let id = task.id().clone();
        let need = Need {
            tenant: &line.key.0,
            task: &id,
            definition: line.definition,
            launch_type: service.spec.launch_type,
            service: Some(line.key),
            avoid: self.avoided(tasks),
        };
        if line.definition.writes_volumes() && self.has_writer(tasks) {
            for task in
                outdated.iter().filter(|old| self.makes_room(&need, &old.value)).collect::<Vec<_>>()
            {
                self.stop(task, "its replacement writes to the same volume");
            }
            return self.wait(line, "the task before it still has its volume".to_owned());
        }
        match self.place(&need) {
            Ok((node, volumes)) => {
                task.task.spec.node = Some(node);
                line.in_flux = true;
                self.plan.steps.push(Step::Start { task: Box::new(task), volumes });
            }
            Err(reason) => {
                // Without room for both, an old one makes way: one copy at a time, and only where
                // that helps.
                let old = outdated.iter().find(|old| self.makes_room(&need, &old.value));
                if let (Some(old), false) = (old, line.in_flux) {
                    line.in_flux = true;
                    self.stop(old, "it makes room for its replacement");
                }
                self.wait(line, reason);
            }
        }
    }

    /// Whether `need` could be met where `old` is, if that were not there. Stopping it for anything
    /// else would take away a copy that serves and give nothing for it.
    fn makes_room(&self, need: &Need<'_>, old: &TaskRecord) -> bool {
        let definition = self.definition_of(old);
        let node = old.task.spec.node.as_ref();
        node.zip(definition.ok())
            .is_some_and(|(node, definition)| self.room.would_fit(need, node, old.id(), definition))
    }

    /// Nodes on which this copy could not be started lately: its next task goes elsewhere where
    /// that is possible.
    fn avoided<'t>(&self, tasks: &[&'t Kept<TaskRecord>]) -> Vec<&'t NodeId> {
        let could_not_start = |record: &TaskRecord| {
            let lately = record.ended.is_some_and(|ended| self.now.since(ended) < AVOIDED_FOR);
            lately && !record.ran && !record.task.spec.stop
        };
        let failed = tasks.iter().map(|task| &task.value).filter(|record| could_not_start(record));
        failed.filter_map(|record| record.task.spec.node.as_ref()).collect()
    }

    /// Failures in a row before a new try, or why it is too early for one.
    fn failures(&self, line: &Line<'_>, last: Option<(Copy, &TaskRecord)>) -> Result<u32, String> {
        let Some((copy, record)) = last else { return Ok(0) };
        let same = record.task.spec.task_definition == line.service.spec.task_definition;
        let (Some(ended), true, false) = (record.ended, same, record.task.spec.stop) else {
            return Ok(0);
        };
        // One that never ran was tried by its node for longer than that, and is a failure all the
        // same.
        if record.ran && ended.since(record.task.created) >= STEADY_AFTER {
            return Ok(0);
        }
        let failures = copy.failures.saturating_add(1);
        // A clock that was set back must not make anybody wait for it to come round again.
        if ended <= self.now && self.now.since(ended) < back_off(failures) {
            let why = record.task.status.reason.as_deref().unwrap_or("it ended");
            return Err(format!(
                "`{}` failed {failures} times in a row and waits to be started again: {why}",
                record.id()
            ));
        }
        Ok(failures)
    }

    /// Whether a task of this copy may still be writing.
    fn has_writer(&self, tasks: &[&Kept<TaskRecord>]) -> bool {
        tasks.iter().any(|task| !task.value.has_ended() && task.value.task.spec.node.is_some())
    }

    fn wait(&mut self, line: &Line<'_>, reason: String) {
        self.plan.waiting.entry(Subject::Service(line.key.clone())).or_insert(reason);
    }
}

fn new_task(line: &Line<'_>, copy: Copy, now: spec::Timestamp) -> TaskRecord {
    let (tenant, service) = (line.key.0.clone(), line.service);
    let spec = TaskSpec {
        cluster: service.cluster.clone(),
        task_definition: service.spec.task_definition.clone(),
        launch_type: service.spec.launch_type,
        service: Some(service.name.clone()),
        node: None,
        stop: false,
    };
    let status = TaskStatus { phase: TaskPhase::Starting, reason: None, containers: Vec::new() };
    let id = task_id(line, copy);
    TaskRecord {
        tenant,
        task: Task { id, created: now, spec, status },
        copy: Some(copy),
        ended: None,
        ran: false,
    }
}

/// The same copy has the same id, however often and by whomever it is planned; and no two copies
/// ever have, also not those of a service that was deleted and made again.
fn task_id(line: &Line<'_>, copy: Copy) -> TaskId {
    let service = line.service;
    let all = format!(
        "{}/{}/{}/{}/{}/{}",
        service.cluster,
        service.name,
        line.kept.create_rev,
        copy.generation,
        copy.ordinal,
        copy.attempt
    );
    let hash = &Digest::of(all.as_bytes()).hex()[..10];
    let name = service.name.as_str();
    let name = name[..name.len().min(40)].trim_end_matches('-');
    format!("{name}-{}-{hash}", copy.ordinal)
        .parse()
        .expect("a short label, a number and hex digits make a label")
}
