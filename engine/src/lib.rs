//! What the two engines, Wasm and native, have in common: one vocabulary and one trait.
//!
//! Enter at [`Engine`], which starts a container and finds it again, and at [`Container`], which
//! watches and stops one. An [`Assignment`] is all that a container is handed, and so all that it
//! can reach; an [`Exit`] is how it ended. Absent on purpose: anything that only one kind knows,
//! which is the `program` of an assignment.
#![deny(unsafe_code)]
#![cfg_attr(test, allow(clippy::too_many_lines, reason = "tables of cases"))]

mod assignment; // what a container is handed
mod listener; // the ports by which it is reached, listening already
mod exit; // how it ended, and the exit codes and sentences of both kinds
mod datagram; // datagrams in a stream of bytes
mod event; // what happens to it until then
mod container; // the two traits
mod log; // what its program writes, in a file of bounded size
pub mod child; // waiting for a process that was started, and no longer
pub mod subordinate_ids; // ids of an ordinary user, and how a namespace gets them
pub mod cgroup; // what the kernel counts and limits for a container
mod turns; // how soon a process that waits gets a processor
pub mod mount; // detached mounts, and the ids of files in them
pub mod frame; // messages with descriptors over a Unix socket
pub mod exec; // what a client asks of a container that runs
mod limits;

pub use assignment::{
    ASSIGNMENT_VERSION, Assignment, AssignmentMessage, Stdio, VolumeMount, VolumeSource,
};
pub use container::{Adopted, BoxFuture, Container, Engine, Stop, UsageSource};
pub use datagram::{DATAGRAM_BYTES_MAX, FrameSplitter, framed};
pub use event::{Ended, Event};
pub use exit::{Exit, LimitCode, StartError, StartFailure};
pub use frame::Slots;
pub use limits::{COPY_BYTES_MAX, COPY_DEPTH_MAX, COPY_ENTRIES_MAX, FDS_MAX};
pub use listener::{Listener, Listeners, ListenersMessage};
pub use log::LogFile;
pub use turns::prefer_short_turns;
