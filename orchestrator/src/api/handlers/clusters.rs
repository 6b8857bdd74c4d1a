use spec::{Cluster, ClusterName};
use store::{Query, Txn};

use crate::{
    api::{
        call::{Call, Reply},
        create::{Creation, create},
        error::{ApiError, few},
        types::CreateCluster,
    },
    state::{
        keys, now,
        records::{Guarded, Stored, TaskRecord},
    },
};

pub(crate) async fn create_cluster(call: Call) -> Result<Reply, ApiError> {
    let CreateCluster { name } = call.json()?;
    let key = keys::cluster(call.tenant()?, &name);
    create(&call, || async {
        if call.state().get::<Cluster>(key.clone()).await?.is_some() {
            return Err(ApiError::exists("cluster", &name));
        }
        let cluster = Cluster { name: name.clone(), created: now() };
        Ok(Creation::new(Txn::new().create(key.clone(), &cluster), &cluster))
    })
    .await
}

pub(crate) async fn list(call: Call) -> Result<Reply, ApiError> {
    call.page(keys::clusters(call.tenant()?), |cluster: Cluster| Some(cluster)).await
}

pub(crate) async fn show(call: Call) -> Result<Reply, ApiError> {
    Reply::ok(&find(&call, &call.param("cluster")?).await?.value)
}

/// A cluster that the caller has.
pub(crate) async fn find(call: &Call, name: &ClusterName) -> Result<Stored<Cluster>, ApiError> {
    call.find(keys::cluster(call.tenant()?, name), "cluster", name).await
}

pub(crate) async fn delete(call: Call) -> Result<Reply, ApiError> {
    let name: ClusterName = call.param("cluster")?;
    let tenant = call.tenant()?;
    // So that nothing is put into it between the look and the deletion.
    let _alone = call.api.clusters.write().await;
    let cluster = find(&call, &name).await?;
    let prefix = keys::services_in(tenant, &name);
    let services = call.state().range(Query::prefix(prefix.clone()).keys_only()).await?;
    let services = services.kvs.iter().filter_map(|kv| kv.key.strip_prefix(&prefix));
    let services: Vec<String> = services.map(|service| format!("`{service}`")).collect();
    if let [first, ..] = services.as_slice() {
        let message = format!("cluster `{name}` still has services: {}", few(&services));
        let first = first.trim_matches('`');
        return Err(ApiError::in_use(message).hint(match services.len() {
            1 => format!("delete it first: margay service delete {first} --cluster {name}"),
            _ => {
                format!("delete them first, as with margay service delete {first} --cluster {name}")
            }
        }));
    }
    let tasks: Vec<Stored<TaskRecord>> = call.state().list(keys::tasks(tenant)).await?;
    let live = |task: &&Stored<TaskRecord>| {
        task.value.task.spec.cluster == name && !task.value.has_ended()
    };
    let live: Vec<&Stored<TaskRecord>> = tasks.iter().filter(live).collect();
    if !live.is_empty() {
        let names: Vec<String> = live.iter().map(|task| format!("`{}`", task.value.id())).collect();
        let message =
            format!("cluster `{name}` still has tasks that have not ended: {}", few(&names));
        let wanted = live.iter().find(|task| task.value.is_wanted());
        return Err(ApiError::in_use(message).hint(match wanted {
            Some(task) => format!("stop them first, as with margay task stop {}", task.value.id()),
            None => "they are ending: try again in a moment".to_owned(),
        }));
    }
    call.commit(Txn::new().remove(keys::cluster(tenant, &name), cluster.mod_rev)).await?;
    Reply::done()
}
