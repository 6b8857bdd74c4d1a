//! Replications: repositories whose images a registry pushes to another one.

use serde::{Deserialize, Serialize};
use spec::Timestamp;

use super::{
    policy::RepositoryPattern,
    upstream::RegistryLogin,
    webhook::{Delivery, WebhookName},
};

/// A replication of an account: `ACCOUNT/NAME`. It has its events as a webhook has.
pub type ReplicationName = WebhookName;

/// The body of `PUT /admin/replications/ACCOUNT/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewReplication {
    /// The other registry: `https://HOST[:PORT]`.
    pub url: String,
    pub repositories: RepositoryPattern,
    #[serde(flatten)]
    pub replica: Replica,
    /// Whether it may be at an internal address, and of plain HTTP: the operator decides.
    #[serde(default)]
    pub private: bool,
}

/// How images are at the other registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// What takes the place of the account in the names of repositories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Whether what is deleted here is deleted there.
    #[serde(default)]
    pub deletions: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<RegistryLogin>,
}

/// A replication in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicationInfo {
    pub replication: ReplicationName,
    pub url: String,
    pub repositories: RepositoryPattern,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    pub deletions: bool,
    pub private: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    pub created: Timestamp,
    /// Changes that wait.
    pub pending: u64,
    /// Since when the oldest of them waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_since: Option<Timestamp>,
    /// The last try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Delivery>,
}
