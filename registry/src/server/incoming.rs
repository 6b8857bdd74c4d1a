//! A manifest that is about to be added, by a push or from an upstream.

use std::{io::Write, sync::Arc, time::SystemTime};

use bytes::Bytes;
use spec::{Digest, MediaType, Timestamp};

use super::{error::ApiError, outline::Outline, stored::heal};
use crate::{
    Error, Repository, blocking,
    repository::Actions,
    storage::{ManifestRecord, Storage},
};

pub(super) struct IncomingManifest {
    pub digest: Digest,
    pub media_type: MediaType,
    pub outline: Outline,
    bytes: Bytes,
}

impl IncomingManifest {
    /// Bytes that are a manifest or an index, and those of `expected` when that is given.
    pub fn parse(
        bytes: Bytes,
        content_type: Option<&str>,
        expected: Option<&Digest>,
    ) -> Result<Self, ApiError> {
        let outline = Outline::parse(&bytes)?;
        let media_type = outline.media_type(content_type)?;
        outline.check(&media_type)?;
        let digest = match expected {
            None => Digest::of(&bytes),
            Some(expected) => match expected.algorithm().digest(&bytes) {
                actual if actual == *expected => actual,
                actual => return Err(ApiError::wrong_digest(expected, &actual)),
            },
        };
        Ok(Self { digest, media_type, outline, bytes })
    }

    /// Makes it a manifest of `repository`, under its digest and `tags`. The caller holds what
    /// keeps collections and deletions away.
    pub async fn store(
        self,
        storage: &Storage,
        repository: &Repository,
        (tags, rights): (&[String], Actions),
    ) -> Result<(), ApiError> {
        let Self { digest, media_type, outline, bytes } = self;
        let subject = outline.subject();
        let record = ManifestRecord {
            media_type,
            size: bytes.len() as u64,
            subject,
            links: Some(outline.links()),
            pushed: Some(Timestamp::of(SystemTime::now())),
            pulled: None,
        };
        for named in outline.manifests().chain(subject.as_ref()) {
            storage.pulls.ask_for(repository, named);
        }
        let referrer = outline.referrer(&digest, &record)?;
        write(storage, bytes, digest).await?;
        heal(storage, &digest).await?;
        let (metadata, referrer) = (&storage.metadata, referrer.as_ref());
        metadata.put_manifest(repository, &digest, &record, (tags, rights), referrer).await?;
        Ok(())
    }
}

/// Writes the bytes of a manifest, or of what belongs to one, where blobs are, as durably.
pub(super) async fn write(storage: &Storage, bytes: Bytes, digest: Digest) -> Result<(), Error> {
    let blobs = Arc::clone(&storage.blobs);
    blocking(move || {
        let mut writer = blobs.writer(digest.algorithm())?;
        writer.write_all(&bytes).map_err(|source| Error::File {
            action: "write manifest",
            path: digest.to_string().into(),
            source,
        })?;
        writer.commit_as(&digest)?;
        Ok(())
    })
    .await
}
