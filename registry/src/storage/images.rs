//! What was read in the bytes of images.

use spec::{Digest, Timestamp};
use store::{Compare, Query, Range, Txn};

use super::{
    contents::{contains, manifest_key},
    metadata::{ListPage, Metadata, VERSION, decode},
    records::{Link, ManifestRecord},
};
use crate::{Error, Repository, protocol::ImageContents};

/// Until when pushed manifests have been read.
const SURVEYED: &str = "surveyed";

impl Metadata {
    /// What was read in an image of a repository, if there was anything to note.
    pub async fn image(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<ImageContents>, Error> {
        self.get(image_key(repository, digest)).await
    }

    /// Notes what was read in an image, as long as the repository has it.
    pub async fn note_image(
        &self,
        repository: &Repository,
        digest: &Digest,
        contents: &ImageContents,
    ) -> Result<(), Error> {
        let manifest = manifest_key(repository, digest);
        let found = self.range(Query::key(&*manifest).keys_only(), "look up a manifest").await?;
        let Some(kv) = found.first() else { return Ok(()) };
        let txn = Txn::new().when(Compare::CreateRev(manifest, kv.create_rev));
        let txn = txn.put(image_key(repository, digest), store::encode(VERSION, contents));
        self.commit(txn, "note what is in an image").await.map(drop)
    }

    /// At most `limit` digests of manifests after `last`.
    pub async fn manifest_digests(
        &self,
        repository: &Repository,
        last: &str,
        limit: usize,
    ) -> Result<ListPage<Digest>, Error> {
        let prefix = format!("manifest/{repository}:");
        let range = Range::PrefixAfter { after: format!("{prefix}{last}"), prefix: prefix.clone() };
        let query = Query::from(range).limit(limit).keys_only();
        let ranged = self.range(query, "list manifests").await?;
        let names = ranged.kvs.iter().filter_map(|kv| kv.key.strip_prefix(&*prefix)?.parse().ok());
        Ok(ListPage { entries: names.collect(), more: ranged.more })
    }

    /// At most `limit` indexes of the repository whose records name a manifest.
    pub async fn indexes_with(
        &self,
        repository: &Repository,
        digest: &Digest,
        limit: usize,
    ) -> Result<Vec<(Digest, ManifestRecord)>, Error> {
        let (link, prefix) = (Link::of(digest), format!("manifest/{repository}:"));
        let mut found = Vec::new();
        self.scan(&prefix, false, |kv| {
            if found.len() == limit || !contains(&kv.value, link.as_bytes()) {
                return Ok(());
            }
            let record: ManifestRecord = decode(kv)?;
            let is_named = record.links.as_ref().is_some_and(|links| links.contain(&link));
            if is_named && record.media_type.is_index() {
                let name = kv.key.strip_prefix(&prefix).and_then(|name| name.parse().ok());
                found.extend(name.map(|name| (name, record)));
            }
            Ok(())
        })
        .await?;
        Ok(found)
    }

    /// Until when manifests were pushed that have been read; `None` when none ever was.
    pub async fn surveyed(&self) -> Result<Option<Timestamp>, Error> {
        self.get(SURVEYED.to_owned()).await
    }

    pub async fn note_surveyed(&self, until: Timestamp) -> Result<(), Error> {
        let txn = Txn::new().put(SURVEYED, store::encode(VERSION, &until));
        self.commit(txn, "note which images were read").await.map(drop)
    }
}

pub(super) fn image_key(repository: &Repository, digest: &Digest) -> String {
    format!("image/{repository}:{digest}")
}
