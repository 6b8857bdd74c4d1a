//! Desired + observed -> plan -> act: what should run where, and the API through which people and
//! nodes say so.
//!
//! Enter at [`serve`] to be the control plane, at [`Client`] to speak to one. What it keeps is in
//! `store` and nowhere else, so it can be killed at any time: what runs keeps running, and what was
//! acknowledged is there after the restart. Absent on purpose: it starts no process, reads no image
//! (an [`ImageResolver`] does), and sends no command to a node. Absent for now: more than one
//! control plane at a time, preemption, moving standalone tasks off a lost node.
#![forbid(unsafe_code)]

mod api; // what the API takes and answers beyond the objects of `spec`
mod config; // what the control plane is told when it starts
mod resolver; // who knows what an image name means
mod client; // the API from the other end

mod keys; // where things are kept
mod records; // what is kept
mod model; // all of it in memory, as of one revision
mod live; // what nodes say, which is never stored
mod plan; // what to do next, as a pure function
mod reconcile; // doing it
mod sets; // what each node is told

mod routes; // the API as a table: who may do what, and the OpenAPI document
mod principal; // who asks, and whether they may
mod call; // one request, read
mod create; // creates that happen once, however often they are sent
mod handle; // one function per route
mod app; // what they share
mod seats; // who may hold how many connections
mod server; // sockets, TLS, and the way from a request to its answer

mod ca; // the certificate authority: names for nodes
mod files; // folders and files for their owner alone
mod secret; // random numbers, and how tokens are kept
mod seal; // how secrets of tenants are kept
mod tls; // both ends of TLS

mod error;

#[cfg(test)]
mod journeys; // the whole control plane in one process

pub use api::{
    Caller, ContainerGrants, CreateCluster, CreateCredential, CreateJoinToken, CreateSecret,
    CreateService, CreatedJoinToken, Credential, Drain, Health, Page, RegisteredDefinition,
    RunTask, Secret, UpdateService, UsageReport, UsageTotal, Volume,
};
pub use client::Client;
pub use config::Config;
pub use error::Error;
pub use resolver::{ImageResolver, ResolvedImage, Runs};
pub use server::serve;
