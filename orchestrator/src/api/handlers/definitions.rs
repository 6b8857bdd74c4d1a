use std::collections::BTreeMap;

use http::StatusCode;
use spec::{
    Capability, Family, LaunchType, Protocol, TaskDefinition, TaskDefinitionId, TaskOverrides,
    Tenant, TenantQuota,
};
use store::Txn;
use tokio::time::timeout;

use crate::{
    api::{
        call::{Call, Reply},
        create::{Creation, create},
        error::ApiError,
        quota,
        resolver::ResolvedImage,
        types::{ContainerGrants, RegisteredDefinition},
    },
    limits::{DEFINITION_BYTES_MAX, RESOLVE_TIME_MAX},
    state::{
        keys, now,
        objects::Runs,
        records::{DefinitionRecord, Guarded, Stored, encode},
    },
};

pub(crate) async fn register(call: Call) -> Result<Reply, ApiError> {
    let mut definition: TaskDefinition = call.json()?;
    definition.check()?;
    definition = definition.sized();
    // A revision says what it has: what is usual may be another amount later.
    for container in &mut definition.containers {
        container.memory_hard_bytes = Some(container.memory_hard());
    }
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
    check_ports(&definition)?;
    check_probes(&definition, &runs)?;
    check_protocols(&definition, &runs)?;
    check_native(&grants(&definition)?, &runs)?;
    create(&call, || next_revision(&call, &definition, &runs)).await
}

/// Containers of a task reach each other's ports at one address.
fn check_ports(definition: &TaskDefinition) -> Result<(), ApiError> {
    let mut seen = BTreeMap::new();
    for container in &definition.containers {
        for port in container.ports.iter().map(|port| port.container_port) {
            let other = seen.insert(port, &container.name);
            if let Some(other) = other.filter(|other| **other != container.name) {
                let message =
                    format!("containers `{other}` and `{}` both have port {port}", container.name);
                return Err(ApiError::invalid(message).hint(
                    "the containers of a task have one network: let one of them listen on another \
                     port",
                ));
            }
        }
    }
    Ok(())
}

/// A Wasm program has no socket of its own that could be looked for.
fn check_probes(definition: &TaskDefinition, runs: &[Runs]) -> Result<(), ApiError> {
    let asks_tcp = |container: &spec::ContainerDefinition| {
        container.health.as_ref().is_some_and(|health| health.tcp.is_some())
    };
    let mut wrong = definition.containers.iter().zip(runs);
    match wrong.find(|(container, runs)| **runs == Runs::Wasm && asks_tcp(container)) {
        None => Ok(()),
        Some((container, _)) => Err(ApiError::invalid(format!(
            "container `{}` has a `health.tcp`, and its image is WebAssembly",
            container.name
        ))
        .hint("ask for a path instead: health = { http = \"/\" }")),
    }
}

/// A Wasm program is called for each request, by a server that speaks HTTP/1.1.
fn check_protocols(definition: &TaskDefinition, runs: &[Runs]) -> Result<(), ApiError> {
    let is_not_spoken = |port: &&spec::PortMapping| match port.protocol {
        Protocol::Http2 | Protocol::Udp => true,
        Protocol::Http | Protocol::Tcp => false,
    };
    let speaks =
        |container: &spec::ContainerDefinition| container.ports.iter().find(is_not_spoken).copied();
    let wasm = definition.containers.iter().zip(runs).filter(|(_, runs)| **runs == Runs::Wasm);
    let mut wrong = wasm.filter_map(|(container, _)| Some((container, speaks(container)?)));
    match wrong.next() {
        None => Ok(()),
        Some((container, port)) => {
            let (word, hint) = match port.protocol {
                Protocol::Udp => ("udp", "datagrams need a Linux image"),
                Protocol::Http | Protocol::Http2 | Protocol::Tcp => (
                    "http2",
                    "say `protocol = \"http\"`: clients speak HTTP/2 with the ingress all the \
                     same; gRPC with trailers needs a Linux image",
                ),
            };
            Err(ApiError::invalid(format!(
                "container `{}` has `protocol = \"{word}\"` on port {}, and its image is \
                 WebAssembly",
                container.name, port.container_port
            ))
            .hint(hint))
        }
    }
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
    definition: &TaskDefinition,
    runs: &[Runs],
) -> Result<Creation, ApiError> {
    let (tenant, family) = (call.tenant()?, definition.family.clone());
    let counter = keys::family(tenant, &family);
    let newest: Option<Stored<u32>> = call.state().get(counter.clone()).await?;
    let revision = newest.as_ref().map_or(Some(1), |newest| newest.value.checked_add(1));
    let revision = revision
        .ok_or_else(|| ApiError::invalid(format!("`{family}` has no revision number left")))?;
    let id = TaskDefinitionId { family, revision };
    let record = DefinitionRecord {
        id: id.clone(),
        registered: now(),
        active: true,
        definition: definition.clone(),
        runs: runs.to_vec(),
    };
    let definition_bytes = encode(&record).len() as u64;
    let more = TenantQuota { definition_bytes, ..TenantQuota::NOTHING };
    quota::check(call.state(), tenant, &more).await?;
    let txn = Txn::new()
        .update(counter, newest.map_or(0, |newest| newest.mod_rev), &revision)
        .put(keys::definition(tenant, &id), encode(&record));
    Ok(Creation::new(txn, &shown(record)?))
}

/// Writes into each container what its image is now.
/// A hint with the bundled registry as the caller reaches it: on this machine it is `localhost`.
fn seen_from(call: &Call, hint: String) -> String {
    let registry = call.api.registry.as_deref().filter(|_| !call.principal.is_on_this_machine());
    match registry.and_then(|registry| Some((registry, registry.rsplit_once(':')?.1))) {
        Some((registry, port)) => hint.replace(&format!("localhost:{port}"), registry),
        None => hint,
    }
}

async fn resolve(
    call: &Call,
    tenant: &Tenant,
    definition: &mut TaskDefinition,
) -> Result<Vec<Runs>, ApiError> {
    let _permit = call.api.resolving.acquire(tenant).await?;
    let mut runs = Vec::with_capacity(definition.containers.len());
    for container in &mut definition.containers {
        let resolving = call.api.resolver.resolve(tenant, &container.image);
        let image = match timeout(RESOLVE_TIME_MAX, resolving).await {
            Ok(Ok(image)) => image,
            Ok(Err(mut fault)) => {
                fault.hint = fault.hint.map(|hint| seen_from(call, hint));
                let status = StatusCode::UNPROCESSABLE_ENTITY;
                return Err(ApiError {
                    status,
                    fault: Box::new(fault),
                    subject: None,
                    source: None,
                });
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
    let show = |record: DefinitionRecord| record.active.then(|| shown(record).ok()).flatten();
    call.page(keys::definitions(call.tenant()?), show).await
}

/// `FAMILY:REVISION`, or `FAMILY` for the newest one.
pub(crate) async fn show(call: Call) -> Result<Reply, ApiError> {
    let text: &str = call.params.first().map_or("", |(_, text)| text);
    let id = match text.contains(':') {
        true => text.parse()?,
        false => {
            let family: Family = text.parse()?;
            let key = keys::family(call.tenant()?, &family);
            let newest: Stored<u32> = call.find(key, "task definition", &family).await?;
            TaskDefinitionId { family, revision: newest.value }
        }
    };
    Reply::ok(&shown(find(&call, &id).await?.value)?)
}

pub(crate) async fn find(
    call: &Call,
    id: &TaskDefinitionId,
) -> Result<Stored<DefinitionRecord>, ApiError> {
    call.find(keys::definition(call.tenant()?, id), "task definition", id).await
}

/// A revision of which a new task may be started on such nodes, as the task has it.
pub(crate) async fn usable(
    call: &Call,
    id: &TaskDefinitionId,
    launch_type: LaunchType,
    overrides: Option<&TaskOverrides>,
) -> Result<DefinitionRecord, ApiError> {
    let record = find(call, id).await?.value;
    let record = record.with(overrides)?;
    if overrides.is_some() {
        check_size(&record.definition)?;
        check_native(&grants(&record.definition)?, &record.runs)?;
    }
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
            "remove `host_port`: the ingress reaches it by its host name, which `service create` \
             and `task run` print; or use --launch-type node",
        ));
    }
    if launch_type == LaunchType::Pool {
        check_policy(&record)?;
    }
    let model = call.state().model();
    let consents = || model.nodes.values().any(|node| node.takes_native_of_pool());
    if launch_type == LaunchType::Pool && record.is_native() && !consents() {
        return Err(ApiError::invalid(format!(
            "task definition `{id}` has a native image, and no node of the pool runs those of \
             every tenant"
        ))
        .hint(
            "launch it on a node of yours: --launch-type node; or the operator of a node of the \
             pool lets it: --pool-native",
        ));
    }
    Ok(record)
}

/// A node of the pool would give less than was asked for, and its task would fail later and
/// elsewhere.
fn check_policy(record: &DefinitionRecord) -> Result<(), ApiError> {
    let definition = &record.definition;
    for container in &definition.containers {
        // Whether wants and grants meet was decided when it was registered.
        let Ok(mut resolved) = definition.resolve(container) else { continue };
        let request = definition.limits_of(container);
        let bounded = spec::bound(LaunchType::Pool, &request, &mut resolved.capabilities);
        if let Some(clamped) = bounded.clamped.first() {
            let message = format!(
                "container `{}` of task definition `{}` asks for {clamped}",
                container.name, record.id
            );
            return Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "pool-policy", message)
                .hint(format!(
                    "register a revision with `{}`, or launch it on a node of yours: \
                     --launch-type node",
                    clamped.most
                )));
        }
    }
    Ok(())
}

pub(crate) async fn deregister(call: Call) -> Result<Reply, ApiError> {
    let id: TaskDefinitionId = call.param("definition")?;
    let stored = find(&call, &id).await?;
    let key = keys::definition(call.tenant()?, &id);
    let record = DefinitionRecord { active: false, ..stored.value };
    call.commit(Txn::new().update(key, stored.mod_rev, &record)).await?;
    Reply::done()
}
