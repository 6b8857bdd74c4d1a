//! Which revision each replica of a service should be of. While a deployment is under way one
//! replica after the other goes over to it, and the rest stay as they are.

use spec::{LaunchType, TaskDefinitionId, TaskId};

use super::{
    daemon::{Ordinals, Replicas},
    draft::Draft,
};
use crate::state::records::{DefinitionRecord, ServiceKey, ServiceRecord, Stored, TaskRecord};

/// A revision of a task on one kind of host.
#[derive(Debug, Clone)]
pub(super) struct Revision<'a> {
    pub id: TaskDefinitionId,
    pub launch_type: LaunchType,
    pub definition: &'a DefinitionRecord,
}

/// Which replicas may go over to the requested revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// No replica of another revision is ready, so there is nothing to protect.
    All,
    Of(u32),
    /// The rollout is paused.
    Paused,
}

/// The revisions of one service while a plan is made.
pub(super) struct Revisions<'a> {
    pub requested: Revision<'a>,
    /// The one that replicas whose turn has not come are brought back to.
    stable: Option<Revision<'a>>,
    turn: Turn,
}

impl Revision<'_> {
    /// The same on other hosts.
    pub fn on(&self, launch_type: LaunchType) -> Self {
        Self { launch_type, ..self.clone() }
    }

    pub fn is_of(&self, record: &TaskRecord) -> bool {
        let spec = &record.task.spec;
        spec.task_definition == self.id && spec.launch_type == self.launch_type
    }
}

impl<'a> Draft<'a> {
    /// A revision that there is.
    pub fn revision(
        &self,
        key: &ServiceKey,
        id: &TaskDefinitionId,
        launch_type: LaunchType,
    ) -> Option<Revision<'a>> {
        let definition = self.model.definitions.get(&(key.0.clone(), id.clone()))?;
        Some(Revision { id: id.clone(), launch_type, definition })
    }

    /// A task that is meant to run, on a node that is there.
    pub fn is_live(&self, record: &TaskRecord) -> bool {
        record.is_wanted() && self.is_in_touch(record)
    }

    pub fn is_ready(&self, record: &TaskRecord) -> bool {
        self.is_live(record) && record.task.status.is_ready()
    }

    /// Whether every replica is of the requested revision and ready, and none of another is left.
    pub fn is_complete(
        &self,
        record: &ServiceRecord,
        ordinals: &Ordinals,
        replicas: &Replicas<'_>,
    ) -> bool {
        let mut all = replicas.values().flatten();
        self.has_all(record, ordinals, replicas)
            && all.all(|task| record.is_requested(&task.value) || !self.is_live(&task.value))
    }

    /// The revisions of a service, or the requested one where there is no such.
    pub fn revisions(
        &self,
        key: &ServiceKey,
        record: &ServiceRecord,
        ordinals: &Ordinals,
        replicas: &Replicas<'_>,
    ) -> Result<Revisions<'a>, TaskDefinitionId> {
        let spec = &record.service.spec;
        let requested = self
            .revision(key, &spec.task_definition, spec.launch_type)
            .ok_or_else(|| spec.task_definition.clone())?;
        let stable = record.rollout.last_completed((&spec.task_definition, spec.launch_type));
        let stable = stable
            .and_then(|stable| self.revision(key, &stable.task_definition, stable.launch_type));
        let turn = self.turn(record, ordinals, replicas);
        Ok(Revisions { requested, stable, turn })
    }

    /// One that was begun goes on until its replica is ready; then comes the next one.
    fn turn(&self, record: &ServiceRecord, ordinals: &Ordinals, replicas: &Replicas<'_>) -> Turn {
        let tasks = |ordinal: &u32| replicas.get(ordinal).into_iter().flatten();
        let is_updated = |ordinal: &u32| {
            tasks(ordinal)
                .any(|task| record.is_requested(&task.value) && self.is_ready(&task.value))
        };
        let open = || ordinals.all().filter(|ordinal| !is_updated(ordinal));
        let is_other = |task: &TaskRecord| self.is_ready(task) && !record.is_requested(task);
        if !open().any(|ordinal| tasks(&ordinal).any(|task| is_other(&task.value))) {
            return Turn::All;
        }
        if record.rollout.paused {
            return Turn::Paused;
        }
        let since = record.deployment().map(|deployment| deployment.started);
        let is_begun = |ordinal: &u32| {
            tasks(ordinal).any(|task| {
                record.is_requested(&task.value)
                    && since.is_none_or(|since| task.value.task.created >= since)
            })
        };
        match open().find(is_begun).or_else(|| open().next()) {
            Some(ordinal) => Turn::Of(ordinal),
            None => Turn::All,
        }
    }

    /// The revision that the replica with these tasks should be of.
    pub fn revision_of(
        &self,
        key: &ServiceKey,
        revisions: &Revisions<'a>,
        (ordinal, launch_type): (u32, LaunchType),
        tasks: &[&Stored<TaskRecord>],
    ) -> Revision<'a> {
        let requested = revisions.requested.on(launch_type);
        let live = || tasks.iter().map(|task| &task.value).filter(|task| self.is_live(task));
        let is_its_turn = match revisions.turn {
            Turn::All => true,
            Turn::Of(turn) => turn == ordinal,
            Turn::Paused => false,
        };
        if is_its_turn || live().any(|task| requested.is_of(task)) {
            return requested;
        }
        let order = |task: &&TaskRecord| -> (bool, Option<u32>, TaskId) {
            let attempt = task.slot.map(|slot| slot.attempt);
            (!task.task.status.is_ready(), attempt, task.id().clone())
        };
        let kept = live().min_by_key(order).and_then(|task| {
            self.revision(key, &task.task.spec.task_definition, task.task.spec.launch_type)
        });
        let stable = || revisions.stable.as_ref().map(|stable| stable.on(launch_type));
        kept.or_else(stable).unwrap_or(requested)
    }
}
