use std::collections::{BTreeMap, BTreeSet};

use disk::Survives;
use serde::{Deserialize, Serialize};
use spec::{
    Capabilities, ClusterName, ContainerName, Digest, LaunchType, Limits, Port, PublishedPort,
    ServiceName, TaskDefinitionId, TaskId, Tenant, Timestamp, Usage,
};

use super::{
    health::{Check, Health},
    process::ProcessId,
    restart_policy::RestartPolicy,
};

/// The version of `task.json` and `status.json`.
pub(super) const VERSION: u32 = 1;

pub(crate) fn now() -> Timestamp {
    Timestamp::of(std::time::SystemTime::now())
}

/// What was asked for: `task.json`, written once, and again when its name changes. Values of
/// variables and secrets are never in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// Always 1; a newer one is refused by name.
    pub version: u32,
    /// The folder's name.
    pub id: String,
    /// Unique in this home.
    pub name: String,
    /// The image as it was asked for.
    pub image: String,
    pub digest: Digest,
    pub kind: Kind,
    pub origin: Origin,
    pub created: Timestamp,
    pub command: Vec<String>,
    /// Ports, as asked for; which ones were given is in the status.
    pub ports: Vec<PublishedPort>,
    /// Volumes and folders of the host.
    pub mounts: Vec<MountRecord>,
    /// Names of its environment variables.
    pub env: Vec<String>,
    pub limits: Limits,
    pub grants: Capabilities,
    /// Whether its folder goes when it ends.
    pub remove_at_end: bool,
    /// What its caller wanted to remember about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Ports that its caller named without publishing them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub exposed: BTreeSet<Port>,
    #[serde(default)]
    pub restart: RestartPolicy,
    /// Whether what it writes is kept nowhere.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_log: bool,
    /// How its program is asked whether it is well, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<Check>,
}

impl TaskRecord {
    /// What is written of it. An agent that comes after a power cut relies on what it finds of a
    /// cluster's tasks, and so does a restart policy. Any other local task is over then, and its
    /// start should not wait for the disk.
    pub(crate) fn survives(&self) -> Survives {
        match (&self.origin, self.restart) {
            (Origin::Local | Origin::Invoked, RestartPolicy::No) => Survives::Crash,
            (Origin::Cluster(_) | Origin::Local | Origin::Invoked, _) => Survives::PowerLoss,
        }
    }
}

/// What kind of program an image holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// WebAssembly, in a worker.
    Wasm,
    /// Linux, under an OCI runtime.
    Native,
}

/// Where a task was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// `margay run` here.
    Local,
    /// `margay invoke` here.
    Invoked,
    Cluster(ClusterOrigin),
}

impl Origin {
    /// Whose images, volumes and cgroups it has: a tenant's, or the operator's.
    pub fn owner(&self) -> &str {
        match self {
            Self::Cluster(origin) => origin.tenant.as_str(),
            Self::Local | Self::Invoked => spec::OPERATOR,
        }
    }
}

/// Which container of which task of a control plane this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterOrigin {
    pub tenant: Tenant,
    pub cluster: ClusterName,
    /// The service that it is a copy of, if any.
    pub service: Option<ServiceName>,
    pub task: TaskId,
    pub container: ContainerName,
    /// Under which revision it was registered.
    pub definition: TaskDefinitionId,
    /// On whose hosts it was launched.
    pub launch_type: LaunchType,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRecord {
    /// The name of a volume, or an absolute path of the host.
    pub source: String,
    /// Where the task sees it.
    pub path: String,
    pub read_only: bool,
    /// Whether the source is a volume that was made for this task alone: `rm -v` removes it.
    #[serde(default)]
    pub anonymous: bool,
}

/// What was seen: `status.json`, replaced whole by the supervisor when it changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Always 1; a newer one is refused by name.
    pub version: u32,
    /// Where it is in its life.
    pub phase: Phase,
    /// Its worker or shim, while there is one.
    pub process: Option<ProcessId>,
    pub supervisor: Option<ProcessId>,
    pub started: Option<Timestamp>,
    pub ended: Option<Timestamp>,
    /// The guest's code, or 128 and the signal.
    pub exit_code: Option<i32>,
    /// Why, in a sentence, where there is something to say.
    pub reason: Option<String>,
    /// How often it was started again.
    pub restarts: u32,
    /// Where it is reached.
    pub ports: Vec<PublishedPort>,
    /// The listening sockets that it was handed, each with its container port and the number that
    /// the kernel gives a socket once: what it hands back to an agent that adopts it has to be
    /// these. An earlier version wrote none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sockets: Option<Vec<(u16, u64)>>,
    /// What it used until it ended.
    pub usage: Option<Usage>,
    /// The boot of the machine in which this was written. An earlier version wrote none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    /// Where its program is asked whether it is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
}

/// Where a task is in its life, as its supervisor last wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It was made, and never started.
    Created,
    /// Its image is fetched and prepared, or its worker starts.
    Starting,
    Running,
    /// No worker runs, and the first request starts one.
    Idle,
    /// It ended too early and waits to be started again.
    BackOff,
    Exited,
}

/// What state a task is in, as derived from its folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Made, and never started.
    Created,
    /// Being prepared or started.
    Starting,
    Running,
    /// Running without a supervisor: its agent is away.
    Unsupervised,
    /// Waiting for a first request.
    Idle,
    /// Waiting to be started again.
    BackOff,
    /// Ended, with this status.
    Exited(i32),
    /// Its supervisor and its process are gone, and its end is not known.
    Lost,
}

impl Status {
    /// It waits for its first start.
    pub fn created() -> Self {
        Self::new(Phase::Created, None)
    }

    /// Nothing has happened yet.
    pub fn starting(supervisor: ProcessId) -> Self {
        Self::new(Phase::Starting, Some(supervisor))
    }

    fn new(phase: Phase, supervisor: Option<ProcessId>) -> Self {
        Self {
            version: VERSION,
            phase,
            process: None,
            supervisor,
            started: None,
            ended: None,
            exit_code: None,
            reason: None,
            restarts: 0,
            ports: Vec::new(),
            sockets: None,
            usage: None,
            boot: None,
            health: None,
        }
    }
}

impl State {
    /// What the facts add up to.
    pub(super) fn of(status: Option<&Status>, supervised: bool, process_lives: bool) -> Self {
        match (status.map(|status| status.phase), supervised, process_lives) {
            (Some(Phase::Exited), ..) => {
                Self::Exited(status.and_then(|s| s.exit_code).unwrap_or_default())
            }
            (Some(Phase::Running), true, true) => Self::Running,
            (_, false, true) => Self::Unsupervised,
            (Some(Phase::Created), ..) => Self::Created,
            (Some(Phase::Starting | Phase::Running) | None, true, _) => Self::Starting,
            (Some(Phase::Idle), true, _) => Self::Idle,
            (Some(Phase::BackOff), true, _) => Self::BackOff,
            (_, false, false) => Self::Lost,
        }
    }

    /// Whether there is something to stop.
    pub fn is_alive(self) -> bool {
        match self {
            Self::Starting | Self::Running | Self::Unsupervised | Self::Idle | Self::BackOff => {
                true
            }
            Self::Created | Self::Exited(_) | Self::Lost => false,
        }
    }

    /// The word for tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running | Self::Unsupervised => "running",
            Self::Idle => "idle",
            Self::BackOff => "back-off",
            Self::Exited(_) => "exited",
            Self::Lost => "lost",
        }
    }
}
