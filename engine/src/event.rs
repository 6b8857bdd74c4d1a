use serde::{Deserialize, Serialize};
use spec::Usage;

use crate::Exit;

/// What happens to a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// It serves, or its program runs.
    Started,
    /// It asked for a capability that was not granted; `line` would grant it. Sent for the first
    /// denial of a line and then at every power of two, so that a loop cannot flood the socket and
    /// no denial is silent.
    Denied { line: String, count: u64 },
    /// It is over. The last event.
    Exited(Ended),
}

/// The end of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    pub exit: Exit,
    /// What it used since it was started, where its counters end with it. Those of a worker stay
    /// in its folder, and go on at the next start.
    pub usage: Option<Usage>,
}

impl Ended {
    /// An end whose counters are kept elsewhere.
    pub fn of(exit: Exit) -> Self {
        Self { exit, usage: None }
    }
}
