//! The flags of `run` that choose how a program is asked whether it is well, in Docker's words.

use spec::HealthCheck;

/// Docker takes no check that is asked for more often.
const SHORTEST_NS: u64 = 1_000_000;

#[derive(Debug, clap::Args)]
pub struct HealthFlags {
    /// Ask with this line of the image's shell, or a program as ["PROGRAM", "ARG"], whether it is
    /// well
    #[arg(long, value_name = "COMMAND", value_parser = test)]
    health_cmd: Option<Test>,
    /// Wait so long between two of these checks [default: 30s]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = duration)]
    health_interval: Option<u64>,
    /// Give a check so long [default: 30s]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = duration)]
    health_timeout: Option<u64>,
    /// Call it unhealthy after so many failures in a row [default: 3]
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true, value_parser = retries)]
    health_retries: Option<u64>,
    /// Count no failures for so long after its start
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = duration)]
    health_start_period: Option<u64>,
    /// Wait so long between two checks in that time [default: 5s]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = duration)]
    health_start_interval: Option<u64>,
    /// Run no check, also where the image has one
    #[arg(long, conflicts_with_all = ["health_cmd", "health_interval", "health_timeout",
        "health_retries", "health_start_period", "health_start_interval"])]
    no_healthcheck: bool,
}

/// As HEALTHCHECK of an image has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Test(Vec<String>);

impl HealthFlags {
    /// What was chosen. As with Docker, 0 and an empty command are the image's.
    pub fn check(&self) -> Option<HealthCheck> {
        let set = |value: Option<u64>| value.filter(|value| *value > 0);
        let check = HealthCheck {
            test: match (self.no_healthcheck, &self.health_cmd) {
                (true, _) => vec!["NONE".to_owned()],
                (false, Some(Test(words))) => words.clone(),
                (false, None) => Vec::new(),
            },
            interval: set(self.health_interval),
            timeout: set(self.health_timeout),
            start_period: set(self.health_start_period),
            start_interval: set(self.health_start_interval),
            retries: set(self.health_retries),
        };
        (check != HealthCheck::default()).then_some(check)
    }
}

/// A line for a shell, or a list of words in JSON, as in an image's exec form.
fn test(text: &str) -> Result<Test, &'static str> {
    let with = |kind: &str, words: Vec<String>| Test([vec![kind.to_owned()], words].concat());
    match text.trim_start().starts_with('[') {
        false if text.is_empty() => Ok(Test(Vec::new())),
        false => Ok(with("CMD-SHELL", vec![text.to_owned()])),
        true => match serde_json::from_str::<Vec<String>>(text) {
            Ok(words) if words.first().is_some_and(|program| !program.is_empty()) => {
                Ok(with("CMD", words))
            }
            // `[ -f /ready ]` is a line for a shell.
            _ if !text.contains('"') => Ok(with("CMD-SHELL", vec![text.to_owned()])),
            _ => Err("a program is written as [\"/PROGRAM\", \"ARG\"]"),
        },
    }
}

fn duration(text: &str) -> Result<u64, &'static str> {
    match packager::parse_duration_ns(text) {
        Some(ns) if ns == 0 || ns >= SHORTEST_NS => Ok(ns),
        Some(_) => Err("use 1ms or more"),
        None if text.starts_with('-') => Err("it cannot be negative"),
        None => Err("use a duration like 500ms, 30s, 1m30s or 1.5m"),
    }
}

fn retries(text: &str) -> Result<u64, &'static str> {
    match text.parse::<i64>() {
        Ok(number) => u64::try_from(number).map_err(|_| "it cannot be negative"),
        Err(_) => Err("use a number like 3"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_a_line_for_a_shell_or_a_list_of_words() {
        for (text, want) in [
            ("curl -f localhost", Some("CMD-SHELL|curl -f localhost")),
            (r#"["/check", "a b"]"#, Some("CMD|/check|a b")),
            ("[ -f /ready ]", Some("CMD-SHELL|[ -f /ready ]")),
            ("", Some("")),
            (r#"["/check""#, None),
            (r#"[""]"#, None),
            (r#"["a", 1]"#, None),
        ] {
            assert_eq!(test(text).ok().map(|test| test.0.join("|")).as_deref(), want, "{text}");
        }
    }

    #[test]
    fn durations_are_gos_and_numbers_are_not_negative() {
        let second = 1_000_000_000;
        for (text, want) in [
            ("1.5s", Ok(second * 3 / 2)),
            ("1m30s", Ok(90 * second)),
            ("0", Ok(0)),
            ("0s", Ok(0)),
            ("1us", Err("1ms or more")),
            ("-1s", Err("negative")),
            ("30", Err("30s")),
        ] {
            match (duration(text), want) {
                (Err(error), Err(want)) => assert!(error.contains(want), "{text}: {error}"),
                (got, want) => assert_eq!(got, want, "{text}"),
            }
        }
        assert_eq!(retries("3"), Ok(3));
        assert!(retries("-1").is_err() && retries("x").is_err());
    }
}
