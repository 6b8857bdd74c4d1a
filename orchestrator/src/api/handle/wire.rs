use std::time::Duration;

use futures_util::future::join_all;
use http::StatusCode;
use spec::{
    ContainerStatus, NodeId, NodeSpec, TaskDefinition, TaskPhase, TaskStatus, Usage,
    wire::{self, DesiredSet, JoinRequest, JoinResponse, NodeReport, RenewRequest, ReportedTask},
};
use store::{Compare, Txn};
use tokio::time::{Instant, timeout_at};

use super::secrets;
use crate::{
    app::{App, now},
    ca::Leaf,
    call::{Call, Reply},
    error::Refusal,
    keys,
    model::TaskKey,
    principal::Principal,
    records::{JoinRecord, Kept, NodeRecord, POOL_LABEL, TaskRecord, encode},
    secret,
};

/// A long poll ends after this, so that a connection through a proxy is never idle for a minute.
const POLL_TIME_MAX: Duration = Duration::from_secs(30);
/// Tries before a report's change of one task is left to the next report.
const TRIES_MAX: usize = 4;
/// Labels of one node, and characters of each of its texts.
const LABELS_MAX: usize = 64;
const TEXT_CHARS_MAX: usize = 256;
/// A reason is a sentence. Whoever wants all of it reads the log of the task.
const REASON_BYTES_MAX: usize = 1 << 10;

/// A token works once: it goes in the transaction that makes the node.
pub(crate) async fn join(call: Call) -> Result<Reply, Refusal> {
    let JoinRequest { version, secret, name, csr_pem, spec } = call.json()?;
    wire::check_version("the join request", version)?;
    check_spec(&spec)?;
    let app = &call.app;
    let key = keys::join(&secret::hashed(&secret));
    let token: Option<Kept<JoinRecord>> = app.get(key.clone()).await?;
    let good = token.filter(|token| token.value.is_good(now()));
    let token = good.ok_or_else(|| {
        Refusal::new(
            StatusCode::UNAUTHORIZED,
            "join-token",
            "this join token was used, has expired, or never was one",
        )
        .hint("make a new one: margay node token")
    })?;
    let id = free_name(app, name).await?;
    let leaf = app.ca.sign(&id, &csr_pem, now())?;
    let record = NodeRecord {
        id: id.clone(),
        tenant: token.value.tenant,
        spec: with_pool(spec, token.value.pool),
        joined: now(),
        drain: false,
        certificates: vec![leaf.fingerprint.clone()],
    };
    let node = keys::node(&id);
    let txn = Txn::new()
        .when(Compare::ModRev(key.clone(), token.mod_rev))
        .when(Compare::Absent(node.clone()))
        .delete(key)
        .put(node, encode(&record))
        .put(keys::certificate(&leaf.fingerprint), encode(&id));
    if !app.store.txn(txn).await?.succeeded {
        return Err(Refusal::conflict());
    }
    app.live.heard(&id);
    app.touch();
    tracing::info!(node = %id, pool = token.value.pool, "a node joined");
    Ok(Reply::new(StatusCode::CREATED, &welcome(app, id, leaf)))
}

/// The name that the node would like, when nobody has it.
async fn free_name(app: &App, wished: Option<NodeId>) -> Result<NodeId, Refusal> {
    if let Some(name) = &wished
        && app.get::<NodeRecord>(keys::node(name)).await?.is_none()
    {
        return Ok(name.clone());
    }
    let stem = wished.as_ref().map_or("node", NodeId::as_str);
    let stem = stem[..stem.len().min(40)].trim_end_matches('-');
    Ok(format!("{stem}-{}", secret::random_suffix()).parse()?)
}

fn welcome(app: &App, node: NodeId, leaf: Leaf) -> JoinResponse {
    let (version, registry) = (wire::VERSION, app.registry.clone());
    JoinResponse { version, node, certificate_pem: leaf.pem, ca_pem: app.ca.pem.clone(), registry }
}

fn with_pool(mut spec: NodeSpec, pool: bool) -> NodeSpec {
    spec.labels.remove(POOL_LABEL);
    if pool {
        spec.labels.insert(POOL_LABEL.to_owned(), "true".to_owned());
    }
    spec
}

fn check_spec(spec: &NodeSpec) -> Result<(), Refusal> {
    let texts = [&spec.zone, &spec.architecture].into_iter().chain(&spec.ingress_address);
    let mut texts = texts.chain(spec.labels.iter().flat_map(|(key, value)| [key, value]));
    match spec.labels.len() > LABELS_MAX || texts.any(|text| text.len() > TEXT_CHARS_MAX) {
        true => Err(Refusal::invalid(format!(
            "a node has at most {LABELS_MAX} labels, and texts of {TEXT_CHARS_MAX} bytes"
        ))),
        false => Ok(()),
    }
}

/// The node that asks, as it is known.
async fn this_node(call: &Call) -> Result<Kept<NodeRecord>, Refusal> {
    let Principal::Node { id, .. } = &call.principal else { return Err(Refusal::forbidden()) };
    call.app.get(keys::node(id)).await?.ok_or_else(Refusal::unauthenticated)
}

/// The certificate that asks stays good until the next renewal, in case the answer gets lost.
pub(crate) async fn renew(call: Call) -> Result<Reply, Refusal> {
    let Principal::Node { certificate: presented, .. } = &call.principal else {
        return Err(Refusal::forbidden());
    };
    let RenewRequest { version, csr_pem } = call.json()?;
    wire::check_version("the renewal", version)?;
    let kept = this_node(&call).await?;
    let id = kept.value.id.clone();
    let leaf = call.app.ca.sign(&id, &csr_pem, now())?;
    let old = kept.value.certificates.iter().filter(|known| *known != presented);
    let mut txn = Txn::new().when(Compare::ModRev(keys::node(&id), kept.mod_rev));
    for fingerprint in old {
        txn = txn.delete(keys::certificate(fingerprint));
    }
    let certificates = vec![presented.clone(), leaf.fingerprint.clone()];
    let record = NodeRecord { certificates, ..kept.value };
    let txn = txn
        .put(keys::node(&id), encode(&record))
        .put(keys::certificate(&leaf.fingerprint), encode(&id));
    match call.app.store.txn(txn).await?.succeeded {
        true => Reply::ok(&welcome(&call.app, id, leaf)),
        false => Err(Refusal::conflict()),
    }
}

/// Not in the desired set: that is told again with every change of anything, and kept on the node's
/// disk.
pub(crate) async fn secrets(call: Call) -> Result<Reply, Refusal> {
    let node = this_node(&call).await?.value;
    secrets::of_task(&call.app, &node, &call.param("tenant")?, &call.param("task")?).await
}

pub(crate) async fn desired(call: Call) -> Result<Reply, Refusal> {
    let node = this_node(&call).await?.value;
    let after: Option<i64> = match call.asked("after") {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| Refusal::invalid("`after` is a revision"))?),
    };
    let app = &call.app;
    app.check_model()?;
    let mut news = app.changed.subscribe();
    let deadline = Instant::now() + POLL_TIME_MAX;
    loop {
        news.mark_unchanged();
        let set = app.desired_set(&node);
        if after != Some(set.revision) || timeout_at(deadline, news.changed()).await.is_err() {
            return Reply::ok(&with_tokens(app, &set));
        }
        if call.app.get::<NodeRecord>(keys::node(&node.id)).await?.is_none() {
            return Err(Refusal::unauthenticated());
        }
    }
}

fn with_tokens(app: &App, set: &DesiredSet) -> DesiredSet {
    let mut set = set.clone();
    for task in &mut set.tasks {
        let images: Vec<&str> =
            task.definition.containers.iter().map(|container| container.image.as_str()).collect();
        task.pull_token = app.resolver.pull_token(&task.tenant, &images);
    }
    set
}

/// Writes only what changed. A heartbeat that says the same again stays in memory.
pub(crate) async fn report(call: Call) -> Result<Reply, Refusal> {
    let mut report: NodeReport = call.json()?;
    wire::check_version("the report", report.version)?;
    check_spec(&report.spec)?;
    let kept = this_node(&call).await?;
    let (app, id) = (&call.app, kept.value.id.clone());
    report.tasks.iter_mut().for_each(|task| clip(&mut task.status));
    if !app.live.report(&id, &report) {
        return Reply::done(); // a newer one overtook it
    }
    report.spec = with_pool(report.spec, kept.value.in_pool());
    if report.spec != kept.value.spec {
        let record = NodeRecord { spec: report.spec.clone(), ..kept.value };
        let key = keys::node(&id);
        let same = Compare::ModRev(key.clone(), kept.mod_rev);
        app.store.txn(Txn::new().when(same).put(key, encode(&record))).await?; // when it lost, the next report says it again
    }
    // What should end, is not there, and was known to the node: it never started, or has been
    // cleared away.
    let current = app.told(&id) == Some(report.revision);
    let gone: Vec<ReportedTask> = {
        let model = app.model.read();
        let named = |key: &TaskKey| {
            report.tasks.iter().any(|task| task.tenant == key.0 && task.id == key.1)
        };
        let stopping = model
            .tasks_on(&id)
            .map(|kept| &kept.value)
            .filter(|record| current && record.task.spec.stop);
        stopping
            .filter(|record| !named(&(record.tenant.clone(), record.id().clone())))
            .map(|record| ReportedTask {
                tenant: record.tenant.clone(),
                id: record.id().clone(),
                status: record.at(TaskPhase::Stopped, None, now()).task.status,
            })
            .collect()
    };
    let changes = report.tasks.iter().chain(&gone).filter(|task| differs(app, &id, task));
    for result in join_all(changes.map(|task| note(app, &id, task))).await {
        result?;
    }
    Reply::done() // what changed in the store is told by the store
}

/// A node is believed about its tasks, but not at any length.
fn clip(status: &mut TaskStatus) {
    status.containers.truncate(TaskDefinition::CONTAINERS_MAX);
    let reasons = status.containers.iter_mut().map(|container| {
        container.ports.truncate(TaskDefinition::PORTS_MAX);
        &mut container.reason
    });
    for reason in reasons.chain([&mut status.reason]).flatten() {
        let end =
            (0..=REASON_BYTES_MAX.min(reason.len())).rev().find(|at| reason.is_char_boundary(*at));
        if reason.len() > REASON_BYTES_MAX {
            reason.truncate(end.unwrap_or_default());
            reason.push('…');
        }
    }
}

/// Whether the model says otherwise. It may be behind; then [`note`] looks again.
fn differs(app: &App, node: &NodeId, task: &ReportedTask) -> bool {
    let model = app.model.read();
    let known = model.tasks.get(&(task.tenant.clone(), task.id.clone()));
    known.is_none_or(|kept| next(&kept.value, node, &task.status).is_some())
}

/// What becomes of a task when its node says this of it, if anything.
fn next(record: &TaskRecord, node: &NodeId, seen: &TaskStatus) -> Option<TaskRecord> {
    if record.task.spec.node.as_ref() != Some(node) || record.has_ended() {
        return None; // somebody else's task, or one that has ended for good
    }
    let mut status = seen.clone();
    status.phase = match (seen.phase, record.task.spec.stop) {
        (TaskPhase::Stopped, _) => TaskPhase::Stopped,
        (
            TaskPhase::Pending
            | TaskPhase::Starting
            | TaskPhase::Running
            | TaskPhase::Stopping
            | TaskPhase::Unknown,
            true,
        ) => TaskPhase::Stopping,
        (TaskPhase::Pending | TaskPhase::Unknown, false) => TaskPhase::Starting,
        (phase @ (TaskPhase::Starting | TaskPhase::Running | TaskPhase::Stopping), false) => phase,
    };
    if record.task.spec.stop && status.reason.is_none() {
        status.reason = record.task.status.reason.clone(); // why it was asked to end
    }
    (!same(&status, &record.task.status)).then(|| record.with(status, now()))
}

/// Whether two statuses are the same but for what was used: that changes all the time and is the
/// ledger's.
fn same(a: &TaskStatus, b: &TaskStatus) -> bool {
    let without = |container: &ContainerStatus| ContainerStatus {
        usage: Usage::default(),
        ..container.clone()
    };
    a.phase == b.phase
        && a.reason == b.reason
        && a.containers.iter().map(without).eq(b.containers.iter().map(without))
}

async fn note(app: &App, node: &NodeId, task: &ReportedTask) -> Result<(), Refusal> {
    let key = keys::task(&task.tenant, &task.id);
    for _ in 0..TRIES_MAX {
        let Some(kept) = app.get::<TaskRecord>(key.clone()).await? else { return Ok(()) };
        let Some(next) = next(&kept.value, node, &task.status) else { return Ok(()) };
        let txn =
            Txn::new().when(app.epoch.fence()).when(Compare::ModRev(key.clone(), kept.mod_rev));
        if app.store.txn(txn.put(key.clone(), encode(&next))).await?.succeeded {
            tracing::info!(task = %task.id, phase = ?next.task.status.phase, "task");
            return Ok(());
        }
    }
    Ok(()) // the next report says it again
}
