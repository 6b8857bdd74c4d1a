use std::{
    collections::HashSet,
    io::{self, Read},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{HeaderMap, Method, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use spec::{Descriptor, Digest, Index, Manifest, Reference};
use tokio::{sync::mpsc, time::sleep};

use super::{
    Client, MANIFEST_BYTES_MAX, Resolved, media_type_of,
    origin::repository_of,
    pull::{parse, passing},
    session::{Call, Session, Target, escaped},
    transfer::{BlobSource, Event, Outcome, Progress, unwatched},
    transport::{Body, Pulse},
};
use crate::{Error, blocking};

/// Enough to fill a link, few enough that a small registry keeps up.
const PARALLEL: usize = 3;
/// Read from the source at once, and waiting in the queue: a megabyte for each blob on its way.
const PIECE_BYTES: usize = 256 << 10;
const PIECES_WAITING_MAX: usize = 4;
/// Manifests below one name.
const MANIFESTS_MAX: usize = 256;

/// How to push.
#[derive(Clone)]
pub struct PushOptions {
    /// Who watches.
    pub progress: Progress,
}

impl Default for PushOptions {
    fn default() -> Self {
        Self { progress: unwatched() }
    }
}

/// A blob on its way out, for whoever has to try again.
struct Leaving<'a> {
    session: &'a Session<'a>,
    repository: &'a str,
    blob: &'a Descriptor,
    source: &'a Arc<dyn BlobSource>,
    progress: &'a Progress,
}

impl Client {
    /// Brings the manifest or index `root` and all that it names from `source` to `reference`. Only
    /// blobs that the registry lacks travel; blobs first, then manifests from the leaves up, the
    /// tag last.
    ///
    /// Entries of an index that `source` does not have are left out, so an image that was pulled
    /// for one platform keeps its digest when it is pushed on.
    ///
    /// # Errors
    /// [`Error::LoginNeeded`], [`Error::Denied`], [`Error::Source`], [`Error::Cut`],
    /// [`Error::Slow`] and others.
    pub async fn push(
        &self,
        reference: &Reference,
        root: &Descriptor,
        source: Arc<dyn BlobSource>,
        options: &PushOptions,
    ) -> Result<(), Error> {
        let (manifests, blobs) = survey(root, &source).await?;
        let session = self.session_for(reference, "pull,push")?;
        let repository = &*repository_of(reference);
        // One question before many at once, so that one token serves them all.
        self.ask_whether_it_may(&session, repository).await?;
        let (session, source) = (&session, &source);
        let progress = &options.progress;
        let leaving =
            blobs.iter().map(|blob| Leaving { session, repository, blob, source, progress });
        // Collected first: a closure over lifetimes would keep this future from being `Send`.
        let sends: Vec<_> = leaving.map(|leaving| leaving.send(self)).collect();
        stream::iter(sends).buffer_unordered(PARALLEL).try_collect::<()>().await?;
        for manifest in manifests.iter().rev() {
            let target = match (manifest.descriptor.digest == root.digest, reference.tag()) {
                (true, Some(tag)) => tag.to_owned(),
                _ => manifest.descriptor.digest.to_string(),
            };
            put_manifest(session, repository, &target, manifest).await?;
        }
        Ok(())
    }

    async fn ask_whether_it_may(
        &self,
        session: &Session<'_>,
        repository: &str,
    ) -> Result<(), Error> {
        let call = Call::new(
            Method::POST,
            Target::Path(format!("/v2/{repository}/blobs/uploads/")),
            repository,
        );
        let response = session.call(call).await?;
        let response = session.expect(repository, response, &[StatusCode::ACCEPTED]).await?;
        let target = session.location(response.headers(), &session.origin)?;
        session.read(repository, response, 0).await.ok();
        // Nothing will be sent there. A registry without cancelling forgets it by itself.
        session.call(Call::new(Method::DELETE, target, repository)).await.ok();
        Ok(())
    }
}

impl Leaving<'_> {
    async fn send(self, client: &Client) -> Result<(), Error> {
        let Descriptor { digest, size, .. } = *self.blob;
        let mut failures = 0;
        loop {
            let error = match self.try_once().await {
                Ok(outcome) => {
                    (self.progress)(Event::Finished { digest, size, outcome });
                    return Ok(());
                }
                Err(error) => error,
            };
            failures += 1;
            if !passing(&error) || failures > client.0.options.retries_max {
                return Err(error);
            }
            (self.progress)(Event::Retrying { digest, reason: error.to_string() });
            sleep(client.backoff(failures - 1)).await;
        }
    }

    async fn try_once(&self) -> Result<Outcome, Error> {
        if self.is_there().await? {
            return Ok(Outcome::AlreadyThere);
        }
        let upload = match self.mount_or_begin().await? {
            None => return Ok(Outcome::Mounted),
            Some(upload) => upload,
        };
        (self.progress)(Event::Started { digest: self.blob.digest, size: self.blob.size });
        let first = self.finish(&upload, 0).await;
        let error = match first {
            Ok(()) => return Ok(Outcome::Moved),
            Err(error) if passing(&error) => error,
            Err(error) => return Err(error),
        };
        // A cut in the middle: what arrived is there, so only the rest goes again.
        match self.arrived(&upload).await {
            Some(offset) if offset > 0 && offset < self.blob.size => {
                (self.progress)(Event::Retrying {
                    digest: self.blob.digest,
                    reason: error.to_string(),
                });
                self.finish(&upload, offset).await.map(|()| Outcome::Moved)
            }
            _ => Err(error),
        }
    }

    fn what(&self) -> String {
        format!("{}@{}", self.repository, self.blob.digest)
    }

    async fn is_there(&self) -> Result<bool, Error> {
        let what = self.what();
        let path = format!("/v2/{}/blobs/{}", self.repository, self.blob.digest);
        let response =
            self.session.call(Call::new(Method::HEAD, Target::Path(path), &what)).await?;
        match response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            status if status.is_redirection() => Ok(true), // it has the blob, elsewhere
            _ => Err(self.session.refusal(&what, response).await),
        }
    }

    /// An upload to fill, or nothing when the registry found the blob in another repository.
    async fn mount_or_begin(&self) -> Result<Option<Target>, Error> {
        let what = self.what();
        let digest = escaped(&self.blob.digest.to_string());
        let base = format!("/v2/{}/blobs/uploads/", self.repository);
        let begin =
            |path: String| self.session.call(Call::new(Method::POST, Target::Path(path), &what));
        let mut response = begin(format!("{base}?mount={digest}")).await?;
        if !matches!(response.status(), StatusCode::CREATED | StatusCode::ACCEPTED) {
            // Some registries take a mount that they do not know for a mistake.
            response = begin(base).await?;
        }
        match response.status() {
            StatusCode::CREATED => Ok(None),
            StatusCode::ACCEPTED => {
                self.session.location(response.headers(), &self.session.origin).map(Some)
            }
            _ => Err(self.session.refusal(&what, response).await),
        }
    }

    /// Sends the blob from `offset` on, and has it checked and kept.
    async fn finish(&self, upload: &Target, offset: u64) -> Result<(), Error> {
        let what = self.what();
        let left = self.blob.size - offset;
        let pulse = Pulse::default();
        let stream = self.stream(offset, pulse.clone());
        let target =
            with_query(upload, &format!("digest={}", escaped(&self.blob.digest.to_string())));
        let mut call = Call::new(Method::PUT, target, &what)
            .header(header::CONTENT_TYPE, "application/octet-stream");
        if offset > 0 {
            call = call.header(header::CONTENT_RANGE, format!("{offset}-{}", self.blob.size - 1));
        }
        let response = self.session.call(call.stream(stream, left, pulse)).await?;
        self.session
            .expect(&what, response, &[StatusCode::CREATED, StatusCode::NO_CONTENT])
            .await
            .map(drop)
    }

    /// How many bytes of a broken upload the registry has.
    async fn arrived(&self, upload: &Target) -> Option<u64> {
        let what = self.what();
        let target = with_query(upload, "");
        let response = self.session.call(Call::new(Method::GET, target, &what)).await.ok()?;
        (response.status() == StatusCode::NO_CONTENT).then(|| bytes_arrived(response.headers()))?
    }

    /// Bytes from a thread that may wait for the disk, a bounded queue ahead of the wire.
    fn stream(&self, offset: u64, pulse: Pulse) -> Body {
        let (pieces, queue) = mpsc::channel(PIECES_WAITING_MAX);
        let (source, digest, size) = (Arc::clone(self.source), self.blob.digest, self.blob.size);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = read_pieces(source.as_ref(), &digest, offset, size, &pieces) {
                pieces.blocking_send(Err(error)).ok();
            }
        });
        let progress = Arc::clone(self.progress);
        let moved = stream::unfold((queue, offset), move |(mut queue, sent)| {
            let (pulse, progress) = (pulse.clone(), Arc::clone(&progress));
            async move {
                let piece: io::Result<Bytes> = queue.recv().await?;
                pulse.beat();
                let sent = sent + piece.as_ref().map_or(0, |bytes| bytes.len() as u64);
                progress(Event::Moved { digest, bytes: sent });
                Some((piece.map(Frame::data), (queue, sent)))
            }
        });
        StreamBody::new(moved).boxed_unsync()
    }
}

fn read_pieces(
    source: &dyn BlobSource,
    digest: &Digest,
    offset: u64,
    size: u64,
    pieces: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let mut reader = source.open(digest, offset)?;
    let mut left = size - offset;
    while left > 0 {
        let mut piece = vec![0; PIECE_BYTES.min(usize::try_from(left).unwrap_or(PIECE_BYTES))];
        reader.read_exact(&mut piece)?;
        left -= piece.len() as u64;
        if pieces.blocking_send(Ok(piece.into())).is_err() {
            return Ok(()); // nobody wants the rest: the connection broke
        }
    }
    Ok(())
}

/// Reads manifests from `root` down: parents before children, each blob once.
async fn survey(
    root: &Descriptor,
    source: &Arc<dyn BlobSource>,
) -> Result<(Vec<Resolved>, Vec<Descriptor>), Error> {
    let (root, source) = (root.clone(), Arc::clone(source));
    blocking(move || {
        let (mut manifests, mut blobs, mut seen) =
            (Vec::new(), Vec::new(), HashSet::from([root.digest]));
        let mut waiting = vec![root.clone()];
        while let Some(descriptor) = waiting.pop() {
            let Some(manifest) =
                read_manifest(&descriptor, source.as_ref(), descriptor.digest == root.digest)?
            else {
                continue;
            };
            if manifest.descriptor.media_type.is_index() {
                let index: Index = parse(&manifest)?;
                waiting
                    .extend(index.manifests.into_iter().filter(|entry| seen.insert(entry.digest)));
            } else {
                let Manifest { config, layers, .. } = parse(&manifest)?;
                let own = config.into_iter().chain(layers);
                blobs.extend(own.filter(|blob| !is_foreign(blob) && seen.insert(blob.digest)));
            }
            manifests.push(manifest);
            if manifests.len() > MANIFESTS_MAX {
                return Err(Error::Manifest {
                    what: root.digest.to_string(),
                    message: format!("it names more than {MANIFESTS_MAX} manifests"),
                });
            }
        }
        Ok((manifests, blobs))
    })
    .await
}

fn read_manifest(
    descriptor: &Descriptor,
    source: &dyn BlobSource,
    needed: bool,
) -> Result<Option<Resolved>, Error> {
    let digest = descriptor.digest;
    let reader = match source.open(&digest, 0) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !needed => return Ok(None),
        other => other.map_err(|source| Error::Source { digest, source })?,
    };
    let mut bytes = Vec::new();
    reader
        .take(MANIFEST_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| Error::Source { digest, source })?;
    let mut descriptor = descriptor.clone();
    descriptor.size = bytes.len() as u64;
    if let Some(media_type) = media_type_of(&bytes) {
        descriptor.media_type = media_type;
    }
    Ok(Some(Resolved { descriptor, bytes: bytes.into() }))
}

/// Layers that their license keeps at their maker's are named, not sent.
fn is_foreign(blob: &Descriptor) -> bool {
    let text = blob.media_type.as_str();
    text.contains(".nondistributable.") || text.contains(".foreign.")
}

async fn put_manifest(
    session: &Session<'_>,
    repository: &str,
    target: &str,
    manifest: &Resolved,
) -> Result<(), Error> {
    let what = match target.contains(':') {
        true => format!("{repository}@{target}"),
        false => format!("{repository}:{target}"),
    };
    let call =
        Call::new(Method::PUT, Target::Path(format!("/v2/{repository}/manifests/{target}")), &what)
            .header(header::CONTENT_TYPE, manifest.descriptor.media_type.as_str())
            .bytes(manifest.bytes.clone());
    let response: Response<Incoming> = session.call(call).await?;
    session.expect(&what, response, &[StatusCode::CREATED]).await.map(drop)
}

/// `Range: 0-LAST` of an upload's status, as a count. `0-0` may mean none or one: to send one byte
/// again is wrong, to start over is not.
fn bytes_arrived(headers: &HeaderMap) -> Option<u64> {
    let last = headers.get(header::RANGE)?.to_str().ok()?.split_once('-')?.1.parse::<u64>().ok()?;
    if last == 0 { Some(0) } else { last.checked_add(1) }
}

fn with_query(target: &Target, query: &str) -> Target {
    let add = |path: &String| match (query.is_empty(), path.contains('?')) {
        (true, _) => path.clone(),
        (false, true) => format!("{path}&{query}"),
        (false, false) => format!("{path}?{query}"),
    };
    match target {
        Target::Path(path) => Target::Path(add(path)),
        Target::Elsewhere(origin, path) => Target::Elsewhere(origin.clone(), add(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_an_upload_counts_its_bytes() {
        for (range, want) in [("0-0", Some(0)), ("0-9", Some(10)), ("0-", None), ("x", None)] {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, range.parse().unwrap());
            assert_eq!(bytes_arrived(&headers), want, "{range}");
        }
    }
}
