use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    sync::Arc,
};

use blobs::OpenBlob;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{Method, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use net::{FileBody, TakesFiles};
use spec::Digest;

use super::{
    auth::RepositoryRequest,
    error::{ApiError, ErrorCode},
    response::{CONTENT_DIGEST, Response, ResponseBody, empty, full, with_headers},
    stored::{found_damaged, links_of, open_blob},
    upstreams::PullThrough,
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
    pub pull_through: Arc<PullThrough>,
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
        let kept = self.kept(&request.repository, digest).await?;
        let size = match kept {
            Some(size) => size,
            None => {
                let size = self.pull_through.blob_size(&request.repository, digest).await?;
                size.ok_or_else(|| ApiError::no_such_blob(digest))?
            }
        };
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
        let contents = match is_get {
            true => self.contents(request, digest, (kept.is_some(), size), (start, length)).await?,
            false => Contents::Stream(full(Bytes::new())),
        };
        Ok(answer(digest, status, contents, (start, length), size))
    }

    /// The size of a blob that the repository has and the registry vouches for.
    async fn kept(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<u64>, ApiError> {
        if !self.storage.unused.ask_for(repository, digest)
            || self.storage.metadata.is_damaged(digest)
        {
            return Ok(None);
        }
        Ok(self.storage.metadata.blob(repository, digest).await?.map(|blob| blob.size))
    }

    /// `length` bytes from `start` on, from the disk or an upstream.
    async fn contents(
        &self,
        request: &RepositoryRequest,
        digest: &Digest,
        (is_kept, size): (bool, u64),
        (start, length): (u64, u64),
    ) -> Result<Contents, ApiError> {
        if is_kept {
            let files = request.head.extensions.get::<TakesFiles>().is_some();
            match self.open(*digest, size, (start, length), files).await {
                Ok(contents) => return Ok(contents),
                Err(error) => found_damaged(&self.storage, digest, size, error).await?,
            }
        }
        // An upstream that has it heals what is damaged.
        let repository = &request.repository;
        let body = self.pull_through.blob(repository, digest, size, (start, length)).await?;
        Ok(Contents::Stream(body))
    }

    /// `length` bytes from `start` on, for a client that takes a file, or not.
    async fn open(
        &self,
        digest: Digest,
        size: u64,
        (start, length): (u64, u64),
        files: bool,
    ) -> Result<Contents, Error> {
        let blobs = Arc::clone(&self.storage.blobs);
        let opened = blocking(move || {
            let mut blob = open_blob(&*blobs, &digest, size, start)?;
            if files && length > DOWNLOAD_CHUNK_BYTES {
                match blob.into_file() {
                    Ok(file) => {
                        // What a disk has lost is found out before the status is sent.
                        let read = file.read_exact_at(&mut [0], start);
                        read.map_err(|source| Error::Source { digest, source })?;
                        return Ok(Opened::File(file));
                    }
                    Err(other) => blob = other,
                }
            }
            let first = read_chunk(&mut blob, length);
            let first = first.map_err(|source| Error::Source { digest, source })?;
            Ok::<_, Error>(Opened::Read(blob, first))
        });
        Ok(match opened.await? {
            Opened::File(file) => Contents::File(FileBody::new(file, start, length)),
            Opened::Read(blob, first) => Contents::Stream(stream(blob, first, length)),
        })
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

fn answer(
    digest: &Digest,
    status: StatusCode,
    contents: Contents,
    (start, length): (u64, u64),
    size: u64,
) -> Response {
    let (body, file) = match contents {
        Contents::Stream(body) => (body, None),
        Contents::File(file) => (full(Bytes::new()), Some(file)),
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
    if let Some(file) = file {
        response.extensions_mut().insert(file);
    }
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {start}-{}/{size}", start + length - 1);
        response.headers_mut().extend(range.parse().map(|range| (header::CONTENT_RANGE, range)));
    }
    response
}

/// What a blob is sent from.
enum Contents {
    Stream(ResponseBody),
    File(FileBody),
}

/// A blob and its beginning, or a file of which the beginning was read.
enum Opened {
    Read(OpenBlob, Bytes),
    File(File),
}

/// `length` bytes, of which the first are there, read as fast as the client takes them.
fn stream(blob: OpenBlob, first: Bytes, length: u64) -> ResponseBody {
    let left = length - first.len() as u64;
    if left == 0 {
        return full(first);
    }
    let rest = stream::try_unfold((blob, left), |(mut blob, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        // An error breaks the connection: the status has been sent, so nothing else is left to
        // report it with.
        let (blob, chunk) =
            blocking(move || read_chunk(&mut blob, left).map(|chunk| (blob, chunk))).await?;
        let left = left - chunk.len() as u64;
        Ok(Some((chunk, (blob, left))))
    });
    let chunks = stream::once(async { Ok(first) }).chain(rest).map_ok(Frame::data);
    StreamBody::new(chunks).boxed_unsync()
}

fn read_chunk(blob: &mut OpenBlob, left: u64) -> io::Result<Bytes> {
    let bytes = left.min(DOWNLOAD_CHUNK_BYTES);
    let mut chunk = Vec::with_capacity(bytes as usize); // a chunk at most
    blob.take(bytes).read_to_end(&mut chunk)?;
    match chunk.len() as u64 == bytes {
        true => Ok(chunk.into()),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
