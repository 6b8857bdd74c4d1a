//! How far a deployment has come: whether it begins, is completed, has failed, and what follows.

use std::borrow::Cow;

use spec::{
    ContainerHealth, ContainerPhase, ContainerStatus, Deployment, DeploymentState,
    TaskDefinitionId, Timestamp, wire::RequestCounts,
};

use super::shift::Shifting;
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

/// What is seen of the tasks of a service.
pub(super) struct Progress<'t> {
    pub tasks: &'t [&'t Stored<TaskRecord>],
    /// How many replicas there should be.
    pub count: u32,
    /// Whether every replica has a task of the requested revision that is ready.
    pub has_all: bool,
    /// And no task of another one.
    pub is_complete: bool,
    /// What the tasks of the requested revision were asked.
    pub requests: RequestCounts,
    /// What the service was found to wait for.
    pub waits: Option<String>,
}

/// The service after what its tasks have come to, where that makes a difference.
pub(super) fn after<'a>(
    record: &'a ServiceRecord,
    progress: Progress<'_>,
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
    let shifting = record.shift().map(|(traffic, _)| Shifting {
        record,
        deployment,
        traffic,
        is_ready: progress.has_all,
        requests: progress.requests,
        now,
    });
    if progress.is_complete && shifting.is_none() {
        let mut next = record.clone();
        next.complete(now);
        return Cow::Owned(next);
    }
    let mut seen = Seen::of(record, deployment, progress.tasks);
    seen.reason = seen.reason.or(progress.waits);
    let shifting = shifting.filter(|_| is_open);
    let by_requests = shifting.as_ref().and_then(Shifting::failure);
    let has_deadline = !progress.has_all || shifting.is_none();
    let by_tasks = || failed(record, (deployment, progress.count), has_deadline, &seen, now);
    let failed = by_requests.or_else(by_tasks).filter(|_| is_open);
    if let (None, Some(shifting)) = (&failed, &shifting)
        && let Some(next) = shifting.next().or_else(|| shifting.rested())
    {
        return Cow::Owned(next);
    }
    if failed.is_none() && seen.failures == deployment.failed_tasks {
        return Cow::Borrowed(record);
    }
    let mut next = record.clone();
    next.count_failures(seen.failures, seen.last_failed, now);
    if let Some(reason) = failed {
        let rolls_back = record.service.spec.deployment.rollback;
        let back_to = record
            .way_back()
            .filter(|_| rolls_back && deployment.rolls_back.is_none())
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
    /// Of the newest deployment of a service.
    fn of(record: &ServiceRecord, deployment: &Deployment, tasks: &[&Stored<TaskRecord>]) -> Self {
        let own = || {
            tasks
                .iter()
                .map(|task| &task.value)
                .filter(|task| record.is_requested(task) && task.task.created >= deployment.started)
        };
        // Both revisions are there: one that serves for a while and then ends is no better than
        // one that never did.
        let in_shares = deployment.traffic.is_some();
        let readied = own().filter_map(|record| record.readied).max();
        let failed = own()
            .filter_map(|record| Some((failed_at(record, in_shares)?, record)))
            .filter(|(at, _)| in_shares || readied.is_none_or(|readied| *at > readied));
        let mut failed: Vec<_> = failed.collect();
        let restarts = own().filter(|_| in_shares).map(restarts_of).sum::<u32>();
        failed.sort_by_key(|(at, record)| (*at, record.slot.map(|slot| slot.attempt)));
        let waiting = own().filter(|record| record.is_wanted() && !record.task.status.is_ready());
        let newest = waiting.max_by_key(|record| record.task.created);
        let ends = || own().rfind(|record| in_shares && restarts_of(record) > 0);
        let last_failed = failed.last().map(|(_, record)| *record).or_else(ends);
        let told = |record: &TaskRecord| {
            let why = record.task.status.reason.as_deref().unwrap_or("it ended");
            format!("task `{}` failed: {why}", record.id())
        };
        Self {
            failures: u32::try_from(failed.len()).unwrap_or(u32::MAX).saturating_add(restarts),
            last_failed: last_failed.map(told),
            progressed: readied.map_or(deployment.progressed, |at| at.max(deployment.progressed)),
            reason: newest.and_then(|record| record.task.status.reason.clone()),
        }
    }
}

/// When a task failed: it was given up by the plan, or has ended by itself and was never ready, or
/// at all where `ends` says that this counts.
fn failed_at(record: &TaskRecord, ends: bool) -> Option<Timestamp> {
    let counts = ends || record.readied.is_none();
    let by_itself = record.ended.filter(|_| !record.task.spec.stop && counts);
    record.failed.or(by_itself)
}

/// How often containers of a task ended that was ready.
fn restarts_of(record: &TaskRecord) -> u32 {
    match record.readied {
        Some(_) => record.task.status.containers.iter().map(|one| one.restarts).sum(),
        None => 0,
    }
}

/// Why a deployment has failed, if it has.
fn failed(
    record: &ServiceRecord,
    (deployment, count): (&Deployment, u32),
    has_deadline: bool,
    seen: &Seen,
    now: Timestamp,
) -> Option<String> {
    let settings = record.service.spec.deployment;
    if settings.circuit_breaker && seen.failures >= settings.failures_max(count) {
        let last = seen.last_failed.as_deref().unwrap_or_default();
        return Some(format!("{} tasks failed in a row; {last}", seen.failures));
    }
    let deadline = u64::from(settings.deadline_seconds);
    let is_late = has_deadline && now.since(seen.progressed).as_secs() >= deadline;
    (is_late && !record.rollout.paused && deployment.state == DeploymentState::InProgress).then(
        || match &seen.reason {
            Some(reason) => format!("no replica became ready for {deadline} s: {reason}"),
            None => format!("no replica became ready for {deadline} s"),
        },
    )
}
