use std::collections::BTreeSet;

use spec::{Deployment, DeploymentState, SchedulingStrategy};
use store::Txn;

use super::services;
use crate::{
    api::{
        call::{Call, Reply},
        error::ApiError,
        types::{ChangeRollout, RolloutAction},
    },
    limits::WRITE_TRIES_MAX,
    plan::Observed,
    state::{
        keys, now,
        records::{Guarded, ServiceRecord, TaskRecord},
    },
};

pub(crate) async fn change(call: Call) -> Result<Reply, ApiError> {
    let (cluster, name) = (call.param("cluster")?, call.param("service")?);
    let wanted: ChangeRollout = call.json()?;
    if wanted.deployment.is_some() && wanted.action != RolloutAction::Undo {
        return Err(ApiError::invalid("`deployment` is for `undo` alone"));
    }
    let _turn = call.api.quotas.turn(call.state(), call.tenant()?).await?;
    for _ in 0..WRITE_TRIES_MAX {
        let stored = services::find(&call, &cluster, &name).await?;
        let mut record = stored.value;
        match wanted.action {
            RolloutAction::Pause => record.pause(true, now()),
            RolloutAction::Resume => record.pause(false, now()),
            RolloutAction::Undo => undo(&call, &mut record, wanted.deployment).await?,
            RolloutAction::Promote => promote(&call, &mut record)?,
            RolloutAction::Abort => abort(&call, &mut record)?,
        }
        let key = keys::service(call.tenant()?, &cluster, &name);
        if call.state().commit(Txn::new().update(key, stored.mod_rev, &record)).await? {
            return services::answer(&call, record);
        }
    }
    Err(ApiError::conflict())
}

/// Its replicas move one at a time, as its deployment settings allow.
pub(crate) async fn rebalance(call: Call) -> Result<Reply, ApiError> {
    let (cluster, name) = (call.param("cluster")?, call.param("service")?);
    for _ in 0..WRITE_TRIES_MAX {
        let stored = services::find(&call, &cluster, &name).await?;
        let mut record = stored.value;
        if record.service.spec.scheduling == SchedulingStrategy::Daemon {
            let message = format!("service `{name}` is a daemon, which every node has one of");
            return Err(ApiError::invalid(message));
        }
        record.begin_rebalancing(now());
        let key = keys::service(call.tenant()?, &cluster, &name);
        if call.state().commit(Txn::new().update(key, stored.mod_rev, &record)).await? {
            return services::answer(&call, record);
        }
    }
    Err(ApiError::conflict())
}

/// Once every replica of the revision is ready: before that there is nothing to send requests to.
fn promote(call: &Call, record: &mut ServiceRecord) -> Result<(), ApiError> {
    let name = &record.service.name;
    let newest = in_progress(record)?;
    let number = newest.number;
    if record.shift().is_none() {
        let message = format!("deployment {number} of service `{name}` is a rolling one");
        return Err(ApiError::invalid(message)
            .hint("requests go over in shares with --rollout blue-green, canary or linear"));
    }
    let (tenant, reports, model) = (call.tenant()?, &call.state().reports, call.state().model());
    let own = || {
        let of = |task: &&TaskRecord| {
            let spec = &task.task.spec;
            spec.cluster == record.service.cluster
                && spec.service.as_ref() == Some(name)
                && record.is_requested(task)
        };
        model.live_tasks_of(tenant).filter(of)
    };
    let ready = own().filter(|task| task.is_routable()).filter_map(|task| task.slot);
    let ready = ready.map(|slot| slot.ordinal).collect::<BTreeSet<_>>().len();
    let count = record.service.spec.count;
    if ready < count as usize {
        let (id, cluster) = (&newest.task_definition, &record.service.cluster);
        let message = format!("{ready} of {count} replicas of `{id}` are ready");
        return Err(ApiError::invalid(message)
            .hint(format!("margay service rollout status {name} --cluster {cluster}")));
    }
    let observed = Observed { requests: reports.requests(), ..Observed::default() };
    let requests = observed.requests_of_all(own());
    drop(model);
    record.promote(requests, now());
    Ok(())
}

/// As when it had failed by itself.
fn abort(call: &Call, record: &mut ServiceRecord) -> Result<(), ApiError> {
    let number = in_progress(record)?.number;
    let (tenant, name) = (call.tenant()?, &record.service.name);
    let model = call.state().model();
    let is_known = |one: &&Deployment| {
        model.definitions.contains_key(&(tenant.clone(), one.task_definition.clone()))
    };
    let back = record.way_back().filter(is_known);
    let back = back.map(|back| (back.task_definition.clone(), back.launch_type));
    let back = back.ok_or_else(|| {
        let message =
            format!("deployment {number} of service `{name}` has no earlier one to go back to");
        ApiError::invalid(message).hint("bring another revision into service, or delete it")
    })?;
    record.fail("it was aborted", Some(back), now());
    Ok(())
}

fn in_progress(record: &ServiceRecord) -> Result<&Deployment, ApiError> {
    let (name, cluster) = (&record.service.name, &record.service.cluster);
    let newest = record.deployment();
    newest.filter(|newest| newest.state == DeploymentState::InProgress).ok_or_else(|| {
        ApiError::invalid(format!("no deployment of service `{name}` is in progress"))
            .hint(format!("margay service rollout history {name} --cluster {cluster}"))
    })
}

/// Requests the revision of an earlier deployment, as an update to it would.
async fn undo(call: &Call, record: &mut ServiceRecord, to: Option<u64>) -> Result<(), ApiError> {
    let earlier = earlier(record, to)?.clone();
    let mut spec = record.service.spec.clone();
    (spec.task_definition, spec.launch_type) = (earlier.task_definition, earlier.launch_type);
    if spec == record.service.spec {
        let id = spec.task_definition;
        return Err(ApiError::invalid(format!("the service is of `{id}` already")));
    }
    services::check(call, Some(&record.service.spec), &spec).await?;
    record.service.spec = spec;
    record.service.generation += 1;
    record.begin(None, now());
    Ok(())
}

fn earlier(record: &ServiceRecord, to: Option<u64>) -> Result<&Deployment, ApiError> {
    let (spec, name) = (&record.service.spec, &record.service.name);
    let found = match to {
        Some(number) => {
            record.rollout.deployments.iter().find(|deployment| deployment.number == number)
        }
        None => record.rollout.last_completed((&spec.task_definition, spec.launch_type)),
    };
    found.ok_or_else(|| match to {
        Some(number) => ApiError::not_found("deployment", number).hint(format!(
            "see which there are: margay service rollout history {name} --cluster {}",
            record.service.cluster
        )),
        None => ApiError::invalid(format!(
            "no deployment of another revision of service `{name}` was ever completed"
        ))
        .hint("bring a revision into service: margay service update --task FAMILY:REVISION"),
    })
}
