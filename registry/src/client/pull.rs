use std::{collections::HashSet, io, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;
use spec::{Descriptor, Digest, Hasher, Index, Manifest, Reference};
use tokio::time::sleep;

use super::{
    Client, MANIFEST_BYTES_MAX, Resolved,
    origin::repository_of,
    session::{Call, Session},
    transfer::{BlobSink, BlobWriter, Event, Outcome, Progress, unwatched},
    transport::{slow_or_cut, timed},
};
use crate::{Error, blocking};

/// Enough to fill a link, few enough to leave the disk in peace.
const PARALLEL: usize = 3;
/// Manifests below one name; an index of all platforms has some twenty.
const MANIFESTS_MAX: usize = 256;
/// Blobs below one name. Docker stops at 127 layers an image.
const BLOBS_MAX: usize = 4096;
/// Index in index in index: nobody nests deeper.
const DEPTH_MAX: usize = 4;
/// A try that moved this much was worth it, and the next failure counts as the first.
const PROGRESS_BYTES: u64 = 64 << 10;
/// Bytes handed to the writing thread at once.
const BATCH_BYTES: usize = 256 << 10;

/// Picks entries of an index.
type Choose = dyn Fn(&Index) -> Vec<Descriptor> + Send + Sync;

/// Which entries of an index to fetch. The index itself always comes, so that digests stay what
/// they are.
#[derive(Clone, Default)]
pub enum Entries {
    /// All of them.
    #[default]
    All,
    /// Those that this function picks; nested indexes are asked about in turn.
    Chosen(Arc<Choose>),
}

/// How to pull.
#[derive(Clone)]
pub struct PullOptions {
    /// Which entries of an index to fetch.
    pub entries: Entries,
    /// Who watches.
    pub progress: Progress,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self { entries: Entries::All, progress: unwatched() }
    }
}

/// All that has to move for one name.
#[derive(Default)]
struct Tree {
    /// Parents before children.
    manifests: Vec<Resolved>,
    /// Each once.
    blobs: Vec<Descriptor>,
    seen: HashSet<Digest>,
}

impl Client {
    /// Brings the image behind `reference` into `sink`: first its blobs, then its manifests from
    /// the leaves up, so that no manifest is ever there without what it names. Returns what the
    /// reference meant.
    ///
    /// A blob that breaks off is continued where it broke, as often as
    /// [`ClientOptions`](super::ClientOptions) allows.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::WrongBytes`], [`Error::Cut`], [`Error::Slow`], [`Error::Sink`]
    /// and others. Nothing that does not match its digest reaches [`BlobWriter::commit`].
    pub async fn pull(
        &self,
        reference: &Reference,
        sink: Arc<dyn BlobSink>,
        options: &PullOptions,
    ) -> Result<Descriptor, Error> {
        let session = self.session_for(reference, "pull")?;
        let repository = &*repository_of(reference);
        let root = self.manifest(&session, repository, &reference.target()).await?;
        let descriptor = root.descriptor.clone();
        let tree = self.survey(&session, repository, root, &options.entries).await?;
        let session = &session;
        // Collected first: a closure over lifetimes would keep this future from being `Send`.
        let fetches: Vec<_> = tree
            .blobs
            .iter()
            .map(|blob| self.fetch(session, repository, blob, &sink, &options.progress))
            .collect();
        stream::iter(fetches).buffer_unordered(PARALLEL).try_collect::<()>().await?;
        for manifest in tree.manifests.into_iter().rev() {
            keep(&sink, manifest).await?;
        }
        Ok(descriptor)
    }

    /// Reads manifests from `root` down.
    async fn survey(
        &self,
        session: &Session<'_>,
        repository: &str,
        root: Resolved,
        entries: &Entries,
    ) -> Result<Tree, Error> {
        let mut tree = Tree::default();
        tree.seen.insert(root.descriptor.digest);
        let mut waiting = vec![(root, 0)];
        while let Some((manifest, depth)) = waiting.pop() {
            if manifest.descriptor.media_type.is_index() {
                let index: Index = parse(&manifest)?;
                let chosen = match entries {
                    Entries::All => index.manifests,
                    Entries::Chosen(choose) => choose(&index),
                };
                for entry in chosen {
                    if !tree.seen.insert(entry.digest) {
                        continue;
                    }
                    if depth + 1 >= DEPTH_MAX || tree.seen.len() > MANIFESTS_MAX {
                        return Err(unreadable(
                            &manifest.descriptor,
                            "it names too many manifests",
                        ));
                    }
                    let child =
                        self.manifest(session, repository, &entry.digest.to_string()).await?;
                    waiting.push((child, depth + 1));
                }
            } else {
                tree.take_blobs(&parse(&manifest)?, &manifest.descriptor)?;
            }
            tree.manifests.push(manifest);
        }
        Ok(tree)
    }

    /// One blob: looks, fetches, checks, commits.
    async fn fetch(
        &self,
        session: &Session<'_>,
        repository: &str,
        blob: &Descriptor,
        sink: &Arc<dyn BlobSink>,
        progress: &Progress,
    ) -> Result<(), Error> {
        let finished =
            |outcome| progress(Event::Finished { digest: blob.digest, size: blob.size, outcome });
        let (looking, digest) = (Arc::clone(sink), blob.digest);
        if blocking(move || looking.has(&digest)).await {
            finished(Outcome::AlreadyThere);
            return Ok(());
        }
        progress(Event::Started { digest, size: blob.size });
        let (opening, described) = (Arc::clone(sink), blob.clone());
        let writer = blocking(move || opening.create(&described))
            .await
            .map_err(|e| cannot_keep(digest, e))?;
        let mut arriving = Arriving { writer, hasher: Hasher::new(digest.algorithm()), bytes: 0 };
        let mut failures = 0;
        loop {
            let before = arriving.bytes;
            let (back, result) =
                self.fetch_rest(session, repository, blob, arriving, progress).await;
            arriving = back;
            let Err(error) = result else { break };
            failures = if arriving.bytes >= before + PROGRESS_BYTES { 1 } else { failures + 1 };
            if !passing(&error) || failures > self.0.options.retries_max {
                return Err(error);
            }
            progress(Event::Retrying { digest, reason: error.to_string() });
            sleep(self.backoff(failures - 1)).await;
        }
        arriving.finish(session, blob).await?;
        finished(Outcome::Moved);
        Ok(())
    }

    /// From where `arriving` stands to the end, or to the next break.
    async fn fetch_rest(
        &self,
        session: &Session<'_>,
        repository: &str,
        blob: &Descriptor,
        arriving: Arriving,
        progress: &Progress,
    ) -> (Arriving, Result<(), Error>) {
        if arriving.bytes == blob.size && blob.size > 0 {
            return (arriving, Ok(()));
        }
        let what = format!("{repository}@{}", blob.digest);
        let mut call = Call::get(format!("/v2/{repository}/blobs/{}", blob.digest), &what);
        if arriving.bytes > 0 {
            call = call.header(header::RANGE, format!("bytes={}-", arriving.bytes));
        }
        let response = match session.follow(call).await {
            Ok(response) => response,
            Err(error) => return (arriving, Err(error)),
        };
        let skip = match (response.status(), arriving.bytes) {
            (StatusCode::OK, already) => already, // it ignored the range, so it starts again
            (StatusCode::PARTIAL_CONTENT, from) if starts_at(response.headers(), from) => 0,
            _ => return (arriving, Err(session.refusal(&what, response).await)),
        };
        self.drain(session, &what, blob, arriving, response.into_body(), skip, progress).await
    }

    #[expect(clippy::too_many_arguments, reason = "the pieces of one transfer, used once")]
    async fn drain(
        &self,
        session: &Session<'_>,
        what: &str,
        blob: &Descriptor,
        mut arriving: Arriving,
        body: Incoming,
        mut skip: u64,
        progress: &Progress,
    ) -> (Arriving, Result<(), Error>) {
        let quiet = self.0.options.quiet_time_max;
        let (mut batch, mut body) = (BytesMut::new(), timed(body, quiet));
        let result = loop {
            let data = match body.frame().await {
                None => break Ok(()),
                Some(Err(error)) => {
                    break Err(slow_or_cut(&session.origin, what, error, quiet));
                }
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            };
            let skipped = skip.min(data.len() as u64);
            skip -= skipped;
            let data = data.slice(skipped as usize..);
            let total = arriving.bytes + (batch.len() + data.len()) as u64;
            if total > blob.size {
                break Err(wrong_size(session, blob, total));
            }
            batch.extend_from_slice(&data);
            if batch.len() >= BATCH_BYTES {
                match arriving.take(blob.digest, batch.split().freeze()).await {
                    (back, Ok(())) => arriving = back,
                    (back, Err(error)) => return (back, Err(error)),
                }
                progress(Event::Moved { digest: blob.digest, bytes: arriving.bytes });
            }
        };
        // What came before a break counts: the next try goes on from there.
        let (arriving, kept) = arriving.take(blob.digest, batch.freeze()).await;
        progress(Event::Moved { digest: blob.digest, bytes: arriving.bytes });
        let whole = || match arriving.bytes == blob.size {
            true => Ok(()),
            false => Err(wrong_size(session, blob, arriving.bytes)),
        };
        let result = kept.and(result).and_then(|()| whole());
        (arriving, result)
    }
}

impl Tree {
    fn take_blobs(&mut self, manifest: &Manifest, from: &Descriptor) -> Result<(), Error> {
        for blob in manifest.config.iter().chain(&manifest.layers) {
            if self.seen.insert(blob.digest) {
                self.blobs.push(blob.clone());
            }
        }
        if self.blobs.len() > BLOBS_MAX {
            Err(unreadable(from, "it names too many blobs"))
        } else {
            Ok(())
        }
    }
}

/// A blob half way in.
struct Arriving {
    writer: Box<dyn BlobWriter>,
    hasher: Hasher,
    bytes: u64,
}

impl Arriving {
    async fn take(mut self, digest: Digest, data: Bytes) -> (Self, Result<(), Error>) {
        blocking(move || {
            let result = self.writer.write_all(&data).map_err(|e| cannot_keep(digest, e));
            if result.is_ok() {
                self.hasher.update(&data);
                self.bytes += data.len() as u64;
            }
            (self, result)
        })
        .await
    }

    async fn finish(self, session: &Session<'_>, blob: &Descriptor) -> Result<(), Error> {
        let (expected, actual) = (blob.digest, self.hasher.finish());
        if expected != actual {
            return Err(session.wrong_bytes(expected, actual));
        }
        let writer = self.writer;
        blocking(move || writer.commit()).await.map_err(|e| cannot_keep(expected, e))
    }
}

async fn keep(sink: &Arc<dyn BlobSink>, manifest: Resolved) -> Result<(), Error> {
    let sink = Arc::clone(sink);
    let digest = manifest.descriptor.digest;
    let kept = blocking(move || {
        if sink.has(&digest) {
            return Ok(());
        }
        let mut writer = sink.create(&manifest.descriptor)?;
        writer.write_all(&manifest.bytes)?;
        writer.commit()
    });
    kept.await.map_err(|e| cannot_keep(digest, e))
}

/// Whether another try could help.
pub(super) fn passing(error: &Error) -> bool {
    match error {
        Error::Down { .. } | Error::Slow { .. } | Error::Cut { .. } => true,
        Error::Refused { message, .. } => {
            ["(500)", "(502)", "(503)", "(504)"].iter().any(|end| message.ends_with(end))
        }
        _ => false,
    }
}

fn starts_at(headers: &HeaderMap, offset: u64) -> bool {
    let range = headers.get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    range.and_then(|text| text.strip_prefix("bytes ")?.split_once('-')?.0.parse::<u64>().ok())
        == Some(offset)
}

fn wrong_size(session: &Session<'_>, blob: &Descriptor, actual: u64) -> Error {
    Error::WrongSize {
        registry: session.registry.clone(),
        digest: blob.digest,
        expected: blob.size,
        actual,
    }
}

fn cannot_keep(digest: Digest, source: io::Error) -> Error {
    Error::Sink { digest, source }
}

fn unreadable(descriptor: &Descriptor, why: &str) -> Error {
    Error::Manifest { what: descriptor.digest.to_string(), message: why.to_owned() }
}

pub(super) fn parse<'a, T: Deserialize<'a>>(manifest: &'a Resolved) -> Result<T, Error> {
    if manifest.descriptor.size > MANIFEST_BYTES_MAX {
        return Err(unreadable(&manifest.descriptor, "it has more than 4 MiB"));
    }
    serde_json::from_slice(&manifest.bytes)
        .map_err(|error| unreadable(&manifest.descriptor, &error.to_string()))
}
