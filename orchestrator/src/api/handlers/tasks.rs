use http::StatusCode;
use spec::{ClusterName, ServiceName, Task, TaskId, TaskPhase, TaskSpec, Tenant, TenantQuota};
use store::{Compare, Txn};

use super::{clusters, definitions};
use crate::{
    api::{
        call::{Call, Reply},
        context::Api,
        create::{Creation, create},
        error::ApiError,
        quota,
        types::{ListPage, RunTask},
    },
    limits::{RUN_MAX, WRITE_TRIES_MAX},
    plan::Subject,
    state::{
        keys, now,
        records::{Guarded, Stored, TaskRecord},
        tokens,
    },
};

pub(crate) async fn run(call: Call) -> Result<Reply, ApiError> {
    let cluster: ClusterName = call.param("cluster")?;
    let wanted: RunTask = call.json()?;
    if !(1..=RUN_MAX).contains(&wanted.count) {
        return Err(ApiError::invalid(format!("`count` is 1 to {RUN_MAX} in one request")));
    }
    let _shared = call.api.clusters.read().await;
    create(&call, || new_tasks(&call, &cluster, &wanted)).await
}

async fn new_tasks(
    call: &Call,
    cluster: &ClusterName,
    wanted: &RunTask,
) -> Result<Creation, ApiError> {
    let stored = clusters::find(call, cluster).await?;
    let (id, overrides) = (&wanted.task_definition, wanted.overrides.as_ref());
    let definition = definitions::usable(call, id, wanted.launch_type, overrides).await?;
    if wanted.count > 1 && definition.writes_volumes() {
        return Err(one_writer(&wanted.task_definition.to_string()));
    }
    let tenant = call.tenant()?;
    let more = TenantQuota {
        volumes: quota::new_volumes(call.state(), tenant, &definition),
        ..quota::share(Some(&definition), wanted.launch_type, wanted.count)
    };
    quota::check(call.state(), tenant, &more).await?;
    let mut txn =
        Txn::new().when(Compare::CreateRev(keys::cluster(tenant, cluster), stored.create_rev));
    let mut tasks = Vec::new();
    for _ in 0..wanted.count {
        let record = new_task(tenant, cluster, wanted);
        txn = txn.create(keys::task(tenant, record.id()), &record);
        tasks.push(shown(&call.api, record));
    }
    Ok(Creation::new(txn, &ListPage { items: tasks, next: None }))
}

fn new_task(tenant: &Tenant, cluster: &ClusterName, wanted: &RunTask) -> TaskRecord {
    let id = tokens::random_name(wanted.task_definition.family.as_str());
    let id = id.parse().expect("a short label and hex digits make a label");
    let spec = TaskSpec {
        cluster: cluster.clone(),
        task_definition: wanted.task_definition.clone(),
        launch_type: wanted.launch_type,
        service: None,
        node: None,
        stop: false,
        overrides: wanted.overrides.clone(),
    };
    TaskRecord::new(tenant.clone(), id, spec, TaskPhase::Pending, None, now())
}

/// Why several replicas cannot share a volume that they write to.
pub(crate) fn one_writer(definition: &str) -> ApiError {
    ApiError::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "one-writer",
        format!(
            "task definition `{definition}` writes to a volume, so only one replica of it can run"
        ),
    )
    .hint("use a count of 1, or mount the volume with `read_only = true`")
}

pub(crate) async fn list(call: Call) -> Result<Reply, ApiError> {
    let cluster = call.query("cluster").map(str::parse::<ClusterName>).transpose()?;
    let service = call.query("service").map(str::parse::<ServiceName>).transpose()?;
    call.page(keys::tasks(call.tenant()?), |record: TaskRecord| {
        let spec = &record.task.spec;
        let meant = cluster.as_ref().is_none_or(|cluster| spec.cluster == *cluster)
            && service.as_ref().is_none_or(|service| spec.service.as_ref() == Some(service));
        meant.then(|| shown(&call.api, record))
    })
    .await
}

pub(crate) async fn show(call: Call) -> Result<Reply, ApiError> {
    let stored = find(&call, &call.param("task")?).await?;
    Reply::ok(&shown(&call.api, stored.value))
}

pub(super) async fn find(call: &Call, id: &TaskId) -> Result<Stored<TaskRecord>, ApiError> {
    call.find(keys::task(call.tenant()?, id), "task", id).await
}

/// With what its node said last (its usage so far is never stored), and why it waits.
pub(super) fn shown(api: &Api, record: TaskRecord) -> Task {
    let key = record.key();
    let host = own_host(api, &record);
    let mut task = record.task;
    task.status.host = host;
    if let Some(node) = &task.spec.node
        && let Some(live) = api.state.reports.status(node, &key)
        && task.status.phase != TaskPhase::Stopped
    {
        task.status.containers = live.containers;
    }
    if task.status.phase == TaskPhase::Pending {
        let reason = api.reconciler.waiting(&Subject::Task(key));
        task.status.reason = reason.map(|reason| reason.to_string());
    }
    task
}

/// The host name of a task that is no replica and answers requests.
fn own_host(api: &Api, record: &TaskRecord) -> Option<String> {
    let model = record.has_own_host().then(|| api.state.model())?;
    model.definition_of(record)?.http_port()?;
    Some(api.node_watch.names.of_task(&record.tenant, &record.task.spec.cluster, record.id()))
}

pub(crate) async fn stop(call: Call) -> Result<Reply, ApiError> {
    let id: TaskId = call.param("task")?;
    for _ in 0..WRITE_TRIES_MAX {
        let stored = find(&call, &id).await?;
        if !stored.value.is_wanted() {
            return Reply::ok(&shown(&call.api, stored.value));
        }
        let next = stored.value.stopped_for("stopped by request", now());
        let key = keys::task(call.tenant()?, &id);
        if call.state().commit(Txn::new().update(key, stored.mod_rev, &next)).await? {
            return Reply::ok(&shown(&call.api, next));
        }
    }
    Err(ApiError::conflict())
}
