use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use disk::{Lock, Survives};
use serde::{Deserialize, Serialize};
use spec::{
    NodeId, NodeSpec, UsageBatch,
    wire::{self, DesiredSet, NodeReport, ReportedTask, RouteTable, UsageTaken},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    blanks::Blanks,
    cache::{Cache, sweep_incoming},
    capacity::node_spec,
    control::{ANSWER_TIME_MAX, Control, POLL_TIME_MAX, RETRY_AFTER},
    converge::{Step, TaskKey, converge},
    found::{self, FoundTask},
    host::Host,
    join,
    settings::NodeFolder,
    task::TaskHandle,
};
use crate::{
    error::{Error, Result, chain},
    files,
    home::{Home, make_private},
    identity::Identity,
    ingress::Shared,
    tuning::{PrivateNetwork, Tuning},
    usage_log::UsageLog,
};

/// Descriptors for 500 containers, with some eight each.
const DESCRIPTORS_MIN: u64 = 4096;

/// How an agent behaves.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Whose node it is; it has joined a control plane.
    pub home: Home,
    /// Beyond what was said when the node joined.
    pub tuning: Tuning,
    /// What becomes of tasks when the agent is asked to end.
    pub at_end: AtEnd,
}

/// What becomes of tasks when the agent is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtEnd {
    /// They run on, to be adopted by the next agent: an upgrade.
    Leave,
    /// They are stopped: the platform goes down.
    Stop,
}

impl AgentConfig {
    /// The usual one for `home`.
    pub fn new(home: Home) -> Self {
        Self { home, tuning: Tuning::default(), at_end: AtEnd::Leave }
    }
}

/// The agent of a node.
pub struct Agent {
    host: Arc<Host>,
    folder: NodeFolder,
    identity: Identity,
    spec: NodeSpec,
    boot: String,
    at_end: AtEnd,
    tasks: Mutex<BTreeMap<TaskKey, TaskHandle>>,
    /// One agent for a home: held for as long as this lives.
    _lock: Lock,
}

/// `desired.json`: what the control plane last said, and the highest epoch that it said it in.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    version: u32,
    epoch: u64,
    set: Option<DesiredSet>,
}

/// Silence of more than two of these makes a node suspect.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(3);
/// Changes within so little time go into one report.
const GATHER_FOR: Duration = Duration::from_millis(10);
const MEASURE_EVERY: Duration = Duration::from_secs(10);
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Half of the seven days for which a certificate is good.
const RENEW_AFTER: Duration = Duration::from_secs(3 * 24 * 3600 + 12 * 3600);
/// For all tasks to end at the end of the platform: their grace and then some. Together with what
/// is said after it, less than whoever asked us to end waits before it kills us.
const END_TIME_MAX: Duration = Duration::from_secs(15);
const LAST_WORD_TIME_MAX: Duration = Duration::from_secs(2);
/// A control plane that has not known us for so long means it: an operator who restores the wrong
/// backup has a moment.
const REMOVED_AFTER: Duration = Duration::from_secs(10);

impl Agent {
    /// Takes the node over from whatever agent there was before.
    ///
    /// # Errors
    /// [`Error::NotJoined`], [`Error::Held`] while another agent runs, and when something cannot be
    /// read or written.
    pub fn open(config: AgentConfig) -> Result<Self> {
        // Nine for each Wasm container, and what is short at a start is taken from what runs.
        net::raise_descriptor_limit(DESCRIPTORS_MIN);
        let home = &config.home;
        let folder = NodeFolder::of(home)?;
        let lock = lock(&folder)?;
        let identity = Identity::read(&folder.identity())?
            .ok_or_else(|| Error::NotJoined(folder.identity()))?;
        make_private(&home.tasks())?;
        let settings = folder.settings()?;
        let Tuning { private_networks, idle_after, blank_workers } =
            config.tuning.or(settings.tuning.clone());
        let networks: Vec<_> = private_networks.into_iter().map(PrivateNetwork::host).collect();
        let host = Host::new(
            home,
            identity.node.clone(),
            Cache::new(home, identity.registry.clone(), networks.clone()),
            runtime::Broker::new(networks),
            Blanks::new(blank_workers.unwrap_or(Tuning::BLANK_WORKERS) as usize),
            idle_after.unwrap_or(Tuning::IDLE_AFTER),
            UsageLog::open(&folder.usage())?,
        );
        host.ingress.make()?;
        host.ingress.write_identity(&identity)?;
        sweep_incoming(home);
        let spec = node_spec(&settings);
        let boot = disk::random_hex::<8>();
        let tasks = Mutex::default();
        Ok(Self {
            host: Arc::new(host),
            folder,
            identity,
            spec,
            boot,
            at_end: config.at_end,
            tasks,
            _lock: lock,
        })
    }

    /// The node's name.
    pub fn node(&self) -> &NodeId {
        &self.identity.node
    }

    /// Runs what should run until `shutdown`. `ready` hears once, when everything that ran before
    /// is adopted.
    ///
    /// # Errors
    /// When what is on disk cannot be read, and [`Error::Removed`]. Everything else is tried again.
    pub async fn serve(
        self,
        shutdown: impl Future<Output = ()>,
        ready: impl FnOnce(),
    ) -> Result<()> {
        let kept: Kept = files::read_json(&self.folder.desired())?.unwrap_or_default();
        if kept.version > 1 {
            wire::check_version("the desired set", kept.version)
                .map_err(|source| Error::Newer { path: self.folder.desired(), source })?;
        }
        self.take_over(kept.set.as_ref())?;
        ready();
        let (tell, sets) = watch::channel(kept.set.map(Arc::new));
        let removed = tokio::select! {
            () = shutdown => false,
            () = self.listen(kept.epoch, &tell) => true,
            () = self.follow(sets.clone()) => false,
            () = self.report(sets.clone()) => false,
            () = self.bill() => false,
            () = self.keep_house() => false,
            () = self.host.blanks.refill() => false,
        };
        if removed {
            tracing::error!(node = %self.node(), "this node was removed: its tasks end");
            self.end().await;
            self.forget_identity();
            return Err(Error::Removed(self.identity.node.clone()));
        }
        if self.at_end == AtEnd::Stop {
            self.end().await;
        }
        Ok(())
    }

    /// What its certificate said holds no more: the next start says that it has to join, and the
    /// ingress speaks to no other node.
    fn forget_identity(&self) {
        for path in
            [self.folder.identity(), self.folder.desired(), self.host.ingress.identity_file()]
        {
            let _ = std::fs::remove_file(path);
        }
    }

    fn control(&self) -> Result<Control> {
        // Read anew: it may have been renewed.
        let identity =
            Identity::read(&self.folder.identity())?.unwrap_or_else(|| self.identity.clone());
        Ok(Control::new(&identity.control_plane, identity.client()?))
    }

    /// Adopts what runs and should, and ends the rest.
    fn take_over(&self, desired: Option<&DesiredSet>) -> Result<()> {
        let mut found = found::collect(&self.host.home)?;
        for task in desired.map_or(&[][..], |set| &set.tasks) {
            let key = (task.tenant.clone(), task.id.clone());
            if let Some(found) = found.remove(&key) {
                self.tasks().insert(key, TaskHandle::start(&self.host, task.clone(), found));
            }
        }
        for (key, left) in found {
            self.clear(&key, left);
        }
        found::sweep(&self.host.home, &self.here());
        Ok(())
    }

    /// Nobody wants it any more. What has ended stays for a while, for whoever wants to know why.
    fn clear(&self, (_, task): &TaskKey, left: FoundTask) {
        for (container, found) in left {
            if found.has_ended() {
                continue;
            }
            tracing::info!(%task, %container, "nobody wants it any more: removed");
            if let Err(error) = found.clear() {
                tracing::warn!(%task, %container, error = chain(&error), "it could not be removed");
            }
        }
    }

    fn tasks(&self) -> std::sync::MutexGuard<'_, BTreeMap<TaskKey, TaskHandle>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn here(&self) -> BTreeSet<TaskKey> {
        self.tasks().keys().cloned().collect()
    }

    /// Asks the control plane what should run, again and again, until it does not know us any more.
    /// What it says is on disk before anybody acts on it.
    async fn listen(&self, mut epoch: u64, tell: &watch::Sender<Option<Arc<DesiredSet>>>) {
        let mut control = self.control();
        let mut strangers_since: Option<Instant> = None;
        // Nothing is known of what this control plane last said: the first answer comes at once.
        let mut after: Option<i64> = None;
        loop {
            let path = after.map_or("/v1/node/desired".to_owned(), |rev| {
                format!("/v1/node/desired?after={rev}")
            });
            let answer = match &control {
                Ok(control) => control.get::<DesiredSet>(&path, POLL_TIME_MAX).await,
                Err(error) => Err(Error::Identity(chain(error))),
            };
            match &answer {
                Err(error) if error.is_stranger() => {
                    let since = *strangers_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= REMOVED_AFTER {
                        return;
                    }
                    tracing::warn!("the control plane does not know this node");
                }
                Ok(_) => strangers_since = None,
                Err(_) => {} // nobody has said anything about us
            }
            match answer.and_then(|set| self.accept(set, &mut epoch, tell)) {
                Ok(Some(revision)) => after = Some(revision),
                Ok(None) => sleep(HEARTBEAT_EVERY).await,
                Err(error) => {
                    tracing::debug!(error = chain(&error), "the control plane is away");
                    sleep(RETRY_AFTER).await;
                    control = self.control();
                    after = None;
                }
            }
        }
    }

    /// Takes a set, unless somebody says it whose time is over.
    fn accept(
        &self,
        mut set: DesiredSet,
        epoch: &mut u64,
        tell: &watch::Sender<Option<Arc<DesiredSet>>>,
    ) -> Result<Option<i64>> {
        if let Err(error) = wire::check_version("the desired set", set.version) {
            tracing::error!(%error, "the control plane is newer than this node");
            return Ok(None);
        }
        if set.epoch < *epoch {
            tracing::warn!(epoch = set.epoch, known = *epoch, "an old leader speaks: not obeyed");
            return Ok(None);
        }
        let revision = set.revision;
        // Tokens are new with every answer: they are no news, and a task that waits or tries again
        // takes the newest.
        self.host.renew_tokens(take_tokens(&mut set));
        let news = tell.borrow().as_ref().is_none_or(|known| **known != set);
        if news {
            *epoch = set.epoch;
            let kept = Kept { version: 1, epoch: set.epoch, set: Some(set.clone()) };
            files::write_json(&self.folder.desired(), &kept, Survives::PowerLoss)?;
            tell.send_replace(Some(Arc::new(set)));
        }
        Ok(Some(revision))
    }

    /// Moves what is here towards the last desired set, whenever either has changed.
    async fn follow(&self, mut sets: watch::Receiver<Option<Arc<DesiredSet>>>) {
        loop {
            let set = sets.borrow_and_update().clone();
            if let Some(set) = set {
                self.converge(&set).await;
            }
            tokio::select! {
                changed = sets.changed() => if changed.is_err() { return },
                () = self.host.ended.notified() => {}
            }
        }
    }

    async fn converge(&self, set: &DesiredSet) {
        let shared =
            Shared { version: 1, node: self.identity.node.clone(), routes: set.routes.clone() };
        if let Err(error) = self.host.ingress.write_shared(&shared) {
            tracing::error!(error = chain(&error), "the ingress does not get its routes");
        }
        let seen = self.tasks().iter().map(|(key, task)| (key.clone(), task.seen())).collect();
        for step in converge(set, &seen) {
            match step {
                Step::Stop(key) => {
                    tracing::info!(task = %key.1, "stop");
                    self.tasks().get(&key).into_iter().for_each(TaskHandle::stop);
                }
                Step::Forget(key) => self.forget(&key).await,
                Step::Start(key) => {
                    let task =
                        set.tasks.iter().find(|task| (&task.tenant, &task.id) == (&key.0, &key.1));
                    if let Some(task) = task {
                        tracing::info!(task = %key.1, "start");
                        let handle = TaskHandle::start(&self.host, task.clone(), FoundTask::new());
                        self.tasks().insert(key, handle);
                    }
                }
            }
        }
        self.host.changed.notify_one();
    }

    async fn forget(&self, key: &TaskKey) {
        let Some(task) = self.tasks().remove(key) else { return };
        let meters: Vec<_> = task.boards.iter().map(|board| board.meter.clone()).collect();
        task.boards.iter().for_each(|board| board.forget());
        let forgotten = self.host.with_usage(move |log| {
            meters.iter().for_each(|meter| log.forget(meter));
            Ok(())
        });
        if let Err(error) = forgotten.await {
            tracing::warn!(error = chain(&error), "a meter could not be forgotten");
        }
    }

    /// Says what is seen: at every change, and as a heartbeat.
    async fn report(&self, sets: watch::Receiver<Option<Arc<DesiredSet>>>) {
        let mut control = self.control();
        let mut seq = 0;
        loop {
            seq += 1;
            let revision = sets.borrow().as_ref().map_or(0, |set| set.revision);
            let report = self.what_is_seen(seq, revision);
            let sent = match &control {
                Ok(control) => {
                    control.post::<serde::de::IgnoredAny>("/v1/node/report", &report).await
                }
                Err(error) => Err(Error::Identity(chain(error))),
            };
            if let Err(error) = sent {
                tracing::debug!(error = chain(&error), "a report was not taken");
                sleep(RETRY_AFTER).await;
                control = self.control();
                continue;
            }
            let next = Instant::now() + HEARTBEAT_EVERY;
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.host.changed.notified() => sleep(GATHER_FOR).await,
            }
        }
    }

    fn what_is_seen(&self, seq: u64, revision: i64) -> NodeReport {
        let tasks = self.tasks();
        let tasks = tasks.iter().map(|((tenant, id), task)| ReportedTask {
            tenant: tenant.clone(),
            id: id.clone(),
            status: task.status(),
        });
        NodeReport {
            version: wire::VERSION,
            boot: self.boot.clone(),
            seq,
            revision,
            spec: self.spec.clone(),
            tasks: tasks.collect(),
        }
    }

    /// Reads every counter, and hands what was used to the ledger.
    async fn bill(&self) {
        loop {
            sleep(MEASURE_EVERY).await;
            self.measure().await;
            if let Err(error) = self.upload().await {
                tracing::debug!(error = chain(&error), "usage stays here for now");
            }
        }
    }

    async fn measure(&self) {
        let boards: Vec<_> = self.tasks().values().flat_map(|task| task.boards.clone()).collect();
        let read = move || {
            boards
                .into_iter()
                .filter_map(|board| board.read().map(|usage| (board, usage)))
                .collect()
        };
        if let Ok(readings) = tokio::task::spawn_blocking(read).await {
            self.host.measure(readings).await;
        }
    }

    async fn upload(&self) -> Result<()> {
        let control = self.control()?;
        loop {
            let node = self.identity.node.clone();
            let Some(batch): Option<UsageBatch> =
                self.host.with_usage(move |log| log.batch(&node)).await?
            else {
                return Ok(());
            };
            let first = batch.records.first().map_or(0, |record| record.seq);
            let taken: UsageTaken = match control.post("/v1/node/usage", &batch).await {
                // It has less than it once acknowledged, as after a restored backup. The log still
                // holds all of it.
                Err(Error::Refused(fault)) if fault.code == "usage-gap" && first > 1 => {
                    tracing::warn!(
                        boot = batch.boot,
                        fault.message,
                        "the ledger misses usage: sent again from its start"
                    );
                    self.host.with_usage(move |log| log.rewind(&batch.boot)).await?;
                    continue;
                }
                answer => answer?,
            };
            self.host.with_usage(move |log| log.acknowledge(&batch.boot, taken.seq)).await?;
            if taken.seq < first {
                return Ok(()); // it takes nothing right now
            }
        }
    }

    /// Renews the certificate, and removes what nobody needs.
    async fn keep_house(&self) {
        loop {
            if join::age(&self.folder).is_some_and(|age| age > RENEW_AFTER)
                && let Err(error) = self.renew().await
            {
                tracing::warn!(error = chain(&error), "the certificate could not be renewed yet");
            }
            let (home, host, here) = (self.host.home.clone(), self.host.clone(), self.here());
            let swept = tokio::task::spawn_blocking(move || {
                found::sweep(&home, &here);
                host.cache.sweep();
            });
            let _ = swept.await;
            sleep(SWEEP_EVERY).await;
        }
    }

    async fn renew(&self) -> Result<()> {
        let control = self.control()?;
        let renewed =
            timeout(ANSWER_TIME_MAX, join::renew(&self.folder, &control, &self.identity)).await;
        let renewed = renewed.map_err(|_| Error::ControlPlane {
            address: self.identity.control_plane.clone(),
            why: "no answer in time".to_owned(),
        })??;
        self.host.ingress.write_identity(&renewed)
    }

    /// The end of every task.
    async fn end(&self) {
        let deadline = Instant::now() + END_TIME_MAX;
        let mut tasks = std::mem::take(&mut *self.tasks());
        tasks.values().for_each(TaskHandle::stop);
        for task in tasks.values_mut() {
            task.ended(deadline).await;
        }
        *self.tasks() = tasks;
        self.measure().await;
        if !matches!(timeout(LAST_WORD_TIME_MAX, self.upload()).await, Ok(Ok(()))) {
            tracing::debug!("usage stays here until the next start");
        }
        // Nobody is behind these names until somebody says so again.
        let nobody =
            Shared { version: 1, node: self.identity.node.clone(), routes: RouteTable::default() };
        if let Err(error) = self.host.ingress.write_shared(&nobody) {
            tracing::debug!(error = chain(&error), "the routes stay");
        }
    }
}

/// Tokens are for minutes, and for nobody else: they are not kept with the set.
fn take_tokens(set: &mut DesiredSet) -> BTreeMap<TaskKey, String> {
    let tokens = set.tasks.iter_mut().filter_map(|task| {
        let token = task.pull_token.take()?;
        Some(((task.tenant.clone(), task.id.clone()), token))
    });
    tokens.collect()
}

fn lock(folder: &NodeFolder) -> Result<Lock> {
    let path = folder.lock();
    let lock = Lock::try_exclusive(&path).map_err(Error::file("lock", &path))?;
    lock.ok_or(Error::AgentRuns(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks;

    /// An agent without a control plane.
    fn agent(home: &Home) -> Agent {
        let folder = NodeFolder::of(home).unwrap();
        let identity = Identity {
            version: 1,
            node: "local".parse().unwrap(),
            control_plane: "127.0.0.1:1".to_owned(),
            registry: Some("127.0.0.1:2".to_owned()),
            certificate_pem: String::new(),
            key_pem: String::new(),
            ca_pem: String::new(),
        };
        identity.write(&folder.identity()).unwrap();
        Agent::open(AgentConfig::new(home.clone())).unwrap()
    }

    fn set(token: Option<&str>) -> DesiredSet {
        serde_json::from_value(serde_json::json!({
            "version": 1, "epoch": 1, "revision": 7, "routes": RouteTable::default(),
            "tasks": [{
                "id": "t", "tenant": "acme", "cluster": "main", "service": null, "definition_id": "cats:1",
                "definition": {
                    "family": "cats", "launch_types": ["node"], "containers": [{"name": "cats", "image": "cats"}]
                },
                "launch_type": "node", "stop": false, "pull_token": token,
            }],
        }))
        .unwrap()
    }

    #[test]
    fn a_new_token_reaches_its_task_and_is_no_news_and_never_on_disk() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().join("home")).unwrap();
        let agent = agent(&home);
        let (tell, mut sets) = watch::channel(None);
        let (mut epoch, key) = (0, ("acme".parse().unwrap(), "t".parse().unwrap()));
        let written = || std::fs::metadata(agent.folder.desired()).unwrap().ino();
        agent.accept(set(Some("first")), &mut epoch, &tell).unwrap();
        assert_eq!(agent.host.token(&key).as_deref(), Some("first"));
        let before = written();
        assert!(sets.has_changed().unwrap());
        sets.mark_unchanged();
        assert_eq!(agent.accept(set(Some("second")), &mut epoch, &tell).unwrap(), Some(7));
        assert_eq!(agent.host.token(&key).as_deref(), Some("second"));
        assert!(!sets.has_changed().unwrap(), "a token alone starts nothing");
        assert_eq!(written(), before, "and is not worth a write");
        let kept = std::fs::read_to_string(agent.folder.desired()).unwrap();
        assert!(!kept.contains("first") && !kept.contains("second"), "{kept}");
        assert_eq!(*tell.borrow().as_ref().unwrap().as_ref(), set(None));
    }

    fn used(runs: u64) -> spec::Usage {
        spec::Usage { runs, ..spec::Usage::default() }
    }

    fn board() -> Arc<super::super::worker::Board> {
        super::super::worker::Board::new(crate::usage_log::Meter {
            tenant: "acme".parse().unwrap(),
            task: "t".parse().unwrap(),
            container: "cats".parse().unwrap(),
            image: spec::Digest::of(b"cats"),
        })
    }

    async fn billed(agent: &Agent) -> u64 {
        let records = agent.host.with_usage(|log| log.records()).await.unwrap();
        records.iter().map(|record| record.usage.runs).sum()
    }

    #[tokio::test]
    async fn a_reading_from_before_a_task_was_forgotten_is_not_billed_again() {
        let folder = tempfile::tempdir().unwrap();
        let agent = agent(&Home::at(folder.path().join("home")).unwrap());
        let board = board();
        let reading = vec![(board.clone(), used(7))];
        agent.host.measure(reading.clone()).await;
        // It was read once more, and written down after its counters had left the log.
        board.forget();
        agent
            .host
            .with_usage({
                let meter = board.meter.clone();
                move |log| {
                    log.forget(&meter);
                    Ok(())
                }
            })
            .await
            .unwrap();
        agent.host.measure(reading).await;
        assert_eq!(billed(&agent).await, 7);
    }

    #[tokio::test]
    async fn every_life_of_a_container_that_counts_from_zero_is_billed() {
        let folder = tempfile::tempdir().unwrap();
        let agent = agent(&Home::at(folder.path().join("home")).unwrap());
        let board = board();
        for runs in [5, 3, 4] {
            board.count_life(used(runs));
            agent.host.measure(vec![(board.clone(), board.read().unwrap())]).await;
        }
        assert_eq!(billed(&agent).await, 12);
        // An agent that adopts it is told what the lives before used.
        let adopted = tests::board();
        adopted.count_from(board.base());
        adopted.count_life(used(1));
        agent.host.measure(vec![(adopted.clone(), adopted.read().unwrap())]).await;
        assert_eq!(billed(&agent).await, 13);
    }

    #[tokio::test]
    async fn a_copy_that_cannot_be_started_here_is_given_up_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let agent = agent(&Home::at(folder.path().join("home")).unwrap());
        // Its image was never resolved: no start gets as far as a process.
        let task = wire::DesiredTask {
            service: Some("cats".parse().unwrap()),
            ..set(None).tasks.remove(0)
        };
        let mut handle = TaskHandle::start(&agent.host, task, FoundTask::new());
        handle.ended(Instant::now() + Duration::from_secs(60)).await;
        let status = handle.status();
        assert_eq!(status.phase, spec::TaskPhase::Stopped);
        assert_eq!(
            status.reason.as_deref(),
            Some(
                "container `cats`: there is no image `cats` here; see what there is: margay images; or: margay pull cats"
            )
        );
        assert_eq!(status.containers[0].restarts, 4, "it was tried five times");
    }

    #[tokio::test]
    async fn a_container_that_has_ended_is_not_run_again_while_its_task_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().join("home")).unwrap();
        let agent = agent(&home);
        let mut task = set(None).tasks.remove(0);
        let mut dogs = task.definition.containers[0].clone();
        dogs.name = "dogs".parse().unwrap();
        task.definition.containers.push(dogs);
        let owned = tasks::create(&home, tasks::folder_tests::record("acme.t.cats", "t")).unwrap();
        let status = tasks::Status {
            phase: tasks::Phase::Exited,
            exit_code: Some(3),
            reason: Some("it was done".to_owned()),
            usage: Some(used(2)),
            ..tasks::Status::starting(tasks::ProcessId::this())
        };
        let cats = found::Found { owned, status: Some(status) };
        let found = FoundTask::from([("cats".parse().unwrap(), cats)]);
        let mut handle = TaskHandle::start(&agent.host, task, found);
        handle.ended(Instant::now() + Duration::from_secs(60)).await;
        let cats = handle.status().containers.remove(0);
        assert_eq!(
            (cats.exit_code, cats.reason.as_deref()),
            (Some(3), Some("it was done")),
            "as it ended then"
        );
        assert_eq!(billed(&agent).await, 2);
    }
}
