use std::{
    convert::Infallible,
    io,
    os::unix::net::UnixListener as StdUnixListener,
    sync::{Arc, OnceLock},
    time::Duration,
};

use http::{Request, Response, StatusCode};
use http_body::Body as _;
use hyper::{body::Incoming, service::service_fn};
use net::{ConnectionLimits, Connections, HttpLimits, Listener};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::{Instant, timeout_at},
};
use wasmtime::component::InstancePre;
use wasmtime_wasi_http::{
    WasiHttpView,
    p2::bindings::{ProxyPre, http::types::Scheme},
};

use super::{
    answer::{Bounded, Outcoming, collected, excuse, plain},
    container::{Container, Fault},
    guest::Guest,
    meter::Timed,
};
use crate::{Event, Exit};

/// Connections that one worker holds at once. Each costs two descriptors at most, of which there
/// are 8192.
const CONNECTIONS_MAX: usize = 2048;
const HTTP_LIMITS: HttpLimits = HttpLimits {
    // A client that has not sent its headers by then is not going to.
    head_time_max: Duration::from_secs(10),
    // A client that takes nothing of its response for so long is gone.
    write_time_max: Duration::from_secs(30),
};

/// Everything that answering takes.
pub(super) struct App {
    container: Arc<Container>,
    pre: ProxyPre<Guest>,
    concurrency: Arc<Semaphore>,
}

/// Serves until it is told to stop.
pub(super) async fn serve(
    container: Arc<Container>,
    pre: InstancePre<Guest>,
    tcp: Vec<std::net::TcpListener>,
    unix: Option<StdUnixListener>,
) -> Exit {
    let pre = match ProxyPre::new(pre) {
        Ok(pre) => pre,
        Err(error) => {
            return Exit::NotStarted(format!("the program does not answer HTTP: {error:#}"));
        }
    };
    let (tcp, unix) = match listeners(tcp, unix) {
        Ok(listeners) => listeners,
        Err(error) => return Exit::NotStarted(format!("a listener cannot be used: {error}")),
    };
    let concurrency = Arc::new(Semaphore::new(container.limits.concurrency_max.max(1) as usize));
    let app = Arc::new(App { container, pre, concurrency });
    let limits = Arc::new(ConnectionLimits::in_all(CONNECTIONS_MAX));
    let connections = Connections::new();
    let mut accepting = tokio::task::JoinSet::new();
    for listener in tcp {
        accepting.spawn(accept(app.clone(), connections.clone(), limits.clone(), listener));
    }
    if let Some(listener) = unix {
        accepting.spawn(accept(app.clone(), connections.clone(), limits, listener));
    }
    let mut stopping = app.container.control.stopping();
    app.container.control.report(Event::Started);
    let grace =
        stopping.wait_for(Option::is_some).await.ok().and_then(|grace| *grace).unwrap_or_default();
    // A client that connects from here on waits in the listener, which the agent keeps, for the
    // next worker.
    accepting.shutdown().await;
    connections.drain(grace).await;
    Exit::Stopped
}

fn listeners(
    tcp: Vec<std::net::TcpListener>,
    unix: Option<StdUnixListener>,
) -> io::Result<(Vec<TcpListener>, Option<UnixListener>)> {
    let tcp = tcp.into_iter().map(|listener| {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    });
    let unix = unix.map(|listener| {
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener)
    });
    Ok((tcp.collect::<io::Result<_>>()?, unix.transpose()?))
}

async fn accept<L: Listener>(
    app: Arc<App>,
    connections: Connections,
    limits: Arc<ConnectionLimits>,
    listener: L,
) {
    let accepted = |stream, _, permit| {
        let (app, connections) = (app.clone(), connections.clone());
        async move {
            let app = &app;
            let service =
                service_fn(|request| async move { Ok::<_, Infallible>(app.answer(request).await) });
            connections.serve_http(stream, HTTP_LIMITS, service).await;
            drop(permit);
        }
    };
    match connections.accept(&listener, &limits, accepted).await {}
}

/// A run from its admission to its record, also when nobody waits for it any more.
struct Run {
    container: Arc<Container>,
    /// Also looked at by the response's body, which must not end as if it were complete.
    fault: Arc<OnceLock<Fault>>,
    _ticking: super::ticker::Running,
    _permit: OwnedSemaphorePermit,
}

impl Run {
    fn failed(&self, fault: Fault) -> Fault {
        self.fault.get_or_init(|| fault).clone()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.container.ran(self.fault.get());
    }
}

impl App {
    async fn answer(&self, request: Request<Incoming>) -> Response<Outcoming> {
        let limits = &self.container.limits;
        let meter = || self.container.meter.clone();
        if request.body().size_hint().lower() > limits.request_body_bytes_max {
            let sentence =
                format!("a request to this app may have {} bytes", limits.request_body_bytes_max);
            return plain(StatusCode::PAYLOAD_TOO_LARGE, "E_BODY", &sentence, meter());
        }
        if request.uri().authority().is_none()
            && !request.headers().contains_key(http::header::HOST)
        {
            return plain(StatusCode::BAD_REQUEST, "E_HOST", "the request has no `Host`", meter());
        }
        let deadline = limits.wall_time_max.map(|max| Instant::now() + max);
        let Some(permit) = self.permit(deadline).await else {
            return excuse(&Fault::Busy, meter());
        };
        match self.run(request, permit, deadline).await {
            Ok(response) => response,
            Err(fault) => excuse(&fault, meter()),
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

    /// A fresh instance for one request. When the guest has finished before its response leaves,
    /// which is the rule, the response is sent whole; otherwise the guest goes on writing while its
    /// response is sent.
    async fn run(
        &self,
        request: Request<Incoming>,
        permit: OwnedSemaphorePermit,
        deadline: Option<Instant>,
    ) -> Result<Response<Outcoming>, Fault> {
        let container = &self.container;
        let (mut store, clock) = container.store();
        let run = Arc::new(Run {
            container: container.clone(),
            fault: Arc::default(),
            _ticking: container.ticker.run(),
            _permit: permit,
        });
        let broken = |error: wasmtime::Error| run.failed(Fault::Trap(error.to_string()));
        let body_max = container.limits.request_body_bytes_max;
        let request = request.map(|body| Bounded::new(body, body_max, container.meter.clone()));
        let incoming =
            store.data_mut().http().new_incoming_request(Scheme::Http, request).map_err(broken)?;
        let (sender, mut response) = oneshot::channel();
        let out = store.data_mut().http().new_response_outparam(sender).map_err(broken)?;
        let (pre, judged) = (self.pre.clone(), run.clone());
        let call = async move {
            let result = async {
                let proxy = pre.instantiate_async(&mut store).await?;
                proxy.wasi_http_incoming_handler().call_handle(&mut store, incoming, out).await
            }
            .await;
            // Said before the store goes, and with it the other end of the response's body.
            result.map_err(|error| {
                judged.failed(judged.container.fault(&error, store.data().held.was_refused()))
            })
        };
        let mut call = Ending { run: run.clone(), deadline, call: Timed::new(call, clock) };
        tokio::select! {
            biased;
            ended = call.wait() => {
                drop(call);
                let said = match response.try_recv() {
                    Ok(Ok(said)) => said,
                    Ok(Err(code)) => return Err(run.failed(ended.err().unwrap_or(Fault::Trap(format!("{code:?}"))))),
                    Err(_) => return Err(run.failed(ended.err().unwrap_or(Fault::NoAnswer))),
                };
                ended?;
                let (head, body) = said.into_parts();
                let failed = |e: wasmtime_wasi_http::Error| run.failed(Fault::Trap(e.to_string()));
                let (data, trailers) = collected(body).map_err(failed)?.ok_or_else(|| run.failed(Fault::NoAnswer))?;
                Ok(Response::from_parts(head, Outcoming::whole(data, trailers, container.meter.clone())))
            }
            said = &mut response => {
                let (head, body) = match said {
                    Ok(Ok(said)) => said.into_parts(),
                    Ok(Err(code)) => return Err(run.failed(Fault::Trap(format!("{code:?}")))),
                    // The guest has let go of its answer and has not ended: its end decides.
                    Err(_) => return Err(run.failed(call.wait().await.err().unwrap_or(Fault::NoAnswer))),
                };
                // Ends when the guest does, or at the deadline, or when the body is not wanted any
                // more.
                tokio::spawn(async move { call.wait().await });
                Ok(Response::from_parts(head, Outcoming::stream(body, run.fault.clone(), container.meter.clone())))
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

impl<F: Future<Output = Result<(), Fault>>> Ending<F> {
    async fn wait(&mut self) -> Result<(), Fault> {
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
}
