//! Upstreams: registries whose images a registry fetches when they are pulled, and keeps.

use serde::{Deserialize, Serialize};
use spec::{Tenant, Timestamp};

/// The body of `PUT /admin/upstreams/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewUpstream {
    /// `https://HOST[:PORT]`.
    pub url: String,
    /// Which repositories of the upstream may be pulled, with `*` for any characters; all when
    /// there are none.
    #[serde(default)]
    pub repositories: Vec<String>,
    /// How long a tag is taken for current without asking the upstream.
    pub ttl_seconds: u64,
    /// Whether clients without a login may pull.
    #[serde(default)]
    pub public: bool,
    /// Whether the upstream may be at an internal address, and of plain HTTP.
    #[serde(default)]
    pub private: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<RegistryLogin>,
}

/// As which user the upstream is asked.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryLogin {
    pub username: String,
    pub password: String,
}

/// An upstream in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamInfo {
    pub name: Tenant,
    pub url: String,
    pub repositories: Vec<String>,
    pub ttl_seconds: u64,
    pub public: bool,
    pub private: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    pub created: Timestamp,
    /// Since the registry has started.
    pub counts: UpstreamCounts,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<UpstreamFailure>,
}

/// How requests for what is of an upstream were answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamCounts {
    /// From what is kept, without asking the upstream.
    pub hits: u64,
    /// After the upstream was asked.
    pub misses: u64,
    /// From what is kept, because the upstream did not answer.
    pub stale: u64,
    /// Not at all, because the upstream did not answer.
    pub failed: u64,
    pub fetched_bytes: u64,
}

/// What an upstream did not do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamFailure {
    pub at: Timestamp,
    pub error: String,
}

impl std::fmt::Debug for RegistryLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryLogin").field("username", &self.username).finish_non_exhaustive()
    }
}
