//! Images that are refused for what a scan has found.

use std::time::SystemTime;

use http::{Method, StatusCode};
use spec::{Digest, Timestamp};

use super::{
    auth::RepositoryRequest,
    error::{ApiError, ErrorCode},
    remote::{Administrator, pattern_of},
    request_body::RequestBody,
    response::{Response, empty, json},
    scanner::Scanner,
};
use crate::{
    access::Object,
    limits::{KEYS_BODY_BYTES_MAX, SCAN_POLICIES_MAX, WAIVERS_MAX},
    protocol::{Query, ScanRule},
    storage::{ManifestRecord, Storage},
};

/// `/admin/scan-policies`, and `?repositories=PATTERN` of it.
pub(super) async fn answer(
    storage: &Storage,
    administrator: &Administrator<'_>,
    method: &Method,
    query: &Query,
    body: &mut RequestBody,
) -> Result<Response, ApiError> {
    let metadata = &storage.metadata;
    if *method == Method::GET {
        let all = administrator.seen(metadata, metadata.rules.scan_policies(), |policy| {
            Object::Repositories(policy.repositories.clone())
        });
        return Ok(json(StatusCode::OK, &all));
    }
    let pattern = pattern_of(query)?;
    let known = metadata.rules.scan_policies();
    let is_known = known.iter().any(|policy| policy.repositories == pattern);
    let refused = |message: String| Err(ApiError::bad_request(ErrorCode::Unsupported, message));
    match *method {
        Method::PUT => {
            let mut rule: ScanRule = body.json(KEYS_BODY_BYTES_MAX).await?;
            let now = Timestamp::of(SystemTime::now());
            rule.waivers.retain(|waiver| waiver.expires > now);
            if rule.waivers.len() > WAIVERS_MAX {
                return refused(format!("a policy has at most {WAIVERS_MAX} waivers"));
            }
            if !is_known && known.len() >= SCAN_POLICIES_MAX {
                let message = format!("the registry has {SCAN_POLICIES_MAX} policies of scans");
                return refused(message);
            }
            metadata.set_scan_policy(&pattern, Some(rule)).await?;
        }
        Method::DELETE if is_known => metadata.set_scan_policy(&pattern, None).await?,
        Method::DELETE => {
            let message = format!("there is no policy of scans for `{pattern}`");
            return Err(ApiError::not_found(ErrorCode::NameUnknown, message));
        }
        _ => return Err(ApiError::no_such_endpoint()),
    }
    Ok(empty(StatusCode::NO_CONTENT, []))
}

/// Whether a manifest may be read, as far as vulnerabilities are concerned. That it is there, a
/// client learns in any case: a push asks for it.
pub(super) async fn check_pull(
    storage: &Storage,
    scanner: &Scanner,
    request: &RepositoryRequest,
    (digest, record): (&Digest, &ManifestRecord),
) -> Result<(), ApiError> {
    let repository = &request.repository;
    let rules = storage.metadata.rules.scan_rules_of(repository);
    if rules.is_empty() || request.head.method == Method::HEAD {
        return Ok(());
    }
    // An index has nothing itself, and an attachment, as a signature, cannot be run.
    let Some(report) = scanner.decisive_report(repository, digest, record).await? else {
        return Ok(());
    };
    let now = Timestamp::of(SystemTime::now());
    for (pattern, rule) in rules {
        if let Some(why) = rule.refusal(&report, now) {
            return Err(ApiError::denied(format!(
                "`{repository}@{digest}` is refused by the scan policy of `{pattern}`: {why}"
            )));
        }
    }
    Ok(())
}
