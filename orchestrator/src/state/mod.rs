//! What is kept in the store, all of it in memory as of one revision, and what nodes say.

pub(crate) mod keys; // where things are kept
pub(crate) mod records; // what is kept
pub(crate) mod model; // all of it in memory, as of one revision
pub(crate) mod live; // what nodes say, which is never stored
pub(crate) mod app; // what requests share
pub(crate) mod ca; // the certificate authority: names for nodes
pub(crate) mod files; // folders and files for their owner alone
pub(crate) mod secret; // random numbers, and how tokens are kept
pub(crate) mod seal; // how secrets of tenants are kept
