use std::net::IpAddr;

use net::{ConnectionLimits, ConnectionPermit, Descriptors};
use spec::NodeId;

use crate::limits::{
    CONNECTIONS_PER_NODE_MAX, DESCRIPTORS_WANTED, HANDSHAKES_MAX, HANDSHAKES_PER_ADDRESS_MAX,
    NODE_CONNECTIONS_MAX, OPERATOR_CONNECTIONS_MAX, UNAUTHENTICATED_MAX,
    UNAUTHENTICATED_PER_ADDRESS_MAX,
};

/// Connections at one time by what is known of their clients, so that no class takes what another
/// needs.
#[derive(Debug)]
pub(crate) struct ConnectionClasses {
    pub operator: ConnectionLimits,
    pub handshakes: ConnectionLimits,
    unauthenticated: ConnectionLimits,
    nodes: ConnectionLimits<NodeId>,
}

/// The right of a connection after its handshake to be there, until it is dropped.
#[derive(Debug)]
#[expect(dead_code, reason = "held, not read")]
pub(crate) enum ClassPermit {
    Unauthenticated(ConnectionPermit),
    Node(ConnectionPermit<NodeId>),
}

impl ConnectionClasses {
    pub fn within(descriptors: Descriptors) -> Self {
        let share = |limit| descriptors.share(limit, DESCRIPTORS_WANTED);
        Self {
            operator: ConnectionLimits::in_all(share(OPERATOR_CONNECTIONS_MAX)),
            handshakes: ConnectionLimits::new(
                share(HANDSHAKES_MAX),
                share(HANDSHAKES_PER_ADDRESS_MAX),
            ),
            unauthenticated: ConnectionLimits::new(
                share(UNAUTHENTICATED_MAX),
                share(UNAUTHENTICATED_PER_ADDRESS_MAX),
            ),
            // What one node uses is not less for there being fewer nodes.
            nodes: ConnectionLimits::new(share(NODE_CONNECTIONS_MAX), CONNECTIONS_PER_NODE_MAX),
        }
    }

    /// After the handshake: as one of `node`, or else of the address that it comes from.
    /// Connections without a node's certificate make room for each other.
    pub async fn admit(&self, node: Option<NodeId>, from: Option<IpAddr>) -> Option<ClassPermit> {
        match node {
            Some(node) => self.nodes.try_admit(node).map(ClassPermit::Node),
            None => {
                self.unauthenticated.admit_current(from).await.map(ClassPermit::Unauthenticated)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    fn ipv4(n: usize) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, (n >> 8) as u8, n as u8]))
    }

    type Class = (Option<NodeId>, Option<IpAddr>);

    /// Admits one after another, until one is refused.
    async fn admit_all(
        classes: &ConnectionClasses,
        of: impl Fn(usize) -> Class,
    ) -> Vec<ClassPermit> {
        let mut permits = Vec::new();
        for (node, from) in (0..10_000).map(of) {
            let Some(permit) = classes.admit(node, from).await else { break };
            permits.push(permit);
        }
        permits
    }

    #[tokio::test]
    async fn no_class_takes_the_connections_of_another() {
        let classes = ConnectionClasses::within(Descriptors::new(DESCRIPTORS_WANTED));
        let node = |n: usize| Some(format!("n{n}").parse::<NodeId>().unwrap());
        // One address, and then every address.
        let one = admit_all(&classes, |_| (None, ipv4(0))).await;
        assert_eq!(one.len(), UNAUTHENTICATED_PER_ADDRESS_MAX);
        let every = admit_all(&classes, |n| (None, ipv4(n + 1))).await;
        assert_eq!(one.len() + every.len(), UNAUTHENTICATED_MAX);
        // One node, and then every node.
        let one_node = admit_all(&classes, |_| (node(0), ipv4(0))).await;
        assert_eq!(one_node.len(), CONNECTIONS_PER_NODE_MAX);
        let every_node = admit_all(&classes, |n| (node(n + 1), ipv4(0))).await;
        assert_eq!(one_node.len() + every_node.len(), NODE_CONNECTIONS_MAX);
        // Handshakes that come to nothing.
        let mut handshakes = Vec::new();
        for n in 0..HANDSHAKES_MAX {
            let permit = classes.handshakes.try_admit(ipv4(n / HANDSHAKES_PER_ADDRESS_MAX));
            handshakes.push(permit.expect("none of these comes from one address too often"));
        }
        assert_eq!(classes.handshakes.available(), 0);
        drop(handshakes.pop());
        assert!(classes.handshakes.try_admit(ipv4(0)).is_none(), "it has all of its own");
        assert_eq!(classes.handshakes.available(), 1, "and took none from others");
        // The operator gets in all the same.
        assert_eq!(classes.operator.available(), OPERATOR_CONNECTIONS_MAX);
        drop((one, every, one_node, every_node, handshakes));
        assert!(classes.admit(None, ipv4(0)).await.is_some());
        assert!(classes.admit(node(0), ipv4(0)).await.is_some());
    }

    #[tokio::test]
    async fn with_few_descriptors_each_class_has_its_part_of_them() {
        let classes = ConnectionClasses::within(Descriptors::new(1024));
        let unauthenticated = admit_all(&classes, |n| (None, ipv4(n))).await;
        let node = |n: usize| Some(format!("n{n}").parse::<NodeId>().unwrap());
        let nodes = admit_all(&classes, |n| (node(n), ipv4(n))).await;
        assert_eq!((unauthenticated.len(), nodes.len()), (170, 682));
        assert_eq!((classes.operator.available(), classes.handshakes.available()), (42, 85));
    }

    #[tokio::test]
    async fn the_addresses_of_one_ipv6_network_count_as_one() {
        let classes = ConnectionClasses::within(Descriptors::new(DESCRIPTORS_WANTED));
        let ipv6 = |network: u128, host: u128| {
            let network = 0x2001_0db8_0000_0000_0000_0000_0000_0000 + (network << 64);
            Some(IpAddr::from(Ipv6Addr::from_bits(network + host)))
        };
        let permits = admit_all(&classes, |n| (None, ipv6(0, n as u128))).await;
        assert_eq!(permits.len(), UNAUTHENTICATED_PER_ADDRESS_MAX);
        assert!(classes.admit(None, ipv6(1, 0)).await.is_some(), "another network has its own");
    }
}
