use std::{str::FromStr, time::Duration};

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
    /// How requests go over to another revision: with its replicas when left out.
    #[serde(skip_serializing_if = "DeploymentStrategy::is_rolling")]
    pub strategy: DeploymentStrategy,
    /// The first share of the requests of a canary deployment, in percent: 5 when left out.
    #[schema(minimum = 1, maximum = 99)]
    pub canary_percent: u32,
    /// What each step of a linear deployment adds to its share, in percent: 10 when left out.
    #[schema(minimum = 1, maximum = 99)]
    pub step_percent: u32,
    /// How long each share below 100 % is kept: 300 when left out.
    #[schema(maximum = 86400)]
    pub step_bake_seconds: u32,
    /// How long the replicas of the revision before are kept once another one has all requests: 300
    /// when left out.
    #[schema(maximum = 86400)]
    pub bake_seconds: u32,
    /// A deployment whose requests go over in shares fails when more of them than this were
    /// answered with 5XX or not at all, in percent: 5 when left out, and 100 never.
    #[schema(maximum = 100)]
    pub failed_requests_percent_max: u32,
}

/// How requests go over from one revision to the next, in the words of ECS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DeploymentStrategy {
    /// One replica takes the place of another, and with it its requests.
    #[default]
    Rolling,
    /// All at once, when every replica of both revisions is ready.
    BlueGreen,
    /// A small share first, then all.
    Canary,
    /// In equal steps.
    Linear,
}

impl DeploymentStrategy {
    /// Every strategy.
    pub const ALL: [Self; 4] = [Self::Rolling, Self::BlueGreen, Self::Canary, Self::Linear];

    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Self::Rolling => "rolling",
            Self::BlueGreen => "blue-green",
            Self::Canary => "canary",
            Self::Linear => "linear",
        }
    }

    /// Whether requests go over with replicas, and not in shares.
    pub fn is_rolling(&self) -> bool {
        *self == Self::Rolling
    }
}

impl FromStr for DeploymentStrategy {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let known = Self::ALL.into_iter().find(|strategy| strategy.word() == text);
        known.ok_or_else(|| {
            ParseError::about(text, "is none of rolling, blue-green, canary and linear")
        })
    }
}

impl Default for DeploymentSettings {
    fn default() -> Self {
        Self {
            minimum_healthy_percent: 100,
            maximum_percent: 200,
            circuit_breaker: true,
            rollback: true,
            deadline_seconds: 600,
            strategy: DeploymentStrategy::Rolling,
            canary_percent: 5,
            step_percent: 10,
            step_bake_seconds: 300,
            bake_seconds: 300,
            failed_requests_percent_max: 5,
        }
    }
}

impl DeploymentSettings {
    /// A day: the longest deadline.
    const DEADLINE_SECONDS_MAX: u32 = 24 * 3600;
    /// A day, as ECS has it.
    const BAKE_SECONDS_MAX: u32 = 24 * 3600;

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
            _ => return self.check_shares(),
        };
        Err(ParseError(problem))
    }

    /// Whether requests can go over in these shares.
    fn check_shares(&self) -> Result<(), ParseError> {
        let most = Self::BAKE_SECONDS_MAX;
        let seconds =
            [("step_bake_seconds", self.step_bake_seconds), ("bake_seconds", self.bake_seconds)];
        let too_long = seconds.into_iter().find(|(_, seconds)| *seconds > most);
        let shares = [("canary_percent", self.canary_percent), ("step_percent", self.step_percent)];
        let no_share = shares.into_iter().find(|(_, percent)| !(1..=99).contains(percent));
        let problem = match (no_share, too_long) {
            (Some((name, _)), _) => format!("`{name}` is 1 to 99"),
            (None, Some((name, _))) => format!("`{name}` is 0 to {most}"),
            (None, None) if self.failed_requests_percent_max > 100 => {
                "`failed_requests_percent_max` is 0 to 100".to_owned()
            }
            (None, None) if !self.strategy.is_rolling() && self.maximum_percent < 200 => format!(
                "both revisions of a {} deployment have every replica: `maximum_percent` is 200",
                self.strategy.word()
            ),
            (None, None) => return Ok(()),
        };
        Err(ParseError(problem))
    }

    /// The share of the requests that comes after one, in percent.
    pub fn share_after(&self, percent: u32) -> u32 {
        match self.strategy {
            DeploymentStrategy::Canary if percent == 0 => self.canary_percent,
            DeploymentStrategy::Linear => percent.saturating_add(self.step_percent).min(100),
            DeploymentStrategy::Rolling
            | DeploymentStrategy::BlueGreen
            | DeploymentStrategy::Canary => 100,
        }
    }

    /// How long a share is kept.
    pub fn bake_time(&self, percent: u32) -> Duration {
        let seconds = match percent {
            0 => 0,
            1..100 => self.step_bake_seconds,
            100.. => self.bake_seconds,
        };
        Duration::from_secs(seconds.into())
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
    /// The deployment that was in service when it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<u64>,
    /// Its share of the requests, where they do not go over with replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<TrafficShare>,
    /// When it began.
    pub started: Timestamp,
    /// When it began, was resumed, had another share of the requests, or a replica of it became
    /// ready.
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

/// The share of the requests that go to the revision of a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrafficShare {
    /// In percent; 0 while its replicas become ready.
    pub percent: u32,
    /// Since when.
    pub since: Timestamp,
    /// Requests that its replicas had before.
    #[serde(default)]
    pub requests: u64,
    /// Of these, those that were answered with 5XX or not at all.
    #[serde(default)]
    pub failed_requests: u64,
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
            (r#"{ "strategy": "canary", "canary_percent": 1, "bake_seconds": 0 }"#, ""),
            (r#"{ "strategy": "canary", "canary_percent": 100 }"#, "`canary_percent` is 1 to 99"),
            (r#"{ "strategy": "linear", "step_percent": 0 }"#, "`step_percent` is 1 to 99"),
            (r#"{ "step_bake_seconds": 86401 }"#, "`step_bake_seconds` is 0 to 86400"),
            (r#"{ "failed_requests_percent_max": 101 }"#, "is 0 to 100"),
            (r#"{ "strategy": "blue-green", "maximum_percent": 150 }"#, "`maximum_percent` is 200"),
        ] {
            let settings: DeploymentSettings = serde_json::from_str(text).unwrap();
            let said = settings.check().err().map_or_else(String::new, |error| error.to_string());
            assert_eq!(said.is_empty(), want.is_empty(), "{text}: {said}");
            assert!(said.contains(want), "{text}: {said}");
        }
    }

    #[test]
    fn shares_grow_as_the_strategy_says() {
        for (strategy, want) in [
            (DeploymentStrategy::Rolling, &[100][..]),
            (DeploymentStrategy::BlueGreen, &[100]),
            (DeploymentStrategy::Canary, &[5, 100]),
            (DeploymentStrategy::Linear, &[30, 60, 90, 100]),
        ] {
            let usual = DeploymentSettings::default();
            let settings = DeploymentSettings { strategy, step_percent: 30, ..usual };
            let mut shares = vec![settings.share_after(0)];
            while let Some(last) = shares.last().filter(|last| **last < 100) {
                shares.push(settings.share_after(*last));
            }
            assert_eq!(shares, want, "{strategy:?}");
            assert_eq!(strategy.word().parse::<DeploymentStrategy>().unwrap(), strategy);
        }
        let error = "purple".parse::<DeploymentStrategy>().unwrap_err().to_string();
        assert!(error.contains("`purple` is none of rolling, blue-green"), "{error}");
    }
}
