//! Read-only mode and immutable tags: kept as records, asked for in memory.

use store::Txn;

use super::metadata::{Metadata, VERSION, decode};
use crate::{Error, Repository, protocol::Immutable};

const READ_ONLY: &str = "read-only";

impl Metadata {
    /// Takes the rules into memory.
    pub async fn load_rules(&self) -> Result<(), Error> {
        let read_only: Option<bool> = self.get(READ_ONLY.to_owned()).await?;
        self.rules.set_read_only(read_only.unwrap_or(false));
        self.scan("immutable/", false, |kv| {
            if let Some(name) = kv.key.strip_prefix("immutable/").and_then(|name| name.parse().ok())
            {
                self.rules.set_immutable(&name, Some(decode(kv)?));
            }
            Ok(())
        })
        .await
    }

    pub async fn set_read_only(&self, read_only: bool) -> Result<(), Error> {
        let txn = match read_only {
            true => Txn::new().put(READ_ONLY, store::encode(VERSION, &true)),
            false => Txn::new().delete(READ_ONLY),
        };
        self.commit_deletion(txn, "set read-only").await?;
        self.rules.set_read_only(read_only);
        Ok(())
    }

    /// Makes the tags of a repository immutable, or mutable again.
    pub async fn set_immutable(
        &self,
        repository: &Repository,
        rule: Option<Immutable>,
    ) -> Result<(), Error> {
        let key = format!("immutable/{repository}");
        let txn = match &rule {
            Some(rule) => Txn::new().put(key, store::encode(VERSION, rule)),
            None => Txn::new().delete(key),
        };
        self.commit(txn, "set a rule for tags").await?;
        self.rules.set_immutable(repository, rule);
        Ok(())
    }
}
