use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    definition::TaskDefinitionId, launch_type::LaunchType, text::ParseError, time::Timestamp,
};

/// How a service is brought from one revision of its task to the next, in the words of ECS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DeploymentSettings {
    /// Ready replicas that a deployment keeps, in percent of the count: 100 when left out.
    #[schema(maximum = 100)]
    pub minimum_healthy_percent: u32,
    /// Replicas that a deployment may have at one time, in percent of the count: 200 when left out.
    #[schema(minimum = 100, maximum = 200)]
    pub maximum_percent: u32,
    /// Whether a deployment fails after so many failed tasks in a row: half of the count, at least
    /// 3 and at most 200. True when left out.
    pub circuit_breaker: bool,
    /// Whether a service goes back to the last completed deployment when one fails. True when left
    /// out.
    pub rollback: bool,
    /// A deployment fails when for so long no replica of it has become ready: 600 when left out.
    #[schema(minimum = 1, maximum = 86400)]
    pub deadline_seconds: u32,
}

impl Default for DeploymentSettings {
    fn default() -> Self {
        Self {
            minimum_healthy_percent: 100,
            maximum_percent: 200,
            circuit_breaker: true,
            rollback: true,
            deadline_seconds: 600,
        }
    }
}

impl DeploymentSettings {
    /// A day: the longest deadline.
    const DEADLINE_SECONDS_MAX: u32 = 24 * 3600;

    /// Whether it lets a deployment make any step.
    ///
    /// # Errors
    /// Names the field and what it may be.
    pub fn check(&self) -> Result<(), ParseError> {
        let problem = match *self {
            Self { minimum_healthy_percent: 101.., .. } => {
                "`minimum_healthy_percent` is 0 to 100".to_owned()
            }
            Self { maximum_percent: ..100 | 201.., .. } => {
                "`maximum_percent` is 100 to 200".to_owned()
            }
            Self { minimum_healthy_percent: 100, maximum_percent: 100, .. } => {
                "no replica can be replaced with `minimum_healthy_percent` 100 and \
                 `maximum_percent` 100: lower the first or raise the second"
                    .to_owned()
            }
            Self { deadline_seconds, .. }
                if !(1..=Self::DEADLINE_SECONDS_MAX).contains(&deadline_seconds) =>
            {
                format!("`deadline_seconds` is 1 to {}", Self::DEADLINE_SECONDS_MAX)
            }
            _ => return Ok(()),
        };
        Err(ParseError(problem))
    }

    /// Failed tasks in a row at which a deployment of `count` replicas fails.
    pub fn failures_max(&self, count: u32) -> u32 {
        count.div_ceil(2).clamp(3, 200)
    }

    /// Replicas of `count` that stay ready.
    pub fn healthy_min(&self, count: u32) -> u32 {
        percent_of(count, self.minimum_healthy_percent, 99)
    }

    /// Replicas of `count` that there may be at one time.
    pub fn live_max(&self, count: u32) -> u32 {
        percent_of(count, self.maximum_percent, 0)
    }
}

/// Rounded up where `round` is 99, and down where it is 0.
fn percent_of(count: u32, percent: u32, round: u64) -> u32 {
    let part = (u64::from(count) * u64::from(percent) + round) / 100;
    u32::try_from(part).unwrap_or(u32::MAX)
}

/// One revision of a task on its way into service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Deployment {
    /// Counts up from 1 within a service.
    pub number: u64,
    /// The revision that it brings into service.
    pub task_definition: TaskDefinitionId,
    /// The hosts that it runs on.
    pub launch_type: LaunchType,
    /// The deployment that failed, where this one takes its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolls_back: Option<u64>,
    /// When it began.
    pub started: Timestamp,
    /// When it began, was resumed, or a replica of it became ready.
    pub progressed: Timestamp,
    /// When its state was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// How far it has come.
    pub state: DeploymentState,
    /// Why it failed, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Failed tasks in a row.
    #[serde(default)]
    pub failed_tasks: u32,
}

/// How far a deployment has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DeploymentState {
    /// Not every replica is of its revision and ready.
    InProgress,
    /// Every replica was of its revision and ready.
    Completed,
    /// Too many of its tasks failed, or none became ready in time.
    Failed,
    /// Another one began before its state was decided.
    Superseded,
}

impl DeploymentState {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Self::InProgress => "in-progress",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Superseded => "superseded",
        }
    }
}

/// What happened to a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceEvent {
    /// When.
    pub at: Timestamp,
    /// A sentence.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_replicas_follow_ecs() {
        let usual = DeploymentSettings::default();
        for (count, failures) in
            [(0, 3), (1, 3), (6, 3), (7, 4), (10, 5), (400, 200), (401, 200), (1000, 200)]
        {
            assert_eq!(usual.failures_max(count), failures, "{count}");
        }
        for (count, minimum, maximum, want) in [
            (1, 100, 200, (1, 2)),
            (3, 50, 150, (2, 4)),
            (5, 100, 120, (5, 6)),
            (3, 0, 100, (0, 3)),
            (0, 100, 200, (0, 0)),
        ] {
            let (minimum_healthy_percent, maximum_percent) = (minimum, maximum);
            let settings = DeploymentSettings { minimum_healthy_percent, maximum_percent, ..usual };
            let found = (settings.healthy_min(count), settings.live_max(count));
            assert_eq!(found, want, "{count} {minimum} {maximum}");
        }
    }

    #[test]
    fn settings_that_stop_every_step_are_refused() {
        for (text, want) in [
            ("{}", ""),
            (r#"{ "minimum_healthy_percent": 0, "maximum_percent": 100 }"#, ""),
            (r#"{ "minimum_healthy_percent": 101 }"#, "is 0 to 100"),
            (r#"{ "maximum_percent": 99 }"#, "is 100 to 200"),
            (r#"{ "maximum_percent": 201 }"#, "is 100 to 200"),
            (r#"{ "maximum_percent": 100 }"#, "no replica can be replaced"),
            (r#"{ "deadline_seconds": 0 }"#, "is 1 to 86400"),
        ] {
            let settings: DeploymentSettings = serde_json::from_str(text).unwrap();
            let said = settings.check().err().map_or_else(String::new, |error| error.to_string());
            assert_eq!(said.is_empty(), want.is_empty(), "{text}: {said}");
            assert!(said.contains(want), "{text}: {said}");
        }
    }
}
