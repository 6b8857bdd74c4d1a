use std::{
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use spec::{ContainerName, ContainerPhase, ContainerStatus, Usage};
use tokio::io::{Interest, unix::AsyncFd};

use super::host::Host;
use crate::{
    error::{Error, Result},
    launch::Doors,
    usage_log::Meter,
};

/// What everybody may know of a container: its supervisor writes here, reports and bills read.
#[derive(Debug)]
pub(super) struct Board {
    pub meter: Meter,
    inner: Mutex<Inner>,
    /// Its counters are gone from the usage log: a reading that comes later would be billed from
    /// zero.
    forgotten: AtomicBool,
}

#[derive(Debug)]
struct Inner {
    status: ContainerStatus,
    counters: Counters,
    /// What its lives before this one used, where each counts from zero: the kernel's counters do,
    /// a worker's page goes on.
    base: Usage,
}

/// Where its usage is counted.
#[derive(Debug, Clone)]
enum Counters {
    /// Nowhere yet.
    None,
    /// By its worker, in a page.
    Page(PathBuf),
    /// By the kernel; its shim asks.
    Native(shim::Task),
    /// It has ended with this.
    Final(Usage),
}

impl Board {
    pub fn new(meter: Meter) -> Arc<Self> {
        let status = ContainerStatus {
            name: meter.container.clone(),
            image: meter.image,
            phase: ContainerPhase::Pulling,
            exit_code: None,
            reason: None,
            restarts: 0,
            ports: Vec::new(),
            usage: Usage::default(),
        };
        let inner = Mutex::new(Inner { status, counters: Counters::None, base: Usage::default() });
        Arc::new(Self { meter, inner, forgotten: AtomicBool::new(false) })
    }

    pub fn name(&self) -> &ContainerName {
        &self.meter.container
    }

    pub fn status(&self) -> ContainerStatus {
        self.lock().status.clone()
    }

    /// Changes the status, and tells whoever reports when that made a difference.
    pub fn set(&self, host: &Host, change: impl FnOnce(&mut ContainerStatus)) {
        let mut inner = self.lock();
        let before = inner.status.clone();
        change(&mut inner.status);
        let changed = inner.status != before;
        drop(inner);
        if changed {
            host.changed.notify_one();
        }
    }

    pub fn count_in_page(&self, path: PathBuf) {
        self.lock().counters = Counters::Page(path);
    }

    pub fn count_native(&self, task: shim::Task) {
        self.lock().counters = Counters::Native(task);
    }

    pub fn count_final(&self, usage: Usage) {
        self.lock().counters = Counters::Final(usage);
    }

    /// Goes on counting from what earlier lives used.
    pub fn count_from(&self, base: Usage) {
        self.lock().base = base;
    }

    /// What its earlier lives used.
    pub fn base(&self) -> Usage {
        self.lock().base
    }

    /// A life that counted from zero has ended, and used this.
    pub fn count_life(&self, usage: Usage) {
        let mut inner = self.lock();
        inner.base = inner.base.plus(usage);
        inner.counters = Counters::Final(inner.base);
    }

    /// From now on nothing of it is written down any more. To be said before its counters leave the
    /// usage log.
    pub fn forget(&self) {
        self.forgotten.store(true, Ordering::SeqCst);
    }

    /// Whether somebody has [forgotten](Self::forget) it.
    pub fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::SeqCst)
    }

    /// What its counters say. May wait for a shim: not for threads that must not.
    pub fn read(&self) -> Option<Usage> {
        let (counters, base) = {
            let inner = self.lock();
            (inner.counters.clone(), inner.base)
        };
        let usage = match counters {
            Counters::None => None,
            Counters::Page(path) => crate::meter::read(&path),
            Counters::Native(task) => task.status().ok().map(|status| base.plus(status.usage)),
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

/// Ready when somebody knocks at one of the doors. Nobody is let in: that is the worker's to do,
/// which comes next.
pub(super) async fn knock(doors: &Doors) -> Result<()> {
    let system = |source| Error::System { verb: "wait for a request", source };
    let published = doors.published.iter().map(|(_, listener)| listener.as_fd());
    let ingress = doors.ingress.iter().map(|(_, listener)| listener.as_fd());
    let mut waiting = Vec::new();
    for door in published.chain(ingress) {
        let copy: OwnedFd = door.try_clone_to_owned().map_err(system)?;
        #[expect(
            deprecated,
            reason = "its replacement is unsafe for types that lie about their descriptor; this owns it"
        )]
        let door = AsyncFd::with_interest(copy, Interest::READABLE).map_err(system)?;
        waiting.push(door);
    }
    if waiting.is_empty() {
        return std::future::pending().await;
    }
    let knocks = waiting.iter().map(|door| {
        Box::pin(async { door.readable().await.map(|mut ready| ready.retain_ready()) })
    });
    futures_util::future::select_all(knocks).await.0.map_err(system)
}
