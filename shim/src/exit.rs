use serde::{Deserialize, Serialize};

/// How a native container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Exit {
    /// Its program ended by itself, with this code.
    Code(u8),
    /// A signal ended it that we did not send.
    Signal(u8),
    /// It was asked to stop, and ended with this code (128 and the signal when a signal ended it).
    Stopped(u8),
    /// A limit ended it.
    Limit {
        /// `E_MEMORY`, `E_CPU` or `E_WALL`.
        code: String,
        /// One sentence with the limit's number.
        message: String,
    },
    /// It could not start, and why.
    NotStarted(String),
    /// The task shim is gone without a word. What it left has been swept.
    Lost,
}

impl Exit {
    /// The exit code in Docker's convention: the program's own, 128 and the signal, 137 for a limit
    /// or a kill, 125 for a failure of ours.
    pub fn code(&self) -> i32 {
        match self {
            Self::Code(code) | Self::Stopped(code) => i32::from(*code),
            Self::Signal(signal) => 128 + i32::from(*signal),
            Self::Limit { .. } | Self::Lost => 137,
            Self::NotStarted(_) => 125,
        }
    }

    /// A word for the reason, when it was not the program's own decision.
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Code(_) => None,
            Self::Signal(_) => Some("signal"),
            Self::Stopped(_) => Some("stopped"),
            Self::Limit { code, .. } => Some(match code.as_str() {
                "E_MEMORY" => "oom",
                "E_CPU" => "cpu-time",
                _ => "wall-time",
            }),
            Self::NotStarted(_) => Some("not-started"),
            Self::Lost => Some("lost"),
        }
    }

    /// A sentence for people, when there is more to say than the code.
    pub fn message(&self) -> Option<String> {
        match self {
            Self::Code(_) | Self::Stopped(_) => None,
            Self::Signal(signal) => Some(format!("ended by signal {signal}")),
            Self::Limit { code, message } => Some(format!("{code}: {message}")),
            Self::NotStarted(why) => Some(why.clone()),
            Self::Lost => Some("E_SHIM_LOST: the container's shim was killed or broke".to_owned()),
        }
    }
}
