use http::StatusCode;
use spec::{ClusterName, ServiceName, Task, TaskId, TaskPhase, TaskSpec, TaskStatus, Tenant};
use store::{Compare, Txn};

use super::{clusters, definitions};
use crate::{
    api::{Page, RunTask},
    app::{App, now},
    call::{Call, Reply},
    create::{Made, create},
    error::Refusal,
    keys,
    plan::Subject,
    records::{Kept, TaskRecord, encode, key_of},
    secret,
};

/// As ECS has it.
const RUN_MAX: u32 = 10;
/// Tries before a change that keeps losing to others gives up.
const TRIES_MAX: usize = 16;

pub(crate) async fn run(call: Call) -> Result<Reply, Refusal> {
    let cluster: ClusterName = call.param("cluster")?;
    let wanted: RunTask = call.json()?;
    if !(1..=RUN_MAX).contains(&wanted.count) {
        return Err(Refusal::invalid(format!("`count` is 1 to {RUN_MAX} in one request")));
    }
    let _shared = call.app.clusters.read().await;
    create(&call, || {
        let (call, cluster, wanted) = (&call, cluster.clone(), wanted.clone());
        Box::pin(async move { new_tasks(call, cluster, wanted).await })
    })
    .await
}

async fn new_tasks(call: &Call, cluster: ClusterName, wanted: RunTask) -> Result<Made, Refusal> {
    let kept = clusters::find(call, &cluster).await?;
    let definition = definitions::usable(call, &wanted.task_definition, wanted.launch_type).await?;
    if wanted.count > 1 && definition.writes_volumes() {
        return Err(one_writer(&wanted.task_definition.to_string()));
    }
    let tenant = call.tenant()?;
    let mut txn =
        Txn::new().when(Compare::CreateRev(keys::cluster(tenant, &cluster), kept.create_rev));
    let mut tasks = Vec::new();
    for _ in 0..wanted.count {
        let record = new_task(tenant, &cluster, &wanted);
        let key = keys::task(tenant, record.id());
        txn = txn.when(Compare::Absent(key.clone())).put(key, encode(&record));
        tasks.push(record.task);
    }
    Ok(Made::new(txn, &Page { items: tasks, next: None }))
}

fn new_task(tenant: &Tenant, cluster: &ClusterName, wanted: &RunTask) -> TaskRecord {
    let family = wanted.task_definition.family.as_str();
    let name = family[..family.len().min(40)].trim_end_matches('-');
    let id = format!("{name}-{}", secret::random_suffix());
    let spec = TaskSpec {
        cluster: cluster.clone(),
        task_definition: wanted.task_definition.clone(),
        launch_type: wanted.launch_type,
        service: None,
        node: None,
        stop: false,
    };
    let status = TaskStatus { phase: TaskPhase::Pending, reason: None, containers: Vec::new() };
    let id = id.parse().expect("a short label and hex digits make a label");
    let task = Task { id, created: now(), spec, status };
    TaskRecord { tenant: tenant.clone(), task, slot: None, ended: None, ran: false }
}

/// Why several copies cannot share a volume that they write to.
pub(crate) fn one_writer(definition: &str) -> Refusal {
    Refusal::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "one-writer",
        format!(
            "task definition `{definition}` writes to a volume, so only one copy of it can run"
        ),
    )
    .hint("use a count of 1, or mount the volume with `read_only = true`")
}

pub(crate) async fn list(call: Call) -> Result<Reply, Refusal> {
    let cluster = call.asked("cluster").map(str::parse::<ClusterName>).transpose()?;
    let service = call.asked("service").map(str::parse::<ServiceName>).transpose()?;
    let page = call.page(keys::tasks(call.tenant()?), |kept: Kept<TaskRecord>| {
        let spec = &kept.value.task.spec;
        let meant = cluster.as_ref().is_none_or(|cluster| spec.cluster == *cluster)
            && service.as_ref().is_none_or(|service| spec.service.as_ref() == Some(service));
        meant.then(|| shown(&call.app, kept.value))
    });
    Reply::ok(&page.await?)
}

pub(crate) async fn show(call: Call) -> Result<Reply, Refusal> {
    let kept = find(&call, &call.param("task")?).await?;
    Reply::ok(&shown(&call.app, kept.value))
}

async fn find(call: &Call, id: &TaskId) -> Result<Kept<TaskRecord>, Refusal> {
    let found = call.app.get(keys::task(call.tenant()?, id)).await?;
    found.ok_or_else(|| Refusal::not_found("task", id))
}

/// With what its node said last (its usage so far is never stored), and why it waits.
fn shown(app: &App, record: TaskRecord) -> Task {
    let key = key_of(&record);
    let mut task = record.task;
    if let Some(node) = &task.spec.node
        && let Some(live) = app.live.status(node, &key)
        && task.status.phase != TaskPhase::Stopped
    {
        task.status.containers = live.containers;
    }
    if task.status.phase == TaskPhase::Pending {
        task.status.reason = app.waiting.read().get(&Subject::Task(key)).map(ToString::to_string);
    }
    task
}

pub(crate) async fn stop(call: Call) -> Result<Reply, Refusal> {
    let id: TaskId = call.param("task")?;
    for _ in 0..TRIES_MAX {
        let kept = find(&call, &id).await?;
        if !kept.value.is_wanted() {
            return Reply::ok(&shown(&call.app, kept.value));
        }
        let next = kept.value.stopped_for("somebody stopped it", now());
        let key = keys::task(call.tenant()?, &id);
        let txn =
            Txn::new().when(Compare::ModRev(key.clone(), kept.mod_rev)).put(key, encode(&next));
        if call.app.store.txn(txn).await?.succeeded {
            return Reply::ok(&shown(&call.app, next));
        }
    }
    Err(Refusal::conflict())
}
