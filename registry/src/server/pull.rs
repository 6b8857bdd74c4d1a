use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::stream;
use http::{Method, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use spec::Digest;

use super::{
    app::{App, Asked},
    query::Wanted,
    reply::{Body, CONTENT_DIGEST, Refusal, Reply, empty, full, with_headers},
    route::Target,
};
use crate::{Error, Repository, blocking, storage::ManifestRecord};

/// Read from a file at once; a connection holds two of these.
const PIECE_BYTES: u64 = 256 << 10;

impl App {
    /// A blob of this repository, or one part of it.
    ///
    /// # Spec
    /// OCI distribution-spec 1.1, "Pulling blobs"; RFC 9110, "Range Requests".
    pub(super) async fn read_blob(
        &self,
        asked: &Asked,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Reply, Refusal> {
        let membership =
            self.metadata.blob(repository, digest).await?.ok_or_else(|| no_blob(digest))?;
        let size = membership.size;
        let wanted = match asked.head.method {
            Method::GET => Wanted::of(&asked.head.headers, size),
            _ => Wanted::All,
        };
        let (status, start, length) = match wanted {
            Wanted::All => (StatusCode::OK, 0, size),
            Wanted::Part { start, length } => (StatusCode::PARTIAL_CONTENT, start, length),
            Wanted::Unsatisfiable => {
                return Err(Refusal::new(
                    StatusCode::RANGE_NOT_SATISFIABLE,
                    "RANGE_INVALID",
                    format!("the blob has {size} bytes"),
                )
                .with(header::CONTENT_RANGE, &format!("bytes */{size}")));
            }
        };
        let body = match asked.head.method {
            Method::GET => self.stream(*digest, size, start, length).await?,
            _ => full(Bytes::new()),
        };
        let name = digest.to_string();
        let mut reply = with_headers(
            status,
            body,
            [
                (CONTENT_DIGEST, &*name),
                (header::CONTENT_LENGTH, &length.to_string()),
                (header::CONTENT_TYPE, "application/octet-stream"),
                (header::ACCEPT_RANGES, "bytes"),
                // The bytes of a digest never change; who may see them might.
                (header::CACHE_CONTROL, "private, max-age=31536000, immutable"),
                (header::ETAG, &format!("\"{name}\"")),
            ],
        );
        if status == StatusCode::PARTIAL_CONTENT {
            let range = format!("bytes {start}-{}/{size}", start + length - 1);
            reply.headers_mut().extend(range.parse().map(|range| (header::CONTENT_RANGE, range)));
        }
        Ok(reply)
    }

    /// The bytes from `start` on, read as the client takes them.
    async fn stream(
        &self,
        digest: Digest,
        size: u64,
        start: u64,
        length: u64,
    ) -> Result<Body, Error> {
        let blobs = Arc::clone(&self.blobs);
        let (file, first) = blocking(move || {
            let (mut file, found) = blobs.read(&digest)?;
            if found != size {
                return Err(damaged(&digest));
            }
            let failed = |source| Error::Source { digest, source };
            file.seek(SeekFrom::Start(start)).map_err(failed)?;
            let first = read_piece(&mut file, length).map_err(failed)?;
            Ok((file, first))
        })
        .await?;
        if first.len() as u64 == length {
            return Ok(full(first));
        }
        let left = length - first.len() as u64;
        let mut first = Some(first);
        let pieces = stream::unfold((Some(file), left), move |(file, left)| {
            let first = first.take();
            async move {
                if let Some(first) = first {
                    return Some((Ok(Frame::data(first)), (file, left)));
                }
                let mut file = file.filter(|_| left > 0)?;
                let (file, piece) = blocking(move || {
                    let piece = read_piece(&mut file, left);
                    (file, piece)
                })
                .await;
                match piece {
                    Ok(piece) => {
                        let left = left - piece.len() as u64;
                        Some((Ok(Frame::data(piece)), (Some(file), left)))
                    }
                    // The connection breaks, which is the only way left to say so.
                    Err(error) => Some((Err(error), (None, 0))),
                }
            }
        });
        Ok(StreamBody::new(pieces).boxed_unsync())
    }

    /// A manifest of this repository, byte for byte as it came.
    pub(super) async fn read_manifest(
        &self,
        repository: &Repository,
        target: &Target,
    ) -> Result<Reply, Refusal> {
        let (digest, record) = self.find_manifest(repository, target).await?;
        let bytes = self.manifest_bytes(digest, record.size).await?;
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

    pub(super) async fn find_manifest(
        &self,
        repository: &Repository,
        target: &Target,
    ) -> Result<(Digest, ManifestRecord), Refusal> {
        let digest = match target {
            Target::Digest(digest) => *digest,
            Target::Tag(tag) => {
                self.metadata.tag(repository, tag).await?.ok_or_else(|| no_manifest(tag))?
            }
        };
        match self.metadata.manifest(repository, &digest).await? {
            Some(record) => Ok((digest, record)),
            None => Err(no_manifest(&digest.to_string())),
        }
    }

    async fn manifest_bytes(&self, digest: Digest, size: u64) -> Result<Bytes, Error> {
        let blobs = Arc::clone(&self.blobs);
        blocking(move || {
            let (file, found) = blobs.read(&digest)?;
            let mut bytes =
                Vec::with_capacity(usize::try_from(found.min(size)).unwrap_or_default());
            file.take(size)
                .read_to_end(&mut bytes)
                .map_err(|source| Error::Source { digest, source })?;
            if found == size { Ok(bytes.into()) } else { Err(damaged(&digest)) }
        })
        .await
    }

    pub(super) async fn delete_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Reply, Refusal> {
        let _alone = self.stripe(repository).write().await;
        match self.metadata.remove_blob(repository, digest).await? {
            true => Ok(empty(StatusCode::ACCEPTED, [])),
            false => Err(no_blob(digest)),
        }
    }
}

fn read_piece(file: &mut File, left: u64) -> io::Result<Bytes> {
    let mut piece = vec![0; left.min(PIECE_BYTES) as usize];
    file.read_exact(&mut piece)?;
    Ok(piece.into())
}

fn damaged(digest: &Digest) -> Error {
    let source =
        io::Error::new(io::ErrorKind::InvalidData, "the file has another size than was committed");
    Error::Source { digest: *digest, source }
}

/// The same words for a blob that is nowhere and for one that is only in somebody else's
/// repository.
pub(super) fn no_blob(digest: &Digest) -> Refusal {
    Refusal::absent("BLOB_UNKNOWN", format!("this repository has no blob `{digest}`"))
}

pub(super) fn no_manifest(target: &str) -> Refusal {
    Refusal::absent("MANIFEST_UNKNOWN", format!("this repository has no manifest `{target}`"))
}
