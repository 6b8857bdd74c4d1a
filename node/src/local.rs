//! One task on this machine, without a server: the agent for one, in the process of `margay run`.

use std::{
    cell::RefCell,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use engine::{Exit, Stdio};
use spec::{Capability, LaunchType, TaskId, Timestamp};

use crate::{
    anonymous_volumes,
    arguments::arguments,
    control::{Ended, Hub, OwnStreams, Server},
    drive::{Begin, End, drive},
    engines,
    error::{Error, Result, chain},
    home::Home,
    images::{blobs_of, make_ready, plan},
    kept_request,
    launch::{self, Launch, local_grants},
    lifecycle::{Lifecycle, Restart},
    local_run::LocalRun,
    orders::{Asked, Orders},
    request::{LocalImage, Note, Publish, RunOutcome, RunRequest},
    settings::Attach,
    signals::TaskSignals,
    tasks::{self, Kind, Origin, Owned, Phase, ProcessId, Status, TaskFolder, TaskRecord, now},
};

/// Runs a task to its end, in the foreground of this process: it has this process's streams and
/// signals, and a second Ctrl-C kills it. `watch` hears what happens.
///
/// # Errors
/// When it could not be started. How it ended once it ran is an outcome, not an error.
pub fn run_local(home: &Home, request: RunRequest, watch: impl FnMut(Note)) -> Result<RunOutcome> {
    let stdio = own_stdio(&request)?;
    run_with(home, request, StreamsOf::Ours(stdio), watch)
}

/// Starts a task that was created, or has ended, in the foreground of this process. `interactive`
/// hands it our standard input, where it was made to have one.
///
/// # Errors
/// As [`run_local`]; the task stays as it was then, with the reason.
pub fn start_local(
    home: &Home,
    task: TaskFolder,
    interactive: bool,
    watch: impl FnMut(Note),
) -> Result<RunOutcome> {
    let stdio = |kept: &RunRequest| {
        let interactive = interactive && kept.interactive;
        Ok(StreamsOf::Ours(own_stdio(&RunRequest { interactive, ..kept.clone() })?))
    };
    start_with(home, task, stdio, watch)
}

/// Whether a task was made with a terminal that takes input.
///
/// # Errors
/// [`Error::NotKept`].
pub fn has_terminal(task: &TaskFolder) -> Result<bool> {
    let kept = kept_request::read(task)?;
    Ok(kept.terminal.is_some() && kept.interactive)
}

/// As [`run_local`], with its standard streams given.
pub(crate) fn run_with(
    home: &Home,
    request: RunRequest,
    streams: StreamsOf,
    watch: impl FnMut(Note),
) -> Result<RunOutcome> {
    let watch = RefCell::new(watch);
    let id: TaskId = disk::random_hex::<6>().parse().expect("hex digits are a name");
    let launch = decide(home, &request, id, &watch)?;
    let spare = launch.spare_worker(launch.limits.concurrency_max);
    let owned = create(home, &request, &launch, &Status::starting(ProcessId::this()))?;
    let record = owned.record();
    let (id, name) = (record.id.clone(), record.name.clone());
    (watch.borrow_mut())(Note::Created { id, name });
    let status = Status::starting(ProcessId::this());
    match supervise(home, &request, &launch, &owned, status, (streams, spare), &watch) {
        Ok((status, end)) => finish(home, &request, owned, status, end),
        Err(error) => {
            // It never was: a task that could not start leaves nothing that needs an `rm`.
            let _ = owned.remove();
            Err(error)
        }
    }
}

/// As [`start_local`], with its standard streams given.
pub(crate) fn start_with(
    home: &Home,
    task: TaskFolder,
    streams: impl FnOnce(&RunRequest) -> Result<StreamsOf>,
    watch: impl FnMut(Note),
) -> Result<RunOutcome> {
    let watch = RefCell::new(watch);
    let owned = task.own()?;
    engines::sweep(owned.folder());
    owned.folder().forget_asked_stop();
    owned.folder().forget_user_stop();
    let before = owned.folder().status()?.unwrap_or_else(Status::created);
    let (usage, health) = (before.usage, before.health.clone());
    let status = Status { usage, health, ..Status::starting(ProcessId::this()) };
    owned.write_status(&status)?;
    let id: TaskId = owned.record().id.parse().expect("the id of a local task is a name");
    let started = kept_request::read(owned.folder()).and_then(|request| {
        let launch = decide(home, &request, id, &watch)?;
        let spare = launch.spare_worker(launch.limits.concurrency_max);
        let streams = (streams(&request)?, spare);
        let (status, end) = supervise(home, &request, &launch, &owned, status, streams, &watch)?;
        Ok((request, status, end))
    });
    match started {
        Ok((request, status, end)) => finish(home, &request, owned, status, end),
        Err(error) => {
            let failed = Status {
                phase: Phase::Exited,
                process: None,
                supervisor: None,
                ended: Some(now()),
                exit_code: Some(error.exit_code().into()),
                reason: Some(chain(&error)),
                ..before
            };
            owned.write_status(&failed)?;
            Err(error)
        }
    }
}

/// The container of a task that does not run, as its next start would make it.
///
/// # Errors
/// What would keep it from that.
pub(crate) fn decide_again(
    home: &Home,
    task: &TaskFolder,
    watch: impl FnMut(Note),
) -> Result<Launch> {
    let id: TaskId = task.record().id.parse().expect("the id of a local task is a name");
    decide(home, &kept_request::read(task)?, id, &RefCell::new(watch))
}

/// Makes a task that waits for its first start.
///
/// # Errors
/// As far as they can be known before a start: what its image is not granted, above all.
pub fn create_task(
    home: &Home,
    request: &RunRequest,
    watch: impl FnMut(Note),
) -> Result<(String, String)> {
    let watch = RefCell::new(watch);
    let id: TaskId = disk::random_hex::<6>().parse().expect("hex digits are a name");
    let launch = decide(home, request, id, &watch)?;
    let owned = create(home, request, &launch, &Status::created())?;
    Ok((owned.record().id.clone(), owned.record().name.clone()))
}

/// What a task reads and writes.
pub(crate) enum StreamsOf {
    /// This process's streams.
    Ours(Stdio),
    /// Those of the terminals that come to it. With `attach` its program starts when one is there.
    Background { attach: bool },
}

/// Runs a task from its first start to its last end.
fn supervise<W: FnMut(Note)>(
    home: &Home,
    request: &RunRequest,
    launch: &Launch,
    owned: &Owned,
    status: Status,
    (streams, spare): (StreamsOf, Option<runtime::SpareWorker>),
    watch: &RefCell<W>,
) -> Result<(Status, End)> {
    // One thread and nothing that is not needed: such a runtime starts in a tenth of a millisecond.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::System { verb: "start a runtime", source })?;
    runtime.block_on(async {
        let is_open = request.interactive || request.terminal.is_some();
        let (mut stdio, attach) = match streams {
            StreamsOf::Ours(stdio) => (Some(stdio), false),
            StreamsOf::Background { attach } => (None, attach),
        };
        let own = match &mut stdio {
            Some(stdio) => OwnStreams::take(stdio)
                .map_err(|source| Error::System { verb: "share a stream", source })?,
            None => None,
        };
        let hub = match own {
            Some(own) => Some(Hub::shared(launch.kind, own)),
            None => (stdio.is_none() && (is_open || attach))
                .then(|| Hub::new(launch.kind, request.interactive, request.terminal)),
        };
        let mut orders = Orders {
            signals: TaskSignals::listen()?,
            control: Server::open(owned.folder(), hub.clone())?,
            folder: owned.folder(),
            kind: launch.kind,
            grace: request.grace,
            stop_signal: launch.stop_signal(),
            has_terminal: request.terminal.is_some(),
            watch,
            asked: Asked::default(),
        };
        let mut run =
            LocalRun::new(home, launch, owned, (stdio.unwrap_or_default(), spare), status, watch);
        run.hub.clone_from(&hub);
        if let (Some(hub), true) = (&hub, attach) {
            let id = owned.record().id.clone();
            (watch.borrow_mut())(Note::Listening { id });
            hub.joined().await;
        }
        run.broker = runtime::Broker::new(request.private_networks.iter().map(|n| n.host()));
        if request.learn {
            run.broker = run.broker.learning();
        }
        let lifecycle = Lifecycle::new(Restart::Policy(request.restart), None, 0);
        let mut end = drive(&mut run, &mut orders, lifecycle, Begin::Fresh).await;
        if let Some(lines) = run.broker.learned() {
            (watch.borrow_mut())(Note::Learned { lines });
        }
        // A success that left no result is none.
        if end.exit == Some(Exit::Code(0)) && hub.as_ref().is_some_and(|hub| hub.lost_output()) {
            end = End { usage: end.usage, ..End::of(Exit::Code(1)) };
        }
        if let Some(hub) = &hub {
            let End { exit_code, reason, .. } = orders.asked.explain(end.clone());
            hub.end(&Ended { exit_code: exit_code.unwrap_or_default(), reason }).await;
        }
        match (run.failed, &end.exit) {
            (Some(error), _) => Err(error),
            (None, Some(Exit::NotStarted(why))) if !run.ran => Err(Error::Start {
                task: owned.record().name.clone(),
                why: why.clone(),
                hint: None,
                exit_code: Error::OURS,
            }),
            (None, _) => Ok((run.status, orders.asked.explain(end))),
        }
    })
}

fn decide<W: FnMut(Note)>(
    home: &Home,
    request: &RunRequest,
    id: TaskId,
    watch: &RefCell<W>,
) -> Result<Launch> {
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
        let hosts = plan.wants.iter().map(|want| &want.capability).filter(|_| request.learn);
        allow.extend(hosts.filter(|want| matches!(want, Capability::Outbound(_))).cloned());
    }
    if plan.kind_hint() == image::Kind::Native {
        settings.check_for_linux()?;
        if request.learn {
            return Err(Error::Native {
                why: "`--learn` is for Wasm programs".to_owned(),
                hint: Some("grant a Linux program its lines by name: --allow LINE".to_owned()),
            });
        }
    }
    let mut exposed = plan.exposed();
    if plan.kind_hint() == image::Kind::Wasm {
        // What its image says of datagrams says nothing about a program that can take none.
        exposed.retain(|port| port.transport.is_tcp());
    }
    let ports = request.ports(&exposed);
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
        stream_ports: Vec::new(),
        mounts: request.mounts.clone(),
        grants: local_grants(
            &allow,
            ports.iter().map(Publish::port).collect(),
            &request.env,
            &request.secrets,
            &request.mounts,
        )?,
        limits: spec::LimitRequest {
            memory_bytes_max: request.memory_bytes_max,
            cpu_time_max: request.cpu_time_max,
            wall_time_max: request.wall_time_max,
            overrides: request.limits.clone(),
            ..spec::LimitRequest::default()
        },
        cpu_millis: settings.cpu_millis,
        read_only: request.read_only,
        launch_type: LaunchType::Node,
        adoptable: false,
        settings: settings.clone(),
    };
    let bytes = plan.layers.iter().map(|layer| layer.descriptor.size).sum();
    let ready = make_ready(home, spec::OPERATOR, &blobs, name, plan, &args, &mut || {
        (watch.borrow_mut())(Note::Preparing { bytes })
    })?;
    if let Some(text) = ready.warning() {
        (watch.borrow_mut())(Note::Warning { text: text.to_owned() });
    }
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

fn create(home: &Home, request: &RunRequest, launch: &Launch, status: &Status) -> Result<Owned> {
    let owned = tasks::create_with(
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
            restart: request.restart,
            no_log: request.settings.no_log,
            health_check: launch.health_check(),
        },
        status,
    )?;
    kept_request::keep(owned.folder(), request)?;
    Ok(owned)
}

/// Writes its end down, and removes what is to go with it.
fn finish(
    home: &Home,
    request: &RunRequest,
    owned: Owned,
    mut status: Status,
    end: End,
) -> Result<RunOutcome> {
    let counted = match owned.record().kind {
        Kind::Wasm => engines::usage(owned.folder(), None),
        Kind::Native => status.usage,
    };
    let usage = counted.or(end.usage).unwrap_or_default();
    let (id, name) = (owned.record().id.clone(), owned.record().name.clone());
    let exit_code = end.exit_code.unwrap_or_default();
    status.phase = Phase::Exited;
    status.process = None;
    status.ended = Some(now());
    status.exit_code = Some(exit_code);
    status.reason = end.reason.clone();
    status.usage = Some(usage);
    owned.write_status(&status)?;
    if request.remove_at_end {
        let record = owned.record().clone();
        owned.remove()?;
        anonymous_volumes::remove(home, &record)?;
    } else {
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
    let attach = request.settings.attach.unwrap_or(Attach { stdout: true, stderr: true });
    Ok(Stdio {
        stdin: if request.interactive { Some(copy(&std::io::stdin())?) } else { None },
        stdout: if attach.stdout { Some(copy(&std::io::stdout())?) } else { None },
        stderr: if attach.stderr { Some(copy(&std::io::stderr())?) } else { None },
        terminal: request.terminal,
    })
}

/// The grace that a stop gets when no other was asked for.
pub const GRACE: Duration = Duration::from_secs(10);
