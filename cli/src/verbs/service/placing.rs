//! Where the copies of a service go and how many there are, as flags.

use std::time::Duration;

use anyhow::bail;
use spec::{
    CapacityProvider, NodeExpression, Placement, PlacementConstraint, PlacementStrategy, Scaling,
    ScalingSchedule, ScalingTarget, Toleration,
};

use crate::failure::Advice;

/// Where copies go. `none` takes back what was asked for before.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct PlacementFlags {
    /// Take only nodes for which this holds, as in 'zone == a', or no node twice:
    /// distinctInstance; may be repeated
    #[arg(long, value_name = "EXPRESSION")]
    constraint: Vec<String>,
    /// Take nodes first for which this holds; may be repeated
    #[arg(long, value_name = "EXPRESSION")]
    prefer: Vec<String>,
    /// Choose among the nodes that fit, in order: spread:ATTRIBUTE, binpack:memory, binpack:cpu or
    /// random [default: spread:zone, spread:node, binpack:memory]
    #[arg(long, value_name = "STRATEGY")]
    strategy: Vec<String>,
    /// Take nodes with this taint as well; may be repeated
    #[arg(long, value_name = "KEY[=VALUE][:EFFECT]")]
    tolerate: Vec<String>,
    /// Share copies between nodes of your own and the pool: node=WEIGHT or pool=WEIGHT, with
    /// ,base=COUNT for copies that it has first; may be repeated
    #[arg(long, value_name = "PROVIDER=WEIGHT[,base=COUNT]")]
    capacity_provider: Vec<String>,
    /// Move copies by itself where that spreads them better
    #[arg(long, value_name = "true|false")]
    rebalance: Option<bool>,
    /// Place it before the tenant's services with a lower number, 1 to 100 [default: 50]
    #[arg(long, value_name = "NUMBER")]
    pub priority: Option<u8>,
}

/// How many copies there are by themselves.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ScalingFlags {
    /// Keep between so many copies, and follow targets and schedules
    #[arg(long, value_name = "MIN..MAX", value_parser = bounds)]
    scale: Option<(u32, u32)>,
    /// Load each copy so: cpu=PERCENT and memory=PERCENT of what it reserves,
    /// requests=PER_SECOND, concurrency=REQUESTS at one time, or metric:NAME=NUMBER of what
    /// `service metric put` reports; may be repeated
    #[arg(long, value_name = "METRIC=VALUE")]
    target: Vec<ScalingTarget>,
    /// Change the bounds at a minute of the week, in UTC: mon-fri@08:00=4..20; may be repeated
    #[arg(long, value_name = "DAYS@HH:MM=MIN..MAX")]
    schedule: Vec<ScalingSchedule>,
    /// Wait so long after a step before one that adds copies [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = spec::parse_duration)]
    scale_out_cooldown: Option<Duration>,
    /// Wait so long after a step before one that ends copies [default: 5m]
    #[arg(long, value_name = "DURATION", value_parser = spec::parse_duration)]
    scale_in_cooldown: Option<Duration>,
}

fn bounds(text: &str) -> Result<(u32, u32), String> {
    let wrong = || format!("`{text}` is not MIN..MAX, as in 2..10");
    let (min, max) = text.split_once("..").ok_or_else(wrong)?;
    Ok((min.parse().map_err(|_| wrong())?, max.parse().map_err(|_| wrong())?))
}

/// The word that takes back a list.
const NONE: &str = "none";

/// `given` in the place of `before`, where there is any.
fn list<T: std::str::FromStr<Err = spec::ParseError>>(
    given: &[String],
    before: Vec<T>,
) -> anyhow::Result<Vec<T>> {
    match given {
        [] => Ok(before),
        [only] if only == NONE => Ok(Vec::new()),
        all => Ok(all.iter().map(|text| text.parse()).collect::<Result<_, _>>()?),
    }
}

/// The same for values that are parsed already.
fn replaced<T: Clone>(given: &[T], before: Vec<T>) -> Vec<T> {
    if given.is_empty() { before } else { given.to_vec() }
}

impl PlacementFlags {
    pub fn is_given(&self) -> bool {
        let Self { constraint, prefer, strategy, tolerate, capacity_provider, rebalance, .. } =
            self;
        let lists = [constraint, prefer, strategy, tolerate, capacity_provider];
        rebalance.is_some() || lists.iter().any(|list| !list.is_empty())
    }

    /// `placement` with what was asked for.
    pub fn applied_to(&self, placement: Placement) -> anyhow::Result<Placement> {
        Ok(Placement {
            constraints: list::<PlacementConstraint>(&self.constraint, placement.constraints)?,
            preferences: list::<NodeExpression>(&self.prefer, placement.preferences)?,
            strategies: list::<PlacementStrategy>(&self.strategy, placement.strategies)?,
            tolerations: list::<Toleration>(&self.tolerate, placement.tolerations)?,
            capacity_providers: list::<CapacityProvider>(
                &self.capacity_provider,
                placement.capacity_providers,
            )?,
            rebalance: self.rebalance.unwrap_or(placement.rebalance),
        })
    }
}

impl ScalingFlags {
    pub fn is_given(&self) -> bool {
        let Self { scale, target, schedule, scale_out_cooldown, scale_in_cooldown } = self;
        scale.is_some()
            || !target.is_empty()
            || !schedule.is_empty()
            || scale_out_cooldown.or(*scale_in_cooldown).is_some()
    }

    /// `scaling` with what was asked for, where that is anything.
    pub fn applied_to(&self, scaling: Option<Scaling>) -> anyhow::Result<Option<Scaling>> {
        if !self.is_given() {
            return Ok(scaling);
        }
        let bounded = self.scale.map(|(min, max)| Scaling::between(min, max));
        let Some(before) = scaling.or(bounded) else {
            bail!(
                Advice::new("a service that follows its load has bounds")
                    .hint("add --scale MIN..MAX")
            );
        };
        let (min, max) = self.scale.unwrap_or((before.min, before.max));
        let seconds = |time: Option<Duration>, before| {
            time.map_or(before, |time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX))
        };
        Ok(Some(Scaling {
            min,
            max,
            targets: replaced(&self.target, before.targets),
            schedules: replaced(&self.schedule, before.schedules),
            scale_out_cooldown_seconds: seconds(
                self.scale_out_cooldown,
                before.scale_out_cooldown_seconds,
            ),
            scale_in_cooldown_seconds: seconds(
                self.scale_in_cooldown,
                before.scale_in_cooldown_seconds,
            ),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_asked_for_stays_and_none_takes_a_list_back() {
        let flags = PlacementFlags {
            constraint: vec!["zone == a".to_owned()],
            strategy: vec!["none".to_owned()],
            ..PlacementFlags::default()
        };
        let before = Placement {
            constraints: vec![PlacementConstraint::DistinctInstance],
            strategies: vec![PlacementStrategy::Random],
            rebalance: true,
            ..Placement::default()
        };
        let after = flags.applied_to(before).unwrap();
        assert_eq!(after.constraints, vec!["zone == a".parse().unwrap()]);
        assert!(after.strategies.is_empty() && after.rebalance);
        let wrong = PlacementFlags { prefer: vec!["zone".to_owned()], ..flags };
        assert!(wrong.applied_to(Placement::default()).is_err());
    }

    #[test]
    fn bounds_come_first_and_the_rest_is_added_to_them() {
        let none = ScalingFlags::default();
        assert_eq!(none.applied_to(None).unwrap(), None);
        let target = ScalingFlags { target: vec!["cpu=60".parse().unwrap()], ..none };
        let error = target.applied_to(None).unwrap_err();
        assert_eq!(error.to_string(), "a service that follows its load has bounds");
        let first = ScalingFlags { scale: Some((2, 8)), ..target.clone() };
        let scaling = first.applied_to(None).unwrap().unwrap();
        assert_eq!((scaling.min, scaling.max, scaling.scale_in_cooldown_seconds), (2, 8, 300));
        let later = ScalingFlags {
            scale_in_cooldown: Some(Duration::from_secs(60)),
            ..ScalingFlags::default()
        };
        let scaling = later.applied_to(Some(scaling)).unwrap().unwrap();
        assert_eq!((scaling.targets.len(), scaling.scale_in_cooldown_seconds), (1, 60));
        assert!(bounds("2").is_err() && bounds("2..x").is_err());
    }
}
