//! How far a deployment has come: whether it begins, is completed, has failed, and what follows.

use std::borrow::Cow;

use spec::{
    ContainerHealth, ContainerPhase, ContainerStatus, Deployment, DeploymentState,
    TaskDefinitionId, Timestamp,
};

use crate::{
    limits::RESTARTS_UNREADY_MAX,
    state::records::{ServiceRecord, Stored, TaskRecord},
};

/// Why a replica fails: its probe says so, or it keeps ending before it was ever ready.
pub(super) fn failure(record: &TaskRecord) -> Option<String> {
    let containers = || record.task.status.containers.iter();
    let unhealthy = |container: &&ContainerStatus| {
        container.phase == ContainerPhase::Running
            && container.health == Some(ContainerHealth::Unhealthy)
    };
    if let Some(container) = containers().find(unhealthy) {
        let why = container.reason.as_deref().unwrap_or("it is unhealthy");
        return Some(format!("container `{}`: {why}", container.name));
    }
    let ends = |container: &&ContainerStatus| {
        record.readied.is_none()
            && container.restarts >= RESTARTS_UNREADY_MAX
            && matches!(container.phase, ContainerPhase::BackOff | ContainerPhase::Exited)
    };
    let container = containers().find(ends)?;
    let why = match (&container.reason, container.exit_code) {
        (Some(reason), _) => reason.clone(),
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => "it ended".to_owned(),
    };
    Some(format!("container `{}` ended {} times: {why}", container.name, container.restarts))
}

/// The service after what its tasks have come to, where that makes a difference. `is_complete` says
/// that every replica of `count` is of the requested revision and ready, and `waits` is what the
/// service was found to wait for.
pub(super) fn after<'a>(
    record: &'a ServiceRecord,
    tasks: &[&Stored<TaskRecord>],
    (is_complete, count): (bool, u32),
    waits: Option<String>,
    is_known: impl Fn(&TaskDefinitionId) -> bool,
    now: Timestamp,
) -> Cow<'a, ServiceRecord> {
    let Some(deployment) = record.deployment() else {
        let mut next = record.clone();
        next.begin(None, now);
        return Cow::Owned(next);
    };
    let is_open = match deployment.state {
        DeploymentState::InProgress => true,
        DeploymentState::Failed => false,
        DeploymentState::Completed | DeploymentState::Superseded => return Cow::Borrowed(record),
    };
    if is_complete {
        let mut next = record.clone();
        next.complete(now);
        return Cow::Owned(next);
    }
    let mut seen = Seen::of(deployment, tasks);
    seen.reason = seen.reason.or(waits);
    let failed = failed(record, (deployment, count), &seen, now).filter(|_| is_open);
    if failed.is_none() && seen.failures == deployment.failed_tasks {
        return Cow::Borrowed(record);
    }
    let mut next = record.clone();
    next.count_failures(seen.failures, seen.last_failed, now);
    if let Some(reason) = failed {
        let spec = &record.service.spec;
        let back_to = record
            .rollout
            .last_completed((&spec.task_definition, spec.launch_type))
            .filter(|_| spec.deployment.rollback && deployment.rolls_back.is_none())
            .filter(|stable| is_known(&stable.task_definition))
            .map(|stable| (stable.task_definition.clone(), stable.launch_type));
        next.fail(&reason, back_to, now);
    }
    Cow::Owned(next)
}

/// What there is to see of the tasks of a deployment.
struct Seen {
    /// Failed tasks since one became ready.
    failures: u32,
    /// The last of them, and why.
    last_failed: Option<String>,
    /// When it last came further.
    progressed: Timestamp,
    /// What the newest task that is not ready says about itself.
    reason: Option<String>,
}

impl Seen {
    fn of(deployment: &Deployment, tasks: &[&Stored<TaskRecord>]) -> Self {
        let own = || {
            tasks.iter().map(|task| &task.value).filter(|record| {
                record.task.spec.task_definition == deployment.task_definition
                    && record.task.spec.launch_type == deployment.launch_type
                    && record.task.created >= deployment.started
            })
        };
        let readied = own().filter_map(|record| record.readied).max();
        let failed = own()
            .filter_map(|record| Some((failed_at(record)?, record)))
            .filter(|(at, _)| readied.is_none_or(|readied| *at > readied));
        let mut failed: Vec<_> = failed.collect();
        failed.sort_by_key(|(at, record)| (*at, record.slot.map(|slot| slot.attempt)));
        let waiting = own().filter(|record| record.is_wanted() && !record.task.status.is_ready());
        let newest = waiting.max_by_key(|record| record.task.created);
        let told = |record: &TaskRecord| {
            let why = record.task.status.reason.as_deref().unwrap_or("it ended");
            format!("task `{}` failed: {why}", record.id())
        };
        Self {
            failures: u32::try_from(failed.len()).unwrap_or(u32::MAX),
            last_failed: failed.last().map(|(_, record)| told(record)),
            progressed: readied.map_or(deployment.progressed, |at| at.max(deployment.progressed)),
            reason: newest.and_then(|record| record.task.status.reason.clone()),
        }
    }
}

/// When a task failed: it was given up by the plan, or has ended by itself and was never ready.
fn failed_at(record: &TaskRecord) -> Option<Timestamp> {
    let by_itself = record.ended.filter(|_| !record.task.spec.stop && record.readied.is_none());
    record.failed.or(by_itself)
}

/// Why a deployment has failed, if it has.
fn failed(
    record: &ServiceRecord,
    (deployment, count): (&Deployment, u32),
    seen: &Seen,
    now: Timestamp,
) -> Option<String> {
    let settings = record.service.spec.deployment;
    if settings.circuit_breaker && seen.failures >= settings.failures_max(count) {
        let last = seen.last_failed.as_deref().unwrap_or_default();
        return Some(format!("{} tasks failed in a row; {last}", seen.failures));
    }
    let deadline = u64::from(settings.deadline_seconds);
    let is_late = now.since(seen.progressed).as_secs() >= deadline;
    (is_late && !record.rollout.paused && deployment.state == DeploymentState::InProgress).then(
        || match &seen.reason {
            Some(reason) => format!("no replica became ready for {deadline} s: {reason}"),
            None => format!("no replica became ready for {deadline} s"),
        },
    )
}
