//! Ports of services that speak no HTTP: what comes there goes to a replica as it comes.

mod reserved; // ports that are bound before the ingress gives up its rights
mod header; // the client of a connection, as the PROXY protocol says it
mod reach; // the way to a replica
mod sessions; // clients of datagrams, as many as there may be
mod datagrams; // the datagrams of a client, to a replica and back
mod streams; // connections, from a client to a replica

pub use reserved::ReservedPorts;

pub(super) use streams::Streams;
