use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    sync::{Arc, OnceLock},
};

use ::blobs::{BlobStore, BlobWriter};
use bytes::Bytes;
use futures_util::{TryStreamExt, stream};
use http::StatusCode;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use spec::{Descriptor, Digest};
use tokio::sync::watch;

use super::{super::response::ResponseBody, refusal::Refusal};
use crate::{BlobSink, blocking, limits::DOWNLOAD_CHUNK_BYTES};

/// A blob on its way from an upstream. Clients read what has arrived while the rest comes; the last
/// byte waits until all of them are those of the digest.
pub(super) struct Flight {
    digest: Digest,
    size: u64,
    blobs: Arc<dyn BlobStore>,
    /// Where it is written, in a store of files.
    file: OnceLock<File>,
    stage: watch::Sender<Stage>,
}

#[derive(Debug, Clone)]
enum Stage {
    Waiting,
    Moving(u64),
    Landed,
    Failed(Refusal),
}

/// The end of a flight: one that is dropped has failed.
pub(super) struct Pilot(Arc<Flight>);

impl Flight {
    pub fn new(blobs: Arc<dyn BlobStore>, digest: Digest, size: u64) -> (Arc<Self>, Pilot) {
        let (stage, _) = watch::channel(Stage::Waiting);
        let flight = Arc::new(Self { digest, size, blobs, file: OnceLock::new(), stage });
        (Arc::clone(&flight), Pilot(flight))
    }

    /// Waits for the first bytes.
    ///
    /// # Errors
    /// Why there are none.
    pub async fn begun(&self) -> Result<(), Refusal> {
        let mut stage = self.stage.subscribe();
        let begun = stage.wait_for(|stage| !matches!(stage, Stage::Waiting)).await;
        match &*begun.expect("the flight has the sender") {
            Stage::Failed(refusal) => Err(refusal.clone()),
            Stage::Waiting | Stage::Moving(_) | Stage::Landed => Ok(()),
        }
    }

    /// `length` bytes from `start` on.
    pub fn stream(self: Arc<Self>, start: u64, length: u64) -> ResponseBody {
        let stage = self.stage.subscribe();
        let chunks =
            stream::try_unfold((self, stage, start), move |(flight, mut stage, at)| async move {
                if at == start + length {
                    return Ok(None);
                }
                let there = flight.there(&mut stage, at).await?;
                let bytes = (start + length).min(there) - at;
                let (reading, bytes) = (Arc::clone(&flight), bytes.min(DOWNLOAD_CHUNK_BYTES));
                let chunk = blocking(move || reading.read(at, bytes)).await?;
                io::Result::Ok(Some((chunk, (flight, stage, at + bytes))))
            });
        StreamBody::new(chunks.map_ok(Frame::data)).boxed_unsync()
    }

    /// Waits until there is something after byte `at`, and says up to where.
    async fn there(&self, stage: &mut watch::Receiver<Stage>, at: u64) -> io::Result<u64> {
        loop {
            let there = match &*stage.borrow_and_update() {
                Stage::Waiting => 0,
                Stage::Moving(_) if self.file.get().is_none() => 0,
                // An error breaks the connection, and the client lacks a byte.
                Stage::Moving(bytes) => (*bytes).min(self.size - 1),
                Stage::Landed => self.size,
                Stage::Failed(refusal) => return Err(io::Error::other(refusal.message())),
            };
            if there > at {
                return Ok(there);
            }
            stage.changed().await.expect("the flight has the sender");
        }
    }

    fn read(&self, at: u64, bytes: u64) -> io::Result<Bytes> {
        let mut chunk = vec![0; bytes as usize]; // a chunk at most
        match self.file.get() {
            Some(file) => file.read_exact_at(&mut chunk, at)?,
            None => {
                let blob = self.blobs.open(&self.digest, at);
                blob.map_err(io::Error::other)?.read_exact(&mut chunk)?;
            }
        }
        Ok(chunk.into())
    }
}

impl Pilot {
    pub fn flight(&self) -> &Arc<Flight> {
        &self.0
    }

    /// So many bytes can be read.
    pub fn moved(flight: &Flight, bytes: u64) {
        flight.stage.send_modify(|stage| match stage {
            Stage::Waiting if bytes > 0 => *stage = Stage::Moving(bytes),
            Stage::Moving(before) if bytes > *before => *before = bytes,
            Stage::Waiting | Stage::Moving(_) | Stage::Landed | Stage::Failed(_) => {}
        });
    }

    pub fn land(self) {
        self.0.stage.send_replace(Stage::Landed);
    }

    pub fn fail(self, refusal: Refusal) {
        self.0.stage.send_replace(Stage::Failed(refusal));
    }
}

impl Drop for Pilot {
    fn drop(&mut self) {
        self.0.stage.send_modify(|stage| {
            if matches!(stage, Stage::Waiting | Stage::Moving(_)) {
                let message = "this registry is shutting down";
                let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message);
                *stage = Stage::Failed(refusal);
            }
        });
    }
}

/// The store, with the file of the blob shown to the readers of its flight.
pub(super) struct FlightSink(pub Arc<Flight>);

impl BlobSink for FlightSink {
    /// A damaged one may be there, and one of another repository proves nothing.
    fn has(&self, _digest: &Digest) -> bool {
        false
    }

    fn create(&self, blob: &Descriptor) -> io::Result<BlobWriter> {
        let writer = self.0.blobs.writer(blob.digest.algorithm())?;
        if let Some(file) = writer.reader()? {
            self.0.file.set(file).ok();
        }
        Ok(writer)
    }
}
