//! Whether a task's program is well: what is asked of it, what was answered, and what that means.
//! Docker's HEALTHCHECK to the letter; nothing here waits or looks at a clock.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use spec::{HealthCheck, Timestamp};

/// Docker's defaults.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;
/// Docker takes no shorter time, and an image of another builder may hold one.
const SHORTEST: Duration = Duration::from_millis(1);
/// Results that are kept, as by Docker.
const RESULTS_MAX: usize = 5;
/// What runs a check in shell form, unless the image has a SHELL of its own.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// How a task's program is asked whether it is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// As the image or the command line has it: `CMD` or `CMD-SHELL`, and what follows.
    pub test: Vec<String>,
    /// What runs for it.
    pub command: Vec<String>,
    /// From the end of a probe to the next one.
    pub interval: Duration,
    /// For one probe.
    pub timeout: Duration,
    /// After the start, failures do not count for so long.
    pub start_period: Duration,
    /// Instead of the interval in that time, until a probe has succeeded.
    pub start_interval: Duration,
    /// Failures in a row until it is unhealthy.
    pub retries: u32,
    /// What is asked instead of running `command`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reach: Option<Reach>,
    /// Whether it is not asked any more once it was healthy: each probe of a program that answers
    /// requests is a run of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub until_healthy: bool,
}

/// What is asked of a replica from outside of its container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// To answer a `GET` with a status below `below`.
    Http { port: u16, path: String, below: u16 },
    /// To listen on a port.
    Tcp { port: u16 },
    /// To run for an interval.
    Runs,
}

/// What is known of a task's health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    pub status: HealthStatus,
    /// Failures in a row, as far as they count.
    pub failing_streak: u32,
    /// The last results, oldest first.
    pub log: Vec<Probe>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// No probe has succeeded, and not enough have failed.
    Starting,
    Healthy,
    Unhealthy,
}

/// One result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    pub start: Timestamp,
    pub end: Timestamp,
    /// Of its program; -1 when that did not run, or took too long.
    pub exit_code: i32,
    /// The beginning of what it wrote, or why it did not run.
    pub output: String,
}

impl Check {
    /// What `check` asks for; nothing where it has no test, or NONE. `shell` is the image's SHELL.
    pub fn of(check: &HealthCheck, shell: Option<&[String]>) -> Option<Self> {
        let (kind, words) = check.test.split_first()?;
        let command = match kind.as_str() {
            "CMD" => words.to_vec(),
            "CMD-SHELL" => {
                let usual = || SHELL.map(str::to_owned).to_vec();
                let shell = shell.filter(|words| !words.is_empty());
                [shell.map_or_else(usual, <[String]>::to_vec), words.to_vec()].concat()
            }
            _ => return None,
        };
        let time = |ns: Option<u64>, usual| match ns {
            None | Some(0) => usual,
            Some(ns) => Duration::from_nanos(ns).max(SHORTEST),
        };
        Some(Self {
            test: check.test.clone(),
            command,
            interval: time(check.interval, INTERVAL),
            timeout: time(check.timeout, TIMEOUT),
            start_period: time(check.start_period, Duration::ZERO),
            start_interval: time(check.start_interval, START_INTERVAL),
            retries: match check.retries {
                None | Some(0) => RETRIES,
                Some(number) => u32::try_from(number).unwrap_or(u32::MAX),
            },
            reach: None,
            until_healthy: false,
        })
    }

    /// The program of its shell, where it has shell form.
    pub(crate) fn shell(&self) -> Option<&str> {
        let is_shell = self.test.first().is_some_and(|kind| kind == "CMD-SHELL");
        self.command.first().filter(|_| is_shell).map(String::as_str)
    }
}

impl Health {
    /// At a start of its program. What was said before stays in the log.
    pub(crate) fn at_start(before: Option<Self>) -> Self {
        let log = before.map(|before| before.log).unwrap_or_default();
        Self { status: HealthStatus::Starting, failing_streak: 0, log }
    }

    /// When its program has ended: nothing is well that does not run.
    pub(crate) fn at_end(self) -> Self {
        Self { status: HealthStatus::Unhealthy, ..self }
    }

    /// What a result means for a program that was started at `started`.
    pub(crate) fn after(mut self, probe: Probe, check: &Check, started: Timestamp) -> Self {
        let in_start_period = self.status == HealthStatus::Starting
            && probe.start.since(started) < check.start_period;
        match probe.exit_code {
            0 => (self.status, self.failing_streak) = (HealthStatus::Healthy, 0),
            _ if in_start_period => {}
            _ => {
                self.failing_streak = self.failing_streak.saturating_add(1);
                if self.failing_streak >= check.retries {
                    self.status = HealthStatus::Unhealthy;
                }
            }
        }
        self.log.push(probe);
        self.log.drain(..self.log.len().saturating_sub(RESULTS_MAX));
        self
    }

    /// How long to wait for the next probe: from the end of the last one, or from the start.
    pub(crate) fn pause(&self, check: &Check, started: Timestamp, now: Timestamp) -> Duration {
        let is_starting =
            self.status == HealthStatus::Starting && now.since(started) < check.start_period;
        let interval = if is_starting { check.start_interval } else { check.interval };
        let probed = self.log.last().map(|probe| probe.end).filter(|end| *end > started);
        // What costs a connection is asked at once: many a program is ready by then.
        if let (None, Some(Reach::Http { .. } | Reach::Tcp { .. })) = (probed, &check.reach) {
            return Duration::ZERO;
        }
        let last = probed.unwrap_or(started);
        // A clock that was set back makes no longer pause.
        interval - now.since(last).min(interval)
    }
}

impl HealthStatus {
    /// Docker's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }

    fn check(start_period: u64, retries: u64) -> Check {
        let check = HealthCheck {
            test: words("CMD /check"),
            interval: Some(10 * SECOND_NS),
            start_period: Some(start_period * SECOND_NS),
            start_interval: Some(2 * SECOND_NS),
            retries: Some(retries),
            ..HealthCheck::default()
        };
        Check::of(&check, None).unwrap()
    }

    fn second(number: u64) -> Timestamp {
        Timestamp::from_millis(number * 1000)
    }

    fn probe(at: u64, exit_code: i32) -> Probe {
        Probe { start: second(at), end: second(at), exit_code, output: at.to_string() }
    }

    #[test]
    fn a_test_is_read_as_docker_reads_it() {
        for (test, shell, want) in [
            ("CMD /check a", "", Some("/check a")),
            ("CMD-SHELL curl", "", Some("/bin/sh -c curl")),
            ("CMD-SHELL curl", "/bin/bash -ec", Some("/bin/bash -ec curl")),
            ("CMD /check", "/bin/bash -c", Some("/check")),
            ("NONE", "", None),
            ("", "", None),
            ("cmd /check", "", None),
        ] {
            let image = HealthCheck { test: words(test), ..HealthCheck::default() };
            let shell = Some(words(shell)).filter(|words| !words.is_empty());
            let check = Check::of(&image, shell.as_deref());
            assert_eq!(check.map(|check| check.command.join(" ")).as_deref(), want, "{test}");
        }
    }

    #[test]
    fn what_is_left_out_is_as_with_docker() {
        let image = HealthCheck { test: words("CMD /check"), ..HealthCheck::default() };
        let of_zero = HealthCheck {
            interval: Some(0),
            timeout: Some(0),
            start_period: Some(0),
            start_interval: Some(0),
            retries: Some(0),
            ..image.clone()
        };
        for image in [image.clone(), of_zero] {
            let check = Check::of(&image, None).unwrap();
            let seconds = [check.interval, check.timeout, check.start_period, check.start_interval];
            assert_eq!(seconds.map(|time| time.as_secs()), [30, 30, 0, 5]);
            assert_eq!(check.retries, 3);
        }
        let hasty = HealthCheck { interval: Some(1), retries: Some(u64::MAX), ..image };
        let check = Check::of(&hasty, None).unwrap();
        assert_eq!((check.interval, check.retries), (SHORTEST, u32::MAX));
    }

    #[test]
    fn results_lead_where_docker_leads() {
        // Start period, retries, exit codes at each of the seconds 1, 2, 3 …, and after each of
        // them the state with the failures in a row.
        for (start_period, retries, codes, want) in [
            (0, 3, &[0][..], "healthy 0"),
            (0, 3, &[1, 1, 1], "starting 1, starting 2, unhealthy 3"),
            (
                0,
                3,
                &[1, 1, 0, 1, 1, -1],
                "starting 1, starting 2, healthy 0, healthy 1, healthy 2, unhealthy 3",
            ),
            (0, 1, &[2, 1, 0, 137], "unhealthy 1, unhealthy 2, healthy 0, unhealthy 1"),
            // Failures before the third second do not count; a success ends the start period.
            (3, 1, &[1, 1, 1], "starting 0, starting 0, unhealthy 1"),
            (9, 2, &[1, 0, 1, 1], "starting 0, healthy 0, healthy 1, unhealthy 2"),
            // Once unhealthy it is not starting any more.
            (0, 1, &[1, 1], "unhealthy 1, unhealthy 2"),
        ] {
            let check = check(start_period, retries);
            let mut health = Health::at_start(None);
            let mut said = Vec::new();
            for (at, code) in (1..).zip(codes) {
                health = health.after(probe(at, *code), &check, second(0));
                said.push(format!("{} {}", health.status.word(), health.failing_streak));
            }
            assert_eq!(said.join(", "), want, "{start_period} {retries} {codes:?}");
        }
    }

    #[test]
    fn the_last_five_results_are_kept_over_a_restart_which_begins_anew() {
        let check = check(0, 1);
        let mut health = Health::at_start(None);
        for at in 0..7 {
            health = health.after(probe(at, 1), &check, second(0));
        }
        let kept: Vec<&str> = health.log.iter().map(|probe| probe.output.as_str()).collect();
        assert_eq!(kept, ["2", "3", "4", "5", "6"]);
        let ended = health.clone().at_end();
        assert_eq!((ended.status, ended.failing_streak), (HealthStatus::Unhealthy, 7));
        let again = Health::at_start(Some(ended));
        assert_eq!((again.status, again.failing_streak), (HealthStatus::Starting, 0));
        assert_eq!(again.log, health.log);
    }

    #[test]
    fn the_next_probe_waits_for_the_interval_that_counts_then() {
        let healthy = Health { status: HealthStatus::Healthy, ..Health::at_start(None) };
        let starting = Health::at_start(None);
        let with = |health: &Health, at| Health { log: vec![probe(at, 0)], ..health.clone() };
        // Start period, health, now, seconds to wait; started at second 100.
        for (start_period, health, now, want) in [
            (0, starting.clone(), 100, 10),
            (60, starting.clone(), 100, 2),
            (60, with(&starting, 110), 110, 2),
            (60, with(&starting, 170), 170, 10),
            (60, with(&healthy, 110), 110, 10),
            // A supervisor that comes later goes on where the one before has stopped.
            (0, with(&healthy, 110), 117, 3),
            (0, with(&healthy, 110), 500, 0),
            // Results of an earlier start, and a clock that was set back.
            (0, with(&starting, 50), 100, 10),
            (0, with(&healthy, 900), 110, 10),
        ] {
            let pause = health.pause(&check(start_period, 3), second(100), second(now));
            assert_eq!(pause.as_secs(), want, "{start_period} {health:?} {now}");
        }
    }
}
