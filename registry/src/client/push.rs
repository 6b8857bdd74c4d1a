use std::{
    io::{self, Read},
    sync::Arc,
};

use blobs::BlobStore;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{Method, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use spec::{Descriptor, Digest};
use tokio::sync::mpsc;

use super::{
    graph::{ImageGraph, Resolved, Unread},
    repository::RemoteRepository,
    retry::Retry,
    session::{Call, Target},
    transfer::{Event, Outcome, Progress, no_progress},
    transport::{Activity, Body},
};
use crate::{
    Error, blocking,
    limits::{MANIFEST_BYTES_MAX, PARALLEL_TRANSFERS, PUSH_CHUNK_BYTES, PUSH_CHUNKS_QUEUED},
    protocol::{DeclaredMediaType, UploadRange, encode_query, is_foreign_layer},
};

#[derive(Clone)]
pub struct PushOptions {
    pub progress: Progress,
}

impl Default for PushOptions {
    fn default() -> Self {
        Self { progress: no_progress() }
    }
}

/// Pushes `root` and all that it names, and sets `tag`.
pub(super) async fn push(
    repository: &RemoteRepository<'_>,
    tag: Option<&str>,
    root: &Descriptor,
    source: &Arc<dyn BlobStore>,
    options: &PushOptions,
) -> Result<(), Error> {
    let graph = read_graph(root, source).await?;
    // One request before many at once, so that one token serves them all.
    check_access(repository).await?;
    let progress = &options.progress;
    // Collected first: a closure over lifetimes would keep this future from being `Send`.
    let uploads: Vec<_> = graph
        .blobs
        .iter()
        .map(|blob| BlobUpload { repository, blob, source, progress }.run())
        .collect();
    stream::iter(uploads).buffer_unordered(PARALLEL_TRANSFERS).try_collect::<()>().await?;
    for manifest in graph.manifests.iter().rev() {
        let digest = manifest.descriptor.digest;
        let target = match tag {
            Some(tag) if digest == root.digest => tag.to_owned(),
            _ => digest.to_string(),
        };
        repository.put_manifest(&target, manifest).await?;
    }
    Ok(())
}

/// Begins an upload and cancels it, to learn whether the user may push.
async fn check_access(repository: &RemoteRepository<'_>) -> Result<(), Error> {
    let RemoteRepository { session, name } = repository;
    let call = Call::new(Method::POST, repository.target("blobs/uploads/"), name);
    let response = session.call_for(call, &[StatusCode::ACCEPTED]).await?;
    let target = session.location(response.headers(), &session.origin)?;
    session.read(name, response, 0).await.ok();
    // A registry that cannot cancel uploads discards it by itself.
    session.call(Call::new(Method::DELETE, target, name)).await.ok();
    Ok(())
}

/// One blob from a source to a registry.
struct BlobUpload<'a> {
    repository: &'a RemoteRepository<'a>,
    blob: &'a Descriptor,
    source: &'a Arc<dyn BlobStore>,
    progress: &'a Progress,
}

impl BlobUpload<'_> {
    async fn run(self) -> Result<(), Error> {
        let Descriptor { digest, size, .. } = *self.blob;
        let mut retry = Retry::new(&self.repository.session.context.options);
        loop {
            match self.try_once().await {
                Ok(outcome) => {
                    (self.progress)(Event::Finished { digest, size, outcome });
                    return Ok(());
                }
                Err(error) => retry.after(error, |error| self.report_retry(error)).await?,
            }
        }
    }

    fn report_retry(&self, error: &Error) {
        let reason = error.to_string();
        (self.progress)(Event::Retrying { digest: self.blob.digest, reason });
    }

    async fn try_once(&self) -> Result<Outcome, Error> {
        let Descriptor { digest, size, .. } = *self.blob;
        if self.exists().await? {
            return Ok(Outcome::Exists);
        }
        let Some(upload) = self.mount_or_begin().await? else { return Ok(Outcome::Mounted) };
        (self.progress)(Event::Started { digest, size });
        let error = match self.send(&upload, 0).await {
            Ok(()) => return Ok(Outcome::Moved),
            Err(error) if error.is_transient() => error,
            Err(error) => return Err(error),
        };
        // The registry keeps what arrived before the failure, so only the rest is sent again.
        match self.received(&upload).await {
            Some(offset) if offset > 0 && offset < size => {
                self.report_retry(&error);
                self.send(&upload, offset).await.map(|()| Outcome::Moved)
            }
            _ => Err(error),
        }
    }

    fn subject(&self) -> String {
        self.repository.subject(&self.blob.digest.to_string())
    }

    async fn exists(&self) -> Result<bool, Error> {
        let (session, subject) = (&self.repository.session, self.subject());
        let target = self.repository.target(&format!("blobs/{}", self.blob.digest));
        let response = session.call(Call::new(Method::HEAD, target, &subject)).await?;
        match response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            status if status.is_redirection() => Ok(true), // the blob is in another place
            _ => Err(session.error(&subject, response).await),
        }
    }

    /// An upload to fill; `None` when the registry mounted the blob from another repository.
    async fn mount_or_begin(&self) -> Result<Option<Target>, Error> {
        let (session, subject) = (&self.repository.session, self.subject());
        let begin = self.repository.target("blobs/uploads/");
        let mount = begin.with_query(&format!("mount={}", encode_query(&self.digest())));
        let mut response = session.call(Call::new(Method::POST, mount, &subject)).await?;
        if !matches!(response.status(), StatusCode::CREATED | StatusCode::ACCEPTED) {
            // Some registries reject a mount that they do not support.
            response = session.call(Call::new(Method::POST, begin, &subject)).await?;
        }
        match response.status() {
            StatusCode::CREATED => Ok(None),
            StatusCode::ACCEPTED => session.location(response.headers(), &session.origin).map(Some),
            _ => Err(session.error(&subject, response).await),
        }
    }

    /// Sends the blob from `offset` on, and completes the upload.
    async fn send(&self, upload: &Target, offset: u64) -> Result<(), Error> {
        let (subject, size) = (self.subject(), self.blob.size);
        let activity = Activity::default();
        let stream = self.stream(offset, activity.clone());
        let target = upload.with_query(&format!("digest={}", encode_query(&self.digest())));
        let mut call = Call::new(Method::PUT, target, &subject)
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .stream(stream, size - offset, activity);
        if offset > 0 {
            call = call.header(header::CONTENT_RANGE, format!("{offset}-{}", size - 1));
        }
        let expected = [StatusCode::CREATED, StatusCode::NO_CONTENT];
        self.repository.session.call_for(call, &expected).await.map(drop)
    }

    fn digest(&self) -> String {
        self.blob.digest.to_string()
    }

    /// How many bytes of a broken upload the registry has.
    async fn received(&self, upload: &Target) -> Option<u64> {
        let subject = self.subject();
        let call = Call::get(upload.clone(), &subject);
        let response = self.repository.session.call(call).await.ok()?;
        match response.status() {
            StatusCode::NO_CONTENT => UploadRange::parse(response.headers()),
            _ => None,
        }
    }

    /// Reads the blob on a thread that may block, with a bounded queue before the connection.
    fn stream(&self, offset: u64, activity: Activity) -> Body {
        let (chunks, queue) = mpsc::channel(PUSH_CHUNKS_QUEUED);
        let (source, digest, size) = (Arc::clone(self.source), self.blob.digest, self.blob.size);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = read_chunks(source.as_ref(), &digest, offset, size, &chunks) {
                chunks.blocking_send(Err(error)).ok();
            }
        });
        let progress = Arc::clone(self.progress);
        let sent = stream::unfold((queue, offset), move |(mut queue, sent)| {
            let (activity, progress) = (activity.clone(), Arc::clone(&progress));
            async move {
                let chunk: io::Result<Bytes> = queue.recv().await?;
                activity.record();
                let sent = sent + chunk.as_ref().map_or(0, |bytes| bytes.len() as u64);
                progress(Event::Moved { digest, bytes: sent });
                Some((chunk.map(Frame::data), (queue, sent)))
            }
        });
        StreamBody::new(sent).boxed_unsync()
    }
}

fn read_chunks(
    source: &dyn BlobStore,
    digest: &Digest,
    offset: u64,
    size: u64,
    chunks: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let mut reader = source.open(digest, offset)?;
    let mut left = size - offset;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(PUSH_CHUNK_BYTES).min(PUSH_CHUNK_BYTES);
        let mut chunk = vec![0; length];
        reader.read_exact(&mut chunk)?;
        left -= length as u64;
        if chunks.blocking_send(Ok(chunk.into())).is_err() {
            return Ok(()); // the connection broke
        }
    }
    Ok(())
}

/// Reads manifests from `root` down.
async fn read_graph(root: &Descriptor, source: &Arc<dyn BlobStore>) -> Result<ImageGraph, Error> {
    let (root, source) = (root.clone(), Arc::clone(source));
    blocking(move || {
        let mut graph = ImageGraph::below(&root.digest);
        let mut unread = vec![Unread { descriptor: root.clone(), depth: 0 }];
        while let Some(Unread { descriptor, depth }) = unread.pop() {
            let required = descriptor.digest == root.digest;
            if let Some(manifest) = read_manifest(descriptor, source.as_ref(), required)? {
                unread.extend(graph.add(manifest, depth, |index| index.manifests)?);
            }
        }
        graph.blobs.retain(|blob| !is_foreign_layer(blob.media_type.as_str()));
        Ok(graph)
    })
    .await
}

/// `None` when `source` lacks a manifest that is not `required`.
fn read_manifest(
    mut descriptor: Descriptor,
    source: &dyn BlobStore,
    required: bool,
) -> Result<Option<Resolved>, Error> {
    let digest = descriptor.digest;
    let failed = |source| Error::Source { digest, source };
    let reader = match source.open(&digest, 0) {
        Err(blobs::Error::Missing(_)) if !required => return Ok(None),
        opened => opened.map_err(|error| failed(error.into()))?,
    };
    let mut bytes = Vec::new();
    reader.take(MANIFEST_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    descriptor.size = bytes.len() as u64;
    if let Some(media_type) = DeclaredMediaType::of(&bytes) {
        descriptor.media_type = media_type;
    }
    Ok(Some(Resolved { descriptor, bytes: bytes.into() }))
}
