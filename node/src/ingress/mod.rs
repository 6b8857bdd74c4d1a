//! The door: requests come in by host name, and go to a healthy replica here or on another node.
//!
//! A process of its own without privileges: it keeps serving with the last route table when the
//! agent and the control plane are gone, and whoever breaks into it finds sockets of tasks that are
//! open to the world anyway. It shares three things with the agent, all files in one folder:
//! `routes.json`, `identity.json` and `sockets/`.
//!
//! What comes in is read, judged and written anew; no byte is passed on as it came. Absent on
//! purpose: HTTP/2 and TLS towards the outside (put a terminator in front), WebSockets, and any
//! knowledge of what a task is.

mod folder; // what the agent and the ingress share on disk
mod routes; // host name -> backends, and which of them next
mod head; // what of a request's and a response's head travels on
mod body; // bodies within their limits of size and time
mod patient; // a connection that ends when the other side takes too long
mod upstream; // connections to backends, kept while they live
mod forward; // one request, from its arrival to its answer
mod answer; // what we say ourselves, in plain text
mod seats; // who may hold how many connections
mod serve; // listeners, permits, shutdown
mod process; // the process around it: fewer rights, then one runtime

pub use folder::socket_name;
pub use process::{IngressConfig, run};
pub use serve::{Door, Limits, serve};

pub(crate) use folder::{IngressFolder, Shared};

#[cfg(test)]
mod tests;
