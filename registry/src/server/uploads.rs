use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, StatusCode, header};
use spec::{Algorithm, Digest};
use tokio::sync::Semaphore;

use super::{
    auth::RepositoryRequest,
    error::{ApiError, ErrorCode},
    request_body::RequestBody,
    response::{CONTENT_DIGEST, Response, empty},
    route::parse_digest,
    stored::heal,
};
use crate::{
    Action, QuotaResource, Repository,
    access::{Principal, Situation, decide},
    blocking,
    limits::{UPLOAD_BATCH_BYTES, UPLOAD_LARGE_BATCH_BYTES},
    protocol::{ChunkRange, UploadRange},
    storage::{Membership, Storage, Upload, UploadError, UploadLimits, UploadWriter},
};

const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// Bringing blobs in: mounted from another repository, at once, or in chunks.
pub(super) struct UploadEndpoints {
    pub storage: Storage,
    pub blob_bytes_max: u64,
    pub uploads_per_user_max: usize,
    /// Of bodies that are handed to the disk in large pieces.
    pub large_batches: Semaphore,
}

impl UploadEndpoints {
    /// `POST`: a new upload; or a whole blob at once (`digest`); or a blob that this registry has
    /// already (`mount`).
    ///
    /// # Spec
    /// OCI distribution-spec 1.1, "Pushing blobs" and "Mounting a blob from another repository".
    pub async fn begin(
        &self,
        request: &RepositoryRequest,
        body: &mut RequestBody,
    ) -> Result<Response, ApiError> {
        let RepositoryRequest { query, repository, .. } = request;
        if let Some(text) = query.get("mount") {
            let digest = parse_digest(text)?;
            let _adding = self.storage.unused.adding(&digest).await;
            if let Some(Membership { size }) = self.mountable(request, &digest).await?
                && !self.storage.metadata.is_damaged(&digest)
            {
                self.storage.unused.ask_for(repository, &digest);
                self.storage.metadata.add_blob(repository, &digest, size).await?;
                return Ok(created(repository, &digest));
            }
        }
        if let Some(name) = query.get("digest-algorithm")
            && ![Algorithm::Sha256, Algorithm::Sha512].map(Algorithm::name).contains(&name)
        {
            let message = "the algorithms of this registry are sha256 and sha512";
            return Err(ApiError::bad_request(ErrorCode::DigestInvalid, message));
        }
        let digest = query.get("digest").map(parse_digest).transpose()?;
        let upload = self.open(request).await?;
        let Some(digest) = digest else {
            return Ok(progress(StatusCode::ACCEPTED, repository, &upload, 0));
        };
        let finished = match self.lock(&upload) {
            Ok(writer) => self.complete(repository, &upload, writer, &digest, body).await,
            Err(error) => Err(error),
        };
        if finished.is_err() {
            self.discard(upload).await; // the client has no address to continue it at
        }
        finished
    }

    async fn open(&self, request: &RepositoryRequest) -> Result<Arc<Upload>, ApiError> {
        let (uploads, repository) = (Arc::clone(&self.storage.uploads), request.repository.clone());
        let owner = request.principal.name().to_owned();
        // A client learns that there is no room before it sends what would not fit.
        self.storage.metadata.check_room(&repository, 0).await?;
        let quota = |name: &str, default: usize| {
            let quota = self.storage.metadata.quota(name).of(QuotaResource::Uploads);
            quota.map_or(default, |max| usize::try_from(max).unwrap_or(usize::MAX))
        };
        let user = owner.split_once('+').map_or(&*owner, |(user, _)| user);
        let limits = UploadLimits {
            of_account: quota(user, self.uploads_per_user_max),
            of_repository: quota(repository.as_str(), usize::MAX),
        };
        Ok(blocking(move || uploads.begin(&repository, &owner, limits)).await?)
    }

    /// The blob, in a repository that the principal may read. A principal that may not does not
    /// learn whether the blob exists.
    async fn mountable(
        &self,
        request: &RepositoryRequest,
        digest: &Digest,
    ) -> Result<Option<Membership>, ApiError> {
        let RepositoryRequest { query, principal, repository, .. } = request;
        if let Some(from) = query.get("from") {
            let from: Repository = from.parse().map_err(ApiError::invalid_name)?;
            let may_read =
                |situation: &Situation<'_>| decide(principal, Action::Pull, situation).is_ok();
            return match self.storage.metadata.situation(&from, may_read).await? {
                true => Ok(self.storage.metadata.blob(&from, digest).await?),
                false => Ok(None),
            };
        }
        if let Some(membership) = self.storage.metadata.blob(repository, digest).await? {
            return Ok(Some(membership));
        }
        match principal {
            Principal::User { name, .. } if principal.mounts_own() => {
                Ok(self.storage.metadata.blob_of(name, digest).await?)
            }
            _ => Ok(None),
        }
    }

    /// `GET`: how many bytes have arrived.
    pub async fn status(
        &self,
        request: &RepositoryRequest,
        id: &str,
    ) -> Result<Response, ApiError> {
        let upload = self.find(&request.repository, id)?;
        let bytes = upload.bytes().await;
        Ok(progress(StatusCode::NO_CONTENT, &request.repository, &upload, bytes))
    }

    /// `PATCH`: more bytes at the end, as a stream or as a chunk that states its position.
    pub async fn append(
        &self,
        request: &RepositoryRequest,
        id: &str,
        body: &mut RequestBody,
    ) -> Result<Response, ApiError> {
        let upload = self.find(&request.repository, id)?;
        let writer = self.lock(&upload)?;
        check_chunk(request, &upload, &writer, body)?;
        let writer = self.receive(&upload, writer, body).await?;
        Ok(progress(StatusCode::ACCEPTED, &request.repository, &upload, writer.bytes()))
    }

    /// `PUT`: the last bytes, if any, and the digest of all of them.
    pub async fn finish(
        &self,
        request: &RepositoryRequest,
        id: &str,
        body: &mut RequestBody,
    ) -> Result<Response, ApiError> {
        let missing = || ApiError::bad_request(ErrorCode::DigestInvalid, "`digest` is missing");
        let digest = parse_digest(request.query.get("digest").ok_or_else(missing)?)?;
        let upload = self.find(&request.repository, id)?;
        let writer = self.lock(&upload)?;
        check_chunk(request, &upload, &writer, body)?;
        self.complete(&request.repository, &upload, writer, &digest, body).await
    }

    /// `DELETE`.
    pub async fn cancel(
        &self,
        request: &RepositoryRequest,
        id: &str,
    ) -> Result<Response, ApiError> {
        let upload = self.find(&request.repository, id)?;
        let writer = self.lock(&upload)?;
        self.discard(upload).await;
        drop(writer);
        Ok(empty(StatusCode::NO_CONTENT, []))
    }

    /// Receives the rest of the body, checks the digest, and makes the bytes a blob of
    /// `repository`: durable, then recorded.
    async fn complete(
        &self,
        repository: &Repository,
        upload: &Arc<Upload>,
        writer: UploadWriter,
        digest: &Digest,
        body: &mut RequestBody,
    ) -> Result<Response, ApiError> {
        let writer = self.receive(upload, writer, body).await?;
        let _adding = self.storage.unused.adding(digest).await;
        self.storage.unused.ask_for(repository, digest);
        let (uploads, expected) = (Arc::clone(&self.storage.uploads), *digest);
        let size = blocking(move || uploads.finish(writer, &expected)).await?;
        self.storage.metadata.add_blob(repository, digest, size).await?;
        heal(&self.storage, digest).await?;
        Ok(created(repository, digest))
    }

    /// Writes the body to the end of the upload. What arrived before a failure stays, so that the
    /// client can continue from there; unless the disk or a quota is full, where it would only keep
    /// other uploads from finishing.
    async fn receive(
        &self,
        upload: &Arc<Upload>,
        writer: UploadWriter,
        body: &mut RequestBody,
    ) -> Result<UploadWriter, ApiError> {
        let received = self.write_body(&upload.repository, writer, body).await;
        if let Err(error) = &received
            && [StatusCode::INSUFFICIENT_STORAGE, StatusCode::FORBIDDEN].contains(&error.status())
        {
            self.discard(Arc::clone(upload)).await;
        }
        received
    }

    async fn write_body(
        &self,
        repository: &Repository,
        mut writer: UploadWriter,
        body: &mut RequestBody,
    ) -> Result<UploadWriter, ApiError> {
        let is_long = body.length().is_none_or(|length| length > UPLOAD_BATCH_BYTES as u64);
        let large = is_long.then(|| self.large_batches.try_acquire().ok()).flatten();
        let batch_bytes = match large {
            Some(_) => UPLOAD_LARGE_BATCH_BYTES,
            None => UPLOAD_BATCH_BYTES,
        };
        loop {
            let (batch, end) = next_batch(body, batch_bytes).await;
            let bytes: u64 = batch.iter().map(|piece| piece.len() as u64).sum();
            let bytes_max = self.blob_bytes_max;
            if writer.bytes() + bytes > bytes_max {
                let message = format!("a blob of this registry has at most {bytes_max} bytes");
                return Err(ApiError::too_large(message));
            }
            if bytes > 0 {
                self.storage.metadata.check_room(repository, writer.bytes() + bytes).await?;
                writer = blocking(move || writer.append(&batch).map(|()| writer)).await?;
            }
            match end {
                None => {}
                Some(end) => return end.map(|()| writer),
            }
        }
    }

    fn find(&self, repository: &Repository, id: &str) -> Result<Arc<Upload>, ApiError> {
        self.storage.uploads.find(repository, id).ok_or_else(|| {
            let message = "there is no such upload in this repository";
            ApiError::not_found(ErrorCode::BlobUploadUnknown, message)
        })
    }

    fn lock(&self, upload: &Arc<Upload>) -> Result<UploadWriter, ApiError> {
        self.storage.uploads.writer(upload).ok_or_else(|| {
            let message = "another request is writing to this upload";
            ApiError::new(StatusCode::CONFLICT, ErrorCode::BlobUploadInvalid, message)
        })
    }

    async fn discard(&self, upload: Arc<Upload>) {
        let uploads = Arc::clone(&self.storage.uploads);
        blocking(move || uploads.cancel(&upload)).await;
    }
}

impl From<UploadError> for ApiError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Failed(error) => error.into(),
            UploadError::WrongDigest { expected, actual } => Self::wrong_digest(&expected, &actual),
            UploadError::TooMany(error) => Self::too_many_requests(error.to_string()),
        }
    }
}

/// Whether the chunk that the request announces continues the upload.
fn check_chunk(
    request: &RepositoryRequest,
    upload: &Upload,
    writer: &UploadWriter,
    body: &RequestBody,
) -> Result<(), ApiError> {
    let chunk = ChunkRange::of(&request.head.headers)
        .map_err(|error| ApiError::bad_request(ErrorCode::BlobUploadInvalid, error.to_string()))?;
    let Some(ChunkRange { start, end }) = chunk else { return Ok(()) };
    let bytes = writer.bytes();
    if start != bytes {
        let message = format!("the next chunk starts at {bytes}, not at {start}");
        let status = StatusCode::RANGE_NOT_SATISFIABLE;
        return Err(ApiError::new(status, ErrorCode::BlobUploadInvalid, message)
            .header(header::RANGE, UploadRange::format(bytes))
            .header(header::LOCATION, location(&request.repository, upload)));
    }
    match body.length() {
        Some(length) if end - start != length.wrapping_sub(1) => {
            let message = "Content-Range and Content-Length do not agree";
            Err(ApiError::bad_request(ErrorCode::SizeInvalid, message))
        }
        Some(_) | None => Ok(()),
    }
}

/// Some pieces of the body, and how it ended if it did.
async fn next_batch(
    body: &mut RequestBody,
    bytes_max: usize,
) -> (Vec<Bytes>, Option<Result<(), ApiError>>) {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while bytes < bytes_max {
        match body.next().await {
            Ok(Some(piece)) => {
                bytes += piece.len();
                batch.push(piece);
            }
            Ok(None) => return (batch, Some(Ok(()))),
            Err(error) => return (batch, Some(Err(error))),
        }
    }
    (batch, None)
}

fn location(repository: &Repository, upload: &Upload) -> String {
    format!("/v2/{repository}/blobs/uploads/{}", upload.id)
}

fn progress(status: StatusCode, repository: &Repository, upload: &Upload, bytes: u64) -> Response {
    let headers = [
        (header::LOCATION, &*location(repository, upload)),
        (header::RANGE, &UploadRange::format(bytes)),
        (UPLOAD_ID, &upload.id),
    ];
    empty(status, headers)
}

fn created(repository: &Repository, digest: &Digest) -> Response {
    let headers = [
        (header::LOCATION, &*format!("/v2/{repository}/blobs/{digest}")),
        (CONTENT_DIGEST, &digest.to_string()),
    ];
    empty(StatusCode::CREATED, headers)
}
