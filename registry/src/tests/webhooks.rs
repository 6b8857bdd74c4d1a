//! What webhooks are told, also after a crash, and what they may not be.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::hmac;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::mpsc,
    time::timeout,
};

use super::fixture::TestRegistry;
use crate::{DeliveryOutcome, EventKind, NewWebhook, Repository, WebhookName};

/// The head and the body of a request.
type Received = (String, String);

/// Answers each request with the next of some statuses, and with 204 when there are no more.
pub struct Receiver {
    pub url: String,
    requests: mpsc::UnboundedReceiver<Received>,
}

impl Receiver {
    pub async fn start(statuses: impl IntoIterator<Item = u16>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook?a=b", listener.local_addr().unwrap());
        let (send, requests) = mpsc::unbounded_channel();
        let statuses: Arc<Mutex<VecDeque<u16>>> =
            Arc::new(Mutex::new(statuses.into_iter().collect()));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (send, statuses) = (send.clone(), Arc::clone(&statuses));
                tokio::spawn(async move {
                    let mut bytes = Vec::new();
                    let mut buffer = [0; 4096];
                    let (head, body) = loop {
                        match stream.read(&mut buffer).await {
                            Ok(0) | Err(_) => return,
                            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
                        }
                        let text = String::from_utf8_lossy(&bytes).into_owned();
                        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                        let length = field(head, "content-length").parse().unwrap_or(0);
                        if body.len() >= length {
                            break (head.to_owned(), body.to_owned());
                        }
                    };
                    send.send((head, body)).ok();
                    let status = statuses.lock().unwrap().pop_front().unwrap_or(204);
                    let answer = format!(
                        "HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                    );
                    stream.write_all(answer.as_bytes()).await.ok();
                });
            }
        });
        Self { url, requests }
    }

    pub async fn next(&mut self) -> (String, Value, String) {
        let received = timeout(Duration::from_secs(60), self.requests.recv()).await;
        let (head, body) = received.expect("an event").expect("the receiver runs");
        (head, serde_json::from_str(&body).expect("JSON"), body)
    }
}

fn field<'a>(head: &'a str, name: &str) -> &'a str {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map_or("", |(_, value)| value.trim())
}

fn named(text: &str) -> WebhookName {
    text.parse().unwrap()
}

fn webhook(url: &str) -> NewWebhook {
    NewWebhook {
        url: url.to_owned(),
        repositories: "ann/*".parse().unwrap(),
        events: BTreeSet::new(),
        private: true,
    }
}

#[tokio::test]
async fn every_change_is_told_once_it_is_acknowledged_and_signed() {
    let registry = TestRegistry::open().await;
    let mut receiver = Receiver::start([]).await;
    let name = named("ann/ci");
    let made = registry.admin.create_webhook(&name, &webhook(&receiver.url)).await.unwrap();
    let digest = registry.push_image("ann/cats", "v1", &[b"{}", b"one"]).await;
    registry.push_image("bob/cats", "v1", &[b"{}", b"one"]).await;
    let cats: Repository = "ann/cats".parse().unwrap();
    registry.push_image("ann/cats", "v2", &[b"{}", b"one"]).await;
    registry.admin.remove_tag(&cats, "v2").await.unwrap();
    registry.admin.remove_manifest(&cats, &digest).await.unwrap();
    registry.admin.remove_repository(&cats).await.unwrap();
    let key = BASE64_STANDARD.decode(made.secret.strip_prefix("whsec_").unwrap()).unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    let pushed = format!("ann/cats@{digest}");
    for (kind, subject, tags) in [
        ("image-pushed", &*pushed, serde_json::json!(["v1"])),
        ("image-pushed", &pushed, serde_json::json!(["v2"])),
        ("tag-deleted", "ann/cats:v2", serde_json::json!(["v2"])),
        ("image-deleted", &pushed, Value::Null),
        ("repository-deleted", "ann/cats", Value::Null),
    ] {
        let (head, event, body) = receiver.next().await;
        assert!(head.starts_with("POST /hook?a=b HTTP/1.1"), "{head}");
        let media_type = "application/cloudevents+json; charset=utf-8";
        assert_eq!(field(&head, "content-type"), media_type);
        assert_eq!(event["type"], format!("margay.registry.{kind}"), "{event}");
        assert_eq!(event["subject"], subject, "{event}");
        assert_eq!(event["data"]["tags"], tags, "{event}");
        assert_eq!(
            (&event["specversion"], &event["source"]),
            (&"1.0".into(), &"/v2/ann/cats".into())
        );
        assert_eq!(event["id"], field(&head, "webhook-id"));
        let signed =
            format!("{}.{}.{body}", field(&head, "webhook-id"), field(&head, "webhook-timestamp"));
        let tag = field(&head, "webhook-signature").strip_prefix("v1,").unwrap();
        let tag = BASE64_STANDARD.decode(tag).unwrap();
        hmac::verify(&key, signed.as_bytes(), &tag).expect("the signature of the secret");
    }
    let tested = registry.admin.test_webhook(&name).await.unwrap();
    assert_eq!((tested.status, tested.outcome), (Some(204), DeliveryOutcome::Delivered));
    assert_eq!(receiver.next().await.1["type"], "margay.registry.webhook-tested");
    registry.admin.remove_webhook(&name).await.unwrap();
    registry.push_image("ann/cats", "v1", &[b"{}", b"one"]).await;
    assert_eq!(registry.admin.webhooks().await.unwrap(), []);
    assert!(receiver.requests.try_recv().is_err(), "told after its end");
    registry.close().await;
}

#[tokio::test]
async fn an_event_is_sent_again_until_it_is_taken_also_by_another_process() {
    let registry = TestRegistry::open().await;
    let name = named("ann/ci");
    let mut receiver = Receiver::start([500, 503]).await;
    registry.admin.create_webhook(&name, &webhook(&receiver.url)).await.unwrap();
    registry.push_image("ann/cats", "v1", &[b"{}", b"one"]).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(receiver.next().await.1["id"].clone());
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    // The tries are listed once they have ended.
    let deliveries = loop {
        let deliveries = registry.admin.deliveries(&name).await.unwrap();
        if deliveries.len() == 3 {
            break deliveries;
        }
        tokio::task::yield_now().await;
    };
    let statuses: Vec<_> = deliveries.iter().map(|one| one.status).collect();
    assert_eq!(statuses, [Some(204), Some(503), Some(500)]);
    // Nothing listens at port 9.
    let closed = NewWebhook { url: "http://127.0.0.1:9/".to_owned(), ..webhook("") };
    registry.admin.create_webhook(&name, &closed).await.unwrap();
    let digest = registry.push_image("ann/cats", "v2", &[b"{}", b"two"]).await;
    let dir = registry.close().await;
    let registry = TestRegistry::open_in(dir, |_| ()).await;
    let list = registry.admin.webhooks().await.unwrap();
    assert_eq!(list[0].pending, 1, "{list:?}");
    registry.admin.create_webhook(&name, &webhook(&receiver.url)).await.unwrap();
    let (_, event, _) = receiver.next().await;
    assert_eq!(event["data"]["digest"], digest.to_string(), "{event}");
    registry.close().await;
}

#[tokio::test]
async fn a_webhook_is_of_its_account_and_reaches_no_internal_address() {
    let registry = TestRegistry::open().await;
    for (name, change, want) in [
        ("none/ci", NewWebhook { private: false, ..webhook("https://example.com/") }, "no user"),
        ("bob/ci", webhook("https://example.com/"), "about repositories of it, as in bob/*"),
        ("ann/ci", webhook("example.com"), "is not the URL of a webhook"),
        ("ann/ci", webhook("https://ann:secret@example.com/"), "is not the URL of a webhook"),
        ("ann/ci", webhook("file:///etc/passwd"), "is not the URL of a webhook"),
        ("ann/ci", NewWebhook { private: false, ..webhook("http://example.com/") }, "plain HTTP"),
    ] {
        let error = registry.admin.create_webhook(&named(name), &change).await.unwrap_err();
        assert!(error.to_string().contains(want), "{name} {}: {error}", change.url);
    }
    for url in ["https://127.0.0.1:1/", "https://[::1]/", "https://169.254.169.254/latest"] {
        let public = NewWebhook { private: false, ..webhook(url) };
        registry.admin.create_webhook(&named("ann/ci"), &public).await.unwrap();
        let tried = registry.admin.test_webhook(&named("ann/ci")).await.unwrap();
        let error = tried.error.unwrap_or_default();
        assert!(error.contains("internal address"), "{url}: {error}");
    }
    let only =
        NewWebhook { events: [EventKind::TagDeleted].into(), ..webhook("https://127.0.0.1:1/") };
    registry.admin.create_webhook(&named("ann/ci"), &only).await.unwrap();
    registry.push_image("ann/cats", "v1", &[b"{}", b"one"]).await;
    assert_eq!(registry.admin.webhooks().await.unwrap()[0].pending, 0, "it asks for other events");
    registry
        .admin
        .remove_user(&"ann".parse().unwrap(), &crate::Repositories::Delete)
        .await
        .unwrap();
    assert_eq!(registry.admin.webhooks().await.unwrap(), []);
    registry.close().await;
}
