//! What a process gives up for ever once it holds everything that it will need: capabilities, files
//! and networks, system calls.
//!
//! Workers, preparers, unpacking processes and task shims each give up their own, with
//! [`keep_capabilities`], [`restrict_files`] and [`SystemCalls`]; a server of the platform gives up
//! everything that it does not serve with, at [`Service::confine`]. Absent on purpose: which system
//! calls a guest's process may make, which is said beside that process.

mod capabilities; // of root, those that a process keeps
mod files; // Landlock: what can be opened, and which network remains
mod system_calls; // seccomp: rules, and the filters made of them
mod descriptors; // none but those that were handed over

mod service_calls; // the system calls of a server
mod view; // a home in which a server sees its own folders alone
mod ownership; // folders that become a server's own
mod service; // all of it, in order

pub use capabilities::{can_become, has_id, hide, keep_capabilities};
pub use descriptors::close_other_descriptors;
pub use files::{Network, OpenFolder, has_landlock, leave_files, restrict_files};
pub use service::{Confined, Service};
pub use system_calls::{
    Rules, SystemCalls, all, compiled, is, masked, one_of, read_auxiliary_vector,
};
