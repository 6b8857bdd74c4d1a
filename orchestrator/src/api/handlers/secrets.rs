use http::StatusCode;
use spec::{
    SecretName, SecretValue, TaskId, Tenant, TenantQuota,
    wire::{self, TaskSecrets},
};
use store::Txn;

use crate::{
    api::{
        call::{Call, Reply},
        context::Api,
        create::{Creation, create},
        error::{ApiError, few},
        quota,
        types::CreateSecret,
    },
    plan::secret_create_command,
    state::{
        State, keys, now,
        objects::Secret,
        records::{DefinitionRecord, Guarded, NodeRecord, SecretRecord, Stored, TaskRecord},
    },
};

pub(crate) async fn create_secret(call: Call) -> Result<Reply, ApiError> {
    // What serde would say is wrong may quote the value.
    let CreateSecret { name, value } = spec::json::from_slice(&call.body).map_err(|_| {
        ApiError::invalid(call.not_the_body()).hint(format!(
            "send {{\"name\": NAME, \"value\": BASE64}}: a name of 1 to 63 lower-case letters, \
             digits, `-`, `_` and `.`, and a value of 1 to {} bytes",
            SecretValue::BYTES_MAX
        ))
    })?;
    let tenant = call.tenant()?;
    create(&call, || new_secret(&call, tenant, &name, &value)).await
}

async fn new_secret(
    call: &Call,
    tenant: &Tenant,
    name: &SecretName,
    value: &SecretValue,
) -> Result<Creation, ApiError> {
    let key = keys::secret(tenant, name);
    if call.state().get::<SecretRecord>(key.clone()).await?.is_some() {
        return Err(ApiError::exists("secret", name)
            .hint(format!("choose another name, or remove it first: margay secret rm {name}")));
    }
    let more = TenantQuota { secrets: 1, ..TenantQuota::NOTHING };
    quota::check(call.state(), tenant, &more).await?;
    let sealed = call.api.issuer.seal.close(tenant, name, value);
    let secret =
        Secret { name: name.clone(), created: now(), size_bytes: value.expose().len() as u64 };
    let record = SecretRecord { secret: secret.clone(), sealed };
    Ok(Creation::new(Txn::new().create(key, &record), &secret))
}

pub(crate) async fn list(call: Call) -> Result<Reply, ApiError> {
    call.page(keys::secrets(call.tenant()?), |record: SecretRecord| Some(record.secret)).await
}

pub(crate) async fn show(call: Call) -> Result<Reply, ApiError> {
    Reply::ok(&find(call.state(), call.tenant()?, &call.param("secret")?).await?.value.secret)
}

async fn find(
    state: &State,
    tenant: &Tenant,
    name: &SecretName,
) -> Result<Stored<SecretRecord>, ApiError> {
    let found = state.get(keys::secret(tenant, name)).await?;
    found.ok_or_else(|| {
        ApiError::not_found("secret", name).hint(format!(
            "see what there is: margay secret ls; or make it: {}",
            secret_create_command(name)
        ))
    })
}

pub(crate) async fn remove(call: Call) -> Result<Reply, ApiError> {
    let (tenant, name) = (call.tenant()?, call.param::<SecretName>("secret")?);
    let stored = find(call.state(), tenant, &name).await?;
    let users = users(call.state(), tenant, &name);
    if !users.is_empty() {
        let message = format!("secret `{name}` is in use by {}", few(&users));
        return Err(ApiError::in_use(message)
            .hint("move them to a definition without it, or delete and stop them first"));
    }
    call.commit(Txn::new().remove(keys::secret(tenant, &name), stored.mod_rev)).await?;
    Reply::done()
}

/// Services that want the secret, and tasks that have not ended.
fn users(state: &State, tenant: &Tenant, name: &SecretName) -> Vec<String> {
    let model = state.model();
    let has = |definition: Option<&std::sync::Arc<DefinitionRecord>>| {
        definition.is_some_and(|found| found.definition.secrets().contains(name))
    };
    let services = model.services.iter().filter(|((owner, ..), stored)| {
        let id = stored.value.service.spec.task_definition.clone();
        owner == tenant && has(model.definitions.get(&(owner.clone(), id)))
    });
    let tasks = model.live_tasks_of(tenant).filter(|task| has(model.definition_of(task)));
    let services =
        services.map(|((_, cluster, service), _)| format!("service `{service}` in `{cluster}`"));
    services.chain(tasks.map(|task| format!("task `{}`", task.id()))).collect()
}

/// The secrets of a task, for the node that it is assigned to alone.
pub(crate) async fn of_task(
    api: &Api,
    node: &NodeRecord,
    tenant: &Tenant,
    id: &TaskId,
) -> Result<Reply, ApiError> {
    let task: Option<Stored<TaskRecord>> = api.state.get(keys::task(tenant, id)).await?;
    let task =
        task.map(|stored| stored.value).filter(|task| task.is_wanted() && may_have(node, task));
    let task = task.ok_or_else(|| ApiError::not_found("task", id))?;
    let key = keys::definition(tenant, &task.task.spec.task_definition);
    let definition: Option<Stored<DefinitionRecord>> = api.state.get(key).await?;
    let definition = definition
        .ok_or_else(|| ApiError::not_found("task definition", &task.task.spec.task_definition))?;
    let definition = definition.value.with(task.task.spec.overrides.as_ref())?;
    let names = definition.definition.secrets();
    let mut secrets = std::collections::BTreeMap::new();
    for name in names {
        let record = find(&api.state, tenant, &name).await?.value;
        let value = api
            .issuer
            .seal
            .open(tenant, &name, &record.sealed)
            .ok_or_else(|| cannot_open(&name))?;
        secrets.insert(name, value);
    }
    let names: Vec<&str> = secrets.keys().map(SecretName::as_str).collect();
    tracing::info!(node = %node.id, %tenant, task = %id, ?names, "handed secrets over");
    Reply::ok(&TaskSecrets { version: wire::VERSION, secrets })
}

/// It was placed there, and there is a place where it may be: the tenant's own node, or one of the
/// pool.
fn may_have(node: &NodeRecord, task: &TaskRecord) -> bool {
    let own = node.tenant.as_ref() == Some(&task.tenant);
    task.task.spec.node.as_ref() == Some(&node.id) && (own || node.in_pool())
}

fn cannot_open(name: &SecretName) -> ApiError {
    let message = format!(
        "secret `{name}` cannot be opened: `secret.key` of the control plane is not the one that \
         closed it"
    );
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "sealed", message).hint(format!(
        "restore that file, or make the secret again: margay secret rm {name}; {}",
        secret_create_command(name)
    ))
}
