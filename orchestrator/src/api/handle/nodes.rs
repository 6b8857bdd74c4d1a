use spec::{Node, NodeCondition, NodeId, VolumeName};
use store::{Compare, Txn};

use crate::{
    api::{Drain, Volume},
    app::App,
    call::{Call, Reply},
    error::Refusal,
    keys,
    principal::Principal,
    records::{Kept, NodeRecord, encode},
};

pub(crate) async fn list(call: Call) -> Result<Reply, Refusal> {
    let page = call.page(keys::NODES.to_owned(), |kept: Kept<NodeRecord>| {
        is_visible(&call, &kept.value).then(|| shown(&call.app, kept.value))
    });
    Reply::ok(&page.await?)
}

pub(crate) async fn show(call: Call) -> Result<Reply, Refusal> {
    let kept = find(&call, &call.param("node")?).await?;
    Reply::ok(&shown(&call.app, kept.value))
}

/// A tenant sees the nodes that it owns; the operator sees those of the pool too.
fn is_visible(call: &Call, node: &NodeRecord) -> bool {
    match &call.principal {
        Principal::Tenant(tenant) => node.tenant.as_ref() == Some(tenant),
        Principal::Operator(tenant) => {
            node.tenant.is_none() || node.tenant.as_ref() == Some(tenant) || node.in_pool()
        }
        Principal::Nobody | Principal::Node { .. } => false,
    }
}

async fn find(call: &Call, id: &NodeId) -> Result<Kept<NodeRecord>, Refusal> {
    let found: Option<Kept<NodeRecord>> = call.app.get(keys::node(id)).await?;
    found.filter(|kept| is_visible(call, &kept.value)).ok_or_else(|| Refusal::not_found("node", id))
}

fn shown(app: &App, record: NodeRecord) -> Node {
    let status = app.live.node(&record.id);
    Node { id: record.id, tenant: record.tenant, spec: record.spec, status, draining: record.drain }
}

/// Nobody loses work by a slip: a node that speaks is removed when it has been drained, or by
/// force.
fn check_removable(app: &App, node: &NodeRecord) -> Result<(), Refusal> {
    let tasks = app.model.read().tasks_on(&node.id).count();
    let why = match app.live.node(&node.id).condition {
        NodeCondition::Disconnected => return Ok(()), // what it ran is replaced already
        NodeCondition::Ready | NodeCondition::Suspect if tasks == 1 => "has a task".to_owned(),
        NodeCondition::Ready | NodeCondition::Suspect if tasks > 1 => format!("has {tasks} tasks"),
        NodeCondition::Ready | NodeCondition::Suspect if node.drain => return Ok(()),
        NodeCondition::Ready | NodeCondition::Suspect => "is not down".to_owned(),
    };
    let id = &node.id;
    Err(Refusal::in_use(format!("node `{id}` {why}")).hint(format!(
        "move its work elsewhere first: margay node drain {id}; or: margay node rm --force {id}"
    )))
}

pub(crate) async fn remove(call: Call) -> Result<Reply, Refusal> {
    let id: NodeId = call.param("node")?;
    let kept = find(&call, &id).await?;
    if call.asked("force") != Some("true") {
        check_removable(&call.app, &kept.value)?;
    }
    let key = keys::node(&id);
    // What the ledger knows of its usage log stays for a while: the log does, too, and goes on when
    // the machine joins again.
    let mut txn = Txn::new().when(Compare::ModRev(key.clone(), kept.mod_rev)).delete(key);
    for fingerprint in &kept.value.certificates {
        txn = txn.delete(keys::certificate(fingerprint));
    }
    if !call.app.store.txn(txn).await?.succeeded {
        return Err(Refusal::conflict());
    }
    call.app.live.forget(&id);
    call.app.forget_set(&id);
    Reply::done()
}

pub(crate) async fn drain(call: Call) -> Result<Reply, Refusal> {
    let (id, Drain { drain }) = (call.param::<NodeId>("node")?, call.json()?);
    let kept = find(&call, &id).await?;
    let record = NodeRecord { drain, ..kept.value };
    let key = keys::node(&id);
    let txn = Txn::new().when(Compare::ModRev(key.clone(), kept.mod_rev)).put(key, encode(&record));
    match call.app.store.txn(txn).await?.succeeded {
        true => Reply::ok(&shown(&call.app, record)),
        false => Err(Refusal::conflict()),
    }
}

pub(crate) async fn volumes(call: Call) -> Result<Reply, Refusal> {
    Reply::ok(
        &call.page(keys::volumes(call.tenant()?), |kept: Kept<Volume>| Some(kept.value)).await?,
    )
}

pub(crate) async fn forget_volume(call: Call) -> Result<Reply, Refusal> {
    let (tenant, name) = (call.tenant()?, call.param::<VolumeName>("volume")?);
    let key = keys::volume(tenant, &name);
    let kept: Option<Kept<Volume>> = call.app.get(key.clone()).await?;
    let kept = kept.ok_or_else(|| Refusal::not_found("volume", &name))?;
    let user = {
        let model = call.app.model.read();
        let mounts =
            |definition: &crate::records::DefinitionRecord| definition.mounted().contains(&name);
        let mut live = model
            .tasks
            .iter()
            .filter(|((owner, _), task)| owner == tenant && !task.value.has_ended());
        live.find(|(_, task)| model.definition_of(&task.value).is_some_and(|found| mounts(found)))
            .map(|((_, id), _)| id.clone())
    };
    if let Some(task) = user {
        return Err(Refusal::in_use(format!("volume `{name}` is mounted by task `{task}`"))
            .hint("stop it first"));
    }
    let txn = Txn::new().when(Compare::ModRev(key.clone(), kept.mod_rev)).delete(key);
    match call.app.store.txn(txn).await?.succeeded {
        true => Reply::done(),
        false => Err(Refusal::conflict()),
    }
}
