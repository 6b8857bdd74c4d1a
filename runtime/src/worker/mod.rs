//! A worker from the inside: one process, one container, many instances.
//!
//! The order is everything. Blank, it makes engine, linker, pool and filters, with one thread and
//! without having seen a guest's byte. Assigned, it takes its descriptors, loads the machine code
//! by `/proc/self/fd/N`, shuts the filesystem but for its volumes, then most system calls, and only
//! then starts threads and lets the guest in.

mod life; // from its start to its end
mod loaded; // an assignment become memory: code, index, layers, volumes

mod container; // what all instances share
mod guest; // what one instance has, and every import that there is
mod capability; // where each kind of grant is checked, enforced and denied
mod files; // layers, the writable layer and volumes, as wasi:filesystem
mod environment; // arguments, variables and the working folder
mod stdin; // what a guest reads
mod output; // what a guest writes, and the log
mod services; // its variables and its log again, as wasi:config and wasi:logging

mod http; // requests, each in an instance of its own while it takes
mod instances; // fresh ones, and those that may answer once more
mod bodies; // bodies, counted, and the response to a fault
mod command; // one instance, once
mod exec; // programs beside the container's own

mod backtrace; // where a guest was when it broke
mod meter; // memory, CPU time, and where they end
mod ticker; // the engine's sense of time
mod control; // the socket to the supervisor
mod denials; // what was denied, and how often

pub(crate) use guest::linker;
pub use life::main;
#[doc(hidden)]
pub use life::{Intruder, main_with_intruder};
