//! Images that have to be signed before they are pulled.

use std::{io::Read as _, sync::Arc};

use blobs::BlobStore;
use http::{Method, StatusCode};
use spec::{Descriptor, Digest, Manifest};

use super::{
    auth::RepositoryRequest,
    error::{ApiError, ErrorCode},
    remote::{Administrator, pattern_of},
    request_body::RequestBody,
    response::{Response, empty, json},
    stored::manifest_bytes,
};
use crate::{
    Action, Error, Repository, VerifyingKey,
    access::{Object, rights},
    blocking,
    limits::{
        KEYS_BODY_BYTES_MAX, REFERRERS_PAGE_BYTES_MAX, SIGNATURE_BYTES_MAX, SIGNATURE_KEYS_MAX,
        SIGNATURE_MANIFESTS_MAX, SIGNATURE_POLICIES_MAX, SIGNATURES_MAX,
    },
    protocol::{KeysBody, Query},
    signing::{Checked, check, is_signature_layer, signature_tag},
    storage::{ManifestRecord, Storage},
};

/// `/admin/signatures`, and `?repositories=PATTERN` of it.
pub(super) async fn answer(
    storage: &Storage,
    administrator: &Administrator<'_>,
    method: &Method,
    query: &Query,
    body: &mut RequestBody,
) -> Result<Response, ApiError> {
    let metadata = &storage.metadata;
    if *method == Method::GET {
        let all = administrator.seen(metadata, metadata.rules.signature_policies(), |policy| {
            Object::Repositories(policy.repositories.clone())
        });
        return Ok(json(StatusCode::OK, &all));
    }
    let pattern = pattern_of(query)?;
    let known = metadata.rules.signature_policies();
    let is_known = known.iter().any(|policy| policy.repositories == pattern);
    let refused = |message: String| Err(ApiError::bad_request(ErrorCode::Unsupported, message));
    match *method {
        Method::PUT => {
            let KeysBody { keys } = body.json(KEYS_BODY_BYTES_MAX).await?;
            if keys.is_empty() || keys.len() > SIGNATURE_KEYS_MAX {
                return refused(format!("a policy has 1 to {SIGNATURE_KEYS_MAX} keys"));
            }
            if !is_known && known.len() >= SIGNATURE_POLICIES_MAX {
                return refused(format!(
                    "the registry has {SIGNATURE_POLICIES_MAX} policies of signatures already"
                ));
            }
            metadata.set_signature_policy(&pattern, Some(keys)).await?;
        }
        Method::DELETE if is_known => metadata.set_signature_policy(&pattern, None).await?,
        Method::DELETE => {
            let message = format!("there is no policy of signatures for `{pattern}`");
            return Err(ApiError::not_found(ErrorCode::NameUnknown, message));
        }
        _ => return Err(ApiError::no_such_endpoint()),
    }
    Ok(empty(StatusCode::NO_CONTENT, []))
}

/// Whether the client may read a manifest, as far as signatures are concerned. One that may push to
/// the repository may: it has to sign what is there.
pub(super) async fn check_pull(
    storage: &Storage,
    request: &RepositoryRequest,
    digest: &Digest,
    record: &ManifestRecord,
) -> Result<(), ApiError> {
    let repository = &request.repository;
    let wanted = storage.metadata.rules.keys_of(repository);
    if wanted.is_empty() {
        return Ok(());
    }
    let rights = storage.metadata.situation(repository, |situation| {
        rights(&request.principal, situation).contains(Action::Push)
    });
    if rights.await? || is_signature(storage, digest, record).await? {
        return Ok(());
    }
    for (pattern, keys) in wanted {
        if !is_signed_or_part(storage, repository, digest, &keys).await? {
            return Err(ApiError::denied(format!(
                "`{repository}@{digest}` is not signed with a key that `{pattern}` asks for"
            )));
        }
    }
    Ok(())
}

/// Whether a manifest has signatures and nothing else, by its bytes: it cannot be run.
async fn is_signature(
    storage: &Storage,
    digest: &Digest,
    record: &ManifestRecord,
) -> Result<bool, ApiError> {
    if record.media_type.is_index() {
        return Ok(false);
    }
    let bytes = manifest_bytes(&storage.blobs, *digest, record.size).await?;
    let manifest = spec::json::from_slice::<Manifest>(&bytes).ok();
    Ok(manifest.is_some_and(|Manifest { layers, .. }| {
        let of_signature = |layer: &Descriptor| is_signature_layer(layer.media_type.as_str());
        !layers.is_empty() && layers.iter().all(of_signature)
    }))
}

/// Whether a manifest is signed, or an index that is signed names it.
async fn is_signed_or_part(
    storage: &Storage,
    repository: &Repository,
    digest: &Digest,
    keys: &[VerifyingKey],
) -> Result<bool, Error> {
    if is_signed(storage, repository, digest, keys).await? {
        return Ok(true);
    }
    let indexes = storage.metadata.indexes_with(repository, digest, SIGNATURE_MANIFESTS_MAX);
    for (index, record) in indexes.await? {
        // Its record names almost certainly what it names: its bytes say it.
        let bytes = manifest_bytes(&storage.blobs, index, record.size).await?;
        let names = spec::json::from_slice::<spec::Index>(&bytes)
            .is_ok_and(|index| index.manifests.iter().any(|entry| entry.digest == *digest));
        if names && is_signed(storage, repository, &index, keys).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether one of `keys` has signed a manifest: under the tag that cosign gives signatures, or
/// among the referrers.
async fn is_signed(
    storage: &Storage,
    repository: &Repository,
    image: &Digest,
    keys: &[VerifyingKey],
) -> Result<bool, Error> {
    let metadata = &storage.metadata;
    let mut signatures: Vec<_> =
        metadata.tag(repository, &signature_tag(image)).await?.into_iter().collect();
    let limits = (SIGNATURE_MANIFESTS_MAX, REFERRERS_PAGE_BYTES_MAX);
    let referrers = metadata.referrers(repository, image, "", limits).await?;
    signatures.extend(referrers.entries.iter().map(|referrer| referrer.digest));
    signatures.dedup();
    for digest in signatures {
        let record = metadata.manifest(repository, &digest).await?;
        let Some(record) = record.filter(|record| !record.media_type.is_index()) else { continue };
        let bytes = manifest_bytes(&storage.blobs, digest, record.size).await?;
        let Ok(manifest) = spec::json::from_slice::<Manifest>(&bytes) else { continue };
        let (blobs, image, keys) = (Arc::clone(&storage.blobs), *image, keys.to_vec());
        if blocking(move || has_signature(&*blobs, &manifest, &image, &keys)).await {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Blocks. What cannot be read is no signature.
fn has_signature(
    blobs: &dyn BlobStore,
    manifest: &Manifest,
    image: &Digest,
    keys: &[VerifyingKey],
) -> bool {
    let mut left = SIGNATURE_BYTES_MAX;
    let layers = manifest.layers.iter().take(SIGNATURES_MAX);
    let layers = layers.filter(|layer| is_signature_layer(layer.media_type.as_str()));
    layers.filter(|layer| layer.size <= SIGNATURE_BYTES_MAX).any(|layer| {
        left = left.saturating_sub(layer.size);
        let mut bytes = Vec::new();
        left > 0
            && blobs
                .open(&layer.digest, 0)
                .is_ok_and(|blob| blob.take(layer.size).read_to_end(&mut bytes).is_ok())
            && matches!(check(layer, &bytes, image, keys), Checked::By(_))
    })
}
