use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use ::engine::{
    Adopted, BoxFuture, Container, Ended, Engine, Event, StartError, StartFailure, Stop,
    UsageSource,
    cgroup::{Bounds, Place},
};
use spec::{Capabilities, Usage};

use super::{
    adopt::adopt,
    handle::lost,
    spawn::{SpareWorker, SpawnOptions, hand_over},
};
use crate::{
    Assignment, Broker, Error, WasmProgram, Worker, World,
    limits::{WORKER_THREADS_MAX, worker_bytes_max},
    usage,
};

/// Wasm containers: each in a worker.
#[derive(Debug)]
pub struct WasmEngine {
    broker: Broker,
    /// A worker that waits, for the next start.
    spare: Mutex<Option<SpareWorker>>,
    owner: Option<Owner>,
}

/// Whose containers they are: owners share a machine equally.
#[derive(Debug)]
struct Owner {
    name: String,
    cpu_millis_max: Option<u32>,
}

impl WasmEngine {
    /// `broker` makes the connections of its containers.
    pub fn new(broker: Broker, spare: Option<SpareWorker>) -> Self {
        Self { broker, spare: Mutex::new(spare), owner: None }
    }

    /// Lets the kernel count and limit its containers as those of `owner`, each with so many
    /// thousandths of a processor at most, where this process may make cgroups.
    #[must_use]
    pub fn of(self, owner: &str, cpu_millis_max: Option<u32>) -> Self {
        let owner = Owner { name: owner.to_owned(), cpu_millis_max };
        Self { owner: Some(owner), ..self }
    }

    fn place(&self, folder: &Path) -> Option<Place> {
        Place::of(folder, &self.owner.as_ref()?.name)
    }

    fn bounds(&self, limits: &spec::Limits) -> Bounds {
        Bounds {
            memory_bytes_max: worker_bytes_max(limits),
            processes_max: WORKER_THREADS_MAX,
            cpu_millis_max: self.owner.as_ref().and_then(|owner| owner.cpu_millis_max),
        }
    }

    fn assign(&self, assignment: Assignment) -> Result<Box<dyn Container>, Error> {
        let place = self.place(&assignment.folder);
        let bounds = place.clone().map(|place| (place, self.bounds(&assignment.limits)));
        let started = self.assign_in(assignment, bounds);
        if let (Err(_), Some(place)) = (&started, place) {
            place.remove();
        }
        started
    }

    fn assign_in(
        &self,
        assignment: Assignment,
        place: Option<(Place, Bounds)>,
    ) -> Result<Box<dyn Container>, Error> {
        let options = SpawnOptions::of(assignment.program.world, assignment.limits.concurrency_max);
        let (folder, grants) = (assignment.folder.clone(), assignment.grants.outbound.clone());
        let mut handover = hand_over(assignment, place)?;
        let mut take = |worker: SpareWorker| {
            worker.take_over(&mut handover, grants.clone(), self.broker.clone())
        };
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).take();
        let worker = match spare.map(&mut take) {
            Some(Ok(worker)) => worker,
            // One that was killed while it waited.
            Some(Err(error)) if !matches!(error, Error::HostFiles { .. } | Error::NoFile(_)) => {
                tracing::debug!(%error, "a spare worker could not be used");
                take(SpareWorker::spawn(&options)?)?
            }
            Some(Err(error)) => return Err(error),
            None => take(SpareWorker::spawn(&options)?)?,
        };
        Ok(WasmContainer::boxed(worker, &folder))
    }
}

impl SpawnOptions {
    /// A place for an instance costs a stack with a guard page before anything runs, and a command
    /// needs one.
    pub fn of(world: World, requests_max: u32) -> Self {
        let instances_max = match world {
            World::Command => 1,
            World::Http => requests_max,
        };
        Self { instances_max, ..Self::default() }
    }
}

impl Engine for WasmEngine {
    type Program = WasmProgram;

    async fn start(&self, assignment: Assignment) -> Result<Box<dyn Container>, StartError> {
        self.assign(assignment).map_err(|error| StartError {
            failure: StartFailure::Host,
            message: error.chain(),
            hint: error.hint(),
        })
    }

    async fn adopt(&self, folder: &Path, grants: Capabilities) -> Adopted {
        match adopt(folder, self.place(folder), grants, self.broker.clone()).await {
            Ok(found) => {
                Adopted::Running(WasmContainer::boxed(found.worker, folder), found.listeners)
            }
            // A worker that could still do so has written down how it ended.
            Err(error) => match exit_in(folder) {
                Some(exit) => Adopted::Ended(Ended::of(exit)),
                None => Adopted::Gone(error.chain()),
            },
        }
    }
}

fn exit_in(folder: &Path) -> Option<::engine::Exit> {
    usage::read_exit(&disk::open(&folder.join(usage::FILE), disk::Purpose::Read).ok()?)
}

/// A container in its worker.
#[derive(Debug)]
struct WasmContainer {
    worker: Worker,
    usage: Arc<UsagePage>,
}

/// The counters that a worker maps.
#[derive(Debug)]
pub struct UsagePage(PathBuf);

impl UsagePage {
    /// Those of the container of `folder`, whether it runs or not.
    pub fn of(folder: &Path) -> Self {
        Self(folder.join(usage::FILE))
    }
}

impl UsageSource for UsagePage {
    fn read(&self) -> Option<Usage> {
        usage::read(&disk::open(&self.0, disk::Purpose::Read).ok()?).ok()
    }
}

impl WasmContainer {
    fn boxed(worker: Worker, folder: &Path) -> Box<dyn Container> {
        Box::new(Self { worker, usage: Arc::new(UsagePage::of(folder)) })
    }
}

impl Container for WasmContainer {
    fn next_event(&mut self) -> BoxFuture<'_, Event> {
        Box::pin(async {
            match self.worker.next_event().await {
                Some(event) => event,
                None => Event::Exited(Ended::of(lost())),
            }
        })
    }

    fn stop(&self, stop: Stop) -> BoxFuture<'_, ()> {
        // One that is gone already says so by its end.
        Box::pin(async move { drop(self.worker.stop(stop.grace).await) })
    }

    /// A Wasm program has no signals.
    fn signal(&self, _: i32) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// A Wasm program has the terminal of its supervisor.
    fn resize(&self, _: u16, _: u16) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn kill(&self) {
        self.worker.kill();
    }

    fn pid(&self) -> u32 {
        self.worker.pid()
    }

    fn usage(&self) -> Arc<dyn UsageSource> {
        self.usage.clone()
    }
}
