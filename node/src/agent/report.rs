use std::{
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use engine::{Listeners, UsageSource};
use spec::{ContainerName, ContainerPhase, ContainerStatus, Usage};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::Notify,
};

use crate::{
    error::{Error, Result},
    usage_log::Meter,
};

/// What is known of a container: its supervisor writes here, reports to the control plane and the
/// usage log read.
#[derive(Debug)]
pub(super) struct ContainerReport {
    pub meter: Meter,
    inner: Mutex<Inner>,
    /// Its counters are gone from the usage log: a reading that comes later would be billed from
    /// zero.
    forgotten: AtomicBool,
    /// Its status has changed.
    moved: Notify,
}

#[derive(Debug)]
struct Inner {
    status: ContainerStatus,
    counters: Counters,
    /// What it used before its last start, where its counters begin at each start: the kernel's do,
    /// a worker's page goes on.
    base: Usage,
}

/// Where its usage is counted.
#[derive(Debug, Clone)]
enum Counters {
    /// Nowhere yet.
    None,
    /// By its engine.
    Live(Arc<dyn UsageSource>),
    /// It has ended with this.
    Final(Usage),
}

impl ContainerReport {
    pub fn new(meter: Meter) -> Arc<Self> {
        let status = ContainerStatus {
            name: meter.container.clone(),
            image: meter.image,
            phase: ContainerPhase::Pulling,
            exit_code: None,
            reason: None,
            health: None,
            idle: false,
            restarts: 0,
            ports: Vec::new(),
            usage: Usage::default(),
        };
        let inner = Mutex::new(Inner { status, counters: Counters::None, base: Usage::default() });
        let (forgotten, moved) = (AtomicBool::new(false), Notify::new());
        Arc::new(Self { meter, inner, forgotten, moved })
    }

    pub fn name(&self) -> &ContainerName {
        &self.meter.container
    }

    pub fn status(&self) -> ContainerStatus {
        self.lock().status.clone()
    }

    /// Changes the status, and has that reported when it made a difference.
    pub fn set(&self, changed: &Notify, change: impl FnOnce(&mut ContainerStatus)) {
        let mut inner = self.lock();
        let before = inner.status.clone();
        change(&mut inner.status);
        let is_new = inner.status != before;
        drop(inner);
        if is_new {
            self.moved.notify_waiters();
            changed.notify_one();
        }
    }

    /// Ready when its status changes from now on.
    pub fn moved(&self) -> impl Future<Output = ()> {
        self.moved.notified()
    }

    pub fn count(&self, source: Arc<dyn UsageSource>) {
        self.lock().counters = Counters::Live(source);
    }

    pub fn count_final(&self, usage: Usage) {
        self.lock().counters = Counters::Final(usage);
    }

    /// Goes on counting from what earlier starts used.
    pub fn count_from(&self, base: Usage) {
        self.lock().base = base;
    }

    /// What its earlier starts used.
    pub fn base(&self) -> Usage {
        self.lock().base
    }

    /// A start whose counters began with it has ended, and used this.
    pub fn count_start(&self, usage: Usage) {
        let mut inner = self.lock();
        inner.base = inner.base.plus(usage);
        inner.counters = Counters::Final(inner.base);
    }

    /// From now on nothing of it is written down any more. To be said before its counters leave the
    /// usage log.
    pub fn forget(&self) {
        self.forgotten.store(true, Ordering::SeqCst);
    }

    /// Whether it was [forgotten](Self::forget).
    pub fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::SeqCst)
    }

    /// What its counters say. May block.
    pub fn read(&self) -> Option<Usage> {
        let (counters, base) = {
            let inner = self.lock();
            (inner.counters.clone(), inner.base)
        };
        let usage = match counters {
            Counters::None => None,
            Counters::Live(source) => source.read().map(|usage| base.plus(usage)),
            Counters::Final(usage) => Some(usage),
        };
        if let Some(usage) = usage {
            self.lock().status.usage = usage;
        }
        usage
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ready when a client waits at one of the listeners. It is not accepted: that is for the worker,
/// which comes next.
pub(super) async fn wait_readable(listeners: &Listeners) -> Result<()> {
    let system = |source| Error::System { verb: "wait for a request", source };
    let mut waiting = Vec::new();
    for socket in listeners.sockets() {
        let copy: OwnedFd = socket.try_clone_to_owned().map_err(system)?;
        #[expect(
            deprecated,
            reason = "its replacement is unsafe for types whose descriptor may change; this owns it"
        )]
        let socket = AsyncFd::with_interest(copy, Interest::READABLE).map_err(system)?;
        waiting.push(socket);
    }
    if waiting.is_empty() {
        return std::future::pending().await;
    }
    let readable = waiting.iter().map(|socket| {
        Box::pin(async { socket.readable().await.map(|mut ready| ready.retain_ready()) })
    });
    futures_util::future::select_all(readable).await.0.map_err(system)
}
