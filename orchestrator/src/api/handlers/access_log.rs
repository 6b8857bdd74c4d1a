//! The requests that a service answered, as the ingresses that have taken them have logged them.

use spec::{AccessQuery, ClusterName, NodeCondition, NodeId, ServiceName, StreamAsk, Tenant};

use super::{
    services,
    streams::{Place, begin, log_query, reachable},
};
use crate::{
    api::{
        call::{Call, Reply},
        error::ApiError,
        types::{ListPage, ServiceIngress},
    },
    state::model::Model,
};

/// The nodes whose ingress answers for a service, as far as they can be asked.
pub(crate) async fn ingresses(call: Call) -> Result<Reply, ApiError> {
    service(&call).await?;
    let tenant = call.tenant()?;
    let is_ready =
        |node: &NodeId| call.state().reports.node(node).condition != NodeCondition::Disconnected;
    let nodes = serving(&call.state().model(), tenant);
    let nodes = nodes.into_iter().filter(is_ready);
    let items = nodes.map(|node| ServiceIngress { node }).collect();
    Reply::ok(&ListPage::<ServiceIngress> { items, next: None })
}

/// What one of them has logged of the service's requests, and logs.
pub(crate) async fn read(call: Call) -> Result<Reply, ApiError> {
    let host = service(&call).await?;
    let tenant = call.tenant()?.clone();
    let asked = call.query("node").ok_or_else(|| {
        ApiError::invalid("`node` names the node whose ingress has logged")
            .hint("see which there are: GET …/ingresses")
    })?;
    let node: NodeId = asked.parse()?;
    let serving = serving(&call.state().model(), &tenant);
    if !serving.contains(&node) {
        return Err(ApiError::not_found("node", &node));
    }
    let lines = log_query(&call)?;
    let owner = reachable(&call, &node, "whose ingress has the log")?;
    let permit = call.api.streams.admit(&tenant, &node, owner.as_ref())?;
    let place = Place { tenant, container: None, node, permit };
    begin(call, place, StreamAsk::AccessLog(AccessQuery { service: host, lines }), None).await
}

/// The host name that the service has by itself: no other has it.
async fn service(call: &Call) -> Result<String, ApiError> {
    let (cluster, name): (ClusterName, ServiceName) =
        (call.param("cluster")?, call.param("service")?);
    services::find(call, &cluster, &name).await?;
    let key = (call.tenant()?.clone(), cluster, name);
    Ok(call.api.node_watch.names.of(&key))
}

/// Those that have the routes of the tenant: of the pool, and its own. Where none has said at which
/// address the others reach its ingress there are no others.
fn serving(model: &Model, tenant: &Tenant) -> Vec<NodeId> {
    let serves = |node: &&std::sync::Arc<crate::state::records::NodeRecord>| {
        node.in_pool() || node.tenant.as_ref() == Some(tenant)
    };
    let nodes: Vec<_> = model.nodes.values().filter(serves).collect();
    let with_ingress = nodes.iter().filter(|node| node.spec.ingress_address.is_some());
    let named: Vec<NodeId> = with_ingress.map(|node| node.id.clone()).collect();
    match named.is_empty() {
        true => nodes.iter().map(|node| node.id.clone()).collect(),
        false => named,
    }
}
