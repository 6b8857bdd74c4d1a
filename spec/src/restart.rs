use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// When a container that has ended by itself is started again on its node, in the words of
/// Kubernetes. The first time at once, then after 10 seconds, twice as long each time and 5 minutes
/// at most; a run of 10 minutes begins that anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ContainerRestart {
    /// Whatever it ended with.
    Always,
    /// When its exit code is not 0.
    OnFailure,
    /// It runs once.
    Never,
}

impl ContainerRestart {
    /// Whether one that has ended with `code` is started again.
    pub fn restarts(self, code: u8) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => code != 0,
            Self::Never => false,
        }
    }
}
