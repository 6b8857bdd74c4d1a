use std::{
    collections::BTreeMap,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use spec::{ContainerDefinition, ContainerPhase, Digest, LaunchType, Protocol, wire::DesiredTask};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    backoff::{STEADY_AFTER, pause},
    cache::Fetch,
    found::Found,
    host::Host,
    worker::{Board, knock},
};
use crate::{
    error::{Error, Result, chain},
    images::Ready,
    ingress::socket_name,
    launch::{Container, Doors, Launch, Streams, arguments},
    local::{GRACE, name_owner, now},
    request::{MountSource, Mounted, Publish},
    running::{Ended, Happening, Running},
    tasks::{self, ClusterOrigin, Kind, Origin, Owned, Phase, ProcessId, Status, TaskRecord},
};

/// A worker that is asked to end because nobody needs it gets this long for what it is in the
/// middle of.
const IDLE_GRACE: Duration = Duration::from_secs(5);
/// How often a worker is looked at for idleness.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Beyond its grace, before it is killed.
const LINGER_TIME_MAX: Duration = Duration::from_secs(2);
/// What is prepared already is opened within milliseconds; an adopted container is not left
/// unwatched for longer.
const PREPARED_TIME_MAX: Duration = Duration::from_secs(2);
/// A task that nobody asked to repeat is given up when its image or a secret cannot be had after so
/// many tries.
const FETCHES_MAX: u32 = 5;
/// A copy that could not be started so often in a row is given up: its port is taken here, the disk
/// is full, and on another node it may well run. About seven seconds.
const STARTS_MAX: u32 = 5;

/// One container of a task, from its first start to its last end.
pub(super) struct Life {
    pub host: Arc<Host>,
    pub task: Arc<DesiredTask>,
    pub definition: ContainerDefinition,
    pub board: Arc<Board>,
    pub stop: watch::Receiver<bool>,
    owned: Option<Owned>,
    status: Status,
    launch: Option<Launch>,
    doors: Doors,
    /// Ends in a row without a steady run between them.
    ends: u32,
    /// Starts in a row that came to nothing although the image was there.
    starts_failed: u32,
}

/// What a container's process came to.
enum After {
    Ended(Ended),
    Stopped(Ended),
    /// It was asked to end because nobody needed it.
    Idle,
}

/// Where a life begins.
enum Start {
    Fresh,
    Running(Running),
    Ended(Ended),
}

impl Life {
    pub fn new(
        host: Arc<Host>,
        task: Arc<DesiredTask>,
        definition: ContainerDefinition,
        board: Arc<Board>,
        stop: watch::Receiver<bool>,
    ) -> Self {
        Self {
            host,
            task,
            definition,
            board,
            stop,
            owned: None,
            status: Status::starting(ProcessId::this()),
            launch: None,
            doors: Doors::default(),
            ends: 0,
            starts_failed: 0,
        }
    }

    /// Lives it. `found` is what an earlier agent has left.
    pub async fn live(mut self, found: Option<Found>) {
        let mut next = match found {
            Some(found) => self.take_over(found).await,
            None => Start::Fresh,
        };
        loop {
            let after = match next {
                Start::Ended(ended) => After::Ended(ended),
                Start::Running(running) => self.watch(running).await,
                Start::Fresh => match self.start().await {
                    Ok(Some(running)) => self.watch(running).await,
                    Ok(None) => After::Stopped(Ended {
                        exit_code: 143,
                        reason: None,
                        never_started: true,
                        usage: None,
                    }),
                    Err(error) => After::Ended(self.failed(&error)),
                },
            };
            next = match after {
                After::Stopped(ended) => return self.finish(ended).await,
                After::Ended(ended) if !self.begins_again(&ended) => {
                    return self.finish(ended).await;
                }
                After::Ended(ended) => {
                    self.back_off(ended).await;
                    Start::Fresh
                }
                After::Idle => {
                    self.wait_for_request().await;
                    Start::Fresh
                }
            };
        }
    }

    fn stopping(&self) -> bool {
        *self.stop.borrow()
    }

    async fn stopped(&self) {
        let mut stop = self.stop.clone();
        // An error means that nobody can ask any more.
        if stop.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// A service's container is started again whatever it ended with, unless it cannot be started
    /// here; another one when its image was not to be had.
    fn begins_again(&mut self, ended: &Ended) -> bool {
        if self.stopping() {
            return false;
        }
        let not_fetched = ended.never_started && ended.exit_code == RETRY_CODE;
        if ended.never_started && !not_fetched {
            self.starts_failed += 1;
        }
        match self.task.service {
            Some(_) => self.starts_failed < STARTS_MAX,
            None => not_fetched && self.ends < FETCHES_MAX,
        }
    }

    fn failed(&self, error: &Error) -> Ended {
        tracing::warn!(task = %self.task.id, container = %self.definition.name, error = chain(error), "cannot start");
        let reason = match error.hint() {
            Some(hint) => format!("{}; {hint}", chain(error)),
            None => chain(error),
        };
        let exit_code = match error {
            Error::Fetch { .. } | Error::Refused(_) => RETRY_CODE,
            other => other.exit_code().into(),
        };
        Ended { exit_code, reason: Some(reason), never_started: true, usage: None }
    }

    /// Everything up to a process. `None` when it was asked to stop meanwhile.
    async fn start(&mut self) -> Result<Option<Running>> {
        let stop = self.stop.clone();
        let mut stop = pin!(async move {
            let mut stop = stop;
            let _ = stop.wait_for(|stop| *stop).await;
        });
        if self.launch.is_none() {
            let launch = tokio::select! {
                launch = self.prepare() => launch?,
                () = &mut stop => return Ok(None),
            };
            self.launch = Some(launch);
        }
        if self.stopping() {
            return Ok(None);
        }
        let Some(launch) = &self.launch else { return Ok(None) };
        if self.owned.is_none() {
            self.owned = Some(create(&self.host, &self.task, &self.definition, launch)?);
        }
        let Some(owned) = &self.owned else { return Ok(None) };
        if self.doors.published.is_empty() {
            self.doors.published =
                launch.open_ports().map_err(|error| name_owner(&self.host.home, error))?;
        }
        for port in launch.ingress_ports() {
            if !self.doors.ingress.iter().any(|(open, _)| *open == port) {
                let name = socket_name(&self.task.tenant, &self.task.id, port);
                self.doors.ingress.push((port, self.host.ingress.listen(&name)?));
            }
        }
        let folder = owned.folder().clone();
        let running = self.spawn(launch, &folder).await?;
        if launch.kind == Kind::Wasm {
            self.board.count_in_page(folder.usage_page());
        }
        if let Err(error) = self.take(&running) {
            // A process that no later agent would know of must not be.
            wind_down(running, Duration::ZERO).await;
            return Err(error);
        }
        Ok(Some(running))
    }

    async fn spawn(&self, launch: &Launch, folder: &tasks::TaskFolder) -> Result<Running> {
        let (home, broker) = (&self.host.home, &self.host.broker);
        if launch.kind == Kind::Wasm
            && let Some(blank) = self.host.blanks.take()
        {
            match launch
                .start(home, folder, &self.doors, Streams::default(), broker, Some(blank))
                .await
            {
                Ok(running) => return Ok(running),
                // A blank that somebody killed while it waited.
                Err(error) => {
                    tracing::debug!(error = chain(&error), "a waiting worker was of no use")
                }
            }
        }
        launch.start(home, folder, &self.doors, Streams::default(), broker, None).await
    }

    /// Writes down which process runs it, before anything else can happen to it.
    fn take(&mut self, running: &Running) -> Result<()> {
        if let Some(native) = running.as_native() {
            self.board.count_native(native.clone());
            // For an agent that adopts it: its shim counts this life only.
            self.status.usage = Some(self.board.base());
        }
        self.status.phase = Phase::Running;
        self.status.process = running.process();
        self.status.ports = self.doors.ports();
        self.owned.as_ref().map_or(Ok(()), |owned| owned.write_status(&self.status))
    }

    fn write_status(&self) {
        say_if_failed(self.owned.as_ref().map_or(Ok(()), |owned| owned.write_status(&self.status)));
    }

    /// Fetches the image and the secrets, makes the image ready, and lets wants and grants meet.
    async fn prepare(&self) -> Result<Launch> {
        let definition = &self.definition;
        let digest =
            definition.digest.ok_or_else(|| Error::NoSuchImage(definition.image.clone()))?;
        self.board.set(&self.host, |status| status.phase = ContainerPhase::Pulling);
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
        let secrets = self.host.secrets_of(&self.task, &self.board).await?;
        Launch::decide(
            Container { secrets, ..container(&self.host.node, &self.task, definition)? },
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
        let _turn = self.host.preparing.acquire().await;
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
        Ok((args, ready))
    }

    /// Watches a process until it ends, is to end, or is not needed.
    async fn watch(&mut self, mut running: Running) -> After {
        let began = Instant::now();
        let may_idle = self.task.launch_type == LaunchType::Pool
            && self.launch.as_ref().is_some_and(Launch::serves_requests)
            && !(self.doors.published.is_empty() && self.doors.ingress.is_empty());
        let mut idle = Idle::since(began);
        loop {
            let happening = tokio::select! {
                happening = running.next() => happening,
                () = self.stopped() => {
                    let grace = self.launch.as_ref().map_or(GRACE, |launch| launch.grace(GRACE));
                    return After::Stopped(wind_down(running, grace).await);
                }
                () = sleep(LOOK_EVERY), if may_idle => {
                    let runs = self.board.read().map_or(0, |usage| usage.runs);
                    if idle.is_over(runs, self.host.idle_after) {
                        let ended = wind_down(running, IDLE_GRACE).await;
                        self.keep_usage(&ended).await;
                        return After::Idle;
                    }
                    continue;
                }
            };
            match happening {
                Happening::Started => self.started(),
                Happening::Denied { line, count } => {
                    let (task, container) = (&self.task.id, &self.definition.name);
                    tracing::warn!(target: "audit", %task, %container, line, count, "denied");
                }
                Happening::Ended(ended) => {
                    if began.elapsed() >= STEADY_AFTER {
                        self.ends = 0;
                    }
                    return After::Ended(ended);
                }
            }
        }
    }

    fn started(&mut self) {
        self.starts_failed = 0;
        self.status.started = Some(now());
        self.write_status();
        self.show_running();
    }

    fn show_running(&self) {
        let ports = self.doors.ports();
        self.board.set(&self.host, |status| {
            status.phase = ContainerPhase::Running;
            status.reason = None;
            status.exit_code = None;
            status.ports = ports;
        });
    }

    /// What has been counted so far, written down before the counters could go.
    async fn keep_usage(&self, ended: &Ended) {
        if let Some(usage) = ended.usage {
            self.board.count_life(usage);
        }
        if let Some(usage) = self.board.read() {
            self.host.measure(vec![(self.board.clone(), usage)]).await;
        }
    }

    async fn back_off(&mut self, ended: Ended) {
        self.keep_usage(&ended).await;
        self.ends += 1;
        let wait = pause(self.ends);
        self.status.phase = Phase::BackOff;
        self.status.process = None;
        self.status.restarts += 1;
        self.status.exit_code = Some(ended.exit_code);
        self.status.reason = ended.reason.clone();
        self.write_status();
        let restarts = self.status.restarts;
        // A copy that is back within a tenth of a second was never away, as far as anybody outside
        // can tell: its ports stay open, and requests wait in them.
        let phase = if self.ends <= 1 && !ended.never_started {
            ContainerPhase::Running
        } else {
            ContainerPhase::BackOff
        };
        self.board.set(&self.host, |status| {
            status.phase = phase;
            status.exit_code = Some(ended.exit_code);
            status.reason = ended.reason;
            status.restarts = restarts;
        });
        tokio::select! {
            () = sleep(wait) => {}
            () = self.stopped() => {}
        }
    }

    /// Scaled to zero: the doors stay open, and whoever knocks starts a worker.
    async fn wait_for_request(&mut self) {
        self.status.phase = Phase::Idle;
        self.status.process = None;
        self.write_status();
        tokio::select! {
            knocked = knock(&self.doors) => {
                if let Err(error) = knocked {
                    tracing::warn!(error = chain(&error), "cannot wait for requests: starting a worker right away");
                }
            }
            () = self.stopped() => {}
        }
    }

    async fn take_over(&mut self, found: Found) -> Start {
        let Found { owned, status } = found;
        let folder = owned.folder().clone();
        let (kind, grants) = (owned.record().kind, owned.record().grants.clone());
        self.owned = Some(owned);
        if let Some(status) = status {
            self.status = Status { supervisor: Some(ProcessId::this()), ..status };
        }
        let restarts = self.status.restarts;
        self.board.set(&self.host, |status| status.restarts = restarts);
        if self.status.phase == Phase::Exited && self.task.service.is_none() {
            // Only the rest of its task was still running. It ends once.
            return Start::Ended(self.ended_before());
        }
        if kind == Kind::Native && self.status.phase != Phase::Exited {
            self.board.count_from(self.status.usage.unwrap_or_default());
        }
        let start = match kind {
            Kind::Wasm => self.adopt_worker(&folder, grants).await,
            Kind::Native => self.adopt_native(&folder).await,
        };
        if let Start::Running(running) = &start {
            if let Kind::Wasm = kind {
                self.board.count_in_page(folder.usage_page());
            }
            say_if_failed(self.take(running)); // it runs already, and can be found by its socket
            self.show_running();
            tracing::info!(task = %self.task.id, container = %self.definition.name, "adopted");
            // What is needed to start it again is got while it runs; a failure shows when it is
            // really needed.
            self.launch =
                timeout(PREPARED_TIME_MAX, self.prepare()).await.ok().and_then(Result::ok);
            self.show_running();
        }
        start
    }

    async fn adopt_worker(
        &mut self,
        folder: &tasks::TaskFolder,
        grants: spec::Capabilities,
    ) -> Start {
        // Whoever listens there is its worker, whatever is written down: the disk may have been
        // full.
        match runtime::adopt(
            folder.path(),
            "worker.sock",
            grants,
            self.host.broker.of(self.task.tenant.as_str()),
        )
        .await
        {
            Ok(adopted) => {
                self.doors.published =
                    adopted.listeners.into_iter().map(|l| (l.container_port, l.socket)).collect();
                self.doors.ingress =
                    adopted.ingress.into_iter().map(|i| (i.container_port, i.socket)).collect();
                Start::Running(Running::wasm(adopted.worker))
            }
            Err(error) => {
                if let Some(process) = self.status.process.filter(|process| process.is_alive()) {
                    tracing::warn!(task = %self.task.id, error = chain(&error), "a worker cannot be adopted, and is ended");
                    let _ = tasks::kill(process);
                }
                self.nobody_there()
            }
        }
    }

    async fn adopt_native(&mut self, folder: &tasks::TaskFolder) -> Start {
        let path = folder.path().to_owned();
        let adopted = tokio::task::spawn_blocking(move || {
            let adopted = shim::Task::adopt(&path)?;
            let doors = match &adopted {
                shim::Adopted::Running(task) => task.doors()?,
                shim::Adopted::Ended(..) => shim::Doors::default(),
            };
            Ok::<_, shim::Error>((adopted, doors))
        });
        match adopted.await {
            Ok(Ok((shim::Adopted::Running(task), doors))) => {
                self.doors.published =
                    doors.listeners.into_iter().map(|l| (l.container_port, l.socket)).collect();
                self.doors.ingress =
                    doors.ingress.into_iter().map(|i| (i.container_port, i.socket)).collect();
                Start::Running(Running::adopted_native(task))
            }
            Ok(Ok((shim::Adopted::Ended(exit, usage), _))) => {
                Start::Ended(Ended::of_native((exit, usage)))
            }
            Ok(Err(error)) => Start::Ended(Ended::lost(chain(&error))),
            Err(error) => Start::Ended(Ended::lost(error.to_string())),
        }
    }

    /// The end that an earlier agent has written down.
    fn ended_before(&self) -> Ended {
        let Status { exit_code, reason, usage, .. } = &self.status;
        Ended {
            exit_code: exit_code.unwrap_or(125),
            reason: reason.clone(),
            never_started: false,
            usage: *usage,
        }
    }

    /// No process is left. A worker that could still do so has written down how it ended.
    fn nobody_there(&self) -> Start {
        let Some(page) = self.owned.as_ref().map(|owned| owned.folder().usage_page()) else {
            return Start::Fresh;
        };
        self.board.count_in_page(page.clone());
        match (self.status.phase, self.task.service.is_some()) {
            (Phase::Running, false) => Start::Ended(match crate::meter::read_exit(&page) {
                Some(exit) => Ended::of_worker(exit),
                None => Ended::lost("E_WORKER_LOST: its worker ended while the agent was away"),
            }),
            _ => Start::Fresh,
        }
    }

    /// The end: everything that was held for it goes.
    async fn finish(mut self, ended: Ended) {
        self.keep_usage(&ended).await;
        for (port, _) in std::mem::take(&mut self.doors).ingress {
            self.host.ingress.unlink(&socket_name(&self.task.tenant, &self.task.id, port));
        }
        let exit_code = if ended.exit_code == RETRY_CODE { 125 } else { ended.exit_code };
        self.status.phase = Phase::Exited;
        self.status.process = None;
        self.status.ended = Some(now());
        self.status.exit_code = Some(exit_code);
        self.status.reason = ended.reason.clone();
        self.status.usage = self.board.read();
        self.status.ports = Vec::new();
        self.write_status();
        if let Some(owned) = self.owned.take() {
            let _ = std::fs::remove_file(owned.folder().worker_socket());
        }
        self.board.set(&self.host, |status| {
            status.phase = ContainerPhase::Exited;
            status.exit_code = Some(exit_code);
            status.reason = ended.reason;
            status.ports = Vec::new();
        });
    }
}

fn say_if_failed(written: Result<()>) {
    if let Err(error) = written {
        tracing::warn!(error = chain(&error), "a status could not be written");
    }
}

/// Stands for an end that may well go better next time: the image was not to be had, or a secret.
const RETRY_CODE: i32 = -1;

/// Asks a process to end, and sees to it.
async fn wind_down(mut running: Running, grace: Duration) -> Ended {
    running.stop(grace).await;
    let mut killed = false;
    loop {
        match timeout(grace + LINGER_TIME_MAX, running.next()).await {
            Ok(Happening::Ended(ended)) => return ended,
            Ok(Happening::Started | Happening::Denied { .. }) => {}
            Err(_) if killed => return Ended::lost("it did not end when it was killed"),
            Err(_) => {
                running.kill();
                killed = true;
            }
        }
    }
}

/// How long nothing has been asked.
struct Idle {
    runs: u64,
    since: Instant,
}

impl Idle {
    fn since(since: Instant) -> Self {
        Self { runs: u64::MAX, since }
    }

    fn is_over(&mut self, runs: u64, idle_after: Duration) -> bool {
        if self.runs != runs {
            *self = Self { runs, since: Instant::now() };
        }
        self.since.elapsed() >= idle_after
    }
}

/// A definition's container in the words of a launch.
fn container(
    node: &spec::NodeId,
    task: &DesiredTask,
    definition: &ContainerDefinition,
) -> Result<Container> {
    let publish = |port: &spec::PortMapping| {
        Some(Publish {
            address: None,
            host_port: port.host_port?,
            container_port: port.container_port,
        })
    };
    let http = definition.ports.iter().filter(|port| port.protocol == Protocol::Http);
    let claim =
        |name: &spec::VolumeName| task.definition.volumes.iter().find(|claim| claim.name == *name);
    Ok(Container {
        task: task.id.clone(),
        name: definition.name.clone(),
        node: Some(node.clone()),
        owner: task.tenant.to_string(),
        image: definition.digest.ok_or_else(|| Error::NoSuchImage(definition.image.clone()))?,
        env: definition.env.clone(),
        secrets: BTreeMap::new(),
        ports: definition.ports.iter().filter_map(publish).collect(),
        ingress_ports: http.map(|port| port.container_port).collect(),
        mounts: definition
            .mounts
            .iter()
            .map(|mount| Mounted {
                source: MountSource::Volume(mount.volume.clone()),
                path: mount.path.clone(),
                read_only: mount.read_only,
                bytes_max: claim(&mount.volume).and_then(|claim| claim.bytes_max),
            })
            .collect(),
        grants: task.definition.grants_of(definition),
        memory_bytes_max: Some(definition.memory_hard_bytes),
        cpu_time_max: definition.cpu_time_max_ms.map(Duration::from_millis),
        wall_time_max: None,
        cpu_millis: Some(definition.cpu_millis),
        launch_type: task.launch_type,
        adoptable: true,
    })
}

/// The name of a container's folder: labels have no dots, so no two containers share one.
pub(super) fn folder_name(task: &DesiredTask, definition: &ContainerDefinition) -> String {
    format!("{}.{}.{}", task.tenant, task.id, definition.name)
}

fn create(
    host: &Host,
    task: &DesiredTask,
    definition: &ContainerDefinition,
    launch: &Launch,
) -> Result<Owned> {
    let id = folder_name(task, definition);
    let name = match task.definition.containers.len() {
        1 => task.id.to_string(),
        _ => format!("{}.{}", task.id, definition.name),
    };
    let record = TaskRecord {
        version: 1,
        id: id.clone(),
        name,
        image: definition.image.clone(),
        digest: launch.container.image,
        kind: launch.kind,
        origin: Origin::Cluster(ClusterOrigin {
            tenant: task.tenant.clone(),
            cluster: task.cluster.clone(),
            service: task.service.clone(),
            task: task.id.clone(),
            container: definition.name.clone(),
            definition: task.definition_id.clone(),
            launch_type: task.launch_type,
        }),
        created: now(),
        command: launch.args.clone(),
        ports: launch.asked_ports(),
        mounts: launch.mount_records(),
        env: definition.env.keys().cloned().collect(),
        limits: launch.limits.clone(),
        grants: launch.resolved.capabilities.clone(),
        remove_at_end: false,
    };
    match tasks::create(&host.home, record.clone()) {
        // Another tenant's task has the same id, or somebody here has taken its name.
        Err(Error::NameTaken { .. }) => {
            tasks::create(&host.home, TaskRecord { name: id, ..record })
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use spec::{Digest, TaskDefinition};

    use super::*;

    fn desired(definition: TaskDefinition) -> DesiredTask {
        DesiredTask {
            tenant: "acme".parse().unwrap(),
            cluster: "main".parse().unwrap(),
            id: "cats-1".parse().unwrap(),
            service: None,
            definition_id: "cats:1".parse().unwrap(),
            definition,
            launch_type: LaunchType::Node,
            stop: false,
            pull_token: None,
        }
    }

    #[test]
    fn a_node_enforces_what_the_control_plane_shows() {
        let allow =
            ["env:LOG", "env:LOG", "secret:key", "secret:key;as=env", "clock:fine", "clock:none"];
        for wants in [&[][..], &["env:LOG", "secret:key;optional", "net.in:http/5432"]] {
            let definition: TaskDefinition = serde_json::from_value(serde_json::json!({
                "family": "cats",
                "role": { "allow": allow },
                "volumes": [{ "name": "book", "bytes_max": 1024 }],
                "containers": [{
                    "name": "app",
                    "image": "cats",
                    "digest": Digest::of(b"image"),
                    "wants": wants,
                    "env": { "LOG": "debug" },
                    "ports": [
                        { "container_port": 80, "host_port": 8080 },
                        { "container_port": 80, "host_port": 8081 },
                        { "container_port": 5432, "protocol": "tcp" },
                    ],
                    "mounts": [{ "volume": "book", "path": "/data" }],
                }],
            }))
            .unwrap();
            let task = desired(definition);
            let app = &task.definition.containers[0];
            let shown = task.definition.resolve(app).unwrap();
            let container = container(&"n1".parse().unwrap(), &task, app).unwrap();
            let enforced = spec::resolve(&app.wants, &container.grants).unwrap();
            assert_eq!(enforced, shown, "{wants:?}");
            let mut lines = shown.capabilities.lines();
            lines.dedup();
            assert_eq!(lines, shown.capabilities.lines(), "each line stands there once");
        }
    }
}
