use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use futures_util::future::join_all;
use http::StatusCode;
use spec::{
    ContainerStatus, NodeId, NodeSpec, Resources, TaskDefinition, TaskPhase, TaskStatus, Tenant,
    TenantQuota, Usage,
    wire::{
        self, Heartbeat, IngressCertificate, JoinRequest, JoinResponse, NodeReport, RenewRequest,
        ReportedTask,
    },
};
use store::Txn;
use tokio::time::{Instant, timeout_at};

use super::{certificates, newer_agent::message, node_groups, secrets};
use crate::{
    api::{
        call::{Call, Reply},
        context::Api,
        error::ApiError,
        principal::Principal,
        quota,
    },
    limits::{
        NODE_CPU_MILLIS_MAX, NODE_LABELS_MAX, NODE_MEMORY_BYTES_MAX, NODE_PROBLEMS_MAX,
        NODE_TEXT_BYTES_MAX, POLL_TIME_MAX, REASON_BYTES_MAX, WAITING_SERVICES_MAX,
        WRITE_TRIES_MAX,
    },
    state::{
        State,
        ca::Leaf,
        keys,
        node_groups::NODE_GROUP_LABEL,
        now,
        records::{Guarded, JoinRecord, NodeRecord, POOL_LABEL, Stored, TaskRecord, encode},
        reports::ReportOutcome,
        tokens,
    },
};

/// A token works once: it goes in the transaction that makes the node.
pub(crate) async fn join(call: Call) -> Result<Reply, ApiError> {
    let JoinRequest { version, secret, name, csr_pem, spec } = message(&call)?;
    wire::check_version("the join request", version)?;
    check_spec(&spec)?;
    let (api, state) = (&call.api, call.state());
    let key = keys::join(&tokens::hashed(&secret));
    let token: Option<Stored<JoinRecord>> = state.get(key.clone()).await?;
    let good = token.filter(|token| token.value.is_good(now()));
    let token = good.ok_or_else(ApiError::join_token)?;
    // One after the other, so that each counts those before it.
    let _turn = match &token.value.tenant {
        Some(tenant) => {
            let turn = api.quotas.turn(state, tenant).await?;
            let more = TenantQuota { nodes: 1, ..TenantQuota::NOTHING };
            quota::check(state, tenant, &more).await?;
            Some(turn)
        }
        None => None,
    };
    let (id, labels, taints) = match &token.value.machine {
        Some((group, node)) => node_groups::admit(state, group, node).await?,
        None => (free_name(state, name).await?, BTreeMap::new(), Vec::new()),
    };
    let leaf = api.issuer.ca.sign(&id, &csr_pem, now())?;
    let record = NodeRecord {
        id: id.clone(),
        tenant: token.value.tenant,
        spec: with_pool(spec, token.value.pool),
        joined: now(),
        drain: false,
        drain_deadline: None,
        cordoned: false,
        labels,
        taints,
        certificates: vec![leaf.fingerprint.clone()],
    };
    let txn = Txn::new()
        .remove(key, token.mod_rev)
        .create(keys::node(&id), &record)
        .put(keys::certificate(&leaf.fingerprint), encode(&id));
    call.commit(txn).await?;
    state.reports.heard(&id);
    state.wake_reconciler();
    tracing::info!(node = %id, pool = token.value.pool, "a node joined");
    Ok(Reply::new(StatusCode::CREATED, &welcome(api, id, leaf)))
}

/// The name that the node asks for, when it is free.
async fn free_name(state: &State, wished: Option<NodeId>) -> Result<NodeId, ApiError> {
    if let Some(name) = &wished
        && state.get::<NodeRecord>(keys::node(name)).await?.is_none()
    {
        return Ok(name.clone());
    }
    Ok(tokens::random_name(wished.as_ref().map_or("node", NodeId::as_str)).parse()?)
}

fn welcome(api: &Api, node: NodeId, leaf: Leaf) -> JoinResponse {
    JoinResponse {
        version: wire::VERSION,
        node,
        certificate_pem: leaf.pem,
        ca_pem: api.issuer.ca.pem.clone(),
        registry: api.registry.clone(),
    }
}

fn with_pool(mut spec: NodeSpec, pool: bool) -> NodeSpec {
    spec.labels.remove(POOL_LABEL);
    spec.labels.remove(NODE_GROUP_LABEL);
    if pool {
        spec.labels.insert(POOL_LABEL.to_owned(), "true".to_owned());
    }
    spec
}

fn check_spec(spec: &NodeSpec) -> Result<(), ApiError> {
    // No name: what other ingresses dial is what the control plane was told.
    if let Some(text) = &spec.ingress_address
        && text.parse::<SocketAddr>().is_err()
    {
        let text: String = text.chars().take(100).collect();
        let message = format!("the address of an ingress is ADDRESS:PORT, not `{text}`");
        return Err(ApiError::invalid(message));
    }
    let texts =
        [&spec.zone, &spec.architecture, &spec.version].into_iter().chain(&spec.ingress_address);
    let mut texts = texts.chain(spec.labels.iter().flat_map(|(key, value)| [key, value]));
    let Resources { cpu_millis, memory_bytes } = spec.capacity;
    if cpu_millis > NODE_CPU_MILLIS_MAX || memory_bytes > NODE_MEMORY_BYTES_MAX {
        return Err(ApiError::invalid(format!(
            "a node has at most {} processors and {} TiB of memory",
            NODE_CPU_MILLIS_MAX / 1000,
            NODE_MEMORY_BYTES_MAX >> 40
        )));
    }
    match spec.labels.len() > NODE_LABELS_MAX || texts.any(|text| text.len() > NODE_TEXT_BYTES_MAX)
    {
        true => Err(ApiError::invalid(format!(
            "a node has at most {NODE_LABELS_MAX} labels, and texts of {NODE_TEXT_BYTES_MAX} bytes"
        ))),
        false => Ok(()),
    }
}

/// The node that asks, as it is known.
async fn this_node(call: &Call) -> Result<Stored<NodeRecord>, ApiError> {
    let Principal::Node { id, .. } = &call.principal else { return Err(ApiError::forbidden()) };
    call.state().get(keys::node(id)).await?.ok_or_else(ApiError::unauthenticated)
}

/// The certificate that asks stays good until the next renewal, in case the answer gets lost.
pub(crate) async fn renew(call: Call) -> Result<Reply, ApiError> {
    let Principal::Node { certificate: presented, .. } = &call.principal else {
        return Err(ApiError::forbidden());
    };
    let RenewRequest { version, csr_pem } = call.json()?;
    wire::check_version("the renewal", version)?;
    let stored = this_node(&call).await?;
    let id = stored.value.id.clone();
    let leaf = call.api.issuer.ca.sign(&id, &csr_pem, now())?;
    let certificates = vec![presented.clone(), leaf.fingerprint.clone()];
    let record = NodeRecord { certificates, ..stored.value.clone() };
    let mut txn = Txn::new()
        .update(keys::node(&id), stored.mod_rev, &record)
        .put(keys::certificate(&leaf.fingerprint), encode(&id));
    for old in stored.value.certificates.iter().filter(|known| *known != presented) {
        txn = txn.delete(keys::certificate(old));
    }
    call.commit(txn).await?;
    Reply::ok(&welcome(&call.api, id, leaf))
}

/// A certificate for the node's ingress. The store does not know it: no request with it has a
/// principal.
pub(crate) async fn ingress_certificate(call: Call) -> Result<Reply, ApiError> {
    let RenewRequest { version, csr_pem } = call.json()?;
    wire::check_version("the request for a certificate", version)?;
    let node = this_node(&call).await?.value;
    let ca = &call.api.issuer.ca;
    let certificate_pem = ca.sign_ingress(&node.id, &csr_pem, now())?.pem;
    let (version, ca_pem) = (wire::VERSION, ca.pem.clone());
    Reply::ok(&IngressCertificate { version, certificate_pem, ca_pem })
}

/// Not in the desired set: that is told again with every change, and stored on the node's disk.
pub(crate) async fn secrets(call: Call) -> Result<Reply, ApiError> {
    let node = this_node(&call).await?.value;
    secrets::of_task(&call.api, &node, &call.param("tenant")?, &call.param("task")?).await
}

pub(crate) async fn host_certificate(call: Call) -> Result<Reply, ApiError> {
    let node = this_node(&call).await?.value;
    let (tenant, name) = (call.param("tenant")?, call.param("certificate")?);
    certificates::of_node(&call.api, &node, &tenant, &name).await
}

pub(crate) async fn desired(call: Call) -> Result<Reply, ApiError> {
    let node = this_node(&call).await?.value;
    let after: Option<i64> = match call.query("after") {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| ApiError::invalid("`after` is a revision"))?),
    };
    let api = &call.api;
    api.check_model()?;
    if let Some(taken) = after {
        api.node_watch.acknowledge(&node.id, taken);
    }
    let mut news = api.node_watch.subscribe(&node.id);
    let deadline = Instant::now() + POLL_TIME_MAX;
    loop {
        news.mark_unchanged();
        let assigned = api.node_watch.assigned(&node);
        if after != Some(assigned.revision) || timeout_at(deadline, news.changed()).await.is_err() {
            let token = |tenant: &Tenant, images: &[&str]| {
                api.resolver.pull_token(&node.id, tenant, images)
            };
            return Reply::ok(&assigned.to_wire(api.state.epoch.number, token));
        }
        if call.state().get::<NodeRecord>(keys::node(&node.id)).await?.is_none() {
            return Err(ApiError::unauthenticated());
        }
    }
}

/// That it came is noted with every request of a node.
pub(crate) async fn heartbeat(call: Call) -> Result<Reply, ApiError> {
    let Heartbeat { version, next_ms } = call.json()?;
    wire::check_version("the heartbeat", version)?;
    let Principal::Node { id, .. } = &call.principal else { return Err(ApiError::forbidden()) };
    call.state().reports.expect(id, Duration::from_millis(next_ms.into()));
    Reply::done()
}

/// Writes only what changed. A heartbeat that says the same again stays in memory.
pub(crate) async fn report(call: Call) -> Result<Reply, ApiError> {
    let mut report: NodeReport = message(&call)?;
    wire::check_version("the report", report.version)?;
    check_spec(&report.spec)?;
    let stored = this_node(&call).await?;
    let (api, state, id) = (&call.api, call.state(), stored.value.id.clone());
    report.tasks.iter_mut().for_each(|task| clip(&mut task.status));
    // A tenant's own node keeps no service of another one awake.
    let (in_pool, owner) = (stored.value.in_pool(), &stored.value.tenant);
    report.waiting.retain(|one| in_pool || owner.as_ref() == Some(&one.service.tenant));
    report.waiting.truncate(WAITING_SERVICES_MAX);
    report.problems.truncate(NODE_PROBLEMS_MAX);
    report.problems.iter_mut().for_each(|problem| clip_text(&mut problem.message));
    match state.reports.report(&id, &report) {
        ReportOutcome::Stale => return Reply::done(),
        ReportOutcome::Taken => {}
        ReportOutcome::NeedsPlan => state.wake_reconciler(),
    }
    report.spec = with_pool(report.spec, stored.value.in_pool());
    if report.spec != stored.value.spec {
        let record = NodeRecord { spec: report.spec.clone(), ..stored.value };
        // When it loses to a concurrent write, the next report repeats it.
        state.commit(Txn::new().update(keys::node(&id), stored.mod_rev, &record)).await?;
    }
    let gone = match api.node_watch.told(&id) == Some(report.revision) {
        true => gone(state, &id, &report),
        false => Vec::new(),
    };
    let changes = report.tasks.iter().chain(&gone).filter(|task| differs(state, &id, task));
    for result in join_all(changes.map(|task| note(state, &id, task))).await {
        result?;
    }
    Reply::done() // what changed in the store is told by the store
}

/// Tasks that should end, that the node knew of, and that it does not report: they never started,
/// or have been cleared away.
fn gone(state: &State, node: &NodeId, report: &NodeReport) -> Vec<ReportedTask> {
    let model = state.model();
    let is_reported = |record: &&TaskRecord| {
        report.tasks.iter().any(|task| task.tenant == record.tenant && task.id == *record.id())
    };
    let records = model.tasks_on(node).map(|stored| &stored.value);
    let gone = records.filter(|record| record.task.spec.stop && !is_reported(record));
    gone.map(|record| ReportedTask {
        tenant: record.tenant.clone(),
        id: record.id().clone(),
        status: record.at(TaskPhase::Stopped, None, now()).task.status,
        requests: None,
    })
    .collect()
}

/// A node is believed about its tasks, but not at any length, and in one line for each reason: what
/// stands in the next one is advice of ours.
fn clip(status: &mut TaskStatus) {
    status.containers.truncate(TaskDefinition::CONTAINERS_MAX);
    let reasons = status.containers.iter_mut().map(|container| {
        container.ports.truncate(TaskDefinition::PORTS_MAX);
        &mut container.reason
    });
    reasons.chain([&mut status.reason]).flatten().for_each(clip_text);
}

fn clip_text(text: &mut String) {
    let end = (0..=REASON_BYTES_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    if text.len() > REASON_BYTES_MAX {
        text.truncate(end.unwrap_or_default());
        text.push('…');
    }
    if text.contains(char::is_control) {
        *text = text.replace(char::is_control, " ");
    }
}

/// Whether the model says otherwise. It may be behind; then [`note`] looks again.
fn differs(state: &State, node: &NodeId, task: &ReportedTask) -> bool {
    let model = state.model();
    let known = model.tasks.get(&(task.tenant.clone(), task.id.clone()));
    known.is_none_or(|stored| next(&stored.value, node, &task.status).is_some())
}

/// What becomes of a task when its node says this of it, if anything.
fn next(record: &TaskRecord, node: &NodeId, seen: &TaskStatus) -> Option<TaskRecord> {
    if record.task.spec.node.as_ref() != Some(node) || record.has_ended() {
        return None; // the task of another node, or one that has ended for good
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
    if record.task.spec.stop && (status.reason.is_none() || record.failed.is_some()) {
        status.reason = record.task.status.reason.clone(); // why it was asked to end
    }
    (!same(&status, &record.task.status)).then(|| record.with(status, now()))
}

/// Whether two statuses are the same but for what was used: that changes all the time and is the
/// ledger's.
fn same(a: &TaskStatus, b: &TaskStatus) -> bool {
    let without = |container: &ContainerStatus| ContainerStatus {
        usage: Usage::default(),
        idle: false, // it comes and goes with requests, and none of them writes
        ..container.clone()
    };
    a.phase == b.phase
        && a.ready == b.ready
        && a.reason == b.reason
        && a.containers.iter().map(without).eq(b.containers.iter().map(without))
}

async fn note(state: &State, node: &NodeId, task: &ReportedTask) -> Result<(), store::Error> {
    let key = keys::task(&task.tenant, &task.id);
    for _ in 0..WRITE_TRIES_MAX {
        let Some(stored) = state.get::<TaskRecord>(key.clone()).await? else { return Ok(()) };
        let Some(next) = next(&stored.value, node, &task.status) else { return Ok(()) };
        let txn = Txn::new().when(state.epoch.fence());
        if state.commit(txn.update(key.clone(), stored.mod_rev, &next)).await? {
            tracing::info!(task = %task.id, phase = ?next.task.status.phase, "task");
            return Ok(());
        }
    }
    Ok(()) // the next report repeats it
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_says_of_a_task_is_one_short_line() {
        let long = "é".repeat(REASON_BYTES_MAX);
        for (said, want) in [
            ("no memory", "no memory".to_owned()),
            ("a\n    to change it: b\u{1b}[2J", "a     to change it: b [2J".to_owned()),
            (&long, format!("{}…", "é".repeat(REASON_BYTES_MAX / 2))),
        ] {
            let mut status = TaskStatus {
                phase: TaskPhase::Stopped,
                reason: Some(said.to_owned()),
                ready: None,
                host: None,
                containers: Vec::new(),
            };
            clip(&mut status);
            assert_eq!(status.reason, Some(want), "{said:.20}");
        }
    }
}
