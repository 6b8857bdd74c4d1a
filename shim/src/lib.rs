//! Native Linux images: layers become a root file system, an OCI runtime (crun, runc or youki) runs
//! it walled in, and one small process for each container, the *task shim*, owns what must outlive
//! the agent.
//!
//! Enter at [`Runtime::probe`] for what is installed, at [`Layers`] to unpack an image, at
//! [`Task::spawn`] to run it, and at [`Task::adopt`] to find it again. [`main`] is the shim's own
//! process; the binary dispatches to it before any thread exists. Absent on purpose: running
//! without root, networks other than published ports, `exec` into a container, and talking to
//! containerd. What a grant asks for and Linux cannot enforce is refused by name, never ignored.
#![deny(unsafe_code)]

mod assignment; // what one container is handed, and so all that it can reach
mod exit; // how it ended

mod probe; // which OCI runtime is installed, and what is known to be wrong with it
mod doctor; // what this machine can and cannot do about native images

mod layers; // the cache of unpacked layers
mod room; // what a folder takes of the disk
mod unpack; // one layer into one folder, without ever following a link
mod walls; // the process that unpacks: root of nothing but its folder
mod filter; // the system calls that it may make
mod shed; // root's powers, given up

mod inside; // paths of the container, resolved without leaving it
mod signal; // which one STOPSIGNAL names
mod account; // who USER is, by the container's own files
mod seccomp; // the system calls that a container may make
mod bundle; // everything decided so far as one config.json
mod stage; // a private mount namespace with the root file system in it

mod frame; // one JSON value and some descriptors over a Unix socket
mod task; // the supervisor's side: spawn, adopt, ask, stop
mod sweep; // what a shim that was killed left behind

mod process; // the task shim: main
mod runner; // the OCI runtime as a child, with a deadline
mod owner; // the loop of a task shim: one container, its streams, its ports, its supervisors
mod poller; // epoll with names
mod streams; // stdin, stdout and stderr on their way through the shim
mod log; // lines in the CRI format, in a file that cannot grow without end
mod relay; // connections from published ports into the container's network
mod cgroup; // what the kernel counted for a container

mod error;

pub use assignment::{Assignment, Doors, Ingress, Listener, Orphan, Stdio, VolumeMount};
pub use doctor::{Check, Level, doctor};
pub use error::Error;
pub use exit::Exit;
pub use layers::{Layer, LayerBlob, Layers, sweep_layers};
pub use probe::{Runtime, RuntimeKind, Shortcoming};
pub use process::main;
pub use sweep::{Swept, sweep};
pub use task::{Adopted, Status, Task};
