//! Upstreams: kept as records.

use spec::Tenant;
use store::Txn;

use super::{
    metadata::{Metadata, VERSION, decode},
    upstream_table::UpstreamRecord,
};
use crate::Error;

impl Metadata {
    /// Takes the upstreams into memory.
    pub async fn load_upstreams(&self) -> Result<(), Error> {
        self.scan("upstream/", false, |kv| {
            if let Some(name) = kv.key.strip_prefix("upstream/").and_then(|name| name.parse().ok())
            {
                self.upstreams.set(&name, Some(decode(kv)?));
            }
            Ok(())
        })
        .await
    }

    /// Adds an upstream, or replaces it.
    pub async fn put_upstream(&self, name: &Tenant, record: UpstreamRecord) -> Result<(), Error> {
        let txn = Txn::new().put(upstream_key(name), store::encode(VERSION, &record));
        self.commit(txn, "store an upstream").await?;
        self.upstreams.set(name, Some(record));
        Ok(())
    }

    /// What was fetched stays.
    pub async fn remove_upstream(&self, name: &Tenant) -> Result<(), Error> {
        self.commit_deletion(Txn::new().delete(upstream_key(name)), "remove an upstream").await?;
        self.upstreams.set(name, None);
        Ok(())
    }
}

fn upstream_key(name: &Tenant) -> String {
    format!("upstream/{name}")
}
