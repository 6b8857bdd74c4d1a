//! Ports of services that speak no HTTP: what comes there goes to a replica as it comes.

mod reserved; // ports that are bound before the ingress gives up its rights
mod header; // the client of a connection, as the PROXY protocol says it
mod streams; // connections, from a client to a replica

pub use reserved::ReservedPorts;

pub(super) use streams::Streams;
