//! The settings of deployments, as flags.

use std::time::Duration;

use anyhow::bail;
use spec::{DeploymentSettings, DeploymentStrategy};

use crate::failure::Advice;

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
    /// How requests go over to another revision: with its copies, or in shares while all copies of
    /// both are there
    #[arg(long, value_name = "rolling|blue-green|canary|linear")]
    rollout: Option<DeploymentStrategy>,
    /// The first share of the requests of a canary deployment
    #[arg(long, value_name = "PERCENT")]
    canary: Option<u32>,
    /// What each step of a linear deployment adds to its share
    #[arg(long, value_name = "PERCENT")]
    step: Option<u32>,
    /// Keep each share below 100 % for so long
    #[arg(long, value_name = "DURATION", value_parser = spec::parse_duration)]
    step_bake: Option<Duration>,
    /// Keep the copies of the revision before for so long once another one has all requests
    #[arg(long, value_name = "DURATION", value_parser = spec::parse_duration)]
    bake: Option<Duration>,
    /// Fail a deployment in shares when more of its requests than this were answered with 5XX or
    /// not at all; 100 never does
    #[arg(long, value_name = "PERCENT")]
    max_failed_requests: Option<u32>,
}

impl DeploymentFlags {
    pub fn is_given(&self) -> bool {
        let Self { min_healthy, max_percent, circuit_breaker, rollback, deadline, .. } = self;
        min_healthy.or(*max_percent).is_some()
            || circuit_breaker.or(*rollback).is_some()
            || deadline.is_some()
            || self.rollout.is_some()
            || self.of_shares().next().is_some()
    }

    /// The flags that are given and say something about shares, with the strategies that have such.
    fn of_shares(&self) -> impl Iterator<Item = (&'static str, &'static [DeploymentStrategy])> {
        const ALL: &[DeploymentStrategy] = &[
            DeploymentStrategy::BlueGreen,
            DeploymentStrategy::Canary,
            DeploymentStrategy::Linear,
        ];
        [
            ("--canary", self.canary.is_some(), &ALL[1..2]),
            ("--step", self.step.is_some(), &ALL[2..]),
            ("--step-bake", self.step_bake.is_some(), &ALL[1..]),
            ("--bake", self.bake.is_some(), ALL),
            ("--max-failed-requests", self.max_failed_requests.is_some(), ALL),
        ]
        .into_iter()
        .filter_map(|(flag, is_given, strategies)| is_given.then_some((flag, strategies)))
    }

    /// `settings` with what was asked for.
    pub fn applied_to(&self, settings: DeploymentSettings) -> anyhow::Result<DeploymentSettings> {
        let strategy = self.rollout.unwrap_or(settings.strategy);
        if let Some((flag, of)) = self.of_shares().find(|(_, of)| !of.contains(&strategy)) {
            let words: Vec<_> = of.iter().map(|strategy| strategy.word()).collect();
            let message = format!("`{flag}` says nothing about a {} rollout", strategy.word());
            bail!(Advice::new(message).hint(format!("add --rollout {}", words.join(" or "))));
        }
        let seconds = |time: Option<Duration>, before| {
            time.map_or(before, |time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX))
        };
        Ok(DeploymentSettings {
            minimum_healthy_percent: self.min_healthy.unwrap_or(settings.minimum_healthy_percent),
            maximum_percent: self.max_percent.unwrap_or(settings.maximum_percent),
            circuit_breaker: self.circuit_breaker.unwrap_or(settings.circuit_breaker),
            rollback: self.rollback.unwrap_or(settings.rollback),
            deadline_seconds: seconds(self.deadline, settings.deadline_seconds),
            strategy,
            canary_percent: self.canary.unwrap_or(settings.canary_percent),
            step_percent: self.step.unwrap_or(settings.step_percent),
            step_bake_seconds: seconds(self.step_bake, settings.step_bake_seconds),
            bake_seconds: seconds(self.bake, settings.bake_seconds),
            failed_requests_percent_max: self
                .max_failed_requests
                .unwrap_or(settings.failed_requests_percent_max),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_a_strategy_has_no_use_for_are_refused() {
        let second = Some(Duration::from_secs(1));
        let flags = |rollout: &str| DeploymentFlags {
            rollout: Some(rollout.parse().unwrap()),
            ..DeploymentFlags::default()
        };
        for (flags, want) in [
            (DeploymentFlags { canary: Some(1), step_bake: second, ..flags("canary") }, None),
            (DeploymentFlags { step: Some(20), bake: second, ..flags("linear") }, None),
            (DeploymentFlags { max_failed_requests: Some(1), ..flags("blue-green") }, None),
            (
                DeploymentFlags { step_bake: second, ..flags("blue-green") },
                Some("`--step-bake` says nothing about a blue-green rollout"),
            ),
            (
                DeploymentFlags { canary: Some(5), ..flags("linear") },
                Some("`--canary` says nothing about a linear rollout"),
            ),
            (
                DeploymentFlags { bake: second, ..DeploymentFlags::default() },
                Some("`--bake` says nothing about a rolling rollout"),
            ),
        ] {
            assert!(flags.is_given());
            let applied = flags.applied_to(DeploymentSettings::default());
            assert_eq!(applied.err().map(|error| error.to_string()).as_deref(), want, "{flags:?}");
        }
    }
}
