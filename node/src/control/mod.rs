//! The control socket of a local task, in its folder: what `kill`, `restart` and `attach` ask of
//! its supervisor. Only the owner of the home can open the folder.
mod protocol; // frames and their limits
mod server; // the supervisor's side
mod client; // the side of the verbs

pub(crate) use client::ask;
pub(crate) use protocol::{Answer, Order};
pub(crate) use server::Server;
