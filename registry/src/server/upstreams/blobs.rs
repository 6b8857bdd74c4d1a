use std::sync::{Arc, PoisonError};

use http::StatusCode;
use spec::{Descriptor, Digest, MediaType};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    super::{
        error::{ApiError, ErrorCode},
        outline::Outline,
        response::ResponseBody,
        stored::{heal, manifest_bytes},
    },
    PullThrough,
    flight::{Flight, FlightSink, Pilot},
    live::Live,
    refusal::Refusal,
};
use crate::{
    Error, Event, Progress, Repository,
    limits::{UPSTREAM_FETCHES_MAX, UPSTREAM_FETCHES_OF_ONE_MAX},
    storage::{Upstream, UpstreamCounters, Use},
};

/// A blob that is to be fetched.
pub(super) struct Job {
    live: Arc<Live>,
    repository: Repository,
    /// The name of the repository at the upstream.
    name: String,
    blob: Descriptor,
    pilot: Pilot,
}

/// Fetches blobs. A fetch goes on when the client that has caused it is gone.
pub(crate) struct Fetches {
    pull_through: Arc<PullThrough>,
    jobs: mpsc::Receiver<Job>,
}

impl Fetches {
    pub(super) fn new(pull_through: Arc<PullThrough>, jobs: mpsc::Receiver<Job>) -> Self {
        Self { pull_through, jobs }
    }

    /// Fetches until it is dropped.
    pub async fn run(mut self) {
        let mut work = JoinSet::new();
        loop {
            tokio::select! {
                Some(job) = self.jobs.recv(), if work.len() < UPSTREAM_FETCHES_MAX => {
                    let pull_through = Arc::clone(&self.pull_through);
                    work.spawn(async move { pull_through.fetch(job).await });
                }
                Some(_) = work.join_next() => {}
                else => return,
            }
        }
    }
}

impl PullThrough {
    /// The size of a blob that a repository lacks and its upstream has: a manifest of the
    /// repository states it.
    pub async fn blob_size(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<u64>, ApiError> {
        if self.of(repository).is_none() || self.is_read_only() {
            return Ok(None);
        }
        let metadata = &self.storage.metadata;
        let Use::By(manifest) = metadata.use_of(repository, digest).await? else {
            return Ok(None);
        };
        let Some(record) = metadata.manifest(repository, &manifest).await? else { return Ok(None) };
        let bytes = manifest_bytes(&self.storage.blobs, manifest, record.size).await?;
        let outline = Outline::parse(&bytes)?;
        let size = outline.blobs().find(|blob| blob.digest == *digest).map(|blob| blob.size);
        Ok(size)
    }

    /// Bytes of a blob, on their way from the upstream.
    pub async fn blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        size: u64,
        (start, length): (u64, u64),
    ) -> Result<ResponseBody, ApiError> {
        let absent = || ApiError::no_such_blob(digest);
        let (live, name) = self.of(repository).ok_or_else(absent)?;
        let flown = match self.board(&live, (repository, name), *digest, size) {
            Ok(flight) => flight.begun().await.map(|()| flight),
            Err(refusal) => Err(refusal),
        };
        let flight = flown.map_err(|refusal| {
            if !refusal.is_absence() {
                UpstreamCounters::count(&live.upstream.counters.failed);
            }
            refusal.answer(ErrorCode::BlobUnknown)
        })?;
        Ok(flight.stream(start, length))
    }

    /// The flight of a blob, which begins unless it is on.
    fn board(
        &self,
        live: &Arc<Live>,
        (repository, name): (&Repository, &str),
        digest: Digest,
        size: u64,
    ) -> Result<Arc<Flight>, Refusal> {
        let upstream = &live.upstream.name;
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (repository.clone(), digest);
        if let Some(flight) = flights.get(&key) {
            return Ok(Arc::clone(flight));
        }
        if let Some(wait) = live.held() {
            return Err(Refusal::held(upstream, wait));
        }
        if size > self.blob_bytes_max {
            let message =
                format!("a blob of this registry has at most {} bytes", self.blob_bytes_max);
            return Err(Refusal::new(StatusCode::BAD_GATEWAY, message));
        }
        let busy = || {
            let message = format!("too many blobs of upstream `{upstream}` are being fetched");
            Refusal::new(StatusCode::TOO_MANY_REQUESTS, message)
        };
        let of_it = flights.keys().filter(|(repository, _)| repository.belongs_to(upstream));
        if of_it.count() >= UPSTREAM_FETCHES_OF_ONE_MAX {
            return Err(busy());
        }
        let (flight, pilot) = Flight::new(Arc::clone(&self.storage.blobs), digest, size);
        let mut blob = Descriptor::of(MediaType::OCI_LAYER_TAR, b"");
        (blob.digest, blob.size) = (digest, size);
        let (live, repository) = (Arc::clone(live), repository.clone());
        let job = Job { live, repository, name: name.to_owned(), blob, pilot };
        self.jobs.try_send(job).map_err(|_| busy())?;
        flights.insert(key, Arc::clone(&flight));
        Ok(flight)
    }

    async fn fetch(&self, job: Job) {
        let Job { live, repository, name, blob, pilot } = job;
        let fetched = self.fetch_blob(&live, (&repository, &name), &blob, &pilot).await;
        let Upstream { name: upstream, counters, .. } = &*live.upstream;
        // Its readers have it by then, and new ones find the record.
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.remove(&(repository, blob.digest));
        drop(flights);
        match fetched {
            Ok(()) => {
                live.has_answered();
                live.has_sent(blob.size);
                UpstreamCounters::count(&counters.misses);
                pilot.land();
            }
            Err(error) => {
                live.has_failed(&error);
                pilot.fail(Refusal::of(upstream, &error));
            }
        }
    }

    async fn fetch_blob(
        &self,
        live: &Live,
        (repository, name): (&Repository, &str),
        blob: &Descriptor,
        pilot: &Pilot,
    ) -> Result<(), Error> {
        let digest = blob.digest;
        self.make_room(repository, blob.size).await?;
        let reference = live.remote.reference(name, &digest.to_string())?;
        let (flight, shown) = (Arc::clone(pilot.flight()), Arc::clone(pilot.flight()));
        let progress: Progress = Arc::new(move |event| {
            if let Event::Moved { bytes, .. } = event {
                Pilot::moved(&shown, bytes);
            }
        });
        let sink = Arc::new(FlightSink(flight));
        live.remote.client.pull_blob(&reference, blob, sink, &progress).await?;
        let _adding = self.storage.unused.adding(&digest).await;
        self.storage.unused.ask_for(repository, &digest);
        // A collection may have met it between its commit and this.
        if !self.storage.blobs.contains(&digest)? {
            return Err(Error::Missing { digest });
        }
        self.storage.metadata.add_blob(repository, &digest, blob.size).await?;
        heal(&self.storage, &digest).await
    }
}
