//! One task on this machine, without a server: the agent for one, in the process of `margay run`.

use std::{
    io::IsTerminal,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use spec::{LaunchType, TaskId, Timestamp};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    error::{Error, Result},
    home::Home,
    images::{blobs_of, make_ready, plan},
    launch::{Container, Doors, Launch, Streams, arguments, local_grants},
    request::{LocalImage, Note, RunOutcome, RunRequest, Started},
    running::{Ended, Happening},
    tasks::{self, Kind, Origin, Owned, Phase, ProcessId, Status, TaskRecord},
};

/// Runs a task to its end, in the foreground of this process: its streams are ours, Ctrl-C stops
/// it, a second one kills it. `watch` hears what happens.
///
/// # Errors
/// When it could not be started. How it ended once it ran is an outcome, not an error.
pub fn run_local(home: &Home, request: RunRequest, watch: impl FnMut(Note)) -> Result<RunOutcome> {
    let streams = own_streams(&request)?;
    run_with(home, request, streams, watch)
}

/// As [`run_local`], with the streams given.
pub(crate) fn run_with(
    home: &Home,
    request: RunRequest,
    streams: Streams,
    mut watch: impl FnMut(Note),
) -> Result<RunOutcome> {
    let launch = decide(home, &request, &mut watch)?;
    let blank = launch.blank(launch.limits.concurrency_max);
    let owned = create(home, &request, &launch)?;
    // One thread and no timer wheel that nobody needs: a runtime like this is there in a tenth of a
    // millisecond.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::System { verb: "start a runtime", source })?;
    let mut status = Status::starting(ProcessId::this());
    let ran = runtime.block_on(supervise(
        home,
        &request,
        &launch,
        &owned,
        (streams, blank),
        &mut status,
        &mut watch,
    ));
    let ended = match ran {
        Ok(ended) => ended,
        Err(error) => {
            // It never was: a task that could not start leaves nothing that needs an `rm`.
            let _ = owned.remove();
            return Err(error);
        }
    };
    finish(&request, owned, status, ended)
}

fn decide(home: &Home, request: &RunRequest, watch: &mut impl FnMut(Note)) -> Result<Launch> {
    let LocalImage { name, digest, layout } = &request.image;
    let blobs = blobs_of(layout);
    let plan = plan(&blobs, name, digest)?;
    let command = (!request.command.is_empty()).then_some(request.command.as_slice());
    let args = arguments(&plan, &program_name(name), request.entrypoint.as_deref(), command);
    let id: TaskId = disk::random_hex::<6>().parse().expect("hex digits are a name");
    let container = Container {
        task: id,
        name: container_name(name),
        node: None,
        owner: spec::OPERATOR.to_owned(),
        image: *digest,
        env: request.env.clone(),
        secrets: request.secrets.clone(),
        ports: request.ports.clone(),
        ingress_ports: Vec::new(),
        mounts: request.mounts.clone(),
        grants: local_grants(
            &request.allow,
            request.ports.iter().map(|publish| publish.container_port).collect(),
            &request.env,
            &request.secrets,
            &request.mounts,
        )?,
        memory_bytes_max: request.memory_bytes_max,
        cpu_time_max: request.cpu_time_max,
        wall_time_max: request.wall_time_max,
        cpu_millis: None,
        launch_type: LaunchType::Node,
        adoptable: false,
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
        },
    )
}

async fn supervise(
    home: &Home,
    request: &RunRequest,
    launch: &Launch,
    owned: &Owned,
    (streams, blank): (Streams, Option<runtime::Blank>),
    status: &mut Status,
    watch: &mut impl FnMut(Note),
) -> Result<Ended> {
    let mut asked = Asked::listen()?;
    let doors = Doors {
        published: launch.open_ports().map_err(|e| name_owner(home, e))?,
        ingress: Vec::new(),
    };
    let broker =
        runtime::Broker::new(request.private_networks.iter().map(|network| network.host()));
    let mut running = launch.start(home, owned.folder(), &doors, streams, &broker, blank).await?;
    status.process = running.process();
    status.ports = doors.ports();
    owned.write_status(status)?;
    let mut stop = Stop::default();
    loop {
        let happening = tokio::select! {
            happening = running.next() => happening,
            ask = asked.next() => {
                match ask {
                    Ask::Stop(signal) if stop.first.is_none() => {
                        stop.first = Some(signal);
                        watch(Note::Stopping);
                        let grace = owned.folder().asked_grace().unwrap_or(request.grace);
                        running.stop(launch.grace(grace)).await;
                    }
                    Ask::Stop(_) => {
                        stop.killed = true;
                        running.kill();
                    }
                    Ask::Pass(signal) => running.pass(signal).await,
                    Ask::Resize if request.terminal.is_some() => running.resize(terminal_size()).await,
                    Ask::Resize => {}
                }
                continue;
            }
        };
        match happening {
            Happening::Started => {
                status.phase = Phase::Running;
                status.started = Some(now());
                owned.write_status(status)?;
                watch(Note::Started(started(launch, owned, &doors)));
            }
            Happening::Denied { line, count } => watch(Note::Denied { line, count }),
            Happening::Ended(ended) if ended.never_started => {
                return Err(Error::Start {
                    task: owned.record().name.clone(),
                    why: ended
                        .reason
                        .unwrap_or_else(|| "it ended before its program began".to_owned()),
                    hint: None,
                    exit_code: Error::OURS,
                });
            }
            Happening::Ended(ended) => return Ok(stop.explains(launch.kind, ended)),
        }
    }
}

/// How a task was asked to end.
#[derive(Default)]
struct Stop {
    first: Option<i32>,
    killed: bool,
}

impl Stop {
    /// The end of a task in the light of it. A Wasm program dies of no signal by itself, so its end
    /// is told as if it had.
    fn explains(&self, kind: Kind, ended: Ended) -> Ended {
        match (kind, self.first) {
            (Kind::Wasm, Some(_)) if self.killed && ended.exit_code == KILLED => Ended {
                reason: Some("it was asked to end a second time, and killed".to_owned()),
                ..ended
            },
            (Kind::Wasm, Some(signal)) if ended.exit_code == STOPPED => {
                Ended { exit_code: 128 + signal, ..ended }
            }
            (Kind::Wasm | Kind::Native, _) => ended,
        }
    }
}

/// 128 and SIGTERM, 128 and SIGKILL.
const STOPPED: i32 = 143;
const KILLED: i32 = 137;

/// Of the terminal that we write to: rows and columns.
fn terminal_size() -> Option<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some((size.ws_row, size.ws_col))
}

fn started(launch: &Launch, owned: &Owned, doors: &Doors) -> Started {
    Started {
        id: owned.record().id.clone(),
        name: owned.record().name.clone(),
        ports: doors.ports(),
        granted: launch.resolved.capabilities.lines(),
        cut: launch.resolved.cut.clone(),
        denied: launch.resolved.denied.clone(),
    }
}

/// A taken port, with the task of ours that has it.
pub(crate) fn name_owner(home: &Home, error: Error) -> Error {
    let Error::PortTaken { port, .. } = error else { return error };
    let has_it = |task: &tasks::TaskFolder| {
        let status = task.status().ok().flatten();
        status.is_some_and(|status| status.ports.iter().any(|p| p.host_port == Some(port)))
            && task.state().is_ok_and(tasks::State::is_alive)
    };
    let task = tasks::list(home).unwrap_or_default().into_iter().find(has_it);
    Error::PortTaken { port, task: task.map(|task| task.record().name.clone()) }
}

fn finish(
    request: &RunRequest,
    owned: Owned,
    mut status: Status,
    ended: Ended,
) -> Result<RunOutcome> {
    let usage = ended
        .usage
        .or_else(|| crate::meter::read(&owned.folder().usage_page()))
        .unwrap_or_default();
    let (id, name) = (owned.record().id.clone(), owned.record().name.clone());
    if request.remove_at_end {
        owned.remove()?;
    } else {
        status.phase = Phase::Exited;
        status.process = None;
        status.ended = Some(now());
        status.exit_code = Some(ended.exit_code);
        status.reason = ended.reason.clone();
        status.usage = Some(usage);
        owned.write_status(&status)?;
        let _ = std::fs::remove_file(owned.folder().worker_socket());
    }
    Ok(RunOutcome { id, name, exit_code: ended.exit_code, reason: ended.reason, usage })
}

pub(crate) fn now() -> Timestamp {
    Timestamp::of(std::time::SystemTime::now())
}

/// Our own three streams, as far as they were asked for.
fn own_streams(request: &RunRequest) -> Result<Streams> {
    let copy = |fd: &dyn AsFd| -> Result<OwnedFd> {
        fd.as_fd()
            .try_clone_to_owned()
            .map_err(|source| Error::System { verb: "copy a stream", source })
    };
    Ok(Streams {
        stdin: if request.interactive { Some(copy(&std::io::stdin())?) } else { None },
        stdout: Some(copy(&std::io::stdout())?),
        stderr: Some(copy(&std::io::stderr())?),
        terminal: request.terminal.filter(|_| std::io::stdout().is_terminal()),
    })
}

/// The signals that are meant for a task.
pub(crate) struct Asked {
    stops: [(Signal, i32); 4],
    passed: [(Signal, i32); 2],
    resized: Signal,
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// To end, as this one does.
    Stop(i32),
    /// The program's own business.
    Pass(i32),
    /// Our terminal has another size.
    Resize,
}

impl Asked {
    pub fn listen() -> Result<Self> {
        let listen = |kind: SignalKind| {
            let signal = signal(kind)
                .map_err(|source| Error::System { verb: "listen for signals", source })?;
            Ok::<_, Error>((signal, kind.as_raw_value()))
        };
        use SignalKind as K;
        Ok(Self {
            stops: [
                listen(K::interrupt())?,
                listen(K::terminate())?,
                listen(K::hangup())?,
                listen(K::quit())?,
            ],
            passed: [listen(K::user_defined1())?, listen(K::user_defined2())?],
            resized: listen(K::window_change())?.0,
        })
    }

    /// The next one.
    pub async fn next(&mut self) -> Ask {
        tokio::select! {
            number = any(&mut self.stops) => Ask::Stop(number),
            number = any(&mut self.passed) => Ask::Pass(number),
            _ = self.resized.recv() => Ask::Resize,
        }
    }

    /// The next one that asks to end.
    pub async fn stop(&mut self) {
        any(&mut self.stops).await;
    }
}

/// The number of the first of these that comes.
async fn any(signals: &mut [(Signal, i32)]) -> i32 {
    let received = signals.iter_mut().map(|(signal, number)| {
        Box::pin(async {
            signal.recv().await;
            *number
        })
    });
    futures_util::future::select_all(received).await.0
}

/// The grace that a stop gets when nobody says another.
pub const GRACE: Duration = Duration::from_secs(10);
