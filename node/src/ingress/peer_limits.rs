use net::{ConnectionLimits, ConnectionPermit, Descriptors};
use spec::{NodeId, wire::PeerTrust};

use super::limits::{
    DESCRIPTORS_WANTED, POOL_CONNECTIONS_MAX, POOL_CONNECTIONS_PER_NODE_MAX,
    TENANT_CONNECTIONS_MAX, TENANT_CONNECTIONS_PER_NODE_MAX,
};

/// How many connections each other node may have: none takes those of another, and nodes of tenants
/// take none of the pool's.
#[derive(Debug)]
pub(super) struct PeerLimits {
    pool: ConnectionLimits<NodeId>,
    tenants: ConnectionLimits<NodeId>,
}

impl PeerLimits {
    pub fn within(descriptors: Descriptors) -> Self {
        let limits = |total, each| {
            let share = |limit| descriptors.share(limit, DESCRIPTORS_WANTED);
            ConnectionLimits::new(share(total), share(each))
        };
        Self {
            pool: limits(POOL_CONNECTIONS_MAX, POOL_CONNECTIONS_PER_NODE_MAX),
            tenants: limits(TENANT_CONNECTIONS_MAX, TENANT_CONNECTIONS_PER_NODE_MAX),
        }
    }

    pub fn admit(&self, node: &NodeId, trust: &PeerTrust) -> Option<ConnectionPermit<NodeId>> {
        match trust {
            PeerTrust::Pool => self.pool.try_admit(node.clone()),
            PeerTrust::Tenant(_) => self.tenants.try_admit(node.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_of_a_tenant_takes_its_part_and_none_of_the_others() {
        let limits = PeerLimits::within(Descriptors::new(DESCRIPTORS_WANTED));
        let node = |name: &str| name.parse::<NodeId>().unwrap();
        let tenant = PeerTrust::Tenant("me".parse().unwrap());
        let admit_all = |name: &str, trust: &PeerTrust| {
            std::iter::from_fn(|| limits.admit(&node(name), trust))
                .take(100_000)
                .collect::<Vec<_>>()
        };
        let greedy = admit_all("greedy", &tenant);
        assert_eq!(greedy.len(), TENANT_CONNECTIONS_PER_NODE_MAX);
        assert!(limits.admit(&node("modest"), &tenant).is_some());
        assert_eq!(admit_all("pool", &PeerTrust::Pool).len(), POOL_CONNECTIONS_PER_NODE_MAX);
        drop(greedy);
        assert!(limits.admit(&node("greedy"), &tenant).is_some());
    }
}
