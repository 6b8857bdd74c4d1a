use std::{collections::BTreeMap, path::Path, sync::Arc};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use spec::{Digest, MediaType, Tenant};
use store::{Compare, Kv, Query, Range, SqliteStore, Store, Txn};
use tokio_util::sync::CancellationToken;

use crate::{Error, Repository};

/// The format of every record here.
const VERSION: u8 = 1;
/// Keys taken away by one transaction; the store allows 100 operations.
const BATCH: usize = 90;
/// A page when we walk through keys ourselves.
const WALK: usize = 1000;

/// What the registry knows beside the bytes: users, repositories, and which repository has which
/// blob, manifest and tag.
///
/// ```text
/// user/NAME                           password hash
/// repository/NAME                     whether everybody may read it
/// blob/NAME:DIGEST                    membership: access to a blob is decided by this key, never by knowing the digest
/// manifest/NAME:DIGEST                media type, size, subject; the bytes are a blob
/// tag/NAME:TAG                        digest
/// referrer/NAME:SUBJECT:DIGEST        descriptor of a manifest that says something about SUBJECT
/// ```
#[derive(Clone)]
pub(crate) struct Metadata {
    store: Arc<dyn Store>,
    /// The store takes nothing any more, and will not until this process starts anew.
    broken: CancellationToken,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct User {
    /// A PHC string; its parameters are those of the day it was made.
    pub password: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RepositoryRecord {
    pub public: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Membership {
    pub size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ManifestRecord {
    pub media_type: MediaType,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Digest>,
}

/// A line of the referrers list, as it goes out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Referrer {
    pub media_type: MediaType,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
struct TagRecord {
    digest: Digest,
}

impl Referrer {
    /// How long its record is: a control character in an annotation takes six bytes there.
    pub fn record_bytes(&self) -> usize {
        store::encode(VERSION, self).len()
    }
}

impl Metadata {
    /// Opens or makes the registry's own database in `data_dir`.
    pub fn open(data_dir: &Path) -> Result<Self, Error> {
        let store = SqliteStore::open(&data_dir.join("registry.db")).map_err(failed("open it"))?;
        Ok(Self::on(Arc::new(store)))
    }

    pub fn on(store: Arc<dyn Store>) -> Self {
        Self { store, broken: CancellationToken::new() }
    }

    /// Whether a commit has found the store broken.
    pub fn is_broken(&self) -> bool {
        self.broken.is_cancelled()
    }

    /// Waits until a commit finds the store broken, and says so.
    pub async fn broken(&self) -> Error {
        self.broken.cancelled().await;
        failed("go on")(store::Error::Broken)
    }

    // Users

    pub async fn user(&self, name: &Tenant) -> Result<Option<User>, Error> {
        self.get(format!("user/{name}")).await
    }

    pub async fn put_user(&self, name: &Tenant, user: &User) -> Result<(), Error> {
        self.commit(
            Txn::new().put(format!("user/{name}"), store::encode(VERSION, user)),
            "keep a user",
        )
        .await
        .map(drop)
    }

    /// Whether there was one.
    pub async fn remove_user(&self, name: &Tenant) -> Result<bool, Error> {
        self.remove(format!("user/{name}"), Txn::new()).await
    }

    pub async fn users(&self) -> Result<Vec<Tenant>, Error> {
        let mut users = Vec::new();
        let mut walk = Walk::of("user/");
        while let Some(page) = self.step(&mut walk, true).await? {
            users.extend(page.iter().filter_map(|kv| kv.key.strip_prefix("user/")?.parse().ok()));
        }
        Ok(users)
    }

    // Repositories

    pub async fn repository(&self, name: &Repository) -> Result<Option<RepositoryRecord>, Error> {
        self.get(format!("repository/{name}")).await
    }

    pub async fn set_public(&self, name: &Repository, public: bool) -> Result<(), Error> {
        let record = store::encode(VERSION, &RepositoryRecord { public });
        self.commit(Txn::new().put(format!("repository/{name}"), record), "set who may read")
            .await
            .map(drop)
    }

    /// Repositories after `last`, at most `limit`, and whether there are more.
    pub async fn repositories(
        &self,
        prefix: &str,
        last: &str,
        limit: usize,
    ) -> Result<(Vec<(Repository, RepositoryRecord)>, bool), Error> {
        let range = Range::PrefixAfter {
            prefix: format!("repository/{prefix}"),
            after: format!("repository/{last}"),
        };
        let ranged = self
            .store
            .range(Query::from(range).limit(limit))
            .await
            .map_err(failed("list repositories"))?;
        let records = ranged.kvs.iter().filter_map(|kv| {
            let name = kv.key.strip_prefix("repository/")?.parse().ok()?;
            Some(decode(kv).map(|record| (name, record)))
        });
        Ok((records.collect::<Result<_, _>>()?, ranged.more))
    }

    // Blobs

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
        let membership = store::encode(VERSION, &Membership { size });
        self.commit_in(
            repository,
            Txn::new().put(blob_key(repository, digest), membership),
            "keep a blob",
        )
        .await
    }

    /// Whether the repository had it.
    pub async fn remove_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<bool, Error> {
        self.remove(blob_key(repository, digest), Txn::new()).await
    }

    /// A blob in any of the repositories of `user`.
    pub async fn blob_of(
        &self,
        user: &Tenant,
        digest: &Digest,
    ) -> Result<Option<Membership>, Error> {
        // A pushed blob costs at most this many look-ups in memory; who owns more repositories just
        // sends it.
        let (repositories, _) = self.repositories(&format!("{user}/"), "", WALK).await?;
        for (repository, _) in repositories {
            if let Some(membership) = self.blob(&repository, digest).await? {
                return Ok(Some(membership));
            }
        }
        Ok(None)
    }

    // Manifests and tags

    pub async fn manifest(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<ManifestRecord>, Error> {
        self.get(manifest_key(repository, digest)).await
    }

    /// A manifest, the tags that now mean it, and its line among the referrers of its subject: all
    /// or nothing.
    pub async fn put_manifest(
        &self,
        repository: &Repository,
        digest: &Digest,
        record: &ManifestRecord,
        tags: &[String],
        referrer: Option<&Referrer>,
    ) -> Result<(), Error> {
        let mut txn =
            Txn::new().put(manifest_key(repository, digest), store::encode(VERSION, record));
        for tag in tags {
            txn = txn.put(
                tag_key(repository, tag),
                store::encode(VERSION, &TagRecord { digest: *digest }),
            );
        }
        if let (Some(subject), Some(referrer)) = (&record.subject, referrer) {
            txn = txn
                .put(referrer_key(repository, subject, digest), store::encode(VERSION, referrer));
        }
        self.commit_in(repository, txn, "keep a manifest").await
    }

    /// Takes a manifest and the tags that mean it away. Tags go first, so that none is ever left
    /// without its manifest. Whether the repository had it.
    pub async fn remove_manifest(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<bool, Error> {
        let Some(record) = self.manifest(repository, digest).await? else { return Ok(false) };
        let mut tags: Vec<String> = Vec::new();
        let mut walk = Walk::of(format!("tag/{repository}:"));
        while let Some(page) = self.step(&mut walk, false).await? {
            for kv in page {
                if decode::<TagRecord>(&kv)?.digest == *digest {
                    tags.push(kv.key.to_string());
                }
            }
        }
        for batch in tags.chunks(BATCH) {
            let txn = batch.iter().fold(Txn::new(), |txn, key| txn.delete(key.as_str()));
            self.commit(txn, "delete tags").await?;
        }
        let also = match &record.subject {
            Some(subject) => Txn::new().delete(referrer_key(repository, subject, digest)),
            None => Txn::new(),
        };
        self.remove(manifest_key(repository, digest), also).await
    }

    pub async fn tag(&self, repository: &Repository, tag: &str) -> Result<Option<Digest>, Error> {
        Ok(self.get::<TagRecord>(tag_key(repository, tag)).await?.map(|record| record.digest))
    }

    /// Whether the repository had it.
    pub async fn remove_tag(&self, repository: &Repository, tag: &str) -> Result<bool, Error> {
        self.remove(tag_key(repository, tag), Txn::new()).await
    }

    /// Tags after `last`, at most `limit`, and whether there are more.
    pub async fn tags(
        &self,
        repository: &Repository,
        last: &str,
        limit: usize,
    ) -> Result<(Vec<String>, bool), Error> {
        let prefix = format!("tag/{repository}:");
        let range = Range::PrefixAfter { after: format!("{prefix}{last}"), prefix: prefix.clone() };
        let ranged = self
            .store
            .range(Query::from(range).limit(limit).keys_only())
            .await
            .map_err(failed("list tags"))?;
        let tags = ranged
            .kvs
            .iter()
            .filter_map(|kv| kv.key.strip_prefix(prefix.as_str()).map(str::to_owned));
        Ok((tags.collect(), ranged.more))
    }

    /// What says something about `subject`, after `last`, at most `limit` in at most `bytes_max`
    /// (but always one), and whether there are more.
    pub async fn referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        last: &str,
        (limit, bytes_max): (usize, usize),
    ) -> Result<(Vec<Referrer>, bool), Error> {
        let prefix = format!("referrer/{repository}:{subject}:");
        let range = Range::PrefixAfter { after: format!("{prefix}{last}"), prefix };
        let ranged = self
            .store
            .range(Query::from(range).limit(limit))
            .await
            .map_err(failed("list referrers"))?;
        let mut bytes = 0;
        let fits = |kv: &&Arc<Kv>| {
            bytes += kv.value.len();
            bytes == kv.value.len() || bytes <= bytes_max
        };
        let page = ranged
            .kvs
            .iter()
            .take_while(fits)
            .map(|kv| decode(kv))
            .collect::<Result<Vec<_>, _>>()?;
        let more = ranged.more || page.len() < ranged.kvs.len();
        Ok((page, more))
    }

    // Underneath

    async fn get<T: DeserializeOwned>(&self, key: String) -> Result<Option<T>, Error> {
        let ranged = self.store.range(Query::key(key)).await.map_err(failed("look up a key"))?;
        ranged.first().map(|kv| decode(kv)).transpose()
    }

    /// Deletes `key`, and what `also` does with it. Whether it was there.
    async fn remove(&self, key: String, also: Txn) -> Result<bool, Error> {
        let txn = also.when(Compare::ModRev(key.clone(), self.mod_rev(&key).await?));
        let there = !txn.compares.contains(&Compare::ModRev(key.clone(), 0));
        // Lost to somebody who changed it meanwhile: then it was there, and is theirs.
        Ok(there && self.commit(txn.delete(key), "delete").await?)
    }

    async fn mod_rev(&self, key: &str) -> Result<store::Rev, Error> {
        let ranged =
            self.store.range(Query::key(key).keys_only()).await.map_err(failed("look up a key"))?;
        Ok(ranged.first().map_or(0, |kv| kv.mod_rev))
    }

    /// Commits `txn`, and the repository's own record with it at the first time.
    async fn commit_in(
        &self,
        repository: &Repository,
        txn: Txn,
        action: &str,
    ) -> Result<(), Error> {
        let key = format!("repository/{repository}");
        if self.mod_rev(&key).await? == 0 {
            let record = store::encode(VERSION, &RepositoryRecord::default());
            let first = txn.clone().when(Compare::Absent(key.clone())).put(key, record);
            if self.commit(first, action).await? {
                return Ok(());
            }
        }
        self.commit(txn, action).await.map(drop)
    }

    async fn commit(&self, txn: Txn, action: &str) -> Result<bool, Error> {
        let committed = self.store.txn(txn).await;
        if matches!(committed, Err(store::Error::Broken)) {
            self.broken.cancel();
        }
        Ok(committed.map_err(failed(action))?.succeeded)
    }

    async fn step(&self, walk: &mut Walk, keys_only: bool) -> Result<Option<Vec<Arc<Kv>>>, Error> {
        let Some(after) = walk.after.take() else { return Ok(None) };
        let range = Range::PrefixAfter { prefix: walk.prefix.clone(), after };
        let query = Query { keys_only, ..Query::from(range).limit(WALK) };
        let ranged = self.store.range(query).await.map_err(failed("walk through keys"))?;
        if ranged.more {
            walk.after = ranged.kvs.last().map(|kv| kv.key.to_string());
        }
        Ok(Some(ranged.kvs))
    }
}

/// Where we are among the keys with a prefix.
struct Walk {
    prefix: String,
    after: Option<String>,
}

impl Walk {
    fn of(prefix: impl Into<String>) -> Self {
        let prefix = prefix.into();
        Self { after: Some(prefix.clone()), prefix }
    }
}

fn blob_key(repository: &Repository, digest: &Digest) -> String {
    format!("blob/{repository}:{digest}")
}

fn manifest_key(repository: &Repository, digest: &Digest) -> String {
    format!("manifest/{repository}:{digest}")
}

fn tag_key(repository: &Repository, tag: &str) -> String {
    format!("tag/{repository}:{tag}")
}

fn referrer_key(repository: &Repository, subject: &Digest, digest: &Digest) -> String {
    format!("referrer/{repository}:{subject}:{digest}")
}

fn decode<T: DeserializeOwned>(kv: &Kv) -> Result<T, Error> {
    store::decode(VERSION, &kv.key, &kv.value).map_err(failed("read a record"))
}

fn failed(action: &str) -> impl FnOnce(store::Error) -> Error {
    let action = action.to_owned();
    move |source| Error::Metadata { action, source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use store::MemoryStore;

    use super::*;

    fn repository(name: &str) -> Repository {
        name.parse().unwrap()
    }

    #[tokio::test]
    async fn a_manifest_leaves_with_all_its_tags_and_nothing_else() {
        let metadata = Metadata::on(Arc::new(MemoryStore::new()));
        let (cats, dogs) = (repository("ann/cats"), repository("ann/cats-and-dogs"));
        let (old, new) = (Digest::of(b"old"), Digest::of(b"new"));
        let record =
            ManifestRecord { media_type: MediaType::OCI_MANIFEST.into(), size: 3, subject: None };
        let names: Vec<String> = (0..250).map(|n| format!("v{n:03}")).collect();
        for tags in names.chunks(10) {
            metadata.put_manifest(&cats, &old, &record, tags, None).await.unwrap();
        }
        metadata.put_manifest(&dogs, &old, &record, &["v001".to_owned()], None).await.unwrap();
        metadata.put_manifest(&cats, &new, &record, &["latest".to_owned()], None).await.unwrap();
        let (page, more) = metadata.tags(&cats, "v003", 2).await.unwrap();
        assert_eq!((page, more), (vec!["v004".to_owned(), "v005".to_owned()], true));
        assert!(metadata.remove_manifest(&cats, &old).await.unwrap());
        assert!(!metadata.remove_manifest(&cats, &old).await.unwrap());
        assert_eq!(
            metadata.tags(&cats, "", 1000).await.unwrap(),
            (vec!["latest".to_owned()], false)
        );
        assert_eq!(metadata.tag(&dogs, "v001").await.unwrap(), Some(old));
        assert_eq!(metadata.manifest(&cats, &new).await.unwrap(), Some(record));
    }

    #[tokio::test]
    async fn a_repository_is_made_by_its_first_blob_and_stays_as_visible_as_it_was_set() {
        let metadata = Metadata::on(Arc::new(MemoryStore::new()));
        let cats = repository("ann/cats");
        assert_eq!(metadata.repository(&cats).await.unwrap(), None);
        metadata.add_blob(&cats, &Digest::of(b"1"), 1).await.unwrap();
        assert_eq!(
            metadata.repository(&cats).await.unwrap(),
            Some(RepositoryRecord { public: false })
        );
        metadata.set_public(&cats, true).await.unwrap();
        metadata.add_blob(&cats, &Digest::of(b"2"), 1).await.unwrap();
        assert_eq!(
            metadata.repository(&cats).await.unwrap(),
            Some(RepositoryRecord { public: true })
        );
        let ann = "ann".parse().unwrap();
        assert!(metadata.blob_of(&ann, &Digest::of(b"2")).await.unwrap().is_some());
        assert!(
            metadata.blob_of(&"an".parse().unwrap(), &Digest::of(b"2")).await.unwrap().is_none()
        );
        assert!(metadata.remove_blob(&cats, &Digest::of(b"2")).await.unwrap());
        assert!(metadata.blob_of(&ann, &Digest::of(b"2")).await.unwrap().is_none());
    }
}
