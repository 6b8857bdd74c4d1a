//! The quotas of accounts and repositories, and what is used of them.

use std::collections::BTreeSet;

use store::Txn;

use super::{
    metadata::{Metadata, VERSION, decode},
    usage::{Counts, account_of},
};
use crate::{
    Error, Repository,
    limits::ADMIN_LIST_MAX,
    quota::{Quota, QuotaChange},
};

impl Metadata {
    /// Takes the quotas into memory.
    pub async fn load_quotas(&self) -> Result<(), Error> {
        self.scan("quota/", false, |kv| {
            if let Some(name) = kv.key.strip_prefix("quota/") {
                self.usage.set_quota(name, decode(kv)?);
            }
            Ok(())
        })
        .await
    }

    pub fn quota(&self, name: &str) -> Quota {
        self.usage.quota(name)
    }

    /// Changes the quota of an account or a repository, and returns what it is then.
    pub async fn change_quota(&self, name: &str, change: &QuotaChange) -> Result<Quota, Error> {
        let (quota, key) = (self.quota(name).with(change), format!("quota/{name}"));
        let txn = match quota.is_unlimited() {
            true => Txn::new().delete(key),
            false => Txn::new().put(key, store::encode(VERSION, &quota)),
        };
        self.commit(txn, "set a quota").await?;
        self.usage.set_quota(name, quota.clone());
        Ok(quota)
    }

    /// Whether a repository may get `bytes` more, and exist.
    pub async fn check_room(&self, repository: &Repository, bytes: u64) -> Result<(), Error> {
        if self.usage.is_unlimited() {
            return Ok(());
        }
        let account = self.counted(account_of(repository)).await?;
        let used = account.get().map(|account| account.of(repository)).unwrap_or_default();
        // Also a client that has sent nothing yet needs room for something.
        let more =
            Counts { bytes: bytes.max(1), tags: 0, repositories: 1 - used.repositories.min(1) };
        drop(self.usage.hold(repository, more)?);
        Ok(())
    }

    /// What an account or a repository has.
    pub async fn used_by(&self, name: &str) -> Result<Counts, Error> {
        let account = name.split_once('/').map_or(name, |(account, _)| account);
        let counted = self.counted(account).await?;
        let Some(counted) = counted.get() else { return Ok(Counts::default()) };
        Ok(match name.parse::<Repository>() {
            Ok(repository) if name.contains('/') => counted.of(&repository),
            _ => counted.all(),
        })
    }

    /// Every account that has repositories, and everything that has a quota.
    pub async fn names_with_usage(&self) -> Result<BTreeSet<String>, Error> {
        let page = self.repositories("", "", ADMIN_LIST_MAX).await?;
        let accounts = page.entries.iter().map(|(repository, _)| account_of(repository).to_owned());
        Ok(accounts.chain(self.usage.with_quotas()).collect())
    }
}
