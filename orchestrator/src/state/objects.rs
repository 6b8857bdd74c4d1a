use serde::{Deserialize, Serialize};
use spec::{
    CertificateName, ClusterName, Digest, HostName, NodeId, SecretName, ServiceName, TaskId,
    Tenant, Timestamp, Usage, VolumeName,
};
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

/// What may be known of a certificate: everything but its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Certificate {
    /// Unique for its tenant.
    pub name: CertificateName,
    /// The host names that it is for.
    pub hosts: Vec<HostName>,
    /// What its issuer calls itself.
    pub issuer: String,
    /// From when on it is good…
    pub not_before: Timestamp,
    /// …and until when.
    pub not_after: Timestamp,
    /// SHA-256 of the certificate (DER), 64 hex digits.
    pub fingerprint: String,
    /// When it was uploaded, or replaced.
    pub uploaded: Timestamp,
    /// Whether the platform has ordered it from an authority by ACME, and renews it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub acme: bool,
}

impl Certificate {
    /// The line that gets another one in its place.
    pub fn next_one(&self) -> String {
        match self.acme {
            true => format!("margay certificate renew {}", self.name),
            false => format!("margay certificate update {} --cert FILE --key FILE", self.name),
        }
    }

    /// When it is time for another one: a third of its time before the end, as ACME has it, and a
    /// month at most.
    pub fn renew_from(&self) -> Timestamp {
        const MONTH_MS: u64 = 30 * 24 * 3600 * 1000;
        let life = self.not_after.since(self.not_before).as_millis();
        let before = u64::try_from(life / 3).unwrap_or(u64::MAX).min(MONTH_MS);
        Timestamp::from_millis(self.not_after.millis().saturating_sub(before))
    }
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

/// What a task used on one day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DayUsage {
    /// When the day began, in UTC.
    pub day: Timestamp,
    pub cluster: ClusterName,
    /// The service that it was a replica of, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// Which task; nothing for those of a day with more tasks than are told apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// All that it used on that day.
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
