//! What the control plane keeps: objects with a spec (what somebody asked for) and a status (what
//! was seen).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    definition::{LaunchType, TaskDefinitionId},
    digest::Digest,
    name::{ClusterName, ContainerName, NodeId, ServiceName, TaskId, Tenant},
    time::Timestamp,
    usage::Usage,
};

/// A group of nodes and the services on them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Cluster {
    /// Unique for its tenant.
    pub name: ClusterName,
    /// When it was made.
    pub created: Timestamp,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    /// Given when it joined.
    pub id: NodeId,
    /// Whose it is; nobody's when it belongs to the pool.
    pub tenant: Option<Tenant>,
    /// What it is and has.
    pub spec: NodeSpec,
    /// How it was last seen.
    pub status: NodeStatus,
    /// Whether its work moves elsewhere, and it gets none.
    #[serde(default)]
    pub draining: bool,
}

/// What a node is and has, as it said when it joined and at each start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeSpec {
    /// Everything there is to hand out.
    pub capacity: Resources,
    /// A failure domain: services spread over zones before they spread over nodes.
    pub zone: String,
    /// `amd64`, `arm64`: for native images.
    pub architecture: String,
    /// Whether an OCI runtime is installed.
    pub runs_native: bool,
    /// Where other nodes' ingresses reach this one's, `host:port`.
    pub ingress_address: Option<String>,
    /// Free text to select by.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// What is handed out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Thousandths of a processor.
    pub cpu_millis: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
}

/// How a node was last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeStatus {
    /// Whether it may get work.
    pub condition: NodeCondition,
    /// When it last spoke.
    pub last_seen: Timestamp,
}

/// Whether a node may get work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NodeCondition {
    /// It speaks.
    Ready,
    /// It has been silent for longer than two heartbeats. No new work; nothing is moved yet.
    Suspect,
    /// It has been silent for so long that its tasks are replaced elsewhere.
    Disconnected,
}

/// A number of copies of a task definition that should run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Service {
    /// Unique in its cluster.
    pub name: ServiceName,
    /// Where it lives.
    pub cluster: ClusterName,
    /// When it was made.
    pub created: Timestamp,
    /// What was asked for.
    pub spec: ServiceSpec,
    /// Counts up with each change of the spec.
    pub generation: u64,
    /// What was seen.
    pub status: ServiceStatus,
}

/// What was asked of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// What to run.
    pub task_definition: TaskDefinitionId,
    /// How many copies.
    pub count: u32,
    /// On whose hosts.
    pub launch_type: LaunchType,
}

/// What was seen of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceStatus {
    /// Copies that are placed, running or not.
    pub placed: u32,
    /// Copies that run.
    pub running: u32,
    /// Why there are fewer than asked for, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The generation that this status is about.
    pub observed_generation: u64,
    /// The host name by which the ingress knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// One running copy of a task definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Task {
    /// Unique for its tenant.
    pub id: TaskId,
    /// When it was made.
    pub created: Timestamp,
    /// What was asked for.
    pub spec: TaskSpec,
    /// What was seen.
    pub status: TaskStatus,
}

/// What was asked of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskSpec {
    /// Where it lives.
    pub cluster: ClusterName,
    /// What to run.
    pub task_definition: TaskDefinitionId,
    /// On whose hosts.
    pub launch_type: LaunchType,
    /// The service that it is a copy of, if any.
    pub service: Option<ServiceName>,
    /// The node that it was placed on; never changed, a replacement is a new task.
    pub node: Option<NodeId>,
    /// Whether it should end.
    pub stop: bool,
}

/// What was seen of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskStatus {
    /// Where it is in its life.
    pub phase: TaskPhase,
    /// Why, in a sentence, where there is something to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its containers, in the order of its definition.
    #[serde(default)]
    pub containers: Vec<ContainerStatus>,
}

/// Where a task is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TaskPhase {
    /// No node has it yet.
    Pending,
    /// Its node fetches, prepares and starts.
    Starting,
    /// Every essential container runs.
    Running,
    /// Asked to end, and not ended yet.
    Stopping,
    /// Ended, by itself or because it was asked to.
    Stopped,
    /// Its node is disconnected: nobody knows.
    Unknown,
}

/// What was seen of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContainerStatus {
    /// Which one.
    pub name: ContainerName,
    /// The digest that runs.
    pub image: Digest,
    /// Where it is in its life.
    pub phase: ContainerPhase,
    /// Exit status once it has ended: the guest's code, or 128 and the signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why, in a sentence, where there is something to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How often it was started again.
    pub restarts: u32,
    /// Where it can be reached on its node.
    #[serde(default)]
    pub ports: Vec<PublishedPort>,
    /// What it used so far.
    pub usage: Usage,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ContainerPhase {
    /// Its image is fetched and prepared.
    Pulling,
    /// Its process runs.
    Running,
    /// It ended too early and waits to be started again.
    BackOff,
    /// It ended.
    Exited,
}

/// A port as it is published on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishedPort {
    /// As the container knows it.
    pub container_port: u16,
    /// On the host; nothing when only the ingress reaches it.
    pub host_port: Option<u16>,
}
