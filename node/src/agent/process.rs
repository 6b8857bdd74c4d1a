use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use disk::Lock;
use spec::{
    NodeId, NodeSpec,
    wire::{DesiredSet, RouteTable},
};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{
    adoption::{self, AdoptableTask},
    cache::{Cache, sweep_incoming},
    capacity::node_spec,
    control::Control,
    converge::TaskKey,
    host::{Host, PoolPolicy},
    limits::{END_TIME_MAX, LAST_REPORT_TIME_MAX},
    settings::NodeFolder,
    spare_workers::SpareWorkers,
    task::TaskHandle,
};
use crate::{
    error::{Error, Result, chain},
    home::{Home, make_private},
    identity::Identity,
    ingress::Shared,
    tuning::{PrivateNetwork, Tuning},
    usage_log::UsageLog,
};

#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Whose node it is; it has joined a control plane.
    pub home: Home,
    /// Beyond what was said when the node joined.
    pub tuning: Tuning,
}

/// What becomes of tasks when the agent is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtEnd {
    /// They run on, to be adopted by the next agent: an upgrade, or a supervisor that was killed.
    Leave,
    /// They are stopped: the platform goes down.
    Stop,
}

impl AgentConfig {
    /// The usual one for `home`.
    pub fn new(home: Home) -> Self {
        Self { home, tuning: Tuning::default() }
    }
}

pub struct Agent {
    pub(super) host: Arc<Host>,
    pub(super) folder: NodeFolder,
    pub(super) identity: Identity,
    pub(super) spec: NodeSpec,
    /// Internal networks in which other nodes may be.
    networks: Vec<PrivateNetwork>,
    pub(super) boot: String,
    pub(super) tasks: Mutex<BTreeMap<TaskKey, TaskHandle>>,
    /// One agent for a home: held for as long as this lives.
    _lock: Lock,
}

impl Agent {
    /// Takes the node over from whatever agent there was before.
    ///
    /// # Errors
    /// [`Error::NotJoined`], [`Error::Held`] while another agent runs, and when something cannot be
    /// read or written.
    pub fn open(config: AgentConfig) -> Result<Self> {
        // Nine for each Wasm container, and what is short at a start is taken from what runs.
        net::Descriptors::raise();
        let home = &config.home;
        let folder = NodeFolder::of(home)?;
        let lock = lock(&folder)?;
        let identity = Identity::read(&folder.identity())?
            .ok_or_else(|| Error::NotJoined(folder.identity()))?;
        make_private(&home.tasks())?;
        let settings = folder.settings()?;
        let Tuning { private_networks, idle_after, spare_workers, pool_native } =
            config.tuning.or(settings.tuning.clone());
        let pool = PoolPolicy {
            idle_after: idle_after.unwrap_or(Tuning::IDLE_AFTER),
            runs_native: pool_native.unwrap_or(false),
        };
        let mut open_to_peers = private_networks.clone();
        open_to_peers.extend(PrivateNetwork::around(settings.ingress_address.as_deref()));
        let networks: Vec<_> = private_networks.into_iter().map(PrivateNetwork::host).collect();
        let host = Host::new(
            home,
            identity.node.clone(),
            Cache::new(home, identity.registry.clone(), identity.authorities()?, networks.clone()),
            runtime::Broker::new(networks),
            SpareWorkers::new(spare_workers.unwrap_or(Tuning::SPARE_WORKERS) as usize),
            pool,
            UsageLog::open(&folder.usage())?,
        );
        host.ingress.make()?;
        sweep_incoming(home);
        let spec = node_spec(&settings, pool.runs_native);
        let boot = disk::random_hex::<8>();
        let tasks = Mutex::default();
        Ok(Self {
            host: Arc::new(host),
            folder,
            identity,
            spec,
            networks: open_to_peers,
            boot,
            tasks,
            _lock: lock,
        })
    }

    pub fn node(&self) -> &NodeId {
        &self.identity.node
    }

    /// Runs what should run until `shutdown`, which says what becomes of tasks then. `ready` hears
    /// once, when everything that ran before is adopted.
    ///
    /// # Errors
    /// When what is on disk cannot be read, and [`Error::Removed`]. Everything else is tried again.
    pub async fn serve(
        self,
        shutdown: impl Future<Output = AtEnd>,
        ready: impl FnOnce(),
    ) -> Result<()> {
        let kept = self.last_desired()?;
        self.take_over(kept.set.as_ref())?;
        kept.set.iter().for_each(|set| self.serve_routes(set));
        ready();
        let (tell, sets) = watch::channel(kept.set.map(Arc::new));
        let at_end = tokio::select! {
            at_end = shutdown => Some(at_end),
            () = self.listen(kept.epoch, &tell) => None,
            () = self.follow(sets.clone()) => Some(AtEnd::Leave),
            () = self.report(sets.clone()) => Some(AtEnd::Leave),
            () = self.keep_heartbeat() => Some(AtEnd::Leave),
            () = self.bill() => Some(AtEnd::Leave),
            () = self.keep_waiting() => Some(AtEnd::Leave),
            () = self.streams() => Some(AtEnd::Leave),
            () = self.maintain() => Some(AtEnd::Leave),
            () = self.keep_certificates() => Some(AtEnd::Leave),
            () = self.keep_host_certificates(sets.clone()) => Some(AtEnd::Leave),
            () = self.host.spare_workers.refill() => Some(AtEnd::Leave),
        };
        let Some(at_end) = at_end else {
            tracing::error!(node = %self.node(), "this node was removed: its tasks end");
            self.end().await;
            self.forget_identity();
            return Err(Error::Removed(self.identity.node.clone()));
        };
        match at_end {
            AtEnd::Stop => self.end().await,
            AtEnd::Leave => self.leave_for_the_next().await,
        }
        Ok(())
    }

    /// What its certificate said holds no more: the next start says that it has to join, and the
    /// ingress speaks to no other node.
    fn forget_identity(&self) {
        let ingress = &self.host.ingress;
        for path in [
            self.folder.identity(),
            self.folder.desired(),
            ingress.identity_file(),
            ingress.certificates_file(),
        ] {
            let _ = std::fs::remove_file(path);
        }
    }

    pub(super) fn control(&self) -> Result<Control> {
        // Read anew: it may have been renewed.
        let identity =
            Identity::read(&self.folder.identity())?.unwrap_or_else(|| self.identity.clone());
        Ok(Control::new(&identity.control_plane, identity.client()?))
    }

    /// Adopts what runs and should, and ends the rest.
    fn take_over(&self, desired: Option<&DesiredSet>) -> Result<()> {
        // What workers have left that ended while there was no agent.
        engine::cgroup::sweep(&self.host.home.tasks());
        let mut found = adoption::collect(&self.host.home)?;
        for task in desired.map_or(&[][..], |set| &set.tasks) {
            let key = (task.tenant.clone(), task.id.clone());
            if let Some(found) = found.remove(&key) {
                self.tasks().insert(key, TaskHandle::start(&self.host, task.clone(), found));
            }
        }
        for (key, left) in found {
            self.clear(&key, left);
        }
        adoption::sweep(&self.host.home, &self.here());
        Ok(())
    }

    /// Ends a task that is not wanted any more. What has ended stays for a while, for `inspect`.
    fn clear(&self, (_, task): &TaskKey, left: AdoptableTask) {
        for (container, found) in left {
            if found.has_ended() {
                continue;
            }
            tracing::info!(%task, %container, "not wanted any more: removed");
            if let Err(error) = found.clear(&self.host.home) {
                tracing::warn!(%task, %container, error = chain(&error), "it could not be removed");
            }
        }
    }

    pub(super) fn tasks(&self) -> std::sync::MutexGuard<'_, BTreeMap<TaskKey, TaskHandle>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn here(&self) -> BTreeSet<TaskKey> {
        self.tasks().keys().cloned().collect()
    }

    async fn end(&self) {
        let deadline = Instant::now() + END_TIME_MAX;
        let mut tasks = std::mem::take(&mut *self.tasks());
        tasks.values().for_each(TaskHandle::stop);
        for task in tasks.values_mut() {
            task.ended(deadline).await;
        }
        *self.tasks() = tasks;
        self.measure().await;
        if !matches!(timeout(LAST_REPORT_TIME_MAX, self.upload()).await, Ok(Ok(()))) {
            tracing::debug!("usage stays here until the next start");
        }
        // No replica is behind these names until the control plane says so again.
        if let Err(error) = self.host.ingress.write_shared(&self.shared(RouteTable::default())) {
            tracing::debug!(error = chain(&error), "the routes stay");
        }
    }

    /// What the ingress is told.
    pub(super) fn shared(&self, routes: RouteTable) -> Shared {
        let (node, networks) = (self.identity.node.clone(), self.networks.clone());
        Shared { version: 1, node, routes, networks }
    }
}

fn lock(folder: &NodeFolder) -> Result<Lock> {
    let path = folder.lock();
    let lock = Lock::try_exclusive(&path).map_err(Error::file("lock", &path))?;
    lock.ok_or(Error::AgentRuns(path))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
