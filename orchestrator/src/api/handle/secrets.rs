use http::StatusCode;
use spec::{
    SecretName, SecretValue, TaskId, Tenant,
    wire::{self, TaskSecrets},
};
use store::{Compare, Query, Txn};

use crate::{
    api::{CreateSecret, Secret},
    app::{App, now},
    call::{Call, Reply},
    create::{Made, create},
    error::{Refusal, few},
    keys,
    plan::secret_create_command,
    records::{DefinitionRecord, Kept, NodeRecord, SecretRecord, TaskRecord, encode},
};

/// Secrets of one tenant. With the size of each, what one of them can make the store keep is a few
/// megabytes.
const SECRETS_MAX: usize = 100;

pub(crate) async fn create_secret(call: Call) -> Result<Reply, Refusal> {
    // What serde would say is wrong may quote the value.
    let CreateSecret { name, value } = serde_json::from_slice(&call.body).map_err(|_| {
        Refusal::invalid(format!("the body is not what `{} {}` takes", call.method, call.path)).hint(format!(
            "send {{\"name\": NAME, \"value\": BASE64}}: a name of 1 to 63 lower-case letters, digits, `-`, `_` and `.`, and \
             a value of 1 to {} bytes",
            SecretValue::BYTES_MAX
        ))
    })?;
    let tenant = call.tenant()?;
    create(&call, || {
        let (call, name, value) = (&call, name.clone(), value.clone());
        Box::pin(async move { new_secret(call, tenant, name, &value).await })
    })
    .await
}

async fn new_secret(
    call: &Call,
    tenant: &Tenant,
    name: SecretName,
    value: &SecretValue,
) -> Result<Made, Refusal> {
    let key = keys::secret(tenant, &name);
    if call.app.get::<SecretRecord>(key.clone()).await?.is_some() {
        return Err(Refusal::exists("secret", &name)
            .hint(format!("choose another name, or remove it first: margay secret rm {name}")));
    }
    let secrets = Query::prefix(keys::secrets(tenant)).limit(0).counted();
    if call.app.store.range(secrets).await?.count.expect("it was asked for") >= SECRETS_MAX {
        let message = format!("this tenant has {SECRETS_MAX} secrets, and that is the most");
        return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, "quota", message)
            .hint("remove one that nothing uses: margay secret rm NAME"));
    }
    let sealed = call.app.seal.close(tenant, &name, value);
    let secret = Secret { name, created: now(), size_bytes: value.expose().len() as u64 };
    let record = SecretRecord { secret: secret.clone(), sealed };
    Ok(Made::new(Txn::new().when(Compare::Absent(key.clone())).put(key, encode(&record)), &secret))
}

pub(crate) async fn list(call: Call) -> Result<Reply, Refusal> {
    Reply::ok(
        &call
            .page(keys::secrets(call.tenant()?), |kept: Kept<SecretRecord>| Some(kept.value.secret))
            .await?,
    )
}

pub(crate) async fn show(call: Call) -> Result<Reply, Refusal> {
    Reply::ok(&find(&call.app, call.tenant()?, &call.param("secret")?).await?.value.secret)
}

async fn find(
    app: &App,
    tenant: &Tenant,
    name: &SecretName,
) -> Result<Kept<SecretRecord>, Refusal> {
    let found = app.get(keys::secret(tenant, name)).await?;
    found.ok_or_else(|| {
        Refusal::not_found("secret", name).hint(format!(
            "see what there is: margay secret ls; or make it: {}",
            secret_create_command(name)
        ))
    })
}

pub(crate) async fn remove(call: Call) -> Result<Reply, Refusal> {
    let (tenant, name) = (call.tenant()?, call.param::<SecretName>("secret")?);
    let kept = find(&call.app, tenant, &name).await?;
    let users = users(&call.app, tenant, &name);
    if !users.is_empty() {
        let message = format!("secret `{name}` is in use by {}", few(&users));
        return Err(Refusal::in_use(message)
            .hint("move them to a definition without it, or delete and stop them first"));
    }
    let key = keys::secret(tenant, &name);
    let txn = Txn::new().when(Compare::ModRev(key.clone(), kept.mod_rev)).delete(key);
    match call.app.store.txn(txn).await?.succeeded {
        true => Reply::done(),
        false => Err(Refusal::conflict()),
    }
}

/// Services that want the secret, and tasks that have not ended.
fn users(app: &App, tenant: &Tenant, name: &SecretName) -> Vec<String> {
    let model = app.model.read();
    let has = |definition: Option<&std::sync::Arc<DefinitionRecord>>| {
        definition.is_some_and(|found| found.definition.secrets().contains(name))
    };
    let services = model.services.iter().filter(|((owner, ..), kept)| {
        let id = kept.value.service.spec.task_definition.clone();
        owner == tenant && has(model.definitions.get(&(owner.clone(), id)))
    });
    let tasks = model.tasks.iter().filter(|((owner, _), kept)| {
        owner == tenant && !kept.value.has_ended() && has(model.definition_of(&kept.value))
    });
    let services =
        services.map(|((_, cluster, service), _)| format!("service `{service}` in `{cluster}`"));
    services.chain(tasks.map(|((_, id), _)| format!("task `{id}`"))).collect()
}

/// What a task may have, for the node that it is assigned to and for nobody else.
pub(crate) async fn of_task(
    app: &App,
    node: &NodeRecord,
    tenant: &Tenant,
    id: &TaskId,
) -> Result<Reply, Refusal> {
    let task: Option<Kept<TaskRecord>> = app.get(keys::task(tenant, id)).await?;
    let task = task.map(|kept| kept.value).filter(|task| task.is_wanted() && may_have(node, task));
    let task = task.ok_or_else(|| Refusal::not_found("task", id))?;
    let key = keys::definition(tenant, &task.task.spec.task_definition);
    let definition: Option<Kept<DefinitionRecord>> = app.get(key).await?;
    let definition = definition
        .ok_or_else(|| Refusal::not_found("task definition", &task.task.spec.task_definition))?;
    let names = definition.value.definition.secrets();
    let mut secrets = std::collections::BTreeMap::new();
    for name in names {
        let record = find(app, tenant, &name).await?.value;
        let value =
            app.seal.open(tenant, &name, &record.sealed).ok_or_else(|| cannot_open(&name))?;
        secrets.insert(name, value);
    }
    tracing::info!(node = %node.id, %tenant, task = %id, names = ?secrets.keys().map(SecretName::as_str).collect::<Vec<_>>(), "handed secrets over");
    Reply::ok(&TaskSecrets { version: wire::VERSION, secrets })
}

/// It was placed there, and there is a place where it may be: the tenant's own node, or one of the
/// pool.
fn may_have(node: &NodeRecord, task: &TaskRecord) -> bool {
    let own = node.tenant.as_ref() == Some(&task.tenant);
    task.task.spec.node.as_ref() == Some(&node.id) && (own || node.in_pool())
}

fn cannot_open(name: &SecretName) -> Refusal {
    let message = format!(
        "secret `{name}` cannot be opened: `secret.key` of the control plane is not the one that closed it"
    );
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "sealed", message).hint(format!(
        "restore that file, or make the secret again: margay secret rm {name}; {}",
        secret_create_command(name)
    ))
}
