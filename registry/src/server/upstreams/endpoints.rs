use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{Method, StatusCode};
use spec::{Tenant, Timestamp};

use super::super::{
    error::{ApiError, ErrorCode},
    policies::refused,
    remote_registry::address_of,
    request_body::RequestBody,
    response::{Response, empty, json},
};
use crate::{
    limits::{
        PATTERN_CHARS_MAX, REMOTE_BODY_BYTES_MAX, UPSTREAM_PATTERNS_MAX, UPSTREAM_TTL_MAX,
        UPSTREAMS_MAX, WEBHOOK_URL_CHARS_MAX,
    },
    protocol::NewUpstream,
    storage::{Metadata, Upstream, UpstreamRecord},
};

/// `/admin/upstreams` and `/admin/upstreams/NAME`, for operators.
pub(in super::super) struct UpstreamEndpoints {
    pub metadata: Metadata,
}

impl UpstreamEndpoints {
    pub async fn answer(
        &self,
        method: &Method,
        name: &str,
        body: &mut RequestBody,
    ) -> Result<Response, ApiError> {
        if name.is_empty() {
            let infos = || self.metadata.upstreams.all().into_iter().map(|one| one.info());
            return match *method {
                Method::GET => Ok(json(StatusCode::OK, &infos().collect::<Vec<_>>())),
                _ => Err(ApiError::no_such_endpoint()),
            };
        }
        let name: Tenant = name.parse().map_err(ApiError::invalid_name)?;
        match *method {
            Method::PUT => self.create(&name, body).await?,
            Method::DELETE => {
                self.there(&name)?;
                self.metadata.remove_upstream(&name).await?;
            }
            _ => return Err(ApiError::no_such_endpoint()),
        }
        Ok(empty(StatusCode::NO_CONTENT, []))
    }

    fn there(&self, name: &Tenant) -> Result<Arc<Upstream>, ApiError> {
        let absent = || {
            let message = format!("there is no upstream `{name}`");
            ApiError::not_found(ErrorCode::NameUnknown, message)
        };
        self.metadata.upstreams.get(name).ok_or_else(absent)
    }

    async fn create(&self, name: &Tenant, body: &mut RequestBody) -> Result<(), ApiError> {
        let wanted: NewUpstream = body.json(REMOTE_BODY_BYTES_MAX).await?;
        check(&wanted)?;
        let others = self.metadata.upstreams.all();
        if others.iter().filter(|one| one.name != *name).count() >= UPSTREAMS_MAX {
            let message = format!("a registry has at most {UPSTREAMS_MAX} upstreams");
            return Err(ApiError::conflict(message));
        }
        if !self.metadata.policies().is_organisation(name) {
            if self.metadata.user(name).await?.is_some() {
                return Err(ApiError::conflict(format!(
                    "there is a user `{name}`: an upstream has a name of its own"
                )));
            }
            if !self.metadata.owned(name).await?.is_empty() {
                return Err(ApiError::conflict(format!(
                    "repositories of an earlier user `{name}` are left: hand them over or delete \
                     them first"
                )));
            }
            // So that quotas, retention and policies are about what is fetched, as about the rest.
            self.metadata.add_organisation(name).await.map_err(refused)?;
        }
        let record = UpstreamRecord { wanted, created: Timestamp::of(SystemTime::now()) };
        Ok(self.metadata.put_upstream(name, record).await?)
    }
}

fn check(wanted: &NewUpstream) -> Result<(), ApiError> {
    let NewUpstream { url, repositories, ttl_seconds, private, login, .. } = wanted;
    let refused = |message: String| Err(ApiError::bad_request(ErrorCode::Unsupported, message));
    let address = address_of(url).filter(|_| url.len() <= WEBHOOK_URL_CHARS_MAX);
    let Some(address) = address else {
        let url: String = url.chars().take(100).collect();
        return refused(format!("`{url}` is not the URL of a registry: https://HOST[:PORT]"));
    };
    if !address.secure && !private {
        return refused(format!(
            "images of `{url}` would travel as plain HTTP: --private allows it"
        ));
    }
    let is_pattern = |text: &str| {
        let part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "*/._-".contains(c);
        !text.is_empty() && text.len() <= PATTERN_CHARS_MAX && text.chars().all(part)
    };
    if let Some(bad) = repositories.iter().find(|pattern| !is_pattern(pattern)) {
        let bad: String = bad.chars().take(100).collect();
        return refused(format!("`{bad}` is no pattern of repositories, as in library/*"));
    }
    if repositories.len() > UPSTREAM_PATTERNS_MAX {
        return refused(format!("an upstream has at most {UPSTREAM_PATTERNS_MAX} patterns"));
    }
    if Duration::from_secs(*ttl_seconds) > UPSTREAM_TTL_MAX {
        return refused("a tag is asked for once in a year at least".to_owned());
    }
    match login {
        Some(login) if login.username.is_empty() || login.username.contains(':') => {
            refused("a username has no `:`, and one character at least".to_owned())
        }
        Some(_) | None => Ok(()),
    }
}
