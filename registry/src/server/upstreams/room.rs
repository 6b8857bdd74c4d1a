use std::time::SystemTime;

use spec::{Digest, Timestamp};

use super::{
    super::{outline::Outline, stored::manifest_bytes},
    PullThrough,
};
use crate::{
    Error, Repository,
    limits::{EVICTED_MANIFESTS_MAX, LIST_PAGE_MAX},
    storage::{ManifestRecord, Use},
};

/// A manifest that may make way.
struct Candidate {
    used: Timestamp,
    repository: Repository,
    digest: Digest,
    record: ManifestRecord,
}

impl PullThrough {
    /// Sees to it that a quota allows `bytes` more: what was pulled the longest time ago goes.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`] when nothing is left to go.
    pub(super) async fn make_room(&self, repository: &Repository, bytes: u64) -> Result<(), Error> {
        let metadata = &self.storage.metadata;
        if metadata.check_room(repository, bytes).await.is_ok() {
            return Ok(());
        }
        let _one = self.evicting.lock().await;
        let Err(refused) = metadata.check_room(repository, bytes).await else { return Ok(()) };
        if !matches!(refused, Error::QuotaExceeded(_)) {
            return Err(refused);
        }
        self.storage.note_pulls().await?;
        for candidate in self.candidates(repository).await? {
            self.evict(&candidate).await?;
            if metadata.check_room(repository, bytes).await.is_ok() {
                return Ok(());
            }
        }
        Err(refused)
    }

    /// The manifests of an account that were not pulled lately, the longest unused first.
    async fn candidates(&self, repository: &Repository) -> Result<Vec<Candidate>, Error> {
        let metadata = &self.storage.metadata;
        let account = repository.as_str().split_once('/').map_or("", |(account, _)| account);
        let now = Timestamp::of(SystemTime::now());
        let (mut all, mut last) = (Vec::new(), String::new());
        loop {
            let page = metadata.repositories(&format!("{account}/"), &last, LIST_PAGE_MAX).await?;
            for (repository, _) in &page.entries {
                let mut after = String::new();
                loop {
                    let found = metadata.manifests(repository, &after, LIST_PAGE_MAX).await?;
                    after =
                        found.entries.last().map(|(last, _)| last.to_string()).unwrap_or_default();
                    all.extend(found.entries.into_iter().filter_map(|(digest, record)| {
                        let used = record.pulled.max(record.pushed)?;
                        (now.since(used) >= self.retain_grace).then(|| Candidate {
                            used,
                            repository: repository.clone(),
                            digest,
                            record,
                        })
                    }));
                    if !found.more || all.len() >= EVICTED_MANIFESTS_MAX {
                        break;
                    }
                }
            }
            match page.entries.last().filter(|_| page.more && all.len() < EVICTED_MANIFESTS_MAX) {
                Some((repository, _)) => repository.as_str().clone_into(&mut last),
                None => break,
            }
        }
        all.sort_by_key(|candidate| candidate.used);
        Ok(all)
    }

    /// Removes a manifest, and the blobs that no other of its repository names.
    async fn evict(&self, candidate: &Candidate) -> Result<(), Error> {
        let Candidate { repository, digest, record, .. } = candidate;
        let metadata = &self.storage.metadata;
        let bytes = manifest_bytes(&self.storage.blobs, *digest, record.size).await;
        let _exclusive = self.storage.locks.exclusive(repository).await;
        metadata.remove_manifest(repository, digest).await?;
        let Some(outline) = bytes.ok().and_then(|bytes| Outline::parse(&bytes).ok()) else {
            return Ok(()); // a collection finds them
        };
        for blob in outline.blobs() {
            if metadata.use_of(repository, &blob.digest).await? == Use::Unused {
                metadata.remove_blob(repository, &blob.digest).await?;
            }
        }
        tracing::info!(%repository, %digest, "evicted what was not pulled for the longest time");
        Ok(())
    }
}
