use spec::HealthCheck;

use super::{duration::parse_duration_ns, instruction::Flag};
use crate::{diagnostic::DiagnosticKind, fault::Fault};

/// Docker takes no check that is asked for more often than each millisecond.
const SHORTEST_NS: u64 = 1_000_000;

/// `[--flag=value …]` of a HEALTHCHECK. As with Docker, 0 is the same as nothing.
pub(super) fn read(flags: &[Flag]) -> Result<HealthCheck, Fault> {
    let mut check = HealthCheck::default();
    for flag in flags {
        let value = flag.value.text.as_str();
        let duration = || match parse_duration_ns(value) {
            _ if value.is_empty() => Ok(None),
            Some(0) => Ok(None),
            Some(ns) if ns >= SHORTEST_NS => Ok(Some(ns)),
            _ => Err(DiagnosticKind::Duration(value.to_owned()).at(flag.value.place)),
        };
        match flag.name.as_str() {
            "interval" => check.interval = duration()?,
            "timeout" => check.timeout = duration()?,
            "start-period" => check.start_period = duration()?,
            "start-interval" => check.start_interval = duration()?,
            _ if value.is_empty() => {}
            _ => {
                let number = value.strip_prefix('+').unwrap_or(value).parse::<i32>().ok();
                let number = number.and_then(|number| u64::try_from(number).ok());
                let wrong = || DiagnosticKind::Number(value.to_owned()).at(flag.value.place);
                check.retries = Some(number.ok_or_else(wrong)?).filter(|number| *number > 0);
            }
        }
    }
    Ok(check)
}
