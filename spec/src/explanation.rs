use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{name::ClusterName, time::Timestamp};

/// Why something is as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// What it is about, as in `task `cats-0-1``.
    pub subject: String,
    /// How that is, in a few words.
    pub state: String,
    /// Why: the first is the nearest.
    pub causes: Vec<ExplanationCause>,
}

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExplanationCause {
    /// In a sentence.
    pub why: String,
    /// The command or line that would change it, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<String>,
}

/// One thing that happened to an object of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ObjectEvent {
    /// When.
    pub at: Timestamp,
    /// What kind of object it is.
    pub subject: EventSubject,
    /// Its name or id.
    pub object: String,
    /// The cluster that it is in, if it is in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterName>,
    /// What happened, in a sentence.
    pub message: String,
}

/// What kind of object an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EventSubject {
    /// A service.
    Service,
    /// A task.
    Task,
    /// A node.
    Node,
    /// A certificate of host names.
    Certificate,
}

/// Events, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventList {
    /// The newest 1,000 of those that are meant.
    pub items: Vec<ObjectEvent>,
}
