//! A worker from the outside: made, given its assignment, watched, stopped, and found again by a
//! later agent.

mod spawn; // a spare worker: a process behind its first walls that has seen no guest byte
mod handle; // an assigned worker: events, connections for it, stop
mod engine; // both as an engine of containers
mod adopt; // the socket in the task's folder by which a later agent finds it

pub use adopt::{Adopted, adopt};
pub use engine::{UsagePage, WasmEngine};
pub use handle::Worker;
pub(crate) use spawn::{CONTROL_FD, EMPTY_FD, INSTANCES_MAX, Rlimits, send_assignment, start};
pub use spawn::{SpareWorker, SpawnOptions, try_own_user, try_walls};
