//! A host: what runs here, what reaches it, and what it used.
//!
//! Enter at [`run_local`] for one task without any server, at [`Agent`] for a node of a cluster, at
//! [`ingress`] for the process that requests come in by, and at [`tasks`] to see what is
//! there: folders, readable without a server. Absent on purpose: guest code and guest bytes (the
//! workers' and the preparer's), decisions about placement (the control plane's), and printing.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::too_many_lines, reason = "tables of cases"))]

mod home; // where everything lies on disk
pub mod tasks; // a locked folder for each task: made, found, read, followed, removed

pub mod events; // what happened, one line for each event
pub mod volumes; // named volumes: made, found, measured, removed

mod settings; // what a run may choose beyond its image
mod request; // what `margay run` asks for, and what it hears
mod kept_request; // the same, kept for the next start of a task
mod images; // from blobs to something that can run
mod arguments; // the program that a container runs
mod launch; // one container: what it is granted, what it is handed
mod engines; // the engine for each kind of container
mod ports; // published ports become listening sockets
mod lifecycle; // which container restarts, and when: one pure function
mod health; // whether a container is well, asked again and again
mod drive; // carries that out
mod control; // the socket by which a local task is told what to do
mod orders; // that, and signals, as commands for its container
mod local_run; // what a local task needs at each start and end
mod anonymous_volumes; // volumes that end with their task
mod local; // one task without a server
mod keeper; // the same in the background
mod verbs; // start, stop, signal, wait for, remove and measure a task
mod attach; // a terminal at a task in the background
pub mod processes; // the processes of a task, read from `/proc`
mod exec; // another program in a container that runs
mod copy; // files in and out of a container

mod tuning; // what the owner of a node has said about it
mod invoke; // one request to an image, and what it cost

mod agent; // a node of a cluster: whatever should run here, runs
pub mod usage_log; // what was used, kept until the ledger has it exactly once
pub mod ingress; // host name -> a healthy replica, here or on another node
mod identity; // the certificates and keys of this node and its ingress, on disk

mod files; // small files of JSON
mod signals; // the signals that ask us to end
mod window; // rows and columns of our terminal
mod error;

pub use agent::{
    Agent, AgentConfig, AtEnd, CACHE_BYTES_MAX, JoinOptions, check_joined, join, relocate,
};
pub use attach::{AttachEnd, AttachOptions, Attachment, attach, run_attached, start_attached};
pub use control::DetachKeys;
pub use copy::{CopyEnd, CopyOptions, CopyWatch, copy_in, copy_out};
pub use engine::{Stop, exec::Copied};
pub use error::{Error, Result};
pub use exec::{ExecRequest, Heard, exec};
pub use home::Home;
pub use images::{prune_prepared, prune_unpacked};
pub use invoke::{InvokeOutcome, InvokeRequest, invoke};
pub use keeper::{detach, keep};
pub use kept_request::kept_settings;
pub use local::{GRACE, create_task, has_terminal, run_local, start_local};
pub use request::{
    LocalImage, MountSource, Mounted, Note, Publish, PublishRange, RunOutcome, RunRequest, Started,
};
pub use settings::{Attach, Settings};
pub use signals::parse_signal;
pub use tuning::{PrivateNetwork, Tuning};
pub use verbs::{
    AnonymousVolumes, Removal, ended_by_reboot, grace_of, remove_task, restart_task, signal_task,
    start_task, stop_task, task_usage, wait_task, writable_bytes,
};
pub use window::terminal_size;
