//! What is retained of repositories, and when their manifests were pulled.

use futures_util::{StreamExt, stream};
use spec::{Digest, Timestamp};
use store::{Compare, Query, Txn};

use super::{
    contents::manifest_key,
    metadata::{Metadata, VERSION, decode},
    records::ManifestRecord,
};
use crate::{
    Error, Repository,
    limits::{PULLS_WRITTEN_AT_ONCE, PUT_TRIES_MAX},
    protocol::Retention,
};

impl Metadata {
    /// What every name retains that retains anything.
    pub async fn retentions(&self) -> Result<Vec<(String, Retention)>, Error> {
        let mut all = Vec::new();
        self.scan("retention/", false, |kv| {
            if let Some(name) = kv.key.strip_prefix("retention/") {
                all.push((name.to_owned(), decode(kv)?));
            }
            Ok(())
        })
        .await?;
        Ok(all)
    }

    /// Changes what a name retains, and returns what that is then; nothing when `change` refuses.
    pub async fn change_retention(
        &self,
        name: &str,
        change: impl Fn(&mut Retention) -> bool,
    ) -> Result<Option<Retention>, Error> {
        let key = format!("retention/{name}");
        for _ in 0..PUT_TRIES_MAX {
            let found = self.range(Query::key(&*key), "look up a retention").await?;
            let mut retention =
                found.first().map(|kv| decode::<Retention>(kv)).transpose()?.unwrap_or_default();
            if !change(&mut retention) {
                return Ok(None);
            }
            let rev = found.first().map_or(0, |kv| kv.mod_rev);
            let txn = Txn::new().when(Compare::ModRev(key.clone(), rev));
            let txn = match retention.is_empty() {
                true => txn.delete(&*key),
                false => txn.put(&*key, store::encode(VERSION, &retention)),
            };
            if self.commit_deletion(txn, "set a retention").await? {
                return Ok(Some(retention));
            }
        }
        Err(Error::Contended { repository: name.to_owned() })
    }

    /// Writes down when manifests were pulled. One that changes at this moment is left as it is:
    /// it was pushed.
    pub async fn note_pulls(
        &self,
        pulls: impl IntoIterator<Item = ((Repository, Digest), Timestamp)>,
    ) -> Result<(), Error> {
        let noted = stream::iter(pulls).map(|((repository, digest), at)| async move {
            let key = manifest_key(&repository, &digest);
            let found = self.range(Query::key(&*key), "look up a manifest").await?;
            let Some(kv) = found.first() else { return Ok(()) };
            let record = ManifestRecord { pulled: Some(at), ..decode(kv)? };
            let txn = Txn::new().when(Compare::ModRev(key.clone(), kv.mod_rev));
            let txn = txn.put(key, store::encode(VERSION, &record));
            self.commit(txn, "note a pull").await.map(drop)
        });
        let mut noted = noted.buffer_unordered(PULLS_WRITTEN_AT_ONCE);
        while let Some(result) = noted.next().await {
            result?;
        }
        Ok(())
    }
}
