//! The settings of deployments, as flags.

use std::time::Duration;

use spec::DeploymentSettings;

/// How another revision is brought into service.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct DeploymentFlags {
    /// Keep so many copies ready while another revision comes: percent of the count
    #[arg(long, value_name = "PERCENT")]
    min_healthy: Option<u32>,
    /// Have so many copies at most while another revision comes: percent of the count
    #[arg(long, value_name = "PERCENT")]
    max_percent: Option<u32>,
    /// Fail a deployment after so many failed tasks in a row as ECS does
    #[arg(long, value_name = "true|false")]
    circuit_breaker: Option<bool>,
    /// Go back to the last completed deployment when one fails
    #[arg(long, value_name = "true|false")]
    rollback: Option<bool>,
    /// Fail a deployment when for so long no copy of it has become ready
    #[arg(long, value_name = "DURATION", value_parser = spec::parse_duration)]
    deadline: Option<Duration>,
}

impl DeploymentFlags {
    pub fn is_given(&self) -> bool {
        let Self { min_healthy, max_percent, circuit_breaker, rollback, deadline } = self;
        min_healthy.or(*max_percent).is_some()
            || circuit_breaker.or(*rollback).is_some()
            || deadline.is_some()
    }

    /// `settings` with what was asked for.
    pub fn applied_to(&self, settings: DeploymentSettings) -> DeploymentSettings {
        let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        DeploymentSettings {
            minimum_healthy_percent: self.min_healthy.unwrap_or(settings.minimum_healthy_percent),
            maximum_percent: self.max_percent.unwrap_or(settings.maximum_percent),
            circuit_breaker: self.circuit_breaker.unwrap_or(settings.circuit_breaker),
            rollback: self.rollback.unwrap_or(settings.rollback),
            deadline_seconds: self.deadline.map_or(settings.deadline_seconds, seconds),
        }
    }
}
