use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use spec::{
    NodeCondition, NodeId, NodeStatus, TaskStatus, Timestamp,
    wire::{NodeReport, RequestCounts},
};

use super::{
    Shared,
    counted::CountedTasks,
    now,
    rates::{Readings, TaskRate},
    records::TaskKey,
};
use crate::limits::{NODE_DISCONNECTED_AFTER, NODE_GRACE, NODE_SUSPECT_AFTER};

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
        });
        (seen.at, seen.label) = (at, label);
        was
    }

    /// Takes a report, and returns whether it is newer than the last one.
    pub fn report(&self, node: &NodeId, report: &NodeReport) -> bool {
        self.heard(node);
        let mut nodes = self.nodes.write();
        let seen = nodes.get_mut(node).expect("its entry was made just now");
        if seen.boot == report.boot && report.seq <= seen.seq {
            return false;
        }
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
        true
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
}
