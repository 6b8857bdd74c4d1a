//! What the API takes and answers beyond the objects of `spec`. Every body refuses fields that it
//! does not know.

use serde::{Deserialize, Serialize};
use spec::{
    Capability, ClusterName, ContainerName, Digest, LaunchType, NodeId, SecretName, SecretValue,
    ServiceName, TaskDefinition, TaskDefinitionId, Tenant, Timestamp, Usage, VolumeName,
};
use utoipa::ToSchema;

/// The body of `POST /v1/clusters`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateCluster {
    /// Its name.
    pub name: ClusterName,
}

/// One revision of a task definition, as it was registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RegisteredDefinition {
    /// Its name from now on.
    pub id: TaskDefinitionId,
    /// When.
    pub registered: Timestamp,
    /// Whether new tasks and services may use it.
    pub active: bool,
    /// What it is; every digest is resolved.
    pub definition: TaskDefinition,
    /// What each container may really reach, in the order of the definition.
    pub grants: Vec<ContainerGrants>,
}

/// What a container may really reach: what its image wants, where its role grants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContainerGrants {
    /// Which container.
    pub container: ContainerName,
    /// In force.
    pub effective: Vec<Capability>,
    /// Granted and not used: the image does not ask for it.
    pub cut: Vec<Capability>,
    /// Asked for as optional, and not granted.
    pub denied: Vec<Capability>,
}

/// The body of `POST /v1/clusters/CLUSTER/tasks`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunTask {
    /// What to run.
    pub task_definition: TaskDefinitionId,
    /// On whose hosts.
    pub launch_type: LaunchType,
    /// How many copies: 1 to 10.
    #[serde(default = "one")]
    pub count: u32,
}

fn one() -> u32 {
    1
}

/// The body of `POST /v1/clusters/CLUSTER/services`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateService {
    /// Its name, and the first label of its host name.
    pub name: ServiceName,
    /// What to run.
    pub task_definition: TaskDefinitionId,
    /// How many copies.
    pub count: u32,
    /// On whose hosts.
    pub launch_type: LaunchType,
}

/// The body of `PATCH /v1/clusters/CLUSTER/services/SERVICE`: what is left out stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateService {
    /// How many copies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// What to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_definition: Option<TaskDefinitionId>,
    /// Only if the service is still at this generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
}

/// The body of `POST /v1/nodes/NODE/drain`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// True moves its service tasks elsewhere and gives it no new work; false takes that back.
    pub drain: bool,
}

/// The body of `POST /v1/join-tokens`.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateJoinToken {
    /// Whether the node also takes work of the shared pool, of every tenant. Only the operator may
    /// say so.
    #[serde(default)]
    pub pool: bool,
    /// Whether it is nobody's own node, and takes work of the pool only. Only the operator may say
    /// so.
    #[serde(default)]
    pub shared: bool,
}

/// The answer to it.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct CreatedJoinToken {
    /// What `margay node join` takes. Works once.
    pub token: String,
    /// Until when.
    pub expires: Timestamp,
}

/// The body of `POST /v1/credentials`: for the operator alone.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateCredential {
    /// Whoever holds the credential is this tenant.
    pub tenant: Tenant,
}

/// How to reach the control plane over TCP, and as whom. Keep it in a file that its owner alone may
/// read.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// `host:port`.
    pub address: String,
    /// SHA-256 of the CA certificate (DER), 64 hex digits.
    pub ca_fingerprint: String,
    /// Whose it is.
    pub tenant: Tenant,
    /// A bearer token.
    pub token: String,
}

/// What an image used, or a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UsageTotal {
    /// Which image; nothing for the tenant's total.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Digest>,
    /// Since the first record.
    pub since: Timestamp,
    /// Of the newest record.
    pub until: Timestamp,
    /// All of it.
    pub usage: Usage,
}

/// The answer to `GET /v1/usage`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UsageReport {
    /// Who pays.
    pub tenant: Tenant,
    /// All images together; nothing before the first record.
    pub total: Option<UsageTotal>,
    /// Each image, by digest.
    pub images: Vec<UsageTotal>,
}

/// A named volume: where its bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Volume {
    /// Unique for its tenant.
    pub name: VolumeName,
    /// The node that it is on; tasks that mount it follow it there.
    pub node: NodeId,
    /// When it was first mounted.
    pub created: Timestamp,
}

/// The body of `POST /v1/secrets`. No answer ever has the value in it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSecret {
    /// Its name, which a capability line `secret:NAME` grants.
    pub name: SecretName,
    /// What it is.
    pub value: SecretValue,
}

/// What may be known of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Secret {
    /// Unique for its tenant.
    pub name: SecretName,
    /// When it was made. It never changes: another value is another secret.
    pub created: Timestamp,
    /// How long its value is.
    pub size_bytes: u64,
}

/// The answer to `GET /v1/health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// Of this margay.
    pub version: String,
    /// Counts up with each start of the control plane.
    pub epoch: u64,
    /// Of the store.
    pub revision: i64,
}

/// The answer to `GET /v1/principal`: who the control plane takes the caller for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Caller {
    /// Whose objects are meant.
    pub tenant: Tenant,
    /// Whether it is the operator.
    pub operator: bool,
}

/// One page of a list. `GET` takes `?after=NEXT&limit=N`; a page has at most 1,000 items.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// In the order of their names.
    pub items: Vec<T>,
    /// Where the next page starts; nothing on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}
