//! What repositories retain, for the owner of the data folder.

use std::time::Duration;

use http::{Method, StatusCode};

use super::{
    contents::known,
    error::{ApiError, ErrorCode},
    quotas::check_account,
    request_body::RequestBody,
    response::{Response, empty, json},
    retain::{RetainOptions, RetainerHandle},
};
use crate::{
    Repository,
    limits::{ADMIN_BODY_BYTES_MAX, GRACE_MAX, RETENTION_RULES_MAX},
    protocol::{Query, Retention, RetentionChange, RetentionInfo},
    storage::Storage,
};

/// Changes rules, and has them applied.
pub(super) struct RetentionEndpoints {
    pub storage: Storage,
    pub retainer: RetainerHandle,
    pub grace: Duration,
}

impl RetentionEndpoints {
    /// `/admin/retention` and `/admin/retention/NAME`. `name` is empty for all of them.
    pub async fn answer(
        &self,
        method: &Method,
        name: &str,
        query: &Query,
        body: &mut RequestBody,
    ) -> Result<Response, ApiError> {
        match (method, name) {
            (&Method::GET, "") => {
                let all = self.storage.metadata.retentions().await?.into_iter();
                let all = all.map(|(name, retention)| RetentionInfo { name, retention });
                Ok(json(StatusCode::OK, &all.collect::<Vec<_>>()))
            }
            (&Method::POST, name) => self.retain(name, query).await,
            (&Method::PUT, name) => self.set(name, body.json(ADMIN_BODY_BYTES_MAX).await?).await,
            (&Method::DELETE, name) => self.remove(name, query).await,
            _ => Err(ApiError::no_such_endpoint()),
        }
    }

    async fn set(&self, name: &str, change: RetentionChange) -> Result<Response, ApiError> {
        self.check_name(name).await?;
        if change.rule.as_ref().is_some_and(|rule| rule.last == Some(0)) {
            let message = "a rule keeps at least the last 1, or gives a time";
            return Err(ApiError::bad_request(ErrorCode::Unsupported, message));
        }
        let changed = |retention: &mut Retention| {
            if let Some(rule) = &change.rule {
                retention.set(rule.clone());
            }
            retention.untagged_seconds = change.untagged_seconds.or(retention.untagged_seconds);
            retention.rules.len() <= RETENTION_RULES_MAX
        };
        match self.storage.metadata.change_retention(name, changed).await? {
            Some(retention) => {
                let info = RetentionInfo { name: name.to_owned(), retention };
                Ok(json(StatusCode::OK, &info))
            }
            None => {
                let message = format!("`{name}` has at most {RETENTION_RULES_MAX} rules");
                Err(ApiError::bad_request(ErrorCode::Unsupported, message))
            }
        }
    }

    /// Removes one rule, the time of untagged manifests, or everything.
    async fn remove(&self, name: &str, query: &Query) -> Result<Response, ApiError> {
        let (tags, untagged) = (query.get("tags"), query.get("untagged") == Some("true"));
        let removed = |retention: &mut Retention| {
            let before = retention.clone();
            match (tags, untagged) {
                (None, false) => *retention = Retention::default(),
                (tags, untagged) => {
                    retention.rules.retain(|rule| Some(&*rule.tags) != tags);
                    retention.untagged_seconds = retention.untagged_seconds.filter(|_| !untagged);
                }
            }
            *retention != before
        };
        match self.storage.metadata.change_retention(name, removed).await? {
            Some(_) => Ok(empty(StatusCode::NO_CONTENT, [])),
            None => {
                let message =
                    format!("`{name}` has no such retention rule: margay registry retention ls");
                Err(ApiError::not_found(ErrorCode::NameUnknown, message))
            }
        }
    }

    async fn retain(&self, name: &str, query: &Query) -> Result<Response, ApiError> {
        match name.contains('/') {
            true => drop(known(&self.storage, name).await?),
            false if name.is_empty() => {}
            false => check_account(&self.storage.metadata, name).await?,
        }
        let grace = query.get("grace_seconds").map(str::parse).transpose();
        let grace = grace.map_err(|_| {
            ApiError::bad_request(ErrorCode::Unsupported, "`grace_seconds` is not a number")
        })?;
        let options = RetainOptions {
            name: name.to_owned(),
            grace: grace.map_or(self.grace, Duration::from_secs).min(GRACE_MAX),
            dry_run: query.get("dry_run") == Some("true"),
        };
        let stopping = || ApiError::too_many_requests("the registry is shutting down");
        let retained = self.retainer.retain(options).await.ok_or_else(stopping)?;
        Ok(json(StatusCode::OK, &retained?))
    }

    /// A repository need not exist yet, but its account does.
    async fn check_name(&self, name: &str) -> Result<(), ApiError> {
        match name.split_once('/') {
            None if name == "*" => Ok(()),
            None => check_account(&self.storage.metadata, name).await,
            Some((account, _)) => {
                name.parse::<Repository>().map_err(ApiError::invalid_name)?;
                check_account(&self.storage.metadata, account).await
            }
        }
    }
}
