//! The whole control plane in this process: a real store, real sockets, real TLS, and nodes that
//! are only pretended.

mod access; // every route, as everybody
mod faults; // restarts, replays, races
mod life; // an app from its definition to its end
mod secrets; // who gets a secret, and where it never is
pub(crate) mod world; // the control plane and pretended nodes
