//! The blobs, manifests, tags and referrers of repositories.

use std::{sync::Arc, time::SystemTime};

use spec::{Digest, Timestamp};
use store::{Compare, Kv, Op, Query, Range, Txn};

use super::{
    metadata::{ListPage, Metadata, TAG_VERSION, VERSION, decode, decode_tag},
    records::{BlobRecord, Link, Links, ManifestRecord, Membership, Referrer, TagRecord},
    usage::Counts,
};
use crate::{
    Action, Error, Repository,
    limits::{DELETED_PER_TRANSACTION, PUT_TRIES_MAX, SCAN_PAGE},
    protocol::{EventData, EventKind},
    repository::Actions,
};

/// The key with the newest version that every record has.
const FORMAT: &str = "format";

/// Hexadecimal digits of a digest in the key of an entry of a tag below its manifest.
const ENTRY_DIGITS: usize = 16;

/// Whether a repository can do without a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Use {
    Unused,
    /// This manifest names it.
    By(Digest),
    /// Manifests whose records do not tell what they name: their bytes do.
    Unclear(Vec<(Digest, ManifestRecord)>),
}

impl Metadata {
    pub async fn blob(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<Membership>, Error> {
        self.get(blob_key(repository, digest)).await
    }

    pub async fn add_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        size: u64,
    ) -> Result<(), Error> {
        self.make_repository(repository).await?;
        let (key, value) =
            (blob_key(repository, digest), store::encode(VERSION, &Membership { size }));
        let is_there = self.mod_rev(&key).await? != 0;
        let bytes = if is_there { 0 } else { size };
        let renewed = Op::Put { key: key.clone(), value: value.clone() };
        let txn = match is_there {
            // Its revision changes, so that a collection sees that it was added again.
            true => Txn::new().then(renewed),
            false => {
                Txn::new().when(Compare::Absent(key.clone())).put(key, value).otherwise(renewed)
            }
        };
        let more = Counts { bytes, ..Counts::default() };
        self.commit_more(repository, more, txn, "add a blob").await.map(drop)
    }

    /// Whether the repository had it.
    pub async fn remove_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<bool, Error> {
        let key = blob_key(repository, digest);
        let found = self.range(Query::key(&*key), "look up a blob").await?;
        let Some(kv) = found.first() else { return Ok(false) };
        let less = Counts { bytes: decode::<Membership>(kv)?.size, ..Counts::default() };
        let txn = Txn::new().when(Compare::ModRev(key.clone(), kv.mod_rev)).delete(key);
        // A transaction that lost against a concurrent change leaves that change in place.
        self.commit_less(repository, less, txn, "delete a blob").await
    }

    /// Calls `visit` for every blob of a repository.
    pub async fn each_blob(
        &self,
        repository: &Repository,
        mut visit: impl FnMut(BlobRecord),
    ) -> Result<(), Error> {
        let prefix = format!("blob/{repository}:");
        self.scan(&prefix, false, |kv| {
            if let Some(digest) = kv.key.strip_prefix(&prefix).and_then(|name| name.parse().ok()) {
                let Membership { size } = decode(kv)?;
                visit(BlobRecord { digest, size, rev: kv.mod_rev });
            }
            Ok(())
        })
        .await
    }

    /// Deletes blobs of a repository that have not changed since they were read.
    pub async fn remove_blobs(
        &self,
        repository: &Repository,
        blobs: impl Iterator<Item = &BlobRecord>,
    ) -> Result<(), Error> {
        let remove = |txn: Txn, blob: &BlobRecord| {
            let key = blob_key(repository, &blob.digest);
            txn.when(Compare::ModRev(key.clone(), blob.rev)).delete(key)
        };
        let blobs: Vec<_> = blobs.collect();
        let all = blobs.iter().fold(Txn::new(), |txn, blob| remove(txn, blob));
        let bytes = |bytes| Counts { bytes, ..Counts::default() };
        let less = bytes(blobs.iter().map(|blob| blob.size).sum());
        let action = "delete unused blobs";
        if blobs.is_empty() || self.commit_less(repository, less, all, action).await? {
            return Ok(());
        }
        for blob in blobs {
            let txn = remove(Txn::new(), blob);
            self.commit_less(repository, bytes(blob.size), txn, action).await?;
        }
        Ok(())
    }

    /// Calls `visit` with the repository and the digest of every blob and every manifest.
    pub async fn each_named_digest(
        &self,
        mut visit: impl FnMut(&str, Digest),
    ) -> Result<(), Error> {
        for family in ["blob/", "manifest/"] {
            self.scan(family, true, |kv| {
                let named = kv.key.strip_prefix(family).and_then(|rest| rest.split_once(':'));
                if let Some((repository, digest)) = named
                    && let Ok(digest) = digest.parse()
                {
                    visit(repository, digest);
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Notes what a manifest names, in a record from before that was kept.
    pub async fn note_links(
        &self,
        repository: &Repository,
        digest: &Digest,
        record: &ManifestRecord,
        links: Links,
    ) -> Result<(), Error> {
        let key = manifest_key(repository, digest);
        let noted = ManifestRecord { links: Some(links), ..record.clone() };
        let txn = Txn::new().when(Compare::ModRev(key.clone(), self.mod_rev(&key).await?));
        if self.manifest(repository, digest).await?.as_ref() != Some(record) {
            return Ok(()); // pushed again or deleted meanwhile
        }
        self.commit(txn.put(key, store::encode(VERSION, &noted)), "note links").await.map(drop)
    }

    /// Whether a manifest of the repository names a blob. Looks at every manifest of it, in memory.
    pub async fn use_of(&self, repository: &Repository, digest: &Digest) -> Result<Use, Error> {
        let link = Link::of(digest);
        let prefix = format!("manifest/{repository}:");
        let (mut user, mut unclear) = (None, Vec::new());
        self.scan(&prefix, false, |kv| {
            // The text first: decoding a hundred thousand records would take a hundred times as
            // long.
            let told = contains(&kv.value, b"\"links\":");
            if user.is_some() || told && !contains(&kv.value, link.as_bytes()) {
                return Ok(());
            }
            let Some(name) = kv.key.strip_prefix(&prefix).and_then(|name| name.parse().ok()) else {
                return Ok(());
            };
            let record: ManifestRecord = decode(kv)?;
            match &record.links {
                Some(links) if links.contain(&link) => user = Some(name),
                Some(_) => {}
                None => unclear.push((name, record)),
            }
            Ok(())
        })
        .await?;
        Ok(match user {
            Some(manifest) => Use::By(manifest),
            None if unclear.is_empty() => Use::Unused,
            None => Use::Unclear(unclear),
        })
    }

    pub async fn manifest(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<ManifestRecord>, Error> {
        self.get(manifest_key(repository, digest)).await
    }

    /// Adds a manifest, the tags that now point to it, and its entry among the referrers of its
    /// subject, in one transaction. `rights` are those of the client.
    pub async fn put_manifest(
        &self,
        repository: &Repository,
        digest: &Digest,
        record: &ManifestRecord,
        (tags, rights): (&[String], Actions),
        referrer: Option<&Referrer>,
    ) -> Result<(), Error> {
        self.make_repository(repository).await?;
        for _ in 0..PUT_TRIES_MAX {
            let (txn, more) =
                self.putting(repository, digest, record, (tags, rights), referrer).await?;
            let data = || EventData {
                repository: repository.to_string(),
                digest: Some(*digest),
                media_type: Some(record.media_type.to_string()),
                tags: tags.to_vec(),
                findings: None,
            };
            let txn = self.telling(txn, repository, EventKind::ImagePushed, data);
            if self.commit_more(repository, more, txn, "add a manifest").await? {
                self.webhooks.changed.notify_one();
                return Ok(());
            }
        }
        Err(Error::Contended { repository: repository.to_string() })
    }

    /// The transaction that adds a manifest to what there is at this moment, and what it adds.
    async fn putting(
        &self,
        repository: &Repository,
        digest: &Digest,
        record: &ManifestRecord,
        (tags, rights): (&[String], Actions),
        referrer: Option<&Referrer>,
    ) -> Result<(Txn, Counts), Error> {
        let key = manifest_key(repository, digest);
        let found = self.range(Query::key(&*key), "look up a manifest").await?;
        let (mut record, mut more) = (record.clone(), Counts::default());
        match found.first() {
            Some(kv) => record.pulled = decode::<ManifestRecord>(kv)?.pulled,
            None => more.bytes = record.size,
        }
        let rev = found.first().map_or(0, |kv| kv.mod_rev);
        let mut txn = Txn::new().when(Compare::ModRev(key.clone(), rev));
        txn = txn.put(key, store::encode(VERSION, &record));
        let set = Some(Timestamp::of(SystemTime::now()));
        let tagged = store::encode(TAG_VERSION, &TagRecord { digest: *digest, set });
        for tag in tags {
            let (key, entry) = (tag_key(repository, tag), entry_key(repository, digest, tag));
            let found = self.range(Query::key(&*key), "look up a tag").await?;
            let found = found.first();
            let (action, verb) = match found {
                Some(kv) if decode_tag(kv)?.digest == *digest => (None, ""),
                Some(_) => (Some(Action::TagOverwrite), "move"),
                None => (Some(Action::TagCreate), "set"),
            };
            if let Some(action) = action.filter(|action| !rights.contains(*action)) {
                let (repository, tag, role) = (repository.to_string(), tag.clone(), action.name());
                return Err(Error::TagRefused { repository, tag, verb, role });
            }
            txn = txn
                .when(Compare::ModRev(key.clone(), found.map_or(0, |kv| kv.mod_rev)))
                .put(key, tagged.clone())
                .put(&*entry, empty());
            match found {
                Some(kv) => {
                    let before = decode_tag(kv)?.digest;
                    if before != *digest && self.rules.is_immutable(repository, tag) {
                        let (repository, tag) = (repository.to_string(), tag.clone());
                        return Err(Error::ImmutableTag { repository, tag });
                    }
                    let before = entry_key(repository, &before, tag);
                    if before != entry {
                        txn = txn.delete(before);
                    }
                }
                None => more.tags += 1,
            }
        }
        if let (Some(subject), Some(referrer)) = (&record.subject, referrer) {
            txn = txn
                .put(referrer_key(repository, subject, digest), store::encode(VERSION, referrer));
        }
        Ok((txn, more))
    }

    /// Some of the tags that point to a manifest, and of those that have.
    pub(super) async fn entries(
        &self,
        repository: &Repository,
        digest: &Digest,
        limit: usize,
    ) -> Result<Vec<String>, Error> {
        let prefix = entry_key(repository, digest, "");
        let query = Query::from(Range::Prefix(prefix.clone())).limit(limit).keys_only();
        let found = self.range(query, "list the tags of a manifest").await?;
        let tags = found.kvs.iter().filter_map(|kv| kv.key.strip_prefix(&prefix));
        Ok(tags.map(str::to_owned).collect())
    }

    /// The tags that point to a manifest, at most `limit`.
    pub async fn tags_of(
        &self,
        repository: &Repository,
        digest: &Digest,
        limit: usize,
    ) -> Result<Vec<String>, Error> {
        let mut tags = Vec::new();
        for tag in self.entries(repository, digest, limit).await? {
            if self.tag(repository, &tag).await? == Some(*digest) {
                tags.push(tag);
            }
        }
        Ok(tags)
    }

    pub async fn tag(&self, repository: &Repository, tag: &str) -> Result<Option<Digest>, Error> {
        Ok(self.tag_record(repository, tag).await?.map(|record| record.digest))
    }

    pub async fn tag_record(
        &self,
        repository: &Repository,
        tag: &str,
    ) -> Result<Option<TagRecord>, Error> {
        let query = Query::key(tag_key(repository, tag));
        let found = self.range(query, "look up a tag").await?;
        found.first().map(|kv| decode_tag(kv)).transpose()
    }

    /// At most `limit` tags after `last`.
    pub async fn tags(
        &self,
        repository: &Repository,
        last: &str,
        limit: usize,
    ) -> Result<ListPage<String>, Error> {
        let prefix = format!("tag/{repository}:");
        let range = Range::PrefixAfter { after: format!("{prefix}{last}"), prefix: prefix.clone() };
        let query = Query::from(range).limit(limit).keys_only();
        let ranged = self.range(query, "list tags").await?;
        let tags = ranged.kvs.iter().filter_map(|kv| kv.key.strip_prefix(prefix.as_str()));
        Ok(ListPage { entries: tags.map(str::to_owned).collect(), more: ranged.more })
    }

    /// At most `limit` tags after `last`, with their records.
    pub async fn tag_records(
        &self,
        repository: &Repository,
        last: &str,
        limit: usize,
    ) -> Result<ListPage<(String, TagRecord)>, Error> {
        let prefix = format!("tag/{repository}:");
        let read = |name: &str, kv: &Kv| Ok(Some((name.to_owned(), decode_tag(kv)?)));
        self.page(&prefix, last, limit, read).await
    }

    /// At most `limit` manifests after `last`, with their records.
    pub async fn manifests(
        &self,
        repository: &Repository,
        last: &str,
        limit: usize,
    ) -> Result<ListPage<(Digest, ManifestRecord)>, Error> {
        let prefix = format!("manifest/{repository}:");
        self.page(&prefix, last, limit, |name, kv| {
            let digest = name.parse().ok();
            digest.map(|digest| Ok((digest, decode(kv)?))).transpose()
        })
        .await
    }

    async fn page<T>(
        &self,
        prefix: &str,
        last: &str,
        limit: usize,
        read: impl Fn(&str, &Kv) -> Result<Option<T>, Error>,
    ) -> Result<ListPage<T>, Error> {
        let after = format!("{prefix}{last}");
        let range = Range::PrefixAfter { prefix: prefix.to_owned(), after };
        let ranged = self.range(Query::from(range).limit(limit), "list a repository").await?;
        let entries =
            ranged.kvs.iter().filter_map(|kv| read(&kv.key[prefix.len()..], kv).transpose());
        Ok(ListPage { entries: entries.collect::<Result<_, _>>()?, more: ranged.more })
    }

    /// At most `limit` referrers of `subject` after `last`, in at most `bytes_max`, but always one.
    pub async fn referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        last: &str,
        (limit, bytes_max): (usize, usize),
    ) -> Result<ListPage<Referrer>, Error> {
        let prefix = format!("referrer/{repository}:{subject}:");
        let range = Range::PrefixAfter { after: format!("{prefix}{last}"), prefix };
        let ranged = self.range(Query::from(range).limit(limit), "list referrers").await?;
        let mut bytes = 0;
        let fits = |kv: &&Arc<Kv>| {
            bytes += kv.value.len();
            bytes == kv.value.len() || bytes <= bytes_max
        };
        let entries = ranged.kvs.iter().take_while(fits).map(|kv| decode(kv));
        let entries = entries.collect::<Result<Vec<_>, _>>()?;
        let more = ranged.more || entries.len() < ranged.kvs.len();
        Ok(ListPage { entries, more })
    }

    /// Brings the records of an older registry to the format of this one. What was interrupted goes
    /// on when it is called again.
    pub async fn migrate(&self) -> Result<(), Error> {
        if self.get::<u8>(FORMAT.to_owned()).await?.is_some_and(|format| format >= TAG_VERSION) {
            return Ok(());
        }
        let tags = self.add_entries_of_tags().await?;
        if tags > 0 {
            tracing::info!(tags, "indexed the tags of an older registry");
        }
        let txn = Txn::new().put(FORMAT, store::encode(VERSION, &TAG_VERSION));
        self.commit(txn, "note the format").await.map(drop)
    }

    /// Gives the tags of a registry from before there were entries theirs. Returns how many it
    /// found.
    pub async fn add_entries_of_tags(&self) -> Result<usize, Error> {
        let (mut after, mut added) = ("tag/".to_owned(), 0);
        let set = Some(Timestamp::of(SystemTime::now()));
        loop {
            let range = Range::PrefixAfter { prefix: "tag/".to_owned(), after };
            let ranged = self.range(Query::from(range).limit(SCAN_PAGE), "list tags").await?;
            let old: Vec<_> = ranged.kvs.iter().filter(|kv| is_older_tag(kv)).collect();
            for batch in old.chunks(DELETED_PER_TRANSACTION / 2) {
                let mut txn = Txn::new();
                for kv in batch {
                    let named = kv.key.strip_prefix("tag/").and_then(|rest| rest.split_once(':'));
                    let Some((repository, tag)) = named else { continue };
                    let record = TagRecord { set, ..decode_tag(kv)? };
                    let entry = entry_key_of(repository, &record.digest, tag);
                    txn =
                        txn.put(entry, empty()).put(&*kv.key, store::encode(TAG_VERSION, &record));
                }
                self.commit(txn, "index tags").await?;
                added += batch.len();
            }
            match ranged.kvs.last().filter(|_| ranged.more) {
                Some(last) => after = last.key.to_string(),
                None => return Ok(added),
            }
        }
    }
}

fn is_older_tag(kv: &Kv) -> bool {
    kv.value.first().is_none_or(|version| *version < TAG_VERSION)
}

pub(super) fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn empty() -> Arc<[u8]> {
    store::encode(VERSION, &())
}

pub(super) fn blob_key(repository: &Repository, digest: &Digest) -> String {
    format!("blob/{repository}:{digest}")
}

pub(super) fn manifest_key(repository: &Repository, digest: &Digest) -> String {
    format!("manifest/{repository}:{digest}")
}

pub(super) fn tag_key(repository: &Repository, tag: &str) -> String {
    format!("tag/{repository}:{tag}")
}

pub(super) fn entry_key(repository: &Repository, digest: &Digest, tag: &str) -> String {
    entry_key_of(repository.as_str(), digest, tag)
}

fn entry_key_of(repository: &str, digest: &Digest, tag: &str) -> String {
    format!("tagged/{repository}:{}:{tag}", &digest.hex()[..ENTRY_DIGITS])
}

pub(super) fn referrer_key(repository: &Repository, subject: &Digest, digest: &Digest) -> String {
    format!("referrer/{repository}:{subject}:{digest}")
}

#[cfg(test)]
mod tests {
    use spec::MediaType;
    use store::MemoryStore;

    use super::*;

    fn repository(name: &str) -> Repository {
        name.parse().unwrap()
    }

    fn record(links: Option<Links>) -> ManifestRecord {
        let media_type = MediaType::OCI_MANIFEST.into();
        ManifestRecord { media_type, size: 3, subject: None, links, pushed: None, pulled: None }
    }

    #[tokio::test]
    async fn a_manifest_is_removed_with_all_of_its_tags_and_no_other() {
        let metadata = Metadata::on(Arc::new(MemoryStore::new()));
        let (cats, dogs) = (repository("ann/cats"), repository("ann/cats-and-dogs"));
        let (old, new) = (Digest::of(b"old"), Digest::of(b"new"));
        let record = record(None);
        let names: Vec<String> = (0..250).map(|n| format!("v{n:03}")).collect();
        for tags in names.chunks(10) {
            metadata.put_manifest(&cats, &old, &record, (tags, Actions::ALL), None).await.unwrap();
        }
        metadata
            .put_manifest(&dogs, &old, &record, (&["v001".to_owned()], Actions::ALL), None)
            .await
            .unwrap();
        let moved = ["latest".to_owned(), "v007".to_owned()];
        metadata.put_manifest(&cats, &new, &record, (&moved, Actions::ALL), None).await.unwrap();
        let page = metadata.tags(&cats, "v003", 2).await.unwrap();
        assert_eq!((page.entries, page.more), (vec!["v004".to_owned(), "v005".to_owned()], true));
        assert_eq!(metadata.tags_of(&cats, &old, 1000).await.unwrap().len(), 249);
        assert!(metadata.remove_manifest(&cats, &old).await.unwrap());
        assert!(!metadata.remove_manifest(&cats, &old).await.unwrap());
        let page = metadata.tags(&cats, "", 1000).await.unwrap();
        assert_eq!((page.entries, page.more), (moved.to_vec(), false));
        assert_eq!(metadata.tag(&dogs, "v001").await.unwrap(), Some(old));
        assert_eq!(metadata.manifest(&cats, &new).await.unwrap(), Some(record));
        assert!(metadata.remove_tag(&cats, "v007").await.unwrap());
        assert_eq!(metadata.tags_of(&cats, &new, 1000).await.unwrap(), ["latest"]);
    }

    #[tokio::test]
    async fn tags_of_an_older_registry_go_with_their_manifest() {
        let metadata = Metadata::on(Arc::new(MemoryStore::new()));
        let cats = repository("ann/cats");
        let digest = Digest::of(b"cats");
        metadata
            .put_manifest(&cats, &digest, &record(None), (&[], Actions::ALL), None)
            .await
            .unwrap();
        for n in 0..120 {
            let older = store::encode(1, &serde_json::json!({ "digest": digest }));
            let txn = Txn::new().put(format!("tag/ann/cats:v{n}"), older);
            metadata.commit(txn, "write as an older registry").await.unwrap();
        }
        assert_eq!(metadata.tag(&cats, "v1").await.unwrap(), Some(digest));
        assert_eq!(metadata.add_entries_of_tags().await.unwrap(), 120);
        assert_eq!(metadata.add_entries_of_tags().await.unwrap(), 0);
        assert!(metadata.tag_record(&cats, "v1").await.unwrap().unwrap().set.is_some());
        assert!(metadata.remove_manifest(&cats, &digest).await.unwrap());
        assert_eq!(metadata.tags(&cats, "", 1000).await.unwrap().entries.len(), 0);
    }

    #[tokio::test]
    async fn a_blob_is_used_by_the_manifests_of_its_repository_alone() {
        let metadata = Metadata::on(Arc::new(MemoryStore::new()));
        let (cats, dogs) = (repository("ann/cats"), repository("ann/dogs"));
        let (blob, manifest, older) = (Digest::of(b"blob"), Digest::of(b"m"), Digest::of(b"o"));
        let links = Links::of([&Digest::of(b"other"), &blob]);
        metadata
            .put_manifest(&cats, &manifest, &record(Some(links)), (&[], Actions::ALL), None)
            .await
            .unwrap();
        assert_eq!(metadata.use_of(&cats, &blob).await.unwrap(), Use::By(manifest));
        assert_eq!(metadata.use_of(&cats, &Digest::of(b"x")).await.unwrap(), Use::Unused);
        assert_eq!(metadata.use_of(&dogs, &blob).await.unwrap(), Use::Unused);
        metadata
            .put_manifest(&dogs, &older, &record(None), (&[], Actions::ALL), None)
            .await
            .unwrap();
        let unclear = Use::Unclear(vec![(older, record(None))]);
        assert_eq!(metadata.use_of(&dogs, &blob).await.unwrap(), unclear);
    }
}
