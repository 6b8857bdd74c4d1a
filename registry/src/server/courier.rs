//! Events on their way to webhooks and to other registries: one after another for each, several at
//! a time, and again after a pause that grows while a receiver does not take them.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderName, header};
use ring::hmac;
use spec::Timestamp;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::replication::Replicator;
use crate::{
    Error,
    client::Outward,
    limits::{
        DELIVERIES_AT_ONCE, DELIVERIES_IN_A_ROW, DELIVERIES_OF_ACCOUNT_AT_ONCE, DELIVERY_PAUSE_MAX,
        DELIVERY_PAUSE_MIN, DELIVERY_TIME_MAX, EVENT_KEPT_FOR, REPLICATION_GIVEN_UP_AFTER,
        REPLICATION_TIME_MAX,
    },
    protocol::{CloudEvent, Delivery, DeliveryOutcome, WebhookName},
    storage::{Metadata, Pending, Webhook},
};

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// Delivers the events of all webhooks.
pub(super) struct Courier {
    metadata: Metadata,
    postman: Postman,
    /// Webhooks whose last try has failed: how often in a row, and when the next one is.
    waiting: HashMap<WebhookName, (u32, Instant)>,
    /// Which one was begun with last: those after it come first.
    last: Option<WebhookName>,
}

/// Sends single events.
#[derive(Clone)]
pub(super) struct Postman {
    outward: Arc<Outward>,
    replicator: Arc<Replicator>,
}

impl Courier {
    pub fn new(metadata: Metadata, replicator: Replicator) -> (Self, Postman) {
        let outward = Arc::new(Outward::new(DELIVERY_TIME_MAX));
        let postman = Postman { outward, replicator: Arc::new(replicator) };
        let courier =
            Self { metadata, postman: postman.clone(), waiting: HashMap::new(), last: None };
        (courier, postman)
    }

    /// Delivers until it is dropped.
    pub async fn run(mut self) {
        let mut work: JoinSet<(WebhookName, bool)> = JoinSet::new();
        let mut busy: HashSet<WebhookName> = HashSet::new();
        loop {
            for hook in self.in_turn() {
                if work.len() == DELIVERIES_AT_ONCE {
                    break;
                }
                if !self.may_begin(&hook, &busy) || !self.has_event(&hook).await {
                    continue;
                }
                busy.insert(hook.name.clone());
                self.last = Some(hook.name.clone());
                let (metadata, postman) = (self.metadata.clone(), self.postman.clone());
                work.spawn(async move {
                    let delivered = deliver(&metadata, &postman, &hook).await;
                    let delivered = delivered.unwrap_or_else(|error| {
                        tracing::warn!(webhook = %hook.name, %error, "cannot deliver events");
                        false
                    });
                    (hook.name.clone(), delivered)
                });
            }
            let next = self.waiting.values().map(|(_, until)| *until);
            let pause = next.filter(|until| *until > Instant::now()).min();
            let pause = pause.map_or(DELIVERY_PAUSE_MAX, |until| until - Instant::now());
            tokio::select! {
                () = self.metadata.webhooks.changed.notified() => {}
                () = sleep(pause) => {}
                Some(Ok((name, delivered))) = work.join_next() => {
                    busy.remove(&name);
                    self.note(name, delivered);
                }
            }
        }
    }

    /// All webhooks, those after the last that was begun with first.
    fn in_turn(&self) -> Vec<Arc<Webhook>> {
        let mut hooks = self.metadata.webhooks.all();
        let before =
            |hook: &Arc<Webhook>| self.last.as_ref().is_some_and(|last| hook.name <= *last);
        let turn = hooks.partition_point(before);
        hooks.rotate_left(turn);
        hooks
    }

    fn may_begin(&self, hook: &Webhook, busy: &HashSet<WebhookName>) -> bool {
        let of_account = busy.iter().filter(|name| name.account == hook.name.account).count();
        let waits = self.waiting.get(&hook.name);
        !busy.contains(&hook.name)
            && of_account < DELIVERIES_OF_ACCOUNT_AT_ONCE
            && waits.is_none_or(|(_, until)| *until <= Instant::now())
    }

    /// By the records: a count in memory knows of no transaction that is under way.
    async fn has_event(&self, hook: &Webhook) -> bool {
        self.metadata.has_event(&hook.name).await.unwrap_or_else(|error| {
            tracing::warn!(webhook = %hook.name, %error, "cannot look for events");
            false
        })
    }

    fn note(&mut self, name: WebhookName, delivered: bool) {
        if delivered || self.metadata.webhooks.get(&name).is_none() {
            self.waiting.remove(&name);
            return;
        }
        let failures = self.waiting.get(&name).map_or(0, |(failures, _)| *failures);
        let pause = pause_after(failures);
        self.waiting.insert(name, (failures.saturating_add(1), Instant::now() + pause));
    }
}

/// Each twice as long as the one before.
fn pause_after(failures: u32) -> Duration {
    DELIVERY_PAUSE_MIN.saturating_mul(1 << failures.min(20)).min(DELIVERY_PAUSE_MAX)
}

/// Delivers what waits, up to the first failure. Whether there was none.
async fn deliver(metadata: &Metadata, postman: &Postman, hook: &Webhook) -> Result<bool, Error> {
    let mut delivered = true;
    for _ in 0..DELIVERIES_IN_A_ROW {
        let Some(Pending { key, event }) = metadata.next_event(&hook.name).await? else { break };
        let mut delivery = postman.send(hook, &event).await;
        delivered = delivery.outcome == DeliveryOutcome::Delivered;
        let age = Timestamp::of(SystemTime::now()).since(event.time);
        if !delivered && hook.record.replica.is_none() && age > EVENT_KEPT_FOR {
            delivery.outcome = DeliveryOutcome::GivenUp;
        }
        let done = (delivery.outcome != DeliveryOutcome::Failed).then_some(key);
        metadata.note_delivery(&hook.name, delivery, done).await?;
        if !delivered {
            break;
        }
    }
    hook.pending.store(metadata.count_pending(&hook.name).await?, Ordering::SeqCst);
    Ok(delivered)
}

impl Postman {
    /// One try.
    pub async fn send(&self, hook: &Webhook, event: &CloudEvent) -> Delivery {
        let at = Timestamp::of(SystemTime::now());
        if hook.record.replica.is_some() {
            return self.replicate(hook, event, at).await;
        }
        let answered = timeout(DELIVERY_TIME_MAX, self.post(hook, event, at)).await;
        let (status, error) = match answered {
            Ok(Ok(status)) => (Some(status), None),
            Ok(Err(error)) => (None, Some(why(&error))),
            Err(_) => (None, Some(format!("no answer for {} s", DELIVERY_TIME_MAX.as_secs()))),
        };
        let outcome = match status {
            Some(200..=299) => DeliveryOutcome::Delivered,
            Some(_) | None => DeliveryOutcome::Failed,
        };
        let (event, kind) = (event.id.clone(), event.kind.clone());
        Delivery { at, event, kind, outcome, status, error }
    }

    async fn replicate(&self, hook: &Webhook, event: &CloudEvent, at: Timestamp) -> Delivery {
        let carried_out = self.replicator.carry_out(hook, event);
        let error = match timeout(REPLICATION_TIME_MAX, carried_out).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some((error.with_causes(), error.is_transient())),
            Err(_) => {
                let seconds = REPLICATION_TIME_MAX.as_secs();
                Some((format!("it has not ended within {seconds} s"), true))
            }
        };
        let outcome = match &error {
            None => DeliveryOutcome::Delivered,
            Some((_, false)) if at.since(event.time) > REPLICATION_GIVEN_UP_AFTER => {
                DeliveryOutcome::GivenUp
            }
            Some(_) => DeliveryOutcome::Failed,
        };
        if let Some((error, _)) = &error {
            tracing::warn!(replication = %hook.name, subject = event.subject, error, ?outcome,
                "a change was not replicated");
        }
        let (event, kind) = (event.id.clone(), event.kind.clone());
        Delivery { at, event, kind, outcome, status: None, error: error.map(|(text, _)| text) }
    }

    /// # Spec
    /// Standard Webhooks, symmetric signatures.
    async fn post(&self, hook: &Webhook, event: &CloudEvent, at: Timestamp) -> Result<u16, Error> {
        let body = serde_json::to_vec(event).expect("events have string keys");
        let seconds = (at.millis() / 1000).to_string();
        let signature = signature(&hook.record.secret, &event.id, &seconds, &body);
        let headers = [
            (header::CONTENT_TYPE, "application/cloudevents+json; charset=utf-8".to_owned()),
            (ID, event.id.clone()),
            (TIMESTAMP, seconds),
            (SIGNATURE, signature),
        ];
        let url = hook.record.url.parse().expect("the URL was parsed when it was set");
        let status = self.outward.post(&url, hook.record.private, headers, body.into()).await?;
        Ok(status.as_u16())
    }
}

fn signature(secret: &str, id: &str, seconds: &str, body: &[u8]) -> String {
    let key = BASE64_STANDARD.decode(secret).unwrap_or_default();
    let mut signed = format!("{id}.{seconds}.").into_bytes();
    signed.extend_from_slice(body);
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), &signed);
    format!("v1,{}", BASE64_STANDARD.encode(tag))
}

/// In words about a receiver, which is no registry.
fn why(error: &Error) -> String {
    match error {
        Error::Unreachable { source, .. } => format!("cannot connect: {source}"),
        Error::InternalAddress { address, why, .. } => {
            format!("it is at the internal address {address} ({why})")
        }
        Error::TimedOut { after, .. } => format!("no answer for {} s", after.as_secs()),
        Error::Tls { source, .. } => format!("cannot speak TLS: {source}"),
        Error::Disconnected { .. } => "it cut the connection".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_that_of_standard_webhooks() {
        // The example of the specification's reference libraries.
        let secret = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let got = signature(
            secret,
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "1614265330",
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(got, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn pauses_double_up_to_a_limit() {
        assert_eq!(pause_after(0), DELIVERY_PAUSE_MIN);
        assert_eq!(pause_after(3), DELIVERY_PAUSE_MIN * 8);
        assert_eq!(pause_after(u32::MAX), DELIVERY_PAUSE_MAX);
    }
}
