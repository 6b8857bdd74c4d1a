use std::{
    io::{self, Read},
    sync::Arc,
};

use blobs::OpenBlob;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{Method, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use spec::Digest;

use super::{
    auth::RepositoryRequest,
    error::{ApiError, ErrorCode},
    response::{CONTENT_DIGEST, Response, ResponseBody, empty, full, with_headers},
    stored::{found_damaged, links_of, open_blob},
};
use crate::{
    Error, Repository, blocking,
    limits::DOWNLOAD_CHUNK_BYTES,
    protocol::BlobRange,
    storage::{Link, Storage, Use},
};

/// Reading and deleting blobs.
pub(super) struct BlobEndpoints {
    pub storage: Storage,
}

impl BlobEndpoints {
    /// `GET` and `HEAD`: a blob of this repository, or one part of it.
    ///
    /// # Spec
    /// OCI distribution-spec 1.1, "Pulling blobs"; RFC 9110, "Range Requests".
    pub async fn read(
        &self,
        request: &RepositoryRequest,
        digest: &Digest,
    ) -> Result<Response, ApiError> {
        if !self.storage.unused.ask_for(&request.repository, digest)
            || self.storage.metadata.is_damaged(digest)
        {
            return Err(ApiError::no_such_blob(digest));
        }
        let membership = self.storage.metadata.blob(&request.repository, digest).await?;
        let size = membership.ok_or_else(|| ApiError::no_such_blob(digest))?.size;
        let is_get = request.head.method == Method::GET;
        let range = match is_get {
            true => BlobRange::of(&request.head.headers, size),
            false => BlobRange::Whole,
        };
        let (status, start, length) = match range {
            BlobRange::Whole => (StatusCode::OK, 0, size),
            BlobRange::Part { start, length } => (StatusCode::PARTIAL_CONTENT, start, length),
            BlobRange::Unsatisfiable => {
                let message = format!("the blob has {size} bytes");
                let status = StatusCode::RANGE_NOT_SATISFIABLE;
                return Err(ApiError::new(status, ErrorCode::RangeInvalid, message)
                    .header(header::CONTENT_RANGE, format!("bytes */{size}")));
            }
        };
        let body = match is_get {
            true => match self.stream(*digest, size, start, length).await {
                Ok(body) => body,
                Err(error) => {
                    found_damaged(&self.storage, digest, size, error).await?;
                    return Err(ApiError::no_such_blob(digest));
                }
            },
            false => full(Bytes::new()),
        };
        let name = digest.to_string();
        let mut response = with_headers(
            status,
            body,
            [
                (CONTENT_DIGEST, &*name),
                (header::CONTENT_LENGTH, &length.to_string()),
                (header::CONTENT_TYPE, "application/octet-stream"),
                (header::ACCEPT_RANGES, "bytes"),
                // The bytes of a digest never change; access to them may.
                (header::CACHE_CONTROL, "private, max-age=31536000, immutable"),
                (header::ETAG, &format!("\"{name}\"")),
            ],
        );
        if status == StatusCode::PARTIAL_CONTENT {
            let range = format!("bytes {start}-{}/{size}", start + length - 1);
            response
                .headers_mut()
                .extend(range.parse().map(|range| (header::CONTENT_RANGE, range)));
        }
        Ok(response)
    }

    /// The bytes from `start` on, read as fast as the client takes them.
    async fn stream(
        &self,
        digest: Digest,
        size: u64,
        start: u64,
        length: u64,
    ) -> Result<ResponseBody, Error> {
        let blobs = Arc::clone(&self.storage.blobs);
        let (file, first) = blocking(move || {
            let mut blob = open_blob(&*blobs, &digest, size, start)?;
            let first = read_chunk(&mut blob, length);
            let first = first.map_err(|source| Error::Source { digest, source })?;
            Ok::<_, Error>((blob, first))
        })
        .await?;
        let left = length - first.len() as u64;
        if left == 0 {
            return Ok(full(first));
        }
        let rest = stream::try_unfold((file, left), |(mut file, left)| async move {
            if left == 0 {
                return Ok(None);
            }
            // An error breaks the connection: the status has been sent, so nothing else is left to
            // report it with.
            let (file, chunk) =
                blocking(move || read_chunk(&mut file, left).map(|chunk| (file, chunk))).await?;
            let left = left - chunk.len() as u64;
            Ok(Some((chunk, (file, left))))
        });
        let chunks = stream::once(async { Ok(first) }).chain(rest).map_ok(Frame::data);
        Ok(StreamBody::new(chunks).boxed_unsync())
    }

    /// A manifest of the repository that names a blob.
    async fn user_of(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<Digest>, ApiError> {
        match self.storage.metadata.use_of(repository, digest).await? {
            Use::Unused => Ok(None),
            Use::By(manifest) => Ok(Some(manifest)),
            Use::Unclear(manifests) => {
                let link = Link::of(digest);
                for (manifest, record) in manifests {
                    if links_of(&self.storage.blobs, &manifest, &record).await?.contain(&link) {
                        return Ok(Some(manifest));
                    }
                }
                Ok(None)
            }
        }
    }

    /// `DELETE`: what no manifest of the repository names.
    pub async fn delete(
        &self,
        request: &RepositoryRequest,
        digest: &Digest,
    ) -> Result<Response, ApiError> {
        let _exclusive = self.storage.locks.exclusive(&request.repository).await;
        if let Some(manifest) = self.user_of(&request.repository, digest).await? {
            return Err(ApiError::conflict(format!(
                "blob `{digest}` is used by manifest `{manifest}` of this repository: delete that \
                 first"
            )));
        }
        match self.storage.metadata.remove_blob(&request.repository, digest).await? {
            true => Ok(empty(StatusCode::ACCEPTED, [])),
            false => Err(ApiError::no_such_blob(digest)),
        }
    }
}

fn read_chunk(file: &mut OpenBlob, left: u64) -> io::Result<Bytes> {
    let mut chunk = vec![0; left.min(DOWNLOAD_CHUNK_BYTES) as usize];
    file.read_exact(&mut chunk)?;
    Ok(chunk.into())
}
