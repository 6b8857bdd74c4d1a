//! The whole control plane in this process: a real store, real sockets, real TLS, and nodes that
//! only pretend.

mod access; // every route, as every principal
mod generated; // calls that are made up from the document of the API
mod audit; // what is recorded of every request
mod certificates; // of host names, and which nodes get them
mod credentials; // made, rotated, removed, taken over
mod faults; // restarts, replays, races
mod listeners; // ports of services
mod node_groups; // machines that come and go
mod life; // a service from its definition to its end
mod memory; // what hostile connections cost
mod overrides; // what one run changes
mod quotas; // what a tenant may have
mod versions; // agents that are too new
mod streams; // what ends one
mod secrets; // which nodes get a secret, and where it never is
pub(crate) mod fixture; // the control plane and its fake nodes
