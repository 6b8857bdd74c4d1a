use super::{Executor, StageState};
use crate::{diagnostic::DiagnosticKind, dockerfile::instruction::Word, fault::Fault};

/// The names of Linux's signals, without `SIG`.
const NAMES: [&str; 37] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
    "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
    "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
    "UNUSED",
];
/// Real-time signals have an offset to one of two ends.
const REAL_TIME_MAX: u32 = 64;

impl Executor<'_, '_> {
    /// `STOPSIGNAL signal`
    pub(super) fn stopsignal(&self, state: &mut StageState, signal: &Word) -> Result<(), Fault> {
        let text = self.word(&state.variables, signal)?;
        if !is_signal(&text) {
            return Err(DiagnosticKind::Signal(text).into());
        }
        state.stage.config.stop_signal = Some(text);
        Ok(())
    }
}

fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<u32>() {
        return (1..=REAL_TIME_MAX).contains(&number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |text: &str, most: u32| text.parse().is_ok_and(|at: u32| (1..=most).contains(&at));
    NAMES.contains(&name)
        || name.strip_prefix("RTMIN+").is_some_and(|at| offset(at, 15))
        || name.strip_prefix("RTMAX-").is_some_and(|at| offset(at, 14))
}
