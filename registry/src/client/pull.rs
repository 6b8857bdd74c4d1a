use std::{
    io::{self, Write},
    sync::Arc,
};

use blobs::BlobWriter;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{HeaderMap, StatusCode, header};
use spec::{Descriptor, Digest, Index};

use super::{
    graph::{ImageGraph, Resolved, Unread},
    repository::RemoteRepository,
    retry::Retry,
    session::Call,
    transfer::{BlobSink, Event, Outcome, Progress, no_progress},
    transport::Receiving,
};
use crate::{
    Error, blocking,
    limits::{PARALLEL_TRANSFERS, PULL_BATCH_BYTES, RETRY_PROGRESS_BYTES},
};

/// Picks entries of an index.
type Choose = dyn Fn(&Index) -> Vec<Descriptor> + Send + Sync;

/// Which entries of an index to fetch. The index itself always comes, so that digests stay what
/// they are.
#[derive(Clone, Default)]
pub enum Entries {
    #[default]
    All,
    /// Those that this function picks, also of nested indexes.
    Chosen(Arc<Choose>),
}

impl Entries {
    fn of(&self, index: Index) -> Vec<Descriptor> {
        match self {
            Self::All => index.manifests,
            Self::Chosen(choose) => choose(&index),
        }
    }
}

#[derive(Clone)]
pub struct PullOptions {
    pub entries: Entries,
    pub progress: Progress,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self { entries: Entries::All, progress: no_progress() }
    }
}

/// Fetches the image that `target`, a tag or a digest, points to.
pub(super) async fn pull(
    repository: &RemoteRepository<'_>,
    target: &str,
    sink: &Arc<dyn BlobSink>,
    options: &PullOptions,
) -> Result<Descriptor, Error> {
    let root = repository.manifest(target).await?;
    let descriptor = root.descriptor.clone();
    let graph = read_graph(repository, root, &options.entries).await?;
    let progress = &options.progress;
    // Collected first: a closure over lifetimes would keep this future from being `Send`.
    let downloads: Vec<_> =
        graph.blobs.iter().map(|blob| Download { repository, blob, progress }.run(sink)).collect();
    stream::iter(downloads).buffer_unordered(PARALLEL_TRANSFERS).try_collect::<()>().await?;
    for manifest in graph.manifests.into_iter().rev() {
        store_manifest(sink, manifest).await?;
    }
    Ok(descriptor)
}

/// Fetches one blob.
pub(super) async fn pull_blob(
    repository: &RemoteRepository<'_>,
    blob: &Descriptor,
    sink: &Arc<dyn BlobSink>,
    progress: &Progress,
) -> Result<(), Error> {
    Download { repository, blob, progress }.run(sink).await
}

/// Reads manifests from `root` down.
async fn read_graph(
    repository: &RemoteRepository<'_>,
    root: Resolved,
    entries: &Entries,
) -> Result<ImageGraph, Error> {
    let mut graph = ImageGraph::below(&root.descriptor.digest);
    let mut unread = graph.add(root, 0, |index| entries.of(index))?;
    while let Some(Unread { descriptor, depth }) = unread.pop() {
        let manifest = repository.manifest(&descriptor.digest.to_string()).await?;
        unread.extend(graph.add(manifest, depth, |index| entries.of(index))?);
    }
    Ok(graph)
}

/// One blob from a registry to a sink.
struct Download<'a> {
    repository: &'a RemoteRepository<'a>,
    blob: &'a Descriptor,
    progress: &'a Progress,
}

impl Download<'_> {
    async fn run(self, sink: &Arc<dyn BlobSink>) -> Result<(), Error> {
        let Descriptor { digest, size, .. } = *self.blob;
        let finished = |outcome| (self.progress)(Event::Finished { digest, size, outcome });
        let lookup = Arc::clone(sink);
        if blocking(move || lookup.has(&digest)).await {
            finished(Outcome::Exists);
            return Ok(());
        }
        (self.progress)(Event::Started { digest, size });
        let mut partial = PartialBlob::create(sink, self.blob).await?;
        let mut retry = Retry::new(&self.repository.session.context.options);
        loop {
            let before = partial.bytes;
            let Err(error) = self.fetch_rest(&mut partial).await else { break };
            if partial.bytes >= before + RETRY_PROGRESS_BYTES {
                retry.reset();
            }
            let report = |error: &Error| {
                (self.progress)(Event::Retrying { digest, reason: error.to_string() });
            };
            retry.after(error, report).await?;
        }
        partial.commit(self.repository).await?;
        finished(Outcome::Moved);
        Ok(())
    }

    /// Fetches from where `partial` ends, to the end of the blob or to a failure.
    async fn fetch_rest(&self, partial: &mut PartialBlob) -> Result<(), Error> {
        let Self { repository, blob, .. } = self;
        if partial.bytes == blob.size && blob.size > 0 {
            return Ok(());
        }
        let subject = repository.subject(&blob.digest.to_string());
        let mut call = Call::get(repository.target(&format!("blobs/{}", blob.digest)), &subject);
        if partial.bytes > 0 {
            call = call.header(header::RANGE, format!("bytes={}-", partial.bytes));
        }
        let session = &repository.session;
        let response = session.follow(call).await?;
        let skip = match response.status() {
            StatusCode::OK => partial.bytes, // the registry ignored the range and starts again
            StatusCode::PARTIAL_CONTENT if starts_at(response.headers(), partial.bytes) => 0,
            _ => return Err(session.error(&subject, response).await),
        };
        let body = session.context.transport.receive(&session.origin, &subject, response);
        let received = self.receive(partial, body, skip).await;
        (self.progress)(Event::Moved { digest: blob.digest, bytes: partial.bytes });
        received?;
        match partial.bytes == blob.size {
            true => Ok(()),
            false => Err(self.wrong_size(partial.bytes)),
        }
    }

    /// Writes `body`, without its first `skip` bytes, to the end of `partial`. What arrived before
    /// a failure is written too: the next try continues from there.
    async fn receive(
        &self,
        partial: &mut PartialBlob,
        mut body: Receiving<'_>,
        mut skip: u64,
    ) -> Result<(), Error> {
        let Descriptor { digest, size, .. } = *self.blob;
        let mut batch = BytesMut::new();
        let received = loop {
            let data = match body.next().await {
                Ok(Some(data)) => data,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            let skipped = skip.min(data.len() as u64);
            skip -= skipped;
            batch.extend_from_slice(&data[skipped as usize..]);
            let total = partial.bytes + batch.len() as u64;
            if total > size {
                // Only what belongs to the blob is written.
                batch.truncate(batch.len() - (data.len() - skipped as usize));
                break Err(self.wrong_size(total));
            }
            if batch.len() >= PULL_BATCH_BYTES {
                partial.write(batch.split().freeze()).await?;
                (self.progress)(Event::Moved { digest, bytes: partial.bytes });
            }
        };
        partial.write(batch.freeze()).await?;
        received
    }

    fn wrong_size(&self, actual: u64) -> Error {
        let Descriptor { digest, size: expected, .. } = *self.blob;
        let registry = self.repository.session.registry.clone();
        Error::WrongSize { registry, digest, expected, actual }
    }
}

/// The part of a blob that has arrived.
struct PartialBlob {
    digest: Digest,
    /// Absent while a thread uses it.
    writer: Option<BlobWriter>,
    bytes: u64,
}

impl PartialBlob {
    async fn create(sink: &Arc<dyn BlobSink>, blob: &Descriptor) -> Result<Self, Error> {
        let (sink, blob, digest) = (Arc::clone(sink), blob.clone(), blob.digest);
        let writer = blocking(move || sink.create(&blob)).await;
        let writer = Some(writer.map_err(|source| Error::Sink { digest, source })?);
        Ok(Self { digest, writer, bytes: 0 })
    }

    async fn write(&mut self, data: Bytes) -> Result<(), Error> {
        let mut writer = self.take_writer();
        let written = blocking(move || writer.write_all(&data).map(|()| writer)).await;
        let writer = written.map_err(|source| Error::Sink { digest: self.digest, source })?;
        self.bytes = writer.bytes();
        self.writer = Some(writer);
        Ok(())
    }

    async fn commit(mut self, repository: &RemoteRepository<'_>) -> Result<(), Error> {
        let (writer, digest) = (self.take_writer(), self.digest);
        match blocking(move || writer.commit_as(&digest)).await {
            Ok(_) => Ok(()),
            Err(blobs::Error::WrongDigest { expected, actual }) => {
                Err(repository.session.wrong_digest(expected, actual))
            }
            Err(error) => Err(Error::Sink { digest, source: error.into() }),
        }
    }

    fn take_writer(&mut self) -> BlobWriter {
        self.writer.take().expect("a blob is given up after a failed write")
    }
}

async fn store_manifest(sink: &Arc<dyn BlobSink>, manifest: Resolved) -> Result<(), Error> {
    let sink = Arc::clone(sink);
    let digest = manifest.descriptor.digest;
    let stored: io::Result<()> = blocking(move || {
        if sink.has(&digest) {
            return Ok(());
        }
        let mut writer = sink.create(&manifest.descriptor)?;
        writer.write_all(&manifest.bytes)?;
        writer.commit_as(&digest)?;
        Ok(())
    })
    .await;
    stored.map_err(|source| Error::Sink { digest, source })
}

fn starts_at(headers: &HeaderMap, offset: u64) -> bool {
    let range = headers.get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    range.and_then(|text| text.strip_prefix("bytes ")?.split_once('-')?.0.parse::<u64>().ok())
        == Some(offset)
}
