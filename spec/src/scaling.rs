//! How many replicas a service has when its load decides: bounds, targets, and bounds that hold at
//! some hours.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    name::MetricName,
    text::{ParseError, written_as_text},
    time::Timestamp,
};

/// How the count of a service follows its load and the clock, in the words of ECS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Scaling {
    /// Never fewer.
    pub min: u32,
    /// Never more.
    pub max: u32,
    /// What each replica should be loaded with; the one that asks for the most replicas decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<ScalingTarget>,
    /// Other bounds from a minute of the week on, until the next of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schedules: Vec<ScalingSchedule>,
    /// Between two steps up: 30 when left out.
    #[serde(default = "scale_out_cooldown")]
    pub scale_out_cooldown_seconds: u32,
    /// Between any step and the next one down: 300 when left out.
    #[serde(default = "scale_in_cooldown")]
    pub scale_in_cooldown_seconds: u32,
}

fn scale_out_cooldown() -> u32 {
    30
}
fn scale_in_cooldown() -> u32 {
    300
}

impl Scaling {
    /// Targets, and schedules: a change for each hour of a week is no plan.
    const LINES_MAX: usize = 20;
    /// A day.
    const COOLDOWN_SECONDS_MAX: u32 = 24 * 3600;

    /// With these bounds, and the usual times.
    pub fn between(min: u32, max: u32) -> Self {
        Self {
            min,
            max,
            targets: Vec::new(),
            schedules: Vec::new(),
            scale_out_cooldown_seconds: scale_out_cooldown(),
            scale_in_cooldown_seconds: scale_in_cooldown(),
        }
    }

    /// Whether its bounds leave something to decide.
    ///
    /// # Errors
    /// Names the field and what it may be.
    pub fn check(&self) -> Result<(), ParseError> {
        let bounds = self.schedules.iter().map(|schedule| (schedule.min, schedule.max));
        for (min, max) in bounds.chain([(self.min, self.max)]) {
            check_bounds(min, max)?;
            if min == 0 && max > 0 && !self.leaves_zero() {
                return Err(ParseError(format!(
                    "bounds of 0..{max} never leave 0, where there is no load: begin with 1, or \
                     add a target that does not come from copies, as `concurrency=20`, \
                     `requests=100` or a metric of your own, `metric:queue-depth=20`"
                )));
            }
        }
        if self.targets.is_empty() && self.schedules.is_empty() {
            return Err(ParseError(
                "`scaling` has neither targets nor schedules: name one, as in `cpu=60`".to_owned(),
            ));
        }
        for (name, count) in [("targets", self.targets.len()), ("schedules", self.schedules.len())]
        {
            if count > Self::LINES_MAX {
                let most = Self::LINES_MAX;
                let said = format!("`scaling.{name}` has {count} lines, and {most} is the most");
                return Err(ParseError(said));
            }
        }
        for (name, seconds) in [
            ("scale_out_cooldown_seconds", self.scale_out_cooldown_seconds),
            ("scale_in_cooldown_seconds", self.scale_in_cooldown_seconds),
        ] {
            if seconds > Self::COOLDOWN_SECONDS_MAX {
                let most = Self::COOLDOWN_SECONDS_MAX;
                return Err(ParseError(format!("`scaling.{name}` is 0 to {most}")));
            }
        }
        Ok(())
    }

    /// The bounds that hold at a time.
    pub fn bounds(&self, now: Timestamp) -> (u32, u32) {
        let last = self.schedules.iter().min_by_key(|schedule| schedule.minutes_since(now));
        last.map_or((self.min, self.max), |last| (last.min, last.max))
    }

    /// Whether it depends on what clients ask.
    pub fn follows_requests(&self) -> bool {
        self.targets.iter().any(|target| match target.metric {
            ScalingMetric::Requests | ScalingMetric::Concurrency => true,
            ScalingMetric::Cpu | ScalingMetric::Memory | ScalingMetric::Own(_) => false,
        })
    }

    /// The numbers that clients report.
    pub fn own_metrics(&self) -> impl Iterator<Item = &MetricName> {
        self.targets.iter().filter_map(|target| match &target.metric {
            ScalingMetric::Own(name) => Some(name),
            ScalingMetric::Cpu
            | ScalingMetric::Memory
            | ScalingMetric::Requests
            | ScalingMetric::Concurrency => None,
        })
    }

    /// Whether something other than its replicas says how many there should be.
    fn leaves_zero(&self) -> bool {
        self.follows_requests() || self.own_metrics().next().is_some()
    }

    /// Whether it may have no replica until a request comes, which waits for one.
    pub fn wakes(&self) -> bool {
        let mut least = self.schedules.iter().map(|schedule| schedule.min).chain([self.min]);
        self.follows_requests() && least.any(|min| min == 0)
    }

    /// The replicas for so many requests that wait for the first one.
    pub fn for_waiting(&self, requests: u32) -> u32 {
        let concurrency = |target: &ScalingTarget| match target.metric {
            ScalingMetric::Concurrency => Some(requests.div_ceil(target.value)),
            ScalingMetric::Cpu
            | ScalingMetric::Memory
            | ScalingMetric::Requests
            | ScalingMetric::Own(_) => None,
        };
        self.targets.iter().filter_map(concurrency).max().unwrap_or(1).max(1)
    }

    /// The most replicas that it may ever ask for.
    pub fn most(&self) -> u32 {
        self.schedules
            .iter()
            .map(|schedule| schedule.max)
            .chain([self.max])
            .max()
            .unwrap_or(self.max)
    }
}

fn check_bounds(min: u32, max: u32) -> Result<(), ParseError> {
    match min > max {
        true => Err(ParseError(format!("bounds are MIN..MAX, and {min} is more than {max}"))),
        false => Ok(()),
    }
}

/// What each replica should be loaded with: `cpu=60` and `memory=70` in percent of what it
/// reserves, `requests=100` in requests each second, `concurrency=20` in requests at one time,
/// `metric:queue-depth=20` in a number that clients report of the whole service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalingTarget {
    /// What is measured.
    pub metric: ScalingMetric,
    /// What it should be.
    pub value: u32,
}

/// What is measured of a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScalingMetric {
    /// Time on a processor, in percent of what is reserved.
    Cpu,
    /// Memory that is held, in percent of what is reserved.
    Memory,
    /// Requests answered each second.
    Requests,
    /// Requests under way at one time, as the ingresses see them.
    Concurrency,
    /// What clients report of the service, divided by its replicas.
    Own(MetricName),
}

/// Before the name of a metric that clients report.
const OWN: &str = "metric:";

impl fmt::Display for ScalingMetric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Memory => f.write_str("memory"),
            Self::Requests => f.write_str("requests"),
            Self::Concurrency => f.write_str("concurrency"),
            Self::Own(name) => write!(f, "{OWN}{name}"),
        }
    }
}

impl fmt::Display for ScalingTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.metric, self.value)
    }
}

impl FromStr for ScalingTarget {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let rule = "is not a target: use cpu=PERCENT, memory=PERCENT, requests=PER_SECOND, \
                    concurrency=REQUESTS or metric:NAME=NUMBER";
        let wrong = || ParseError::about(text, rule);
        let (name, value) = text.split_once('=').ok_or_else(wrong)?;
        let metric = match name {
            "cpu" => ScalingMetric::Cpu,
            "memory" => ScalingMetric::Memory,
            "requests" => ScalingMetric::Requests,
            "concurrency" => ScalingMetric::Concurrency,
            _ => ScalingMetric::Own(name.strip_prefix(OWN).ok_or_else(wrong)?.parse()?),
        };
        let value = value.trim_end_matches('%').parse().map_err(|_| wrong())?;
        let most = match metric {
            ScalingMetric::Cpu | ScalingMetric::Memory => 1000,
            ScalingMetric::Requests | ScalingMetric::Concurrency => 1_000_000,
            ScalingMetric::Own(_) => 1_000_000_000,
        };
        match (1..=most).contains(&value) {
            true => Ok(Self { metric, value }),
            false => Err(ParseError::about(text, format_args!("has a value of 1 to {most}"))),
        }
    }
}

written_as_text!(
    ScalingTarget,
    "`cpu=PERCENT`, `memory=PERCENT`, `requests=PER_SECOND`, `concurrency=REQUESTS` or \
     `metric:NAME=NUMBER`.",
    "cpu=60"
);

/// Bounds from a minute of the week on, in UTC: `mon-fri@08:00=4..20`, `daily@22:00=1..2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScalingSchedule {
    /// From Monday on.
    days: [bool; 7],
    minute: u16,
    /// Never fewer.
    pub min: u32,
    /// Never more.
    pub max: u32,
}

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const MINUTES_OF_DAY: u64 = 24 * 60;

impl ScalingSchedule {
    /// Since it last began: a week at most.
    fn minutes_since(&self, now: Timestamp) -> u64 {
        let minutes = now.since(Timestamp::default()).as_secs() / 60;
        // 1970 began on a Thursday.
        let (day, minute) = (minutes / MINUTES_OF_DAY + 3, minutes % MINUTES_OF_DAY);
        let begun = (0..=7).filter(|back| {
            let weekday = usize::try_from((day + 7 - back) % 7).unwrap_or_default();
            self.days[weekday] && (*back > 0 || minute >= u64::from(self.minute))
        });
        let back = begun.min().unwrap_or(7);
        (back * MINUTES_OF_DAY + minute).saturating_sub(u64::from(self.minute))
    }
}

impl fmt::Display for ScalingSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { days, minute, min, max } = self;
        let named: Vec<&str> =
            DAYS.iter().zip(days).filter_map(|(name, on)| on.then_some(*name)).collect();
        let days = if named.len() == 7 { "daily".to_owned() } else { named.join(",") };
        write!(f, "{days}@{:02}:{:02}={min}..{max}", minute / 60, minute % 60)
    }
}

impl FromStr for ScalingSchedule {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let rule = "is not a schedule: use DAYS@HH:MM=MIN..MAX in UTC, as in \
                    mon-fri@08:00=4..20 or daily@22:00=1..2";
        let wrong = || ParseError::about(text, rule);
        let (when, bounds) = text.split_once('=').ok_or_else(wrong)?;
        let (days, time) = when.split_once('@').ok_or_else(wrong)?;
        let (hour, minute) = time.split_once(':').ok_or_else(wrong)?;
        let (min, max) = bounds.split_once("..").ok_or_else(wrong)?;
        let number = |text: &str| text.parse::<u32>().map_err(|_| wrong());
        let (min, max) = (number(min)?, number(max)?);
        check_bounds(min, max)?;
        let (hour, minute) = (number(hour)?, number(minute)?);
        if hour > 23 || minute > 59 {
            return Err(wrong());
        }
        let minute = u16::try_from(hour * 60 + minute).map_err(|_| wrong())?;
        Ok(Self { days: days_of(days).ok_or_else(wrong)?, minute, min, max })
    }
}

fn days_of(text: &str) -> Option<[bool; 7]> {
    if text == "daily" {
        return Some([true; 7]);
    }
    let index = |name: &str| DAYS.iter().position(|day| *day == name);
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (index(first)?, index(last)?);
        let count = (last + 7 - first) % 7;
        (0..=count).for_each(|step| days[(first + step) % 7] = true);
    }
    Some(days)
}

written_as_text!(ScalingSchedule, "`DAYS@HH:MM=MIN..MAX`, in UTC.", "mon-fri@08:00=4..20");

impl Scaling {
    /// Between two steps up.
    pub fn scale_out_cooldown(&self) -> Duration {
        Duration::from_secs(self.scale_out_cooldown_seconds.into())
    }

    /// Between any step and the next one down.
    pub fn scale_in_cooldown(&self) -> Duration {
        Duration::from_secs(self.scale_in_cooldown_seconds.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_schedule_that_began_holds_until_the_next_one() {
        let scaling = Scaling {
            schedules: vec![
                "mon-fri@08:00=4..20".parse().unwrap(),
                "mon-fri@18:30=2..4".parse().unwrap(),
                "sat@00:00=0..0".parse().unwrap(),
            ],
            ..Scaling::between(1, 8)
        };
        scaling.check().unwrap();
        assert_eq!(scaling.most(), 20);
        for (now, want) in [
            ("2026-11-27T07:59:59.000Z", (2, 4)), // a Friday
            ("2026-11-27T08:00:00.000Z", (4, 20)),
            ("2026-11-27T18:29:59.000Z", (4, 20)),
            ("2026-11-27T18:30:00.000Z", (2, 4)),
            ("2026-11-27T23:59:59.000Z", (2, 4)),
            ("2026-11-28T00:00:00.000Z", (0, 0)),
            ("2026-11-29T23:00:00.000Z", (0, 0)),
            ("2026-11-30T07:00:00.000Z", (0, 0)),
            ("2026-11-30T08:00:00.000Z", (4, 20)),
        ] {
            assert_eq!(scaling.bounds(now.parse().unwrap()), want, "{now}");
        }
        let plain = Scaling { targets: vec!["cpu=60".parse().unwrap()], ..Scaling::between(1, 8) };
        assert_eq!(plain.bounds(Timestamp::from_millis(0)), (1, 8));
        let once = Scaling { schedules: vec!["wed@12:00=3..3".parse().unwrap()], ..plain };
        assert_eq!(once.bounds("2026-11-25T11:59:00.000Z".parse().unwrap()), (3, 3), "last week's");
    }

    #[test]
    fn lines_of_scaling_print_what_they_parse() {
        for (text, want) in [
            ("mon-fri@08:00=4..20", "mon,tue,wed,thu,fri@08:00=4..20"),
            ("sat-mon@00:05=1..1", "mon,sat,sun@00:05=1..1"),
            ("daily@22:00=1..2", "daily@22:00=1..2"),
            ("mon,thu@9:30=0..0", "mon,thu@09:30=0..0"),
        ] {
            let parsed: ScalingSchedule = text.parse().unwrap();
            assert_eq!(parsed.to_string(), want, "{text}");
            assert_eq!(want.parse::<ScalingSchedule>().unwrap(), parsed);
        }
        for text in
            ["cpu=60", "memory=70", "requests=100", "concurrency=20", "metric:queue-depth=20"]
        {
            assert_eq!(text.parse::<ScalingTarget>().unwrap().to_string(), text);
        }
        for (text, want) in [
            ("mon@24:00=1..2", "is not a schedule"),
            ("noday@08:00=1..2", "is not a schedule"),
            ("mon@08:00=4..2", "4 is more than 2"),
            ("mon@08:00", "is not a schedule"),
        ] {
            let error = text.parse::<ScalingSchedule>().unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
        for text in ["cpu", "cpu=0", "cpu=1001", "disk=4", "requests=x", "metric:=1", "metric:A=1"]
        {
            assert!(text.parse::<ScalingTarget>().is_err(), "{text}");
        }
        let targets = |target: &str| vec![target.parse().unwrap()];
        let from_zero = vec!["mon@08:00=0..2".parse().unwrap()];
        for (scaling, want) in [
            (Scaling { targets: targets("cpu=60"), ..Scaling::between(0, 2) }, "never leave 0"),
            (Scaling { schedules: from_zero, ..Scaling::between(1, 2) }, "never leave 0"),
            (Scaling { targets: targets("metric:jobs=5"), ..Scaling::between(0, 2) }, ""),
            (Scaling { targets: targets("requests=5"), ..Scaling::between(0, 2) }, ""),
        ] {
            let said = scaling.check().map_or_else(|error| error.to_string(), |()| String::new());
            assert!(said.contains(want) && said.is_empty() == want.is_empty(), "{said}");
        }
        assert!(
            Scaling::between(1, 2).check().unwrap_err().to_string().contains("neither targets")
        );
    }
    #[test]
    fn only_requests_that_are_counted_bring_a_service_back_from_zero() {
        for (min, schedule, targets, wakes, replicas) in [
            (0, None, &["concurrency=20"][..], true, [1, 1, 2, 6]),
            (0, None, &["requests=20"], true, [1, 1, 1, 1]),
            (0, None, &["cpu=60", "concurrency=50"], true, [1, 1, 1, 3]),
            (0, None, &["metric:jobs=5"], false, [1, 1, 1, 1]),
            (1, None, &["concurrency=20"], false, [1, 1, 2, 6]),
            (1, Some("daily@22:00=0..2"), &["concurrency=20"], true, [1, 1, 2, 6]),
        ] {
            let targets = targets.iter().map(|target| target.parse().unwrap()).collect();
            let schedules = schedule.iter().map(|line| line.parse().unwrap()).collect();
            let scaling = Scaling { targets, schedules, ..Scaling::between(min, 4) };
            assert_eq!(scaling.wakes(), wakes, "{scaling:?}");
            assert_eq!([0, 1, 21, 101].map(|n| scaling.for_waiting(n)), replicas, "{scaling:?}");
        }
    }
}
