//! Native Linux images: layers become a root file system, an OCI runtime (crun, runc or youki) runs
//! it walled in, and one small process for each container, the *task shim*, owns what must outlive
//! the agent.
//!
//! Enter at [`Runtime::probe`] for what is installed, at [`Layers`] to unpack an image, at
//! [`Task::spawn`] to run it, and at [`Task::adopt`] to find it again. [`main`] is the shim's own
//! process; the binary dispatches to it before any thread exists. An ordinary user's shims are root
//! of user namespaces. Absent on purpose: networks other than published ports and granted
//! connections, and talking to containerd. What a grant asks for and Linux cannot enforce is
//! refused by name, never ignored.
#![deny(unsafe_code)]
#![cfg_attr(test, allow(clippy::too_many_lines, reason = "tables of cases"))]

mod settings; // what a run may choose beyond its image
mod assignment; // what one container is handed, and so all that it can reach
mod host; // what this machine offers: OCI runtimes, cgroups, and what it lacks
mod unpack; // layers become folders, in a process that can reach nothing else
mod bundle; // the image's config becomes a root file system and a config.json
mod files; // files as archives, and back
mod visit; // the files of a container that does not run
mod owner; // the task shim: one container, its streams, its ports, its supervisors
mod container; // this crate as an engine of containers
mod client; // the supervisor's side: spawn, adopt, ask, stop, and clean up

mod record; // the files of a container, and what it leaves on its machine
mod ids; // which users of the machine a container has
mod namespace; // the user namespace of a process, and how it gets its users
mod protocol; // the messages between supervisor, shim and unpacking process
mod spawn; // a process of `exe shim`
mod process; // the task shim's main
mod privileges; // root's capabilities, dropped
mod limits; // every number that bounds something here, with its reason
mod error;

pub use assignment::{Assignment, NativeProgram};
pub use bundle::signal::parse_signal;
pub use client::connect::Connector;
pub use client::sweep::{Swept, sweep};
pub use client::task::{Adopted, Task};
pub use container::NativeEngine;
pub use error::Error;
pub use files::{Extraction, Modes, Source, extract, pack};
pub use host::doctor::{Check, Level, doctor};
pub use host::layering::{Layering, probe_layering};
pub use host::probe::{Runtime, RuntimeKind, Vulnerability};
pub use host::rights::check_rights;
pub use process::main;
pub use protocol::Status;
pub use settings::{
    HostLine, RootAccess, Settings, Tmpfs, Ulimit, droppable_capability, grantable_capability,
    hostname,
};
pub use unpack::chore::{remove_tree, try_namespace};
pub use unpack::layers::{Layer, Layers, UnpackedLayer, remove_unused_layer, unpacked_layers};
pub use unpack::sandbox::LayerBlob;
pub use visit::Visit;
