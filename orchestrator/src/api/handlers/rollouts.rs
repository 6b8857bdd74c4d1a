use spec::{Deployment, SchedulingStrategy};
use store::Txn;

use super::services;
use crate::{
    api::{
        call::{Call, Reply},
        error::ApiError,
        types::{ChangeRollout, RolloutAction},
    },
    limits::WRITE_TRIES_MAX,
    state::{
        keys, now,
        records::{Guarded, ServiceRecord},
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
