use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use spec::{NodeId, Usage};
use tokio::sync::{Notify, Semaphore};

use super::{
    cache::Cache, causes::Causes, converge::TaskKey, report::ContainerReport,
    spare_workers::SpareWorkers,
};
use crate::{
    error::{Error, Result},
    home::Home,
    ingress::IngressFolder,
    tasks::now,
    usage_log::UsageLog,
};

/// Images made ready at one time: each preparer compiles on every processor.
const PREPARING_MAX: usize = 2;

/// What all tasks of a node share.
pub(super) struct Host {
    pub home: Home,
    pub node: NodeId,
    pub cache: Cache,
    pub broker: runtime::Broker,
    pub spare_workers: SpareWorkers,
    pub ingress: IngressFolder,
    /// A pool's container without a request for so long has no worker until the next one.
    pub idle_after: Duration,
    pub preparing: Semaphore,
    pub causes: Causes,
    pub changed: Notify,
    pub ended: Notify,
    usage: Arc<Mutex<UsageLog>>,
    /// The newest token of each task that may pull: in memory only, for they are secrets.
    tokens: Mutex<BTreeMap<TaskKey, String>>,
}

impl Host {
    pub fn new(
        home: &Home,
        node: NodeId,
        cache: Cache,
        broker: runtime::Broker,
        spare_workers: SpareWorkers,
        idle_after: Duration,
        usage: UsageLog,
    ) -> Self {
        Self {
            home: home.clone(),
            node,
            cache,
            broker,
            spare_workers,
            ingress: IngressFolder::at(home.ingress()),
            idle_after,
            preparing: Semaphore::new(PREPARING_MAX),
            causes: Causes::default(),
            changed: Notify::new(),
            ended: Notify::new(),
            usage: Arc::new(Mutex::new(usage)),
            tokens: Mutex::default(),
        }
    }

    /// Takes the tokens that came with a desired set. Those of before are of no use any more.
    pub fn renew_tokens(&self, tokens: BTreeMap<TaskKey, String>) {
        *self.tokens.lock().unwrap_or_else(PoisonError::into_inner) = tokens;
    }

    /// The newest token of a task, if it was given one.
    pub fn token(&self, task: &TaskKey) -> Option<String> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(task).cloned()
    }

    /// Does something with the usage log, where waiting for the disk is allowed.
    pub async fn with_usage<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut UsageLog) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let usage = self.usage.clone();
        let done = tokio::task::spawn_blocking(move || {
            work(&mut usage.lock().unwrap_or_else(PoisonError::into_inner))
        });
        done.await.unwrap_or_else(|error| {
            Err(Error::System { verb: "write down usage", source: std::io::Error::other(error) })
        })
    }

    /// Writes readings down, durably. One that fails is made up for by the next: counters only
    /// grow.
    pub async fn measure(&self, readings: Vec<(Arc<ContainerReport>, Usage)>) {
        let measured = self.with_usage(move |log| {
            // Asked while we have the log: what is forgotten between a reading and this line would
            // be billed twice.
            let readings = readings.into_iter().filter(|(report, _)| !report.is_forgotten());
            log.measure(now(), readings.map(|(report, usage)| (report.meter.clone(), usage)))
        });
        if let Err(error) = measured.await {
            tracing::error!(%error, "usage could not be written down");
        }
    }
}
