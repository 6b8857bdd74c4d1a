use engine::Exit;
use rustix::process::WaitIdStatus;
use spec::Limits;

/// How the container's first process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    Code(u8),
    Signal(u8),
}

impl Death {
    /// Of a process that cannot be waited for, which a subreaper rules out.
    pub(crate) const UNKNOWN: Self = Self::Signal(9);

    pub(crate) fn of(status: &WaitIdStatus) -> Self {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Self::Code(code as u8),
            (None, signal) => signal.map_or(Self::UNKNOWN, |signal| Self::Signal(signal as u8)),
        }
    }
}

/// What is known about the time before it.
#[derive(Debug, Default)]
pub(crate) struct Circumstances {
    /// A supervisor asked it to stop.
    pub stopped: bool,
    /// The shim killed it for this limit.
    pub exceeded: Option<Exit>,
    /// The kernel killed one of its processes for want of memory.
    pub out_of_memory: bool,
    /// What it wrote could not be delivered: its reader's disk is full.
    pub lost_output: bool,
}

/// Why a container ended. A limit explains a kill better than a signal does.
pub(crate) fn explain(death: Death, circumstances: Circumstances, limits: &Limits) -> Exit {
    let Circumstances { stopped, exceeded, out_of_memory, lost_output } = circumstances;
    match (death, exceeded) {
        (_, Some(limit)) => limit,
        // A shell reports the death of its child by signal 9 as 137.
        (Death::Signal(9) | Death::Code(137), None) if out_of_memory => {
            Exit::out_of_memory(limits.memory_bytes_max)
        }
        (Death::Code(code), None) if stopped => Exit::Stopped(code),
        (Death::Signal(signal), None) if stopped => Exit::Stopped(128u8.saturating_add(signal)),
        // A success that left no result is none.
        (Death::Code(0), None) if lost_output => Exit::Code(1),
        (Death::Code(code), None) => Exit::Code(code),
        (Death::Signal(signal), None) => Exit::Signal(signal),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_success_whose_output_was_lost_is_a_failure() {
        for (death, stopped, code) in [
            (Death::Code(0), false, 1),
            (Death::Code(3), false, 3),
            (Death::Signal(11), false, 139),
            (Death::Code(0), true, 0),
        ] {
            let circumstances =
                Circumstances { stopped, lost_output: true, ..Circumstances::default() };
            let exit = explain(death, circumstances, &Limits::for_commands());
            assert_eq!(exit.code(), code, "{death:?}");
        }
    }

    #[test]
    fn the_best_explanation_of_an_end_wins() {
        let limits = Limits::for_commands();
        let wall = || Some(Exit::out_of_time(Duration::from_secs(1)));
        for (death, stopped, exceeded, out_of_memory, code, reason) in [
            (Death::Code(0), false, None, false, 0, None),
            (Death::Code(3), false, None, false, 3, None),
            (Death::Code(3), false, None, true, 3, None),
            (Death::Signal(11), false, None, false, 139, Some("signal")),
            (Death::Signal(9), false, None, true, 137, Some("oom")),
            (Death::Code(137), false, None, true, 137, Some("oom")),
            (Death::Signal(9), true, None, true, 137, Some("oom")),
            (Death::Signal(9), false, wall(), false, 137, Some("wall-time")),
            (Death::Signal(15), true, None, false, 143, Some("stopped")),
            (Death::Code(0), true, None, false, 0, Some("stopped")),
        ] {
            let circumstances =
                Circumstances { stopped, exceeded, out_of_memory, ..Circumstances::default() };
            let shown = format!("{death:?} {circumstances:?}");
            let exit = explain(death, circumstances, &limits);
            assert_eq!((exit.code(), exit.reason()), (code, reason), "{shown}");
        }
    }
}
