//! Node groups as they are stored and shown.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use spec::{NodeGroupName, NodeId, NodeSpec, ServiceEvent, Taint, Tenant, Timestamp};
use utoipa::ToSchema;

/// The label by which nodes say which group they are of. Only the control plane sets it.
pub(crate) const NODE_GROUP_LABEL: &str = "node-group";
/// The label of a node that is not removed for being unused.
pub(crate) const PROTECTION_LABEL: &str = "scale-in-protection";

/// Nodes of one kind, which a hook adds and removes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeGroup {
    pub name: NodeGroupName,
    /// Which tenant's its nodes are.
    pub tenant: Tenant,
    pub created: Timestamp,
    pub spec: NodeGroupSpec,
    /// Its machines, oldest first.
    pub machines: Vec<GroupMachine>,
    /// How many machines it has had: each has a name of its own.
    pub made: u64,
    /// How many in a row could not be added.
    pub failures: u32,
    /// No machine is asked for until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Timestamp>,
    /// When machines were asked for in the last hour.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asked: Vec<Timestamp>,
    /// What its newest node said that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<NodeSpec>,
    /// What happened last, newest first.
    pub events: Vec<ServiceEvent>,
}

/// What is asked for of a node group, in the words of EKS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeGroupSpec {
    /// Never fewer nodes.
    pub min: u32,
    /// Never more.
    pub max: u32,
    /// As many as there should be. Tasks that find no node and nodes without tasks change it.
    pub desired: u32,
    /// What adds and removes machines: `exec:FILE`, a program in `MARGAY_HOME/hooks` of the machine
    /// that `margay up` runs on.
    pub hook: String,
    /// Labels that its nodes are given.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Taints that its nodes are given.
    #[serde(default)]
    pub taints: Vec<Taint>,
    /// Whether its nodes also take work of the shared pool.
    #[serde(default)]
    pub pool: bool,
    /// Whether tasks change how many nodes there should be.
    #[serde(default = "managed_scaling")]
    pub managed_scaling: bool,
    /// A node without tasks for so long is removed.
    #[serde(default = "scale_in_seconds")]
    pub scale_in_seconds: u32,
    /// A machine that has not joined by then is given back.
    #[serde(default = "join_seconds")]
    pub join_seconds: u32,
}

fn managed_scaling() -> bool {
    true
}
fn scale_in_seconds() -> u32 {
    600
}
fn join_seconds() -> u32 {
    600
}

/// One machine of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupMachine {
    /// The name of its node, and of the requests to the hook.
    pub node: NodeId,
    pub state: MachineState,
    /// Since when.
    pub since: Timestamp,
    /// Since when its node has no tasks, while it is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unused_since: Option<Timestamp>,
    /// Since when its node is silent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_since: Option<Timestamp>,
    /// How often in a row its removal has failed, and when it is tried again.
    #[serde(default)]
    pub failures: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Timestamp>,
}

/// How far a machine has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MachineState {
    /// The hook is asked to add it.
    Requested,
    /// The hook has added it, and its node has not joined yet.
    Starting,
    /// Its node has joined.
    Ready,
    /// Its tasks move elsewhere.
    Draining,
    /// The hook is asked to remove it.
    Removing,
}

impl GroupMachine {
    pub fn new(node: NodeId, now: Timestamp) -> Self {
        Self {
            node,
            state: MachineState::Requested,
            since: now,
            unused_since: None,
            lost_since: None,
            failures: 0,
            retry_after: None,
        }
    }

    /// The same machine, from now on in `state`.
    pub fn enter(&mut self, state: MachineState, now: Timestamp) {
        (self.state, self.since) = (state, now);
        (self.unused_since, self.lost_since, self.failures, self.retry_after) =
            (None, None, 0, None);
    }
}

impl MachineState {
    /// Whether it is, or will be, one of those that there should be.
    pub fn counts(self) -> bool {
        match self {
            Self::Requested | Self::Starting | Self::Ready => true,
            Self::Draining | Self::Removing => false,
        }
    }

    /// Whether it is on its way up.
    pub fn is_coming(self) -> bool {
        matches!(self, Self::Requested | Self::Starting)
    }
}

impl NodeGroup {
    pub fn machine(&self, node: &NodeId) -> Option<&GroupMachine> {
        self.machines.iter().find(|machine| machine.node == *node)
    }

    /// How many machines are, or will be, there.
    pub fn size(&self) -> u32 {
        let size = self.machines.iter().filter(|machine| machine.state.counts()).count();
        u32::try_from(size).unwrap_or(u32::MAX)
    }
}
