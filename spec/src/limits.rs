use std::{ops::RangeInclusive, time::Duration};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{text::ParseError, time::parse_bytes};

/// Of a capability line: longer than any honest one.
pub(crate) const CAPABILITY_LINE_BYTES_MAX: usize = 1024;
/// Of a folder in a capability line, which must leave place for its keys.
pub(crate) const GUEST_PATH_BYTES_MAX: usize = 256;
/// Of an expression over the attributes of nodes: each is looked at for every node.
pub(crate) const NODE_EXPRESSION_BYTES_MAX: usize = 1024;
/// Of its parts: it is parsed and looked at by recursion.
pub(crate) const NODE_EXPRESSION_DEPTH_MAX: usize = 32;
/// Of a variable's name in a capability line.
pub(crate) const VARIABLE_NAME_BYTES_MAX: usize = 128;

/// On a node of the tenant's own a request may think for as long as a user waits.
pub(crate) const NODE_REQUEST_CPU_TIME_MAX: Duration = Duration::from_secs(10);
/// A command in the pool: what AWS Lambda gives one invocation.
pub(crate) const POOL_COMMAND_CPU_TIME_MAX: Duration = Duration::from_secs(15 * 60);
/// One container in the pool: what AWS Lambda gives one function.
pub(crate) const POOL_MEMORY_BYTES_MAX: u64 = 10 << 30;
/// A node of the pool lends each task as much as it has reserved, so that a node whose tasks have
/// all taken their most is short of no more than it has.
pub(crate) const POOL_MEMORY_HARD_PER_SOFT: u64 = 2;
/// In the pool a request meets nothing of an earlier one, whatever its image wishes.
pub(crate) const POOL_REQUESTS_PER_INSTANCE_MAX: u32 = 1;
/// A volume in the pool that names no size: what Fly gives one.
pub(crate) const POOL_VOLUME_BYTES_DEFAULT: u64 = 1 << 30;
/// A request in the pool: what AWS Lambda gives one invocation.
pub(crate) const POOL_REQUEST_TIME_MAX: Duration = Duration::from_secs(15 * 60);
/// What Fly's and Amazon's balancers give a response between two pieces.
const IDLE_TIME_MAX: Duration = Duration::from_secs(60);
/// The largest volume in the pool: the storage that AWS Lambda gives one function.
pub(crate) const POOL_VOLUME_BYTES_MAX: u64 = 10 << 30;

/// What one container of a task may use at most. Every field is a ceiling that something real
/// enforces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Linear memories and tables of all live instances of the container together, in bytes.
    pub memory_bytes_max: u64,
    /// CPU time of one request, or of a whole command; `None` for commands and jobs that may take
    /// as long as they like.
    pub cpu_time_max: Option<Duration>,
    /// Wall time of one request to the head of its response, or of a whole command.
    pub wall_time_max: Option<Duration>,
    /// Between two pieces of a response that its guest is still writing.
    #[serde(default = "idle_time_max")]
    pub idle_time_max: Duration,
    /// Handles (files, streams, requests, …) that one instance may hold.
    pub handles_max: u32,
    /// Requests that run at the same time; more wait in the listener's queue.
    pub concurrency_max: u32,
    /// Requests that one instance answers, one after another, before it is thrown away. 1: each
    /// request gets a fresh instance.
    #[serde(default = "requests_per_instance_max")]
    pub requests_per_instance_max: u32,
    /// Bytes in the task's writable layer.
    pub writable_bytes_max: u64,
    /// Bytes of one request's body.
    pub request_body_bytes_max: u64,
    /// Bytes of log that are kept.
    pub log_bytes_max: u64,
}

fn requests_per_instance_max() -> u32 {
    1
}

fn idle_time_max() -> Duration {
    IDLE_TIME_MAX
}

impl Limits {
    /// For one HTTP request: 50 ms of CPU and 128 MiB, as the shared pools of others give (Fastly,
    /// Cloudflare).
    pub fn for_requests() -> Self {
        Self {
            memory_bytes_max: 128 << 20,
            cpu_time_max: Some(Duration::from_millis(50)),
            wall_time_max: Some(Duration::from_secs(30)),
            idle_time_max: IDLE_TIME_MAX,
            // A JavaScript guest keeps one for each chunk of a body that it has read: some 2,000
            // for 16 MiB, and as many again where it writes what it reads.
            handles_max: 8192,
            concurrency_max: 100,
            requests_per_instance_max: requests_per_instance_max(),
            writable_bytes_max: 64 << 20,
            request_body_bytes_max: 16 << 20,
            log_bytes_max: 16 << 20,
        }
    }

    /// For a command: as long as it likes, within the same memory.
    pub fn for_commands() -> Self {
        Self { cpu_time_max: None, wall_time_max: None, ..Self::for_requests() }
    }
}

/// Limits that an operator sets beside memory and time. What is left out keeps its default; in the
/// pool nothing exceeds its default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitOverrides {
    /// Handles (files, streams, requests, …) that one instance may hold: 16 to 1,000,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 16, maximum = 1_000_000)]
    pub handles_max: Option<u64>,
    /// Requests that run at the same time: 1 to 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1000)]
    pub concurrency_max: Option<u64>,
    /// Bytes of one request's body: up to 1 GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1_073_741_824)]
    pub request_body_bytes_max: Option<u64>,
    /// Bytes in the writable layer: up to 64 GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 68_719_476_736_i64)]
    pub writable_bytes_max: Option<u64>,
    /// Bytes of log that are kept: 64 KiB to 1 GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 65536, maximum = 1_073_741_824)]
    pub log_bytes_max: Option<u64>,
    /// Seconds from a request to the head of its response: 1 to 86,400, in the pool up to 900.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_seconds_max: Option<u64>,
    /// Seconds between two pieces of a response, as in a stream of events: 1 to 86,400, in the pool
    /// up to 900.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_seconds_max: Option<u64>,
}

/// A day.
const SECONDS_MAX: u64 = 24 * 3600;

/// Each more than any program was seen to need, and less than what harms the machine.
const OVERRIDABLE: [(&str, RangeInclusive<u64>); 7] = [
    ("handles", 16..=1_000_000),
    ("concurrency", 1..=1000),
    ("request-body", 0..=1 << 30),
    ("writable", 0..=64 << 30),
    ("log", 64 << 10..=1 << 30),
    ("request-seconds", 1..=SECONDS_MAX),
    ("idle-seconds", 1..=SECONDS_MAX),
];

impl LimitOverrides {
    fn fields(&self) -> [Option<u64>; OVERRIDABLE.len()] {
        [
            self.handles_max,
            self.concurrency_max,
            self.request_body_bytes_max,
            self.writable_bytes_max,
            self.log_bytes_max,
            self.request_seconds_max,
            self.idle_seconds_max,
        ]
    }

    /// Takes one `NAME=VALUE`.
    ///
    /// # Errors
    /// The names, or the range of this one.
    pub fn set(&mut self, line: &str) -> Result<(), ParseError> {
        let names = || OVERRIDABLE.map(|(name, _)| name).join(", ");
        let (name, value) = line.split_once('=').ok_or_else(|| {
            ParseError::about(line, format_args!("is not NAME=VALUE, with one of {}", names()))
        })?;
        let field = match name {
            "handles" => &mut self.handles_max,
            "concurrency" => &mut self.concurrency_max,
            "request-body" => &mut self.request_body_bytes_max,
            "writable" => &mut self.writable_bytes_max,
            "log" => &mut self.log_bytes_max,
            "request-seconds" => &mut self.request_seconds_max,
            "idle-seconds" => &mut self.idle_seconds_max,
            _ => {
                let known = format!("is not a limit: use one of {}", names());
                return Err(ParseError::about(name, known));
            }
        };
        *field = Some(parse_bytes(value)?);
        self.check()
    }

    /// # Errors
    /// The first value that is out of its range.
    pub fn check(&self) -> Result<(), ParseError> {
        for (value, (name, range)) in self.fields().into_iter().zip(&OVERRIDABLE) {
            if value.is_some_and(|value| !range.contains(&value)) {
                let (least, most) = range.clone().into_inner();
                let wrong = format!("must be {least} to {most}");
                return Err(ParseError::about(name, wrong));
            }
        }
        Ok(())
    }

    /// Puts them in place of the defaults in `limits`.
    pub(crate) fn apply(&self, serves: bool, limits: &mut Limits) {
        let choose = |value: Option<u64>, default: u64| value.unwrap_or(default);
        let count =
            |value, default: u32| u32::try_from(choose(value, default.into())).unwrap_or(u32::MAX);
        limits.handles_max = count(self.handles_max, limits.handles_max);
        limits.concurrency_max = count(self.concurrency_max, limits.concurrency_max);
        limits.request_body_bytes_max =
            choose(self.request_body_bytes_max, limits.request_body_bytes_max);
        limits.writable_bytes_max = choose(self.writable_bytes_max, limits.writable_bytes_max);
        limits.log_bytes_max = choose(self.log_bytes_max, limits.log_bytes_max);
        let seconds = |value: Option<u64>| value.map(Duration::from_secs);
        limits.idle_time_max = seconds(self.idle_seconds_max).unwrap_or(limits.idle_time_max);
        if serves {
            limits.wall_time_max = seconds(self.request_seconds_max).or(limits.wall_time_max);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_set_by_name_within_its_range() {
        for (line, want) in [
            ("handles=20000", Ok(20_000)),
            ("handles=64", Ok(64)),
            ("handles=3", Err("`handles` must be 16 to 1000000")),
            (
                "handels=3",
                Err("`handels` is not a limit: use one of handles, concurrency, \
                               request-body, writable, log, request-seconds, idle-seconds"),
            ),
            (
                "handles",
                Err("`handles` is not NAME=VALUE, with one of handles, concurrency, \
                             request-body, writable, log, request-seconds, idle-seconds"),
            ),
            ("log=1k", Err("`log` must be 65536 to 1073741824")),
        ] {
            let mut overrides = LimitOverrides::default();
            let got = overrides.set(line).map(|()| {
                let mut limits = Limits::for_requests();
                overrides.apply(true, &mut limits);
                limits.handles_max
            });
            match (got, want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want, "{line}"),
                (Err(error), Err(want)) => assert_eq!(error.to_string(), want, "{line}"),
                (got, want) => panic!("{line}: {got:?}, not {want:?}"),
            }
        }
    }
}
