//! One task on this machine, without a server: the agent for one, in the process of `margay run`.

use std::{
    io::IsTerminal,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use engine::{Container, Ended, Exit, Listeners, Stdio};
use spec::{LaunchType, TaskId, Timestamp};

use crate::{
    drive::{Begin, Command, Commands, End, Supervisor, drive},
    engines,
    error::{Error, Result, chain},
    home::Home,
    images::{blobs_of, make_ready, plan},
    launch::{self, Launch, arguments, local_grants},
    lifecycle::{Lifecycle, Restart, StartFailed, State},
    ports,
    request::{LocalImage, Note, RunOutcome, RunRequest, Started},
    signals::{Request, TaskSignals},
    tasks::{self, Origin, Owned, Phase, ProcessId, Status, TaskFolder, TaskRecord, now},
};

/// Runs a task to its end, in the foreground of this process: it has this process's streams, Ctrl-C
/// stops it, a second one kills it. `watch` hears what happens.
///
/// # Errors
/// When it could not be started. How it ended once it ran is an outcome, not an error.
pub fn run_local(home: &Home, request: RunRequest, watch: impl FnMut(Note)) -> Result<RunOutcome> {
    let stdio = own_stdio(&request)?;
    run_with(home, request, stdio, watch)
}

/// As [`run_local`], with its standard streams given.
pub(crate) fn run_with(
    home: &Home,
    request: RunRequest,
    stdio: Stdio,
    mut watch: impl FnMut(Note),
) -> Result<RunOutcome> {
    let launch = decide(home, &request, &mut watch)?;
    let spare = launch.spare_worker(launch.limits.concurrency_max);
    let owned = create(home, &request, &launch)?;
    // One thread and nothing that is not needed: such a runtime starts in a tenth of a millisecond.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::System { verb: "start a runtime", source })?;
    let ran = runtime.block_on(async {
        let mut commands = SignalCommands {
            signals: TaskSignals::listen()?,
            folder: owned.folder(),
            grace: request.grace,
            has_terminal: request.terminal.is_some(),
            stop: None,
            killed: false,
        };
        let mut run = LocalRun {
            home,
            launch: &launch,
            owned: &owned,
            stdio: Some(stdio),
            spare,
            broker: runtime::Broker::new(request.private_networks.iter().map(|n| n.host())),
            listeners: Listeners::default(),
            status: Status::starting(ProcessId::this()),
            watch: &mut watch,
            failed: None,
        };
        let lifecycle = Lifecycle::new(Restart::Never, None, 0);
        let end = drive(&mut run, &mut commands, lifecycle, Begin::Fresh).await;
        match (run.failed, &end.exit) {
            (Some(error), _) => Err(error),
            (None, Some(Exit::NotStarted(why))) => Err(Error::Start {
                task: owned.record().name.clone(),
                why: why.clone(),
                hint: None,
                exit_code: Error::OURS,
            }),
            (None, _) => Ok((run.status, commands.explain(end))),
        }
    });
    match ran {
        Ok((status, end)) => finish(&request, owned, status, end),
        Err(error) => {
            // It never was: a task that could not start leaves nothing that needs an `rm`.
            let _ = owned.remove();
            Err(error)
        }
    }
}

fn decide(home: &Home, request: &RunRequest, watch: &mut impl FnMut(Note)) -> Result<Launch> {
    let LocalImage { name, digest, layout } = &request.image;
    let blobs = blobs_of(layout);
    let plan = plan(&blobs, name, digest)?;
    let command = (!request.command.is_empty()).then_some(request.command.as_slice());
    let args = arguments(&plan, &program_name(name), request.entrypoint.as_deref(), command);
    let settings = &request.settings;
    let mut allow = request.allow.clone();
    if plan.kind_hint() == image::Kind::Wasm {
        settings.check_for_wasm()?;
        allow.extend(settings.wasm_grants()?);
    }
    let ports = request.ports(&plan.exposed_ports());
    let id: TaskId = disk::random_hex::<6>().parse().expect("hex digits are a name");
    let container = launch::Container {
        task: id,
        name: container_name(name),
        node: None,
        owner: spec::OPERATOR.to_owned(),
        image: *digest,
        env: request.env.clone(),
        secrets: request.secrets.clone(),
        ports: ports.clone(),
        ingress_ports: Vec::new(),
        mounts: request.mounts.clone(),
        grants: local_grants(
            &allow,
            ports.iter().map(|publish| publish.container_port).collect(),
            &request.env,
            &request.secrets,
            &request.mounts,
        )?,
        memory_bytes_max: request.memory_bytes_max,
        cpu_time_max: request.cpu_time_max,
        wall_time_max: request.wall_time_max,
        cpu_millis: settings.cpu_millis,
        launch_type: LaunchType::Node,
        adoptable: false,
        settings: settings.clone(),
    };
    let ready = make_ready(home, spec::OPERATOR, &blobs, name, plan, &args, &mut || {
        watch(Note::Preparing)
    })?;
    Launch::decide(container, ready, args)
}

/// The last part of an image's name, without tag and digest: what a program without a path is
/// called.
fn program_name(image: &str) -> String {
    let name = image.rsplit('/').next().unwrap_or(image);
    name.split(['@', ':']).next().unwrap_or(name).to_owned()
}

/// The same as a container's name, where its letters allow.
fn container_name(image: &str) -> spec::ContainerName {
    let label: String = program_name(image)
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(63)
        .collect();
    label.trim_matches('-').parse().unwrap_or_else(|_| "main".parse().expect("`main` is a name"))
}

fn create(home: &Home, request: &RunRequest, launch: &Launch) -> Result<Owned> {
    tasks::create(
        home,
        TaskRecord {
            version: 1,
            id: launch.container.task.to_string(),
            name: request.name.clone().unwrap_or_default(),
            image: request.image.name.clone(),
            digest: request.image.digest,
            kind: launch.kind,
            origin: Origin::Local,
            created: Timestamp::of(std::time::SystemTime::now()),
            command: launch.args.clone(),
            ports: launch.asked_ports(),
            mounts: launch.mount_records(),
            env: request.env.keys().cloned().collect(),
            limits: launch.limits.clone(),
            grants: launch.resolved.capabilities.clone(),
            remove_at_end: request.remove_at_end,
            labels: request.settings.labels.clone(),
            exposed: request.settings.expose.clone(),
        },
    )
}

/// What `margay run` starts its container for.
struct LocalRun<'a, W> {
    home: &'a Home,
    launch: &'a Launch,
    owned: &'a Owned,
    stdio: Option<Stdio>,
    spare: Option<runtime::SpareWorker>,
    broker: runtime::Broker,
    listeners: Listeners,
    status: Status,
    watch: &'a mut W,
    /// Why it never ran.
    failed: Option<Error>,
}

impl<W: FnMut(Note)> Supervisor for LocalRun<'_, W> {
    async fn prepare(&mut self) -> Result<()> {
        Ok(())
    }

    async fn spawn(&mut self) -> Result<Box<dyn Container>> {
        self.listeners.published = ports::open(&self.launch.published_ports())
            .map_err(|error| ports::name_owner(self.home, error))?;
        let stdio = self.stdio.take().unwrap_or_default();
        let (folder, spare) = (self.owned.folder(), self.spare.take());
        self.launch.start(self.home, folder, &self.listeners, stdio, &self.broker, spare).await
    }

    fn spawned(&mut self, container: &dyn Container) -> Result<()> {
        self.status.process = ProcessId::of(i32::try_from(container.pid()).unwrap_or(0));
        self.status.ports = ports::published(&self.listeners);
        self.owned.write_status(&self.status)
    }

    fn started(&mut self) {
        self.status.phase = Phase::Running;
        self.status.started = Some(now());
        if let Err(error) = self.owned.write_status(&self.status) {
            tracing::warn!(error = chain(&error), "a status could not be written");
        }
        (self.watch)(Note::Started(Started {
            id: self.owned.record().id.clone(),
            name: self.owned.record().name.clone(),
            ports: self.status.ports.clone(),
            granted: self.launch.resolved.capabilities.lines(),
            cut: self.launch.resolved.cut.clone(),
            denied: self.launch.resolved.denied.clone(),
        }));
    }

    fn denied(&mut self, line: String, count: u64) {
        (self.watch)(Note::Denied { line, count });
    }

    fn start_failed(&mut self, error: Error) -> (StartFailed, End) {
        self.failed = Some(error);
        (StartFailed::Here, End::default())
    }

    async fn ended(&mut self, _: &Ended) {}

    fn entered(&mut self, lifecycle: &Lifecycle, _: &End) {
        if matches!(lifecycle.state, State::Stopping { .. }) {
            (self.watch)(Note::Stopping);
        }
    }

    fn grace(&self, grace: Duration) -> Duration {
        self.launch.grace(grace)
    }
}

/// Signals to this process, as commands for its container: one to end stops it, a second kills it.
struct SignalCommands<'a> {
    signals: TaskSignals,
    folder: &'a TaskFolder,
    grace: Duration,
    has_terminal: bool,
    /// The first one to end.
    stop: Option<u8>,
    killed: bool,
}

impl Commands for SignalCommands<'_> {
    async fn next(&mut self) -> Command {
        loop {
            match self.signals.next().await {
                Request::Stop(signal) if self.stop.is_none() => {
                    self.stop = u8::try_from(signal).ok();
                    return Command::Stop(self.folder.asked_grace().unwrap_or(self.grace));
                }
                Request::Stop(_) => {
                    self.killed = true;
                    return Command::Kill;
                }
                Request::Pass(signal) => return Command::Signal(signal),
                Request::Resize => {
                    if let Some((rows, columns)) = terminal_size().filter(|_| self.has_terminal) {
                        return Command::Resize(rows, columns);
                    }
                }
            }
        }
    }
}

impl SignalCommands<'_> {
    /// The end of a container in the light of what it was asked.
    fn explain(&self, end: End) -> End {
        let Some(signal) = self.stop else { return end };
        match end.exit {
            Some(exit) if self.killed && exit.code() == KILLED => {
                let why = "it was asked to end a second time, and killed".to_owned();
                End { reason: Some(why), usage: end.usage, ..End::of(exit) }
            }
            Some(exit) => End { usage: end.usage, ..End::of(exit.asked_by(signal)) },
            // It was asked to end before it had begun.
            None => End { exit_code: Some(128 + i32::from(signal)), ..end },
        }
    }
}

/// 128 and SIGKILL.
const KILLED: u8 = 137;

/// Of the terminal on standard output: rows and columns.
fn terminal_size() -> Option<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some((size.ws_row, size.ws_col))
}

fn finish(request: &RunRequest, owned: Owned, mut status: Status, end: End) -> Result<RunOutcome> {
    let usage = end.usage.or_else(|| engines::usage(owned.folder(), None)).unwrap_or_default();
    let (id, name) = (owned.record().id.clone(), owned.record().name.clone());
    let exit_code = end.exit_code.unwrap_or_default();
    if request.remove_at_end {
        owned.remove()?;
    } else {
        status.phase = Phase::Exited;
        status.process = None;
        status.ended = Some(now());
        status.exit_code = Some(exit_code);
        status.reason = end.reason.clone();
        status.usage = Some(usage);
        owned.write_status(&status)?;
        let _ = std::fs::remove_file(owned.folder().worker_socket());
    }
    Ok(RunOutcome { id, name, exit_code, reason: end.reason, usage })
}

/// This process's standard streams, as far as they were asked for.
fn own_stdio(request: &RunRequest) -> Result<Stdio> {
    let copy = |fd: &dyn AsFd| -> Result<OwnedFd> {
        fd.as_fd()
            .try_clone_to_owned()
            .map_err(|source| Error::System { verb: "copy a stream", source })
    };
    Ok(Stdio {
        stdin: if request.interactive { Some(copy(&std::io::stdin())?) } else { None },
        stdout: Some(copy(&std::io::stdout())?),
        stderr: Some(copy(&std::io::stderr())?),
        terminal: request.terminal.filter(|_| std::io::stdout().is_terminal()),
    })
}

/// The grace that a stop gets when no other was asked for.
pub const GRACE: Duration = Duration::from_secs(10);
