//! Reading what is stored under a digest.

use std::{io::Read, sync::Arc};

use blobs::{BlobStore, OpenBlob};
use bytes::Bytes;
use spec::Digest;

use super::{error::ApiError, outline::Outline};
use crate::{
    Error, blocking,
    storage::{Links, ManifestRecord},
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

/// The bytes of a manifest.
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
        Ok(bytes.into())
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
