//! Webhooks of accounts: created, listed, tried and removed.

use std::{sync::atomic::Ordering, time::SystemTime};

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{Method, StatusCode, Uri};
use spec::Timestamp;

use super::{
    courier::Postman,
    error::{ApiError, ErrorCode},
    quotas::{check_account, check_room},
    remote::Administrator,
    request_body::RequestBody,
    response::{Response, empty, json},
};
use crate::{
    access::Object,
    limits::{ADMIN_BODY_BYTES_MAX, WEBHOOK_URL_CHARS_MAX},
    protocol::{EventData, NewWebhook, TESTED, WebhookInfo, WebhookName, WebhookSecret},
    storage::{Metadata, Webhook, WebhookRecord, new_event},
};

pub(super) struct WebhookEndpoints {
    pub metadata: Metadata,
    pub postman: Postman,
}

impl WebhookEndpoints {
    /// `/admin/webhooks` and `/admin/webhooks/ACCOUNT/NAME`.
    pub async fn answer(
        &self,
        administrator: &Administrator<'_>,
        method: &Method,
        name: &str,
        body: &mut RequestBody,
    ) -> Result<Response, ApiError> {
        if name.is_empty() {
            return match *method {
                Method::GET => self.list(administrator).await,
                _ => Err(ApiError::no_such_endpoint()),
            };
        }
        let name: WebhookName = name.parse().map_err(ApiError::invalid_name)?;
        let there = || {
            let absent = || {
                let message = format!("there is no webhook `{name}`");
                ApiError::not_found(ErrorCode::NameUnknown, message)
            };
            let found = self.metadata.webhooks.get(&name);
            found.filter(|hook| hook.record.replica.is_none()).ok_or_else(absent)
        };
        match *method {
            Method::PUT => self.create(administrator, &name, body).await,
            Method::GET => {
                there()?;
                Ok(json(StatusCode::OK, &self.metadata.deliveries(&name).await?))
            }
            Method::POST => {
                let hook = there()?;
                let event = new_event(TESTED.to_owned(), EventData::default());
                let delivery = self.postman.send(&hook, &event).await;
                self.metadata.note_delivery(&name, delivery.clone(), None).await?;
                Ok(json(StatusCode::OK, &delivery))
            }
            Method::DELETE => {
                there()?;
                self.metadata.remove_webhook(&name).await?;
                Ok(empty(StatusCode::NO_CONTENT, []))
            }
            _ => Err(ApiError::no_such_endpoint()),
        }
    }

    async fn list(&self, administrator: &Administrator<'_>) -> Result<Response, ApiError> {
        let mut list = Vec::new();
        for hook in administrator.webhooks(&self.metadata) {
            if hook.record.replica.is_some() {
                continue;
            }
            let last = self.metadata.deliveries(&hook.name).await?.into_iter().next();
            list.push(hook.info(last));
        }
        Ok(json(StatusCode::OK, &list))
    }

    async fn create(
        &self,
        administrator: &Administrator<'_>,
        name: &WebhookName,
        body: &mut RequestBody,
    ) -> Result<Response, ApiError> {
        let wanted: NewWebhook = body.json(ADMIN_BODY_BYTES_MAX).await?;
        check_account(&self.metadata, name.account.as_str()).await?;
        self.check(administrator, name, &wanted)?;
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).expect("the system has random numbers");
        let secret = BASE64_STANDARD.encode(secret);
        let NewWebhook { url, repositories, events, private } = wanted;
        let record = WebhookRecord {
            url,
            repositories,
            events,
            private,
            secret: secret.clone(),
            created: Timestamp::of(SystemTime::now()),
            replica: None,
        };
        self.metadata.put_webhook(name, record).await?;
        // As the libraries that check signatures take it.
        let secret = WebhookSecret { webhook: name.clone(), secret: format!("whsec_{secret}") };
        Ok(json(StatusCode::OK, &secret))
    }

    fn check(
        &self,
        administrator: &Administrator<'_>,
        name: &WebhookName,
        wanted: &NewWebhook,
    ) -> Result<(), ApiError> {
        let NewWebhook { url, repositories, private, .. } = wanted;
        let refused = |message: String| Err(ApiError::bad_request(ErrorCode::Unsupported, message));
        if repositories.namespace() != name.account.as_str() {
            let account = &name.account;
            return refused(format!(
                "a webhook of `{account}` is about repositories of it, as in {account}/*"
            ));
        }
        let policies = self.metadata.policies();
        if *private && !administrator.may(&Object::Registry, &policies) {
            return Err(ApiError::denied("only an operator lets events go to internal addresses"));
        }
        let parsed = url.parse::<Uri>().ok().filter(|_| url.len() <= WEBHOOK_URL_CHARS_MAX);
        let authority = parsed.as_ref().and_then(Uri::authority);
        let has_login = authority.is_some_and(|authority| authority.as_str().contains('@'));
        match parsed.as_ref().and_then(Uri::scheme_str) {
            Some("https") if !has_login => {}
            Some("http") if !has_login && *private => {}
            Some("http") if !has_login => {
                return refused(format!(
                    "events for `{url}` would travel as plain HTTP: an operator may allow it"
                ));
            }
            _ => {
                return refused(format!("`{url}` is not the URL of a webhook: https://HOST/PATH"));
            }
        }
        let others = self.metadata.webhooks.all();
        if others.iter().any(|hook| hook.name == *name && hook.record.replica.is_some()) {
            return Err(ApiError::conflict(format!("there is a replication `{name}` already")));
        }
        check_room(&self.metadata, name)
    }
}

impl Webhook {
    fn info(&self, last: Option<crate::Delivery>) -> WebhookInfo {
        let WebhookRecord { url, repositories, events, private, created, .. } = &self.record;
        WebhookInfo {
            webhook: self.name.clone(),
            url: url.clone(),
            repositories: repositories.clone(),
            events: events.clone(),
            private: *private,
            created: *created,
            pending: self.pending.load(Ordering::SeqCst),
            dropped: self.dropped.load(Ordering::SeqCst),
            last,
        }
    }
}
