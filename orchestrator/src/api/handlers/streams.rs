//! What a container wrote and uses, programs in it and connections to it, from anywhere.

use http::StatusCode;
use net::FrameReader;
use spec::{
    ContainerName, ExecProgram, Frame, LogQuery, NodeCondition, NodeId, ParseError, StreamAsk,
    StreamRequest, StreamRequests, TaskId, TaskPhase, Tenant, Timestamp, wire,
};
use tokio::time::timeout;

use crate::{
    api::{
        call::{Call, Reply},
        error::ApiError,
        principal::Principal,
        query,
        streams::{self, Client, Rights, StreamPermit},
    },
    limits::{BODY_TIME_MAX, POLL_TIME_MAX, STREAM_TEXT_BYTES_MAX},
    plan::Subject,
    state::{
        keys,
        records::{Stored, TaskRecord},
        tokens,
    },
};

pub(crate) async fn logs(call: Call) -> Result<Reply, ApiError> {
    let query = log_query(&call)?;
    let place = Place::of(&call).await?;
    begin(call, place, StreamAsk::Logs(query), None).await
}

/// Which lines the client wants.
pub(super) fn log_query(call: &Call) -> Result<LogQuery, ApiError> {
    let grep = match call.query("grep") {
        Some(text) => Some(query::decoded(text)?),
        None => None,
    };
    if grep.as_ref().is_some_and(|text| text.is_empty() || text.len() > STREAM_TEXT_BYTES_MAX) {
        let message = format!("`grep` has 1 to {STREAM_TEXT_BYTES_MAX} bytes");
        return Err(ApiError::invalid(message));
    }
    let time = |name: &str| -> Result<Option<Timestamp>, ApiError> {
        Ok(call
            .query(name)
            .map(query::decoded)
            .transpose()?
            .map(|text| text.parse())
            .transpose()?)
    };
    let tail = call.query("tail").map(|text| {
        text.parse::<u64>().map_err(|_| ApiError::invalid("`tail` is a number of lines"))
    });
    Ok(LogQuery {
        follow: flag(call, "follow")?,
        tail: tail.transpose()?,
        since: time("since")?,
        until: time("until")?,
        grep,
    })
}

pub(crate) async fn stats(call: Call) -> Result<Reply, ApiError> {
    let place = Place::of(&call).await?;
    begin(call, place, StreamAsk::Stats, None).await
}

pub(crate) async fn exec(mut call: Call) -> Result<Reply, ApiError> {
    // Before a byte of its body is held: the first frame is large, and in no other budget.
    let place = Place::of(&call).await?;
    let mut frames = FrameReader::new(call.stream()?);
    let first = timeout(BODY_TIME_MAX, frames.next()).await;
    let Ok(Ok(Some(Frame::Program(program)))) = first else {
        let message = format!("{}: a program is its first frame", call.not_the_body());
        return Err(ApiError::invalid(message));
    };
    check(&program)?;
    begin(call, place, StreamAsk::Exec(program), Some(frames)).await
}

fn check(program: &ExecProgram) -> Result<(), ApiError> {
    if program.args.is_empty() {
        return Err(ApiError::invalid("`args` names no program"));
    }
    let texts = program.args.iter().chain(program.env.keys()).chain(program.env.values());
    let texts = texts.chain(&program.working_dir).chain(&program.user);
    if texts.map(String::len).sum::<usize>() > STREAM_TEXT_BYTES_MAX {
        let message = format!("the program has more than {STREAM_TEXT_BYTES_MAX} bytes of words");
        return Err(ApiError::invalid(message));
    }
    Ok(())
}

pub(crate) async fn forward(mut call: Call) -> Result<Reply, ApiError> {
    let port =
        call.query("port").and_then(|text| text.parse::<u16>().ok()).filter(|port| *port > 0);
    let port = port.ok_or_else(|| ApiError::invalid("`port` is 1 to 65535"))?;
    let place = Place::of(&call).await?;
    let frames = FrameReader::new(call.stream()?);
    begin(call, place, StreamAsk::Forward(port), Some(frames)).await
}

fn flag(call: &Call, name: &str) -> Result<bool, ApiError> {
    match call.query(name) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(ApiError::invalid(format!("`{name}` is true or false"))),
    }
}

/// Where a stream leads, and the room for it.
pub(super) struct Place {
    pub tenant: Tenant,
    /// Nothing where it is the ingress of the node.
    pub container: Option<(TaskId, ContainerName)>,
    pub node: NodeId,
    pub permit: StreamPermit,
}

impl Place {
    async fn of(call: &Call) -> Result<Self, ApiError> {
        let (tenant, task) = (call.tenant()?.clone(), call.param::<TaskId>("task")?);
        let key = keys::task(&tenant, &task);
        let stored: Stored<TaskRecord> = call.find(key, "task", &task).await?;
        let container = container(call, &stored.value)?;
        let (node, owner) = node_of(call, &stored.value)?;
        let permit = call.api.streams.admit(&tenant, &node, owner.as_ref())?;
        Ok(Self { tenant, container: Some((task, container)), node, permit })
    }
}

pub(super) async fn begin(
    call: Call,
    place: Place,
    ask: StreamAsk,
    frames: Option<FrameReader>,
) -> Result<Reply, ApiError> {
    let Place { tenant, container, node, permit } = place;
    let (task, container) = container.unzip();
    let streams = &call.api.streams;
    let id = tokens::random_hex();
    let request = StreamRequest { id, tenant: tenant.clone(), task, container, ask };
    let side = streams.ask(&node, request).await?;
    let (state, principal) = (call.api.state.clone(), call.principal.clone());
    let rights = Rights { state, principal, node: node.clone() };
    let client = Client { tenant, frames, permit, rights };
    Ok(Reply::stream(streams::begin(streams, &node, side, client).await?))
}

/// The one that is asked for, or the only one.
fn container(call: &Call, record: &TaskRecord) -> Result<ContainerName, ApiError> {
    let model = call.state().model();
    let definition = model
        .definition_of(record)
        .ok_or_else(|| ApiError::not_found("task definition", &record.task.spec.task_definition))?;
    let names: Vec<&ContainerName> =
        definition.definition.containers.iter().map(|container| &container.name).collect();
    let listed = || {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        format!("it has: {}", names.join(", "))
    };
    match call.query("container") {
        None => match names.as_slice() {
            [only] => Ok((*only).clone()),
            _ => {
                let message = format!("task `{}` has several containers", record.id());
                let first = names.first().map(ToString::to_string).unwrap_or_default();
                let hint = format!("name one, as in {}.{first}; {}", record.id(), listed());
                Err(ApiError::invalid(message).hint(hint))
            }
        },
        Some(text) => {
            let name: ContainerName = text.parse().map_err(|error: ParseError| error)?;
            match names.contains(&&name) {
                true => Ok(name),
                false => {
                    let message = format!("task `{}` has no container `{name}`", record.id());
                    Err(ApiError::new(StatusCode::NOT_FOUND, "not-found", message).hint(listed()))
                }
            }
        }
    }
}

/// The node that has the task, if it can be asked, and the tenant that owns it.
fn node_of(call: &Call, record: &TaskRecord) -> Result<(NodeId, Option<Tenant>), ApiError> {
    let id = record.id();
    let Some(node) = record.task.spec.node.clone() else {
        let why = match record.task.status.phase {
            TaskPhase::Stopped => record.task.status.reason.clone(),
            _ => {
                call.api.reconciler.waiting(&Subject::Task(record.key())).map(|why| why.to_string())
            }
        };
        let why = why.map_or(String::new(), |why| format!(": {why}"));
        let message = format!("task `{id}` was placed on no node{why}");
        return Err(ApiError::new(StatusCode::CONFLICT, "not-placed", message));
    };
    let owner = reachable(call, &node, &format!("which has task `{id}`"))?;
    Ok((node, owner))
}

/// The tenant that owns `node`, which can be asked; `why` says for messages what it is needed for.
pub(super) fn reachable(call: &Call, node: &NodeId, why: &str) -> Result<Option<Tenant>, ApiError> {
    let owner = call.state().model().nodes.get(node).map(|record| record.tenant.clone());
    let Some(owner) = owner else {
        let message = format!("node `{node}`, {why}, was removed");
        return Err(ApiError::new(StatusCode::NOT_FOUND, "not-found", message));
    };
    match call.state().reports.node(node).condition {
        NodeCondition::Ready | NodeCondition::Suspect => Ok(owner),
        NodeCondition::Disconnected => {
            let message = format!("node `{node}`, {why}, is disconnected");
            Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "node-disconnected", message)
                .hint("see since when: margay node ls"))
        }
    }
}

fn this_node(call: &Call) -> Result<NodeId, ApiError> {
    match &call.principal {
        Principal::Node { id, .. } => Ok(id.clone()),
        _ => Err(ApiError::forbidden()),
    }
}

/// What clients wait for. Empty after a while.
pub(crate) async fn untold(call: Call) -> Result<Reply, ApiError> {
    let node = this_node(&call)?;
    let streams = timeout(POLL_TIME_MAX, call.api.streams.untold(&node)).await;
    let streams = streams.unwrap_or_default();
    Reply::ok(&StreamRequests { version: wire::VERSION, streams })
}

/// A node takes up a stream: what its client sends is the response.
pub(crate) async fn take_up(mut call: Call) -> Result<Reply, ApiError> {
    let (node, id) = (this_node(&call)?, call.text_param("stream").to_owned());
    let frames = FrameReader::new(call.stream()?);
    match call.api.streams.take_up(&node, &id, frames) {
        Some(body) => Ok(Reply::stream(body)),
        None => {
            let message = "the client of this stream waits no longer";
            Err(ApiError::new(StatusCode::NOT_FOUND, "not-found", message))
        }
    }
}
