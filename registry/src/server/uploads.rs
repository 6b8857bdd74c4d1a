use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, StatusCode, header};
use spec::{Algorithm, Digest};

use super::{
    app::{App, Asked},
    query::chunk,
    reply::{CONTENT_DIGEST, Refusal, Reply, empty},
    request_body::RequestBody,
};
use crate::{
    Action, Error, Repository,
    access::{Principal, Scopes, Verdict, authorize},
    blocking,
    storage::{Membership, NotOpened, Unfinished, Upload, Writing},
};

/// Handed to the disk at once; a connection holds one of these while the next comes in.
const BATCH_BYTES: usize = 128 << 10;
const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");

impl App {
    /// `POST`: a new upload; or a whole blob at once (`digest`); or a blob that is here already
    /// (`mount`).
    ///
    /// # Spec
    /// OCI distribution-spec 1.1, "Pushing blobs" and "Mounting a blob from another repository".
    pub(super) async fn begin_upload(
        &self,
        asked: &Asked,
        repository: &Repository,
        body: &mut RequestBody,
    ) -> Result<Reply, Refusal> {
        if let Some(text) = asked.query.get("mount") {
            let digest = parse_digest(text)?;
            if let Some(Membership { size }) =
                self.find_elsewhere(asked, repository, &digest).await?
            {
                self.metadata.add_blob(repository, &digest, size).await?;
                return Ok(created(repository, &digest));
            }
        }
        if let Some(algorithm) = asked.query.get("digest-algorithm")
            && ![Algorithm::Sha256, Algorithm::Sha512].map(Algorithm::name).contains(&algorithm)
        {
            return Err(Refusal::bad(
                "DIGEST_INVALID",
                "the algorithms here are sha256 and sha512",
            ));
        }
        let promised = asked.query.get("digest").map(parse_digest).transpose()?;
        let (uploads, name, owner) =
            (Arc::clone(&self.uploads), repository.clone(), asked.principal.name().to_owned());
        let upload =
            blocking(move || uploads.begin(&name, &owner)).await.map_err(|error| match error {
                NotOpened::Failed(error) => error.into(),
                NotOpened::TooMany => Refusal::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "TOOMANYREQUESTS",
                    "too many uploads are open: finish or cancel some first",
                ),
            })?;
        match promised {
            None => Ok(status(StatusCode::ACCEPTED, repository, &upload, 0)),
            Some(digest) => {
                let done = self.complete(repository, &upload, &digest, None, body).await;
                if done.is_err() {
                    self.cancel(upload).await; // nobody knows its address
                }
                done
            }
        }
    }

    /// A blob that the asker may read somewhere here. A token that may not does not learn that it
    /// exists.
    async fn find_elsewhere(
        &self,
        asked: &Asked,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<Membership>, Refusal> {
        if let Some(from) = asked.query.get("from") {
            let from: Repository = from
                .parse()
                .map_err(|error: Error| Refusal::bad("NAME_INVALID", error.to_string()))?;
            let public = self.is_public(&from).await?;
            return match authorize(&asked.principal, &from, public, Action::Pull) {
                Verdict::Allowed => Ok(self.metadata.blob(&from, digest).await?),
                Verdict::Challenge | Verdict::Denied => Ok(None),
            };
        }
        if let Some(membership) = self.metadata.blob(repository, digest).await? {
            return Ok(Some(membership));
        }
        match &asked.principal {
            Principal::User { name, scopes: Scopes::Only { own: true, .. } } => {
                Ok(self.metadata.blob_of(name, digest).await?)
            }
            _ => Ok(None),
        }
    }

    /// `GET`: how far an upload is.
    pub(super) async fn read_upload(
        &self,
        repository: &Repository,
        id: &str,
    ) -> Result<Reply, Refusal> {
        let upload = self.find(repository, id)?;
        let bytes = upload.bytes().await;
        Ok(status(StatusCode::NO_CONTENT, repository, &upload, bytes))
    }

    /// `PATCH`: more bytes at the end, as a stream or as a chunk that says where it belongs.
    pub(super) async fn append_upload(
        &self,
        asked: &Asked,
        repository: &Repository,
        id: &str,
        body: &mut RequestBody,
    ) -> Result<Reply, Refusal> {
        let upload = self.find(repository, id)?;
        let writing = self.write(&upload)?;
        self.check_chunk(asked, repository, &upload, &writing, body)?;
        let (writing, received) = self.receive(writing, body).await;
        self.make_room(&upload, received).await?;
        let bytes = writing.bytes();
        Ok(status(StatusCode::ACCEPTED, repository, &upload, bytes))
    }

    /// `PUT`: the last bytes, if any, and the name of all of them.
    pub(super) async fn finish_upload(
        &self,
        asked: &Asked,
        repository: &Repository,
        id: &str,
        body: &mut RequestBody,
    ) -> Result<Reply, Refusal> {
        let digest = asked
            .query
            .get("digest")
            .ok_or_else(|| Refusal::bad("DIGEST_INVALID", "`digest` is missing"))?;
        let digest = parse_digest(digest)?;
        let upload = self.find(repository, id)?;
        self.complete(repository, &upload, &digest, Some(asked), body).await
    }

    /// `DELETE`: never mind.
    pub(super) async fn cancel_upload(
        &self,
        repository: &Repository,
        id: &str,
    ) -> Result<Reply, Refusal> {
        let upload = self.find(repository, id)?;
        let writing = self.write(&upload)?;
        self.cancel(upload).await;
        drop(writing);
        Ok(empty(StatusCode::NO_CONTENT, []))
    }

    /// Takes what is left in, checks the digest, and makes the bytes a blob of `repository`:
    /// durable, then known.
    async fn complete(
        &self,
        repository: &Repository,
        upload: &Arc<Upload>,
        digest: &Digest,
        chunked: Option<&Asked>,
        body: &mut RequestBody,
    ) -> Result<Reply, Refusal> {
        let writing = self.write(upload)?;
        if let Some(asked) = chunked {
            self.check_chunk(asked, repository, upload, &writing, body)?;
        }
        let (writing, received) = self.receive(writing, body).await;
        self.make_room(upload, received).await?;
        let (uploads, blobs) = (Arc::clone(&self.uploads), Arc::clone(&self.blobs));
        let (upload, promised) = (Arc::clone(upload), *digest);
        let size = blocking(move || uploads.finish(&upload, writing, &promised, &blobs))
            .await
            .map_err(|e| match e {
                Unfinished::Failed(error) => error.into(),
                Unfinished::WrongDigest(actual) => Refusal::bad(
                    "DIGEST_INVALID",
                    format!("the bytes are not `{digest}` but `{actual}`"),
                ),
            })?;
        self.metadata.add_blob(repository, digest, size).await?;
        Ok(created(repository, digest))
    }

    /// A half that the disk has no room for would only keep others from finishing theirs.
    async fn make_room(
        &self,
        upload: &Arc<Upload>,
        received: Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        if received
            .as_ref()
            .is_err_and(|refusal| refusal.status() == StatusCode::INSUFFICIENT_STORAGE)
        {
            self.cancel(Arc::clone(upload)).await;
        }
        received
    }

    /// Writes the body to the end of the upload. What came before a break stays, so that a client
    /// can go on from there.
    async fn receive(
        &self,
        mut writing: Writing,
        body: &mut RequestBody,
    ) -> (Writing, Result<(), Refusal>) {
        loop {
            let (batch, end) = gather(body).await;
            let bytes: u64 = batch.iter().map(|piece| piece.len() as u64).sum();
            if writing.bytes() + bytes > self.limits.blob_bytes_max {
                let message =
                    format!("a blob has at most {} bytes here", self.limits.blob_bytes_max);
                return (
                    writing,
                    Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", message)),
                );
            }
            if bytes > 0 {
                let (back, written) = blocking(move || {
                    let written = writing.append(&batch);
                    (writing, written)
                })
                .await;
                writing = back;
                if let Err(error) = written {
                    return (writing, Err(error.into()));
                }
            }
            match end {
                None => {}
                Some(end) => return (writing, end),
            }
        }
    }

    fn check_chunk(
        &self,
        asked: &Asked,
        repository: &Repository,
        upload: &Upload,
        writing: &Writing,
        body: &RequestBody,
    ) -> Result<(), Refusal> {
        let chunk = chunk(&asked.head.headers)
            .map_err(|()| Refusal::bad("BLOB_UPLOAD_INVALID", "Content-Range is not START-END"))?;
        let Some((start, end)) = chunk else { return Ok(()) };
        let bytes = writing.bytes();
        if start != bytes {
            let refusal = Refusal::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "BLOB_UPLOAD_INVALID",
                format!("the next chunk starts at {bytes}, not at {start}"),
            );
            return Err(refusal
                .with(header::RANGE, &range(bytes))
                .with(header::LOCATION, &location(repository, upload)));
        }
        match body.length() {
            Some(length) if end - start == length.wrapping_sub(1) => Ok(()),
            None => Ok(()),
            Some(_) => {
                Err(Refusal::bad("SIZE_INVALID", "Content-Range and Content-Length do not agree"))
            }
        }
    }

    fn find(&self, repository: &Repository, id: &str) -> Result<Arc<Upload>, Refusal> {
        self.uploads.find(repository, id).ok_or_else(|| {
            Refusal::absent("BLOB_UPLOAD_UNKNOWN", "there is no such upload in this repository")
        })
    }

    fn write(&self, upload: &Arc<Upload>) -> Result<Writing, Refusal> {
        self.uploads.write(upload).ok_or_else(|| {
            Refusal::new(
                StatusCode::CONFLICT,
                "BLOB_UPLOAD_INVALID",
                "another request is writing to this upload",
            )
        })
    }

    async fn cancel(&self, upload: Arc<Upload>) {
        let uploads = Arc::clone(&self.uploads);
        blocking(move || uploads.cancel(&upload)).await;
    }
}

/// Some pieces of the body, and how it ended if it did.
async fn gather(body: &mut RequestBody) -> (Vec<Bytes>, Option<Result<(), Refusal>>) {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while bytes < BATCH_BYTES {
        match body.next().await {
            Ok(Some(piece)) => {
                bytes += piece.len();
                batch.push(piece);
            }
            Ok(None) => return (batch, Some(Ok(()))),
            Err(refusal) => return (batch, Some(Err(refusal))),
        }
    }
    (batch, None)
}

pub(super) fn parse_digest(text: &str) -> Result<Digest, Refusal> {
    text.parse()
        .map_err(|error: spec::ParseError| Refusal::bad("DIGEST_INVALID", error.to_string()))
}

fn location(repository: &Repository, upload: &Upload) -> String {
    format!("/v2/{repository}/blobs/uploads/{}", upload.id)
}

/// `0-LAST`; the specification has no way to write an empty range, and everybody writes this.
fn range(bytes: u64) -> String {
    format!("0-{}", bytes.saturating_sub(1))
}

fn status(status: StatusCode, repository: &Repository, upload: &Upload, bytes: u64) -> Reply {
    let headers = [
        (header::LOCATION, &*location(repository, upload)),
        (header::RANGE, &range(bytes)),
        (UPLOAD_ID, &upload.id),
    ];
    empty(status, headers)
}

fn created(repository: &Repository, digest: &Digest) -> Reply {
    let headers = [
        (header::LOCATION, &*format!("/v2/{repository}/blobs/{digest}")),
        (CONTENT_DIGEST, &digest.to_string()),
    ];
    empty(StatusCode::CREATED, headers)
}
