use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::text::ParseError;

/// The hosts that a task runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LaunchType {
    /// Nodes of the tenant.
    Node,
    /// The shared pool, which bills per run.
    Pool,
}

impl LaunchType {
    pub(crate) fn all() -> Vec<Self> {
        vec![Self::Node, Self::Pool]
    }
}

impl FromStr for LaunchType {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "node" => Ok(Self::Node),
            "pool" => Ok(Self::Pool),
            _ => Err(ParseError::about(text, "is not a launch type: use node or pool")),
        }
    }
}
