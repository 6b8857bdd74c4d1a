//! What is stored: the objects of `spec` and what only the control plane needs to know about them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use spec::{
    ClusterName, ContainerDefinition, ContainerName, Deployment, FileGrant, LaunchType,
    NodeGroupName, NodeId, NodeSpec, ParseError, PortMapping, Service, ServiceEvent,
    ServiceListener, ServiceName, Taint, Task, TaskDefinition, TaskDefinitionId, TaskId,
    TaskOverrides, TaskPhase, TaskSpec, TaskStatus, Tenant, Timestamp, VolumeName,
};
use store::{Compare, Kv, Rev, Sealed, Txn};

use super::objects::{Certificate, Runs, Secret};

use crate::limits::RESTARTS_KEPT_MAX;

/// What a service and a task are called in the model.
pub(crate) type ServiceKey = (Tenant, ClusterName, ServiceName);
pub(crate) type TaskKey = (Tenant, TaskId);

/// The version byte of every value here.
const VERSION: u8 = 1;

/// As it is stored.
pub(crate) fn encode<T: Serialize>(value: &T) -> Arc<[u8]> {
    store::encode(VERSION, value)
}

/// As it was stored.
pub(crate) fn decode<T: DeserializeOwned>(kv: &Kv) -> Result<T, store::Error> {
    store::decode(VERSION, &kv.key, &kv.value)
}

/// A record, and the revision that last changed it: what a compare needs.
#[derive(Debug, Clone)]
pub(crate) struct Stored<T> {
    pub value: T,
    pub mod_rev: Rev,
    pub create_rev: Rev,
}

impl<T: DeserializeOwned> Stored<T> {
    pub fn of(kv: &Kv) -> Result<Self, store::Error> {
        Ok(Self { value: decode(kv)?, mod_rev: kv.mod_rev, create_rev: kv.create_rev })
    }
}

/// Writes that fail when a concurrent one came first.
pub(crate) trait Guarded: Sized {
    /// A record that is not there yet.
    fn create(self, key: String, record: &impl Serialize) -> Self;
    /// The next version of what was read at `based_on`; 0 when nothing was there.
    fn update(self, key: String, based_on: Rev, record: &impl Serialize) -> Self;
    /// The end of what was read at `based_on`.
    fn remove(self, key: String, based_on: Rev) -> Self;
}

impl Guarded for Txn {
    fn create(self, key: String, record: &impl Serialize) -> Self {
        self.when(Compare::Absent(key.clone())).put(key, encode(record))
    }

    fn update(self, key: String, based_on: Rev, record: &impl Serialize) -> Self {
        self.when(Compare::ModRev(key.clone(), based_on)).put(key, encode(record))
    }

    fn remove(self, key: String, based_on: Rev) -> Self {
        self.when(Compare::ModRev(key.clone(), based_on)).delete(key)
    }
}

/// One revision of a task definition.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DefinitionRecord {
    pub id: TaskDefinitionId,
    pub registered: Timestamp,
    pub active: bool,
    pub definition: TaskDefinition,
    /// What can run each of its containers, in order.
    pub runs: Vec<Runs>,
}

impl DefinitionRecord {
    /// The same as one task has it.
    ///
    /// # Errors
    /// A sentence on what the task cannot change so.
    pub fn with(self, overrides: Option<&TaskOverrides>) -> Result<Self, ParseError> {
        let Some(overrides) = overrides else { return Ok(self) };
        let definition = overrides.apply(&self.definition)?;
        Ok(Self { definition, ..self })
    }

    /// The named volumes that some container may see, by a mount or by a line of its role.
    pub fn mounted(&self) -> BTreeSet<&VolumeName> {
        let granted = self.definition.role.allow.iter().filter_map(|line| match line {
            spec::Capability::Files(grant) => grant.volume.as_ref(),
            _ => None,
        });
        self.definition.volumes.iter().map(|claim| &claim.name).chain(granted).collect()
    }

    /// The named volumes that some container may write to: two tasks at once would write over each
    /// other.
    pub fn written(&self) -> impl Iterator<Item = &VolumeName> {
        let mounts = self.definition.containers.iter().flat_map(|container| &container.mounts);
        let mounted = mounts.filter(|mount| !mount.read_only).map(|mount| &mount.volume);
        let granted = self.definition.role.allow.iter().filter_map(|line| match line {
            spec::Capability::Files(FileGrant { volume: Some(volume), rights, .. })
                if rights.write || rights.delete =>
            {
                Some(volume)
            }
            _ => None,
        });
        mounted.chain(granted)
    }

    /// Whether it may write to any.
    pub fn writes_volumes(&self) -> bool {
        self.written().next().is_some()
    }

    /// The first port that speaks HTTP, which requests of the ingress go to, and its container.
    pub fn http_port(&self) -> Option<(PortMapping, &ContainerDefinition)> {
        self.definition.containers.iter().find_map(|container| {
            let port = container.ports.iter().find(|port| port.protocol.is_routed())?;
            Some((*port, container))
        })
    }

    /// The port that a listener leads to, in the first container that has it: the one that is
    /// named, or the first for bytes or datagrams.
    pub fn listener_port(&self, listener: &ServiceListener) -> Option<PortMapping> {
        let leads_to = |port: &&PortMapping| match listener.container_port {
            Some(number) => port.container_port == number,
            None => !port.protocol.is_routed(),
        };
        let is_over_it = |port: &&PortMapping| port.protocol.transport() == listener.port.transport;
        let ports = self.definition.containers.iter().flat_map(|container| &container.ports);
        ports.filter(is_over_it).find(leads_to).copied()
    }

    pub fn is_native(&self) -> bool {
        self.runs.iter().any(|runs| matches!(runs, Runs::Native(_)))
    }
}

/// A service. Its status is worked out from its tasks and never stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ServiceRecord {
    pub service: Service,
    /// Nothing in records of earlier versions.
    #[serde(default)]
    pub rollout: Rollout,
    /// Whether its replicas were asked to be spread anew.
    #[serde(default)]
    pub rebalancing: bool,
    /// When its load last changed its count.
    #[serde(default)]
    pub scaled: Option<Timestamp>,
}

impl ServiceRecord {
    /// Nothing has happened to it yet.
    pub fn new(service: Service) -> Self {
        Self { service, rollout: Rollout::default(), rebalancing: false, scaled: None }
    }
}

/// The deployments of a service. Lists are newest first.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Rollout {
    pub deployments: Vec<Deployment>,
    pub paused: bool,
    pub events: Vec<ServiceEvent>,
}

/// A task, and which replica of its service it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TaskRecord {
    pub tenant: Tenant,
    pub task: Task,
    /// Nothing for a standalone task.
    #[serde(rename = "copy")]
    pub slot: Option<ReplicaSlot>,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// Whether it ever ran.
    #[serde(default)]
    pub ran: bool,
    /// When it was first ready.
    #[serde(default)]
    pub readied: Option<Timestamp>,
    /// When it was given up because it was not well.
    #[serde(default)]
    pub failed: Option<Timestamp>,
    /// Whether another task takes its place because another node is better for it.
    #[serde(default)]
    pub moving: bool,
    /// When containers of it were started again, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restarts: Vec<Restarted>,
}

/// A container of a task was started again on its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Restarted {
    pub at: Timestamp,
    pub container: ContainerName,
    /// How often until then.
    pub count: u32,
    /// With which it had ended, where that was seen.
    pub exit_code: Option<i32>,
}

/// Which replica of a service a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReplicaSlot {
    /// The service's generation when it was made.
    pub generation: u64,
    /// From 0.
    pub ordinal: u32,
    /// Counts up with each task of this replica.
    pub attempt: u32,
    /// How many in a row ended too early before this one.
    pub failures: u32,
}

impl TaskRecord {
    /// A task that nothing was seen of yet.
    pub fn new(
        tenant: Tenant,
        id: TaskId,
        spec: TaskSpec,
        phase: TaskPhase,
        slot: Option<ReplicaSlot>,
        now: Timestamp,
    ) -> Self {
        let status =
            TaskStatus { phase, reason: None, ready: None, host: None, containers: Vec::new() };
        let task = Task { id, created: now, spec, status };
        Self {
            tenant,
            task,
            slot,
            ended: None,
            ran: false,
            readied: None,
            failed: None,
            moving: false,
            restarts: Vec::new(),
        }
    }

    pub fn id(&self) -> &TaskId {
        &self.task.id
    }

    pub fn key(&self) -> TaskKey {
        (self.tenant.clone(), self.task.id.clone())
    }

    pub fn service_key(&self) -> Option<ServiceKey> {
        let spec = &self.task.spec;
        let service = spec.service.clone()?;
        Some((self.tenant.clone(), spec.cluster.clone(), service))
    }

    /// Whether requests may go to it.
    pub fn is_routable(&self) -> bool {
        self.task.status.is_ready() && self.is_wanted()
    }

    /// Whether it is reached by a host name of its own: replicas share that of their service.
    pub fn has_own_host(&self) -> bool {
        self.is_wanted() && self.task.spec.service.is_none()
    }

    pub fn has_ended(&self) -> bool {
        self.task.status.phase == TaskPhase::Stopped
    }

    /// Whether it should run.
    pub fn is_wanted(&self) -> bool {
        !self.has_ended() && !self.task.spec.stop
    }

    /// This task with another status.
    pub fn with(&self, status: TaskStatus, now: Timestamp) -> Self {
        let ended = (status.phase == TaskPhase::Stopped).then(|| self.ended.unwrap_or(now));
        let ran = self.ran || status.phase == TaskPhase::Running;
        let readied = self.readied.or_else(|| status.is_ready().then_some(now));
        let restarts = self.restarts_with(&status, now);
        let task = Task { status, ..self.task.clone() };
        Self { task, ended, ran, readied, restarts, ..self.clone() }
    }

    /// What was restarted, with what `status` tells of that.
    fn restarts_with(&self, status: &TaskStatus, now: Timestamp) -> Vec<Restarted> {
        let before = &self.task.status.containers;
        let restarted = status.containers.iter().filter_map(|one| {
            let known = before.iter().find(|known| known.name == one.name);
            let exit_code = known.and_then(|known| known.exit_code).or(one.exit_code);
            let is_more = one.restarts > known.map_or(0, |known| known.restarts);
            let (container, count) = (one.name.clone(), one.restarts);
            is_more.then_some(Restarted { at: now, container, count, exit_code })
        });
        restarted.chain(self.restarts.iter().cloned()).take(RESTARTS_KEPT_MAX).collect()
    }

    /// This task as of `phase`, because of `reason`.
    pub fn at(&self, phase: TaskPhase, reason: Option<String>, now: Timestamp) -> Self {
        let status = TaskStatus { phase, reason, ..self.task.status.clone() };
        self.with(status, now)
    }

    /// This task, asked to end. One whose node is silent stays unknown: it may not have been told.
    pub fn stopped_for(&self, reason: &str, now: Timestamp) -> Self {
        let phase = match self.task.status.phase {
            TaskPhase::Unknown => TaskPhase::Unknown,
            _ => TaskPhase::Stopping,
        };
        let mut record = self.at(phase, Some(reason.to_owned()), now);
        record.task.spec.stop = true;
        record
    }
}

/// A node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NodeRecord {
    pub id: NodeId,
    /// Nothing when it belongs to the pool alone.
    pub tenant: Option<Tenant>,
    pub spec: NodeSpec,
    pub joined: Timestamp,
    pub drain: bool,
    /// When tasks that are still on it then are stopped, while it is drained.
    #[serde(default)]
    pub drain_deadline: Option<Timestamp>,
    /// Whether it takes no new task.
    #[serde(default)]
    pub cordoned: bool,
    /// Labels that it was given beside its own, or in their place.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub taints: Vec<Taint>,
    /// Fingerprints of the certificates that are good: the newest, and the one before for a renewal
    /// whose answer was lost.
    pub certificates: Vec<String>,
}

/// The label by which a node takes work of the pool. Only the control plane sets it, from the join
/// token.
pub(crate) const POOL_LABEL: &str = "pool";

impl NodeRecord {
    pub fn in_pool(&self) -> bool {
        self.spec.labels.get(POOL_LABEL).is_some_and(|value| value == "true")
    }

    /// Whether tasks of this tenant and launch type may be on it.
    pub fn takes(&self, tenant: &Tenant, launch_type: LaunchType) -> bool {
        match launch_type {
            LaunchType::Node => self.tenant.as_ref() == Some(tenant),
            LaunchType::Pool => self.in_pool(),
        }
    }

    /// Whether its operator lets Linux programs of every tenant run there.
    pub fn takes_native_of_pool(&self) -> bool {
        let label = self.spec.labels.get(spec::POOL_NATIVE_LABEL);
        self.in_pool() && label.is_some_and(|value| value == "true")
    }
}

/// A join token that was not used yet.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct JoinRecord {
    pub tenant: Option<Tenant>,
    pub pool: bool,
    pub expires: Timestamp,
    /// The one machine that it is for, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<(NodeGroupName, NodeId)>,
}

impl JoinRecord {
    /// Whether a node can still join with it.
    pub fn is_good(&self, now: Timestamp) -> bool {
        now <= self.expires
    }
}

/// A secret: what may be known of it, and its value, sealed.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct SecretRecord {
    pub secret: Secret,
    pub sealed: Sealed,
}

/// A certificate: what may be known of it, its chain, and its key, sealed.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct CertificateRecord {
    pub certificate: Certificate,
    pub chain_pem: String,
    pub sealed: Sealed,
}

/// How far the ledger has read one life of a usage log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CursorRecord {
    /// Every record up to this one is taken.
    pub seq: u64,
    /// The node that sent them. Another one may go on only when this one was removed.
    pub node: NodeId,
    /// When it last moved.
    pub at: Timestamp,
}

/// What a create answered, for a repeated request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct IdempotencyRecord {
    /// Of method, path and body, under a key that is not in the store: a reader of the store cannot
    /// try out what a body had in it.
    pub request: String,
    pub at: Timestamp,
    pub status: u16,
    pub answer: serde_json::Value,
}
