use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use net::{KeyedPermit, KeyedSemaphore};
use spec::{
    ContainerDefinition, NodeId, Port, PortMapping, Tenant, Usage,
    wire::{DesiredTask, WaitingRequests},
};
use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use super::{
    cache::Cache, causes::Causes, converge::TaskKey, report::ContainerReport,
    service_names::ServiceNames, spare_workers::SpareWorkers,
};
use crate::{
    error::{Error, Result},
    home::Home,
    ingress::{IngressFolder, socket_name},
    tasks::now,
    usage_log::UsageLog,
};

/// Images made ready at one time: each preparer compiles on every processor.
const PREPARING_MAX: usize = 2;
/// And of one tenant, whose others wait behind its first, so that there is one for others.
const PREPARING_PER_TENANT_MAX: usize = 1;

/// How many images are made ready at one time, in all and of one tenant.
pub(super) struct PreparingLimits {
    all: Semaphore,
    tenants: KeyedSemaphore<Tenant>,
}

impl PreparingLimits {
    fn new() -> Self {
        Self {
            all: Semaphore::new(PREPARING_MAX),
            tenants: KeyedSemaphore::new(PREPARING_PER_TENANT_MAX),
        }
    }

    /// Waits for its tenant's own turn first: it takes none from others meanwhile. A preparer is
    /// killed at its limit of time, so every turn comes.
    pub async fn acquire(&self, tenant: &Tenant) -> (KeyedPermit<Tenant>, SemaphorePermit<'_>) {
        let own = self.tenants.acquire(tenant.clone()).await;
        (own, self.all.acquire().await.expect("it is never closed"))
    }
}

/// How tasks of the pool run here.
#[derive(Debug, Clone, Copy)]
pub(super) struct PoolPolicy {
    /// A container without a request for so long has no worker until the next one.
    pub idle_after: Duration,
    /// Whether Linux programs of every tenant do.
    pub runs_native: bool,
}

/// What all tasks of a node share.
pub(super) struct Host {
    pub home: Home,
    pub node: NodeId,
    pub cache: Cache,
    pub broker: runtime::Broker,
    pub spare_workers: SpareWorkers,
    pub ingress: IngressFolder,
    pub services: Arc<ServiceNames>,
    pub pool: PoolPolicy,
    pub preparing: PreparingLimits,
    pub causes: Causes,
    pub changed: Notify,
    pub ended: Notify,
    /// Whether the control plane says what this version does not understand.
    pub outdated: AtomicBool,
    /// What requests at the ingress of this node wait for.
    waiting: Mutex<Vec<WaitingRequests>>,
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
        pool: PoolPolicy,
        usage: UsageLog,
    ) -> Self {
        let ingress = IngressFolder::at(home.ingress());
        let services = Arc::new(ServiceNames::new(node.clone(), ingress.clone()));
        Self {
            home: home.clone(),
            node,
            cache,
            broker: broker.with_services(services.clone()),
            spare_workers,
            ingress,
            services,
            pool,
            preparing: PreparingLimits::new(),
            causes: Causes::default(),
            changed: Notify::new(),
            ended: Notify::new(),
            outdated: AtomicBool::new(false),
            waiting: Mutex::default(),
            usage: Arc::new(Mutex::new(usage)),
            tokens: Mutex::default(),
        }
    }

    /// What requests wait for, as of the last look.
    pub fn waiting(&self) -> Vec<WaitingRequests> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes what requests wait for now, and has that reported when it is something else.
    pub fn set_waiting(&self, fresh: Vec<WaitingRequests>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if *waiting != fresh {
            *waiting = fresh;
            self.changed.notify_one();
        }
    }

    /// The broker of one container, which reaches the ports of the others of its task as its own.
    pub fn broker_of(
        &self,
        task: &DesiredTask,
        definition: &ContainerDefinition,
    ) -> runtime::Broker {
        let own = |port: &Port| definition.ports.iter().any(|own| own.port() == *port);
        let others = task.definition.containers.iter();
        let others = others.filter(|other| other.name != definition.name);
        let ports = others.flat_map(|other| &other.ports).map(PortMapping::port);
        // Containers of a task reach each other by connections.
        let ports = ports.filter(|port| port.transport.is_tcp() && !own(port));
        let local = ports.map(|port| {
            let name = socket_name(&task.tenant, &task.id, port);
            (port.number, self.ingress.sockets().join(name))
        });
        self.broker.of(task.tenant.as_str()).with_local_ports(local.collect())
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn one_tenant_leaves_preparers_to_others() {
        let limits = PreparingLimits::new();
        let tenant = |name: &str| name.parse::<Tenant>().unwrap();
        let (ann, bob) = (tenant("ann"), tenant("bob"));
        let first = limits.acquire(&ann).await;
        let mut second = Box::pin(limits.acquire(&ann));
        assert!(second.as_mut().now_or_never().is_none(), "it waits behind its own tenant");
        drop(limits.acquire(&bob).await);
        drop(first);
        drop(second.await);
    }
}
