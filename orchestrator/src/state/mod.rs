//! What is stored in the store, all of it in memory, and what nodes report. Nothing here decides.

pub(crate) mod shared; // the clock, and a lock
pub(crate) mod keys; // where things are stored
pub(crate) mod objects; // what is stored and shown alike
pub(crate) mod records; // what is stored
pub(crate) mod node_groups; // machines that a hook adds and removes
pub(crate) mod hosts; // host names of services
pub(crate) mod orders; // certificates that an authority is asked for
pub(crate) mod rollout; // the deployments of a service
pub(crate) mod model; // all of it in memory, as of one revision
pub(crate) mod rates; // what a task does in a second
mod counted; // what tasks were asked, as ingresses count it
pub(crate) mod own_metrics; // what clients report of services, which is never stored
pub(crate) mod reports; // what nodes report, which is never stored
pub(crate) mod access; // the store, the epoch that fences writes, and the model of it
pub(crate) mod expiry; // what is deleted when its time has passed

pub(crate) mod files; // folders and files for their owner alone
pub(crate) mod tokens; // random numbers, and how tokens are stored
pub(crate) mod seal; // how secrets of tenants are stored
pub(crate) mod ca; // the certificate authority: names for nodes
pub(crate) mod chain; // a certificate with its intermediates, judged
pub(crate) mod issuer; // CA, token key and seal of one control plane
pub(crate) mod credentials; // what clients have, and the tokens that they get for it

pub(crate) use access::State;
pub(crate) use shared::{Shared, now};
