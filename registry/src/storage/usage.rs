use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::OnceCell;

use crate::{
    Repository,
    quota::{Exceeded, Quota, QuotaResource},
};

/// What accounts and repositories have, and what they may have.
///
/// The counters are in memory, and follow every change that was committed. Those of an account are
/// counted from the records at the first look at them, before the first change that this process
/// makes.
#[derive(Default)]
pub(crate) struct Usage {
    accounts: Mutex<HashMap<String, Arc<OnceCell<AccountUsage>>>>,
    quotas: Mutex<HashMap<String, Quota>>,
}

/// The counters of an account.
#[derive(Debug, Default)]
pub(crate) struct AccountUsage(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    repositories: BTreeMap<Repository, Counters>,
    all: Counters,
}

#[derive(Debug, Default, Clone, Copy)]
struct Counters {
    used: Counts,
    /// By requests that have not been committed.
    held: Counts,
}

/// How much there is of what a quota limits, in one repository.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Of its blobs and manifests.
    pub bytes: u64,
    pub tags: u64,
    /// One, once it is there.
    pub repositories: u64,
}

/// What a request is going to add, counted as used until it is dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    account: Arc<OnceCell<AccountUsage>>,
    repository: Repository,
    held: Counts,
}

/// The account that owns a repository.
pub(crate) fn account_of(repository: &Repository) -> &str {
    let name = repository.as_str();
    name.split_once('/').map_or(name, |(account, _)| account)
}

impl Counts {
    pub fn of(&self, resource: QuotaResource) -> Option<u64> {
        match resource {
            QuotaResource::Bytes => Some(self.bytes),
            QuotaResource::Tags => Some(self.tags),
            QuotaResource::Repositories => Some(self.repositories),
            QuotaResource::Uploads => None,
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            tags: self.tags.saturating_add(other.tags),
            repositories: self.repositories.saturating_add(other.repositories),
        }
    }

    fn minus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(other.bytes),
            tags: self.tags.saturating_sub(other.tags),
            repositories: self.repositories.saturating_sub(other.repositories),
        }
    }
}

impl Usage {
    /// The counters of the account of a repository, which may not have been counted yet.
    pub fn account(&self, account: &str) -> Arc<OnceCell<AccountUsage>> {
        Arc::clone(lock(&self.accounts).entry(account.to_owned()).or_default())
    }

    pub fn quota(&self, name: &str) -> Quota {
        lock(&self.quotas).get(name).cloned().unwrap_or_default()
    }

    pub fn set_quota(&self, name: &str, quota: Quota) {
        match quota.is_unlimited() {
            true => drop(lock(&self.quotas).remove(name)),
            false => drop(lock(&self.quotas).insert(name.to_owned(), quota)),
        }
    }

    /// Whether nothing has a quota.
    pub fn is_unlimited(&self) -> bool {
        lock(&self.quotas).is_empty()
    }

    /// The names that have a quota.
    pub fn with_quotas(&self) -> Vec<String> {
        lock(&self.quotas).keys().cloned().collect()
    }

    /// Counts `more` in a repository as used, if its quota and that of its account allow it.
    ///
    /// The counters of the account are there.
    pub fn hold(&self, repository: &Repository, more: Counts) -> Result<Hold, Exceeded> {
        let account = self.account(account_of(repository));
        let counted = account.get().expect("the account was counted before");
        let mut counted = counted.lock();
        let quotas = lock(&self.quotas);
        let own = counted.repositories.get(repository).copied().unwrap_or_default();
        let both = [(repository.as_str(), own.all()), (account_of(repository), counted.all.all())];
        for (name, used) in both {
            let Some(quota) = quotas.get(name) else { continue };
            for resource in QuotaResource::ALL {
                let (Some(used), Some(more)) = (used.of(resource), more.of(resource)) else {
                    continue;
                };
                quota.check(name, resource, used, more)?;
            }
        }
        counted.change(repository, |counters| counters.held = counters.held.plus(more));
        drop((counted, quotas));
        Ok(Hold { account, repository: repository.clone(), held: more })
    }
}

impl Counters {
    fn all(&self) -> Counts {
        self.used.plus(self.held)
    }
}

impl AccountUsage {
    pub fn new(repositories: impl IntoIterator<Item = (Repository, Counts)>) -> Self {
        let usage = Self::default();
        repositories.into_iter().for_each(|(name, used)| usage.add(&name, used));
        usage
    }

    /// What was committed.
    pub fn add(&self, repository: &Repository, more: Counts) {
        self.lock().change(repository, |counters| counters.used = counters.used.plus(more));
    }

    /// What was deleted.
    pub fn subtract(&self, repository: &Repository, less: Counts) {
        self.lock().change(repository, |counters| counters.used = counters.used.minus(less));
    }

    /// What was committed, in one repository.
    pub fn of(&self, repository: &Repository) -> Counts {
        self.lock().repositories.get(repository).map(|counters| counters.used).unwrap_or_default()
    }

    /// What was committed, in all repositories.
    pub fn all(&self) -> Counts {
        self.lock().all.used
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        lock(&self.0)
    }
}

impl Counted {
    fn change(&mut self, repository: &Repository, change: impl Fn(&mut Counters)) {
        change(&mut self.all);
        let counters = self.repositories.entry(repository.clone()).or_default();
        change(counters);
        if counters.all() == Counts::default() {
            self.repositories.remove(repository);
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let Some(counted) = self.account.get() else { return };
        let give_back = |counters: &mut Counters| counters.held = counters.held.minus(self.held);
        counted.lock().change(&self.repository, give_back);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_counts_until_it_is_dropped() {
        let usage = Usage::default();
        let (cats, dogs): (Repository, Repository) =
            ("ann/cats".parse().unwrap(), "ann/dogs".parse().unwrap());
        usage.account("ann").set(AccountUsage::default()).unwrap();
        let bytes = |bytes| Counts { bytes, ..Counts::default() };
        let limit = |bytes| {
            let mut quota = Quota::default();
            quota.set(QuotaResource::Bytes, Some(bytes));
            quota
        };
        usage.set_quota("ann", limit(100));
        usage.set_quota("ann/cats", limit(60));
        let first = usage.hold(&cats, bytes(60)).unwrap();
        let error = usage.hold(&cats, bytes(1)).unwrap_err().to_string();
        assert!(error.contains("`ann/cats`") && error.contains("60 of 60"), "{error}");
        assert!(usage.hold(&dogs, bytes(41)).unwrap_err().to_string().contains("`ann`"));
        drop(usage.hold(&dogs, bytes(40)).unwrap());
        drop(first);
        let ann = usage.account("ann");
        assert_eq!(ann.get().unwrap().all(), bytes(0));
        ann.get().unwrap().add(&cats, bytes(50));
        assert!(usage.hold(&cats, bytes(11)).is_err() && usage.hold(&cats, bytes(10)).is_ok());
        ann.get().unwrap().subtract(&cats, bytes(50));
        assert!(ann.get().unwrap().lock().repositories.is_empty(), "nothing is left of it");
        usage.set_quota("ann", Quota::default());
        assert_eq!(usage.with_quotas(), ["ann/cats"]);
    }
}
