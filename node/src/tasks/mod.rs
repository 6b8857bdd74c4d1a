//! A folder for each task. It is all that `ps`, `logs`, `inspect`, `stats`, `stop` and `rm` need:
//! no server is asked.
//!
//! A folder is written by the one process that holds its `lock` (the task's supervisor: the
//! foreground `margay run`, a keeper, or the node agent) and readable by all. What state a task
//! is in is derived, never stored: the lock, the worker's process and the last `status.json`
//! together cannot lie about a process that was killed.

mod restart_policy; // what happens when a program has ended
mod health; // whether a program is well
mod record; // what was asked for, and what was seen
mod folder; // make, find, lock, read, remove
mod stopped; // whether a user has ended it
mod names; // names that are unique, and names for tasks that were given none
mod boot; // which start of the machine something belongs to
mod process; // which process is meant, across reuse of its number
mod told; // what happens to a task, in the log of events
mod logs; // what a task wrote, from its first line or as it writes

pub use folder::{Owned, PinnedTask, TaskFolder, clear_damaged, find, list};
pub use health::{Check, Health, HealthStatus, Probe, Reach};
pub use logs::{LogLine, LogOptions, LogStream, follow, follow_while};
pub use names::check as check_name;
pub use process::ProcessId;
pub use record::{ClusterOrigin, Kind, MountRecord, Origin, Phase, State, Status, TaskRecord};
pub use restart_policy::RestartPolicy;

pub(crate) use boot::is_over;
#[cfg(test)]
pub(crate) use folder::tests as folder_tests;
pub(crate) use folder::{create, create_with};
pub(crate) use process::{kill, terminate};
pub(crate) use record::now;
pub(crate) use told::tell;
