mod size; // what a task has as a whole

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::RangeInclusive,
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    capability::{
        Capability, FileGrant, LimitRequest, MissingGrant, OperatorGrants, Resolved, Want, resolve,
    },
    dependency::{self, ContainerDependency, DependencyProblem, Ordered},
    digest::Digest,
    health::{HealthProbe, HealthProblem},
    launch_type::LaunchType,
    limits::LimitOverrides,
    name::{ContainerName, Family, VolumeName},
    placement::NodeExpression,
    protocol::Protocol,
    restart::ContainerRestart,
    secret::{SecretName, SecretValue},
    text::{ParseError, written_as_text},
    transport::Port,
};
use size::SizeProblem;

/// `FAMILY:REVISION`: one immutable revision of a task definition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskDefinitionId {
    /// Shared by all its revisions.
    pub family: Family,
    /// Counts up from 1; a number is never given twice.
    pub revision: u32,
}

impl fmt::Display for TaskDefinitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.family, self.revision)
    }
}

impl FromStr for TaskDefinitionId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::about(text, "is not FAMILY:REVISION, as in cats:1");
        let (family, revision) = text.split_once(':').ok_or_else(wrong)?;
        match revision.parse::<u32>() {
            Ok(number) if number > 0 && number.to_string() == revision => {
                Ok(Self { family: family.parse()?, revision: number })
            }
            _ => Err(wrong()),
        }
    }
}

written_as_text!(
    TaskDefinitionId,
    "One revision of a task definition: FAMILY:REVISION.",
    "cats:1",
    "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?:[1-9][0-9]{0,9}$"
);

/// The containers of a task, which start together under one role. Written in `task.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskDefinition {
    /// Shared by all its revisions.
    pub family: Family,
    /// Where it may be launched; both by default.
    #[serde(default = "LaunchType::all")]
    #[schema(min_items = 1)]
    pub launch_types: Vec<LaunchType>,
    /// Capabilities of its containers beyond their own ports, env and mounts.
    #[serde(default)]
    pub role: Role,
    /// CPU that it reserves as a whole, in thousandths of a processor. When left out: what its
    /// containers reserve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u32>,
    /// Memory that it reserves as a whole, in bytes, and that its containers never exceed together.
    /// Those that name no hard limit share what the others leave. When left out: what its
    /// containers reserve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// 1 to 10. Each is a process of its own.
    #[schema(min_items = 1, max_items = 10)]
    pub containers: Vec<ContainerDefinition>,
    /// The volumes that its containers may mount.
    #[serde(default)]
    pub volumes: Vec<VolumeClaim>,
    /// What must hold for a node that takes it, as in `zone == a`; 10 at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub placement_constraints: Vec<NodeExpression>,
}

/// The capabilities that an operator grants to every container of a task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Role {
    /// Capability lines.
    #[serde(default)]
    pub allow: Vec<Capability>,
}

/// One container of a task definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ContainerDefinition {
    /// Unique within the definition.
    pub name: ContainerName,
    /// A reference; without a registry it names an image of the tenant in the bundled registry.
    pub image: String,
    /// The digest of `image` when the revision was registered. Never given by a client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The capabilities that the image wants, read from it when the revision was registered. Never
    /// given by a client.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wants: Vec<Want>,
    /// Replaces the image's entrypoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's default arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Environment variables; each is a grant.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// CPU to reserve, in thousandths of a processor.
    #[serde(default = "default_cpu_millis")]
    pub cpu_millis: u32,
    /// Memory to reserve, in bytes; a task may use more while the node has it, up to the hard
    /// limit, which in the pool is at most twice as much.
    #[serde(default = "default_memory_soft")]
    #[schema(maximum = 68_719_476_736_i64)]
    pub memory_soft_bytes: u64,
    /// Memory that is never exceeded, in bytes. When left out: 128 MiB, or what is reserved where
    /// that is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 65536, maximum = 68_719_476_736_i64)]
    pub memory_hard_bytes: Option<u64>,
    /// Ports that it listens on; each is a grant.
    #[serde(default)]
    #[schema(max_items = 32)]
    pub ports: Vec<PortMapping>,
    /// Volumes in its file tree; each is a grant.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// How it is asked whether it is ready, as a replica of a service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthProbe>,
    /// Whether the task ends with it.
    #[serde(default = "yes")]
    pub essential: bool,
    /// Containers that come before it. They are stopped after it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<ContainerDependency>,
    /// When it is started again on its node. When left out: always in a service, and never in a
    /// task of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<ContainerRestart>,
    /// Seconds from being asked to end until it is killed: 10 when left out, and 120 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_timeout_seconds: Option<u32>,
    /// CPU time of one request, or of a whole command, in milliseconds. When left out: 10 seconds
    /// for a request on a node of the tenant, and no limit for a command. The pool gives a request
    /// 50 milliseconds at most, and a command 15 minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 86_400_000)]
    pub cpu_time_max_ms: Option<u64>,
    /// Limits beside memory and time.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: LimitOverrides,
}

fn is_default(limits: &LimitOverrides) -> bool {
    *limits == LimitOverrides::default()
}

/// What a container may have that names no limit and reserves no more.
const MEMORY_HARD_BYTES_DEFAULT: u64 = 128 << 20;
/// 64 KiB, a page of Wasm memory, to 64 GiB.
const MEMORY_HARD_BYTES: RangeInclusive<u64> = 1 << 16..=64 << 30;
/// A day: a longer computation should write checkpoints.
const CPU_TIME_MS_MAX: u64 = 24 * 3600 * 1000;

fn default_cpu_millis() -> u32 {
    100
}
fn default_memory_soft() -> u64 {
    64 << 20
}
fn yes() -> bool {
    true
}

/// A port of a container, and where it is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PortMapping {
    /// The port that the container listens on.
    #[schema(minimum = 1, maximum = 65535)]
    pub container_port: u16,
    /// The port on the host; none is reached through the ingress only, 0 takes a free one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 65535)]
    pub host_port: Option<u16>,
    /// The protocol of its clients.
    #[serde(default)]
    pub protocol: Protocol,
}

impl PortMapping {
    /// The port that the container listens on, with what it takes.
    pub fn port(&self) -> Port {
        Port { number: self.container_port, transport: self.protocol.transport() }
    }
}

/// A volume that a definition may mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeClaim {
    /// The volume on its node. Tasks that mount it follow it there.
    pub name: VolumeName,
    /// Its quota in bytes; in the pool 1 GiB when left out, and 10 GiB at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_max: Option<u64>,
}

/// A volume in the file tree of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// One of the definition's volumes.
    pub volume: VolumeName,
    /// Absolute path in the container.
    pub path: String,
    /// Whether writing is denied.
    #[serde(default)]
    pub read_only: bool,
}

impl TaskDefinition {
    /// Each is a process of its own; more belong to another task.
    pub const CONTAINERS_MAX: usize = 10;
    /// Ports of one container: a node reports each of them with every status.
    pub const PORTS_MAX: usize = 32;
    /// As ECS has it.
    const PLACEMENT_CONSTRAINTS_MAX: usize = 10;
    /// As ECS has it: a node that is drained waits for so long for one task.
    const STOP_TIMEOUT_SECONDS_MAX: u32 = 120;

    /// Every line that `container` is granted: the role's, and those of its own ports, env and
    /// mounts.
    pub fn grants_of(&self, container: &ContainerDefinition) -> Vec<Capability> {
        let claim = |name: &VolumeName| self.volumes.iter().find(|claim| claim.name == *name);
        let mounts = container.mounts.iter().map(|mount| {
            let max_bytes = claim(&mount.volume).and_then(|claim| claim.bytes_max);
            FileGrant::mount(&mount.path, mount.read_only, &mount.volume, max_bytes)
        });
        let grants = OperatorGrants {
            allow: &self.role.allow,
            ports: container.ports.iter().map(PortMapping::port).collect(),
            env: container.env.keys().map(String::as_str).collect(),
            secrets: Vec::new(),
            mounts: mounts.collect(),
        };
        grants.lines()
    }

    /// What `container` gets of what its image wants.
    ///
    /// # Errors
    /// [`MissingGrant`] names the first want that is required and not granted.
    pub fn resolve(&self, container: &ContainerDefinition) -> Result<Resolved, MissingGrant> {
        resolve(&container.wants, &self.grants_of(container))
    }

    /// What `container` asks for beside its capabilities. One that listens for HTTP is taken to
    /// answer requests: what its program is, only a node finds out.
    pub fn limits_of(&self, container: &ContainerDefinition) -> LimitRequest {
        LimitRequest {
            serves: container.ports.iter().any(|port| port.protocol.is_routed()),
            memory_soft_bytes: Some(container.memory_soft_bytes),
            memory_bytes_max: Some(container.memory_hard()),
            cpu_time_max: container.cpu_time_max_ms.map(Duration::from_millis),
            overrides: container.limits.clone(),
            ..LimitRequest::default()
        }
    }

    /// The secrets that at least one container gets: the role grants them, and the image does not
    /// declare them optional.
    pub fn secrets(&self) -> BTreeSet<SecretName> {
        if !self.role.allow.iter().any(|line| matches!(line, Capability::Secret(_))) {
            return BTreeSet::new();
        }
        let resolved = self.containers.iter().filter_map(|container| self.resolve(container).ok());
        let secrets = resolved.flat_map(|resolved| resolved.capabilities.secrets);
        secrets.map(|grant| grant.name).collect()
    }

    /// Checks the definition as a whole; the types have checked its parts.
    ///
    /// # Errors
    /// The first problem, in a sentence that names the definition.
    pub fn check(&self) -> Result<(), ParseError> {
        let problem = self.check_whole().err();
        let problem = problem.or_else(|| self.check_containers().err());
        match problem {
            Some(problem) => {
                Err(ParseError(format!("task definition `{}`: {problem}", self.family)))
            }
            None => Ok(()),
        }
    }

    fn check_whole(&self) -> Result<(), Problem> {
        if self.containers.is_empty() || self.containers.len() > Self::CONTAINERS_MAX {
            return Err(Problem::ContainerCount);
        }
        if self.launch_types.is_empty() {
            return Err(Problem::NoLaunchType);
        }
        if self.placement_constraints.len() > Self::PLACEMENT_CONSTRAINTS_MAX {
            return Err(Problem::PlacementConstraintCount);
        }
        self.check_size()?;
        let is_secret = |line: &&Capability| matches!(line, Capability::Secret(_));
        match self.role.allow.iter().filter(is_secret).count() {
            count if count > SecretValue::COUNT_MAX => Err(Problem::SecretCount(count)),
            _ => Ok(()),
        }
    }

    fn check_containers(&self) -> Result<(), Problem> {
        let mut names = BTreeSet::new();
        let mut host_ports = BTreeSet::new();
        for container in &self.containers {
            let name = &container.name;
            if !names.insert(name) {
                return Err(Problem::DuplicateContainer(name.clone()));
            }
            container.check().map_err(|problem| Problem::Container(name.clone(), problem))?;
            let fixed = container.ports.iter().filter_map(|port| port.host_port);
            for port in fixed.filter(|port| *port != 0) {
                if !host_ports.insert(port) {
                    return Err(Problem::DuplicateHostPort(port));
                }
            }
            for Mount { volume, .. } in &container.mounts {
                if !self.volumes.iter().any(|claim| claim.name == *volume) {
                    let problem = ContainerProblem::UnknownVolume(volume.clone());
                    return Err(Problem::Container(name.clone(), problem));
                }
            }
        }
        let ordered = self.containers.iter().map(|container| Ordered {
            name: &container.name,
            essential: container.essential,
            depends_on: &container.depends_on,
            ends: container.restart != Some(ContainerRestart::Always),
        });
        dependency::check(&ordered.collect::<Vec<_>>())
            .map_err(|(name, problem)| Problem::Container(name, problem.into()))
    }
}

impl ContainerDefinition {
    /// Memory that it never exceeds, in bytes.
    pub fn memory_hard(&self) -> u64 {
        self.memory_hard_bytes.unwrap_or(MEMORY_HARD_BYTES_DEFAULT.max(self.memory_soft_bytes))
    }

    /// What programs are given as C strings.
    fn words(&self) -> impl Iterator<Item = &String> {
        let probe = self.health.as_ref().and_then(|health| health.command.as_ref());
        let programs = [self.entrypoint.as_ref(), self.command.as_ref(), probe];
        programs.into_iter().flatten().flatten().chain(self.env.values())
    }

    fn check(&self) -> Result<(), ContainerProblem> {
        let cpu_times = 1..=CPU_TIME_MS_MAX;
        if self.memory_soft_bytes > self.memory_hard() {
            return Err(ContainerProblem::SoftMemory);
        }
        if !MEMORY_HARD_BYTES.contains(&self.memory_hard()) {
            return Err(ContainerProblem::HardMemory);
        }
        let stop_timeouts = 0..=TaskDefinition::STOP_TIMEOUT_SECONDS_MAX;
        if self.stop_timeout_seconds.is_some_and(|seconds| !stop_timeouts.contains(&seconds)) {
            return Err(ContainerProblem::StopTimeout);
        }
        if self.cpu_time_max_ms.is_some_and(|millis| !cpu_times.contains(&millis)) {
            return Err(ContainerProblem::CpuTime);
        }
        self.limits.check().map_err(ContainerProblem::Limit)?;
        if self.ports.len() > TaskDefinition::PORTS_MAX {
            return Err(ContainerProblem::PortCount);
        }
        if self.ports.iter().any(|port| port.container_port == 0) {
            return Err(ContainerProblem::PortZero);
        }
        if let Some(health) = &self.health {
            let port = |port: &PortMapping| (port.container_port, port.protocol.is_http());
            // A probe connects, which no port for datagrams answers.
            let connects = self.ports.iter().filter(|port| port.protocol.transport().is_tcp());
            health.check(&connects.map(port).collect::<Vec<_>>())?;
        }
        for mount in &self.mounts {
            format!("fs:{};volume={}", mount.path, mount.volume).parse::<Capability>()?;
        }
        if self.words().any(|word| word.contains('\0')) {
            return Err(ContainerProblem::Nul);
        }
        for name in self.env.keys() {
            format!("env:{name}").parse::<Capability>()?;
        }
        Ok(())
    }
}

/// What is wrong with a definition.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("it needs 1 to {} `[[containers]]`", TaskDefinition::CONTAINERS_MAX)]
    ContainerCount,
    #[error("`launch_types` is empty: name node, pool or both")]
    NoLaunchType,
    #[error(
        "it has more than {} `placement_constraints`",
        TaskDefinition::PLACEMENT_CONSTRAINTS_MAX
    )]
    PlacementConstraintCount,
    #[error(transparent)]
    Size(#[from] SizeProblem),
    #[error("its role grants {0} secrets, and {max} are the most", max = SecretValue::COUNT_MAX)]
    SecretCount(usize),
    #[error("duplicate container `{0}`")]
    DuplicateContainer(ContainerName),
    #[error("duplicate host port {0}: leave one of them out, or use 0")]
    DuplicateHostPort(u16),
    #[error("container `{0}` {1}")]
    Container(ContainerName, ContainerProblem),
}

/// What is wrong with one container of it, as a predicate.
#[derive(Debug, thiserror::Error)]
enum ContainerProblem {
    #[error("reserves more memory than its `memory_hard_bytes`: raise that, or leave it out")]
    SoftMemory,
    #[error("has a hard memory limit outside 64KiB to 64GiB")]
    HardMemory,
    #[error("has a `cpu_time_max_ms` outside 1 to {CPU_TIME_MS_MAX}")]
    CpuTime,
    #[error("has a `stop_timeout_seconds` above {}", TaskDefinition::STOP_TIMEOUT_SECONDS_MAX)]
    StopTimeout,
    #[error(transparent)]
    Dependency(#[from] DependencyProblem),
    #[error("has a limit out of its range: {0}")]
    Limit(#[source] ParseError),
    #[error("has more than {} ports", TaskDefinition::PORTS_MAX)]
    PortCount,
    #[error("has `container_port` 0: name the port that it listens on")]
    PortZero,
    #[error("has a NUL byte in a word or a variable, which no program can be given")]
    Nul,
    #[error("mounts `{0}`, which is not among its `[[volumes]]`")]
    UnknownVolume(VolumeName),
    #[error(transparent)]
    Health(#[from] HealthProblem),
    #[error("cannot be granted its own env and mounts: {0}")]
    Grant(#[from] ParseError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(allow: &[&str], wants: &[&str]) -> TaskDefinition {
        let container = serde_json::json!({ "name": "app", "image": "app", "wants": wants });
        let role = serde_json::json!({ "allow": allow });
        serde_json::from_value(
            serde_json::json!({ "family": "app", "role": role, "containers": [container] }),
        )
        .unwrap()
    }

    #[test]
    fn a_secret_is_given_when_granted_and_not_optional() {
        for (allow, wants, want) in [
            (&["clock:fine"][..], &[][..], &[][..]),
            (&["secret:a", "secret:b;as=env"], &[], &["a", "b"]),
            (&["secret:a", "secret:a;as=env"], &[], &["a"]),
            (&["secret:a", "secret:b"], &["secret:b;optional", "env:X;optional"], &["b"]),
            (&["clock:fine"], &["secret:b;optional"], &[]),
        ] {
            let names: Vec<String> =
                definition(allow, wants).secrets().iter().map(ToString::to_string).collect();
            assert_eq!(names, want, "{allow:?} {wants:?}");
        }
    }

    #[test]
    fn the_hard_limit_of_memory_follows_what_is_reserved() {
        const MIB: u64 = 1 << 20;
        for (soft, hard, want) in [
            (64, None, Some(128)),
            (128, None, Some(128)),
            (1024, None, Some(1024)),
            (1024, Some(2048), Some(2048)),
            (1024, Some(512), None),
        ] {
            let mut definition = definition(&[], &[]);
            let container = &mut definition.containers[0];
            container.memory_soft_bytes = soft * MIB;
            container.memory_hard_bytes = hard.map(|mib: u64| mib * MIB);
            let found = container.memory_hard();
            match (definition.check(), want) {
                (Ok(()), Some(want)) => assert_eq!(found, want * MIB, "{soft} {hard:?}"),
                (Err(error), None) => {
                    assert!(error.to_string().ends_with("raise that, or leave it out"), "{error}")
                }
                (checked, want) => panic!("{soft} {hard:?}: {checked:?}, not {want:?}"),
            }
        }
    }

    #[test]
    fn a_definition_over_a_limit_is_refused_with_the_limit() {
        let lines: Vec<String> = (0..17).map(|index| format!("secret:s{index}")).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        assert!(definition(&lines[..16], &[]).check().is_ok());
        let error = definition(&lines, &[]).check().unwrap_err().to_string();
        assert!(error.contains("grants 17 secrets, and 16 are the most"), "{error}");
        for (millis, good) in
            [(0, false), (1, true), (CPU_TIME_MS_MAX, true), (CPU_TIME_MS_MAX + 1, false)]
        {
            let mut definition = definition(&[], &[]);
            definition.containers[0].cpu_time_max_ms = Some(millis);
            assert_eq!(definition.check().is_ok(), good, "{millis}");
        }
    }
    #[test]
    fn words_that_no_program_can_be_given_are_refused() {
        for spoil in [
            |container: &mut ContainerDefinition, word| container.command = Some(vec![word]),
            |container: &mut ContainerDefinition, word| container.entrypoint = Some(vec![word]),
            |container: &mut ContainerDefinition, word| {
                container.env = BTreeMap::from([("A".to_owned(), word)])
            },
        ] {
            let mut definition = definition(&[], &[]);
            spoil(&mut definition.containers[0], "plain".to_owned());
            definition.check().unwrap();
            spoil(&mut definition.containers[0], "a\0b".to_owned());
            let error = definition.check().unwrap_err().to_string();
            assert!(error.contains("container `app` has a NUL byte"), "{error}");
        }
    }
}
