//! Tasks of a platform on whichever node: what they wrote and use, programs in them and connections
//! to their ports, through the control plane.

mod find; // a name -> the task or the service that is meant
mod logs; // what they wrote
mod requests; // what clients asked a service for
mod stats; // what they use
mod exec; // another program in one
mod forward; // a port of this machine that leads to one of theirs

pub use exec::exec;
pub use find::{Found, copies, found};
pub use forward::{Forwarded, forward};
pub use logs::{Format, Shown, show};
pub use requests::requests;
pub use stats::watch;

use spec::{StreamEnd, wire::Fault};

/// Why a stream ended before its time, if it did.
fn broken(end: &StreamEnd) -> Option<&Fault> {
    end.fault.as_ref().filter(|_| end.exit_code.is_none())
}

/// A stream that ended without a word: its control plane was killed.
fn no_word() -> Fault {
    Fault {
        code: "broken-off".to_owned(),
        message: "the stream from the control plane broke off".to_owned(),
        hint: Some("see whether it runs: margay node ls; and begin again".to_owned()),
    }
}
