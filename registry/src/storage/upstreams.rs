//! Upstreams: kept as records.

use spec::Tenant;
use store::Txn;

use super::{
    metadata::Metadata,
    sealed::{Found, warn_unless},
    upstream_table::UpstreamRecord,
};
use crate::Error;

impl Metadata {
    /// Takes the upstreams into memory.
    pub async fn load_upstreams(&self) -> Result<(), Error> {
        let mut records = Vec::new();
        self.scan("upstream/", false, |kv| {
            if let Some(name) = kv.key.strip_prefix("upstream/").and_then(|name| name.parse().ok())
            {
                records.push((name, self.decode_sealed::<UpstreamRecord>(kv)?));
            }
            Ok(())
        })
        .await?;
        for (name, (record, found)) in records {
            self.upstreams.set(&name, Some(record.clone()));
            match (found, self.upstreams.get(&name)) {
                (Found::InTheClear, _) => warn_unless(self.put_upstream(&name, record).await),
                (Found::Closed, Some(upstream)) => upstream
                    .note_failure("its password was sealed with another `secret.key`".to_owned()),
                (Found::Opened | Found::Closed, _) => {}
            }
        }
        Ok(())
    }

    /// Adds an upstream, or replaces it.
    pub async fn put_upstream(&self, name: &Tenant, record: UpstreamRecord) -> Result<(), Error> {
        let key = upstream_key(name);
        let value = self.encode_sealed(&key, &record);
        let txn = Txn::new().put(key, value);
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
