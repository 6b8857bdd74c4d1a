//! One function per route. Each gets a caller who may make the request, and sees only the keys of
//! that caller.

pub(crate) mod clusters;
pub(crate) mod definitions;
pub(crate) mod identity;
pub(crate) mod ledger;
pub(crate) mod nodes;
pub(crate) mod secrets;
pub(crate) mod services;
pub(crate) mod system;
pub(crate) mod tasks;
pub(crate) mod wire;
