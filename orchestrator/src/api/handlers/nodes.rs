use spec::{Node, NodeCondition, NodeId, NodeSpec, POOL_NATIVE_LABEL, Timestamp, VolumeName};
use store::Txn;

use crate::{
    api::{
        call::{Call, Reply},
        context::Api,
        error::ApiError,
        principal::Principal,
        types::{Drain, UpdateNode},
    },
    limits::{DRAIN_DEADLINE_MAX, NODE_LABELS_MAX, NODE_TAINTS_MAX, WRITE_TRIES_MAX},
    state::{
        keys,
        model::Model,
        node_groups::NODE_GROUP_LABEL,
        now,
        objects::Volume,
        records::{DefinitionRecord, Guarded, NodeRecord, POOL_LABEL, Stored},
    },
};

pub(crate) async fn list(call: Call) -> Result<Reply, ApiError> {
    call.page(keys::NODES.to_owned(), |node: NodeRecord| {
        is_visible(&call, &node).then(|| shown(&call.api, node))
    })
    .await
}

pub(crate) async fn show(call: Call) -> Result<Reply, ApiError> {
    let stored = find(&call, &call.param("node")?).await?;
    Reply::ok(&shown(&call.api, stored.value))
}

/// A tenant sees the nodes that it owns; the operator sees those of the pool too.
fn is_visible(call: &Call, node: &NodeRecord) -> bool {
    match &call.principal {
        Principal::Tenant { tenant, .. } => node.tenant.as_ref() == Some(tenant),
        Principal::Operator(tenant) => {
            node.tenant.is_none() || node.tenant.as_ref() == Some(tenant) || node.in_pool()
        }
        Principal::Unauthenticated | Principal::Node { .. } => false,
    }
}

/// Whether the caller is told of this node.
pub(super) fn sees(call: &Call, model: &Model, id: &NodeId) -> bool {
    model.nodes.get(id).is_some_and(|node| is_visible(call, node))
}

pub(super) async fn find(call: &Call, id: &NodeId) -> Result<Stored<NodeRecord>, ApiError> {
    let found: Option<Stored<NodeRecord>> = call.state().get(keys::node(id)).await?;
    found
        .filter(|stored| is_visible(call, &stored.value))
        .ok_or_else(|| ApiError::not_found("node", id))
}

fn shown(api: &Api, record: NodeRecord) -> Node {
    let status = api.state.reports.node(&record.id);
    let problems = api.state.reports.problems(&record.id);
    let tasks = api.state.model().tasks_on(&record.id).count();
    let spec = NodeSpec { labels: record.all_labels(), ..record.spec };
    Node {
        id: record.id,
        tenant: record.tenant,
        spec,
        status,
        draining: record.drain,
        drain_deadline: record.drain_deadline,
        cordoned: record.cordoned,
        taints: record.taints,
        tasks: u32::try_from(tasks).unwrap_or(u32::MAX),
        problems,
    }
}

/// No work is lost by a slip: a node that reports is removed when it has been drained, or by
/// force.
fn check_removable(api: &Api, node: &NodeRecord) -> Result<(), ApiError> {
    let tasks = api.state.model().tasks_on(&node.id).count();
    let why = match api.state.reports.node(&node.id).condition {
        NodeCondition::Disconnected => return Ok(()), // what it ran is replaced already
        NodeCondition::Ready | NodeCondition::Suspect if tasks == 1 => "has a task".to_owned(),
        NodeCondition::Ready | NodeCondition::Suspect if tasks > 1 => format!("has {tasks} tasks"),
        NodeCondition::Ready | NodeCondition::Suspect if node.drain => return Ok(()),
        NodeCondition::Ready | NodeCondition::Suspect => "is not down".to_owned(),
    };
    let id = &node.id;
    Err(ApiError::in_use(format!("node `{id}` {why}")).hint(format!(
        "move its work elsewhere first: margay node drain {id}; or: margay node rm --force {id}"
    )))
}

pub(crate) async fn remove(call: Call) -> Result<Reply, ApiError> {
    let id: NodeId = call.param("node")?;
    let stored = find(&call, &id).await?;
    if call.query("force") != Some("true") {
        check_removable(&call.api, &stored.value)?;
    }
    // What the ledger knows of its usage log stays for a while: the log does, too, and goes on when
    // the machine joins again.
    let mut txn = Txn::new().remove(keys::node(&id), stored.mod_rev);
    for fingerprint in &stored.value.certificates {
        txn = txn.delete(keys::certificate(fingerprint));
    }
    txn = txn.delete(keys::usage_allowance(&id));
    call.commit(txn).await?;
    call.state().reports.forget(&id);
    if let Err(fault) = call.api.resolver.forget_node(&id).await {
        // They end by themselves; and without a registry they are worth nothing.
        tracing::warn!(node = %id, %fault, "the pull tokens of a removed node are not revoked");
    }
    call.api.node_watch.forget(&id);
    call.api.streams.forget(&id);
    Reply::done()
}

pub(crate) async fn drain(call: Call) -> Result<Reply, ApiError> {
    let (id, wanted): (NodeId, Drain) = (call.param("node")?, call.json()?);
    let drain_deadline = match wanted.deadline_seconds {
        Some(_) if !wanted.drain => {
            return Err(ApiError::invalid(
                "`deadline_seconds` is for a drain, and not for its end",
            ));
        }
        Some(seconds) if seconds > DRAIN_DEADLINE_MAX.as_secs() => {
            let most = DRAIN_DEADLINE_MAX.as_secs();
            return Err(ApiError::invalid(format!("`deadline_seconds` is at most {most}")));
        }
        Some(seconds) => Some(Timestamp::from_millis(now().millis() + seconds * 1000)),
        None => None,
    };
    change(&call, &id, |record| {
        (record.drain, record.drain_deadline) = (wanted.drain, drain_deadline);
        Ok(())
    })
    .await
}

pub(crate) async fn update(call: Call) -> Result<Reply, ApiError> {
    let (id, wanted): (NodeId, UpdateNode) = (call.param("node")?, call.json()?);
    if wanted.labels.contains_key(POOL_LABEL) || wanted.labels.contains_key(POOL_NATIVE_LABEL) {
        return Err(ApiError::invalid(format!(
            "labels `{POOL_LABEL}` and `{POOL_NATIVE_LABEL}` say what a node consents to, and are \
             given at the node"
        )));
    }
    let names = wanted.labels.keys().chain(&wanted.remove_labels);
    if names.into_iter().any(|name| name == NODE_GROUP_LABEL) {
        return Err(ApiError::invalid(format!(
            "label `{NODE_GROUP_LABEL}` says by which group a node was added, and stays"
        )));
    }
    for (name, value) in &wanted.labels {
        spec::check_label(name, value)?;
    }
    change(&call, &id, |record| applied(&wanted, record)).await
}

/// Writes what `change` makes of a node.
async fn change(
    call: &Call,
    id: &NodeId,
    change: impl Fn(&mut NodeRecord) -> Result<(), ApiError>,
) -> Result<Reply, ApiError> {
    for _ in 0..WRITE_TRIES_MAX {
        let stored = find(call, id).await?;
        let mut record = stored.value;
        change(&mut record)?;
        let txn = Txn::new().update(keys::node(id), stored.mod_rev, &record);
        if call.state().commit(txn).await? {
            return Reply::ok(&shown(&call.api, record));
        }
    }
    Err(ApiError::conflict())
}

fn applied(wanted: &UpdateNode, record: &mut NodeRecord) -> Result<(), ApiError> {
    let id = record.id.clone();
    record.cordoned = wanted.cordoned.unwrap_or(record.cordoned);
    for name in &wanted.remove_labels {
        if record.labels.remove(name).is_none() {
            return Err(ApiError::invalid(format!("node `{id}` was given no label `{name}`")));
        }
    }
    record.labels.extend(wanted.labels.clone());
    for key in &wanted.remove_taints {
        let before = record.taints.len();
        record.taints.retain(|taint| taint.key != *key);
        if record.taints.len() == before {
            return Err(ApiError::invalid(format!("node `{id}` has no taint `{key}`")));
        }
    }
    for taint in &wanted.taints {
        record.taints.retain(|known| (&known.key, known.effect) != (&taint.key, taint.effect));
        record.taints.push(taint.clone());
    }
    let labels = record.all_labels().len();
    if labels > NODE_LABELS_MAX || record.taints.len() > NODE_TAINTS_MAX {
        return Err(ApiError::invalid(format!(
            "node `{id}` would have {labels} labels and {} taints: {NODE_LABELS_MAX} and \
             {NODE_TAINTS_MAX} are the most",
            record.taints.len()
        )));
    }
    Ok(())
}

pub(crate) async fn volumes(call: Call) -> Result<Reply, ApiError> {
    call.page(keys::volumes(call.tenant()?), |volume: Volume| Some(volume)).await
}

pub(crate) async fn forget_volume(call: Call) -> Result<Reply, ApiError> {
    let (tenant, name) = (call.tenant()?, call.param::<VolumeName>("volume")?);
    let key = keys::volume(tenant, &name);
    let stored: Stored<Volume> = call.find(key.clone(), "volume", &name).await?;
    let user = {
        let model = call.state().model();
        let mut live = model.live_tasks_of(tenant);
        let mounts = |definition: &DefinitionRecord| definition.mounted().contains(&name);
        live.find(|task| model.definition_of(task).is_some_and(|found| mounts(found)))
            .map(|task| task.id().clone())
    };
    if let Some(task) = user {
        return Err(ApiError::in_use(format!("volume `{name}` is mounted by task `{task}`"))
            .hint("stop it first"));
    }
    call.commit(Txn::new().remove(key, stored.mod_rev)).await?;
    Reply::done()
}
