use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// `--restart`: what happens when a task's program has ended by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    #[default]
    No,
    /// After an exit code other than 0, so many times at most.
    OnFailure {
        restarts_max: Option<u32>,
    },
    Always,
    /// As [`Always`](Self::Always), but for a reboot after a user has stopped it.
    UnlessStopped,
}

impl RestartPolicy {
    /// Whether a program that ended with `code` after so many restarts is started again.
    pub(crate) fn restarts(self, code: u8, restarts: u32) -> bool {
        match self {
            Self::No => false,
            Self::OnFailure { restarts_max } => {
                code != 0 && restarts_max.is_none_or(|most| restarts < most)
            }
            Self::Always | Self::UnlessStopped => true,
        }
    }

    /// Whether a task that was started in an earlier boot of the machine, and ended with `code` if
    /// that is known, is started again after a reboot: as Docker decides when its daemon starts.
    pub(crate) fn returns(self, code: Option<i32>, restarts: u32, stopped_by_user: bool) -> bool {
        match self {
            Self::No => false,
            Self::OnFailure { restarts_max } => {
                code != Some(0) && restarts_max.is_none_or(|most| restarts < most)
            }
            Self::Always => true,
            Self::UnlessStopped => !stopped_by_user,
        }
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::OnFailure { restarts_max: None } => f.write_str("on-failure"),
            Self::OnFailure { restarts_max: Some(most) } => write!(f, "on-failure:{most}"),
            Self::Always => f.write_str("always"),
            Self::UnlessStopped => f.write_str("unless-stopped"),
        }
    }
}

impl FromStr for RestartPolicy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::BadArgument {
            text: text.chars().take(100).collect(),
            what: "a restart policy: no, on-failure, on-failure:TIMES, always or unless-stopped",
        };
        match text.split_once(':') {
            None => match text {
                "no" => Ok(Self::No),
                "on-failure" => Ok(Self::OnFailure { restarts_max: None }),
                "always" => Ok(Self::Always),
                "unless-stopped" => Ok(Self::UnlessStopped),
                _ => Err(wrong()),
            },
            Some(("on-failure", most)) if most.bytes().all(|b| b.is_ascii_digit()) => {
                // 0 is no limit, as with Docker.
                let most: u32 = most.parse().map_err(|_| wrong())?;
                Ok(Self::OnFailure { restarts_max: Some(most).filter(|most| *most > 0) })
            }
            Some(_) => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_policy_reads_as_docker_reads_it() {
        for (text, want) in [
            ("no", Some("no")),
            ("on-failure", Some("on-failure")),
            ("on-failure:3", Some("on-failure:3")),
            ("on-failure:0", Some("on-failure")),
            ("always", Some("always")),
            ("unless-stopped", Some("unless-stopped")),
            ("", None),
            ("yes", None),
            ("always:3", None),
            ("on-failure:", None),
            ("on-failure:-1", None),
            ("on-failure:99999999999", None),
        ] {
            let read = text.parse::<RestartPolicy>().map(|policy| policy.to_string());
            assert_eq!(read.ok().as_deref(), want, "{text}");
        }
    }

    #[test]
    fn a_policy_decides_by_exit_code_and_count() {
        let thrice = RestartPolicy::OnFailure { restarts_max: Some(3) };
        for (policy, code, restarts, want) in [
            (RestartPolicy::No, 1, 0, false),
            (RestartPolicy::Always, 0, 99, true),
            (RestartPolicy::UnlessStopped, 1, 99, true),
            (RestartPolicy::OnFailure { restarts_max: None }, 0, 0, false),
            (RestartPolicy::OnFailure { restarts_max: None }, 1, 99, true),
            (thrice, 1, 2, true),
            (thrice, 1, 3, false),
        ] {
            assert_eq!(policy.restarts(code, restarts), want, "{policy} {code} {restarts}");
        }
    }

    #[test]
    fn a_reboot_brings_back_what_docker_would() {
        let thrice = RestartPolicy::OnFailure { restarts_max: Some(3) };
        let on_failure = RestartPolicy::OnFailure { restarts_max: None };
        for (policy, code, restarts, stopped, want) in [
            (RestartPolicy::No, None, 0, false, false),
            (RestartPolicy::Always, Some(0), 9, false, true),
            // Also one that was stopped: that holds until the machine starts again.
            (RestartPolicy::Always, Some(143), 0, true, true),
            (RestartPolicy::UnlessStopped, Some(143), 0, true, false),
            (RestartPolicy::UnlessStopped, Some(143), 0, false, true),
            (RestartPolicy::UnlessStopped, None, 0, false, true),
            (on_failure, Some(0), 0, false, false),
            (on_failure, Some(1), 99, false, true),
            (on_failure, None, 0, false, true),
            (thrice, Some(1), 2, false, true),
            (thrice, Some(1), 3, false, false),
        ] {
            let returns = policy.returns(code, restarts, stopped);
            assert_eq!(returns, want, "{policy} {code:?} {restarts} {stopped}");
        }
    }
}
