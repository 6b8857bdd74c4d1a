//! Tags and manifests are removed.

use spec::Digest;
use store::{Compare, Query, Txn};

use super::{
    contents::{entry_key, manifest_key, referrer_key, tag_key},
    images::image_key,
    metadata::{Metadata, decode_tag},
    records::ManifestRecord,
    usage::Counts,
};
use crate::{
    Error, Repository,
    limits::{DELETED_PER_TRANSACTION, PUT_TRIES_MAX},
    protocol::{EventData, EventKind},
};

impl Metadata {
    /// Removes a manifest and the tags that point to it. Tags first, so that none is ever left
    /// without its manifest. Whether the repository had it. The caller keeps other changes of
    /// manifests and tags out of the repository.
    pub async fn remove_manifest(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<bool, Error> {
        let Some(record) = self.manifest(repository, digest).await? else { return Ok(false) };
        let (mut untagging, mut less, mut more) = self.untagging(repository, digest).await?;
        // What one transaction cannot hold goes before.
        while more {
            self.commit_less(repository, less, untagging, "delete tags").await?;
            (untagging, less, more) = self.untagging(repository, digest).await?;
        }
        less.bytes = record.size;
        self.remove_untagged(repository, digest, &record, untagging, less).await
    }

    async fn remove_untagged(
        &self,
        repository: &Repository,
        digest: &Digest,
        record: &ManifestRecord,
        untagging: Txn,
        less: Counts,
    ) -> Result<bool, Error> {
        let (key, action) = (manifest_key(repository, digest), "delete a manifest");
        let mut delete = untagging.delete(&*key).delete(image_key(repository, digest));
        if let Some(subject) = &record.subject {
            delete = delete.delete(referrer_key(repository, subject, digest));
        }
        let data = || EventData {
            repository: repository.to_string(),
            digest: Some(*digest),
            media_type: Some(record.media_type.to_string()),
            ..EventData::default()
        };
        delete = self.telling(delete, repository, EventKind::ImageDeleted, data);
        // A collection may note what it names meanwhile, and others that it was pulled.
        for _ in 0..PUT_TRIES_MAX {
            let rev = self.mod_rev(&key).await?;
            let txn = delete.clone().when(Compare::ModRev(key.clone(), rev));
            if rev == 0 || self.commit_less(repository, less, txn, action).await? {
                self.webhooks.changed.notify_one();
                return Ok(rev != 0);
            }
        }
        Err(Error::Contended { repository: repository.to_string() })
    }

    /// The transaction that deletes tags of a manifest, as many as it holds, and whether there may
    /// be more.
    async fn untagging(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<(Txn, Counts, bool), Error> {
        let (mut txn, mut less) = (Txn::new(), Counts::default());
        // Two keys of each, and space for the manifest and its events.
        let limit = DELETED_PER_TRANSACTION / 3;
        let tags = self.entries(repository, digest, limit).await?;
        let more = tags.len() == limit;
        for tag in tags {
            txn = txn.delete(entry_key(repository, digest, &tag));
            if self.tag(repository, &tag).await? == Some(*digest) {
                txn = txn.delete(tag_key(repository, &tag));
                less.tags += 1;
            }
        }
        Ok((txn, less, more))
    }

    /// Whether the repository had it.
    pub async fn remove_tag(&self, repository: &Repository, tag: &str) -> Result<bool, Error> {
        let key = tag_key(repository, tag);
        let found = self.range(Query::key(&*key), "look up a tag").await?;
        let Some(kv) = found.first() else { return Ok(false) };
        let entry = entry_key(repository, &decode_tag(kv)?.digest, tag);
        let txn = Txn::new().when(Compare::ModRev(key.clone(), kv.mod_rev));
        // A transaction that lost against a concurrent change leaves that change in place.
        let less = Counts { tags: 1, ..Counts::default() };
        let data = || EventData {
            repository: repository.to_string(),
            tags: vec![tag.to_owned()],
            ..EventData::default()
        };
        let txn = txn.delete(key).delete(entry);
        let txn = self.telling(txn, repository, EventKind::TagDeleted, data);
        let removed = self.commit_less(repository, less, txn, "delete a tag").await?;
        self.webhooks.changed.notify_one();
        Ok(removed)
    }
}
