use std::{collections::BTreeMap, path::Path, sync::Arc};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use spec::{Digest, MediaType, Tenant};
use store::{Compare, Kv, Query, Range, Ranged, SqliteStore, Store, Txn};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    Error, Repository,
    limits::{DELETED_PER_TRANSACTION, SCAN_PAGE},
};

/// The format version of every record.
pub(super) const VERSION: u8 = 1;

/// The records of a registry: users, repositories, and which repository has which blob, manifest
/// and tag.
///
/// ```text
/// user/NAME                           password hash
/// robot/NAME+ROBOT                    hash of its secret, scope, expiry
/// revoked/MACHINE                     until when its tokens were minted that are refused
/// repository/NAME                     whether it is public
/// blob/NAME:DIGEST                    membership: decides about access, never the digest alone
/// manifest/NAME:DIGEST                media type, size, subject; the bytes are a blob
/// tag/NAME:TAG                        digest
/// referrer/NAME:SUBJECT:DIGEST        descriptor of a manifest whose subject is SUBJECT
/// ```
#[derive(Clone)]
pub(crate) struct Metadata {
    store: Arc<dyn Store>,
    /// Counts changes of accounts, for what goes on in the name of one.
    pub(super) accounts: watch::Sender<u64>,
    /// Set when a commit found the store broken: only a new process can open it again.
    broken: CancellationToken,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct User {
    /// A PHC string, which states the parameters that it was made with.
    pub password: String,
    /// Another one with each password: tokens name it.
    #[serde(default)]
    pub serial: String,
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

/// An entry of the list of referrers, as it is sent.
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

/// One page of a list, in the order of the keys.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ListPage<T> {
    pub entries: Vec<T>,
    /// Whether there are entries after these.
    pub more: bool,
}

impl Referrer {
    /// The length of its record, where a control character in an annotation takes six bytes.
    pub fn record_bytes(&self) -> usize {
        store::encode(VERSION, self).len()
    }
}

impl Metadata {
    /// Opens or creates the database of a registry in `data_dir`.
    pub fn open(data_dir: &Path) -> Result<Self, Error> {
        let store =
            SqliteStore::open(&data_dir.join("registry.db")).map_err(failed("open a database"))?;
        Ok(Self::on(Arc::new(store)))
    }

    pub fn on(store: Arc<dyn Store>) -> Self {
        Self { store, accounts: watch::Sender::new(0), broken: CancellationToken::new() }
    }

    /// Whether a commit has found the store broken.
    pub fn is_broken(&self) -> bool {
        self.broken.is_cancelled()
    }

    /// Waits until a commit finds the store broken.
    pub async fn broken(&self) -> Error {
        self.broken.cancelled().await;
        failed("go on")(store::Error::Broken)
    }

    // Users

    pub async fn user(&self, name: &Tenant) -> Result<Option<User>, Error> {
        self.get(format!("user/{name}")).await
    }

    pub async fn put_user(&self, name: &Tenant, user: &User) -> Result<(), Error> {
        let txn = Txn::new().put(format!("user/{name}"), store::encode(VERSION, user));
        self.commit(txn, "store a user").await?;
        self.accounts.send_modify(|changes| *changes += 1);
        Ok(())
    }

    /// Whether the user existed.
    pub async fn remove_user(&self, name: &Tenant) -> Result<bool, Error> {
        let removed = self.remove(format!("user/{name}"), Txn::new()).await?;
        self.accounts.send_modify(|changes| *changes += 1);
        Ok(removed)
    }

    pub async fn users(&self) -> Result<Vec<Tenant>, Error> {
        let mut users = Vec::new();
        self.scan("user/", true, |kv| {
            users.extend(kv.key.strip_prefix("user/").and_then(|name| name.parse().ok()));
            Ok(())
        })
        .await?;
        Ok(users)
    }

    // Repositories

    pub async fn repository(&self, name: &Repository) -> Result<Option<RepositoryRecord>, Error> {
        self.get(format!("repository/{name}")).await
    }

    /// A repository that does not exist is not public.
    pub async fn is_public(&self, name: &Repository) -> Result<bool, Error> {
        Ok(self.repository(name).await?.is_some_and(|record| record.public))
    }

    pub async fn set_public(&self, name: &Repository, public: bool) -> Result<(), Error> {
        let record = store::encode(VERSION, &RepositoryRecord { public });
        let txn = Txn::new().put(format!("repository/{name}"), record);
        self.commit(txn, "set the visibility").await.map(drop)
    }

    /// At most `limit` repositories that start with `prefix`, after `last`.
    pub async fn repositories(
        &self,
        prefix: &str,
        last: &str,
        limit: usize,
    ) -> Result<ListPage<(Repository, RepositoryRecord)>, Error> {
        let range = Range::PrefixAfter {
            prefix: format!("repository/{prefix}"),
            after: format!("repository/{last}"),
        };
        let ranged = self.range(Query::from(range).limit(limit), "list repositories").await?;
        let records = ranged.kvs.iter().filter_map(|kv| {
            let name = kv.key.strip_prefix("repository/")?.parse().ok()?;
            Some(decode(kv).map(|record| (name, record)))
        });
        Ok(ListPage { entries: records.collect::<Result<_, _>>()?, more: ranged.more })
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
        let txn = Txn::new().put(blob_key(repository, digest), membership);
        self.commit_in(repository, txn, "add a blob").await
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
        // At most one page of look-ups: a user with more repositories may have to send the blob.
        let page = self.repositories(&format!("{user}/"), "", SCAN_PAGE).await?;
        for (repository, _) in page.entries {
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

    /// Adds a manifest, the tags that now point to it, and its entry among the referrers of its
    /// subject, in one transaction.
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
        let tagged = store::encode(VERSION, &TagRecord { digest: *digest });
        for tag in tags {
            txn = txn.put(tag_key(repository, tag), tagged.clone());
        }
        if let (Some(subject), Some(referrer)) = (&record.subject, referrer) {
            txn = txn
                .put(referrer_key(repository, subject, digest), store::encode(VERSION, referrer));
        }
        self.commit_in(repository, txn, "add a manifest").await
    }

    /// Removes a manifest and the tags that point to it. Tags first, so that none is ever left
    /// without its manifest. Whether the repository had it.
    pub async fn remove_manifest(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<bool, Error> {
        let Some(record) = self.manifest(repository, digest).await? else { return Ok(false) };
        let mut tags: Vec<String> = Vec::new();
        self.scan(&format!("tag/{repository}:"), false, |kv| {
            if decode::<TagRecord>(kv)?.digest == *digest {
                tags.push(kv.key.to_string());
            }
            Ok(())
        })
        .await?;
        for batch in tags.chunks(DELETED_PER_TRANSACTION) {
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

    // Keys

    pub(super) async fn range(&self, query: Query, action: &'static str) -> Result<Ranged, Error> {
        self.store.range(query).await.map_err(failed(action))
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, key: String) -> Result<Option<T>, Error> {
        let ranged = self.range(Query::key(key), "look up a key").await?;
        ranged.first().map(|kv| decode(kv)).transpose()
    }

    /// Deletes `key`, with `also` in the same transaction. Whether it existed.
    pub(super) async fn remove(&self, key: String, also: Txn) -> Result<bool, Error> {
        let txn = also.when(Compare::ModRev(key.clone(), self.mod_rev(&key).await?));
        let there = !txn.compares.contains(&Compare::ModRev(key.clone(), 0));
        // A transaction that lost against a concurrent change leaves that change in place.
        Ok(there && self.commit(txn.delete(key), "delete").await?)
    }

    async fn mod_rev(&self, key: &str) -> Result<store::Rev, Error> {
        let ranged = self.range(Query::key(key).keys_only(), "look up a key").await?;
        Ok(ranged.first().map_or(0, |kv| kv.mod_rev))
    }

    /// Commits `txn`, with the repository's record if it does not exist yet.
    async fn commit_in(
        &self,
        repository: &Repository,
        txn: Txn,
        action: &'static str,
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

    pub(super) async fn commit(&self, txn: Txn, action: &'static str) -> Result<bool, Error> {
        let committed = self.store.txn(txn).await;
        if matches!(committed, Err(store::Error::Broken)) {
            self.broken.cancel();
        }
        Ok(committed.map_err(failed(action))?.succeeded)
    }

    /// Calls `visit` for every key that starts with `prefix`, page by page.
    pub(super) async fn scan(
        &self,
        prefix: &str,
        keys_only: bool,
        mut visit: impl FnMut(&Kv) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut after = prefix.to_owned();
        loop {
            let range = Range::PrefixAfter { prefix: prefix.to_owned(), after };
            let query = Query { keys_only, ..Query::from(range).limit(SCAN_PAGE) };
            let ranged = self.range(query, "scan keys").await?;
            ranged.kvs.iter().try_for_each(|kv| visit(kv))?;
            match ranged.kvs.last().filter(|_| ranged.more) {
                Some(last) => after = last.key.to_string(),
                None => return Ok(()),
            }
        }
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

pub(super) fn decode<T: DeserializeOwned>(kv: &Kv) -> Result<T, Error> {
    store::decode(VERSION, &kv.key, &kv.value).map_err(failed("read a record"))
}

fn failed(action: &'static str) -> impl FnOnce(store::Error) -> Error {
    move |source| Error::Metadata { action, source }
}

#[cfg(test)]
mod tests {
    use store::MemoryStore;

    use super::*;

    fn repository(name: &str) -> Repository {
        name.parse().unwrap()
    }

    #[tokio::test]
    async fn a_manifest_is_removed_with_all_of_its_tags_and_no_other() {
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
        let page = metadata.tags(&cats, "v003", 2).await.unwrap();
        assert_eq!((page.entries, page.more), (vec!["v004".to_owned(), "v005".to_owned()], true));
        assert!(metadata.remove_manifest(&cats, &old).await.unwrap());
        assert!(!metadata.remove_manifest(&cats, &old).await.unwrap());
        let page = metadata.tags(&cats, "", 1000).await.unwrap();
        assert_eq!((page.entries, page.more), (vec!["latest".to_owned()], false));
        assert_eq!(metadata.tag(&dogs, "v001").await.unwrap(), Some(old));
        assert_eq!(metadata.manifest(&cats, &new).await.unwrap(), Some(record));
    }

    #[tokio::test]
    async fn the_first_blob_creates_a_repository_and_the_next_keeps_its_visibility() {
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
