use spec::{Node, NodeCondition, NodeId, VolumeName};
use store::{Compare, Txn};

use crate::{
    api::{
        call::{Call, Reply},
        context::Api,
        error::ApiError,
        principal::Principal,
        types::Drain,
    },
    state::{
        keys,
        objects::Volume,
        records::{NodeRecord, Stored, encode},
    },
};

pub(crate) async fn list(call: Call) -> Result<Reply, ApiError> {
    let page = call.page(keys::NODES.to_owned(), |stored: Stored<NodeRecord>| {
        is_visible(&call, &stored.value).then(|| shown(&call.api, stored.value))
    });
    Reply::ok(&page.await?)
}

pub(crate) async fn show(call: Call) -> Result<Reply, ApiError> {
    let stored = find(&call, &call.param("node")?).await?;
    Reply::ok(&shown(&call.api, stored.value))
}

/// A tenant sees the nodes that it owns; the operator sees those of the pool too.
fn is_visible(call: &Call, node: &NodeRecord) -> bool {
    match &call.principal {
        Principal::Tenant(tenant) => node.tenant.as_ref() == Some(tenant),
        Principal::Operator(tenant) => {
            node.tenant.is_none() || node.tenant.as_ref() == Some(tenant) || node.in_pool()
        }
        Principal::Unauthenticated | Principal::Node { .. } => false,
    }
}

async fn find(call: &Call, id: &NodeId) -> Result<Stored<NodeRecord>, ApiError> {
    let found: Option<Stored<NodeRecord>> = call.state().get(keys::node(id)).await?;
    found
        .filter(|stored| is_visible(call, &stored.value))
        .ok_or_else(|| ApiError::not_found("node", id))
}

fn shown(api: &Api, record: NodeRecord) -> Node {
    let status = api.state.reports.node(&record.id);
    Node { id: record.id, tenant: record.tenant, spec: record.spec, status, draining: record.drain }
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
    let key = keys::node(&id);
    // What the ledger knows of its usage log stays for a while: the log does, too, and goes on when
    // the machine joins again.
    let mut txn = Txn::new().when(Compare::ModRev(key.clone(), stored.mod_rev)).delete(key);
    for fingerprint in &stored.value.certificates {
        txn = txn.delete(keys::certificate(fingerprint));
    }
    call.commit(txn).await?;
    call.state().reports.forget(&id);
    call.api.node_watch.forget(&id);
    Reply::done()
}

pub(crate) async fn drain(call: Call) -> Result<Reply, ApiError> {
    let (id, Drain { drain }) = (call.param::<NodeId>("node")?, call.json()?);
    let stored = find(&call, &id).await?;
    let record = NodeRecord { drain, ..stored.value };
    let key = keys::node(&id);
    let txn =
        Txn::new().when(Compare::ModRev(key.clone(), stored.mod_rev)).put(key, encode(&record));
    call.commit(txn).await?;
    Reply::ok(&shown(&call.api, record))
}

pub(crate) async fn volumes(call: Call) -> Result<Reply, ApiError> {
    Reply::ok(
        &call
            .page(keys::volumes(call.tenant()?), |stored: Stored<Volume>| Some(stored.value))
            .await?,
    )
}

pub(crate) async fn forget_volume(call: Call) -> Result<Reply, ApiError> {
    let (tenant, name) = (call.tenant()?, call.param::<VolumeName>("volume")?);
    let key = keys::volume(tenant, &name);
    let stored: Option<Stored<Volume>> = call.state().get(key.clone()).await?;
    let stored = stored.ok_or_else(|| ApiError::not_found("volume", &name))?;
    let user = {
        let model = call.state().model();
        let mounts = |definition: &crate::state::records::DefinitionRecord| {
            definition.mounted().contains(&name)
        };
        let mut live = model
            .tasks
            .iter()
            .filter(|((owner, _), task)| owner == tenant && !task.value.has_ended());
        live.find(|(_, task)| model.definition_of(&task.value).is_some_and(|found| mounts(found)))
            .map(|((_, id), _)| id.clone())
    };
    if let Some(task) = user {
        return Err(ApiError::in_use(format!("volume `{name}` is mounted by task `{task}`"))
            .hint("stop it first"));
    }
    let txn = Txn::new().when(Compare::ModRev(key.clone(), stored.mod_rev)).delete(key);
    call.commit(txn).await?;
    Reply::done()
}
