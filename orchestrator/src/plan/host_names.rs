use spec::{ClusterName, TaskId, Tenant};

use crate::state::records::ServiceKey;

/// The names under which ingresses serve services and tasks, as Knative and Kubernetes make them:
/// the narrower scope first. They end with one domain, so that one wildcard record in DNS leads to
/// all of them.
#[derive(Debug, Clone)]
pub(crate) struct HostNames {
    /// Its services have the shortest names.
    pub operator: Tenant,
    pub domain: String,
}

impl HostNames {
    /// `SERVICE.CLUSTER.DOMAIN` for the operator's services. Every other tenant has its own name
    /// in front of the domain, so no tenant can take a name of another.
    pub fn of(&self, (tenant, cluster, service): &ServiceKey) -> String {
        self.name(tenant, cluster, service.as_str())
    }

    /// Of a task that is no replica. Ids of tasks end with digits that no service is named by
    /// chance; where one is, the name is that of the service.
    pub fn of_task(&self, tenant: &Tenant, cluster: &ClusterName, task: &TaskId) -> String {
        self.name(tenant, cluster, task.as_str())
    }

    fn name(&self, tenant: &Tenant, cluster: &ClusterName, label: &str) -> String {
        match *tenant == self.operator {
            true => format!("{label}.{cluster}.{}", self.domain),
            false => format!("{label}.{cluster}.{tenant}.{}", self.domain),
        }
    }
}
