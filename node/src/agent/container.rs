use std::sync::Arc;

use engine::{Adopted, Container, Ended, Exit, Listeners, Stdio};
use spec::{
    ContainerDefinition, ContainerHealth, ContainerPhase, Digest, LaunchType, wire::DesiredTask,
};
use tokio::{
    sync::watch,
    time::{Duration, Instant, sleep_until, timeout},
};

use super::{
    adoption::Adoptable,
    cache::Fetch,
    definition::{container, create},
    host::Host,
    ingress_sockets,
    limits::ROUTES_TIME_MAX,
    order::{self, Ends},
    report::{ContainerReport, wait_readable},
};
use crate::{
    arguments::arguments,
    drive::{Begin, Command, Commands, End, Supervisor, drive},
    engines,
    error::{Error, Result, chain},
    health::Monitor,
    images::Ready,
    launch::{self, Launch},
    lifecycle::{Lifecycle, Restart, StartFailed, State},
    local::GRACE,
    ports,
    tasks::{self, Check, Health, HealthStatus, Owned, Phase, ProcessId, Status, now},
};

/// What is prepared is opened within milliseconds; an adopted one is not left unwatched for longer.
const PREPARED_TIME_MAX: Duration = Duration::from_secs(2);

/// One container of a task, from its first start to its last end.
pub(super) struct TaskContainer {
    pub host: Arc<Host>,
    pub task: Arc<DesiredTask>,
    pub definition: ContainerDefinition,
    pub report: Arc<ContainerReport>,
    owned: Option<Owned>,
    status: Status,
    launch: Option<Launch>,
    listeners: Listeners,
}

/// The task's stop, as a source of commands.
struct TaskStop {
    wanted: watch::Receiver<bool>,
    /// How long requests may still be on their way to it.
    pause: Duration,
    /// How long it may take to end.
    grace: Duration,
    at: Option<Instant>,
    told: bool,
}

impl Commands for TaskStop {
    async fn next(&mut self) -> Command {
        // An error means that nothing can ask any more.
        if self.told || self.wanted.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
        sleep_until(*self.at.get_or_insert(Instant::now() + self.pause)).await;
        self.told = true;
        Command::Stop(self.grace.into())
    }
}

impl TaskContainer {
    pub fn new(
        host: Arc<Host>,
        task: Arc<DesiredTask>,
        definition: ContainerDefinition,
        report: Arc<ContainerReport>,
    ) -> Self {
        Self {
            host,
            task,
            definition,
            report,
            owned: None,
            status: Status::starting(ProcessId::this()),
            launch: None,
            listeners: Listeners::default(),
        }
    }

    /// Runs it after the containers that it depends on, and until those that depend on it have
    /// ended. `found` is what an earlier agent has left: that has had its turn.
    pub async fn run_in_turn(
        self,
        stop: watch::Receiver<bool>,
        found: Option<Adoptable>,
        reports: &[Arc<ContainerReport>],
        ends: &Ends,
    ) {
        let (report, host, definition) =
            (self.report.clone(), self.host.clone(), self.definition.clone());
        if found.is_none() {
            let show = |reason| report.set(&host.changed, |status| status.reason = reason);
            let mut stopped = stop.clone();
            let turn = tokio::select! {
                turn = order::wait(&definition, reports, show) => turn,
                _ = stopped.wait_for(|stop| *stop) => Err("its task was stopped".to_owned()),
            };
            if let Err(why) = turn {
                return report.set(&host.changed, |status| {
                    (status.phase, status.reason) = (ContainerPhase::Exited, Some(why));
                });
            }
        }
        let (own, own_stop) = watch::channel(false);
        let running = self.run(own_stop, found);
        tokio::pin!(running);
        tokio::select! {
            () = &mut running => return,
            () = ends.stop_of(&definition.name, stop) => drop(own.send_replace(true)),
        }
        running.await;
    }

    /// Runs it until it is not wanted any more, or has ended for good. `found` is what an earlier
    /// agent has left.
    async fn run(mut self, stop: watch::Receiver<bool>, found: Option<Adoptable>) {
        let begin = match found {
            Some(found) => match self.adopt(found).await {
                Some(begin) => begin,
                None => return,
            },
            None => Begin::Fresh,
        };
        let restart = self.restart();
        let idle_after =
            (self.task.launch_type == LaunchType::Pool).then_some(self.host.pool.idle_after);
        let lifecycle = Lifecycle::new(restart, idle_after, self.status.restarts);
        let pause = match self.task.service {
            Some(_) => ROUTES_TIME_MAX,
            None => Duration::ZERO,
        };
        let grace = self
            .definition
            .stop_timeout_seconds
            .map_or(GRACE, |seconds| Duration::from_secs(seconds.into()));
        let mut stop = TaskStop { wanted: stop, pause, grace, at: None, told: false };
        drive(&mut self, &mut stop, lifecycle, begin).await;
    }

    /// Takes over what an earlier agent has left. `None` when that had ended for good.
    async fn adopt(&mut self, Adoptable { owned, status }: Adoptable) -> Option<Begin> {
        let folder = owned.folder().clone();
        let (kind, grants) = (owned.record().kind, owned.record().grants.clone());
        self.owned = Some(owned);
        if let Some(status) = status {
            self.status = Status { supervisor: Some(ProcessId::this()), ..status };
        }
        let (phase, restarts) = (self.status.phase, self.status.restarts);
        self.report.set(&self.host.changed, |status| status.restarts = restarts);
        if phase == Phase::Exited {
            let code = self.status.exit_code.and_then(|code| u8::try_from(code).ok());
            let again = match self.restart() {
                Restart::Always => true,
                Restart::Declared(declared) => declared.restarts(code.unwrap_or(1)),
                Restart::Never | Restart::Policy(_) | Restart::UntilFetched => false,
            };
            if again {
                return Some(Begin::Fresh);
            }
            // Only the rest of its task was still running. It ends once.
            self.ended_before().await;
            return None;
        }
        self.report.count_from(self.status.usage.unwrap_or_default());
        let broker = self.host.broker_of(&self.task, &self.definition);
        let owner = self.task.tenant.as_str();
        let adopted = engines::adopt(kind, folder.path(), owner, grants, broker).await;
        if !matches!(adopted, Adopted::Running(..))
            && let Some(counters) = engines::kept_counters(&folder)
        {
            self.report.count(counters);
        }
        // Where it was between two starts already, its end is known.
        let was_up = matches!(phase, Phase::Starting | Phase::Running);
        let adopted = match adopted {
            Adopted::Running(_, ref listeners)
                if !ports::are_known(listeners, self.status.sockets.as_deref()) =>
            {
                Adopted::Gone("it hands back other listeners than it was given".to_owned())
            }
            other => other,
        };
        Some(match adopted {
            Adopted::Running(container, listeners) => {
                self.listeners = listeners;
                self.take_over(&*container).await;
                Begin::Running(container)
            }
            Adopted::Ended(ended) if was_up => Begin::Ended(ended),
            Adopted::Ended(ended) => {
                self.ended(&ended).await;
                Begin::Fresh
            }
            Adopted::Gone(why) => {
                if let Some(process) = self.status.process.filter(|process| process.is_alive()) {
                    tracing::warn!(
                        task = %self.task.id,
                        why, "a container cannot be adopted, and is ended"
                    );
                    let _ = tasks::kill(process);
                }
                let lost = "E_WORKER_LOST: its worker ended while the agent was away";
                match phase {
                    Phase::Running => Begin::Ended(Ended::of(Exit::Lost(lost.to_owned()))),
                    _ => Begin::Fresh,
                }
            }
        })
    }

    /// What its definition says, or what is usual for its kind of task.
    fn restart(&self) -> Restart {
        let runs_once = || order::runs_once(&self.task.definition, &self.definition.name);
        match (self.definition.restart, &self.task.service) {
            (Some(declared), _) => Restart::Declared(declared),
            (None, Some(_)) if !runs_once() => Restart::Always,
            (None, _) => Restart::UntilFetched,
        }
    }

    async fn take_over(&mut self, container: &dyn Container) {
        // It runs already, and can be found by its socket.
        warn_if_failed(self.spawned(container));
        self.show_health();
        self.show_running();
        tracing::info!(task = %self.task.id, container = %self.definition.name, "adopted");
        // What is needed to start it again is fetched while it runs; a failure shows when it is
        // really needed.
        self.launch = timeout(PREPARED_TIME_MAX, self.decide()).await.ok().and_then(Result::ok);
        self.show_running();
    }

    /// The end that an earlier agent has written down.
    async fn ended_before(&mut self) {
        let Status { exit_code, reason, usage, .. } = &self.status;
        let end = End { exit_code: *exit_code, reason: reason.clone(), ..End::default() };
        let ended = Ended { exit: Exit::Lost(String::new()), usage: *usage };
        self.ended(&ended).await;
        self.finish(&end);
    }

    /// Fetches the image and the secrets, makes the image ready, and lets wants and grants meet.
    async fn decide(&self) -> Result<Launch> {
        let definition = &self.definition;
        let digest =
            definition.digest.ok_or_else(|| Error::NoSuchImage(definition.image.clone()))?;
        self.report.set(&self.host.changed, |status| status.phase = ContainerPhase::Pulling);
        let cache = self.host.cache.of(&self.task.tenant);
        // The newest one: a pull that takes longer than a token is good for goes on with the next.
        let token = || self.host.token(&(self.task.tenant.clone(), self.task.id.clone()));
        cache.fetch(&definition.image, &digest, token().as_deref(), Fetch::IfNotPrepared).await?;
        let (args, ready) = match self.make_ready(&digest).await {
            // What was made of the image is not all there any more, and its layers were not kept.
            Err(Error::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                cache
                    .fetch(&definition.image, &digest, token().as_deref(), Fetch::Everything)
                    .await?;
                self.make_ready(&digest).await?
            }
            other => other?,
        };
        let is_native = matches!(ready, Ready::Native(_));
        if is_native && self.task.launch_type == LaunchType::Pool && !self.host.pool.runs_native {
            return Err(Error::PoolNative(definition.image.clone()));
        }
        let secrets = self.host.secrets_of(&self.task, &self.report).await?;
        Launch::decide(
            launch::Container { secrets, ..container(&self.host.node, &self.task, definition)? },
            ready,
            args,
        )
    }

    async fn make_ready(&self, digest: &Digest) -> Result<(Vec<String>, Ready)> {
        let definition = &self.definition;
        let blobs = self.host.cache.of(&self.task.tenant).blobs();
        let plan = crate::images::plan(&blobs, &definition.image, digest)?;
        let args = arguments(
            &plan,
            definition.name.as_str(),
            definition.entrypoint.as_deref(),
            definition.command.as_deref(),
        );
        let (home, name, arguments) =
            (self.host.home.clone(), definition.image.clone(), args.clone());
        let owner = self.task.tenant.clone();
        let _permit = self.host.preparing.acquire(&owner).await;
        let ready = tokio::task::spawn_blocking(move || {
            crate::images::make_ready(
                &home,
                owner.as_str(),
                &blobs,
                &name,
                plan,
                &arguments,
                &mut || {},
            )
        });
        let ready = ready.await.map_err(|error| Error::System {
            verb: "prepare an image",
            source: std::io::Error::other(error),
        })??;
        if let Some(warning) = ready.warning() {
            tracing::warn!("the OCI runtime of this node: {warning}");
        }
        Ok((args, ready))
    }

    /// Listens on what is not open yet: its listeners stay open from one start to the next.
    fn listen(&mut self, launch: &Launch) -> Result<()> {
        if self.listeners.published.is_empty() && self.listeners.datagrams.is_empty() {
            let opened = ports::open(&launch.published_ports())
                .map_err(|error| ports::name_owner(&self.host.home, error))?;
            self.listeners.published = opened.published;
            self.listeners.datagrams = opened.datagrams;
        }
        ingress_sockets::listen(&self.host.ingress, &self.task, launch, &mut self.listeners)
    }

    fn write_status(&self) {
        warn_if_failed(
            self.owned.as_ref().map_or(Ok(()), |owned| owned.write_status(&self.status)),
        );
    }

    fn show_running(&self) {
        let ports = ports::published(&self.listeners);
        self.report.set(&self.host.changed, |status| {
            status.phase = ContainerPhase::Running;
            status.reason = None;
            status.exit_code = None;
            status.ports = ports;
        });
    }

    /// How it is asked whether it is well.
    fn check(&self) -> Option<&Check> {
        self.owned.as_ref()?.record().health_check.as_ref()
    }

    /// Its health, with the reason at each change. One that was started again at once is taken for
    /// as well as before, until a probe says otherwise.
    fn show_health(&self) {
        let Some(health) = &self.status.health else { return };
        let last = health.log.last().filter(|probe| Some(probe.end) >= self.status.started);
        let seen = last.map(|probe| match probe.output.lines().next() {
            Some(line) if !line.is_empty() => line.to_owned(),
            _ => format!("the check exited with {}", probe.exit_code),
        });
        self.report.set(&self.host.changed, |status| {
            let shown = match (status.health, health.status) {
                (Some(ContainerHealth::Healthy), HealthStatus::Starting)
                | (_, HealthStatus::Healthy) => ContainerHealth::Healthy,
                (_, HealthStatus::Starting) => ContainerHealth::Starting,
                (_, HealthStatus::Unhealthy) => ContainerHealth::Unhealthy,
            };
            let is_news = status.health != Some(shown);
            status.health = Some(shown);
            match (shown, seen) {
                (ContainerHealth::Healthy, _) if is_news => status.reason = None,
                (ContainerHealth::Starting, Some(seen)) if status.reason.is_none() => {
                    status.reason = Some(format!("it is not ready yet: {seen}"));
                }
                (ContainerHealth::Unhealthy, seen) if is_news => {
                    let seen = seen.unwrap_or_else(|| "no probe was answered".to_owned());
                    status.reason = Some(format!("it is unhealthy: {seen}"));
                }
                _ => {}
            }
        });
    }

    /// It starts again later. As far as clients can tell, a `quick` one is not away.
    fn back_off(&mut self, restarts: u32, quick: bool, end: &End) {
        self.status.phase = Phase::BackOff;
        self.status.process = None;
        self.status.restarts = restarts;
        self.status.exit_code = end.exit_code;
        self.status.reason.clone_from(&end.reason);
        self.write_status();
        self.report.set(&self.host.changed, |status| {
            status.phase = match quick {
                true => ContainerPhase::Running,
                false => ContainerPhase::BackOff,
            };
            if !quick && status.health.is_some() {
                status.health = Some(ContainerHealth::Starting);
            }
            status.exit_code = end.exit_code;
            status.reason.clone_from(&end.reason);
            status.restarts = restarts;
        });
    }

    /// The end: everything that was held for it goes.
    fn finish(&mut self, end: &End) {
        let listeners = std::mem::take(&mut self.listeners);
        ingress_sockets::unlink(&self.host.ingress, &self.task, listeners);
        self.status.phase = Phase::Exited;
        self.status.process = None;
        self.status.ended = Some(now());
        self.status.exit_code = end.exit_code;
        self.status.reason.clone_from(&end.reason);
        self.status.usage = self.report.read();
        self.status.ports = Vec::new();
        self.status.sockets = None;
        self.write_status();
        if let Some(owned) = self.owned.take() {
            let _ = std::fs::remove_file(owned.folder().worker_socket());
        }
        self.report.set(&self.host.changed, |status| {
            status.phase = ContainerPhase::Exited;
            status.exit_code = end.exit_code;
            status.reason.clone_from(&end.reason);
            status.ports = Vec::new();
        });
    }
}

impl Supervisor for TaskContainer {
    async fn prepare(&mut self) -> Result<()> {
        if self.launch.is_none() {
            self.launch = Some(self.decide().await?);
        }
        Ok(())
    }

    async fn spawn(&mut self) -> Result<Box<dyn Container>> {
        let launch = self.launch.take().expect("a container is prepared before it is spawned");
        let spawned = self.spawn_for(&launch).await;
        self.launch = Some(launch);
        spawned
    }

    fn spawned(&mut self, container: &dyn Container) -> Result<()> {
        self.report.count(container.usage());
        // For an agent that adopts it, where its counters begin at each start.
        self.status.usage = Some(self.report.base());
        self.report.set(&self.host.changed, |status| status.idle = false);
        self.status.phase = Phase::Running;
        self.status.process = ProcessId::of(i32::try_from(container.pid()).unwrap_or(0));
        self.status.ports = ports::published(&self.listeners);
        self.status.sockets = ports::sockets(&self.listeners).ok();
        self.owned.as_ref().map_or(Ok(()), |owned| owned.write_status(&self.status))
    }

    fn started(&mut self) {
        self.host.causes.forget();
        self.status.started = Some(now());
        let before = self.status.health.take();
        let was_ready = self.report.status().health == Some(ContainerHealth::Healthy);
        self.status.health = self.check().map(|check| match check.until_healthy && was_ready {
            true => Health { status: HealthStatus::Healthy, ..Health::at_start(before) },
            false => Health::at_start(before),
        });
        self.write_status();
        self.show_health();
        self.show_running();
    }

    fn monitor(&self) -> Option<Monitor> {
        let owned = self.owned.as_ref()?;
        Monitor::of(&self.host.home, owned.folder(), &self.status)
    }

    fn probed(&mut self, health: Health) {
        let is_news =
            self.status.health.as_ref().is_none_or(|before| before.status != health.status);
        // What the network answered the same again is not worth a write to disk.
        let is_kept = is_news || self.check().is_some_and(|check| check.reach.is_none());
        match &self.owned {
            Some(owned) if is_kept => {
                warn_if_failed(owned.write_health(&mut self.status, health));
            }
            Some(_) | None => self.status.health = Some(health),
        }
        self.show_health();
    }

    fn denied(&mut self, line: String, count: u64) {
        let (task, container) = (&self.task.id, &self.definition.name);
        tracing::warn!(target: "audit", %task, %container, line, count, "denied");
    }

    fn start_failed(&mut self, error: Error) -> (StartFailed, End) {
        let (task, container) = (&self.task.id, &self.definition.name);
        match self.host.causes.is_new(&chain(&error)) {
            true => tracing::warn!(%task, %container, error = chain(&error), "cannot start"),
            false => tracing::debug!(%task, %container, error = chain(&error), "cannot start"),
        }
        let reason = match error.hint() {
            Some(hint) => format!("{}; {hint}", chain(&error)),
            None => chain(&error),
        };
        let failed = match error {
            Error::Fetch { .. } | Error::Refused(_) => StartFailed::NotFetched,
            _ => StartFailed::Here,
        };
        let exit_code = Some(error.exit_code().into());
        (failed, End { exit_code, reason: Some(reason), ..End::default() })
    }

    /// Writes down what has been counted so far, before the counters could go.
    async fn ended(&mut self, ended: &Ended) {
        self.status.health = self.status.health.take().map(Health::at_end);
        if let Some(usage) = ended.usage {
            self.report.count_start(usage);
        }
        if let Some(usage) = self.report.read() {
            self.host.measure(vec![(self.report.clone(), usage)]).await;
        }
    }

    fn entered(&mut self, lifecycle: &Lifecycle, end: &End) {
        match lifecycle.state {
            State::BackOff { quick, .. } => self.back_off(lifecycle.restarts, quick, end),
            State::Idle => {
                self.status.phase = Phase::Idle;
                self.status.process = None;
                self.write_status();
                self.report.set(&self.host.changed, |status| status.idle = true);
            }
            State::Exited => self.finish(end),
            State::Starting
            | State::Running { .. }
            | State::Stopping { .. }
            | State::Killed { .. } => {}
        }
    }

    fn grace(&self, grace: Duration) -> Duration {
        self.launch.as_ref().map_or(grace, |launch| launch.grace(grace))
    }

    fn requests(&mut self) -> Option<u64> {
        let serves = self.launch.as_ref().is_some_and(Launch::serves_requests);
        (serves && !self.listeners.is_empty())
            .then(|| self.report.read().map_or(0, |usage| usage.runs))
    }

    /// Scaled to zero: its listeners stay open, and the first client starts a worker.
    async fn request_waiting(&mut self) {
        if let Err(error) = wait_readable(&self.listeners).await {
            tracing::warn!(
                error = chain(&error),
                "cannot wait for requests: starting a worker right away"
            );
        }
    }
}

impl TaskContainer {
    async fn spawn_for(&mut self, launch: &Launch) -> Result<Box<dyn Container>> {
        if self.owned.is_none() {
            self.owned = Some(create(&self.host, &self.task, &self.definition, launch)?);
        }
        let owned = self.owned.as_ref().expect("it was just made");
        let folder = owned.folder().clone();
        self.listen(launch)?;
        let spare = launch.takes_spare_worker().then(|| self.host.spare_workers.take()).flatten();
        launch
            .start(
                &self.host.home,
                &folder,
                &self.listeners,
                Stdio::default(),
                &self.host.broker_of(&self.task, &self.definition),
                spare,
            )
            .await
    }
}

fn warn_if_failed(written: Result<()>) {
    if let Err(error) = written {
        tracing::warn!(error = chain(&error), "a status could not be written");
    }
}
