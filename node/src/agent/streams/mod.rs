//! Streams that clients of the control plane wait for: what a container wrote and uses, programs in
//! it, connections to its ports. The node dials; nothing listens for them here.

mod batch; // lines that travel together
mod logs; // what a container wrote
mod access; // requests that the ingress has taken
mod stats; // what it uses
mod exec; // another program in it
mod forward; // a connection to one of its ports

use std::{future::Future, sync::Arc};

use net::{FrameSender, FrameStream};
use spec::{
    ContainerName, Frame, Port, StreamAsk, StreamEnd, StreamRequest, StreamRequests, TaskId,
    Tenant,
    wire::{self, Fault},
};
use tokio::{
    task::JoinSet,
    time::{interval, sleep},
};

use super::{
    control::{Control, POLL_TIME_MAX, RETRY_AFTER},
    host::Host,
    limits::{STREAM_ALIVE_EVERY, STREAMS_MAX, STREAMS_UNKNOWN_PAUSE},
    process::Agent,
};
use crate::{
    error::{Error, Result, chain},
    tasks::{self, Origin, TaskFolder},
};

impl Agent {
    /// Takes up what clients wait for, again and again. They end with this.
    pub(super) async fn streams(&self) {
        let mut running = JoinSet::new();
        let mut control = self.control();
        loop {
            let asked = match &control {
                Ok(control) => {
                    control.get::<StreamRequests>("/v1/node/streams", POLL_TIME_MAX).await
                }
                Err(error) => Err(Error::Identity(chain(error))),
            };
            while running.try_join_next().is_some() {}
            match asked.and_then(known_version) {
                Ok(asked) => {
                    for request in asked.streams {
                        if running.len() < STREAMS_MAX
                            && let Ok(control) = self.control()
                        {
                            running.spawn(serve(control, self.host.clone(), request));
                        }
                    }
                }
                Err(error) => {
                    tracing::debug!(error = chain(&error), "no streams");
                    // An earlier control plane has none; one that is away is back soon.
                    let refused = matches!(error, Error::Refused(_));
                    sleep(if refused { STREAMS_UNKNOWN_PAUSE } else { RETRY_AFTER }).await;
                    control = self.control();
                }
            }
        }
    }
}

fn known_version(asked: StreamRequests) -> Result<StreamRequests> {
    match wire::check_version("the streams that clients wait for", asked.version) {
        Ok(()) => Ok(asked),
        Err(error) => Err(Error::Identity(error.to_string())),
    }
}

/// The frames to the client of one stream.
#[derive(Clone)]
struct Output(FrameSender);

impl Output {
    async fn send(&self, frame: &Frame) -> Result<(), net::Gone> {
        self.0.send(frame).await
    }

    /// Says every few seconds that this side is there.
    async fn keep_alive(&self) {
        let mut next = interval(STREAM_ALIVE_EVERY);
        loop {
            next.tick().await;
            let _ = self.0.offer(&Frame::Alive);
        }
    }
}

/// One stream, to its end.
async fn serve(control: Control, host: Arc<Host>, request: StreamRequest) {
    let (sender, body) = net::frame_body();
    let path = format!("/v1/node/streams/{}", request.id);
    let mut from_client = match control.open(&path, body).await {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(error = chain(&error), "a client has gone before its stream began");
            return;
        }
    };
    let output = Output(sender);
    let answer = answer(&host, request, &output, &mut from_client);
    // A side that waits for its container to read does not look at what comes from the client.
    let end = tokio::select! {
        end = answer => end,
        () = output.keep_alive() => return,
        () = output.0.closed() => return,
    };
    let _ = output.send(&Frame::End(end)).await;
    // The control plane ends the request when it has passed the last frame on.
    while let Ok(Some(_)) = from_client.next().await {}
}

async fn answer(
    host: &Arc<Host>,
    request: StreamRequest,
    output: &Output,
    from_client: &mut FrameStream,
) -> StreamEnd {
    let StreamRequest { tenant, task, container, ask, .. } = request;
    let Some((task, container)) = task.zip(container) else {
        return of_ingress(host, ask, output, from_client).await;
    };
    let folder = match folder(host, (&tenant, &task, &container)).await {
        Ok(folder) => folder,
        Err(fault) => return StreamEnd { exit_code: None, fault: Some(fault) },
    };
    let ended = match ask {
        StreamAsk::Logs(query) => until_gone(from_client, logs::send(folder, query, output)).await,
        StreamAsk::Stats => until_gone(from_client, stats::send(folder, output)).await,
        StreamAsk::Exec(program) => exec::run(host, folder, *program, output, from_client).await,
        StreamAsk::Forward(port) => {
            let socket = crate::ingress::socket_name(&tenant, &task, Port::tcp(port));
            let path = host.ingress.sockets().join(socket);
            forward::relay(folder, port, path, output, from_client).await
        }
        StreamAsk::AccessLog(_) => return not_offered(),
    };
    ended.unwrap_or_else(|error| refusal(task.as_str(), &error))
}

/// A stream that is about no task.
async fn of_ingress(
    host: &Arc<Host>,
    ask: StreamAsk,
    output: &Output,
    from_client: &mut FrameStream,
) -> StreamEnd {
    let StreamAsk::AccessLog(query) = ask else { return not_offered() };
    let [now, before] = host.ingress.access_logs();
    let logs = access::AccessLogs { now, before, node: host.node.to_string() };
    let sent = until_gone(from_client, access::send(logs, query, output)).await;
    sent.unwrap_or_else(|error| {
        let fault = Fault { code: "failed".to_owned(), message: chain(&error), hint: None };
        StreamEnd { exit_code: None, fault: Some(fault) }
    })
}

fn not_offered() -> StreamEnd {
    let message = "a node does not offer this stream of its ingress or of a task".to_owned();
    let fault = Fault { code: "invalid".to_owned(), message, hint: None };
    StreamEnd { exit_code: None, fault: Some(fault) }
}

/// Does `work` for as long as its client is there.
async fn until_gone(
    from_client: &mut FrameStream,
    work: impl Future<Output = Result<StreamEnd>>,
) -> Result<StreamEnd> {
    let gone = async { while let Ok(Some(_)) = from_client.next().await {} };
    tokio::select! {
        ended = work => ended,
        () = gone => Ok(StreamEnd::default()),
    }
}

/// The folder of the container, which may have ended.
async fn folder(
    host: &Arc<Host>,
    (tenant, task, container): (&Tenant, &TaskId, &ContainerName),
) -> Result<TaskFolder, Fault> {
    let own = (tenant.clone(), task.clone(), container.clone());
    let host = host.clone();
    let node = host.node.clone();
    let found = tokio::task::spawn_blocking(move || {
        let (tenant, task, container) = &own;
        let folder = tasks::find(&host.home, &format!("{tenant}.{task}.{container}")).ok()?;
        match &folder.record().origin {
            Origin::Cluster(origin)
                if (&origin.tenant, &origin.task, &origin.container)
                    == (tenant, task, container) =>
            {
                Some(folder)
            }
            _ => None,
        }
    });
    found.await.ok().flatten().ok_or_else(|| Fault {
        code: "not-found".to_owned(),
        message: format!(
            "container `{}` of task `{}` has left nothing on node `{node}`",
            container, task
        ),
        hint: Some("what ended is kept for an hour; see its state: margay task ls -a".to_owned()),
    })
}

/// Why a stream cannot be, in words that are true far from this machine: hints name verbs of the
/// control plane.
fn refusal(task: &str, error: &Error) -> StreamEnd {
    let (code, message, hint) = match error {
        Error::NotJoinable { state, .. } => (
            "not-running",
            format!("task `{task}` is not running: it {state}"),
            Some(format!(
                "see why: margay explain task {task}; and what it wrote: margay logs {task}"
            )),
        ),
        Error::NoLog(_) => ("no-log", format!("task `{task}` keeps no log"), None),
        Error::Start { why, hint, .. } => {
            ("not-started", format!("cannot start a program in `{task}`: {why}"), hint.clone())
        }
        other => ("failed", format!("task `{task}`: {}", chain(other)), None),
    };
    let exit_code = match error {
        Error::Start { exit_code, .. } => Some(*exit_code),
        _ => None,
    };
    let fault = Fault { code: code.to_owned(), message, hint };
    StreamEnd { exit_code, fault: Some(fault) }
}
