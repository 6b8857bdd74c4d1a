//! Replication: what is pushed here is pushed to other registries. Its changes wait in the outbox
//! that webhooks have, so that none is lost in a crash, and each is compared with what the other
//! registry has before anything is sent: carrying one out again does nothing.

mod source; // what a push may read
mod replicator; // one change after another
mod endpoints; // created, listed, synchronised and removed

pub(super) use {endpoints::ReplicationEndpoints, replicator::Replicator};
