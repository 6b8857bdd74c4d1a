use std::collections::BTreeMap;

use spec::{
    ClusterName, NodeCondition, Service, ServiceName, ServiceSpec, ServiceStatus, TaskPhase,
};
use store::{Compare, Txn};

use super::{clusters, definitions, tasks::one_writer};
use crate::{
    api::{CreateService, UpdateService},
    app::now,
    call::{Call, Reply},
    create::{Made, create},
    error::Refusal,
    keys,
    plan::Subject,
    records::{Kept, ServiceRecord, encode},
};

/// Copies of one service. More than this is a typing error on the nodes that we were built for.
const COUNT_MAX: u32 = 1_000;
/// Tries before a change that keeps losing to others gives up.
const TRIES_MAX: usize = 16;

pub(crate) async fn create_service(call: Call) -> Result<Reply, Refusal> {
    let cluster: ClusterName = call.param("cluster")?;
    let wanted: CreateService = call.json()?;
    let _shared = call.app.clusters.read().await;
    create(&call, || {
        let (call, cluster, wanted) = (&call, cluster.clone(), wanted.clone());
        Box::pin(async move { new_service(call, cluster, wanted).await })
    })
    .await
}

async fn new_service(
    call: &Call,
    cluster: ClusterName,
    wanted: CreateService,
) -> Result<Made, Refusal> {
    let CreateService { name, task_definition, count, launch_type } = wanted;
    let (tenant, kept) = (call.tenant()?, clusters::find(call, &cluster).await?);
    let key = keys::service(tenant, &cluster, &name);
    if call.app.get::<ServiceRecord>(key.clone()).await?.is_some() {
        return Err(Refusal::exists("service", &name).hint("change it: margay service update"));
    }
    let spec = ServiceSpec { task_definition, count, launch_type };
    check(call, &spec).await?;
    let home = Compare::CreateRev(keys::cluster(tenant, &cluster), kept.create_rev);
    let service = Service {
        name,
        cluster,
        created: now(),
        spec,
        generation: 1,
        status: ServiceStatus::default(),
    };
    let record = ServiceRecord { service: service.clone() };
    let service = shown(call, record.clone(), &Statuses::new())?;
    Ok(Made::new(
        Txn::new().when(home).when(Compare::Absent(key.clone())).put(key, encode(&record)),
        &service,
    ))
}

async fn check(call: &Call, spec: &ServiceSpec) -> Result<(), Refusal> {
    if spec.count > COUNT_MAX {
        return Err(Refusal::invalid(format!("`count` is at most {COUNT_MAX}")));
    }
    let definition = definitions::usable(call, &spec.task_definition, spec.launch_type).await?;
    match spec.count > 1 && definition.writes_volumes() {
        true => Err(one_writer(&spec.task_definition.to_string())),
        false => Ok(()),
    }
}

pub(crate) async fn list(call: Call) -> Result<Reply, Refusal> {
    listed(&call, keys::services(call.tenant()?)).await
}

pub(crate) async fn list_in(call: Call) -> Result<Reply, Refusal> {
    let cluster = call.param("cluster")?;
    clusters::find(&call, &cluster).await?;
    listed(&call, keys::services_in(call.tenant()?, &cluster)).await
}

async fn listed(call: &Call, prefix: String) -> Result<Reply, Refusal> {
    let statuses = statuses(call, None)?;
    Reply::ok(
        &call
            .page(prefix, |kept: Kept<ServiceRecord>| shown(call, kept.value, &statuses).ok())
            .await?,
    )
}

pub(crate) async fn show(call: Call) -> Result<Reply, Refusal> {
    let (cluster, name) = (call.param("cluster")?, call.param("service")?);
    let kept = find(&call, &cluster, &name).await?;
    let statuses = statuses(&call, Some(&(cluster, name)))?;
    Reply::ok(&shown(&call, kept.value, &statuses)?)
}

async fn find(
    call: &Call,
    cluster: &ClusterName,
    name: &ServiceName,
) -> Result<Kept<ServiceRecord>, Refusal> {
    let found = call.app.get(keys::service(call.tenant()?, cluster, name)).await?;
    match found {
        Some(kept) => Ok(kept),
        None => {
            clusters::find(call, cluster).await?;
            Err(Refusal::not_found("service", name))
        }
    }
}

type Statuses = BTreeMap<(ClusterName, ServiceName), ServiceStatus>;

/// What is seen of the caller's services, worked out from their tasks.
fn statuses(call: &Call, only: Option<&(ClusterName, ServiceName)>) -> Result<Statuses, Refusal> {
    let (tenant, app) = (call.tenant()?, &call.app);
    let (model, waiting) = (app.model.read(), app.waiting.read());
    let conditions = app.live.conditions(model.nodes.keys());
    let mut statuses = Statuses::new();
    for ((owner, cluster, name), kept) in &model.services {
        let key = (cluster.clone(), name.clone());
        if owner == tenant && only.is_none_or(|only| *only == key) {
            let reason = waiting
                .get(&Subject::Service((owner.clone(), cluster.clone(), name.clone())))
                .map(ToString::to_string);
            let observed_generation = kept.value.service.generation;
            statuses.insert(
                key,
                ServiceStatus { reason, observed_generation, ..ServiceStatus::default() },
            );
        }
    }
    for ((owner, _), kept) in &model.tasks {
        let (record, spec) = (&kept.value, &kept.value.task.spec);
        let Some(service) = spec.service.clone().filter(|_| owner == tenant && record.is_wanted())
        else {
            continue;
        };
        let Some(status) = statuses.get_mut(&(spec.cluster.clone(), service)) else { continue };
        let condition = spec.node.as_ref().and_then(|node| conditions.get(node));
        if condition.is_none_or(|condition| *condition == NodeCondition::Disconnected) {
            continue;
        }
        status.placed += 1;
        if record.task.status.phase == TaskPhase::Running {
            status.running += 1;
        } else if status.reason.is_none() {
            status.reason.clone_from(&record.task.status.reason); // what its node says about it
        }
    }
    Ok(statuses)
}

fn shown(call: &Call, record: ServiceRecord, statuses: &Statuses) -> Result<Service, Refusal> {
    let service = record.service;
    let (key, owner) = ((service.cluster.clone(), service.name.clone()), call.tenant()?.clone());
    let status = statuses.get(&key).cloned().unwrap_or_default();
    let host = Some(call.app.host_name(&(owner, key.0, key.1)));
    Ok(Service { status: ServiceStatus { host, ..status }, ..service })
}

pub(crate) async fn update(call: Call) -> Result<Reply, Refusal> {
    let (cluster, name) = (call.param("cluster")?, call.param("service")?);
    let wanted: UpdateService = call.json()?;
    for _ in 0..TRIES_MAX {
        let kept = find(&call, &cluster, &name).await?;
        let mut service = kept.value.service;
        if wanted.generation.is_some_and(|generation| generation != service.generation) {
            return Err(Refusal::conflict());
        }
        let mut spec = service.spec.clone();
        spec.count = wanted.count.unwrap_or(spec.count);
        spec.task_definition = wanted.task_definition.clone().unwrap_or(spec.task_definition);
        if spec != service.spec {
            check(&call, &spec).await?;
            (service.spec, service.generation) = (spec, service.generation + 1);
            let key = keys::service(call.tenant()?, &cluster, &name);
            let record = ServiceRecord { service: service.clone() };
            let txn = Txn::new()
                .when(Compare::ModRev(key.clone(), kept.mod_rev))
                .put(key, encode(&record));
            if !call.app.store.txn(txn).await?.succeeded {
                continue;
            }
        }
        let statuses = statuses(&call, Some(&(cluster, name)))?;
        return Reply::ok(&shown(&call, ServiceRecord { service }, &statuses)?);
    }
    Err(Refusal::conflict())
}

pub(crate) async fn delete(call: Call) -> Result<Reply, Refusal> {
    let (cluster, name) = (call.param("cluster")?, call.param("service")?);
    for _ in 0..TRIES_MAX {
        let kept = find(&call, &cluster, &name).await?;
        let key = keys::service(call.tenant()?, &cluster, &name);
        let txn = Txn::new().when(Compare::ModRev(key.clone(), kept.mod_rev)).delete(key);
        if call.app.store.txn(txn).await?.succeeded {
            return Reply::done();
        }
    }
    Err(Refusal::conflict())
}
