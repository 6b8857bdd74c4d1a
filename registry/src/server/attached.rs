//! What a scan has found, beside the image: manifests with the image as their subject, which
//! clients list with the referrers API, and which go with the image.

use bytes::Bytes;
use serde_json::json;
use spec::{Descriptor, Digest, MediaType};

use super::{
    error::ApiError,
    incoming::{IncomingManifest, write},
    stored::heal,
};
use crate::{
    Error, Repository,
    limits::{REFERRERS_PAGE_BYTES_MAX, REFERRERS_PAGE_MAX},
    repository::Actions,
    storage::{ManifestRecord, Storage},
};

/// The type of the content of `{}`, which the manifest of an artifact has as its config.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// Marks what the registry has attached, and may replace.
const BY: &str = "dev.margay.attached-by";

/// Attaches a document of a type to an image, in the place of the one before.
pub(super) async fn attach(
    storage: &Storage,
    repository: &Repository,
    (subject, record): (&Digest, &ManifestRecord),
    (media_type, document): (&'static str, Vec<u8>),
) -> Result<(), ApiError> {
    let described = |media_type: &'static str, bytes: &[u8]| {
        serde_json::to_value(Descriptor::of(media_type, bytes)).expect("keys of text")
    };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_MANIFEST,
        "artifactType": media_type,
        "config": described(EMPTY, b"{}"),
        "layers": [described(media_type, &document)],
        "subject": {"mediaType": record.media_type, "digest": subject, "size": record.size},
        "annotations": {BY: "scan"},
    });
    add_blob(storage, repository, Bytes::from_static(b"{}")).await?;
    add_blob(storage, repository, document.into()).await?;
    let before = attached(storage, repository, subject, media_type).await?;
    let manifest = IncomingManifest::parse(manifest.to_string().into(), None, None)?;
    let digest = manifest.digest;
    {
        let _adding = storage.unused.adding(&digest).await;
        let _shared = storage.locks.shared(repository).await;
        manifest.store(storage, repository, (&[], Actions::default())).await?;
    }
    for old in before.into_iter().filter(|old| *old != digest) {
        let _exclusive = storage.locks.exclusive(repository).await;
        storage.metadata.remove_manifest(repository, &old).await?;
    }
    Ok(())
}

/// What the registry has attached of a type.
async fn attached(
    storage: &Storage,
    repository: &Repository,
    subject: &Digest,
    media_type: &str,
) -> Result<Vec<Digest>, Error> {
    let limits = (REFERRERS_PAGE_MAX, REFERRERS_PAGE_BYTES_MAX);
    let page = storage.metadata.referrers(repository, subject, "", limits).await?;
    let ours = page.entries.into_iter().filter(|referrer| {
        referrer.artifact_type.as_deref() == Some(media_type)
            && referrer.annotations.contains_key(BY)
    });
    Ok(ours.map(|referrer| referrer.digest).collect())
}

async fn add_blob(storage: &Storage, repository: &Repository, bytes: Bytes) -> Result<(), Error> {
    let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
    let _adding = storage.unused.adding(&digest).await;
    storage.unused.ask_for(repository, &digest);
    write(storage, bytes, digest).await?;
    storage.metadata.add_blob(repository, &digest, size).await?;
    heal(storage, &digest).await
}
