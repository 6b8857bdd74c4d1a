//! A run on demand: a task for one request, and what it cost.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::net::UnixListener,
    pin::Pin,
    time::{Duration, Instant},
};

use bytes::Bytes;
use engine::{Container, Ended, Listener, Listeners, Stdio};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use spec::{Capability, LaunchType, SecretName, SecretValue, TaskId, Usage};
use tokio::{sync::Notify, time::timeout};

use crate::{
    arguments::arguments,
    drive::{Begin, Command, Commands, End, Supervisor, drive},
    engines,
    error::{Error, Result, chain},
    home::Home,
    images::{blobs_of, make_ready, plan},
    launch::{self, Launch, local_grants},
    lifecycle::{Lifecycle, Restart, StartFailed},
    request::LocalImage,
    settings::Settings,
    signals::TaskSignals,
    tasks::{self, Origin, Owned, Phase, ProcessId, RestartPolicy, Status, TaskRecord, now},
    tuning::PrivateNetwork,
};

/// One request to an image that answers requests.
#[derive(Clone)]
pub struct InvokeRequest {
    pub image: LocalImage,
    /// `GET` and its like.
    pub method: Method,
    pub path: String,
    /// Beyond `Host`.
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Variables; each is a grant.
    pub env: BTreeMap<String, String>,
    /// Values of secrets; each is a grant.
    pub secrets: BTreeMap<SecretName, SecretValue>,
    /// What else is granted.
    pub allow: Vec<Capability>,
    /// Internal addresses that grants with `;private` may reach.
    pub private_networks: Vec<PrivateNetwork>,
    /// For the whole answer.
    pub time_max: Duration,
}

#[derive(Debug, Clone)]
pub struct InvokeOutcome {
    /// The task's folder, which is gone by now.
    pub id: String,
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// From the request to the end of the answer, the start of the worker not counted.
    pub answered_in: Duration,
    /// From nothing to a worker that serves.
    pub started_in: Duration,
    pub usage: Usage,
}

/// An answer longer than this is for a service, not for an invocation.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// The port by which a worker knows its only door, when its image does not care.
const PORT: u16 = 80;
const GRACE: Duration = Duration::from_secs(2);

/// Starts a worker for the image, sends it the request, and ends it. `preparing` hears when the
/// image was not ready.
///
/// # Errors
/// When it cannot be started, or gives no answer.
pub fn invoke(
    home: &Home,
    request: InvokeRequest,
    mut preparing: impl FnMut(),
) -> Result<InvokeOutcome> {
    let launch = decide(home, &request, &mut preparing)?;
    if !launch.serves_requests() {
        return Err(Error::Start {
            task: request.image.name.clone(),
            why: "it is a program that runs once, and answers no requests".to_owned(),
            hint: Some(format!("margay run {}", request.image.name)),
            exit_code: Error::OURS,
        });
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::System { verb: "start a runtime", source })?;
    runtime.block_on(async {
        // Before there is a folder: from here on a signal ends the request and not the process, so
        // that the folder is removed.
        let mut signals = TaskSignals::listen()?;
        let spare = launch.spare_worker(1);
        let owned = create(home, &request, &launch)?;
        let outcome = run(home, request, &launch, spare, &owned, &mut signals).await;
        owned.remove()?;
        outcome
    })
}

fn decide(home: &Home, request: &InvokeRequest, preparing: &mut impl FnMut()) -> Result<Launch> {
    let LocalImage { name, digest, layout } = &request.image;
    let blobs = blobs_of(layout);
    let plan = plan(&blobs, name, digest)?;
    let args = arguments(&plan, name, None, None);
    let id: TaskId = disk::random_hex::<6>().parse().expect("hex digits are a name");
    let container = launch::Container {
        task: id,
        name: "invoked".parse().expect("it is a name"),
        node: None,
        owner: spec::OPERATOR.to_owned(),
        image: *digest,
        env: request.env.clone(),
        secrets: request.secrets.clone(),
        ports: Vec::new(),
        ingress_ports: vec![port(&plan)],
        stream_ports: Vec::new(),
        mounts: Vec::new(),
        grants: local_grants(
            &request.allow,
            vec![spec::Port::tcp(port(&plan))],
            &request.env,
            &request.secrets,
            &[],
        )?,
        limits: spec::LimitRequest {
            wall_time_max: Some(request.time_max),
            ..spec::LimitRequest::default()
        },
        cpu_millis: None,
        read_only: false,
        launch_type: LaunchType::Node,
        adoptable: false,
        settings: Settings::default(),
    };
    let ready = make_ready(home, spec::OPERATOR, &blobs, name, plan, &args, preparing)?;
    Launch::decide(container, ready, args)
}

/// The port on which the image would like to be reached.
fn port(plan: &image::Plan) -> u16 {
    let wanted = plan.wants.iter().find_map(|want| match want.capability {
        Capability::Inbound(grant) => Some(grant.port.number),
        _ => None,
    });
    wanted.or(plan.exposed_ports().first().copied()).unwrap_or(PORT)
}

fn create(home: &Home, request: &InvokeRequest, launch: &Launch) -> Result<Owned> {
    tasks::create(
        home,
        TaskRecord {
            version: 1,
            id: launch.container.task.to_string(),
            name: String::new(),
            image: request.image.name.clone(),
            digest: request.image.digest,
            kind: launch.kind,
            origin: Origin::Invoked,
            created: now(),
            command: launch.args.clone(),
            ports: launch.asked_ports(),
            mounts: Vec::new(),
            env: request.env.keys().cloned().collect(),
            limits: launch.limits.clone(),
            grants: launch.resolved.capabilities.clone(),
            remove_at_end: true,
            labels: BTreeMap::new(),
            exposed: BTreeSet::new(),
            restart: RestartPolicy::No,
            no_log: false,
            health_check: None,
        },
    )
}

async fn run(
    home: &Home,
    request: InvokeRequest,
    launch: &Launch,
    spare: Option<runtime::SpareWorker>,
    owned: &Owned,
    signals: &mut TaskSignals,
) -> Result<InvokeOutcome> {
    let port = launch.ingress_ports().first().copied().unwrap_or(PORT);
    let path = owned.folder().path().join("http.sock");
    let short = disk::SocketPath::of(&path).map_err(Error::file("open the folder of", &path))?;
    let socket = UnixListener::bind(&short).map_err(Error::file("make socket", &path))?;
    let started = Notify::new();
    let mut invocation = Invocation {
        home,
        launch,
        owned,
        spare,
        listeners: Listeners {
            ingress: vec![Listener { container_port: port, socket }],
            ..Listeners::default()
        },
        broker: runtime::Broker::new(request.private_networks.iter().map(|n| n.host())),
        status: Status::starting(ProcessId::this()),
        began: Instant::now(),
        started_in: None,
        started: &started,
        failed: None,
    };
    let mut asking = Asking {
        signals,
        request: Box::pin(async {
            started.notified().await;
            let asked = Instant::now();
            let answer = match timeout(request.time_max, ask(short.as_ref(), &request)).await {
                Ok(answer) => answer,
                Err(_) => Err("no answer in time".to_owned()),
            };
            (answer, asked.elapsed())
        }),
        answer: None,
        interrupted: false,
    };
    let lifecycle = Lifecycle::new(Restart::Never, None, 0);
    let end = drive(&mut invocation, &mut asking, lifecycle, Begin::Fresh).await;
    if let Some(error) = invocation.failed {
        return Err(error);
    }
    let early = || match &invocation.started_in {
        Some(_) => "it ended before it answered".to_owned(),
        None => "it ended".to_owned(),
    };
    let (answer, answered_in) = match asking.answer {
        Some((answer, answered_in)) => (answer, answered_in),
        None if asking.interrupted => (Err("it was interrupted".to_owned()), Duration::ZERO),
        None => (Err(end.reason.unwrap_or_else(early)), Duration::ZERO),
    };
    let failed = |why: String| Error::NoAnswer { task: request.image.name.clone(), why };
    let (parts, body) = answer.map_err(failed)?;
    Ok(InvokeOutcome {
        id: owned.record().id.clone(),
        status: parts.status,
        headers: parts.headers,
        body,
        answered_in,
        started_in: invocation.started_in.unwrap_or_default(),
        usage: engines::usage(owned.folder(), None).unwrap_or_default(),
    })
}

/// What `margay invoke` starts its container for.
struct Invocation<'a> {
    home: &'a Home,
    launch: &'a Launch,
    owned: &'a Owned,
    spare: Option<runtime::SpareWorker>,
    listeners: Listeners,
    broker: runtime::Broker,
    status: Status,
    began: Instant,
    started_in: Option<Duration>,
    started: &'a Notify,
    /// Why it never ran.
    failed: Option<Error>,
}

impl Supervisor for Invocation<'_> {
    async fn prepare(&mut self) -> Result<()> {
        Ok(())
    }

    async fn spawn(&mut self) -> Result<Box<dyn Container>> {
        let (folder, spare) = (self.owned.folder(), self.spare.take());
        let stdio = Stdio::default();
        self.launch.start(self.home, folder, &self.listeners, stdio, &self.broker, spare).await
    }

    fn spawned(&mut self, container: &dyn Container) -> Result<()> {
        self.status.phase = Phase::Running;
        self.status.process = ProcessId::of(i32::try_from(container.pid()).unwrap_or(0));
        self.owned.write_status(&self.status)
    }

    fn started(&mut self) {
        self.started_in = Some(self.began.elapsed());
        self.started.notify_one();
    }

    fn denied(&mut self, _: String, _: u64) {}

    fn start_failed(&mut self, error: Error) -> (StartFailed, End) {
        self.failed = Some(error);
        (StartFailed::Here, End::default())
    }

    async fn ended(&mut self, _: &Ended) {}

    fn entered(&mut self, _: &Lifecycle, _: &End) {}
}

type Answer = std::result::Result<(http::response::Parts, Bytes), String>;

/// The request, as commands for the container that answers it: when it is done, the container
/// stops.
struct Asking<'a> {
    signals: &'a mut TaskSignals,
    request: Pin<Box<dyn Future<Output = (Answer, Duration)> + 'a>>,
    answer: Option<(Answer, Duration)>,
    interrupted: bool,
}

impl Commands for Asking<'_> {
    async fn next(&mut self) -> Command {
        tokio::select! {
            answer = &mut self.request, if self.answer.is_none() && !self.interrupted => {
                self.answer = Some(answer);
                Command::Stop(GRACE.into())
            }
            () = self.signals.stop() => {
                self.interrupted = true;
                Command::Kill
            }
        }
    }
}

async fn ask(
    socket: &std::path::Path,
    request: &InvokeRequest,
) -> Result<(http::response::Parts, Bytes), String> {
    let text = |error: &dyn std::error::Error| chain(error);
    let stream = net::connect_unix(socket).await.map_err(|error| text(&error))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| text(&error))?;
    tokio::spawn(async move { drop(connection.await) });
    let mut message = Request::builder()
        .method(request.method.clone())
        .uri(request.path.as_str())
        .body(Full::new(request.body.clone()))
        .map_err(|error| text(&error))?;
    *message.headers_mut() = request.headers.clone();
    message.headers_mut().entry(header::HOST).or_insert(HeaderValue::from_static("localhost"));
    let response = sender.send_request(message).await.map_err(|error| text(&error))?;
    let (parts, body) = response.into_parts();
    let body =
        Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| error.to_string())?;
    Ok((parts, body.to_bytes()))
}
