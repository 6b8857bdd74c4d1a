//! One function per route. Each gets a principal that may make the request, and sees only the keys
//! of that principal.

mod newer_agent; // what is too new to be understood
pub(crate) mod agent; // what node agents ask and report
pub(crate) mod certificates; // of host names
pub(crate) mod clusters;
pub(crate) mod definitions;
pub(crate) mod credentials; // and the access tokens for them
pub(crate) mod events; // what happened to objects
pub(crate) mod access_log; // requests that a service answered
pub(crate) mod explain; // why something is as it is
pub(crate) mod hosts; // of services, and domains of tenants
pub(crate) mod identity; // the caller, and join tokens
pub(crate) mod ledger; // where usage is billed
mod listeners; // of services
pub(crate) mod metrics; // that clients report of services
pub(crate) mod node_groups; // and what is to be done for their machines
pub(crate) mod nodes;
pub(crate) mod quotas;
pub(crate) mod rollouts; // of services
pub(crate) mod secrets;
pub(crate) mod services;
pub(crate) mod streams; // logs, programs, connections and statistics of tasks on any node
pub(crate) mod system;
pub(crate) mod tasks;
