//! The control socket of a local task, in its folder: what `kill`, `restart` and `attach` ask of
//! its supervisor. Only the owner of the home can open the folder.
mod protocol; // frames and their limits
mod own_streams; // this process's streams, which a task in the foreground shares
mod hub; // the streams of a task that terminals attach to
mod server; // the supervisor's side
mod detach_keys; // the keys that leave a terminal
mod client; // the side of the verbs

pub use detach_keys::DetachKeys;

pub(crate) use client::{ask, attach};
pub(crate) use detach_keys::KeyFilter;
pub(crate) use hub::Hub;
pub(crate) use own_streams::OwnStreams;
pub(crate) use protocol::{Answer, Ended, Frame, HEAD_BYTES, Order, Request, VERSION, json};
pub(crate) use server::Server;
