//! What happened to the objects of a tenant: read from their records, so that it is the same after
//! a restart, and goes with them.

use spec::{
    CertificateName, ClusterName, EventSubject, HostName, NodeId, ObjectEvent, ServiceName, TaskId,
    Tenant, Timestamp,
};

use crate::state::{
    model::Model,
    objects::Certificate,
    orders::CertificateOrder,
    records::{NodeRecord, ServiceRecord, TaskRecord},
};

/// Which events are meant: those that match each key that is there.
#[derive(Debug, Clone, Default)]
pub(crate) struct EventQuery {
    pub cluster: Option<ClusterName>,
    /// Events of the service and of its replicas.
    pub service: Option<ServiceName>,
    pub task: Option<TaskId>,
    /// Events of the node and of the tasks on it.
    pub node: Option<NodeId>,
    pub certificate: Option<CertificateName>,
    pub since: Option<Timestamp>,
}

impl EventQuery {
    fn means_service(&self, record: &ServiceRecord) -> bool {
        let service = &record.service;
        self.certificate.is_none()
            && self.task.is_none()
            && self.node.is_none()
            && self.cluster.as_ref().is_none_or(|name| service.cluster == *name)
            && self.service.as_ref().is_none_or(|name| service.name == *name)
    }

    fn means_task(&self, record: &TaskRecord) -> bool {
        let spec = &record.task.spec;
        self.certificate.is_none()
            && self.cluster.as_ref().is_none_or(|name| spec.cluster == *name)
            && self.service.as_ref().is_none_or(|name| spec.service.as_ref() == Some(name))
            && self.task.as_ref().is_none_or(|id| record.id() == id)
            && self.node.as_ref().is_none_or(|node| spec.node.as_ref() == Some(node))
    }

    /// Those are of no cluster and no node.
    fn means_certificate(&self, name: &CertificateName) -> bool {
        self.certificate.as_ref().is_none_or(|wanted| wanted == name)
            && self.cluster.is_none()
            && self.service.is_none()
            && self.task.is_none()
            && self.node.is_none()
    }

    fn means_node(&self, record: &NodeRecord) -> bool {
        self.certificate.is_none()
            && self.cluster.is_none()
            && self.service.is_none()
            && self.task.is_none()
            && self.node.as_ref().is_none_or(|node| record.id == *node)
    }
}

/// The newest `most` events that are meant, oldest first.
pub(crate) fn events(
    model: &Model,
    tenant: &Tenant,
    query: &EventQuery,
    most: usize,
    now: Timestamp,
) -> Vec<ObjectEvent> {
    let services = model.services_of(tenant).filter(|record| query.means_service(record));
    let tasks = model.tasks.values().map(|stored| &stored.value);
    let tasks = tasks.filter(|task| task.tenant == *tenant && query.means_task(task));
    let nodes = model.nodes.values().filter(|node| node.tenant.as_ref() == Some(tenant));
    let nodes = nodes.filter(|node| query.means_node(node));
    let certificates = model.certificates.iter().filter(|((owner, _), _)| owner == tenant);
    let certificates = certificates.map(|(_, certificate)| certificate);
    let certificates = certificates.filter(|one| query.means_certificate(&one.name));
    let orders = model.orders.iter().filter(|((owner, _), _)| owner == tenant);
    let orders = orders.map(|(_, record)| &record.order);
    let orders = orders.filter(|one| query.means_certificate(&one.certificate));
    let mut events: Vec<ObjectEvent> = services
        .flat_map(of_service)
        .chain(tasks.flat_map(of_task))
        .chain(nodes.map(|node| of_node(node)))
        .chain(certificates.flat_map(|certificate| of_certificate(certificate, now)))
        .chain(orders.filter_map(of_order))
        .filter(|event| query.since.is_none_or(|since| event.at >= since))
        .collect();
    events.sort_by(|one, other| (one.at, &one.object).cmp(&(other.at, &other.object)));
    events.split_off(events.len().saturating_sub(most))
}

fn of_service(record: &ServiceRecord) -> impl Iterator<Item = ObjectEvent> {
    let service = &record.service;
    record.rollout.events.iter().map(|event| ObjectEvent {
        at: event.at,
        subject: EventSubject::Service,
        object: service.name.to_string(),
        cluster: Some(service.cluster.clone()),
        message: event.message.clone(),
    })
}

fn of_task(record: &TaskRecord) -> Vec<ObjectEvent> {
    let spec = &record.task.spec;
    let event = |at, message: String| ObjectEvent {
        at,
        subject: EventSubject::Task,
        object: record.id().to_string(),
        cluster: Some(spec.cluster.clone()),
        message,
    };
    let of = spec.service.as_ref().map_or(String::new(), |name| format!(" for service `{name}`"));
    let on = spec.node.as_ref().map_or(String::new(), |node| format!(", on node `{node}`"));
    let mut events =
        vec![event(record.task.created, format!("`{}` was made{of}{on}", spec.task_definition))];
    events.extend(record.readied.map(|at| event(at, "it is ready".to_owned())));
    events.extend(record.failed.map(|at| event(at, "it failed before it was ready".to_owned())));
    events.extend(record.restarts.iter().map(|one| {
        let code = one.exit_code.map_or(String::new(), |code| format!(" after exit code {code}"));
        let times = if one.count == 1 { "once".to_owned() } else { format!("{} times", one.count) };
        let message =
            format!("container `{}` was started again{code}, {times} so far", one.container);
        event(one.at, message)
    }));
    events.extend(record.ended.map(|at| event(at, format!("it ended{}", how_it_ended(record)))));
    events
}

/// With the exit codes of its containers, and the reason, where they are known.
fn how_it_ended(record: &TaskRecord) -> String {
    let codes = record.task.status.containers.iter().filter_map(|one| {
        Some(format!("container `{}` with exit code {}", one.name, one.exit_code?))
    });
    let said = codes.chain(record.task.status.reason.clone());
    let said: Vec<String> = said.collect();
    if said.is_empty() { String::new() } else { format!(": {}", said.join("; ")) }
}

/// What an authority has said the last time.
fn of_order(order: &CertificateOrder) -> Option<ObjectEvent> {
    let CertificateOrder { host, certificate, failures, error, .. } = order;
    let times = if *failures == 1 { String::new() } else { format!(" ({failures} times)") };
    Some(ObjectEvent {
        at: order.tried?,
        subject: EventSubject::Certificate,
        object: certificate.to_string(),
        cluster: None,
        message: format!("it could not be ordered for `{host}`{times}: {}", error.as_deref()?),
    })
}

/// What was done with it, and what its clients will see.
fn of_certificate(certificate: &Certificate, now: Timestamp) -> Vec<ObjectEvent> {
    let event = |at, message: String| ObjectEvent {
        at,
        subject: EventSubject::Certificate,
        object: certificate.name.to_string(),
        cluster: None,
        message,
    };
    let hosts = few(&certificate.hosts);
    let update = certificate.next_one();
    let how = if certificate.acme { "issued by ACME" } else { "uploaded" };
    let mut events = vec![event(certificate.uploaded, format!("it was {how}, for {hosts}"))];
    // The platform sees to those that it has ordered.
    if !certificate.acme {
        let renew_from = certificate.renew_from().max(certificate.uploaded);
        events.push(event(renew_from, format!("it expires soon: {update}")));
    }
    events.push(event(certificate.not_after, format!("it has expired, for {hosts}: {update}")));
    events.retain(|event| event.at <= now);
    events
}

fn few(hosts: &[HostName]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<String> = hosts.iter().take(SHOWN).map(|host| format!("`{host}`")).collect();
    let more = hosts.len().saturating_sub(SHOWN);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    shown.join(", ") + &more
}

fn of_node(record: &NodeRecord) -> ObjectEvent {
    ObjectEvent {
        at: record.joined,
        subject: EventSubject::Node,
        object: record.id.to_string(),
        cluster: None,
        message: "it joined".to_owned(),
    }
}
