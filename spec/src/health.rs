use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How a replica of a service is asked whether it is ready. At most one of `http`, `tcp`, `command`
/// and `none`. Without any of them it is the image's HEALTHCHECK, then the first port of the
/// container: `GET /` where its protocol is HTTP, and a program that listens on it where it is TCP.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthProbe {
    /// The path of a `GET` that is answered with a status from 200 to 399.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// The container port of `http`; its first HTTP port when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 65535)]
    pub port: Option<u16>,
    /// A container port on which the program listens. For native images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 65535)]
    pub tcp: Option<u16>,
    /// A program in the container that exits with 0, and its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Not asked: it is ready when it runs.
    #[serde(default, skip_serializing_if = "is_false")]
    pub none: bool,
    /// Milliseconds from one probe to the next: 5000 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 100, maximum = 3_600_000)]
    pub interval_ms: Option<u64>,
    /// Milliseconds for one probe: 2000 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 10, maximum = 300_000)]
    pub timeout_ms: Option<u64>,
    /// Milliseconds after the start in which failures do not count: 30000 for a native image and
    /// 3000 for WebAssembly when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 3_600_000)]
    pub start_period_ms: Option<u64>,
    /// Failures in a row until it is unhealthy and replaced: 3 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100)]
    pub retries: Option<u32>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// A probe makes a request or a process: ten in a second are enough for the quickest service.
const INTERVAL_MS: RangeInclusive<u64> = 100..=3_600_000;
const TIMEOUT_MS: RangeInclusive<u64> = 10..=300_000;
/// An hour: what starts more slowly is a job.
const START_PERIOD_MS: RangeInclusive<u64> = 0..=3_600_000;
const RETRIES: RangeInclusive<u32> = 1..=100;
/// Of a path, and of the words of a command: both travel to each node with each desired set.
const PATH_CHARS_MAX: usize = 1024;
const WORDS_MAX: usize = 64;

impl HealthProbe {
    /// Checks it against the ports of its container, each with whether it speaks HTTP.
    pub(crate) fn check(&self, ports: &[(u16, bool)]) -> Result<(), HealthProblem> {
        let kinds = [self.http.is_some(), self.tcp.is_some(), self.command.is_some(), self.none];
        if kinds.into_iter().filter(|is_given| *is_given).count() > 1 {
            return Err(HealthProblem::Kinds);
        }
        if self.port.is_some() && self.http.is_none() {
            return Err(HealthProblem::PortAlone);
        }
        if let Some(path) = &self.http {
            let is_plain = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
            if !path.starts_with('/') || !is_plain || path.len() > PATH_CHARS_MAX {
                return Err(HealthProblem::Path);
            }
            let mut http = ports.iter().filter(|(_, is_http)| *is_http);
            if !http.any(|(known, _)| self.port.is_none_or(|port| port == *known)) {
                return Err(HealthProblem::NoPort { port: self.port, kind: "http" });
            }
        }
        if let Some(port) = self.tcp
            && !ports.iter().any(|(known, _)| *known == port)
        {
            return Err(HealthProblem::NoPort { port: Some(port), kind: "tcp" });
        }
        if let Some(words) = &self.command
            && (words.len() > WORDS_MAX || words.first().is_none_or(String::is_empty))
        {
            return Err(HealthProblem::Command);
        }
        for (name, given, range) in [
            ("interval_ms", self.interval_ms, INTERVAL_MS),
            ("timeout_ms", self.timeout_ms, TIMEOUT_MS),
            ("start_period_ms", self.start_period_ms, START_PERIOD_MS),
            ("retries", self.retries.map(u64::from), range_of(&RETRIES)),
        ] {
            if given.is_some_and(|number| !range.contains(&number)) {
                return Err(HealthProblem::Range(name, *range.start(), *range.end()));
            }
        }
        Ok(())
    }
}

fn range_of(range: &RangeInclusive<u32>) -> RangeInclusive<u64> {
    u64::from(*range.start())..=u64::from(*range.end())
}

/// What is wrong with a probe, as a predicate of its container.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HealthProblem {
    #[error("has a `health` with more than one of `http`, `tcp`, `command` and `none`")]
    Kinds,
    #[error("has a `health` with a `port` and no path: add `http = \"/\"`, or say `tcp = PORT`")]
    PortAlone,
    #[error(
        "has a `health.http` that is no path: it begins with `/` and has 1024 characters at most"
    )]
    Path,
    #[error("has a `health.{kind}`{} that is none of its ports", on(*.port))]
    NoPort { port: Option<u16>, kind: &'static str },
    #[error("has a `health.command` that is not a program with at most {} words", WORDS_MAX)]
    Command,
    #[error("has a `health.{0}` outside {1} to {2}")]
    Range(&'static str, u64, u64),
}

fn on(port: Option<u16>) -> String {
    port.map_or_else(String::new, |port| format!(" on port {port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_of_one_kind_and_of_a_port_of_its_container() {
        let ports = [(80, true), (5432, false)];
        for (text, want) in [
            ("{}", ""),
            (r#"{ "start_period_ms": 0 }"#, ""),
            (r#"{ "http": "/ready?full=1" }"#, ""),
            (r#"{ "http": "/", "port": 80, "retries": 1 }"#, ""),
            (r#"{ "tcp": 5432, "interval_ms": 100 }"#, ""),
            (r#"{ "tcp": 80 }"#, ""),
            (r#"{ "command": ["/check", "-v"] }"#, ""),
            (r#"{ "none": true }"#, ""),
            (r#"{ "http": "/", "tcp": 80 }"#, "more than one of"),
            (r#"{ "none": true, "command": ["a"] }"#, "more than one of"),
            (r#"{ "port": 80 }"#, "add `http = \"/\"`"),
            (r#"{ "http": "ready" }"#, "begins with `/`"),
            (r#"{ "http": "/a b" }"#, "begins with `/`"),
            (r#"{ "http": "/\r\nX: y" }"#, "begins with `/`"),
            (r#"{ "http": "/", "port": 5432 }"#, "`health.http` on port 5432 that is none"),
            (r#"{ "tcp": 81 }"#, "`health.tcp` on port 81 that is none of its ports"),
            (r#"{ "command": [] }"#, "not a program"),
            (r#"{ "command": [""] }"#, "not a program"),
            (r#"{ "interval_ms": 99 }"#, "`health.interval_ms` outside 100 to 3600000"),
            (r#"{ "timeout_ms": 0 }"#, "`health.timeout_ms` outside 10 to 300000"),
            (r#"{ "retries": 0 }"#, "`health.retries` outside 1 to 100"),
        ] {
            let probe: HealthProbe = serde_json::from_str(text).unwrap();
            match probe.check(&ports) {
                Ok(()) => assert_eq!(want, "", "{text}"),
                Err(error) => {
                    let error = error.to_string();
                    assert!(!want.is_empty() && error.contains(want), "{text}: {error}");
                }
            }
        }
        let error = HealthProbe { http: Some("/".into()), ..HealthProbe::default() }.check(&[]);
        assert_eq!(error.unwrap_err().to_string(), "has a `health.http` that is none of its ports");
    }
}
