//! What a worker and its supervisor say to each other, over the socket of [`engine::frame`].

use engine::{Event, ListenersMessage};
use serde::{Deserialize, Serialize};
use spec::Scheme;

/// From a supervisor to its worker. Its assignment comes first, as a document.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToWorker {
    /// Take no more work, finish what runs, and end within this time.
    Stop { grace_ms: u64 },
    /// Answers [`ToSupervisor::Connect`]: the connected socket rides beside.
    Connected { id: u64 },
    /// Answers [`ToSupervisor::Connect`].
    Refused { id: u64, refusal: Refusal },
}

/// From a worker to its supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToSupervisor {
    Event(Event),
    /// A request for a connection; see [`Broker`](crate::Broker).
    Connect {
        id: u64,
        target: Target,
    },
    /// Sent to each new supervisor: what was happening, and the listeners, whose sockets ride
    /// beside.
    Adopted {
        started: bool,
        listeners: ListenersMessage,
    },
}

/// What a guest would like to connect to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Target {
    pub scheme: SchemeName,
    pub host: String,
    pub port: u16,
}

/// [`Scheme`] as it crosses the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum SchemeName {
    Http,
    Https,
}

impl From<SchemeName> for Scheme {
    fn from(name: SchemeName) -> Self {
        match name {
            SchemeName::Http => Self::Http,
            SchemeName::Https => Self::Https,
        }
    }
}

/// Why no connection was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Refusal {
    /// No grant allows it; this line would.
    Denied { line: String },
    /// The name does not resolve.
    NoSuchName,
    /// It resolves only to addresses that are off limits; this line, and the node's own key, would
    /// allow it. With `granted` the line is there, and the node's key is what is missing.
    Forbidden {
        line: String,
        why: String,
        #[serde(default)]
        granted: bool,
    },
    /// The server does not answer, or refuses.
    Unreachable { why: String },
    /// Too many connections at once.
    Busy,
    /// No agent was there to ask.
    NoBroker,
}
