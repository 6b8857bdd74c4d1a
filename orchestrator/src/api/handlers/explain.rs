//! Why something is as it is.

use spec::{ClusterName, Explanation, NodeId, ServiceName, TaskId, TaskPhase};

use super::{nodes, services, tasks};
use crate::{
    api::{
        call::{Call, Reply},
        error::ApiError,
    },
    plan::{Observed, Subject, explain, explain_route},
    state::{now, records::ServiceKey},
};

pub(crate) async fn service(call: Call) -> Result<Reply, ApiError> {
    let (cluster, name): (ClusterName, ServiceName) =
        (call.param("cluster")?, call.param("service")?);
    services::find(&call, &cluster, &name).await?;
    let key = (call.tenant()?.clone(), cluster, name);
    Reply::ok(&of_service(&call, &key).await?.1)
}

/// With how many copies are ready.
async fn of_service(call: &Call, key: &ServiceKey) -> Result<(u32, Explanation), ApiError> {
    let (_, cluster, name) = key;
    let stored = services::find(call, cluster, name).await?;
    let shown = services::shown_alone(call, stored.value.clone())?;
    let waiting = call.api.reconciler.waiting(&Subject::Service(key.clone()));
    let model = call.state().model();
    let sees = |id: &NodeId| nodes::sees(call, &model, id);
    let (service, waiting) = ((key, &stored.value), waiting.as_ref());
    let explanation = explain::service(&model, service, &shown, waiting, &sees);
    Ok((shown.status.ready, explanation))
}

pub(crate) async fn task(call: Call) -> Result<Reply, ApiError> {
    let id: TaskId = call.param("task")?;
    let mut record = tasks::find(&call, &id).await?.value;
    record.task = tasks::shown(&call.api, record.clone());
    let waits = record.task.status.phase == TaskPhase::Pending;
    let waiting = call.api.reconciler.waiting(&Subject::Task(record.key())).filter(|_| waits);
    if waiting.is_some() {
        record.task.status.reason = None; // it is the same
    }
    let model = call.state().model();
    let sees = |id: &NodeId| nodes::sees(&call, &model, id);
    Reply::ok(&explain::task(&model, &record, waiting.as_ref(), &sees))
}

pub(crate) async fn node(call: Call) -> Result<Reply, ApiError> {
    let id: NodeId = call.param("node")?;
    let record = nodes::find(&call, &id).await?.value;
    let (state, model) = (call.state(), call.state().model());
    let observed = Observed {
        conditions: state.reports.conditions(model.nodes.keys()),
        under_pressure: state.reports.under_pressure(),
        idle: state.reports.idle(),
        ..Observed::default()
    };
    let status = state.reports.node(&id);
    let problems = state.reports.problems(&id);
    Reply::ok(&explain::node(&model, &observed, &record, (&status, &problems), now()))
}

pub(crate) async fn route(call: Call) -> Result<Reply, ApiError> {
    let (tenant, host) = (call.tenant()?.clone(), call.text_param("host").to_ascii_lowercase());
    let table = call.api.node_watch.routes_of(&tenant);
    let name = answered_by(&table, &host);
    let backends = table.hosts.get(&name).map_or(0, Vec::len);
    let names = &call.api.node_watch.names;
    let key = {
        let model = call.state().model();
        let mut own = model.services.keys().filter(|(owner, ..)| *owner == tenant);
        own.find(|key| names.of(key) == name).cloned()
    };
    let service = match &key {
        Some(key) => {
            let (ready, explanation) = of_service(&call, key).await?;
            Some((key, ready, explanation))
        }
        None => None,
    };
    let given = table.rules.keys().map(ToString::to_string);
    let known: Vec<String> = given.chain(table.hosts.keys().cloned()).take(HOSTS_SHOWN).collect();
    let mut explanation = explain_route::route(&host, service, backends, (&known, &names.domain));
    explanation.causes.extend(rules_of(&table, &host).and_then(explain_route::rules));
    let order = host.parse().ok().and_then(|host| {
        let model = call.state().model();
        model.orders.get(&(tenant.clone(), host)).map(|record| record.order.clone())
    });
    let shown = shown_for(&table, &host).filter(|shown| shown.tenant == tenant);
    if let Some(shown) = shown {
        let model = call.state().model();
        let certificate = model.certificates.get(&(tenant, shown.name.clone()));
        explanation.causes.extend(certificate.map(|one| explain::certificate(one, now())));
    }
    explanation.causes.extend(order.map(|order| explain::order(&order, now())));
    Reply::ok(&explanation)
}

/// The certificate that clients of `host` are shown.
fn shown_for<'a>(
    table: &'a spec::wire::RouteTable,
    host: &str,
) -> Option<&'a spec::wire::RouteCertificate> {
    let of = |name: &str| table.certificates.get(&name.parse::<spec::HostName>().ok()?);
    of(host).or_else(|| of(&format!("*.{}", host.split_once('.')?.1)))
}

/// The name that the service of `host` has by itself; of several services that of the widest path.
fn answered_by(table: &spec::wire::RouteTable, host: &str) -> String {
    let rules = rules_of(table, host);
    let service = rules.and_then(|rules| rules.last()?.services.keys().next());
    service.map_or_else(|| host.to_owned(), String::clone)
}

/// Those of the host, or of the wildcard that it is one of, in the order in which they are tried.
fn rules_of<'a>(table: &'a spec::wire::RouteTable, host: &str) -> Option<&'a [spec::RouteRule]> {
    let of = |name: &str| table.rules.get(&name.parse::<spec::HostName>().ok()?);
    let wildcard = || of(&format!("*.{}", host.split_once('.')?.1));
    let rules = of(host).or_else(wildcard).filter(|_| !table.hosts.contains_key(host));
    rules.map(Vec::as_slice)
}

/// Names that are told when another one leads nowhere.
const HOSTS_SHOWN: usize = 5;
