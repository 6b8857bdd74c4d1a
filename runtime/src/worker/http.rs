use std::{
    convert::Infallible,
    io,
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use engine::{Event, Exit, Listeners};
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use hyper::{body::Incoming, service::service_fn};
use net::{ConnectionLimits, Connections, HttpLimits, Listener, Sender};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};
use wasmtime::component::InstancePre;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use super::{
    backtrace::backtrace,
    bodies::{
        Progress, RequestBody, ResponseBody, collected, error_response, fault_response, judged,
    },
    container::{Container, Fault},
    guest::Guest,
    instances::{Answer, Instances},
    meter::Timed,
};

/// Connections of published ports that one worker holds at once. Each costs two descriptors at
/// most, of which there are 8192.
const PUBLISHED_CONNECTIONS_MAX: usize = 2048;
/// Of these, from one address prefix; more are closed. A quarter, as at the ingress: a proxy in
/// front brings all clients from one.
const CONNECTIONS_PER_ADDRESS_MAX: usize = PUBLISHED_CONNECTIONS_MAX / 4;
/// Connections of the ingress, which has limits of its own, and from which no client of a published
/// port takes one.
const INGRESS_CONNECTIONS_MAX: usize = 1792;
const HTTP_LIMITS: HttpLimits = HttpLimits::with_times(
    // A client that has not sent its headers by then is not going to.
    Duration::from_secs(10),
    // A client that takes nothing of its response for so long is gone.
    Duration::from_secs(30),
);

/// Handles requests: a fresh instance for each, unless the image's author lets one answer several.
pub(super) struct Handler {
    container: Arc<Container>,
    pre: ProxyPre<Guest>,
    instances: Arc<Instances>,
    concurrency: Arc<Semaphore>,
}

/// Serves until it is told to stop.
pub(super) async fn serve(
    container: Arc<Container>,
    pre: InstancePre<Guest>,
    listeners: Listeners,
) -> Exit {
    let pre = match ProxyPre::new(pre) {
        Ok(pre) => pre,
        Err(error) => {
            return Exit::NotStarted(format!("the program does not answer HTTP: {error:#}"));
        }
    };
    let (published, ingress) = match accepting_from(listeners) {
        Ok(listeners) => listeners,
        Err(error) => return Exit::NotStarted(format!("a listener cannot be used: {error}")),
    };
    let concurrency = Arc::new(Semaphore::new(container.limits.concurrency_max.max(1) as usize));
    let instances = Arc::new(Instances::new(container.clone()));
    let handler = Arc::new(Handler { container, pre, instances, concurrency });
    let clients = ConnectionLimits::new(PUBLISHED_CONNECTIONS_MAX, CONNECTIONS_PER_ADDRESS_MAX);
    let (clients, ingresses) =
        (Arc::new(clients), Arc::new(ConnectionLimits::in_all(INGRESS_CONNECTIONS_MAX)));
    let connections = Connections::new();
    let mut accepting = tokio::task::JoinSet::new();
    for listener in published {
        accepting.spawn(accept(handler.clone(), connections.clone(), clients.clone(), listener));
    }
    for listener in ingress {
        accepting.spawn(accept(handler.clone(), connections.clone(), ingresses.clone(), listener));
    }
    if handler.instances.are_reused() {
        accepting.spawn(handler.instances.clone().sweep());
    }
    let mut stopping = handler.container.control.stopping();
    handler.container.control.report(Event::Started);
    let grace =
        stopping.wait_for(Option::is_some).await.ok().and_then(|grace| *grace).unwrap_or_default();
    // A client that connects from here on waits in the listener, which the agent keeps, for the
    // next worker.
    accepting.shutdown().await;
    connections.drain(grace).await;
    Exit::TERMINATED
}

/// Every listener of the container, ready for its event loop.
fn accepting_from(listeners: Listeners) -> io::Result<(Vec<TcpListener>, Vec<UnixListener>)> {
    let published = listeners.published.into_iter().map(|engine::Listener { socket, .. }| {
        socket.set_nonblocking(true)?;
        TcpListener::from_std(socket)
    });
    let ingress = listeners.ingress.into_iter().map(|engine::Listener { socket, .. }| {
        socket.set_nonblocking(true)?;
        UnixListener::from_std(socket)
    });
    Ok((published.collect::<io::Result<_>>()?, ingress.collect::<io::Result<_>>()?))
}

async fn accept<L: Listener>(
    handler: Arc<Handler>,
    connections: Connections,
    limits: Arc<ConnectionLimits>,
    listener: L,
) {
    let accepted = |stream, client: Option<IpAddr>, permit| {
        let (handler, connections) = (handler.clone(), connections.clone());
        async move {
            let handler = &handler;
            let sender = client.map(|address| Sender::direct(address, net::Scheme::Http));
            let sender = sender.as_ref();
            let service = service_fn(|request| async move {
                Ok::<_, Infallible>(handler.answer(request, sender).await)
            });
            connections.serve_http(stream, HTTP_LIMITS, service).await;
            drop(permit);
        }
    };
    match connections.accept(&listener, &limits, accepted).await {}
}

/// A run from its admission to its record, also when its client is gone.
struct Run {
    container: Arc<Container>,
    /// Also looked at by the response's body, which must not end as if it were complete.
    fault: Arc<OnceLock<Fault>>,
    _ticking: super::ticker::Running,
    _permit: OwnedSemaphorePermit,
}

impl Run {
    fn failed(&self, fault: Fault) -> Fault {
        self.failed_at(fault, Vec::new)
    }

    /// The same, and where in the guest it was. What failed first is the fault, and told at once.
    fn failed_at(&self, fault: Fault, backtrace: impl FnOnce() -> Vec<String>) -> Fault {
        let first = self.fault.get_or_init(|| {
            let mut lines = vec![fault.line()];
            lines.extend(backtrace());
            self.container.stderr.say_all(&lines);
            fault
        });
        first.clone()
    }

    /// The response of a guest that has ended, and what it ended with.
    fn whole<T>(
        &self,
        ended: Result<T, Fault>,
        answer: Option<Answer>,
    ) -> Result<(Response<ResponseBody>, T), Fault> {
        let response = match answer {
            Some(Ok(response)) => response,
            Some(Err(code)) => {
                let fault = ended.err().unwrap_or(Fault::Trap(format!("{code:?}")));
                return Err(self.failed(fault));
            }
            None => return Err(self.failed(ended.err().unwrap_or(Fault::NoAnswer))),
        };
        let ended = ended?;
        let (head, body) = response.into_parts();
        let head = judged(head).map_err(|fault| self.failed(fault))?;
        let body = collected(body).map_err(|e| self.failed(Fault::Trap(e.to_string())))?;
        let (data, trailers) = body.ok_or_else(|| self.failed(Fault::NoAnswer))?;
        let body = ResponseBody::whole(data, trailers, self.container.meter.clone());
        Ok((Response::from_parts(head, body), ended))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.container.ran(self.fault.get().is_some());
    }
}

impl Handler {
    /// The response to a request of `sender`, or of the ingress, which has judged its client.
    async fn answer(
        &self,
        mut request: Request<Incoming>,
        sender: Option<&Sender>,
    ) -> Response<ResponseBody> {
        if let Some(sender) = sender {
            sender.replace_claims(request.headers_mut());
        }
        let limits = &self.container.limits;
        let meter = || self.container.meter.clone();
        if request.body().size_hint().lower() > limits.request_body_bytes_max {
            let sentence =
                format!("a request to this app may have {} bytes", limits.request_body_bytes_max);
            return error_response(StatusCode::PAYLOAD_TOO_LARGE, "E_BODY", &sentence, meter());
        }
        if request.uri().authority().is_none()
            && !request.headers().contains_key(http::header::HOST)
        {
            return error_response(
                StatusCode::BAD_REQUEST,
                "E_HOST",
                "the request has no `Host`",
                meter(),
            );
        }
        let upgrades = request.headers().get_all(http::header::UPGRADE);
        if upgrades.iter().any(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket")) {
            let sentence = "a WebAssembly app answers requests and has no WebSockets";
            return error_response(StatusCode::NOT_IMPLEMENTED, "E_UNSUPPORTED", sentence, meter());
        }
        let began = Instant::now();
        let deadline = limits.wall_time_max.map(|max| began + max);
        let Some(permit) = self.permit(deadline).await else {
            return fault_response(&Fault::Busy, meter());
        };
        match self.run(request, permit, began, deadline).await {
            Ok(response) => response,
            Err(fault) => fault_response(&fault, meter()),
        }
    }

    async fn permit(&self, deadline: Option<Instant>) -> Option<OwnedSemaphorePermit> {
        let permit = self.concurrency.clone();
        if let Ok(permit) = permit.clone().try_acquire_owned() {
            return Some(permit);
        }
        match deadline {
            Some(deadline) => timeout_at(deadline, permit.acquire_owned()).await.ok()?.ok(),
            None => permit.acquire_owned().await.ok(),
        }
    }

    /// One request, in an instance that answers no other meanwhile. When the guest has finished
    /// before its response leaves, which is the rule, the response is sent whole; otherwise the
    /// guest goes on writing while its response is sent.
    async fn run(
        &self,
        request: Request<Incoming>,
        permit: OwnedSemaphorePermit,
        began: Instant,
        deadline: Option<Instant>,
    ) -> Result<Response<ResponseBody>, Fault> {
        let container = &self.container;
        let mut instance = self.instances.take(began.into_std());
        let run = Arc::new(Run {
            container: container.clone(),
            fault: Arc::default(),
            _ticking: container.ticker.run(),
            _permit: permit,
        });
        let body_max = container.limits.request_body_bytes_max;
        let request = request.map(|body| RequestBody::new(body, body_max, container.meter.clone()));
        let (question, mut response) = instance
            .question(request)
            .map_err(|error| run.failed(Fault::Trap(error.to_string())))?;
        let (clock, pre, ended) = (instance.clock.clone(), self.pre.clone(), run.clone());
        let call = async move {
            match instance.answer(&pre, question).await {
                Ok(()) => Ok(instance.may_answer_again().then_some(instance)),
                // Set before the store goes, and with it the guest's end of the response's body.
                Err(error) => {
                    let refused = instance.store.data().held.was_refused();
                    let fault = ended.container.fault(&error, refused);
                    Err(ended.failed_at(fault, || backtrace(&error, &ended.container.lines)))
                }
            }
        };
        let mut call = Ending { run: run.clone(), deadline, call: Timed::new(call, clock) };
        tokio::select! {
            biased;
            ended = call.wait() => {
                drop(call);
                let (response, instance) = run.whole(ended, response.try_recv().ok())?;
                self.instances.keep(instance);
                Ok(response)
            }
            answer = &mut response => {
                let (head, body) = match answer {
                    Ok(Ok(response)) => response.into_parts(),
                    Ok(Err(code)) => return Err(run.failed(Fault::Trap(format!("{code:?}")))),
                    // The guest has dropped its answer and has not ended: its end decides.
                    Err(_) => {
                        let ended = call.wait().await;
                        return Err(run.failed(ended.err().unwrap_or(Fault::NoAnswer)));
                    }
                };
                // Ends when the guest does, when it pauses for too long, or when the client goes.
                let (progress, idle_max) = (Progress::begins(), container.limits.idle_time_max);
                let (made, instances) = (progress.clone(), self.instances.clone());
                tokio::spawn(async move {
                    let ended = call.wait_while_it_writes(&made, idle_max).await;
                    if let (Ok(instance), None) = (ended, call.run.fault.get()) {
                        instances.keep(instance);
                    }
                });
                let head = judged(head).map_err(|fault| run.failed(fault))?;
                let meter = container.meter.clone();
                let body = ResponseBody::stream(body, run.fault.clone(), progress, meter);
                Ok(Response::from_parts(head, body))
            }
        }
    }
}

/// A call on its way to its end.
struct Ending<F> {
    run: Arc<Run>,
    deadline: Option<Instant>,
    call: Timed<F>,
}

impl<T, F: Future<Output = Result<T, Fault>>> Ending<F> {
    async fn wait(&mut self) -> Result<T, Fault> {
        match self.deadline {
            Some(deadline) => match timeout_at(deadline, &mut self.call).await {
                Ok(ended) => ended,
                Err(_) => {
                    let max = self.run.container.limits.wall_time_max.unwrap_or_default();
                    Err(self.run.failed(Fault::Wall(max)))
                }
            },
            None => (&mut self.call).await,
        }
    }

    /// The response is on its way: from here on no piece of it may take longer than `idle_max`.
    async fn wait_while_it_writes(
        &mut self,
        progress: &Progress,
        idle_max: Duration,
    ) -> Result<T, Fault> {
        loop {
            let deadline = progress.last() + idle_max;
            match timeout_at(deadline, &mut self.call).await {
                Ok(ended) => return ended,
                Err(_) if progress.last() + idle_max <= deadline => {
                    return Err(self.run.failed(Fault::Idle(idle_max)));
                }
                Err(_) => {}
            }
        }
    }
}
