//! Switches and immutable tags, for the owner of the data folder.

use http::{Method, StatusCode};

use super::{
    error::{ApiError, ErrorCode},
    request_body::RequestBody,
    response::{Response, empty, json},
};
use crate::{
    Repository,
    limits::{ADMIN_BODY_BYTES_MAX, IMMUTABLE_EXCEPTIONS_MAX},
    protocol::{Immutable, ImmutableInfo, Switch},
    storage::Metadata,
};

/// `/admin/rules/…`.
pub(super) async fn answer(
    metadata: &Metadata,
    method: &Method,
    rule: &str,
    body: &mut RequestBody,
) -> Result<Response, ApiError> {
    if let Some(switch) = Switch::ALL.into_iter().find(|switch| switch.name() == rule) {
        return switched(metadata, method, switch).await;
    }
    if rule == "rate-limits" {
        return rates(metadata, method, body).await;
    }
    match (rule, rule.strip_prefix("immutable")) {
        (_, Some("")) => immutable(metadata, method, "", body).await,
        (_, Some(name)) if name.starts_with('/') => {
            immutable(metadata, method, &name[1..], body).await
        }
        _ => Err(ApiError::no_such_endpoint()),
    }
}

/// `/admin/rules/rate-limits`.
async fn rates(
    metadata: &Metadata,
    method: &Method,
    body: &mut RequestBody,
) -> Result<Response, ApiError> {
    match *method {
        Method::GET => {}
        Method::PUT => metadata.set_rates(body.json(ADMIN_BODY_BYTES_MAX).await?).await?,
        _ => return Err(ApiError::no_such_endpoint()),
    }
    Ok(json(StatusCode::OK, &metadata.rules.rates()))
}

/// `/admin/rules/SWITCH`.
async fn switched(
    metadata: &Metadata,
    method: &Method,
    switch: Switch,
) -> Result<Response, ApiError> {
    match *method {
        Method::GET => return Ok(json(StatusCode::OK, &metadata.rules.is_on(switch))),
        Method::PUT => metadata.set_switch(switch, true).await?,
        Method::DELETE => metadata.set_switch(switch, false).await?,
        _ => return Err(ApiError::no_such_endpoint()),
    }
    Ok(empty(StatusCode::NO_CONTENT, []))
}

/// `/admin/rules/immutable` and `/admin/rules/immutable/NAME`. `name` is empty for all of them.
async fn immutable(
    metadata: &Metadata,
    method: &Method,
    name: &str,
    body: &mut RequestBody,
) -> Result<Response, ApiError> {
    if name.is_empty() && *method == Method::GET {
        let all = metadata.rules.immutable().into_iter();
        let all = all.map(|(name, rule)| ImmutableInfo { repository: name.to_string(), rule });
        return Ok(json(StatusCode::OK, &all.collect::<Vec<_>>()));
    }
    let repository: Repository = name.parse().map_err(ApiError::invalid_name)?;
    let rule = match *method {
        Method::PUT => {
            let rule: Immutable = body.json(ADMIN_BODY_BYTES_MAX).await?;
            if rule.except.len() > IMMUTABLE_EXCEPTIONS_MAX {
                let message = format!("a rule has at most {IMMUTABLE_EXCEPTIONS_MAX} exceptions");
                return Err(ApiError::bad_request(ErrorCode::Unsupported, message));
            }
            Some(rule)
        }
        Method::DELETE => None,
        _ => return Err(ApiError::no_such_endpoint()),
    };
    metadata.set_immutable(&repository, rule).await?;
    Ok(empty(StatusCode::NO_CONTENT, []))
}
