//! What repositories have, for the owner of the data folder: listed and deleted.

use http::{Method, StatusCode};
use spec::{Digest, Reference};

use super::{
    error::{ApiError, ErrorCode},
    request_body::RequestBody,
    response::{Response, empty, json},
};
use crate::{
    Repository, blocking,
    limits::{ADMIN_BODY_BYTES_MAX, ADMIN_PAGE_MAX, TAGS_LISTED_MAX},
    protocol::{ManifestInfo, Page, Query, TagInfo, Visibility, VisibilityBody},
    storage::Storage,
};

/// `/admin/tags/NAME` and `/admin/tags/NAME:TAG`.
pub(super) async fn tags(
    storage: &Storage,
    method: &Method,
    name: &str,
    query: &Query,
) -> Result<Response, ApiError> {
    match (method, name.split_once(':')) {
        (&Method::GET, None) => {
            let repository = known(storage, name).await?;
            let last = query.get("last").unwrap_or_default();
            let page = storage.metadata.tag_records(&repository, last, ADMIN_PAGE_MAX).await?;
            let next = page.entries.last().filter(|_| page.more).map(|(tag, _)| tag.clone());
            let entries = page.entries.into_iter();
            let entries = entries.map(|(tag, record)| TagInfo {
                tag,
                digest: record.digest,
                set: record.set,
            });
            Ok(json(StatusCode::OK, &Page { entries: entries.collect::<Vec<_>>(), next }))
        }
        (&Method::DELETE, Some((name, tag))) => {
            let repository = known(storage, name).await?;
            if !Reference::is_tag(tag) {
                return Err(ApiError::bad_request(ErrorCode::TagInvalid, "this is not a tag"));
            }
            let _exclusive = storage.locks.exclusive(&repository).await;
            match storage.metadata.remove_tag(&repository, tag).await? {
                true => Ok(empty(StatusCode::NO_CONTENT, [])),
                false => Err(absent(format!("`{repository}` has no tag `{tag}`"))),
            }
        }
        _ => Err(ApiError::no_such_endpoint()),
    }
}

/// `/admin/manifests/NAME` and `/admin/manifests/NAME@DIGEST`.
pub(super) async fn manifests(
    storage: &Storage,
    method: &Method,
    name: &str,
    query: &Query,
) -> Result<Response, ApiError> {
    match (method, name.split_once('@')) {
        (&Method::GET, None) => {
            let repository = known(storage, name).await?;
            let last = query.get("last").unwrap_or_default();
            list_manifests(storage, &repository, last).await
        }
        (&Method::DELETE, Some((name, digest))) => {
            let repository = known(storage, name).await?;
            let digest: Digest = digest.parse().map_err(ApiError::invalid_digest)?;
            let _exclusive = storage.locks.exclusive(&repository).await;
            match storage.metadata.remove_manifest(&repository, &digest).await? {
                true => Ok(empty(StatusCode::NO_CONTENT, [])),
                false => Err(absent(format!("`{repository}` has no manifest `{digest}`"))),
            }
        }
        _ => Err(ApiError::no_such_endpoint()),
    }
}

async fn list_manifests(
    storage: &Storage,
    repository: &Repository,
    last: &str,
) -> Result<Response, ApiError> {
    let page = storage.metadata.manifests(repository, last, ADMIN_PAGE_MAX).await?;
    let next = page.entries.last().filter(|_| page.more).map(|(digest, _)| digest.to_string());
    let mut entries = Vec::new();
    for (digest, record) in page.entries {
        let tags = storage.metadata.tags_of(repository, &digest, TAGS_LISTED_MAX).await?;
        entries.push(ManifestInfo {
            digest,
            media_type: record.media_type.to_string(),
            bytes: record.size,
            tags,
            subject: record.subject,
            pushed: record.pushed,
            pulled: record.pulled,
        });
    }
    Ok(json(StatusCode::OK, &Page { entries, next }))
}

/// `/admin/repositories/NAME` and `/admin/repositories/NAME/visibility`.
pub(super) async fn repository(
    storage: &Storage,
    method: &Method,
    name: &str,
    body: &mut RequestBody,
) -> Result<Response, ApiError> {
    match (method, name.strip_suffix("/visibility")) {
        (&Method::PUT, Some(name)) => {
            let name: Repository = name.parse().map_err(ApiError::invalid_name)?;
            let VisibilityBody { visibility } = body.json(ADMIN_BODY_BYTES_MAX).await?;
            storage.metadata.set_public(&name, visibility == Visibility::Public).await?;
            Ok(empty(StatusCode::NO_CONTENT, []))
        }
        (&Method::DELETE, _) => delete_repository(storage, name).await,
        _ => Err(ApiError::no_such_endpoint()),
    }
}

/// Deletes a repository with all that it has. The bytes of its blobs come back with the next
/// collection, unless other repositories have them.
async fn delete_repository(storage: &Storage, name: &str) -> Result<Response, ApiError> {
    let repository = known(storage, name).await?;
    let _exclusive = storage.locks.exclusive(&repository).await;
    let (uploads, into) = (storage.uploads.clone(), repository.clone());
    blocking(move || uploads.discard_into(&into)).await;
    match storage.metadata.delete_repository(&repository).await? {
        true => Ok(empty(StatusCode::NO_CONTENT, [])),
        false => Err(no_such_repository(&repository)),
    }
}

/// The repository of this name, which there is.
pub(super) async fn known(storage: &Storage, name: &str) -> Result<Repository, ApiError> {
    let repository: Repository = name.parse().map_err(ApiError::invalid_name)?;
    match storage.metadata.repository(&repository).await? {
        Some(_) => Ok(repository),
        None => Err(no_such_repository(&repository)),
    }
}

fn no_such_repository(repository: &Repository) -> ApiError {
    absent(format!("there is no repository `{repository}`: margay registry repository ls"))
}

fn absent(message: String) -> ApiError {
    ApiError::not_found(ErrorCode::NameUnknown, message)
}
