use std::{collections::HashSet, io, sync::Arc};

use ::blobs::{BlobStore, BlobWriter, OpenBlob, StoredBlob};
use spec::{Algorithm, Digest};

use super::super::{outline::Outline, stored::manifest_bytes};
use crate::{
    Error, Repository,
    limits::{IMAGE_BLOBS_MAX, IMAGE_MANIFESTS_MAX},
    storage::Storage,
};

/// The blobs of a repository alone: an index may name what is in repositories of others.
pub(super) struct RepositoryBlobs {
    blobs: Arc<dyn BlobStore>,
    own: HashSet<Digest>,
}

impl RepositoryBlobs {
    /// What the repository has of the image `root`.
    pub async fn below(
        storage: &Storage,
        repository: &Repository,
        root: Digest,
    ) -> Result<Self, Error> {
        let (mut own, mut unread) = (HashSet::new(), vec![root]);
        while let Some(digest) = unread.pop() {
            let record = storage.metadata.manifest(repository, &digest).await?;
            let Some(record) = record.filter(|_| own.len() < IMAGE_MANIFESTS_MAX + IMAGE_BLOBS_MAX)
            else {
                continue;
            };
            own.insert(digest);
            let bytes = manifest_bytes(&storage.blobs, digest, record.size).await?;
            let Ok(outline) = Outline::parse(&bytes) else { continue };
            unread.extend(outline.manifests().filter(|digest| !own.contains(*digest)));
            for blob in outline.blobs() {
                if storage.metadata.blob(repository, &blob.digest).await?.is_some() {
                    own.insert(blob.digest);
                }
            }
        }
        Ok(Self { blobs: Arc::clone(&storage.blobs), own })
    }
}

impl BlobStore for RepositoryBlobs {
    fn size(&self, digest: &Digest) -> ::blobs::Result<Option<u64>> {
        match self.own.contains(digest) {
            true => self.blobs.size(digest),
            false => Ok(None),
        }
    }

    fn open(&self, digest: &Digest, offset: u64) -> ::blobs::Result<OpenBlob> {
        match self.own.contains(digest) {
            true => self.blobs.open(digest, offset),
            false => Err(::blobs::Error::Missing(*digest)),
        }
    }

    fn writer(&self, _algorithm: Algorithm) -> ::blobs::Result<BlobWriter> {
        let source = io::ErrorKind::ReadOnlyFilesystem.into();
        Err(::blobs::Error::Io { action: "write to", path: "a replication".into(), source })
    }

    fn remove(&self, _digest: &Digest) -> ::blobs::Result<bool> {
        Ok(false)
    }

    fn list(&self) -> ::blobs::Result<Vec<StoredBlob>> {
        Ok(Vec::new())
    }
}
