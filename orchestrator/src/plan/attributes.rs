//! What placement expressions ask about nodes.

use std::collections::BTreeMap;

use spec::{
    ClusterName, NodeExpression, NodeFacts, ServiceName, Taint, TaintEffect, Tenant, Toleration,
};

use super::capacity::{NodeCapacity, PlacementRequest};
use crate::state::records::NodeRecord;

/// A node as the services of one cluster see it.
struct Seen<'n, 'a> {
    node: &'n NodeCapacity<'a>,
    tenant: &'n Tenant,
    cluster: &'n ClusterName,
}

impl NodeFacts for Seen<'_, '_> {
    fn attribute(&self, name: &str) -> Option<String> {
        self.node.node.attribute(name)
    }

    fn has_task_of(&self, service: &ServiceName) -> bool {
        let key = (self.tenant.clone(), self.cluster.clone(), service.clone());
        self.node.replicas_of(Some(&key)) > 0
    }
}

impl NodeRecord {
    /// What every node has, and its labels: those that its operator gave it before its own.
    pub fn attribute(&self, name: &str) -> Option<String> {
        let spec = &self.spec;
        match name {
            "node" => Some(self.id.to_string()),
            "zone" => Some(spec.zone.clone()),
            "architecture" => Some(spec.architecture.clone()),
            "native" => Some(spec.runs_native.to_string()),
            "cpu" => Some((spec.capacity.cpu_millis / 1000).to_string()),
            "memory" => Some((spec.capacity.memory_bytes >> 20).to_string()),
            _ => self.labels.get(name).or_else(|| spec.labels.get(name)).cloned(),
        }
    }

    /// Its own labels, under those that its operator gave it.
    pub fn all_labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.spec.labels.clone();
        labels.extend(self.labels.clone());
        labels
    }

    /// Whether it has a taint that is not tolerated.
    pub fn repels(&self, tolerations: &[Toleration]) -> bool {
        let is_tolerated = |taint: &Taint| tolerations.iter().any(|one| one.tolerates(taint));
        self.taints.iter().any(|taint| !is_tolerated(taint))
    }

    /// Whether it has a taint that is not tolerated and ends what is there.
    pub fn expels(&self, tolerations: &[Toleration]) -> bool {
        let is_tolerated = |taint: &Taint| tolerations.iter().any(|one| one.tolerates(taint));
        let mut taints = self.taints.iter();
        taints.any(|taint| taint.effect == TaintEffect::NoExecute && !is_tolerated(taint))
    }
}

impl NodeCapacity<'_> {
    pub fn fulfils(&self, expression: &NodeExpression, request: &PlacementRequest<'_>) -> bool {
        let (tenant, cluster) = (&request.task.tenant, &request.task.task.spec.cluster);
        expression.holds(&Seen { node: self, tenant, cluster })
    }
}
