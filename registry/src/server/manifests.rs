use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use http::{HeaderName, Method, StatusCode, header};
use spec::{Digest, Reference, Timestamp};

use super::{
    auth::RepositoryRequest,
    error::{ApiError, ErrorCode},
    incoming::IncomingManifest,
    outline::Outline,
    pushed::Pushes,
    request_body::RequestBody,
    response::{CONTENT_DIGEST, Response, empty, full, header_value, with_headers},
    route::Target,
    scan_policies,
    scanner::Scanner,
    signatures::check_pull,
    stored::{found_damaged, manifest_bytes},
    upstreams::PullThrough,
};
use crate::{
    Action, Error, Repository,
    limits::{MANIFEST_BYTES_MAX, TAGS_PER_PUT_MAX},
    protocol::Switch,
    storage::{ManifestRecord, Storage},
};

const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const TAG: HeaderName = HeaderName::from_static("oci-tag");

/// Reading, adding and deleting manifests and indexes.
pub(super) struct ManifestEndpoints {
    pub storage: Storage,
    pub pushes: Pushes,
    pub scanner: Scanner,
    pub pull_through: Arc<PullThrough>,
}

impl ManifestEndpoints {
    /// `GET` and `HEAD`: a manifest of this repository, byte for byte as it was pushed.
    pub async fn read(
        &self,
        request: &RepositoryRequest,
        target: &Target,
    ) -> Result<Response, ApiError> {
        self.pull_through.manifest(&request.repository, target).await?;
        let (digest, record) = self.find(&request.repository, target).await?;
        check_pull(&self.storage, request, &digest, &record).await?;
        let image = (&digest, &record);
        scan_policies::check_pull(&self.storage, &self.scanner, request, image).await?;
        let bytes = match request.head.method {
            Method::GET => match self.bytes(digest, record.size).await {
                Ok(bytes) => bytes,
                Err(error) => {
                    found_damaged(&self.storage, &digest, record.size, error).await?;
                    return Err(ApiError::no_such_manifest(&target.to_string()));
                }
            },
            _ => Bytes::new(), // the record has all that the headers need
        };
        let name = digest.to_string();
        Ok(with_headers(
            StatusCode::OK,
            full(bytes),
            [
                (CONTENT_DIGEST, &*name),
                (header::CONTENT_LENGTH, &record.size.to_string()),
                (header::CONTENT_TYPE, record.media_type.as_str()),
                (header::ETAG, &format!("\"{name}\"")),
            ],
        ))
    }

    async fn bytes(&self, digest: Digest, size: u64) -> Result<Bytes, Error> {
        if let Some(bytes) = self.storage.manifests.get(&digest) {
            return Ok(bytes);
        }
        let bytes = manifest_bytes(&self.storage.blobs, digest, size).await?;
        self.storage.manifests.keep(digest, bytes.clone());
        Ok(bytes)
    }

    async fn find(
        &self,
        repository: &Repository,
        target: &Target,
    ) -> Result<(Digest, ManifestRecord), ApiError> {
        let digest = match target {
            Target::Digest(digest) => Some(*digest),
            Target::Tag(tag) => self.storage.metadata.tag(repository, tag).await?,
        };
        let missing = || ApiError::no_such_manifest(&target.to_string());
        let digest = digest.ok_or_else(missing)?;
        self.storage.pulls.ask_for(repository, &digest);
        let record = self.storage.metadata.manifest(repository, &digest).await?;
        let record = record.filter(|_| !self.storage.metadata.is_damaged(&digest));
        let record = record.ok_or_else(missing)?;
        // Also by HEAD: a client that has the image asks for no more than its digest.
        let now = Timestamp::of(SystemTime::now());
        self.storage.pulls.note(repository, &digest, record.pulled, now);
        Ok((digest, record))
    }

    /// `PUT`: stores a manifest, exactly these bytes, under its digest and under tags.
    ///
    /// A manifest may only name blobs that this repository has, unless the operator allows sparse
    /// ones. An index may name manifests that
    /// the repository lacks: a mirror of one platform keeps the digest of the whole.
    ///
    /// # Spec
    /// OCI distribution-spec 1.1, "Pushing Manifests", and its main branch for `?tag=`.
    pub async fn put(
        &self,
        request: &RepositoryRequest,
        target: &Target,
        body: &mut RequestBody,
    ) -> Result<Response, ApiError> {
        let repository = &request.repository;
        let tags = tags(request, target)?;
        let bytes = body.all(MANIFEST_BYTES_MAX as usize).await?;
        let content_type = request.head.headers.get(header::CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        let expected = match target {
            Target::Tag(_) => None,
            Target::Digest(expected) => Some(expected),
        };
        let manifest = IncomingManifest::parse(bytes, content_type, expected)?;
        let (digest, subject) = (manifest.digest, manifest.outline.subject());
        let has_layers = manifest.outline.has_layers();

        let _adding = self.storage.unused.adding(&digest).await;
        let _shared = self.storage.locks.shared(repository).await;
        self.check_push(request, &digest).await?;
        if !manifest.media_type.is_index() {
            self.check_blobs(repository, &manifest.outline).await?;
        }
        manifest.store(&self.storage, repository, (&tags, request.rights)).await?;
        self.pushes.note(repository, &digest, has_layers);
        Ok(created(repository, &digest, subject.as_ref(), &tags))
    }

    /// A client that may set tags and not push names manifests that are there.
    async fn check_push(
        &self,
        request: &RepositoryRequest,
        digest: &Digest,
    ) -> Result<(), ApiError> {
        let RepositoryRequest { repository, principal, rights, .. } = request;
        let may_push = rights.contains(Action::Push);
        match may_push || self.storage.metadata.manifest(repository, digest).await?.is_some() {
            true => Ok(()),
            false => Err(ApiError::denied(format!(
                "`{}` may set tags of `{repository}`, and not push manifest `{digest}` to it",
                principal.name()
            ))),
        }
    }

    /// Every blob that the manifest names is in the repository and has the size that the manifest
    /// states, so that a client that gets the manifest gets the image.
    async fn check_blobs(
        &self,
        repository: &Repository,
        outline: &Outline,
    ) -> Result<(), ApiError> {
        for blob in outline.blobs() {
            let digest = &blob.digest;
            self.storage.unused.ask_for(repository, digest);
            let Some(membership) = self.storage.metadata.blob(repository, digest).await? else {
                if self.storage.metadata.rules.is_on(Switch::Sparse) {
                    continue;
                }
                let message = format!("it names blob `{digest}`, which this repository lacks");
                return Err(ApiError::bad_request(ErrorCode::ManifestBlobUnknown, message));
            };
            if self.storage.metadata.is_damaged(digest) {
                let message = format!("blob `{digest}` is damaged on disk: push it again");
                return Err(ApiError::bad_request(ErrorCode::ManifestBlobUnknown, message));
            }
            if membership.size != blob.size {
                let (stated, size) = (blob.size, membership.size);
                return Err(ApiError::invalid_manifest(format!(
                    "blob `{digest}` has {size} bytes, and the manifest states {stated}"
                )));
            }
        }
        Ok(())
    }

    /// `DELETE`: a tag, or a manifest with every tag that points to it.
    pub async fn delete(
        &self,
        request: &RepositoryRequest,
        target: &Target,
    ) -> Result<Response, ApiError> {
        let repository = &request.repository;
        let _exclusive = self.storage.locks.exclusive(repository).await;
        let existed = match target {
            Target::Tag(tag) => self.storage.metadata.remove_tag(repository, tag).await?,
            Target::Digest(digest) => {
                self.storage.metadata.remove_manifest(repository, digest).await?
            }
        };
        match existed {
            true => Ok(empty(StatusCode::ACCEPTED, [])),
            false => Err(ApiError::no_such_manifest(&target.to_string())),
        }
    }
}

/// The tag in the path, or those in the query beside a digest.
fn tags(request: &RepositoryRequest, target: &Target) -> Result<Vec<String>, ApiError> {
    let mut tags: Vec<String> = match target {
        Target::Tag(tag) => vec![tag.clone()],
        Target::Digest(_) => request.query.all("tag").map(str::to_owned).collect(),
    };
    tags.sort_unstable();
    tags.dedup();
    let invalid = |message: String| Err(ApiError::bad_request(ErrorCode::TagInvalid, message));
    match tags.iter().find(|tag| !Reference::is_tag(tag)) {
        Some(_) => invalid("a `tag` of the query is not a tag".to_owned()),
        None if tags.len() > TAGS_PER_PUT_MAX => {
            invalid(format!("a request sets at most {TAGS_PER_PUT_MAX} tags"))
        }
        None => Ok(tags),
    }
}

fn created(
    repository: &Repository,
    digest: &Digest,
    subject: Option<&Digest>,
    tags: &[String],
) -> Response {
    let location = format!("/v2/{repository}/manifests/{digest}");
    let headers = [(header::LOCATION, &*location), (CONTENT_DIGEST, &digest.to_string())];
    let mut response = empty(StatusCode::CREATED, headers);
    let headers = response.headers_mut();
    if let Some(subject) = subject {
        headers.insert(SUBJECT, header_value(&subject.to_string()));
    }
    for tag in tags {
        headers.append(TAG, header_value(tag));
    }
    response
}
