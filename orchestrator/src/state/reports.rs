use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use spec::{
    NodeCondition, NodeId, NodeProblem, NodeProblemKind, NodeStatus, TaskStatus, Timestamp,
    wire::{NodeReport, RequestCounts},
};

use super::{
    Shared,
    counted::CountedTasks,
    now,
    rates::{Readings, TaskRate},
    records::TaskKey,
};
use crate::limits::{CLOCK_SKEW_MAX, NODE_DISCONNECTED_AFTER, NODE_GRACE, NODE_SUSPECT_AFTER};

/// What nodes report about themselves and their tasks, in memory alone: no heartbeat writes to the
/// store.
#[derive(Debug)]
pub(crate) struct NodeReports {
    started: Instant,
    started_at: Timestamp,
    nodes: Shared<BTreeMap<NodeId, LastReport>>,
}

#[derive(Debug)]
struct LastReport {
    at: Instant,
    label: Timestamp,
    /// The newest report's life and number.
    boot: String,
    seq: u64,
    statuses: BTreeMap<TaskKey, TaskStatus>,
    readings: BTreeMap<TaskKey, Readings>,
    counted: CountedTasks,
    problems: Vec<NodeProblem>,
}

/// What a report has changed beside statuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReportOutcome {
    /// A newer one has overtaken it.
    Stale,
    Taken,
    /// And tasks may be placed differently now.
    PressureChanged,
}

impl NodeReports {
    pub fn new() -> Self {
        Self { started: Instant::now(), started_at: now(), nodes: Shared::default() }
    }

    /// `node` sent a request. Returns its condition until then.
    pub fn heard(&self, node: &NodeId) -> NodeCondition {
        let was = self.node(node).condition;
        let mut nodes = self.nodes.write();
        let (at, label) = (Instant::now(), now());
        let seen = nodes.entry(node.clone()).or_insert_with(|| LastReport {
            at,
            label,
            boot: String::new(),
            seq: 0,
            statuses: BTreeMap::new(),
            readings: BTreeMap::new(),
            counted: CountedTasks::default(),
            problems: Vec::new(),
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
        (seen.boot, seen.seq) = (report.boot.clone(), report.seq);
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
        match pressure(&seen.problems) == before {
            true => ReportOutcome::Taken,
            false => ReportOutcome::PressureChanged,
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
            Some(seen) => (condition(now.duration_since(seen.at)), seen.label),
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

fn condition(silent_for: Duration) -> NodeCondition {
    match silent_for {
        _ if silent_for >= NODE_DISCONNECTED_AFTER => NodeCondition::Disconnected,
        _ if silent_for >= NODE_SUSPECT_AFTER => NodeCondition::Suspect,
        _ => NodeCondition::Ready,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_node_is_suspected_and_then_disconnected() {
        let (reports, node) = (NodeReports::new(), "n1".parse().unwrap());
        reports.heard(&node);
        let heard = Instant::now();
        for (after, want) in [
            (0, NodeCondition::Ready),
            (5, NodeCondition::Ready),
            (6, NodeCondition::Suspect),
            (9, NodeCondition::Suspect),
            (10, NodeCondition::Disconnected),
        ] {
            assert_eq!(
                reports.node_at(&node, heard + Duration::from_secs(after)).condition,
                want,
                "{after} s"
            );
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
        }
    }

    #[test]
    fn pressure_is_told_when_it_begins_and_ends_and_a_clock_when_it_is_far_off() {
        use NodeProblemKind::{ClockSkew, DiskPressure, Kernel, MemoryPressure};
        use ReportOutcome::{PressureChanged, Stale, Taken};
        let (reports, node) = (NodeReports::new(), "n1".parse().unwrap());
        for (seq, problems, skew_millis, outcome, found) in [
            (1, &[][..], 0, Taken, &[][..]),
            (2, &[Kernel], 0, Taken, &[Kernel]),
            (3, &[Kernel, DiskPressure], 0, PressureChanged, &[Kernel, DiskPressure]),
            (3, &[], 0, Stale, &[Kernel, DiskPressure]),
            (4, &[DiskPressure, MemoryPressure], 0, Taken, &[DiskPressure, MemoryPressure]),
            (5, &[MemoryPressure], 0, PressureChanged, &[MemoryPressure]),
            (6, &[], 60_000, PressureChanged, &[ClockSkew]),
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
