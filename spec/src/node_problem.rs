//! What keeps a node from working as it should.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One thing that is wrong with a node, as its agent or the control plane has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeProblem {
    /// What it is about.
    pub kind: NodeProblemKind,
    /// What was found, in a sentence.
    pub message: String,
}

/// What a problem of a node is about.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum NodeProblemKind {
    /// The disk of its home is nearly full: no new task is placed on it.
    DiskPressure,
    /// Its memory is nearly used up: no new task is placed on it.
    MemoryPressure,
    /// Its clock differs from the one of the control plane.
    ClockSkew,
    /// Its kernel keeps no limit of memory and processor for Linux images.
    Cgroups,
    /// Its kernel lacks what margay confines programs with.
    Kernel,
    /// Its agent does not understand what the control plane tells it: what runs there stays as it
    /// is.
    AgentVersion,
    /// One that a later version of the agent knows.
    #[serde(other)]
    Other,
}

impl NodeProblemKind {
    /// Whether no new task is placed on a node that has it. Daemons come all the same.
    pub fn keeps_tasks_away(self) -> bool {
        match self {
            Self::DiskPressure | Self::MemoryPressure | Self::AgentVersion => true,
            Self::ClockSkew | Self::Cgroups | Self::Kernel | Self::Other => false,
        }
    }
}

impl fmt::Display for NodeProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DiskPressure => "disk-pressure",
            Self::MemoryPressure => "memory-pressure",
            Self::ClockSkew => "clock-skew",
            Self::Cgroups => "cgroups",
            Self::Kernel => "kernel",
            Self::AgentVersion => "agent-version",
            Self::Other => "other",
        })
    }
}
