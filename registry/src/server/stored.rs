//! Reading what is stored under a digest.

use std::{io::Read, sync::Arc};

use blobs::{BlobStore, OpenBlob};
use bytes::Bytes;
use spec::Digest;

use super::{error::ApiError, outline::Outline};
use crate::{
    Error, blocking,
    limits::MANIFEST_BYTES_MAX,
    protocol::Fault,
    storage::{Links, ManifestRecord, Storage, Watch},
};

/// Opens a blob that was committed with `size` bytes, from byte `offset` on.
pub(super) fn open_blob(
    blobs: &dyn BlobStore,
    digest: &Digest,
    size: u64,
    offset: u64,
) -> Result<OpenBlob, Error> {
    let blob = blobs.open(digest, offset)?;
    match blob.bytes == size {
        true => Ok(blob),
        false => Err(Error::Damaged { digest: *digest, expected: size, actual: blob.bytes }),
    }
}

/// What an error says about the bytes of a digest, if anything.
pub(super) fn fault_of(error: &Error) -> Option<Fault> {
    match error {
        Error::Missing { .. } => Some(Fault::Missing),
        Error::Damaged { .. } => Some(Fault::WrongSize),
        Error::Source { .. } => Some(Fault::Unreadable),
        Error::WrongDigest { .. } => Some(Fault::WrongBytes),
        _ => None,
    }
}

/// After `error` met a request for the bytes of a digest: looks again, and from then on does not
/// vouch for what is damaged.
///
/// # Errors
/// `error`, when it says nothing about the bytes.
pub(super) async fn found_damaged(
    storage: &Storage,
    digest: &Digest,
    size: u64,
    error: Error,
) -> Result<(), Error> {
    if fault_of(&error).is_none() {
        return Err(error);
    }
    let watch = storage.unused.watch(digest).await;
    let again = match size <= MANIFEST_BYTES_MAX {
        true => manifest_bytes(&storage.blobs, *digest, size).await.map(drop),
        false => {
            let (blobs, digest) = (Arc::clone(&storage.blobs), *digest);
            blocking(move || open_blob(&*blobs, &digest, size, 0).map(drop)).await
        }
    };
    match again.as_ref().err().and_then(fault_of) {
        Some(fault) => set_aside(storage, &watch, digest, fault).await,
        None => Ok(()),
    }
}

/// Does not vouch for a digest any more, unless a request has brought its bytes meanwhile.
pub(super) async fn set_aside(
    storage: &Storage,
    watch: &Watch<'_>,
    digest: &Digest,
    fault: Fault,
) -> Result<(), Error> {
    let Some(_right) = watch.alone() else { return Ok(()) };
    if !storage.metadata.is_named(digest).await? {
        return Ok(()); // deleted and collected since it was looked up
    }
    tracing::error!(%digest, ?fault, "a blob is damaged: it has to be pushed again");
    storage.metadata.note_damaged(digest, fault).await?;
    let (blobs, digest) = (Arc::clone(&storage.blobs), *digest);
    if let Err(error) = blocking(move || blobs.set_aside(&digest)).await {
        tracing::warn!(%digest, %error, "cannot set a damaged blob aside");
    }
    Ok(())
}

/// After the bytes of a digest were stored: vouches for it again.
pub(super) async fn heal(storage: &Storage, digest: &Digest) -> Result<(), Error> {
    if storage.metadata.is_damaged(digest) {
        storage.metadata.heal(digest).await?;
        let (blobs, digest) = (Arc::clone(&storage.blobs), *digest);
        blocking(move || blobs.forget_aside(&digest)).await?;
    }
    Ok(())
}

/// The bytes of a manifest, verified.
pub(super) async fn manifest_bytes(
    blobs: &Arc<dyn BlobStore>,
    digest: Digest,
    size: u64,
) -> Result<Bytes, Error> {
    let blobs = Arc::clone(blobs);
    blocking(move || {
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
        let read = open_blob(&*blobs, &digest, size, 0)?.take(size).read_to_end(&mut bytes);
        read.map_err(|source| Error::Source { digest, source })?;
        match digest.algorithm().digest(&bytes) {
            actual if actual == digest => Ok(bytes.into()),
            actual => Err(Error::WrongDigest {
                registry: "this registry".to_owned(),
                expected: Box::new(digest),
                actual: Box::new(actual),
            }),
        }
    })
    .await
}

/// What a manifest names, also if its record is from before that was kept.
pub(super) async fn links_of(
    blobs: &Arc<dyn BlobStore>,
    digest: &Digest,
    record: &ManifestRecord,
) -> Result<Links, ApiError> {
    match &record.links {
        Some(links) => Ok(links.clone()),
        None => {
            let bytes = manifest_bytes(blobs, *digest, record.size).await?;
            Ok(Outline::parse(&bytes)?.links())
        }
    }
}
