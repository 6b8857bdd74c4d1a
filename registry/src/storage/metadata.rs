use std::{collections::HashMap, path::Path, sync::Arc};

use serde::de::DeserializeOwned;
use spec::{Digest, Tenant};
use store::{Compare, Kv, Query, Range, Ranged, Seal, SqliteStore, Store, Txn};
use tokio::sync::{OnceCell, watch};
use tokio_util::sync::CancellationToken;

use super::{
    damaged::Damaged,
    policy_table::Policies,
    records::{Membership, RepositoryRecord, TagRecord, User},
    reserve::Reserve,
    rules::Rules,
    upstream_table::Upstreams,
    usage::{AccountUsage, Counts, Usage, account_of},
    webhook_table::Webhooks,
};
use crate::{Error, Repository, key_file, key_file::SECRET_KEY, limits::SCAN_PAGE};

/// The format version of every record but those of tags.
pub(super) const VERSION: u8 = 1;

/// The format version of the record of a tag: since 2 each tag has an entry below its manifest,
/// without which the manifest would be deleted and the tag stay. An older registry refuses it by
/// name.
pub(super) const TAG_VERSION: u8 = 2;

/// The records of a registry: users, repositories, and which repository has which blob, manifest
/// and tag.
///
/// ```text
/// user/NAME                           password hash
/// robot/NAME+ROBOT                    hash of its secret, scope, expiry
/// operator/NAME                       that the user administers the registry
/// rate-limits                         requests that clients may send each second
/// organisation/NAME                  when it was made
/// team/ACCOUNT/TEAM                   its members
/// policy/PATTERN SUBJECT              roles of the subject in the repositories of the pattern
/// revoked/MACHINE                     until when its tokens were minted that are refused
/// moving/USER                         to which user its repositories are being handed over
/// damaged/DIGEST                     whose bytes were found missing or wrong
/// read-only                           that no client changes anything
/// sparse                              that a manifest may name what its repository lacks
/// anonymous-push                      that a client without a login may do everything
/// access-log                          that each request has a line in the access log
/// attach-scans                        that what a scan has found is attached to the image
/// immutable/NAME                      that its tags stay as they were set, and which do not
/// retention/NAME                      which tags and manifests of an account, a repository, or all
///                                     stay
/// scrubbed                            when everything was read again, the last time
/// quota/NAME                          what an account or a repository may have
/// repository/NAME                     whether it is public
/// blob/NAME:DIGEST                    membership: decides about access, never the digest alone
/// manifest/NAME:DIGEST                media type, size, subject, links, when it was pushed and
///                                     pulled; the bytes are a blob
/// image/NAME:DIGEST                   what was read in the bytes of an image
/// scan-policy/PATTERN                 for which vulnerabilities images are refused
/// signature/PATTERN                   which keys must have signed what is pulled
/// webhook/ACCOUNT/NAME                its URL and sealed secret, and which events it is told
/// outbox/ACCOUNT/NAME:TIME-ID          an event that waits for its delivery
/// deliveries/ACCOUNT/NAME             the last tries
/// upstream/NAME                       registry whose images are fetched below NAME/, and its
///                                     sealed login
/// surveyed                            until when manifests were pushed that have been read
/// tag/NAME:TAG                        digest, when it was set
/// tagged/NAME:START:TAG               that a manifest whose digest starts so has, or had, the tag
/// referrer/NAME:SUBJECT:DIGEST        descriptor of a manifest whose subject is SUBJECT
/// ```
#[derive(Clone)]
pub(crate) struct Metadata {
    store: Arc<dyn Store>,
    /// Counts changes of accounts, for what goes on in the name of one.
    pub(super) accounts: watch::Sender<u64>,
    /// Set when a commit found the store broken: only a new process can open it again.
    broken: CancellationToken,
    /// Given back when a deletion finds no space.
    reserve: Option<Arc<Reserve>>,
    pub(super) usage: Arc<Usage>,
    pub(super) damaged: Arc<Damaged>,
    pub rules: Arc<Rules>,
    pub(super) policies: Arc<Policies>,
    pub webhooks: Arc<Webhooks>,
    pub upstreams: Arc<Upstreams>,
    /// Of passwords of other registries.
    pub(super) seal: Arc<Seal>,
}

/// One page of a list, in the order of the keys.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ListPage<T> {
    pub entries: Vec<T>,
    /// Whether there are entries after these.
    pub more: bool,
}

impl Metadata {
    /// Opens or creates the database of a registry in `data_dir`.
    pub fn open(data_dir: &Path) -> Result<Self, Error> {
        let store =
            SqliteStore::open(&data_dir.join("registry.db")).map_err(failed("open a database"))?;
        let reserve = Some(Arc::new(Reserve::open(data_dir)));
        let seal = Arc::new(seal(&key_file::open(&data_dir.join(SECRET_KEY))?));
        Ok(Self { reserve, seal, ..Self::on(Arc::new(store)) })
    }

    /// With a key that is of no other: for a store in memory.
    pub fn on(store: Arc<dyn Store>) -> Self {
        let mut key = [0; key_file::KEY_BYTES];
        getrandom::fill(&mut key).expect("the kernel gives random numbers");
        Self {
            store,
            accounts: watch::Sender::new(0),
            broken: CancellationToken::new(),
            reserve: None,
            usage: Arc::default(),
            damaged: Arc::default(),
            rules: Arc::default(),
            policies: Arc::default(),
            webhooks: Arc::default(),
            upstreams: Arc::default(),
            seal: Arc::new(seal(&key)),
        }
    }

    /// The space that is kept for deletions.
    pub fn reserve(&self) -> Option<&Arc<Reserve>> {
        self.reserve.as_ref()
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

    /// A repository that does not exist is not public, unless it can be fetched from an upstream
    /// that is.
    pub async fn is_public(&self, name: &Repository) -> Result<bool, Error> {
        let record = self.repository(name).await?;
        Ok(record.map_or_else(|| self.upstreams.is_public(name), |record| record.public))
    }

    pub async fn set_public(&self, name: &Repository, public: bool) -> Result<(), Error> {
        self.make_repository(name).await?;
        let record = store::encode(VERSION, &RepositoryRecord { public });
        let txn = Txn::new().put(format!("repository/{name}"), record);
        self.commit(txn, "set the visibility").await?;
        self.accounts.send_modify(|changes| *changes += 1);
        Ok(())
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

    // Keys

    pub(super) async fn range(&self, query: Query, action: &'static str) -> Result<Ranged, Error> {
        self.store.range(query).await.map_err(failed(action))
    }

    /// Every record, as they were at one moment.
    pub async fn everything(&self) -> Result<Vec<Arc<Kv>>, Error> {
        let all = Range::Prefix(String::new());
        Ok(self.range(Query::from(all), "read all records").await?.kvs)
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
        Ok(there && self.commit_deletion(txn.delete(key), "delete").await?)
    }

    pub(super) async fn mod_rev(&self, key: &str) -> Result<store::Rev, Error> {
        let ranged = self.range(Query::key(key).keys_only(), "look up a key").await?;
        Ok(ranged.first().map_or(0, |kv| kv.mod_rev))
    }

    /// Makes the record of a repository, if it does not exist yet.
    pub(super) async fn make_repository(&self, repository: &Repository) -> Result<(), Error> {
        let key = format!("repository/{repository}");
        if self.mod_rev(&key).await? != 0 {
            return Ok(());
        }
        let record = RepositoryRecord { public: self.upstreams.is_public(repository) };
        let record = store::encode(VERSION, &record);
        let txn = Txn::new().when(Compare::Absent(key.clone())).put(key, record);
        let more = Counts { repositories: 1, ..Counts::default() };
        self.commit_more(repository, more, txn, "add a repository").await.map(drop)
    }

    /// The counters of the account of a repository.
    pub(super) async fn counted(
        &self,
        account: &str,
    ) -> Result<Arc<OnceCell<AccountUsage>>, Error> {
        let cell = self.usage.account(account);
        cell.get_or_try_init(|| self.count(account)).await?;
        Ok(cell)
    }

    /// Counts what an account has, from its records.
    async fn count(&self, account: &str) -> Result<AccountUsage, Error> {
        let mut found: HashMap<String, Counts> = HashMap::new();
        for family in ["repository/", "blob/", "manifest/", "tag/"] {
            // The repositories below its name, and the one that has no more than its name.
            for end in ["/", ":"] {
                let keys_only = matches!(family, "repository/" | "tag/");
                self.scan(&format!("{family}{account}{end}"), keys_only, |kv| {
                    let rest = &kv.key[family.len()..];
                    let name = rest.split_once(':').map_or(rest, |(name, _)| name);
                    let counts = found.entry(name.to_owned()).or_default();
                    match family {
                        "repository/" => counts.repositories += 1,
                        "tag/" => counts.tags += 1,
                        _ => counts.bytes += decode::<Membership>(kv)?.size,
                    }
                    Ok(())
                })
                .await?;
            }
        }
        let key = format!("repository/{account}");
        if self.mod_rev(&key).await? != 0 {
            found.entry(account.to_owned()).or_default().repositories += 1;
        }
        let named =
            found.into_iter().filter_map(|(name, counts)| Some((name.parse().ok()?, counts)));
        Ok(AccountUsage::new(named))
    }

    /// Commits `txn`, and counts `more` in a repository if its compares held; unless a quota does
    /// not allow it. Counts also when the request has gone meanwhile: a transaction that was handed
    /// over happens.
    pub(super) async fn commit_more(
        &self,
        repository: &Repository,
        more: Counts,
        txn: Txn,
        action: &'static str,
    ) -> Result<bool, Error> {
        let account = self.counted(account_of(repository)).await?;
        let hold = self.usage.hold(repository, more)?;
        let (this, repository) = (self.clone(), repository.clone());
        carried_out(async move {
            let committed = this.commit(txn, action).await?;
            if committed && let Some(account) = account.get() {
                account.add(&repository, more);
            }
            drop(hold);
            Ok(committed)
        })
        .await
    }

    /// Commits a deletion, and counts `less` in a repository if its compares held.
    pub(super) async fn commit_less(
        &self,
        repository: &Repository,
        less: Counts,
        txn: Txn,
        action: &'static str,
    ) -> Result<bool, Error> {
        let account = self.counted(account_of(repository)).await?;
        let (this, repository) = (self.clone(), repository.clone());
        carried_out(async move {
            let committed = this.commit_deletion(txn, action).await?;
            if committed && let Some(account) = account.get() {
                account.subtract(&repository, less);
            }
            Ok(committed)
        })
        .await
    }

    /// Commits `txn`, which makes space, also where there is none.
    pub(super) async fn commit_deletion(
        &self,
        txn: Txn,
        action: &'static str,
    ) -> Result<bool, Error> {
        let committed = self.commit(txn.clone(), action).await;
        match (&committed, &self.reserve) {
            (Err(Error::Metadata { source: store::Error::Unavailable { .. }, .. }), Some(kept))
                if kept.give_back() =>
            {
                self.commit(txn, action).await
            }
            _ => committed,
        }
    }

    pub(super) async fn commit(&self, txn: Txn, action: &'static str) -> Result<bool, Error> {
        let committed = self.store.txn(txn).await;
        if matches!(committed, Err(store::Error::Broken)) {
            self.broken.cancel();
        }
        Ok(committed.map_err(failed(action))?.succeeded)
    }

    /// Calls `visit` for every key that starts with `prefix`, page by page; other tasks go on
    /// between two pages.
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
            tokio::task::yield_now().await;
        }
    }
}

/// Goes on to its end when its caller has gone.
pub(super) async fn carried_out<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::spawn(work).await;
    done.unwrap_or_else(|_| Err(failed("wait for a commit")(store::Error::Unknown)))
}

pub(super) fn decode<T: DeserializeOwned>(kv: &Kv) -> Result<T, Error> {
    store::decode(VERSION, &kv.key, &kv.value).map_err(failed("read a record"))
}

pub(super) fn decode_tag(kv: &Kv) -> Result<TagRecord, Error> {
    store::decode(TAG_VERSION, &kv.key, &kv.value).map_err(failed("read a record"))
}

fn seal(key: &[u8]) -> Seal {
    Seal::new(key, "passwords of other registries at rest, version 1")
}

pub(super) fn failed(action: &'static str) -> impl FnOnce(store::Error) -> Error {
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
