//! What the control plane stores: objects with a spec (what was requested) and a status (what was
//! observed).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    definition::TaskDefinitionId,
    deployment::{Deployment, DeploymentSettings, ServiceEvent},
    digest::Digest,
    launch_type::LaunchType,
    name::{ClusterName, ContainerName, NodeId, ServiceName, TaskId, Tenant},
    node_problem::NodeProblem,
    overrides::TaskOverrides,
    placement::{Placement, SchedulingStrategy, Taint},
    route::IngressSettings,
    scaling::Scaling,
    time::Timestamp,
    transport::{Port, Transport},
    usage::Usage,
};

/// A group of nodes and the services on them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Cluster {
    /// Unique for its tenant.
    pub name: ClusterName,
    /// When it was created.
    pub created: Timestamp,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    /// Assigned when it joined.
    pub id: NodeId,
    /// The tenant that it belongs to; none for a node of the pool.
    pub tenant: Option<Tenant>,
    /// Its capacity and properties.
    pub spec: NodeSpec,
    /// What was last observed.
    pub status: NodeStatus,
    /// Whether its tasks move to other nodes and no task is placed on it.
    #[serde(default)]
    pub draining: bool,
    /// When tasks that are still on it then are stopped, while it is drained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_deadline: Option<Timestamp>,
    /// Whether no task is placed on it, while those that it has stay.
    #[serde(default)]
    pub cordoned: bool,
    /// What keeps tasks away that do not tolerate it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<Taint>,
    /// Tasks that have not ended.
    #[serde(default)]
    pub tasks: u32,
    /// What is wrong with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<NodeProblem>,
}

/// The capacity and properties of a node, as reported when it joined and at each start.
///
/// A field that a later agent reports is left out of account by a reader that does not know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeSpec {
    /// Everything that can be reserved.
    pub capacity: Resources,
    /// A failure domain: services spread over zones before they spread over nodes.
    pub zone: String,
    /// `amd64`, `arm64`: for native images.
    pub architecture: String,
    /// Whether an OCI runtime is installed.
    pub runs_native: bool,
    /// Address of its ingress for the ingresses of other nodes, `address:port`.
    pub ingress_address: Option<String>,
    /// Free text, to select nodes by.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The version of margay that its agent is of. Versions up to 0.1 said none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
}

/// The label by which a node takes native images of every tenant, where it is one of the pool. Its
/// agent sets it, as its operator has said.
pub const POOL_NATIVE_LABEL: &str = "pool-native";

/// What is reserved on a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Thousandths of a processor.
    pub cpu_millis: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
}

/// What was last observed of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeStatus {
    /// Whether tasks are placed on it.
    pub condition: NodeCondition,
    /// When its last report arrived.
    pub last_seen: Timestamp,
}

/// Whether tasks are placed on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NodeCondition {
    /// Its reports arrive.
    Ready,
    /// No report for longer than two heartbeats. No new tasks; no task is moved yet.
    Suspect,
    /// No report for so long that its tasks are replaced on other nodes.
    Disconnected,
}

/// A number of replicas of a task definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Service {
    /// Unique in its cluster.
    pub name: ServiceName,
    /// The cluster that it belongs to.
    pub cluster: ClusterName,
    /// When it was created.
    pub created: Timestamp,
    /// What was requested.
    pub spec: ServiceSpec,
    /// Counts up with each change of the spec.
    pub generation: u64,
    /// What was observed.
    pub status: ServiceStatus,
}

/// What was requested of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// What to run.
    pub task_definition: TaskDefinitionId,
    /// Replicas that should run.
    pub count: u32,
    /// The hosts that they run on.
    pub launch_type: LaunchType,
    /// How another revision is brought into service.
    #[serde(default)]
    pub deployment: DeploymentSettings,
    /// Whether it has as many tasks as its count, or one on each node.
    #[serde(default, skip_serializing_if = "SchedulingStrategy::is_replica")]
    pub scheduling: SchedulingStrategy,
    /// Which nodes its tasks go to.
    #[serde(default)]
    pub placement: Placement,
    /// 1 to 100: among services of one tenant that wait for the same capacity, the higher one is
    /// placed first. No task is ended for it.
    #[serde(default = "ServiceSpec::usual_priority")]
    pub priority: u8,
    /// What changes its count by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
    /// How requests reach it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ingress: IngressSettings,
}

fn is_default(settings: &IngressSettings) -> bool {
    *settings == IngressSettings::default()
}

impl ServiceSpec {
    /// As Nomad has it.
    pub const PRIORITY: std::ops::RangeInclusive<u8> = 1..=100;

    /// The hosts of the replica with this number.
    pub fn launch_type_of(&self, ordinal: u32) -> LaunchType {
        self.placement.provider_of(ordinal).unwrap_or(self.launch_type)
    }

    /// Of so many replicas, those on each kind of hosts.
    pub fn by_launch_type(&self, count: u32) -> [(LaunchType, u32); 2] {
        let pool = match self.placement.capacity_providers.is_empty() {
            true if self.launch_type == LaunchType::Pool => count,
            true => 0,
            false => {
                let in_pool = |ordinal: &u32| self.launch_type_of(*ordinal) == LaunchType::Pool;
                let number = (0..count).filter(in_pool).count();
                u32::try_from(number).unwrap_or(u32::MAX)
            }
        };
        [(LaunchType::Node, count - pool), (LaunchType::Pool, pool)]
    }

    /// Of a service that names none.
    pub fn usual_priority() -> u8 {
        50
    }
}

/// What was observed of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceStatus {
    /// Replicas that there should be: its count, or the number of nodes that have one of a daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<u32>,
    /// Replicas that are placed, running or not.
    pub placed: u32,
    /// Replicas that run.
    pub running: u32,
    /// Replicas that run and are ready for requests. One with tasks of two revisions counts once.
    #[serde(default)]
    pub ready: u32,
    /// The revisions of the replicas that are ready.
    #[serde(default)]
    pub serving: Vec<TaskDefinitionId>,
    /// Why there are fewer than requested, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The generation that this status is about.
    pub observed_generation: u64,
    /// The host name that the ingress routes to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Whether its deployment stands still.
    #[serde(default)]
    pub paused: bool,
    /// The last ones, newest first. The first is of the revision that was requested.
    #[serde(default)]
    pub deployments: Vec<Deployment>,
    /// What happened to it last, newest first.
    #[serde(default)]
    pub events: Vec<ServiceEvent>,
}

/// One replica of a task definition, or one run of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Task {
    /// Unique for its tenant.
    pub id: TaskId,
    /// When it was created.
    pub created: Timestamp,
    /// What was requested.
    pub spec: TaskSpec,
    /// What was observed.
    pub status: TaskStatus,
}

/// What was requested of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskSpec {
    /// The cluster that it belongs to.
    pub cluster: ClusterName,
    /// What to run.
    pub task_definition: TaskDefinitionId,
    /// The hosts that they run on.
    pub launch_type: LaunchType,
    /// The service that it is a replica of, if any.
    pub service: Option<ServiceName>,
    /// The node that it was placed on; never changed, a replacement is a new task.
    pub node: Option<NodeId>,
    /// Whether it should stop.
    pub stop: bool,
    /// What this run changes in its definition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overrides: Option<TaskOverrides>,
}

/// What was observed of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskStatus {
    /// Its place in the lifecycle.
    pub phase: TaskPhase,
    /// Why, in a sentence, where there is something to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether its probes say that it may have requests; not known of a node whose version does not
    /// ask them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// The host name that the ingress routes to it, where it is no replica of a service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Its containers, in the order of its definition.
    #[serde(default)]
    pub containers: Vec<ContainerStatus>,
}

impl TaskStatus {
    /// Whether requests may go to it.
    pub fn is_ready(&self) -> bool {
        self.phase == TaskPhase::Running && self.ready.unwrap_or(true)
    }
}

/// The lifecycle of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TaskPhase {
    /// No node has it yet.
    Pending,
    /// Its node pulls and prepares its images, and starts its containers.
    Starting,
    /// Every essential container runs.
    Running,
    /// Asked to stop, and not stopped yet.
    Stopping,
    /// Ended, by itself or on request.
    Stopped,
    /// Its node is disconnected.
    Unknown,
}

/// What was observed of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContainerStatus {
    /// As in the task's definition.
    pub name: ContainerName,
    /// The image that runs.
    pub image: Digest,
    /// Its place in the lifecycle.
    pub phase: ContainerPhase,
    /// Exit status once it has ended: the guest's code, or 128 and the signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why, in a sentence, where there is something to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What its probe says, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<ContainerHealth>,
    /// Whether it has no process until its next request, as in the pool: it takes no processor.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub idle: bool,
    /// How often it was restarted.
    pub restarts: u32,
    /// Its ports on the node.
    #[serde(default)]
    pub ports: Vec<PublishedPort>,
    /// What it used so far.
    pub usage: Usage,
}

/// The lifecycle of a container.
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

/// What the probe of a container says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ContainerHealth {
    /// No probe has succeeded since its start, and not enough have failed.
    Starting,
    /// The last ones succeeded.
    Healthy,
    /// So many have failed in a row that it counts as failed.
    Unhealthy,
}

/// A port as it is published on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishedPort {
    /// The port that the container listens on.
    pub container_port: u16,
    /// The address of the host; every one of both families where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub address: Option<std::net::IpAddr>,
    /// The port on the host; none when it is reached through the ingress only.
    pub host_port: Option<u16>,
    /// What it takes: connections where left out.
    #[serde(default, skip_serializing_if = "Transport::is_tcp")]
    pub transport: Transport,
}

impl PublishedPort {
    /// As the container knows it.
    pub fn port(&self) -> Port {
        Port { number: self.container_port, transport: self.transport }
    }
}
