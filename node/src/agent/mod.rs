//! The agent of a cluster's node: whatever the control plane last said should run here, runs.
//!
//! It is told a whole desired set and never a command, so it can be killed at any time: the next
//! one reads the set from disk, finds the workers by the sockets in their folders, and goes on.
//! Without a control plane it goes on as well. Deciding is [`converge()`], a pure function;
//! everything else here carries that out.

mod converge; // desired set and what is there -> steps
mod settings; // what is said once, when a node joins
mod capacity; // what this machine has
mod control; // the control plane, from here
mod join; // how a machine becomes a node, and stays one
mod cache; // images on their way in
mod causes; // why starts have failed
mod spare_workers; // workers that wait for a task
mod host; // what all tasks of a node share
mod service_names; // services, for guests of this node
mod secrets; // what a task may have, asked for when it starts
mod readiness; // how a replica is asked whether it is ready
mod definition; // what a task definition says, as a launch
mod report; // what is known of a container: its status and its usage
mod adoption; // what an earlier agent has left behind
mod ingress_sockets; // where the ingress reaches a container
mod container; // one container of a task
mod order; // in which order the containers of a task start and end
mod task; // a task: its containers together
mod limits;
mod process; // opened, served until shutdown, ended
mod desired; // the desired set: polled, kept, converged to
mod problems; // what is wrong with this machine
mod heartbeat; // that it is there
mod reporting; // statuses and usage, to the control plane
mod streams; // what clients of the control plane want of a container
mod host_certificates; // those of hosts that its ingress serves
mod certificates; // those of the node and of its ingress, renewed in time
mod maintenance; // folders and caches swept

pub use cache::CACHE_BYTES_MAX;
pub use join::{JoinOptions, check_joined, join, relocate};
pub use process::{Agent, AgentConfig, AtEnd};
