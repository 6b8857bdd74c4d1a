//! Webhooks, and the events that wait for their delivery. An event is a record of the transaction
//! that it is about: what was acknowledged is told, also after a crash.

use std::{collections::BTreeSet, sync::atomic::Ordering, time::SystemTime};

use spec::{Digest, Tenant, Timestamp};
use store::{Compare, Query, Range, Txn};

use super::{
    metadata::{Metadata, VERSION, decode},
    sealed::{Found, warn_unless},
    webhook_table::WebhookRecord,
};
use crate::{
    Error, Repository,
    limits::{DELETED_PER_TRANSACTION, DELIVERIES_KEPT, OUTBOX_EVENTS_MAX, TAGS_LISTED_MAX},
    protocol::{
        CloudEvent, Delivery, EventData, EventKind, SYNCHRONISED, SeverityCounts, WebhookName,
    },
};

/// An event that waits, with its key.
pub(crate) struct Pending {
    pub key: String,
    pub event: CloudEvent,
}

impl Metadata {
    /// Takes the webhooks into memory, and deletes the events of those that are gone.
    pub async fn load_webhooks(&self) -> Result<(), Error> {
        let mut records = Vec::new();
        self.scan("webhook/", false, |kv| {
            let name = kv.key.strip_prefix("webhook/").and_then(|name| name.parse().ok());
            let record = |name| Ok::<_, Error>((name, self.decode_sealed::<WebhookRecord>(kv)?));
            records.extend(name.map(record).transpose()?);
            Ok(())
        })
        .await?;
        for (name, (record, found)) in records {
            let pending = self.count_pending(&name).await?;
            self.webhooks.set(&name, Some(record.clone()), pending);
            if found == Found::InTheClear {
                warn_unless(self.put_webhook(&name, record).await);
            }
        }
        let mut orphans = BTreeSet::new();
        self.scan("outbox/", true, |kv| {
            let name = kv.key.strip_prefix("outbox/").and_then(|rest| rest.split_once(':'));
            let name = name.and_then(|(name, _)| name.parse::<WebhookName>().ok());
            orphans.extend(name.filter(|name| self.webhooks.get(name).is_none()));
            Ok(())
        })
        .await?;
        for name in orphans {
            self.remove_events(&name).await?;
        }
        Ok(())
    }

    /// Adds a webhook, or replaces it.
    pub async fn put_webhook(
        &self,
        name: &WebhookName,
        record: WebhookRecord,
    ) -> Result<(), Error> {
        let key = webhook_key(name);
        let value = self.encode_sealed(&key, &record);
        let txn = Txn::new().put(key, value);
        self.commit(txn, "store a webhook").await?;
        let pending = self.count_pending(name).await?;
        self.webhooks.set(name, Some(record), pending);
        self.webhooks.changed.notify_one();
        Ok(())
    }

    /// A replication compares everything, after what waits.
    pub async fn queue_synchronisation(&self, name: &WebhookName) -> Result<(), Error> {
        let event = new_event(SYNCHRONISED.to_owned(), EventData::default());
        let txn = Txn::new().put(event_key(name, &event), store::encode(VERSION, &event));
        self.commit(txn, "queue a synchronisation").await?;
        if let Some(hook) = self.webhooks.get(name) {
            hook.pending.fetch_add(1, Ordering::SeqCst);
            hook.dropped.store(0, Ordering::SeqCst);
        }
        self.webhooks.changed.notify_one();
        Ok(())
    }

    /// Whether there was one of that name.
    pub async fn remove_webhook(&self, name: &WebhookName) -> Result<bool, Error> {
        let existed = self.webhooks.get(name).is_some();
        let txn = Txn::new().delete(webhook_key(name)).delete(deliveries_key(name));
        self.commit_deletion(txn, "remove a webhook").await?;
        self.webhooks.set(name, None, 0);
        self.remove_events(name).await?;
        Ok(existed)
    }

    /// Removes the webhooks of an account.
    pub async fn forget_webhooks(&self, account: &Tenant) -> Result<(), Error> {
        for hook in self.webhooks.all() {
            if hook.name.account == *account {
                self.remove_webhook(&hook.name).await?;
            }
        }
        Ok(())
    }

    async fn remove_events(&self, name: &WebhookName) -> Result<(), Error> {
        loop {
            let query = Query::from(Range::Prefix(outbox_prefix(name)));
            let query = query.limit(DELETED_PER_TRANSACTION).keys_only();
            let found = self.range(query, "list events").await?;
            if found.kvs.is_empty() {
                return Ok(());
            }
            let txn = found.kvs.iter().fold(Txn::new(), |txn, kv| txn.delete(&*kv.key));
            self.commit_deletion(txn, "remove events").await?;
        }
    }

    /// Adds to `txn` that webhooks are told of what it does.
    pub(super) fn telling(
        &self,
        mut txn: Txn,
        repository: &Repository,
        kind: EventKind,
        data: impl Fn() -> EventData,
    ) -> Txn {
        for hook in self.webhooks.concerned(repository, kind) {
            if hook.pending.load(Ordering::SeqCst) >= OUTBOX_EVENTS_MAX {
                let dropped = hook.dropped.fetch_add(1, Ordering::SeqCst);
                if dropped == 0 && hook.record.replica.is_some() {
                    // Everything is compared in the end.
                    let event = new_event(SYNCHRONISED.to_owned(), EventData::default());
                    txn = txn.put(event_key(&hook.name, &event), store::encode(VERSION, &event));
                }
                continue;
            }
            hook.pending.fetch_add(1, Ordering::SeqCst);
            let event = new_event(kind.type_name(), data());
            txn = txn.put(event_key(&hook.name, &event), store::encode(VERSION, &event));
        }
        txn
    }

    /// Tells of a repository that was deleted.
    pub(super) async fn tell_deleted(&self, repository: &Repository) -> Result<(), Error> {
        let data = || EventData { repository: repository.to_string(), ..EventData::default() };
        let txn = self.telling(Txn::new(), repository, EventKind::RepositoryDeleted, data);
        self.commit_deletion(txn, "note an event").await?;
        self.webhooks.changed.notify_one();
        Ok(())
    }

    /// Tells of what was found in an image.
    pub async fn tell_found(
        &self,
        repository: &Repository,
        digest: &Digest,
        findings: SeverityCounts,
    ) -> Result<(), Error> {
        let kind = EventKind::VulnerabilitiesFound;
        if self.webhooks.concerned(repository, kind).is_empty() {
            return Ok(());
        }
        let tags = self.tags_of(repository, digest, TAGS_LISTED_MAX).await?;
        let data = || EventData {
            repository: repository.to_string(),
            digest: Some(*digest),
            media_type: None,
            tags: tags.clone(),
            findings: Some(findings),
        };
        let txn = self.telling(Txn::new(), repository, kind, data);
        self.commit(txn, "note an event").await?;
        self.webhooks.changed.notify_one();
        Ok(())
    }

    /// The event of a webhook that waits for the longest time.
    pub async fn next_event(&self, name: &WebhookName) -> Result<Option<Pending>, Error> {
        let query = Query::from(Range::Prefix(outbox_prefix(name))).limit(1);
        let found = self.range(query, "look up an event").await?;
        let Some(kv) = found.first() else { return Ok(None) };
        Ok(Some(Pending { key: kv.key.to_string(), event: decode(kv)? }))
    }

    pub async fn has_event(&self, name: &WebhookName) -> Result<bool, Error> {
        let query = Query::from(Range::Prefix(outbox_prefix(name))).limit(1).keys_only();
        Ok(!self.range(query, "look for events").await?.kvs.is_empty())
    }

    pub async fn count_pending(&self, name: &WebhookName) -> Result<u64, Error> {
        let query = Query::from(Range::Prefix(outbox_prefix(name)));
        let query = query.limit(OUTBOX_EVENTS_MAX as usize).keys_only();
        Ok(self.range(query, "count events").await?.kvs.len() as u64)
    }

    /// The tries of a webhook, the newest first.
    pub async fn deliveries(&self, name: &WebhookName) -> Result<Vec<Delivery>, Error> {
        Ok(self.get(deliveries_key(name)).await?.unwrap_or_default())
    }

    /// Notes a try, and that its event does not wait any more when that is so.
    pub async fn note_delivery(
        &self,
        name: &WebhookName,
        delivery: Delivery,
        done: Option<String>,
    ) -> Result<(), Error> {
        let rev = self.mod_rev(&webhook_key(name)).await?;
        if rev == 0 {
            return Ok(());
        }
        let mut deliveries = self.deliveries(name).await?;
        deliveries.insert(0, delivery);
        deliveries.truncate(DELIVERIES_KEPT);
        let txn = Txn::new().when(Compare::ModRev(webhook_key(name), rev));
        let txn = txn.put(deliveries_key(name), store::encode(VERSION, &deliveries));
        let txn = done.into_iter().fold(txn, |txn, key| txn.delete(key));
        self.commit(txn, "note a delivery").await.map(drop)
    }
}

/// An event of this moment.
pub(crate) fn new_event(kind: String, data: EventData) -> CloudEvent {
    let mut id = [0; 16];
    getrandom::fill(&mut id).expect("the system has random numbers");
    let id = id.iter().map(|byte| format!("{byte:02x}")).collect();
    CloudEvent::new(kind, id, Timestamp::of(SystemTime::now()), data)
}

fn webhook_key(name: &WebhookName) -> String {
    format!("webhook/{name}")
}

fn deliveries_key(name: &WebhookName) -> String {
    format!("deliveries/{name}")
}

fn outbox_prefix(name: &WebhookName) -> String {
    format!("outbox/{name}:")
}

/// In the order of time.
fn event_key(name: &WebhookName, event: &CloudEvent) -> String {
    format!("{}{:015}-{}", outbox_prefix(name), event.time.millis(), event.id)
}
