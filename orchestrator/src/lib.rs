//! Desired + observed -> plan -> act: what should run where, and the API through which people and
//! nodes say so.
//!
//! Enter at [`serve`] to be the control plane, at [`Client`] to speak to one. What it keeps is in
//! `store` and nowhere else, so it can be killed at any time: what runs keeps running, and what was
//! acknowledged is there after the restart. Absent on purpose: it starts no process, reads no image
//! (an [`ImageResolver`] does), and sends no command to a node. Absent for now: more than one
//! control plane at a time, preemption, moving standalone tasks off a lost node.
#![forbid(unsafe_code)]

mod state; // what is kept and what is known of nodes
mod plan; // what to do next, as pure functions, and the reconciler that writes it
mod api; // routes, who may use them, and the way from a request to its answer; the client
mod config; // what the control plane is told when it starts
mod limits; // every limit, with the reason for its number

mod error;

#[cfg(test)]
mod journeys; // the whole control plane in one process

use api::{call, connections, create, handle, principal, resolver, resolving, routes};
use plan::{reconcile, sets};
use state::{app, ca, files, keys, live, model, records, seal, secret};

pub use api::client::Client;
pub use api::resolver::{ImageResolver, ResolvedImage, Runs};
pub use api::server::serve;
pub use api::{
    Caller, ContainerGrants, CreateCluster, CreateCredential, CreateJoinToken, CreateSecret,
    CreateService, CreatedJoinToken, Credential, Drain, Health, Page, RegisteredDefinition,
    RunTask, Secret, UpdateService, UsageReport, UsageTotal, Volume,
};
pub use config::Config;
pub use error::Error;
