//! What tenants may have: counted from the model, one create of a tenant after the other.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use http::StatusCode;
use spec::{LaunchType, SchedulingStrategy, ServiceSpec, Tenant, TenantQuota, VolumeName};
use tokio::sync::OwnedMutexGuard;

use super::error::ApiError;
use crate::{
    limits::MODEL_TIME_MAX,
    plan::reserved,
    state::{
        State, keys,
        model::Model,
        now,
        records::{DefinitionRecord, JoinRecord},
    },
};

/// Creates of one tenant come one after the other, so that each counts those before it. There are
/// as many entries as tenants, which only the operator makes.
#[derive(Debug, Default)]
pub(crate) struct Quotas(Mutex<HashMap<Tenant, Arc<tokio::sync::Mutex<()>>>>);

/// The turn of one create: held until it is committed.
pub(crate) type Turn = OwnedMutexGuard<()>;

impl Quotas {
    /// Waits for the tenant's turn, and for the model to have everything that was committed before.
    pub async fn turn(&self, state: &State, tenant: &Tenant) -> Result<Turn, ApiError> {
        let queue = {
            let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            queues.entry(tenant.clone()).or_default().clone()
        };
        let turn = queue.lock_owned().await;
        let newest = state.status().await?.rev;
        match tokio::time::timeout(MODEL_TIME_MAX, state.has_model_of(newest)).await {
            Ok(()) => Ok(turn),
            Err(_) => Err(ApiError::starting()),
        }
    }
}

/// Refuses what would exceed the quota of `tenant`. To be asked within its [`Turn`].
pub(crate) async fn check(
    state: &State,
    tenant: &Tenant,
    more: &TenantQuota,
) -> Result<(), ApiError> {
    let used = used(state, tenant).await?;
    let quota = quota_of(&state.model(), tenant);
    quota.check(&used, more).map_err(|exceeded| {
        let message = format!("tenant `{tenant}`: {exceeded}");
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, "quota", message).hint(format!(
            "remove what is not needed; or the operator gives it more: margay tenant quota set \
             {tenant} {}=N",
            exceeded.resource
        ))
    })
}

/// What the operator has set, or the default.
pub(crate) fn quota_of(model: &Model, tenant: &Tenant) -> TenantQuota {
    model.quotas.get(tenant).copied().unwrap_or_default()
}

/// What a tenant has.
pub(crate) async fn used(state: &State, tenant: &Tenant) -> Result<TenantQuota, ApiError> {
    let (now, joins) = (now(), state.list::<JoinRecord>(keys::JOINS).await?);
    let is_open = |join: &JoinRecord| join.tenant.as_ref() == Some(tenant) && join.is_good(now);
    let tokens = joins.iter().filter(|join| is_open(&join.value)).count() as u64;
    Ok(TenantQuota { tokens, ..counted(&state.model(), tenant) })
}

fn counted(model: &Model, tenant: &Tenant) -> TenantQuota {
    let mut used = TenantQuota::NOTHING;
    let mut volumes: BTreeSet<&VolumeName> = model.volumes_of(tenant).collect();
    for service in model.services_of(tenant) {
        let spec = &service.service.spec;
        let id = (tenant.clone(), spec.task_definition.clone());
        let definition = model.definitions.get(&id).map(Arc::as_ref);
        used = sum(&used, &share_of(definition, spec, replicas_max(model, tenant, spec)));
        volumes.extend(definition.into_iter().flat_map(DefinitionRecord::mounted));
    }
    for task in model.live_tasks_of(tenant).filter(|task| task.task.spec.service.is_none()) {
        let definition = model.definition_of(task).map(Arc::as_ref);
        used = sum(&used, &share(definition, task.task.spec.launch_type, 1));
        volumes.extend(definition.into_iter().flat_map(DefinitionRecord::mounted));
    }
    let own = model.nodes.values().filter(|node| node.tenant.as_ref() == Some(tenant));
    TenantQuota {
        nodes: own.count() as u64,
        volumes: volumes.len() as u64,
        definition_bytes: model.definition_bytes_of(tenant),
        secrets: model.secrets.iter().filter(|(owner, _)| owner == tenant).count() as u64,
        ..used
    }
}

/// The most replicas that a service may come to by itself.
pub(crate) fn replicas_max(model: &Model, tenant: &Tenant, spec: &ServiceSpec) -> u32 {
    match (spec.scheduling, &spec.scaling) {
        (SchedulingStrategy::Replica, None) => spec.count,
        (SchedulingStrategy::Replica, Some(scaling)) => scaling.most().max(spec.count),
        (SchedulingStrategy::Daemon, _) => {
            let own = model.nodes.values().filter(|node| node.tenant.as_ref() == Some(tenant));
            u32::try_from(own.count()).unwrap_or(u32::MAX)
        }
    }
}

/// What so many replicas of a service take.
pub(crate) fn share_of(
    definition: Option<&DefinitionRecord>,
    spec: &ServiceSpec,
    count: u32,
) -> TenantQuota {
    let [one, other] = spec
        .by_launch_type(count)
        .map(|(launch_type, count)| share(definition, launch_type, count));
    sum(&one, &other)
}

/// What `count` tasks of a definition take: processors and memory in the pool only, because nodes
/// of a tenant's own are its own.
pub(crate) fn share(
    definition: Option<&DefinitionRecord>,
    launch_type: LaunchType,
    count: u32,
) -> TenantQuota {
    let (cpu_millis, memory_bytes) = match (definition, launch_type) {
        (Some(definition), LaunchType::Pool) => reserved(definition),
        (_, LaunchType::Node) | (None, LaunchType::Pool) => (0, 0),
    };
    let count = u64::from(count);
    TenantQuota {
        tasks: count,
        cpu_millis: cpu_millis.saturating_mul(count),
        memory_bytes: memory_bytes.saturating_mul(count),
        ..TenantQuota::NOTHING
    }
}

/// The volumes of `definition` that the tenant does not have yet.
pub(crate) fn new_volumes(state: &State, tenant: &Tenant, definition: &DefinitionRecord) -> u64 {
    let model = state.model();
    let known: BTreeSet<&VolumeName> = model.volumes_of(tenant).collect();
    definition.mounted().into_iter().filter(|name| !known.contains(name)).count() as u64
}

fn sum(one: &TenantQuota, other: &TenantQuota) -> TenantQuota {
    TenantQuota {
        tasks: one.tasks.saturating_add(other.tasks),
        cpu_millis: one.cpu_millis.saturating_add(other.cpu_millis),
        memory_bytes: one.memory_bytes.saturating_add(other.memory_bytes),
        ..*one
    }
}
