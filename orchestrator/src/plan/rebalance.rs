//! Moves replicas to where they are spread better, one at a time: after a node has come back or
//! joined, no other event would.

use std::collections::BTreeSet;

use spec::{DeploymentState, NodeId, PlacementStrategy, SchedulingStrategy};

use super::{
    Step,
    capacity::{NodeCapacity, PlacementRequest},
    draft::Draft,
    placement::usual_strategies,
};
use crate::state::records::{ServiceKey, ServiceRecord, Stored, TaskRecord};

impl<'a> Draft<'a> {
    /// The next move of a service that stands still, where its replicas are to be spread.
    pub(super) fn rebalance(
        &mut self,
        key: &ServiceKey,
        stored: &Stored<ServiceRecord>,
        tasks: &[&Stored<TaskRecord>],
    ) {
        let (record, spec) = (&stored.value, &stored.value.service.spec);
        let is_asked = record.rebalancing || spec.placement.rebalance;
        let newest = record.deployment().map(|deployment| deployment.state);
        let stands = newest == Some(DeploymentState::Completed);
        if !is_asked || !stands || spec.scheduling == SchedulingStrategy::Daemon {
            return;
        }
        if tasks.iter().any(|task| task.value.moving && task.value.is_wanted()) {
            return; // one at a time
        }
        match self.next_move(key, record, tasks) {
            Some((task, to)) => self.begin_move(task, &to),
            None if record.rebalancing => {
                let mut next = record.clone();
                next.end_rebalancing(self.now);
                let (key, service) = (key.clone(), Box::new(next));
                self.plan.steps.push(Step::Service { key, service, based_on: stored.mod_rev });
            }
            None => {}
        }
    }

    /// A replica that would be better off on another node, and which.
    fn next_move<'t>(
        &self,
        key: &ServiceKey,
        record: &ServiceRecord,
        tasks: &[&'t Stored<TaskRecord>],
    ) -> Option<(&'t Stored<TaskRecord>, NodeId)> {
        let spec = &record.service.spec;
        let revision = self.revision(key, &spec.task_definition, spec.launch_type)?;
        if !revision.definition.mounted().is_empty() {
            return None; // it follows its volumes
        }
        let usual = usual_strategies();
        let mut next = self.sample(key, record);
        // The last one of each node: the newest has the fewest connections.
        let mut seen = BTreeSet::new();
        for &task in tasks.iter().rev().filter(|task| self.is_ready(&task.value)) {
            let from = task.value.task.spec.node.as_ref()?;
            if !seen.insert(from) {
                continue;
            }
            next.task.spec.launch_type = task.value.task.spec.launch_type;
            let request = PlacementRequest {
                task: &next,
                definition: revision.definition,
                service: Some(key),
                placement: &spec.placement,
                only: None,
                avoid: Vec::new(),
            };
            if let Some(to) = self.better_node(&request, from, &usual) {
                return Some((task, to));
            }
        }
        None
    }

    /// A node where fewer replicas are than would be left where one on `from` goes away.
    fn better_node(
        &self,
        request: &PlacementRequest<'_>,
        from: &NodeId,
        usual: &[PlacementStrategy],
    ) -> Option<NodeId> {
        let strategies = self.capacity.strategies(request, usual);
        let here = self.capacity.nodes.get(from)?;
        let now = strategies.spread_without_one(here, here);
        let better = self.capacity.nodes.values().filter(|node| {
            let lack = || {
                let replicas = node.replicas_of(request.service);
                node.lack(&node.left_for(request), replicas, request, None)
            };
            node.node.id != *from
                && node.offers(request)
                && strategies.spread_without_one(node, here) < now
                && lack().is_none()
        });
        let spread = |node: &&NodeCapacity<'_>| strategies.spread_without_one(node, here);
        better.min_by_key(spread).map(|node| node.node.id.clone())
    }

    fn begin_move(&mut self, task: &Stored<TaskRecord>, to: &NodeId) {
        tracing::debug!(task = %task.value.id(), %to, "a replica is moved");
        let next = TaskRecord { moving: true, ..task.value.clone() };
        self.change(task, next, Vec::new());
    }
}
