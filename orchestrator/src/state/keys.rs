//! Where things are stored. Every key starts with its tenant (`/t/TENANT/…`), or belongs to the
//! system (`/sys/…`).

use spec::{
    CertificateName, ClusterName, CredentialName, Digest, Family, HostName, NodeGroupName, NodeId,
    Port, SecretName, ServiceName, TaskDefinitionId, TaskId, Tenant, Timestamp, VolumeName,
};

/// Counts up with each start; every write of the reconciler is fenced by it.
pub(crate) const EPOCH: &str = "/sys/epoch";
pub(crate) const NODES: &str = "/sys/nodes/";
pub(crate) const JOINS: &str = "/sys/joins/";
pub(crate) const CURSORS: &str = "/sys/usage-cursors/";
pub(crate) const CREDENTIALS: &str = "/sys/named-credentials/";
/// Of releases whose credentials had no name.
pub(crate) const UNNAMED_CREDENTIALS: &str = "/sys/credentials/";

/// What the operator lets a tenant have.
pub(crate) fn quota(tenant: &Tenant) -> String {
    format!("/sys/quotas/{tenant}")
}

pub(crate) const DOMAINS: &str = "/sys/domains/";

/// Below which domains a tenant may have host names.
pub(crate) fn domains(tenant: &Tenant) -> String {
    format!("{DOMAINS}{tenant}")
}

/// Changes with every one of these.
pub(crate) const DOMAIN_GRANTS: &str = "/sys/domain-grants";

pub(crate) const HOSTS: &str = "/sys/hosts/";

/// Which tenant's services answer for a host.
pub(crate) fn host(host: &HostName) -> String {
    format!("{HOSTS}{host}")
}

pub(crate) fn node(id: &NodeId) -> String {
    format!("{NODES}{id}")
}

/// Of the ingresses, and the service that has it.
pub(crate) fn port(port: &Port) -> String {
    format!("/sys/ports/{port}")
}

pub(crate) const NODE_GROUPS: &str = "/sys/node-groups/";

pub(crate) fn node_group(name: &NodeGroupName) -> String {
    format!("{NODE_GROUPS}{name}")
}

/// Which node a certificate belongs to, by its fingerprint.
pub(crate) fn certificate(fingerprint: &str) -> String {
    format!("/sys/certificates/{fingerprint}")
}

/// By the hash of its secret.
pub(crate) fn join(hash: &str) -> String {
    format!("{JOINS}{hash}")
}

pub(crate) fn credentials(tenant: &Tenant) -> String {
    format!("{CREDENTIALS}{tenant}/")
}

pub(crate) fn credential(tenant: &Tenant, name: &CredentialName) -> String {
    format!("{CREDENTIALS}{tenant}/{name}")
}

/// How far the ledger has read a usage log. By the random name of its life, not by its node: that
/// may be removed and join again under another name, and its log goes on.
pub(crate) fn cursor(boot: &str) -> String {
    format!("{CURSORS}{boot}")
}

/// What a node may still have used.
pub(crate) fn usage_allowance(node: &NodeId) -> String {
    format!("/sys/usage-allowances/{node}")
}

pub(crate) const USAGE_DISPUTES: &str = "/sys/usage-disputes/";

/// What a node has claimed and the ledger did not accept.
pub(crate) fn usage_dispute(node: &NodeId) -> String {
    format!("{USAGE_DISPUTES}{node}")
}

/// Everything of a tenant.
pub(crate) fn tenant(tenant: &Tenant) -> String {
    format!("/t/{tenant}/")
}

pub(crate) fn clusters(tenant: &Tenant) -> String {
    format!("/t/{tenant}/clusters/")
}

pub(crate) fn cluster(tenant: &Tenant, name: &ClusterName) -> String {
    format!("/t/{tenant}/clusters/{name}")
}

/// The number of the newest revision.
pub(crate) fn family(tenant: &Tenant, family: &Family) -> String {
    format!("/t/{tenant}/families/{family}")
}

pub(crate) fn definitions(tenant: &Tenant) -> String {
    format!("/t/{tenant}/definitions/")
}

/// Sorted by number: ten digits hold every revision.
pub(crate) fn definition(tenant: &Tenant, id: &TaskDefinitionId) -> String {
    format!("/t/{tenant}/definitions/{}/{:010}", id.family, id.revision)
}

pub(crate) fn services(tenant: &Tenant) -> String {
    format!("/t/{tenant}/services/")
}

pub(crate) fn services_in(tenant: &Tenant, cluster: &ClusterName) -> String {
    format!("/t/{tenant}/services/{cluster}/")
}

pub(crate) fn service(tenant: &Tenant, cluster: &ClusterName, name: &ServiceName) -> String {
    format!("/t/{tenant}/services/{cluster}/{name}")
}

pub(crate) fn tasks(tenant: &Tenant) -> String {
    format!("/t/{tenant}/tasks/")
}

pub(crate) fn task(tenant: &Tenant, id: &TaskId) -> String {
    format!("/t/{tenant}/tasks/{id}")
}

pub(crate) fn volumes(tenant: &Tenant) -> String {
    format!("/t/{tenant}/volumes/")
}

pub(crate) fn volume(tenant: &Tenant, name: &VolumeName) -> String {
    format!("/t/{tenant}/volumes/{name}")
}

pub(crate) fn secrets(tenant: &Tenant) -> String {
    format!("/t/{tenant}/secrets/")
}

pub(crate) fn secret(tenant: &Tenant, name: &SecretName) -> String {
    format!("/t/{tenant}/secrets/{name}")
}

/// Certificates of host names, which are not those of nodes.
pub(crate) fn host_certificates(tenant: &Tenant) -> String {
    format!("/t/{tenant}/certificates/")
}

pub(crate) fn host_certificate(tenant: &Tenant, name: &CertificateName) -> String {
    format!("/t/{tenant}/certificates/{name}")
}

/// Certificates that an authority is asked for.
pub(crate) fn orders(tenant: &Tenant) -> String {
    format!("/t/{tenant}/orders/")
}

pub(crate) fn order(tenant: &Tenant, host: &HostName) -> String {
    format!("/t/{tenant}/orders/{host}")
}

pub(crate) fn idempotency(tenant: &Tenant, key: &str) -> String {
    format!("/t/{tenant}/idempotency/{key}")
}

pub(crate) fn usage_total(tenant: &Tenant) -> String {
    format!("/t/{tenant}/usage/total")
}

pub(crate) fn usage_images(tenant: &Tenant) -> String {
    format!("/t/{tenant}/usage/images/")
}

pub(crate) fn usage_image(tenant: &Tenant, image: &Digest) -> String {
    format!("/t/{tenant}/usage/images/{image}")
}

pub(crate) fn usage_days(tenant: &Tenant) -> String {
    format!("/t/{tenant}/usage/days/")
}

/// As `2026-11-27`.
fn date(day: Timestamp) -> String {
    day.to_string().chars().take("2026-11-27".len()).collect()
}

pub(crate) fn usage_day(tenant: &Tenant, day: Timestamp) -> String {
    format!("{}{}/", usage_days(tenant), date(day))
}

/// Below [`usage_days`].
pub(crate) fn usage_day_of(day: Timestamp, cluster: &ClusterName, task: &TaskId) -> String {
    format!("{}/{cluster}/{task}", date(day))
}

/// Of tasks that are not told apart. No task has this name.
pub(crate) fn usage_day_rest(tenant: &Tenant, day: Timestamp, cluster: &ClusterName) -> String {
    format!("{}{cluster}/~", usage_day(tenant, day))
}

/// What a key is about, for a watch on all of them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Cluster(Tenant),
    Definition(Tenant),
    Service(Tenant),
    Task(Tenant),
    Volume(Tenant),
    Secret(Tenant),
    HostCertificate(Tenant),
    Order(Tenant),
    Node,
    NodeGroup,
    Quota(Tenant),
    Host,
    Idempotency,
    Other,
}

impl Kind {
    pub fn of(key: &str) -> Self {
        let mut parts = key.splitn(5, '/').skip(1);
        match (parts.next(), parts.next(), parts.next()) {
            (Some("t"), Some(tenant), Some(kind)) => match (tenant.parse(), kind) {
                (Ok(tenant), "clusters") => Self::Cluster(tenant),
                (Ok(tenant), "definitions") => Self::Definition(tenant),
                (Ok(tenant), "services") => Self::Service(tenant),
                (Ok(tenant), "tasks") => Self::Task(tenant),
                (Ok(tenant), "volumes") => Self::Volume(tenant),
                (Ok(tenant), "secrets") => Self::Secret(tenant),
                (Ok(tenant), "certificates") => Self::HostCertificate(tenant),
                (Ok(tenant), "orders") => Self::Order(tenant),
                (Ok(_), "idempotency") => Self::Idempotency,
                _ => Self::Other,
            },
            (Some("sys"), Some("nodes"), Some(_)) => Self::Node,
            (Some("sys"), Some("node-groups"), Some(_)) => Self::NodeGroup,
            (Some("sys"), Some("quotas"), Some(tenant)) => {
                tenant.parse().map_or(Self::Other, Self::Quota)
            }
            (Some("sys"), Some("hosts"), Some(_)) => Self::Host,
            _ => Self::Other,
        }
    }
}
