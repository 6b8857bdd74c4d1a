use std::collections::{BTreeMap, BTreeSet};

use spec::{
    ClusterName, IngressSettings, LaunchType, NodeCondition, SchedulingStrategy, Service,
    ServiceName, ServiceSpec, ServiceStatus, TaskPhase, TenantQuota,
};
use store::{Compare, Txn};

use super::{clusters, definitions, hosts, listeners, tasks::one_writer};
use crate::{
    api::{
        call::{Call, Reply},
        create::{Creation, create},
        error::ApiError,
        quota,
        types::{CreateService, UpdateService},
    },
    limits::{REPLICAS_MAX, WRITE_TRIES_MAX},
    plan::Subject,
    state::{
        keys, now,
        records::{Guarded, Rollout, ServiceRecord, Stored},
    },
};

pub(crate) async fn create_service(call: Call) -> Result<Reply, ApiError> {
    let cluster: ClusterName = call.param("cluster")?;
    let wanted: CreateService = call.json()?;
    let _shared = call.api.clusters.read().await;
    create(&call, || new_service(&call, &cluster, &wanted)).await
}

async fn new_service(
    call: &Call,
    cluster: &ClusterName,
    wanted: &CreateService,
) -> Result<Creation, ApiError> {
    let CreateService { name, task_definition, launch_type, deployment, ingress, .. } =
        wanted.clone();
    let (tenant, stored) = (call.tenant()?, clusters::find(call, cluster).await?);
    let key = keys::service(tenant, cluster, &name);
    if call.state().get::<ServiceRecord>(key.clone()).await?.is_some() {
        return Err(ApiError::exists("service", &name).hint("change it: margay service update"));
    }
    let count = match &wanted.scaling {
        Some(scaling) => {
            scaling.check()?;
            let (min, max) = scaling.bounds(now());
            // Once, so that it is seen to start: a request that waits is no time to learn that.
            let least = if scaling.wakes() { 1 } else { 0 };
            wanted.count.max(least).clamp(min, max)
        }
        None => wanted.count,
    };
    let spec = ServiceSpec {
        task_definition,
        count,
        launch_type,
        deployment,
        scheduling: wanted.scheduling,
        placement: wanted.placement.clone(),
        priority: wanted.priority.unwrap_or_else(ServiceSpec::usual_priority),
        scaling: wanted.scaling.clone(),
        ingress,
    };
    check(call, None, &spec).await?;
    let home = Compare::CreateRev(keys::cluster(tenant, cluster), stored.create_rev);
    let owner = (tenant.clone(), cluster.clone(), name.clone());
    let service = Service {
        name,
        cluster: cluster.clone(),
        created: now(),
        spec,
        generation: 1,
        status: ServiceStatus::default(),
    };
    let mut record = ServiceRecord::new(service);
    record.begin(None, now());
    let txn = Txn::new().when(home).create(key, &record);
    let (none, hosts) = (IngressSettings::default(), &record.service.spec.ingress);
    let txn = hosts::claim(call, &owner, &none, hosts, txn).await?;
    Ok(Creation::new(txn, &shown(call, record, &Statuses::new())?))
}

/// Whether a service may be so, and what it needs beyond `before` is within the quota.
pub(super) async fn check(
    call: &Call,
    before: Option<&ServiceSpec>,
    spec: &ServiceSpec,
) -> Result<(), ApiError> {
    let tenant = call.tenant()?;
    let most = |spec: &ServiceSpec| quota::replicas_max(&call.state().model(), tenant, spec);
    check_counts(spec, most(spec))?;
    spec.deployment.check()?;
    spec.placement.check()?;
    let mut definition =
        definitions::usable(call, &spec.task_definition, spec.launch_type, None).await?;
    for provider in &spec.placement.capacity_providers {
        definition =
            definitions::usable(call, &spec.task_definition, provider.provider, None).await?;
    }
    if most(spec) > 1 && definition.writes_volumes() {
        return Err(one_writer(&spec.task_definition.to_string()));
    }
    check_strategy(spec, definition.writes_volumes())?;
    listeners::check(&definition, &spec.ingress)?;
    let had = match before {
        Some(before) => {
            let key = (tenant.clone(), before.task_definition.clone());
            let definition = call.state().model().definitions.get(&key).cloned();
            quota::share_of(definition.as_deref(), before, most(before))
        }
        None => TenantQuota::NOTHING,
    };
    let share = quota::share_of(Some(&definition), spec, most(spec));
    let more = TenantQuota {
        tasks: share.tasks.saturating_sub(had.tasks),
        cpu_millis: share.cpu_millis.saturating_sub(had.cpu_millis),
        memory_bytes: share.memory_bytes.saturating_sub(had.memory_bytes),
        volumes: quota::new_volumes(call.state(), tenant, &definition),
        ..TenantQuota::NOTHING
    };
    quota::check(call.state(), tenant, &more).await
}

fn check_counts(spec: &ServiceSpec, most: u32) -> Result<(), ApiError> {
    if most > REPLICAS_MAX {
        return Err(ApiError::invalid(format!("`count` is at most {REPLICAS_MAX}")));
    }
    if !ServiceSpec::PRIORITY.contains(&spec.priority) {
        return Err(ApiError::invalid("`priority` is 1 to 100"));
    }
    if let Some(scaling) = &spec.scaling {
        scaling.check()?;
        if scaling.wakes() && !spec.ingress.listeners.is_empty() {
            return Err(ApiError::invalid(
                "a service with `listeners` has one copy at least: connections to them bring none \
                 back",
            )
            .hint("begin its bounds with 1: --scale 1..MAX"));
        }
    }
    if spec.scheduling == SchedulingStrategy::Replica {
        return Ok(());
    }
    if !spec.placement.capacity_providers.is_empty() {
        return Err(ApiError::invalid(
            "a daemon has one task on each node of yours, and no capacity providers",
        ));
    }
    match (spec.launch_type, spec.count, &spec.scaling) {
        (LaunchType::Node, 0, None) => Ok(()),
        (LaunchType::Pool, ..) => Err(ApiError::invalid(
            "a daemon runs on nodes of your own: the pool's are for every tenant",
        )
        .hint("use --launch-type node")),
        (LaunchType::Node, ..) => Err(ApiError::invalid(
            "a daemon has one task on each node, and neither a count nor scaling",
        )),
    }
}

/// Requests go over in shares between replicas that are there at the same time.
fn check_strategy(spec: &ServiceSpec, writes_volumes: bool) -> Result<(), ApiError> {
    let strategy = spec.deployment.strategy;
    let why = match spec.scheduling {
        _ if strategy.is_rolling() => return Ok(()),
        SchedulingStrategy::Daemon => "a daemon has one task on each node",
        SchedulingStrategy::Replica if writes_volumes => {
            "its task writes to a volume, which has one writer at a time"
        }
        SchedulingStrategy::Replica => return Ok(()),
    };
    let (word, has) = (strategy.word(), "has both revisions at one time");
    Err(ApiError::invalid(format!("a {word} deployment {has}, and {why}"))
        .hint("use the strategy `rolling`"))
}

pub(crate) async fn list(call: Call) -> Result<Reply, ApiError> {
    listed(&call, keys::services(call.tenant()?)).await
}

pub(crate) async fn list_in(call: Call) -> Result<Reply, ApiError> {
    let cluster = call.param("cluster")?;
    clusters::find(&call, &cluster).await?;
    listed(&call, keys::services_in(call.tenant()?, &cluster)).await
}

async fn listed(call: &Call, prefix: String) -> Result<Reply, ApiError> {
    let statuses = statuses(call, None)?;
    call.page(prefix, |record: ServiceRecord| shown(call, record, &statuses).ok()).await
}

pub(crate) async fn show(call: Call) -> Result<Reply, ApiError> {
    let (cluster, name) = (call.param("cluster")?, call.param("service")?);
    let stored = find(&call, &cluster, &name).await?;
    Reply::ok(&shown_alone(&call, stored.value)?)
}

/// As clients see it.
pub(super) fn shown_alone(call: &Call, record: ServiceRecord) -> Result<Service, ApiError> {
    let key = (record.service.cluster.clone(), record.service.name.clone());
    let statuses = statuses(call, Some(&key))?;
    shown(call, record, &statuses)
}

pub(super) async fn find(
    call: &Call,
    cluster: &ClusterName,
    name: &ServiceName,
) -> Result<Stored<ServiceRecord>, ApiError> {
    let found = call.state().get(keys::service(call.tenant()?, cluster, name)).await?;
    match found {
        Some(stored) => Ok(stored),
        None => {
            clusters::find(call, cluster).await?;
            Err(ApiError::not_found("service", name))
        }
    }
}

type Statuses = BTreeMap<(ClusterName, ServiceName), ServiceStatus>;

/// What is seen of the caller's services, worked out from their tasks.
fn statuses(call: &Call, only: Option<&(ClusterName, ServiceName)>) -> Result<Statuses, ApiError> {
    let (tenant, model) = (call.tenant()?, call.state().model());
    let conditions = call.state().reports.conditions(model.nodes.keys());
    let mut statuses = Statuses::new();
    let mut ready = BTreeSet::new();
    for ((owner, cluster, name), stored) in &model.services {
        let key = (cluster.clone(), name.clone());
        if owner == tenant && only.is_none_or(|only| *only == key) {
            let subject = Subject::Service((owner.clone(), cluster.clone(), name.clone()));
            let reason = call.api.reconciler.waiting(&subject).map(|reason| reason.to_string());
            let observed_generation = stored.value.service.generation;
            let service = (owner.clone(), cluster.clone(), name.clone());
            let desired = call.api.reconciler.desired(&service);
            let status = ServiceStatus::default();
            statuses.insert(key, ServiceStatus { reason, observed_generation, desired, ..status });
        }
    }
    for ((owner, _), stored) in &model.tasks {
        let (record, spec) = (&stored.value, &stored.value.task.spec);
        let Some(service) = spec.service.clone().filter(|_| owner == tenant && record.is_wanted())
        else {
            continue;
        };
        let key = (spec.cluster.clone(), service);
        let Some(status) = statuses.get_mut(&key) else { continue };
        let condition = spec.node.as_ref().and_then(|node| conditions.get(node));
        if condition.is_none_or(|condition| *condition == NodeCondition::Disconnected) {
            continue;
        }
        status.placed += 1;
        status.running += u32::from(record.task.status.phase == TaskPhase::Running);
        if record.task.status.is_ready() {
            // Both revisions of a replica may be, while requests go over.
            let ordinal = record.slot.map(|slot| slot.ordinal);
            status.ready += u32::from(ready.insert((key, ordinal)));
            if !status.serving.contains(&spec.task_definition) {
                status.serving.push(spec.task_definition.clone());
            }
        } else if status.reason.is_none() {
            status.reason.clone_from(&record.task.status.reason); // what its node says about it
        }
    }
    Ok(statuses)
}

fn shown(call: &Call, record: ServiceRecord, statuses: &Statuses) -> Result<Service, ApiError> {
    let ServiceRecord { service, rollout, .. } = record;
    let Rollout { deployments, paused, events } = rollout;
    let (key, owner) = ((service.cluster.clone(), service.name.clone()), call.tenant()?.clone());
    let status = statuses.get(&key).cloned().unwrap_or_default();
    let host = Some(call.api.node_watch.names.of(&(owner, key.0, key.1)));
    let status = ServiceStatus { host, deployments, paused, events, ..status };
    Ok(Service { status, ..service })
}

pub(crate) async fn update(call: Call) -> Result<Reply, ApiError> {
    let (cluster, name) = (call.param("cluster")?, call.param("service")?);
    let wanted: UpdateService = call.json()?;
    let _turn = call.api.quotas.turn(call.state(), call.tenant()?).await?;
    for _ in 0..WRITE_TRIES_MAX {
        let stored = find(&call, &cluster, &name).await?;
        let mut record = stored.value;
        let service = &mut record.service;
        if wanted.generation.is_some_and(|generation| generation != service.generation) {
            return Err(ApiError::conflict());
        }
        let mut spec = service.spec.clone();
        spec.count = wanted.count.unwrap_or(spec.count);
        spec.task_definition = wanted.task_definition.clone().unwrap_or(spec.task_definition);
        spec.deployment = wanted.deployment.unwrap_or(spec.deployment);
        spec.placement = wanted.placement.clone().unwrap_or(spec.placement);
        spec.priority = wanted.priority.unwrap_or(spec.priority);
        spec.scaling = wanted.scaling.clone().or(spec.scaling).filter(|_| !wanted.remove_scaling);
        check_bounds(&cluster, &name, &wanted, &spec)?;
        spec.ingress = wanted.ingress.clone().unwrap_or(spec.ingress);
        if spec != service.spec || wanted.ingress.is_some() {
            check(&call, Some(&service.spec), &spec).await?;
            let before = service.spec.ingress.clone();
            if spec.count != service.spec.count {
                record.scaled = Some(now()); // a step as any other
            }
            (service.spec, service.generation) = (spec, service.generation + 1);
            if record.deployment().is_none() {
                record.begin(None, now());
            }
            let owner = (call.tenant()?.clone(), cluster.clone(), name.clone());
            let key = keys::service(&owner.0, &cluster, &name);
            let mut txn = Txn::new().update(key, stored.mod_rev, &record);
            if let Some(after) = &wanted.ingress {
                txn = hosts::claim(&call, &owner, &before, after, txn).await?;
            }
            if !call.state().commit(txn).await? {
                continue;
            }
        }
        return answer(&call, record);
    }
    Err(ApiError::conflict())
}

/// A count that its bounds would take back at once is no count.
fn check_bounds(
    cluster: &ClusterName,
    name: &ServiceName,
    wanted: &UpdateService,
    spec: &ServiceSpec,
) -> Result<(), ApiError> {
    let (Some(count), Some(scaling)) = (wanted.count, &spec.scaling) else { return Ok(()) };
    let (min, max) = scaling.bounds(now());
    if (min..=max).contains(&count) {
        return Ok(());
    }
    let message =
        format!("service `{name}` scales between {min} and {max}, and {count} is outside");
    Err(ApiError::invalid(message).hint(format!(
        "change its bounds, or end that: margay service update {name} --cluster {cluster} \
         --no-scaling"
    )))
}

/// A service as it is now.
pub(super) fn answer(call: &Call, record: ServiceRecord) -> Result<Reply, ApiError> {
    let service = &record.service;
    let statuses = statuses(call, Some(&(service.cluster.clone(), service.name.clone())))?;
    Reply::ok(&shown(call, record, &statuses)?)
}

pub(crate) async fn delete(call: Call) -> Result<Reply, ApiError> {
    let (cluster, name) = (call.param("cluster")?, call.param("service")?);
    for _ in 0..WRITE_TRIES_MAX {
        let stored = find(&call, &cluster, &name).await?;
        let owner = (call.tenant()?.clone(), cluster.clone(), name.clone());
        let txn = Txn::new().remove(keys::service(&owner.0, &cluster, &name), stored.mod_rev);
        let (had, none) = (&stored.value.service.spec.ingress, IngressSettings::default());
        let txn = hosts::claim(&call, &owner, had, &none, txn).await?;
        if call.state().commit(txn).await? {
            return Reply::done();
        }
    }
    Err(ApiError::conflict())
}
