use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::{Repository, limits::REPOSITORY_LOCKS};

/// Keeps deletions out between the check that a manifest's blobs are present and its commit. One
/// process alone has the database open, so locks in memory do.
#[derive(Clone)]
pub(crate) struct RepositoryLocks(Arc<[RwLock<()>]>);

impl RepositoryLocks {
    /// For adding a manifest to `repository`.
    pub async fn shared(&self, repository: &Repository) -> RwLockReadGuard<'_, ()> {
        self.of(repository).read().await
    }

    /// For deleting a manifest or a blob of `repository`.
    pub async fn exclusive(&self, repository: &Repository) -> RwLockWriteGuard<'_, ()> {
        self.of(repository).write().await
    }

    fn of(&self, repository: &Repository) -> &RwLock<()> {
        let mut hasher = DefaultHasher::new();
        repository.hash(&mut hasher);
        &self.0[hasher.finish() as usize % self.0.len()]
    }
}

impl Default for RepositoryLocks {
    fn default() -> Self {
        Self((0..REPOSITORY_LOCKS).map(|_| RwLock::default()).collect())
    }
}
