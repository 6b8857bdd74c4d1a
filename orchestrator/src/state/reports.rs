use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use spec::{
    NodeCondition, NodeId, NodeProblem, NodeProblemKind, NodeStatus, ServiceRef, TaskStatus,
    Timestamp,
    wire::{NodeReport, RequestCounts, WaitingRequests},
};

use super::{
    Shared,
    counted::CountedTasks,
    now,
    rates::{Readings, TaskRate},
    records::{ServiceKey, TaskKey},
};
use crate::limits::{
    CLOCK_SKEW_MAX, DISCONNECTED_AFTER_MISSED, HEARTBEAT_EVERY_MAX, HEARTBEAT_EVERY_MIN,
    HEARTBEAT_SLACK, INATTENTIVE_AFTER, NODE_GRACE, REPORT_EVERY, SUSPECT_AFTER_MISSED,
};

/// What nodes report about themselves and their tasks, in memory alone: no heartbeat writes to the
/// store.
#[derive(Debug)]
pub(crate) struct NodeReports {
    started: Instant,
    started_at: Timestamp,
    nodes: Shared<BTreeMap<NodeId, LastReport>>,
    attention: Shared<Attention>,
}

/// Since when this control plane has looked at nodes without a pause, and when it last did.
#[derive(Debug)]
struct Attention {
    since: Instant,
    last: Instant,
}

#[derive(Debug)]
struct LastReport {
    at: Instant,
    label: Timestamp,
    heartbeat: Option<ExpectedHeartbeat>,
    /// The newest report's life and number.
    boot: String,
    seq: u64,
    statuses: BTreeMap<TaskKey, TaskStatus>,
    readings: BTreeMap<TaskKey, Readings>,
    counted: CountedTasks,
    problems: Vec<NodeProblem>,
    waiting: Vec<WaitingRequests>,
    /// When its last report came.
    told: Timestamp,
}

/// What the last heartbeat of a node said.
#[derive(Debug, Clone, Copy)]
struct ExpectedHeartbeat {
    at: Instant,
    /// The time in which the next one comes.
    every: Duration,
}

impl LastReport {
    /// The time in which the node says again that it is there. An agent that has been heard without
    /// a heartbeat for two of them sends none: one of the version before has taken its place.
    fn heartbeat_every(&self) -> Duration {
        let kept_up = |next: &ExpectedHeartbeat| {
            let without = self.at.saturating_duration_since(next.at);
            without <= next.every.max(REPORT_EVERY) * 2
        };
        self.heartbeat.filter(kept_up).map_or(REPORT_EVERY, |next| next.every)
    }
}

/// What a report has changed beside statuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReportOutcome {
    /// A newer one has overtaken it.
    Stale,
    Taken,
    /// And there may be something to do now: tasks may be placed differently, or requests wait
    /// for a service.
    NeedsPlan,
}

impl NodeReports {
    pub fn new() -> Self {
        let started = Instant::now();
        let attention = Shared::of(Attention { since: started, last: started });
        Self { started, started_at: now(), nodes: Shared::default(), attention }
    }

    /// The control plane looks at its nodes. Where it was stopped itself, their silence is counted
    /// from now on.
    pub fn attend(&self) {
        self.attend_at(Instant::now());
    }

    fn attend_at(&self, now: Instant) {
        let mut attention = self.attention.write();
        if now.duration_since(attention.last) > INATTENTIVE_AFTER {
            attention.since = now;
        }
        attention.last = now;
    }

    /// `node` says within which time it says again that it is there.
    pub fn expect(&self, node: &NodeId, every: Duration) {
        if let Some(seen) = self.nodes.write().get_mut(node) {
            let every = every.clamp(HEARTBEAT_EVERY_MIN, HEARTBEAT_EVERY_MAX);
            seen.heartbeat = Some(ExpectedHeartbeat { at: Instant::now(), every });
        }
    }

    /// When the next node is disconnected, if none says before that it is there.
    pub fn next_disconnection(&self) -> Option<Instant> {
        let (now, since) = (Instant::now(), self.attention.read().since);
        let nodes = self.nodes.read();
        let disconnected = nodes
            .values()
            .map(|seen| seen.at.max(since) + silence(seen.heartbeat_every()).disconnected_after);
        disconnected.filter(|at| *at > now).min()
    }

    /// `node` sent a request. Returns its condition until then.
    pub fn heard(&self, node: &NodeId) -> NodeCondition {
        let was = self.node(node).condition;
        let mut nodes = self.nodes.write();
        let (at, label) = (Instant::now(), now());
        let seen = nodes.entry(node.clone()).or_insert_with(|| LastReport {
            at,
            label,
            heartbeat: None,
            boot: String::new(),
            seq: 0,
            statuses: BTreeMap::new(),
            readings: BTreeMap::new(),
            counted: CountedTasks::default(),
            problems: Vec::new(),
            waiting: Vec::new(),
            told: label,
        });
        (seen.at, seen.label) = (at, label);
        was
    }

    /// Takes a report, unless it is older than the last one.
    pub fn report(&self, node: &NodeId, report: &NodeReport) -> ReportOutcome {
        self.heard(node);
        let mut nodes = self.nodes.write();
        let seen = nodes.get_mut(node).expect("its entry was made just now");
        if seen.boot == report.boot && report.seq <= seen.seq {
            return ReportOutcome::Stale;
        }
        let before = pressure(&seen.problems);
        seen.problems = report.problems.clone();
        let skew = report.time.and_then(|time| clock_skew(time, seen.label));
        seen.problems.extend(skew);
        (seen.boot, seen.seq, seen.told) = (report.boot.clone(), report.seq, seen.label);
        let statuses = report
            .tasks
            .iter()
            .map(|task| ((task.tenant.clone(), task.id.clone()), task.status.clone()));
        seen.statuses = statuses.collect();
        seen.readings.retain(|task, _| seen.statuses.contains_key(task));
        seen.counted.read(report, seen.at);
        for (task, status) in &seen.statuses {
            let readings = seen.readings.entry(task.clone());
            let requests = seen.counted.get(task);
            let readings = readings.or_insert_with(|| Readings::new(status, requests, seen.at));
            readings.read(status, requests, seen.at);
        }
        let waited = std::mem::replace(&mut seen.waiting, report.waiting.clone());
        match pressure(&seen.problems) == before && seen.waiting == waited {
            true => ReportOutcome::Taken,
            false => ReportOutcome::NeedsPlan,
        }
    }

    /// What is wrong with `node`, as far as it has said or can be seen from here.
    pub fn problems(&self, node: &NodeId) -> Vec<NodeProblem> {
        self.nodes.read().get(node).map(|seen| seen.problems.clone()).unwrap_or_default()
    }

    /// The nodes that are short of something, so that no new task is placed on them.
    pub fn under_pressure(&self) -> BTreeMap<NodeId, NodeProblemKind> {
        let nodes = self.nodes.read();
        let short =
            |(node, seen): (&NodeId, &LastReport)| Some((node.clone(), pressure(&seen.problems)?));
        nodes.iter().filter_map(short).collect()
    }

    /// What a task does in a second, where its node has reported it for long enough.
    pub fn rate(&self, node: &NodeId, task: &TaskKey) -> Option<TaskRate> {
        self.nodes.read().get(node)?.readings.get(task)?.rate()
    }

    /// For how long a task had no request, as far as its node has told.
    pub fn quiet_for(&self, node: &NodeId, task: &TaskKey) -> Option<Duration> {
        Some(self.nodes.read().get(node)?.readings.get(task)?.quiet_for())
    }

    /// Requests that wait for services without a replica, at the ingresses of nodes that are there,
    /// and when they were last told of.
    pub fn waiting(&self) -> BTreeMap<ServiceKey, (u32, Timestamp)> {
        let nodes: Vec<NodeId> = self.nodes.read().keys().cloned().collect();
        let gone = self.disconnected(nodes.iter());
        let mut sums: BTreeMap<ServiceKey, (u32, Timestamp)> = BTreeMap::new();
        for (_, seen) in self.nodes.read().iter().filter(|(node, _)| !gone.contains(*node)) {
            for WaitingRequests { service, requests } in &seen.waiting {
                let ServiceRef { tenant, cluster, service } = service.clone();
                let (sum, told) = sums.entry((tenant, cluster, service)).or_default();
                *sum = sum.saturating_add(*requests);
                *told = seen.told.max(*told);
            }
        }
        sums
    }

    /// What tasks were asked, where that is counted, as each node tells of its own.
    pub fn requests(&self) -> BTreeMap<NodeId, BTreeMap<TaskKey, RequestCounts>> {
        let nodes = self.nodes.read();
        nodes.iter().map(|(node, seen)| (node.clone(), seen.counted.all())).collect()
    }

    /// Tasks without a process, which wait for a request.
    pub fn idle(&self) -> BTreeSet<TaskKey> {
        let is_idle = |status: &TaskStatus| {
            !status.containers.is_empty() && status.containers.iter().all(|one| one.idle)
        };
        let nodes = self.nodes.read();
        let statuses = nodes.values().flat_map(|seen| &seen.statuses);
        statuses.filter(|(_, status)| is_idle(status)).map(|(task, _)| task.clone()).collect()
    }

    /// The newest status of a task, with its usage so far.
    pub fn status(&self, node: &NodeId, task: &TaskKey) -> Option<TaskStatus> {
        self.nodes.read().get(node)?.statuses.get(task).cloned()
    }

    pub fn forget(&self, node: &NodeId) {
        self.nodes.write().remove(node);
    }

    /// How each of `nodes` is.
    pub fn conditions<'a>(
        &self,
        nodes: impl Iterator<Item = &'a NodeId>,
    ) -> BTreeMap<NodeId, NodeCondition> {
        nodes.map(|node| (node.clone(), self.node(node).condition)).collect()
    }

    /// Those of `nodes` that are.
    pub fn disconnected<'a>(&self, nodes: impl Iterator<Item = &'a NodeId>) -> BTreeSet<NodeId> {
        let gone = |node: &&NodeId| self.node(node).condition == NodeCondition::Disconnected;
        nodes.filter(gone).cloned().collect()
    }

    /// How `node` is.
    pub fn node(&self, node: &NodeId) -> NodeStatus {
        self.node_at(node, Instant::now())
    }

    fn node_at(&self, node: &NodeId, now: Instant) -> NodeStatus {
        let (condition, last_seen) = match self.nodes.read().get(node) {
            Some(seen) => {
                let heard = seen.at.max(self.attention.read().since);
                let silent_for = now.saturating_duration_since(heard);
                (silence(seen.heartbeat_every()).condition(silent_for), seen.label)
            }
            None if now.duration_since(self.started) < NODE_GRACE => {
                (NodeCondition::Suspect, self.started_at)
            }
            None => (NodeCondition::Disconnected, self.started_at),
        };
        NodeStatus { condition, last_seen }
    }
}

fn pressure(problems: &[NodeProblem]) -> Option<NodeProblemKind> {
    problems.iter().map(|problem| problem.kind).filter(|kind| kind.keeps_tasks_away()).min()
}

/// A node whose clock is far from ours: certificates begin and end elsewhere for it, and so do
/// times in logs.
fn clock_skew(there: Timestamp, here: Timestamp) -> Option<NodeProblem> {
    let (skew, side) = match there > here {
        true => (there.since(here), "ahead of"),
        false => (here.since(there), "behind"),
    };
    (skew > CLOCK_SKEW_MAX).then(|| NodeProblem {
        kind: NodeProblemKind::ClockSkew,
        message: format!("its clock is {} s {side} the control plane's", skew.as_secs()),
    })
}

/// What silence means of a node that says so often that it is there.
struct Silence {
    suspect_after: Duration,
    disconnected_after: Duration,
}

fn silence(heartbeat_every: Duration) -> Silence {
    let missed = |count: u32| heartbeat_every * count + HEARTBEAT_SLACK;
    Silence {
        suspect_after: missed(SUSPECT_AFTER_MISSED),
        disconnected_after: missed(DISCONNECTED_AFTER_MISSED),
    }
}

impl Silence {
    fn condition(&self, silent_for: Duration) -> NodeCondition {
        match silent_for {
            _ if silent_for >= self.disconnected_after => NodeCondition::Disconnected,
            _ if silent_for >= self.suspect_after => NodeCondition::Suspect,
            _ => NodeCondition::Ready,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_node_is_suspected_and_then_disconnected() {
        use NodeCondition::{Disconnected, Ready, Suspect};
        let (reports, node) = (NodeReports::new(), "n1".parse().unwrap());
        for (every, after, want) in [
            (None, 6_400, Ready), // an agent of the version before
            (None, 6_600, Suspect),
            (None, 12_400, Suspect),
            (None, 12_600, Disconnected),
            (Some(1_000), 2_400, Ready),
            (Some(1_000), 2_600, Suspect),
            (Some(1_000), 4_400, Suspect),
            (Some(1_000), 4_600, Disconnected),
            (Some(3_000), 12_400, Suspect), // it leaves its tasks to the next agent
            (Some(3_600_000), 20_400, Suspect), // no node is waited for without end
            (Some(3_600_000), 20_600, Disconnected),
            (Some(0), 2_400, Ready), // and none is lost by what it asks for
        ] {
            reports.heard(&node);
            every.into_iter().for_each(|ms| reports.expect(&node, Duration::from_millis(ms)));
            let heard = reports.nodes.read()[&node].at;
            let seen = reports.node_at(&node, heard + Duration::from_millis(after));
            assert_eq!(seen.condition, want, "{every:?}, {after} ms");
            let next = reports.next_disconnection().expect("it is there");
            assert!((next > heard + Duration::from_millis(after)) == (want != Disconnected));
        }
    }

    #[test]
    fn a_first_report_takes_no_heartbeat_back_and_an_agent_without_any_is_waited_for() {
        let (reports, node) = (NodeReports::new(), "n1".parse().unwrap());
        let lost_after = |heard_after| {
            let mut nodes = reports.nodes.write();
            let seen = nodes.get_mut(&node).expect("it was heard");
            seen.at = seen.heartbeat.expect("there was one").at + Duration::from_secs(heard_after);
            silence(seen.heartbeat_every()).disconnected_after
        };
        reports.heard(&node);
        reports.expect(&node, Duration::from_secs(1));
        reports.report(&node, &report_of(1, &[], 0));
        for (heard_after, want_millis) in [(0, 4_500), (3, 4_500), (6, 4_500), (7, 12_500)] {
            assert_eq!(lost_after(heard_after), Duration::from_millis(want_millis));
        }
    }

    #[test]
    fn what_a_stopped_control_plane_did_not_hear_is_no_silence() {
        let (reports, node) = (NodeReports::new(), "n1".parse().unwrap());
        reports.heard(&node);
        reports.expect(&node, Duration::from_secs(1));
        let heard = reports.nodes.read()[&node].at;
        let condition =
            |after| reports.node_at(&node, heard + Duration::from_secs(after)).condition;
        reports.attend_at(heard + Duration::from_secs(2));
        assert_eq!(condition(5), NodeCondition::Disconnected);
        reports.attend_at(heard + Duration::from_secs(60));
        for (after, want) in [
            (60, NodeCondition::Ready),
            (63, NodeCondition::Suspect),
            (65, NodeCondition::Disconnected),
        ] {
            assert_eq!(condition(after), want, "{after} s");
        }
    }

    #[test]
    fn after_a_restart_every_node_has_half_a_minute_to_report() {
        let (reports, node) = (NodeReports::new(), "n1".parse().unwrap());
        for (after, want) in [
            (0, NodeCondition::Suspect),
            (29, NodeCondition::Suspect),
            (30, NodeCondition::Disconnected),
        ] {
            assert_eq!(
                reports.node_at(&node, reports.started + Duration::from_secs(after)).condition,
                want,
                "{after} s"
            );
        }
    }

    fn report_of(seq: u64, problems: &[NodeProblemKind], skew_millis: i64) -> NodeReport {
        let time = now().millis().checked_add_signed(skew_millis).unwrap();
        let problems =
            problems.iter().map(|kind| NodeProblem { kind: *kind, message: String::new() });
        NodeReport {
            version: 1,
            boot: "b".to_owned(),
            seq,
            revision: 0,
            spec: crate::journeys::fixture::node_spec(),
            tasks: Vec::new(),
            time: Some(Timestamp::from_millis(time)),
            problems: problems.collect(),
            waiting: Vec::new(),
        }
    }

    #[test]
    fn pressure_is_told_when_it_begins_and_ends_and_a_clock_when_it_is_far_off() {
        use NodeProblemKind::{ClockSkew, DiskPressure, Kernel, MemoryPressure};
        use ReportOutcome::{NeedsPlan, Stale, Taken};
        let (reports, node) = (NodeReports::new(), "n1".parse().unwrap());
        for (seq, problems, skew_millis, outcome, found) in [
            (1, &[][..], 0, Taken, &[][..]),
            (2, &[Kernel], 0, Taken, &[Kernel]),
            (3, &[Kernel, DiskPressure], 0, NeedsPlan, &[Kernel, DiskPressure]),
            (3, &[], 0, Stale, &[Kernel, DiskPressure]),
            (4, &[DiskPressure, MemoryPressure], 0, Taken, &[DiskPressure, MemoryPressure]),
            (5, &[MemoryPressure], 0, NeedsPlan, &[MemoryPressure]),
            (6, &[], 60_000, NeedsPlan, &[ClockSkew]),
            (7, &[], -60_000, Taken, &[ClockSkew]),
            (8, &[], 2_000, Taken, &[]),
        ] {
            assert_eq!(reports.report(&node, &report_of(seq, problems, skew_millis)), outcome);
            let kinds: Vec<_> = reports.problems(&node).iter().map(|found| found.kind).collect();
            assert_eq!(kinds, found, "report {seq}");
            let is_short = kinds.iter().any(|kind| kind.keeps_tasks_away());
            assert_eq!(reports.under_pressure().contains_key(&node), is_short, "report {seq}");
        }
    }
}
