use http::StatusCode;
use spec::{Capability, Family, LaunchType, TaskDefinition, TaskDefinitionId, Tenant};
use store::{Compare, Txn};
use tokio::time::timeout;

use crate::{
    api::{
        call::{Call, Reply},
        create::{Creation, create},
        error::ApiError,
        resolver::ResolvedImage,
        types::{ContainerGrants, RegisteredDefinition},
    },
    limits::{DEFINITION_BYTES_MAX, RESOLVE_TIME_MAX},
    state::{
        keys, now,
        objects::Runs,
        records::{DefinitionRecord, Stored, encode},
    },
};

pub(crate) async fn register(call: Call) -> Result<Reply, ApiError> {
    let mut definition: TaskDefinition = call.json()?;
    definition.check()?;
    if definition
        .containers
        .iter()
        .any(|container| container.digest.is_some() || !container.wants.is_empty())
    {
        return Err(ApiError::invalid(
            "`digest` and `wants` are read from the image and cannot be given",
        ));
    }
    let tenant = call.tenant()?;
    let runs = resolve(&call, tenant, &mut definition).await?;
    check_size(&definition)?;
    check_native(&grants(&definition)?, &runs)?;
    create(&call, || {
        let (call, definition, runs) = (&call, definition.clone(), runs.clone());
        Box::pin(async move { next_revision(call, definition, runs).await })
    })
    .await
}

/// As it will be sent to nodes, with all that its images ask for.
fn check_size(definition: &TaskDefinition) -> Result<(), ApiError> {
    let bytes = serde_json::to_vec(definition).expect("it has string keys").len();
    if bytes <= DEFINITION_BYTES_MAX {
        return Ok(());
    }
    let message = format!(
        "task definition `{}` has {bytes} bytes with what its images ask for, and \
         {DEFINITION_BYTES_MAX} is the most",
        definition.family
    );
    Err(ApiError::invalid(message).hint("put long values into a file of the image or of a volume"))
}

async fn next_revision(
    call: &Call,
    definition: TaskDefinition,
    runs: Vec<Runs>,
) -> Result<Creation, ApiError> {
    let (tenant, family) = (call.tenant()?, definition.family.clone());
    let counter = keys::family(tenant, &family);
    let newest: Option<Stored<u32>> = call.state().get(counter.clone()).await?;
    let revision = newest.as_ref().map_or(Some(1), |newest| newest.value.checked_add(1));
    let revision = revision
        .ok_or_else(|| ApiError::invalid(format!("`{family}` has no revision number left")))?;
    let id = TaskDefinitionId { family, revision };
    let record =
        DefinitionRecord { id: id.clone(), registered: now(), active: true, definition, runs };
    let txn = Txn::new()
        .when(Compare::ModRev(counter.clone(), newest.map_or(0, |newest| newest.mod_rev)))
        .put(counter, encode(&revision))
        .put(keys::definition(tenant, &id), encode(&record));
    Ok(Creation::new(txn, &shown(record)?))
}

/// Writes into each container what its image is now.
async fn resolve(
    call: &Call,
    tenant: &Tenant,
    definition: &mut TaskDefinition,
) -> Result<Vec<Runs>, ApiError> {
    let _permit = call.api.images.limits.acquire(tenant).await?;
    let mut runs = Vec::with_capacity(definition.containers.len());
    for container in &mut definition.containers {
        let resolving =
            timeout(RESOLVE_TIME_MAX, call.api.images.resolver.resolve(tenant, &container.image))
                .await;
        let image = match resolving {
            Ok(Ok(image)) => image,
            Ok(Err(fault)) => {
                let status = StatusCode::UNPROCESSABLE_ENTITY;
                return Err(ApiError { status, fault: Box::new(fault), source: None });
            }
            Err(_) => {
                let message = format!("timed out resolving image `{}`", container.image);
                return Err(ApiError::new(StatusCode::GATEWAY_TIMEOUT, "image-timeout", message)
                    .hint("see whether its registry answers"));
            }
        };
        let ResolvedImage { reference, digest, wants, runs: how } = image;
        container.image = reference.to_string();
        (container.digest, container.wants) = (Some(digest), wants);
        runs.push(how);
    }
    Ok(runs)
}

/// What each container may reach. Refused here, long before any guest instruction, when an image
/// needs more.
fn grants(definition: &TaskDefinition) -> Result<Vec<ContainerGrants>, ApiError> {
    let of = |container: &spec::ContainerDefinition| {
        let resolved = definition.resolve(container).map_err(|missing| {
            let message = format!("container `{}`: {missing}", container.name);
            ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "capability-missing", message)
                .hint(format!("add \"{}\" to `allow` under `[role]`", missing.0))
        })?;
        Ok(ContainerGrants {
            container: container.name.clone(),
            effective: resolved.capabilities.lines(),
            cut: resolved.cut,
            denied: resolved.denied,
        })
    };
    definition.containers.iter().map(of).collect()
}

/// A node would refuse it as well, when the task is placed.
fn check_native(grants: &[ContainerGrants], runs: &[Runs]) -> Result<(), ApiError> {
    for (grants, runs) in grants.iter().zip(runs) {
        let secret = grants.effective.iter().find(|line| matches!(line, Capability::Secret(_)));
        if let (Some(line), Runs::Native(_)) = (secret, runs) {
            let message = format!(
                "container `{}` is a Linux program, and secrets are for Wasm so far: `{line}`",
                grants.container
            );
            return Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "native-secret", message)
                .hint(
                    "take the line out of `allow`, or put what needs it into a task of its own",
                ));
        }
    }
    Ok(())
}

fn shown(record: DefinitionRecord) -> Result<RegisteredDefinition, ApiError> {
    let grants = grants(&record.definition)?;
    let DefinitionRecord { id, registered, active, definition, .. } = record;
    Ok(RegisteredDefinition { id, registered, active, definition, grants })
}

pub(crate) async fn list(call: Call) -> Result<Reply, ApiError> {
    let show = |stored: Stored<DefinitionRecord>| {
        stored.value.active.then(|| shown(stored.value).ok()).flatten()
    };
    Reply::ok(&call.page(keys::definitions(call.tenant()?), show).await?)
}

/// `FAMILY:REVISION`, or `FAMILY` for the newest one.
pub(crate) async fn show(call: Call) -> Result<Reply, ApiError> {
    let text: &str = call.params.first().map_or("", |(_, text)| text);
    let id = match text.contains(':') {
        true => text.parse()?,
        false => {
            let family: Family = text.parse()?;
            let newest: Option<Stored<u32>> =
                call.state().get(keys::family(call.tenant()?, &family)).await?;
            let newest = newest.ok_or_else(|| ApiError::not_found("task definition", &family))?;
            TaskDefinitionId { family, revision: newest.value }
        }
    };
    Reply::ok(&shown(find(&call, &id).await?.value)?)
}

pub(crate) async fn find(
    call: &Call,
    id: &TaskDefinitionId,
) -> Result<Stored<DefinitionRecord>, ApiError> {
    let found = call.state().get(keys::definition(call.tenant()?, id)).await?;
    found.ok_or_else(|| ApiError::not_found("task definition", id))
}

/// A revision of which a new task may be started on such nodes.
pub(crate) async fn usable(
    call: &Call,
    id: &TaskDefinitionId,
    launch_type: LaunchType,
) -> Result<DefinitionRecord, ApiError> {
    let record = find(call, id).await?.value;
    if !record.active {
        return Err(ApiError::in_use(format!("task definition `{id}` was deregistered"))
            .hint("register it again"));
    }
    if !record.definition.launch_types.contains(&launch_type) {
        let word = match launch_type {
            LaunchType::Node => "node",
            LaunchType::Pool => "pool",
        };
        return Err(ApiError::invalid(format!(
            "task definition `{id}` may not be launched with launch type {word}"
        ))
        .hint(format!("add \"{word}\" to its `launch_types`")));
    }
    let mut ports = record.definition.containers.iter().flat_map(|container| &container.ports);
    if launch_type == LaunchType::Pool
        && let Some(port) = ports.find_map(|port| port.host_port)
    {
        let message = format!(
            "task definition `{id}` asks for host port {port}, and the pool's hosts give none"
        );
        return Err(ApiError::invalid(message).hint(
            "remove `host_port`: the ingress reaches it by its host name; or use \
                 --launch-type node",
        ));
    }
    if launch_type == LaunchType::Pool && record.is_native() {
        return Err(ApiError::invalid(format!(
            "task definition `{id}` has a native image, and the pool runs none"
        ))
        .hint("launch it on a node of yours: --launch-type node"));
    }
    Ok(record)
}

pub(crate) async fn deregister(call: Call) -> Result<Reply, ApiError> {
    let id: TaskDefinitionId = call.param("definition")?;
    let stored = find(&call, &id).await?;
    let key = keys::definition(call.tenant()?, &id);
    let record = DefinitionRecord { active: false, ..stored.value };
    let txn =
        Txn::new().when(Compare::ModRev(key.clone(), stored.mod_rev)).put(key, encode(&record));
    call.commit(txn).await?;
    Reply::done()
}
