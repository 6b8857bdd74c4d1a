//! Durable state of the control plane and the registry: a revisioned key-value store with
//! transactions and watches, in the model of etcd.
//!
//! Enter at [`Store`], which states the promises; [`SqliteStore`] keeps them in one file and
//! [`MemoryStore`] in none. Both run the same state machine and the same conformance suite. Absent
//! on purpose: leases (until then the epoch of a leader is a key incremented at each start), reads
//! at past revisions, and values larger than 256 KiB (blobs are files).
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::too_many_lines, reason = "tables of cases"))]

mod limits; // every limit, with the reason for its number
mod contract; // what any engine must promise
mod range; // sets of keys, and queries over them
mod txn; // compares, then, otherwise: and what is refused before it runs
mod value; // a key and its value, and the version byte in front of it

mod packed; // a key and its value, in little memory
mod state; // keys, revisions and what a transaction does to them, as a pure state machine
mod watch; // changes on their way to subscribers, in bounded buffers
mod shared; // state, history and watches together, as readers see them

mod memory; // an engine without a file
mod sqlite; // a durable engine: one writer thread, group commit

mod seal; // secrets, closed before they come into a store

mod error;

#[cfg(test)]
mod conformance; // the rules, each as a test that every engine runs
#[cfg(test)]
mod crash; // what is left after kill -9

pub use contract::{Status, Store};
pub use error::Error;
pub use memory::MemoryStore;
pub use range::{Query, Range, Ranged};
pub use seal::{Seal, Sealed};
pub use sqlite::SqliteStore;
pub use txn::{Committed, Compare, Op, Outcome, Txn};
pub use value::{Kv, decode, encode};
pub use watch::{Batch, Delivery, Event, Watch};

/// A point in the history of a store: counts up by one with each transaction that changes anything.
pub type Rev = i64;
