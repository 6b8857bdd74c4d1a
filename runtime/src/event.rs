use serde::{Deserialize, Serialize};

/// What a worker tells its supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Event {
    /// Its walls are up and it serves, or its command runs.
    Started,
    /// Something asked for a capability that was not granted; `line` would grant it. Sent for the
    /// first denial of a line and then at every power of two, so that a loop cannot flood the
    /// socket and no denial is silent.
    Denied {
        /// The capability line that would grant it.
        line: String,
        /// How many times so far.
        count: u64,
    },
    /// It is over. The last event.
    Exited(Exit),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Exit {
    /// Its program ended by itself, with this code.
    Code(u8),
    /// It was asked to stop, and did.
    Stopped,
    /// Its program trapped: `E_TRAP` and what happened.
    Trap(String),
    /// A limit ended it.
    Limit {
        /// `E_CPU`, `E_MEMORY` or `E_WALL`.
        code: String,
        /// One sentence with the limit's number.
        message: String,
    },
    /// It could not start, and why.
    NotStarted(String),
    /// The worker's process is gone without a word: killed, or broken.
    Lost,
}

impl Exit {
    /// The exit code in Docker's convention: the guest's own, 134 for a trap, 137 for a limit or a
    /// kill, 143 for a stop, 125 for a failure of ours.
    pub fn code(&self) -> i32 {
        match self {
            Self::Code(code) => i32::from(*code),
            Self::Stopped => 143,
            Self::Trap(_) => 134,
            Self::Limit { .. } | Self::Lost => 137,
            Self::NotStarted(_) => 125,
        }
    }

    /// A sentence for people, when there is more to say than the code.
    pub fn message(&self) -> Option<String> {
        match self {
            Self::Code(_) | Self::Stopped => None,
            Self::Trap(why) => Some(format!("E_TRAP: {why}")),
            Self::Limit { code, message } => Some(format!("{code}: {message}")),
            Self::NotStarted(why) => Some(why.clone()),
            Self::Lost => {
                Some("E_WORKER_LOST: the worker's process was killed or broke".to_owned())
            }
        }
    }
}
