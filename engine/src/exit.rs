//! How a container ended or why it did not start: one table of exit codes and sentences for both
//! kinds.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    /// Its program ended by itself, with this code.
    Code(u8),
    /// A signal ended it that margay did not send.
    Signal(u8),
    /// It was asked to stop, and ended with this code: 128 and the signal when a signal ended it.
    Stopped(u8),
    /// Its program trapped, and why.
    Trap(String),
    /// A limit ended it; one sentence with the limit's number.
    Limit { code: LimitCode, message: String },
    /// It could not start, and why.
    NotStarted(String),
    /// Its worker or shim is gone without an exit: a code (`E_…`) and a sentence.
    Lost(String),
}

/// Which limit ended a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LimitCode {
    #[serde(rename = "E_CPU")]
    Cpu,
    #[serde(rename = "E_MEMORY")]
    Memory,
    #[serde(rename = "E_WALL")]
    Wall,
    #[serde(rename = "E_HANDLES")]
    Handles,
    #[serde(rename = "E_DISK")]
    Disk,
}

impl LimitCode {
    /// How an operator raises it, as the end of a sentence.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Cpu => "raise it with `--cpu-time`, or `cpu_time_max_ms` in the task definition",
            Self::Memory => "raise it with `-m`, or `memory_hard_bytes` in the task definition",
            Self::Wall => {
                "raise it with `--timeout` for a command and `--limit request-seconds=NUMBER` for \
                 requests, or `limits.request_seconds_max` in the task definition"
            }
            Self::Disk => {
                "raise it with `--limit writable=BYTES`, or `limits.writable_bytes_max` in the \
                 task definition; that of a volume is the `max=` of its grant"
            }
            Self::Handles => {
                "raise it with `--limit handles=NUMBER`, or `limits.handles_max` in the task \
                 definition"
            }
        }
    }
}

impl fmt::Display for LimitCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "E_CPU",
            Self::Memory => "E_MEMORY",
            Self::Wall => "E_WALL",
            Self::Handles => "E_HANDLES",
            Self::Disk => "E_DISK",
        })
    }
}

impl Exit {
    /// Of a program that a stop ended and that chose no code: 128 and SIGTERM.
    pub const TERMINATED: Self = Self::Stopped(143);

    pub fn out_of_cpu(max: Duration) -> Self {
        let message = format!("it used more than its {} ms of CPU time", max.as_millis());
        Self::Limit { code: LimitCode::Cpu, message }
    }

    pub fn out_of_memory(bytes_max: u64) -> Self {
        let max = spec::print_bytes(bytes_max);
        let message = format!("oom: it needed more than its {max} of memory");
        Self::Limit { code: LimitCode::Memory, message }
    }

    /// `what` there is too much of in `place`.
    pub fn out_of_disk(place: &str, what: &str) -> Self {
        let message = format!("its {place} has {what}");
        Self::Limit { code: LimitCode::Disk, message }
    }

    pub fn out_of_time(max: Duration) -> Self {
        let message = format!("it took longer than its {} ms", max.as_millis());
        Self::Limit { code: LimitCode::Wall, message }
    }

    pub fn out_of_handles(max: u32) -> Self {
        let message = format!("it held more than its {max} handles (files, streams, requests, …)");
        Self::Limit { code: LimitCode::Handles, message }
    }

    /// The exit code in Docker's convention: the program's own, 128 and the signal, 134 for a trap
    /// (SIGABRT), 137 for a limit or a kill, 125 for a failure of the node.
    pub fn code(&self) -> u8 {
        match self {
            Self::Code(code) | Self::Stopped(code) => *code,
            Self::Signal(signal) => 128u8.saturating_add(*signal),
            Self::Trap(_) => 134,
            Self::Limit { .. } | Self::Lost(_) => 137,
            Self::NotStarted(_) => StartFailure::Host.exit_code(),
        }
    }

    /// A word for the reason, when it was not the program's own decision.
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Code(_) => None,
            Self::Signal(_) => Some("signal"),
            Self::Stopped(_) => Some("stopped"),
            Self::Trap(_) => Some("trap"),
            Self::Limit { code, .. } => Some(match code {
                LimitCode::Memory => "oom",
                LimitCode::Cpu => "cpu-time",
                LimitCode::Wall => "wall-time",
                LimitCode::Handles => "handles",
                LimitCode::Disk => "disk",
            }),
            Self::NotStarted(_) => Some("not-started"),
            Self::Lost(_) => Some("lost"),
        }
    }

    /// A sentence, when there is more to say than the code.
    pub fn message(&self) -> Option<String> {
        match self {
            Self::Code(_) | Self::Stopped(_) => None,
            Self::Signal(signal) => Some(format!("ended by signal {signal}")),
            Self::Trap(why) => Some(format!("E_TRAP: {why}")),
            Self::Limit { code, message } => Some(format!("{code}: {message}; {}", code.remedy())),
            Self::NotStarted(why) | Self::Lost(why) => Some(why.clone()),
        }
    }

    /// The same end, of a container that was asked to stop by `signal` (as a terminal sends it): a
    /// program that chose no code of its own ended as if by that signal.
    pub fn asked_by(self, signal: u8) -> Self {
        match self {
            Self::TERMINATED => Self::Stopped(128u8.saturating_add(signal)),
            other => other,
        }
    }
}

/// Why a container could not be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartError {
    pub failure: StartFailure,
    /// One sentence, causes included.
    pub message: String,
    pub hint: Option<String>,
}

/// What kept a program from starting, as far as Docker tells it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartFailure {
    /// There is no such program in the image.
    NotFound,
    /// It is there and is no program: not executable, or of another format.
    NotExecutable,
    /// The node failed, or refused.
    Host,
}

/// What OCI runtimes say of a program that they cannot start. They agree on no code.
const RUNTIME_WORDS: [(&str, StartFailure); 6] = [
    ("not found", StartFailure::NotFound),
    ("no such file", StartFailure::NotFound),
    ("permission denied", StartFailure::NotExecutable),
    ("exec format", StartFailure::NotExecutable),
    // Of crun, which says with these words that it could not mount, too.
    ("open executable: Permission denied", StartFailure::NotExecutable),
    ("Exec format error", StartFailure::NotExecutable),
];

/// What the preparer of Wasm programs answers.
const PREPARER_CODES: [(&str, StartFailure); 3] = [
    ("E_PROGRAM", StartFailure::NotFound),
    ("E_NOT_WASM", StartFailure::NotExecutable),
    ("E_COMPILE", StartFailure::NotExecutable),
];

impl StartFailure {
    pub fn exit_code(self) -> u8 {
        match self {
            Self::NotFound => 127,
            Self::NotExecutable => 126,
            Self::Host => 125,
        }
    }

    /// What to try next.
    pub fn hint(self) -> Option<&'static str> {
        match self {
            Self::NotFound => Some(
                "name a program of the image, by its path where its `PATH` does not lead to it",
            ),
            Self::NotExecutable => Some(
                "it has to be a program for this machine that may be executed: COPY --chmod=755",
            ),
            Self::Host => None,
        }
    }

    /// Of an OCI runtime's complaint about a program.
    pub fn of_runtime(complaint: &str) -> Self {
        let found = RUNTIME_WORDS.iter().find(|(words, _)| complaint.contains(words));
        found.map_or(Self::Host, |(_, failure)| *failure)
    }

    /// Of the code (`E_…`) with which a Wasm program was refused.
    pub fn of_preparer(code: &str) -> Self {
        let found = PREPARER_CODES.iter().find(|(known, _)| *known == code);
        found.map_or(Self::Host, |(_, failure)| *failure)
    }
}

impl StartError {
    /// A failure of the node.
    pub fn host(message: impl Into<String>) -> Self {
        Self { failure: StartFailure::Host, message: message.into(), hint: None }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StartError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_share_one_table_of_exit_codes() {
        let second = Duration::from_secs(1);
        for (exit, code, reason, message) in [
            (Exit::Code(0), 0, None, None),
            (Exit::Code(3), 3, None, None),
            (Exit::Signal(11), 139, Some("signal"), Some("ended by signal 11")),
            (Exit::TERMINATED, 143, Some("stopped"), None),
            (Exit::Stopped(3), 3, Some("stopped"), None),
            (Exit::Trap("unreachable".to_owned()), 134, Some("trap"), Some("E_TRAP: unreachable")),
            (
                Exit::out_of_memory(32 << 20),
                137,
                Some("oom"),
                Some(
                    "E_MEMORY: oom: it needed more than its 32MiB of memory; raise it with `-m`, \
                     or `memory_hard_bytes` in the task definition",
                ),
            ),
            (
                Exit::out_of_cpu(second),
                137,
                Some("cpu-time"),
                Some(
                    "E_CPU: it used more than its 1000 ms of CPU time; raise it with \
                     `--cpu-time`, or `cpu_time_max_ms` in the task definition",
                ),
            ),
            (
                Exit::out_of_time(second),
                137,
                Some("wall-time"),
                Some(
                    "E_WALL: it took longer than its 1000 ms; raise it with `--timeout` for a command \
                     and `--limit request-seconds=NUMBER` for requests, or \
                     `limits.request_seconds_max` in the task definition",
                ),
            ),
            (
                Exit::out_of_handles(64),
                137,
                Some("handles"),
                Some(
                    "E_HANDLES: it held more than its 64 handles (files, streams, requests, …); \
                     raise it with `--limit handles=NUMBER`, or `limits.handles_max` in the task \
                     definition",
                ),
            ),
            (Exit::NotStarted("no".to_owned()), 125, Some("not-started"), Some("no")),
            (Exit::Lost("E_X: gone".to_owned()), 137, Some("lost"), Some("E_X: gone")),
        ] {
            assert_eq!((exit.code(), exit.reason()), (code, reason), "{exit:?}");
            assert_eq!(exit.message().as_deref(), message, "{exit:?}");
            let text = serde_json::to_string(&exit).unwrap();
            assert_eq!(serde_json::from_str::<Exit>(&text).unwrap(), exit, "{text}");
        }
    }

    #[test]
    fn a_program_without_a_code_of_its_own_ends_as_the_signal_says() {
        for (exit, signal, code) in [
            (Exit::TERMINATED, 15, 143),
            (Exit::TERMINATED, 2, 130),
            (Exit::Stopped(3), 2, 3),
            (Exit::Stopped(137), 2, 137),
            (Exit::Code(143), 2, 143),
        ] {
            assert_eq!(exit.clone().asked_by(signal).code(), code, "{exit:?} {signal}");
        }
    }

    #[test]
    fn a_program_that_cannot_start_has_the_same_code_in_both_kinds() {
        use StartFailure::{Host, NotExecutable, NotFound};
        for (complaint, code, want, exit_code) in [
            ("exec: \"x\": executable file not found in $PATH", "E_PROGRAM", NotFound, 127),
            ("stat /x: no such file or directory", "E_PROGRAM", NotFound, 127),
            ("exec /etc/passwd: permission denied", "E_NOT_WASM", NotExecutable, 126),
            ("exec /x: exec format error", "E_COMPILE", NotExecutable, 126),
            ("open executable: Permission denied", "E_NOT_WASM", NotExecutable, 126),
            ("mount `proc` to `proc`: Permission denied", "E_COMPILE_LIMIT", Host, 125),
            ("cannot make a cgroup", "E_COMPILE_LIMIT", Host, 125),
        ] {
            assert_eq!(StartFailure::of_runtime(complaint), want, "{complaint}");
            assert_eq!(StartFailure::of_preparer(code), want, "{code}");
            assert_eq!(want.exit_code(), exit_code);
        }
    }
}
