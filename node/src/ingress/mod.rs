//! The ingress: requests come in by host name, and go to a healthy replica here or on another node.
//!
//! A process of its own without privileges: it keeps serving with the last route table when the
//! agent and the control plane are gone, and an attacker that takes it over finds sockets of tasks
//! that are open to the world anyway. It shares six things with the agent, all files in one
//! folder: `routes.json`, `ingress.json` (a certificate that proves nothing to the control plane),
//! `certificates.json` (of the hosts that it serves, with their keys), `sockets/`, and
//! `counts.json` and `waiting.json`, the only ones that it writes.
//!
//! What comes in is read, judged and written anew; no byte is passed on as it came, until a replica
//! has agreed to speak something else than HTTP. Absent on purpose: any knowledge of what a task
//! is.

mod limits; // how much and how long, with the reasons

mod folder; // what the agent and the ingress share on disk
mod answering; // whether a replica answers
mod counts; // what a replica was asked
mod split; // requests shared by weights
mod told; // a file in which the agent is told something
mod rate; // how many requests a client may make
mod path; // a path as routes see it
mod inside; // requests of guests of this node
mod connection; // the bytes of a connection to a replica
mod pool; // connections that wait for their next request
mod table; // services, their replicas, and the rules of other hosts
mod routes; // which service has a request, and which of its replicas next
mod host_certificates; // which certificate clients of a host are shown
mod sticky; // a client that stays with a replica
mod trace; // the id of a request, and its trace
mod hop; // what two ingresses say to each other about a replica
mod head; // what of a request's and a response's head travels on
mod request_body; // a body within its limits of size and time
mod peer_limits; // how many connections each other node may have
mod peer_tls; // certificates towards other nodes, as they are now
mod outgoing; // a request for a replica that speaks HTTP/2
mod shared; // connections to replicas that many requests share
mod exchange; // a request and its response on a connection of HTTP/1.1
mod upstream; // connections to replicas, and responses as they come
mod access_entry; // what a line of the access log says
mod access_log; // lines of it, written beside the requests
mod ejection; // replicas that do not answer are left out
mod response_body; // a response on its way back, and what it frees at its end
mod counted; // what replicas were asked, on its way to the control plane
mod wake; // requests that wait for the first replica of a service
mod upgrade; // connections that become something else than HTTP
mod grpc; // refusals that clients of gRPC understand
mod logged_body; // a response that is counted
mod challenge; // proofs for authorities that issue certificates
mod tunnelled; // bytes of a replica on another node
mod forward; // one request, from its arrival to its response
mod error; // responses of the ingress itself, for programs and for browsers
mod layer4; // ports of services that speak no HTTP
mod server; // listeners, connections, drain
mod process; // the process around it: fewer rights, then one runtime

pub use access_log::{AccessLogFiles, AccessLogFormat};
pub use folder::{CERTIFICATE_FILE, socket_name};
pub use layer4::ReservedPorts;
pub use limits::Limits;
pub use process::{IngressConfig, keep_certificate, run};
pub use server::{Front, Listeners, serve};

pub(crate) use counted::read as counted_requests;
pub(crate) use folder::{HostCertificate, HostCertificates, IngressFolder, Shared};
pub(crate) use inside::{inside_preface, named_inside};
pub(crate) use wake::read as waiting_requests;

#[cfg(test)]
mod inside_tests;
#[cfg(test)]
mod peer_tests;
#[cfg(test)]
mod tests;
