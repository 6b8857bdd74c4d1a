use serde::{Deserialize, Serialize};
use spec::{Digest, NodeId, SecretName, TaskId, Tenant, Timestamp, Usage, VolumeName};
use utoipa::ToSchema;

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

/// What a node has claimed and the ledger did not accept: the correcting entry of each bill that
/// it would have been on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DisputedUsage {
    pub node: NodeId,
    /// Of the first claim.
    pub since: Timestamp,
    /// Of the newest claim.
    pub until: Timestamp,
    /// How many records were not accepted, or not as they were.
    pub records: u64,
    /// All that was claimed and not accepted.
    pub usage: Usage,
    /// The newest of these claims.
    pub last: Claim,
}

/// A record of usage, and why it was not accepted as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Claim {
    pub tenant: Tenant,
    pub task: TaskId,
    pub reason: String,
}

/// What can run an image.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Runs {
    /// Any node: its program is WebAssembly.
    Wasm,
    /// Only nodes of these architectures (`amd64`, `arm64`) that have an OCI runtime.
    Native(Vec<String>),
}
