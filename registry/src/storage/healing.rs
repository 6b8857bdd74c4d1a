//! Blobs and manifests whose bytes were found missing or wrong: they are not vouched for, until a
//! push brings the bytes again.

use std::time::SystemTime;

use spec::{Digest, Timestamp};
use store::{Query, Range, Txn};

use super::{
    contents::{blob_key, manifest_key},
    damaged::DamageRecord,
    metadata::{Metadata, VERSION, decode},
    records::Membership,
};
use crate::{Error, limits::SCAN_PAGE, protocol::Fault};

/// When everything was read again, the last time.
const SCRUBBED: &str = "scrubbed";

/// Some of what repositories have, with sizes, and where the next are.
pub(crate) struct StoredPage {
    pub stored: Vec<(Digest, u64)>,
    pub last: String,
}

impl Metadata {
    /// Takes what is damaged into memory.
    pub async fn load_damaged(&self) -> Result<(), Error> {
        self.scan("damaged/", false, |kv| {
            if let Some(digest) = kv.key.strip_prefix("damaged/").and_then(|name| name.parse().ok())
            {
                let record = decode(kv)?;
                self.damaged.change(|digests| {
                    digests.insert(digest, record);
                });
            }
            Ok(())
        })
        .await
    }

    pub fn is_damaged(&self, digest: &Digest) -> bool {
        self.damaged.contains(digest)
    }

    /// Whether any repository has a blob or a manifest of this digest.
    pub async fn is_named(&self, digest: &Digest) -> Result<bool, Error> {
        let mut last = String::new();
        loop {
            let page = self.repositories("", &last, SCAN_PAGE).await?;
            for (repository, _) in &page.entries {
                for key in [blob_key(repository, digest), manifest_key(repository, digest)] {
                    if self.mod_rev(&key).await? != 0 {
                        return Ok(true);
                    }
                }
            }
            match page.entries.last().filter(|_| page.more) {
                Some((repository, _)) => repository.as_str().clone_into(&mut last),
                None => return Ok(false),
            }
            tokio::task::yield_now().await;
        }
    }

    pub fn damaged(&self) -> Vec<(Digest, DamageRecord)> {
        let mut all: Vec<_> = self.damaged.lock().iter().map(|(d, record)| (*d, *record)).collect();
        all.sort_by_key(|(digest, _)| *digest);
        all
    }

    pub fn damaged_count(&self) -> usize {
        self.damaged.lock().len()
    }

    /// From now on the digest is not vouched for.
    pub async fn note_damaged(&self, digest: &Digest, fault: Fault) -> Result<(), Error> {
        let record = DamageRecord { fault, found: Timestamp::of(SystemTime::now()) };
        self.damaged.change(|digests| {
            digests.insert(*digest, record);
        });
        let txn = Txn::new().put(format!("damaged/{digest}"), store::encode(VERSION, &record));
        self.commit(txn, "note a damaged blob").await.map(drop)
    }

    /// The bytes of a digest are there again.
    pub async fn heal(&self, digest: &Digest) -> Result<(), Error> {
        if !self.is_damaged(digest) {
            return Ok(());
        }
        let txn = Txn::new().delete(format!("damaged/{digest}"));
        self.commit_deletion(txn, "note a healed blob").await?;
        self.damaged.change(|digests| {
            digests.remove(digest);
        });
        tracing::info!(%digest, "a damaged blob was pushed again");
        Ok(())
    }

    /// The blobs and manifests of all repositories, some at a time. One that several have comes
    /// several times.
    pub async fn stored_after(&self, last: Option<String>) -> Result<Option<StoredPage>, Error> {
        let mut after = last.unwrap_or_else(|| "blob/".to_owned());
        loop {
            let family = if after.starts_with("blob/") { "blob/" } else { "manifest/" };
            let range = Range::PrefixAfter { prefix: family.to_owned(), after: after.clone() };
            let ranged = self.range(Query::from(range).limit(SCAN_PAGE), "list blobs").await?;
            if let Some(last) = ranged.kvs.last() {
                let mut stored = Vec::new();
                for kv in &ranged.kvs {
                    let digest = kv.key.split_once(':').and_then(|(_, digest)| digest.parse().ok());
                    if let Some(digest) = digest {
                        stored.push((digest, decode::<Membership>(kv)?.size));
                    }
                }
                return Ok(Some(StoredPage { stored, last: last.key.to_string() }));
            }
            if family == "manifest/" {
                return Ok(None);
            }
            "manifest/".clone_into(&mut after);
        }
    }

    pub async fn last_scrub(&self) -> Result<Option<Timestamp>, Error> {
        self.get(SCRUBBED.to_owned()).await
    }

    pub async fn note_scrub(&self, at: Timestamp) -> Result<(), Error> {
        let txn = Txn::new().put(SCRUBBED, store::encode(VERSION, &at));
        self.commit(txn, "note a scrub").await.map(drop)
    }
}
