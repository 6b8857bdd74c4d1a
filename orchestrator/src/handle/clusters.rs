use spec::{Cluster, ClusterName};
use store::{Compare, Query, Txn};

use crate::{
    api::CreateCluster,
    app::now,
    call::{Call, Reply},
    create::{Made, create},
    error::Refusal,
    keys,
    records::{Kept, TaskRecord, encode},
};

pub(crate) async fn create_cluster(call: Call) -> Result<Reply, Refusal> {
    let CreateCluster { name } = call.json()?;
    let key = keys::cluster(call.tenant()?, &name);
    create(&call, || {
        let (call, name, key) = (&call, name.clone(), key.clone());
        Box::pin(async move {
            if call.app.get::<Cluster>(key.clone()).await?.is_some() {
                return Err(Refusal::exists("cluster", &name));
            }
            let cluster = Cluster { name, created: now() };
            Ok(Made::new(Txn::new().when(Compare::Absent(key.clone())).put(key, encode(&cluster)), &cluster))
        })
    })
    .await
}

pub(crate) async fn list(call: Call) -> Result<Reply, Refusal> {
    Reply::ok(&call.page(keys::clusters(call.tenant()?), |kept: Kept<Cluster>| Some(kept.value)).await?)
}

pub(crate) async fn show(call: Call) -> Result<Reply, Refusal> {
    Reply::ok(&find(&call, &call.param("cluster")?).await?.value)
}

/// A cluster that the caller has.
pub(crate) async fn find(call: &Call, name: &ClusterName) -> Result<Kept<Cluster>, Refusal> {
    let found = call.app.get(keys::cluster(call.tenant()?, name)).await?;
    found.ok_or_else(|| Refusal::not_found("cluster", name))
}

pub(crate) async fn delete(call: Call) -> Result<Reply, Refusal> {
    let name: ClusterName = call.param("cluster")?;
    let tenant = call.tenant()?;
    // Nobody puts anything in between the look and the deletion.
    let _alone = call.app.clusters.write().await;
    let cluster = find(&call, &name).await?;
    let services = call.app.store.range(Query::prefix(keys::services_in(tenant, &name)).keys_only()).await?.count;
    if services > 0 {
        let message = format!("cluster `{name}` still has services: {services}");
        return Err(Refusal::in_use(message).hint("delete them first: margay service delete"));
    }
    let tasks: Vec<Kept<TaskRecord>> = call.app.list(keys::tasks(tenant)).await?;
    let live = |task: &&Kept<TaskRecord>| task.value.task.spec.cluster == name && !task.value.has_ended();
    let live = tasks.iter().filter(live).count();
    if live > 0 {
        let message = format!("cluster `{name}` still has tasks that have not ended: {live}");
        return Err(Refusal::in_use(message).hint("stop them first (margay task stop), or wait until they have ended"));
    }
    let key = keys::cluster(tenant, &name);
    let txn = Txn::new().when(Compare::ModRev(key.clone(), cluster.mod_rev)).delete(key);
    match call.app.store.txn(txn).await?.succeeded {
        true => Reply::done(),
        false => Err(Refusal::conflict()),
    }
}
