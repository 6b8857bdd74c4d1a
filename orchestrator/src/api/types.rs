//! What the API takes and answers beyond the objects of `spec`. Every body refuses fields that it
//! does not know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use spec::{
    Capability, CertificateName, ClusterName, ContainerName, CredentialName, DeploymentSettings,
    HostName, IngressSettings, LaunchType, MetricName, NodeGroupName, NodeId, Placement, Scaling,
    SchedulingStrategy, SecretName, SecretValue, ServiceName, Taint, TaskDefinition,
    TaskDefinitionId, TaskOverrides, Tenant, TenantQuota, Timestamp,
};
use utoipa::ToSchema;

use crate::state::{
    credentials::CredentialScope,
    node_groups::NodeGroupSpec,
    objects::{DisputedUsage, UsageTotal},
};

/// The body of `POST /v1/clusters`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateCluster {
    pub name: ClusterName,
}

/// One revision of a task definition, as it was registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RegisteredDefinition {
    /// Its name from now on.
    pub id: TaskDefinitionId,
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
    pub task_definition: TaskDefinitionId,
    pub launch_type: LaunchType,
    /// 1 to 10.
    #[serde(default = "one")]
    pub count: u32,
    /// What this run changes in the definition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overrides: Option<TaskOverrides>,
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
    pub task_definition: TaskDefinitionId,
    #[serde(default)]
    pub count: u32,
    pub launch_type: LaunchType,
    /// How another revision is brought into service.
    #[serde(default)]
    pub deployment: DeploymentSettings,
    /// As many tasks as its count, or one on each node: then the count is left out.
    #[serde(default, skip_serializing_if = "SchedulingStrategy::is_replica")]
    pub scheduling: SchedulingStrategy,
    /// Which nodes its tasks go to.
    #[serde(default)]
    pub placement: Placement,
    /// 1 to 100, and 50 when left out: the higher one of the tenant's services is placed first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// What changes its count by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
    /// How requests reach it.
    #[serde(default)]
    pub ingress: IngressSettings,
}

impl CreateService {
    /// A number of tasks, and everything else as it usually is.
    pub fn new(
        name: ServiceName,
        task_definition: TaskDefinitionId,
        launch_type: LaunchType,
        count: u32,
    ) -> Self {
        Self {
            name,
            task_definition,
            count,
            launch_type,
            deployment: DeploymentSettings::default(),
            scheduling: SchedulingStrategy::Replica,
            placement: Placement::default(),
            priority: None,
            scaling: None,
            ingress: IngressSettings::default(),
        }
    }
}

/// The body of `PATCH /v1/clusters/CLUSTER/services/SERVICE`: what is left out stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateService {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_definition: Option<TaskDefinitionId>,
    /// All of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<DeploymentSettings>,
    /// All of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// All of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
    /// Its count stays as it is from now on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub remove_scaling: bool,
    /// All of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<IngressSettings>,
    /// Only if the service is still at this generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
}

/// The body of `POST /v1/clusters/CLUSTER/services/SERVICE/rollout`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeRollout {
    pub action: RolloutAction,
    /// The number of the deployment whose revision is brought back; for `undo` alone. When left
    /// out, the last one that was completed and is of another revision than the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<u64>,
}

/// What becomes of the rollout of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RolloutAction {
    /// No further replica goes over to another revision.
    Pause,
    Resume,
    /// The revision of an earlier deployment is requested again.
    Undo,
    /// The newest deployment has its next share of the requests now, or is completed where it has
    /// all of them.
    Promote,
    /// The newest deployment fails, and the revision before is brought back.
    Abort,
}

/// The body of `PUT /v1/clusters/CLUSTER/services/SERVICE/metrics/METRIC`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutMetric {
    /// Of the service as a whole: its count follows what that is for each replica.
    pub value: u32,
}

/// A metric that a service scales by, as clients last reported it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReportedMetric {
    pub metric: MetricName,
    pub value: u32,
    /// When it was reported.
    pub at: Timestamp,
}

/// An ingress that answers for a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceIngress {
    /// The node that it is on.
    pub node: NodeId,
}

/// The body of `POST /v1/nodes/NODE/drain`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// True moves its service tasks elsewhere and gives it no new work; false takes that back.
    pub drain: bool,
    /// After so many seconds what is still on it is stopped; it waits without end when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_seconds: Option<u64>,
}

/// The body of `PATCH /v1/nodes/NODE`: what is left out stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpdateNode {
    /// Whether it takes no new task, while those that it has stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cordoned: Option<bool>,
    /// Labels that it is given beside its own, or in their place.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Names of such labels that it loses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove_labels: Vec<String>,
    /// In the place of those with the same key and effect.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<Taint>,
    /// Keys of taints that it loses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove_taints: Vec<String>,
}

/// The body of `POST /v1/node-groups`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateNodeGroup {
    pub name: NodeGroupName,
    pub spec: NodeGroupSpec,
}

/// The body of `PATCH /v1/node-groups/GROUP`: what is left out stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpdateNodeGroup {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desired: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub managed_scaling: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_in_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join_seconds: Option<u32>,
}

/// What is to be done for a machine of a node group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeGroupRequest {
    pub group: NodeGroupName,
    /// The name of its node. A request that is repeated has the same.
    pub node: NodeId,
    pub action: HookAction,
    /// As in the group.
    pub hook: String,
    /// After so long the hook is ended.
    pub seconds_max: u32,
}

/// What it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HookAction {
    /// The hook adds a machine, whose node joins under the name that it is given.
    Add,
    /// The tasks of the node move elsewhere.
    Drain,
    /// The hook removes the machine, also one that never joined, and its node is forgotten.
    Remove,
}

/// The body of `PATCH /v1/node-groups/GROUP/machines/NODE`: what became of a request.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HookOutcome {
    pub action: HookAction,
    /// Why it failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// The body of `PATCH /v1/domains/TENANT`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeDomains {
    /// Its services may have these as hosts, and every name below them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grant: Vec<HostName>,
    /// And these no more; what they have there ends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoke: Vec<HostName>,
}

/// The body of `POST /v1/join-tokens`.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateJoinToken {
    /// Whether the node also takes work of the shared pool, of every tenant. Only the operator may
    /// say so.
    #[serde(default)]
    pub pool: bool,
    /// Whether it belongs to no tenant, and takes work of the pool only. Only the operator may say
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

/// The body of `POST /v1/credentials`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateCredential {
    /// Unique for its tenant.
    pub name: CredentialName,
    /// Requests with the credential are of this tenant; the caller's own when it is left out. Only
    /// the operator names another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Tenant>,
    /// What its holder may do.
    #[serde(default)]
    pub scope: CredentialScope,
    /// How long it holds: a minute to 366 days, 90 days when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime_seconds: Option<u64>,
}

/// What may be known of a credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CredentialInfo {
    pub tenant: Tenant,
    pub name: CredentialName,
    pub scope: CredentialScope,
    /// When its secret was made.
    pub created: Timestamp,
    pub expires: Timestamp,
    /// When an access token was last issued for it, to the minute; nothing before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Timestamp>,
}

/// The body of `POST /v1/access-tokens`.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IssueToken {
    pub tenant: Tenant,
    /// Nothing for one that was made before credentials had names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<CredentialName>,
    pub secret: String,
}

/// The answer to it.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct AccessTokenAnswer {
    /// A bearer token.
    pub token: String,
    /// At most 900.
    pub expires_in_seconds: u64,
    /// What takes the place of a credential without a name, whose secret works this once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_over: Option<Credential>,
}

/// How to reach the control plane over TCP, and what to get access tokens with. Keep it in a file
/// that its owner alone may read and write.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// `host:port`.
    pub address: String,
    /// SHA-256 of the CA certificate (DER), 64 hex digits.
    pub ca_fingerprint: String,
    /// That certificate in PEM, for clients that trust a file. Nothing in files of earlier
    /// releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
    pub tenant: Tenant,
    /// Nothing in files of releases whose credentials had no name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<CredentialName>,
    #[serde(default)]
    pub scope: CredentialScope,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// Shown once: the control plane has only its hash.
    #[serde(alias = "token")]
    pub secret: String,
}

/// What a tenant may have, and what it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QuotaReport {
    pub tenant: Tenant,
    pub limits: TenantQuota,
    pub used: TenantQuota,
}

/// The answer to `GET /v1/usage`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UsageReport {
    pub tenant: Tenant,
    /// All images together; nothing before the first record.
    pub total: Option<UsageTotal>,
    /// Each image, by digest.
    pub images: Vec<UsageTotal>,
    /// What nodes have claimed and no bill has, for the operator.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disputed: Vec<DisputedUsage>,
}

/// What one tenant used, for the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TenantUsage {
    pub tenant: Tenant,
    /// All images together.
    pub total: UsageTotal,
}

/// The body of `POST /v1/secrets`. No answer ever has the value in it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSecret {
    /// Its name, which a capability line `secret:NAME` grants.
    pub name: SecretName,
    pub value: SecretValue,
}

/// The body of `POST /v1/certificates`. No answer to a client ever has the key in it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateCertificate {
    /// Unique for its tenant.
    pub name: CertificateName,
    /// The certificate and its intermediates, in PEM.
    pub chain_pem: String,
    /// Its private key, in PEM.
    pub key: SecretValue,
}

/// The body of `PATCH /v1/certificates/{certificate}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplaceCertificate {
    /// The certificate and its intermediates, in PEM.
    pub chain_pem: String,
    /// Its private key, in PEM.
    pub key: SecretValue,
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

/// The answer to `GET /v1/principal`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Caller {
    pub tenant: Tenant,
    /// Whether it is the operator.
    pub operator: bool,
    /// The credential that the access token of the request is for; nothing through the socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<CredentialName>,
    pub scope: CredentialScope,
}

/// One page of a list. `GET` takes `?after=NEXT&limit=N`; a page has at most 1,000 items.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ListPage<T> {
    /// In the order of their names.
    pub items: Vec<T>,
    /// Where the next page starts; nothing on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}
