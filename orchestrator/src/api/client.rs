mod streams; // frames of a task on whichever node
mod certificates; // of host names
mod node_groups; // and what is to be done for their machines
mod metrics; // that clients report of services
mod login; // an access token for a credential, renewed in time

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use http::Method;
use net::{ApiClient, ApiRequest, tls};
use serde::{Serialize, de::DeserializeOwned};
use spec::{
    Cluster, ClusterName, CredentialName, EventList, Explanation, Node, NodeId, ObjectEvent,
    QuotaChange, SecretName, SecretValue, Service, ServiceName, Task, TaskDefinition,
    TaskDefinitionId, TaskId, Tenant, VolumeName, wire::RouteTable,
};

use super::{query::encoded, types::*};
use crate::{
    Error,
    state::{
        hosts::TenantDomains,
        objects::{DayUsage, Secret, Volume},
    },
};
use login::Login;

/// Longer than any answer takes: resolving images of a definition is the slowest, with ten seconds
/// each.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(120);

/// Speaks to the control plane: through its Unix socket as its operator, or over TLS as the tenant
/// of a credential.
///
/// Every create sends an `Idempotency-Key` of its own; repeat with [`Client::with_key`] to be sure
/// that a request whose answer was lost happens once.
#[derive(Clone)]
pub struct Client {
    api: Arc<ApiClient>,
    /// Nothing through the socket, whose users need no credential.
    login: Option<Arc<Login>>,
    key: Option<String>,
}

impl Client {
    /// Through the socket of a control plane on this machine.
    pub fn unix(socket: impl Into<PathBuf>) -> Self {
        Self { api: Arc::new(ApiClient::unix(socket)), login: None, key: None }
    }

    /// Over TLS, trusting exactly the CA that the credential names. Access tokens are fetched and
    /// renewed when they are needed.
    ///
    /// A credential of an earlier release, which has no name, works once: `keep` stores the one
    /// that takes its place before the client goes on.
    pub fn tls(
        credential: Credential,
        keep: impl Fn(&Credential) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let config = tls::pinned_client(&credential.ca_fingerprint);
        let api = ApiClient::tls(credential.address.clone(), config);
        let login = Login::new(credential, Box::new(keep));
        Self { api: Arc::new(api), login: Some(Arc::new(login)), key: None }
    }

    /// The same, with this `Idempotency-Key` on every create.
    #[must_use]
    pub fn with_key(&self, key: impl Into<String>) -> Self {
        Self { key: Some(key.into()), ..self.clone() }
    }

    /// Whether it answers, and where it is.
    pub async fn health(&self) -> Result<Health, Error> {
        self.get("/v1/health").await
    }

    pub async fn principal(&self) -> Result<Caller, Error> {
        self.get("/v1/principal").await
    }

    pub async fn create_cluster(&self, name: &ClusterName) -> Result<Cluster, Error> {
        self.create("/v1/clusters", &CreateCluster { name: name.clone() }).await
    }

    pub async fn clusters(&self) -> Result<Vec<Cluster>, Error> {
        self.all("/v1/clusters").await
    }

    pub async fn cluster(&self, name: &ClusterName) -> Result<Cluster, Error> {
        self.get(&format!("/v1/clusters/{name}")).await
    }

    /// Deletes a cluster that has no services and no live tasks.
    pub async fn delete_cluster(&self, name: &ClusterName) -> Result<(), Error> {
        self.delete(&format!("/v1/clusters/{name}")).await
    }

    /// Registers the next revision of a task definition.
    pub async fn register(
        &self,
        definition: &TaskDefinition,
    ) -> Result<RegisteredDefinition, Error> {
        self.create("/v1/task-definitions", definition).await
    }

    /// Every revision that is active.
    pub async fn definitions(&self) -> Result<Vec<RegisteredDefinition>, Error> {
        self.all("/v1/task-definitions").await
    }

    pub async fn definition(&self, id: &TaskDefinitionId) -> Result<RegisteredDefinition, Error> {
        self.get(&format!("/v1/task-definitions/{id}")).await
    }

    /// No new task or service may use it; what runs keeps running.
    pub async fn deregister(&self, id: &TaskDefinitionId) -> Result<(), Error> {
        self.delete(&format!("/v1/task-definitions/{id}")).await
    }

    pub async fn run(&self, cluster: &ClusterName, task: &RunTask) -> Result<Vec<Task>, Error> {
        let page: ListPage<Task> =
            self.create(&format!("/v1/clusters/{cluster}/tasks"), task).await?;
        Ok(page.items)
    }

    /// Every task, ended ones for a while too.
    pub async fn tasks(&self) -> Result<Vec<Task>, Error> {
        self.all("/v1/tasks").await
    }

    pub async fn task(&self, id: &TaskId) -> Result<Task, Error> {
        self.get(&format!("/v1/tasks/{id}")).await
    }

    /// Asks a task to end. A replica of a service is replaced.
    pub async fn stop(&self, id: &TaskId) -> Result<Task, Error> {
        self.send(Method::POST, &format!("/v1/tasks/{id}/stop"), None::<&()>).await
    }

    pub async fn create_service(
        &self,
        cluster: &ClusterName,
        service: &CreateService,
    ) -> Result<Service, Error> {
        self.create(&format!("/v1/clusters/{cluster}/services"), service).await
    }

    /// Every service of every cluster.
    pub async fn services(&self) -> Result<Vec<Service>, Error> {
        self.all("/v1/services").await
    }

    pub async fn service(
        &self,
        cluster: &ClusterName,
        name: &ServiceName,
    ) -> Result<Service, Error> {
        self.get(&format!("/v1/clusters/{cluster}/services/{name}")).await
    }

    pub async fn update_service(
        &self,
        cluster: &ClusterName,
        name: &ServiceName,
        update: &UpdateService,
    ) -> Result<Service, Error> {
        let path = format!("/v1/clusters/{cluster}/services/{name}");
        self.send(Method::PATCH, &path, Some(update)).await
    }

    /// Pauses or resumes the rollout of a service, or brings an earlier revision back.
    pub async fn change_rollout(
        &self,
        cluster: &ClusterName,
        name: &ServiceName,
        change: &ChangeRollout,
    ) -> Result<Service, Error> {
        let path = format!("/v1/clusters/{cluster}/services/{name}/rollout");
        self.send(Method::POST, &path, Some(change)).await
    }

    /// Deletes a service; its tasks are stopped.
    pub async fn delete_service(
        &self,
        cluster: &ClusterName,
        name: &ServiceName,
    ) -> Result<(), Error> {
        self.delete(&format!("/v1/clusters/{cluster}/services/{name}")).await
    }

    /// Every node that the tenant owns, and those of the pool.
    pub async fn nodes(&self) -> Result<Vec<Node>, Error> {
        self.all("/v1/nodes").await
    }

    pub async fn node(&self, id: &NodeId) -> Result<Node, Error> {
        self.get(&format!("/v1/nodes/{id}")).await
    }

    /// Forgets a node that is down, or was drained: its certificate is worth nothing any more.
    pub async fn remove_node(&self, id: &NodeId) -> Result<(), Error> {
        self.delete(&format!("/v1/nodes/{id}")).await
    }

    /// Forgets a node however it is: its agent ends its tasks when it hears of that.
    pub async fn force_remove_node(&self, id: &NodeId) -> Result<(), Error> {
        self.delete(&format!("/v1/nodes/{id}?force=true")).await
    }

    /// Moves the work of a node elsewhere, or lets it have work again.
    pub async fn drain_node(&self, id: &NodeId, drain: bool) -> Result<Node, Error> {
        self.post_drain(id, Drain { drain, deadline_seconds: None }).await
    }

    /// Moves the work of a node elsewhere, and stops what is still there after `seconds`.
    pub async fn drain_node_within(&self, id: &NodeId, seconds: u64) -> Result<Node, Error> {
        self.post_drain(id, Drain { drain: true, deadline_seconds: Some(seconds) }).await
    }

    async fn post_drain(&self, id: &NodeId, drain: Drain) -> Result<Node, Error> {
        self.send(Method::POST, &format!("/v1/nodes/{id}/drain"), Some(&drain)).await
    }

    /// Cordons a node, or changes its labels and taints.
    pub async fn update_node(&self, id: &NodeId, update: &UpdateNode) -> Result<Node, Error> {
        self.send(Method::PATCH, &format!("/v1/nodes/{id}"), Some(update)).await
    }

    /// Spreads the replicas of a service anew.
    pub async fn rebalance(
        &self,
        cluster: &ClusterName,
        name: &ServiceName,
    ) -> Result<Service, Error> {
        let path = format!("/v1/clusters/{cluster}/services/{name}/rebalance");
        self.send(Method::POST, &path, None::<&()>).await
    }

    /// A token for one node.
    pub async fn create_join_token(
        &self,
        wanted: CreateJoinToken,
    ) -> Result<CreatedJoinToken, Error> {
        self.create("/v1/join-tokens", &wanted).await
    }

    /// Another credential. Its secret is in no later answer.
    pub async fn create_credential(&self, wanted: &CreateCredential) -> Result<Credential, Error> {
        self.create("/v1/credentials", wanted).await
    }

    /// Every credential of the tenant, and of all tenants for the operator.
    pub async fn credentials(&self) -> Result<Vec<CredentialInfo>, Error> {
        self.all("/v1/credentials").await
    }

    /// Gives a credential another secret; what was issued for the one before is refused.
    pub async fn rotate_credential(
        &self,
        tenant: &Tenant,
        name: &CredentialName,
    ) -> Result<Credential, Error> {
        let path = format!("/v1/credentials/{tenant}/{name}/rotate");
        self.send(Method::POST, &path, None::<&()>).await
    }

    pub async fn remove_credential(
        &self,
        tenant: &Tenant,
        name: &CredentialName,
    ) -> Result<(), Error> {
        self.delete(&format!("/v1/credentials/{tenant}/{name}")).await
    }

    pub async fn volumes(&self) -> Result<Vec<Volume>, Error> {
        self.all("/v1/volumes").await
    }

    /// Forgets where a volume is, when no task mounts it. Its bytes stay on its node.
    pub async fn forget_volume(&self, name: &VolumeName) -> Result<(), Error> {
        self.delete(&format!("/v1/volumes/{name}")).await
    }

    pub async fn create_secret(
        &self,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<Secret, Error> {
        self.create("/v1/secrets", &CreateSecret { name: name.clone(), value: value.clone() }).await
    }

    /// Every secret, without its value.
    pub async fn secrets(&self) -> Result<Vec<Secret>, Error> {
        self.all("/v1/secrets").await
    }

    /// One secret, without its value.
    pub async fn secret(&self, name: &SecretName) -> Result<Secret, Error> {
        self.get(&format!("/v1/secrets/{name}")).await
    }

    /// Removes a secret that nothing uses.
    pub async fn remove_secret(&self, name: &SecretName) -> Result<(), Error> {
        self.delete(&format!("/v1/secrets/{name}")).await
    }

    /// What the tenant may have, and what it has.
    pub async fn quota(&self) -> Result<QuotaReport, Error> {
        self.get("/v1/quota").await
    }

    /// Of every tenant: for the operator alone.
    pub async fn quotas(&self) -> Result<Vec<QuotaReport>, Error> {
        self.all("/v1/quotas").await
    }

    /// Of one tenant: for the operator alone.
    pub async fn quota_of(&self, tenant: &Tenant) -> Result<QuotaReport, Error> {
        self.get(&format!("/v1/quotas/{tenant}")).await
    }

    /// Changes what a tenant may have: for the operator alone.
    pub async fn change_quota(
        &self,
        tenant: &Tenant,
        change: &QuotaChange,
    ) -> Result<QuotaReport, Error> {
        self.send(Method::PATCH, &format!("/v1/quotas/{tenant}"), Some(change)).await
    }

    /// Below which domains each tenant may have host names: for the operator alone.
    pub async fn domains(&self) -> Result<Vec<TenantDomains>, Error> {
        self.all("/v1/domains").await
    }

    /// Grants domains to a tenant, or takes them away: for the operator alone.
    pub async fn change_domains(
        &self,
        tenant: &Tenant,
        change: &ChangeDomains,
    ) -> Result<TenantDomains, Error> {
        self.send(Method::PATCH, &format!("/v1/domains/{tenant}"), Some(change)).await
    }

    /// What was used, in all and by image.
    pub async fn usage(&self) -> Result<UsageReport, Error> {
        self.get("/v1/usage").await
    }

    /// What each task used on each day. `filters` are keys and values of the query.
    pub async fn usage_by_day(&self, filters: &[(&str, String)]) -> Result<Vec<DayUsage>, Error> {
        let pairs = filters.iter().map(|(key, value)| format!("{key}={}", encoded(value)));
        let query = pairs.collect::<Vec<_>>().join("&");
        self.all(format!("/v1/usage/days?{query}").trim_end_matches('?')).await
    }

    /// What every tenant used: for the operator alone.
    pub async fn usage_of_tenants(&self) -> Result<Vec<TenantUsage>, Error> {
        self.all("/v1/usage/tenants").await
    }

    /// What happened to objects, oldest first. `filters` are keys and values of the query.
    pub async fn events(&self, filters: &[(&str, String)]) -> Result<Vec<ObjectEvent>, Error> {
        let pairs = filters.iter().map(|(key, value)| format!("{key}={}", encoded(value)));
        let query = pairs.collect::<Vec<_>>().join("&");
        let list: EventList = self.get(format!("/v1/events?{query}").trim_end_matches('?')).await?;
        Ok(list.items)
    }

    /// Why something is as it is: `clusters/CLUSTER/services/SERVICE`, `tasks/TASK`, `nodes/NODE`
    /// or `routes/HOST`.
    pub async fn explain(&self, what: &str) -> Result<Explanation, Error> {
        self.get(&format!("/v1/{what}/explanation")).await
    }

    /// Which tasks answer for which host name.
    pub async fn routes(&self) -> Result<RouteTable, Error> {
        self.get("/v1/routes").await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.send(Method::GET, path, None::<&()>).await
    }

    async fn all<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, Error> {
        let (mut items, mut after) = (Vec::new(), String::new());
        loop {
            let page: ListPage<T> = self.get(&format!("{path}{after}")).await?;
            items.extend(page.items);
            match page.next {
                Some(next) => {
                    let joint = if path.contains('?') { '&' } else { '?' };
                    after = format!("{joint}after={next}");
                }
                None => return Ok(items),
            }
        }
    }

    async fn create<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Error> {
        self.send(Method::POST, path, Some(body)).await
    }

    async fn delete(&self, path: &str) -> Result<(), Error> {
        self.send::<serde_json::Value>(Method::DELETE, path, None::<&()>).await.map(drop)
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, Error> {
        let mut request = ApiRequest::new(method.clone(), path, ANSWER_TIME_MAX);
        if let Some(body) = body {
            request = request.json(body);
        }
        if method == Method::POST {
            let key = self.key.clone().unwrap_or_else(crate::state::tokens::random_hex);
            request = request.idempotency_key(key);
        }
        if let Some(login) = &self.login {
            request = request.bearer(&login.token(&self.api).await?);
        }
        Ok(self.api.call(request).await?)
    }
}
