use spec::HealthCheck;

use super::{Executor, StageState};
use crate::{
    diagnostic::{DiagnosticKind, WarningKind},
    dockerfile::{
        duration::parse_duration_ns,
        instruction::{Command, Flag},
    },
    fault::Fault,
};

impl Executor<'_, '_> {
    /// `HEALTHCHECK [--flag=value …] CMD command`, or `NONE` without `test`.
    pub(super) fn healthcheck(
        &mut self,
        state: &mut StageState,
        flags: &[Flag],
        test: Option<&Command>,
    ) -> Result<(), Fault> {
        let mut check = HealthCheck::default();
        for flag in flags {
            let value = flag.value.as_ref().map(|word| self.word(&state.variables, word));
            let value = value.transpose()?.unwrap_or_default();
            let duration = || {
                let wrong = || DiagnosticKind::Duration(value.clone()).at(flag.line);
                parse_duration_ns(&value).ok_or_else(wrong)
            };
            match flag.name.as_str() {
                "interval" => check.interval = Some(duration()?),
                "timeout" => check.timeout = Some(duration()?),
                "start-period" => check.start_period = Some(duration()?),
                "start-interval" => {
                    duration()?;
                    self.warnings.add(flag.line, WarningKind::StartIntervalIgnored);
                }
                "retries" => {
                    let wrong = |_| DiagnosticKind::Number(value.clone()).at(flag.line);
                    check.retries = Some(value.parse().map_err(wrong)?);
                }
                other => {
                    return Err(DiagnosticKind::HealthcheckFlag(other.to_owned()).at(flag.line));
                }
            }
        }
        check.test = match test {
            None => vec!["NONE".to_owned()],
            Some(Command::Shell(line)) => vec!["CMD-SHELL".to_owned(), line.clone()],
            Some(Command::Exec(args)) => [&["CMD".to_owned()], args.as_slice()].concat(),
        };
        state.stage.config.healthcheck = Some(check);
        Ok(())
    }
}
