use std::collections::BTreeMap;

use spec::{NodeId, TaskId};

use super::{
    capacity::{Capacity, NodeCapacity, PlacementRequest, host_ports, reserved},
    reason::{Demand, Unplaceable},
};
use crate::state::{objects::Runs, records::DefinitionRecord};

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

    /// Whether `request` would fit on `node` if `task`, which is one of `old`, were not there.
    pub fn would_fit(
        &self,
        request: &PlacementRequest<'_>,
        node: &NodeId,
        task: &TaskId,
        old: &DefinitionRecord,
    ) -> bool {
        self.nodes.get(node).is_some_and(|node| {
            node.offers(request)
                && node.lack(&node.left.without(old), request, None).is_none()
                && self.writers_of(request).all(|(_, writer)| writer == task)
        })
    }

    /// One that is not to be avoided, then fewest replicas in the zone, then on the node, then the
    /// fullest node that fits: so that large tasks find a node later.
    fn best(
        &self,
        request: &PlacementRequest<'_>,
        volume_node: Option<&NodeId>,
    ) -> Result<NodeId, Unplaceable> {
        let mut zones: BTreeMap<&str, usize> = BTreeMap::new();
        for node in self.nodes.values() {
            *zones.entry(&node.node.spec.zone).or_default() += node.replicas_of(request.service);
        }
        let score = |node: &&NodeCapacity<'_>| {
            (
                request.avoid.contains(&&node.node.id),
                zones.get(node.node.spec.zone.as_str()).copied(),
                node.replicas_of(request.service),
                node.left.memory_bytes,
                node.left.cpu_millis,
            )
        };
        let offered = || self.nodes.values().filter(|node| node.offers(request));
        let fit = offered().filter(|node| node.lack(&node.left, request, volume_node).is_none());
        if let Some(best) = fit.min_by_key(score) {
            return Ok(best.node.id.clone());
        }
        let lacks = offered().filter_map(|node| {
            Some((node.node.id.clone(), node.lack(&node.left, request, volume_node)?))
        });
        let nodes: Vec<_> = lacks.collect();
        Err(match nodes.is_empty() {
            true => Unplaceable::NoNode(request.task.task.spec.launch_type),
            false => Unplaceable::NoFit { demand: demand(request.definition, volume_node), nodes },
        })
    }
}

fn demand(definition: &DefinitionRecord, volume_node: Option<&NodeId>) -> Demand {
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
        volume_node: volume_node.cloned(),
    }
}
