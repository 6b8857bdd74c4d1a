use std::collections::BTreeMap;

use spec::{NodeId, PlacementStrategy, Reserved, TaskId};

use super::{
    capacity::{Capacity, NodeCapacity, PlacementRequest, Share, host_ports, reserved},
    reason::{Demand, Unplaceable},
};
use crate::state::{
    objects::Runs,
    records::{DefinitionRecord, TaskRecord},
};

/// How good a node is, the least first.
type Score = (bool, usize, Vec<u64>);

/// The strategies of one request, with how many replicas each value of an attribute has.
pub(super) struct Strategies<'r>(Vec<(&'r PlacementStrategy, BTreeMap<String, usize>)>);

impl<'a> Capacity<'a> {
    /// The best node for `request`, with its share taken.
    pub fn place(
        &mut self,
        request: &PlacementRequest<'_>,
        volume_node: Option<&NodeId>,
    ) -> Result<NodeId, Unplaceable> {
        // Two tasks that write to one volume would write over each other, whichever definition or
        // service they are of.
        if let Some((volume, writer)) = self.writers_of(request).next() {
            let (volume, writer) = (volume.clone(), writer.clone());
            return Err(Unplaceable::VolumeHasWriter { volume, writer });
        }
        let best = self.best(request, volume_node)?;
        self.take(request, &best);
        Ok(best)
    }

    /// Whether `request` would fit on `node` if `task`, which has `share` of it, were not there.
    pub fn would_fit(
        &self,
        request: &PlacementRequest<'_>,
        node: &NodeId,
        task: &TaskRecord,
        share: &Share,
    ) -> bool {
        self.nodes.get(node).is_some_and(|node| {
            let counts = task.is_wanted() && task.service_key().as_ref() == request.service;
            let replicas = node.replicas_of(request.service).saturating_sub(usize::from(counts));
            node.offers(request)
                && node
                    .lack(&node.left_for(request).without(share), replicas, request, None)
                    .is_none()
                && self.writers_of(request).all(|(_, writer)| writer == task.id())
        })
    }

    /// One that is not to be avoided, then one that is preferred, then as the strategies say.
    fn best(
        &self,
        request: &PlacementRequest<'_>,
        volume_node: Option<&NodeId>,
    ) -> Result<NodeId, Unplaceable> {
        let usual = usual_strategies();
        let strategies = self.strategies(request, &usual);
        let lack = |node: &NodeCapacity<'_>| {
            let replicas = node.replicas_of(request.service);
            node.lack(&node.left_for(request), replicas, request, volume_node)
        };
        let offered = || self.nodes.values().filter(|node| node.offers(request));
        let fit = offered().filter(|node| lack(node).is_none());
        if let Some(best) = fit.min_by_key(|node| score(node, request, &strategies)) {
            return Ok(best.node.id.clone());
        }
        let lacks = offered().filter_map(|node| Some((node.node.id.clone(), lack(node)?)));
        let nodes: Vec<_> = lacks.collect();
        Err(match nodes.is_empty() {
            true => Unplaceable::NoNode(request.task.task.spec.launch_type),
            false => Unplaceable::NoFit { demand: demand(request, volume_node), nodes },
        })
    }

    /// Those of a request, or the usual ones.
    pub(super) fn strategies<'r>(
        &self,
        request: &PlacementRequest<'r>,
        usual: &'r [PlacementStrategy],
    ) -> Strategies<'r> {
        let own = &request.placement.strategies;
        let chosen = if own.is_empty() { usual } else { own.as_slice() };
        let spread = |strategy: &PlacementStrategy| {
            let mut counts = BTreeMap::new();
            if let PlacementStrategy::Spread(attribute) = strategy {
                for node in self.nodes.values() {
                    let count = node.replicas_of(request.service);
                    let value = node.node.attribute(attribute).unwrap_or_default();
                    *counts.entry(value).or_default() += count;
                }
            }
            counts
        };
        Strategies(chosen.iter().map(|strategy| (strategy, spread(strategy))).collect())
    }
}

/// Fewest replicas in the zone, then on the node, then the fullest node that fits: so that large
/// tasks find a node later.
pub(super) fn usual_strategies() -> [PlacementStrategy; 4] {
    [
        PlacementStrategy::Spread("zone".to_owned()),
        PlacementStrategy::Spread("node".to_owned()),
        PlacementStrategy::Binpack(Reserved::Memory),
        PlacementStrategy::Binpack(Reserved::Cpu),
    ]
}

fn score(
    node: &NodeCapacity<'_>,
    request: &PlacementRequest<'_>,
    strategies: &Strategies<'_>,
) -> Score {
    let unmet = |expression: &&_| !node.fulfils(expression, request);
    let value = |(strategy, counts): &(&PlacementStrategy, BTreeMap<String, usize>)| match strategy
    {
        PlacementStrategy::Spread(attribute) => {
            let value = node.node.attribute(attribute).unwrap_or_default();
            counts.get(&value).copied().unwrap_or_default() as u64
        }
        PlacementStrategy::Binpack(Reserved::Cpu) => node.left.cpu_millis,
        PlacementStrategy::Binpack(Reserved::Memory) => node.left.memory_bytes,
        PlacementStrategy::Random => dice(request.task.id(), &node.node.id),
    };
    (
        request.avoid.contains(&&node.node.id),
        request.placement.preferences.iter().filter(unmet).count(),
        strategies.0.iter().map(value).collect(),
    )
}

/// Spread over nodes without a pattern, and the same each time a plan is made. (FNV-1a.)
fn dice(task: &TaskId, node: &NodeId) -> u64 {
    let bytes = task.as_str().bytes().chain([0]).chain(node.as_str().bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl Strategies<'_> {
    /// How many replicas there would be where `node` is if there were one fewer at `from`, as each
    /// strategy that spreads counts them.
    pub fn spread_without_one(
        &self,
        node: &NodeCapacity<'_>,
        from: &NodeCapacity<'_>,
    ) -> Vec<usize> {
        let count = |(strategy, counts): &(&PlacementStrategy, BTreeMap<String, usize>)| {
            let PlacementStrategy::Spread(attribute) = strategy else { return None };
            let value = node.node.attribute(attribute).unwrap_or_default();
            let is_there = from.node.attribute(attribute).unwrap_or_default() == value;
            let count = counts.get(&value).copied().unwrap_or_default();
            Some(count.saturating_sub(usize::from(is_there)))
        };
        self.0.iter().filter_map(count).collect()
    }
}

fn demand(request: &PlacementRequest<'_>, volume_node: Option<&NodeId>) -> Demand {
    let definition: &DefinitionRecord = request.definition;
    let (cpu_millis, memory_bytes) = reserved(definition);
    let architectures = definition.runs.iter().flat_map(|runs| match runs {
        Runs::Wasm => &[][..],
        Runs::Native(architectures) => architectures,
    });
    Demand {
        cpu_millis,
        memory_bytes,
        host_ports: host_ports(definition).collect(),
        architectures: architectures.cloned().collect(),
        constraints: constraints(request),
        volume_node: volume_node.cloned(),
    }
}

/// What must hold for a node, as it is written.
fn constraints(request: &PlacementRequest<'_>) -> Vec<String> {
    let own = request.placement.constraints.iter().map(ToString::to_string);
    let definition = &request.definition.definition;
    own.chain(definition.placement_constraints.iter().map(ToString::to_string)).collect()
}
