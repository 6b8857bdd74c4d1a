//! Passwords of other registries and keys of signatures, which are sealed in the database.

use std::sync::Arc;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use store::{Kv, Sealed};

use super::{
    metadata::{Metadata, failed},
    upstream_table::UpstreamRecord,
    webhook_table::WebhookRecord,
};
use crate::Error;

/// The format version of these records: in those of version 1 the secret is in the clear. An older
/// registry refuses version 2 by name, rather than to log in without a password.
const SEALED_VERSION: u8 = 2;

/// A record that may have a secret.
pub(super) trait Secretive {
    fn secret(&mut self) -> Option<&mut String>;
}

/// How the secret of a record was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Opened, or there is none.
    Opened,
    /// As an older registry wrote it.
    InTheClear,
    /// Sealed with another key. The record has an empty one.
    Closed,
}

/// A record as it is in the database.
#[derive(Serialize, Deserialize)]
struct Stored<R> {
    #[serde(flatten)]
    record: R,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<Sealed>,
}

impl Secretive for UpstreamRecord {
    fn secret(&mut self) -> Option<&mut String> {
        self.wanted.login.as_mut().map(|login| &mut login.password)
    }
}

impl Secretive for WebhookRecord {
    fn secret(&mut self) -> Option<&mut String> {
        match &mut self.replica {
            Some(replica) => replica.login.as_mut().map(|login| &mut login.password),
            None => Some(&mut self.secret),
        }
    }
}

impl Metadata {
    /// A record for the database, under `key`, which it is sealed for.
    pub(super) fn encode_sealed<R>(&self, key: &str, record: &R) -> Arc<[u8]>
    where
        R: Secretive + Serialize + Clone,
    {
        let mut record = record.clone();
        let secret = record.secret().map(std::mem::take);
        let sealed = secret.map(|secret| self.seal.close(key, secret.as_bytes()));
        store::encode(SEALED_VERSION, &Stored { record, sealed })
    }

    /// A record of the database.
    pub(super) fn decode_sealed<R>(&self, kv: &Kv) -> Result<(R, Found), Error>
    where
        R: Secretive + DeserializeOwned,
    {
        let stored = store::decode(SEALED_VERSION, &kv.key, &kv.value);
        let Stored { mut record, sealed } = stored.map_err(failed("read a record"))?;
        let Some(secret) = R::secret(&mut record) else { return Ok((record, Found::Opened)) };
        let Some(sealed) = sealed else { return Ok((record, Found::InTheClear)) };
        let opened = self.seal.open(&kv.key, &sealed);
        match opened.and_then(|bytes| String::from_utf8(bytes).ok()) {
            Some(opened) => {
                *secret = opened;
                Ok((record, Found::Opened))
            }
            None => {
                tracing::error!(
                    record = &*kv.key,
                    "cannot open a password: `secret.key` of the registry is not the one that it \
                     was sealed with. Put that file back and start again, or make the record anew"
                );
                Ok((record, Found::Closed))
            }
        }
    }
}

/// A start goes on when it could not seal what an older registry has written.
pub(super) fn warn_unless(sealed: Result<(), Error>) {
    if let Err(error) = sealed {
        tracing::warn!(%error, "a password stays in the clear in the database until the next start");
    }
}

#[cfg(test)]
mod tests {
    use spec::{Tenant, Timestamp};
    use store::{MemoryStore, Query, Store, Txn};

    use super::*;
    use crate::protocol::{NewUpstream, RegistryLogin};

    const PASSWORD: &str = "correct horse";

    fn record() -> UpstreamRecord {
        let login = RegistryLogin { username: "ann".to_owned(), password: PASSWORD.to_owned() };
        let wanted = NewUpstream {
            url: "https://example.com".to_owned(),
            repositories: Vec::new(),
            ttl_seconds: 1,
            public: false,
            private: false,
            login: Some(login),
        };
        UpstreamRecord { wanted, created: Timestamp::from_millis(1) }
    }

    async fn value(store: &Arc<MemoryStore>, key: &str) -> Arc<[u8]> {
        let found = store.range(Query::key(key)).await.unwrap();
        Arc::clone(&found.first().unwrap().value)
    }

    fn shows_password(value: &[u8]) -> bool {
        memchr::memmem::find(value, PASSWORD.as_bytes()).is_some()
    }

    #[tokio::test]
    async fn a_password_in_the_clear_is_sealed_at_the_next_start() {
        let store = Arc::new(MemoryStore::new());
        let metadata = Metadata::on(store.clone());
        let old = store::encode(1, &record());
        assert!(shows_password(&old));
        store.txn(Txn::new().put("upstream/hub", old)).await.unwrap();
        for start in 0..2 {
            metadata.load_upstreams().await.unwrap();
            let hub: Tenant = "hub".parse().unwrap();
            assert_eq!(metadata.upstreams.get(&hub).unwrap().record, record(), "start {start}");
            let kept = value(&store, "upstream/hub").await;
            assert!(!shows_password(&kept) && kept[0] == SEALED_VERSION, "start {start}");
        }
    }

    #[tokio::test]
    async fn a_password_opens_with_its_key_for_its_record_alone_and_is_kept_otherwise() {
        let store = Arc::new(MemoryStore::new());
        let (metadata, other) = (Metadata::on(store.clone()), Metadata::on(store.clone()));
        let (hub, twin): (Tenant, Tenant) = ("hub".parse().unwrap(), "twin".parse().unwrap());
        metadata.put_upstream(&hub, record()).await.unwrap();
        let sealed = value(&store, "upstream/hub").await;
        store.txn(Txn::new().put("upstream/twin", Arc::clone(&sealed))).await.unwrap();
        let password = |metadata: &Metadata, name: &Tenant| {
            let upstream = metadata.upstreams.get(name).unwrap();
            let failure = upstream.info().last_failure.map(|failure| failure.error);
            (upstream.record.wanted.login.clone().unwrap().password, failure.is_some())
        };
        metadata.load_upstreams().await.unwrap();
        assert_eq!(password(&metadata, &hub), (PASSWORD.to_owned(), false));
        assert_eq!(password(&metadata, &twin), (String::new(), true));
        other.load_upstreams().await.unwrap();
        assert_eq!(password(&other, &hub), (String::new(), true));
        assert_eq!(value(&store, "upstream/hub").await, sealed, "for when its key is back");
    }
}
