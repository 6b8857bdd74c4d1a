use std::{
    sync::{Arc, atomic::Ordering},
    time::SystemTime,
};

use http::{Method, StatusCode};
use spec::{Reference, Timestamp};

use super::super::{
    error::{ApiError, ErrorCode},
    quotas::{check_account, check_room},
    remote::Administrator,
    remote_registry::address_of,
    request_body::RequestBody,
    response::{Response, empty, json},
};
use crate::{
    access::Object,
    limits::{REMOTE_BODY_BYTES_MAX, WEBHOOK_URL_CHARS_MAX},
    protocol::{EventKind, NewReplication, ReplicationInfo, ReplicationName},
    storage::{Metadata, Webhook, WebhookRecord},
};

/// `/admin/replications` and `/admin/replications/ACCOUNT/NAME`.
pub(in super::super) struct ReplicationEndpoints {
    pub metadata: Metadata,
}

impl ReplicationEndpoints {
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
        let name: ReplicationName = name.parse().map_err(ApiError::invalid_name)?;
        match *method {
            Method::PUT => self.create(administrator, &name, body).await?,
            Method::GET => {
                self.there(&name)?;
                return Ok(json(StatusCode::OK, &self.metadata.deliveries(&name).await?));
            }
            Method::POST => {
                self.there(&name)?;
                self.metadata.queue_synchronisation(&name).await?;
            }
            Method::DELETE => {
                self.there(&name)?;
                self.metadata.remove_webhook(&name).await?;
            }
            _ => return Err(ApiError::no_such_endpoint()),
        }
        Ok(empty(StatusCode::NO_CONTENT, []))
    }

    fn there(&self, name: &ReplicationName) -> Result<Arc<Webhook>, ApiError> {
        let absent = || {
            let message = format!("there is no replication `{name}`");
            ApiError::not_found(ErrorCode::NameUnknown, message)
        };
        let found = self.metadata.webhooks.get(name);
        found.filter(|hook| hook.record.replica.is_some()).ok_or_else(absent)
    }

    async fn list(&self, administrator: &Administrator<'_>) -> Result<Response, ApiError> {
        let mut list = Vec::new();
        for hook in administrator.webhooks(&self.metadata) {
            list.extend(self.info(&hook).await?);
        }
        Ok(json(StatusCode::OK, &list))
    }

    async fn info(&self, hook: &Webhook) -> Result<Option<ReplicationInfo>, ApiError> {
        let WebhookRecord { url, repositories, private, created, replica, .. } = &hook.record;
        let Some(replica) = replica else { return Ok(None) };
        let last = self.metadata.deliveries(&hook.name).await?.into_iter().next();
        let oldest = self.metadata.next_event(&hook.name).await?;
        Ok(Some(ReplicationInfo {
            replication: hook.name.clone(),
            url: url.clone(),
            repositories: repositories.clone(),
            to: replica.to.clone(),
            deletions: replica.deletions,
            private: *private,
            username: replica.login.as_ref().map(|login| login.username.clone()),
            created: *created,
            pending: hook.pending.load(Ordering::SeqCst),
            waiting_since: oldest.map(|oldest| oldest.event.time),
            last,
        }))
    }

    async fn create(
        &self,
        administrator: &Administrator<'_>,
        name: &ReplicationName,
        body: &mut RequestBody,
    ) -> Result<(), ApiError> {
        let wanted: NewReplication = body.json(REMOTE_BODY_BYTES_MAX).await?;
        check_account(&self.metadata, name.account.as_str()).await?;
        self.check(administrator, name, &wanted)?;
        let NewReplication { url, repositories, replica, private } = wanted;
        let events = match replica.deletions {
            true => EventKind::ALL.into(),
            false => [EventKind::ImagePushed].into(),
        };
        let record = WebhookRecord {
            url,
            repositories,
            events,
            private,
            secret: String::new(),
            created: Timestamp::of(SystemTime::now()),
            replica: Some(replica),
        };
        self.metadata.put_webhook(name, record).await?;
        Ok(self.metadata.queue_synchronisation(name).await?)
    }

    fn check(
        &self,
        administrator: &Administrator<'_>,
        name: &ReplicationName,
        wanted: &NewReplication,
    ) -> Result<(), ApiError> {
        let NewReplication { url, repositories, replica, private } = wanted;
        let refused = |message: String| Err(ApiError::bad_request(ErrorCode::Unsupported, message));
        let account = &name.account;
        if repositories.namespace() != account.as_str() {
            return refused(format!(
                "a replication of `{account}` is about repositories of it, as in {account}/*"
            ));
        }
        let policies = self.metadata.policies();
        if *private && !administrator.may(&Object::Registry, &policies) {
            return Err(ApiError::denied("only an operator replicates to internal addresses"));
        }
        let address = address_of(url).filter(|_| url.len() <= WEBHOOK_URL_CHARS_MAX);
        let Some(address) = address else {
            let url: String = url.chars().take(100).collect();
            return refused(format!("`{url}` is not the URL of a registry: https://HOST[:PORT]"));
        };
        if !address.secure && !private {
            return refused(format!(
                "images for `{url}` would travel as plain HTTP: an operator may allow it"
            ));
        }
        if let Some(to) = replica.to.as_ref().filter(|to| !Reference::is_repository(to)) {
            let to: String = to.chars().take(100).collect();
            return refused(format!("`{to}` is not the start of the name of a repository"));
        }
        if self.metadata.webhooks.get(name).is_some_and(|hook| hook.record.replica.is_none()) {
            return Err(ApiError::conflict(format!("there is a webhook `{name}` already")));
        }
        check_room(&self.metadata, name)
    }
}
