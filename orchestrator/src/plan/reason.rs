//! Why something waits, and why a task ends: types here, sentences where they are printed.

use std::fmt;

use spec::{
    DeploymentSettings, LaunchType, NodeGroupName, NodeId, NodeProblemKind, SecretName,
    TaskDefinitionId, TaskId, VolumeName,
};

use crate::limits::TASKS_PER_NODE_MAX;

/// Why a service or a task waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Waiting {
    MissingDefinition(TaskDefinitionId),
    MissingSecret(SecretName),
    Unplaceable(Unplaceable),
    /// The task before it has not ended and may still write to its volume.
    PredecessorWrites,
    /// The task and its volume are on a node that is drained, and a volume does not move.
    VolumeOnDrainedNode(NodeId),
    /// An old replica serves, and no node has capacity for its replacement beside it.
    NoCapacityBeside(Unplaceable),
    /// The deployment may have no more replicas, and none fewer.
    NoStepAllowed(DeploymentSettings),
    BackOff {
        /// The last one that failed, and its own reason.
        task: TaskId,
        failures: u32,
        reason: Option<String>,
    },
}

/// Why no node can take a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unplaceable {
    /// The volumes that it mounts are on different nodes.
    VolumesApart,
    VolumeHasWriter {
        volume: VolumeName,
        writer: TaskId,
    },
    NoNode(LaunchType),
    /// There are nodes for its launch type, and each lacks something.
    NoFit {
        demand: Demand,
        nodes: Vec<(NodeId, Lack)>,
    },
    /// It fits on the next node of a group, which is asked for or on its way.
    AwaitsGroup {
        group: NodeGroupName,
        why: Box<Unplaceable>,
    },
    /// It would fit on another node of a group that gets none.
    GroupIsFull {
        group: NodeGroupName,
        max: u32,
        why: Box<Unplaceable>,
    },
}

/// What a task asks of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Demand {
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    pub host_ports: Vec<u16>,
    /// Of native images; empty when every image is WebAssembly.
    pub architectures: Vec<String>,
    /// What must hold for its node, as it is written.
    pub constraints: Vec<String>,
    /// The node that its volumes are on.
    pub volume_node: Option<NodeId>,
}

/// The first thing that a node lacks, in the order in which they are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lack {
    Volume,
    NotReady,
    Drained,
    Cordoned,
    /// It is short of disk or memory.
    Pressure(NodeProblemKind),
    Taint,
    Constraint,
    OciRuntime,
    /// Its operator lets no Linux program of other tenants run there.
    PoolNative,
    HostPort(u16),
    TaskLimit,
    /// What is left is less than what is asked for.
    Resources {
        cpu_millis: u64,
        memory_bytes: u64,
    },
}

/// Why the control plane ends a task, or cannot say how it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TaskReason {
    StoppedBeforePlacement,
    NodeRemoved(NodeId),
    NodeDisconnected(NodeId),
    ServiceDeleted,
    ScaledDown,
    /// The node of a daemon is not for it any more.
    NodeNotForIt,
    /// The original is back, or started first.
    RunsInItsPlace(TaskId),
    ReplacedBy(TaskId),
    VolumeHandover,
    MakesRoom,
    /// It failed before it was ready.
    NotReady(String),
    /// Its node is drained, and the time for that is over.
    DrainDeadline(NodeId),
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingDefinition(id) => write!(f, "there is no task definition `{id}`"),
            Self::MissingSecret(name) => {
                let create = secret_create_command(name);
                write!(f, "there is no secret `{name}`, which its role grants: {create}")
            }
            Self::Unplaceable(reason) => reason.fmt(f),
            Self::PredecessorWrites => f.write_str("the task before it still has its volume"),
            Self::VolumeOnDrainedNode(node) => write!(
                f,
                "its volume is on node `{node}`, which is drained, and a volume does not move: \
                 margay node drain --undo {node}, or \
                 delete the service"
            ),
            Self::NoCapacityBeside(reason) => write!(
                f,
                "{reason}, and a replacement starts beside the replica that it replaces: add \
                 capacity, or let one end first with `--min-healthy 0`"
            ),
            Self::NoStepAllowed(settings) => write!(
                f,
                "no replica may end and none may be added with a minimum of {} % healthy and a \
                 maximum of {} %: change them with `--min-healthy` and `--max-percent`",
                settings.minimum_healthy_percent, settings.maximum_percent
            ),
            Self::BackOff { task, failures, reason } => write!(
                f,
                "`{task}` failed {failures} times in a row and waits to be started again: {}",
                reason.as_deref().unwrap_or("it ended")
            ),
        }
    }
}

impl Unplaceable {
    /// What it is without any group.
    pub fn of_nodes(&self) -> &Self {
        match self {
            Self::AwaitsGroup { why, .. } | Self::GroupIsFull { why, .. } => why,
            Self::VolumesApart
            | Self::VolumeHasWriter { .. }
            | Self::NoNode(_)
            | Self::NoFit { .. } => self,
        }
    }
}

impl fmt::Display for Unplaceable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VolumesApart => f.write_str("its volumes are on different nodes"),
            Self::VolumeHasWriter { volume, writer } => write!(
                f,
                "volume `{volume}` is written to by task `{writer}`, and by one task at a time: \
                 stop that one, or mount it with `read_only = true`"
            ),
            Self::AwaitsGroup { group, why } => {
                write!(f, "it waits for a node of group `{group}`: {why}")
            }
            Self::GroupIsFull { group, max, why } => {
                write!(f, "{why}, and node group `{group}` gets no node more: its max is {max}")
            }
            Self::NoNode(LaunchType::Node) => f.write_str("you have no node: `margay node join`"),
            Self::NoNode(LaunchType::Pool) => f.write_str("the pool has no node"),
            Self::NoFit { demand, nodes } => {
                // The node that came furthest has what all the others lack before it.
                let furthest = nodes.iter().map(|(_, lack)| lack).max();
                demand.unmet(*furthest.expect("a node lacks something"), f)
            }
        }
    }
}

impl Demand {
    /// The sentence for the last thing that no node had.
    fn unmet(&self, lack: Lack, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (lack, &self.volume_node) {
            (Lack::Volume, node) => {
                let node = node.as_ref().map_or("", NodeId::as_str);
                write!(f, "its volume is on node `{node}`, which is not available")
            }
            (Lack::NotReady, Some(node)) => {
                write!(f, "its volume is on node `{node}`, which is not ready")
            }
            (Lack::NotReady, None) => f.write_str("no node is ready"),
            (Lack::Drained, Some(node)) => write!(
                f,
                "its volume is on node `{node}`, which is drained: margay node drain --undo \
                 {node}"
            ),
            (Lack::Drained, None) => f.write_str("every node that could take it is drained"),
            (Lack::Cordoned, _) => {
                f.write_str("every node that could take it is cordoned: margay node uncordon NODE")
            }
            (Lack::Pressure(kind), _) => write!(
                f,
                "every node that could take it has {kind}: `margay node inspect` says how much is \
                 left; make room, or add a node"
            ),
            (Lack::Taint, _) => f.write_str(
                "every node that could take it has a taint that it does not tolerate: margay node \
                 inspect shows taints, and `--tolerate KEY` tolerates one",
            ),
            (Lack::Constraint, _) => {
                let all: Vec<String> =
                    self.constraints.iter().map(|line| format!("`{line}`")).collect();
                write!(f, "no node that could take it meets {}", all.join(" and "))
            }
            (Lack::PoolNative, _) => f.write_str(
                "it is a native image, and the operator of no node of the pool lets those of \
                 other tenants run there: `--pool-native` at a node does",
            ),
            (Lack::OciRuntime, _) => {
                f.write_str("it is a native image")?;
                if !self.architectures.is_empty() {
                    write!(f, " for {}", self.architectures.join(", "))?;
                }
                f.write_str(", and no node has an OCI runtime for it")
            }
            (Lack::HostPort(_), _) => {
                let ports: Vec<String> = self.host_ports.iter().map(u16::to_string).collect();
                write!(f, "host port {} is taken on every node", ports.join(" or "))
            }
            (Lack::TaskLimit, _) => write!(
                f,
                "every node that could take it has {TASKS_PER_NODE_MAX} tasks, and that is the \
                 most: add a node"
            ),
            (Lack::Resources { .. }, _) => {
                let (cpu, memory) = (cpus(self.cpu_millis), memory(self.memory_bytes));
                write!(f, "no node has {cpu} and {memory} of memory left")
            }
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume => f.write_str("does not have the volume"),
            Self::NotReady => f.write_str("is not ready"),
            Self::Drained => f.write_str("is drained"),
            Self::Cordoned => f.write_str("is cordoned"),
            Self::Pressure(kind) => write!(f, "has {kind}"),
            Self::Taint => f.write_str("has a taint that is not tolerated"),
            Self::Constraint => f.write_str("does not meet the constraints"),
            Self::PoolNative => f.write_str("runs no native images of other tenants"),
            Self::OciRuntime => f.write_str("has no OCI runtime for the image"),
            Self::HostPort(port) => write!(f, "has given host port {port}"),
            Self::TaskLimit => write!(f, "has {TASKS_PER_NODE_MAX} tasks"),
            Self::Resources { cpu_millis, memory_bytes } => {
                write!(f, "has {} and {} left", cpus(*cpu_millis), memory(*memory_bytes))
            }
        }
    }
}

impl fmt::Display for TaskReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StoppedBeforePlacement => f.write_str("it was stopped before it was placed"),
            Self::NodeRemoved(node) => write!(f, "its node `{node}` was removed"),
            Self::NodeDisconnected(node) => write!(f, "its node `{node}` is disconnected"),
            Self::ServiceDeleted => f.write_str("its service was deleted"),
            Self::ScaledDown => f.write_str("its service was scaled down"),
            Self::NodeNotForIt => f.write_str("its node takes no task of its service any more"),
            Self::RunsInItsPlace(task) => write!(f, "`{task}` runs in its place"),
            Self::ReplacedBy(task) => write!(f, "`{task}` replaces it"),
            Self::VolumeHandover => f.write_str("its replacement writes to the same volume"),
            Self::MakesRoom => f.write_str("it makes room for its replacement"),
            Self::NotReady(why) => f.write_str(why),
            Self::DrainDeadline(node) => {
                write!(f, "its node `{node}` is drained, and the deadline for that has passed")
            }
        }
    }
}

/// Thousandths of a processor, as ECS and Kubernetes count processors: `0.4 CPUs`.
pub(super) fn cpus(millis: u64) -> String {
    match (millis / 1000, millis % 1000) {
        (1, 0) => "1 CPU".to_owned(),
        (whole, 0) => format!("{whole} CPUs"),
        (whole, part) => format!("{whole}.{} CPUs", format!("{part:03}").trim_end_matches('0')),
    }
}

/// Memory as an operator reads it: exact where that is short, else rounded down to a tenth of the
/// largest unit that it fills.
pub(super) fn memory(bytes: u64) -> String {
    let exact = spec::print_bytes(bytes);
    if !exact.ends_with(|last: char| last.is_ascii_digit()) && exact.len() <= 7 {
        return exact;
    }
    let units = [(1_u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => {
            let tenths = u128::from(bytes) * 10 / u128::from(unit);
            match tenths % 10 {
                0 => format!("{}{name}", tenths / 10),
                part => format!("{}.{part}{name}", tenths / 10),
            }
        }
        None => format!("{bytes} bytes"),
    }
}

/// The command that creates a secret.
pub(crate) fn secret_create_command(name: &SecretName) -> String {
    format!("margay secret create {name} FILE")
}

#[cfg(test)]
mod tests {
    use super::memory;

    #[test]
    fn memory_has_a_unit_and_a_tenth_at_most() {
        for (bytes, want) in [
            (0, "0 bytes"),
            (500, "500 bytes"),
            (64 << 20, "64MiB"),
            (1 << 30, "1GiB"),
            (1536 << 20, "1536MiB"),
            (1_610_612_737, "1.5GiB"),
            (22_715_297_377, "21.1GiB"),
            ((64 << 20) + 1, "64MiB"),
            (u64::MAX, "16777215.9TiB"),
        ] {
            assert_eq!(memory(bytes), want, "{bytes}");
        }
    }
}
