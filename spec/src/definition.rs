use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    capability::{Capability, FileGrant, MissingGrant, OperatorGrants, Resolved, Want, resolve},
    digest::Digest,
    name::{ContainerName, Family, VolumeName},
    secret::{SecretName, SecretValue},
    text::{ParseError, written_as_text},
};

/// `FAMILY:REVISION`: one immutable revision of a task definition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskDefinitionId {
    /// What the revisions share.
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
        let wrong = || {
            ParseError(format!(
                "`{}` is not FAMILY:REVISION, as in cats:1",
                crate::digest::shortened(text)
            ))
        };
        let (family, revision) = text.split_once(':').ok_or_else(wrong)?;
        match revision.parse::<u32>() {
            Ok(number) if number > 0 && number.to_string() == revision => {
                Ok(Self { family: family.parse()?, revision: number })
            }
            _ => Err(wrong()),
        }
    }
}

written_as_text!(TaskDefinitionId, "One revision of a task definition: FAMILY:REVISION.", "cats:1");

/// What a task is made of: containers that start together, under one role. As it is written in
/// `task.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskDefinition {
    /// What its revisions share.
    pub family: Family,
    /// Where it may be launched; both when left out.
    #[serde(default = "LaunchType::all")]
    pub launch_types: Vec<LaunchType>,
    /// What its containers may reach beyond their own ports, env and mounts.
    #[serde(default)]
    pub role: Role,
    /// At least one. Each is a process of its own.
    pub containers: Vec<ContainerDefinition>,
    /// The volumes that its containers may mount.
    #[serde(default)]
    pub volumes: Vec<VolumeClaim>,
}

/// What an operator grants to every container of a task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Role {
    /// Capability lines.
    #[serde(default)]
    pub allow: Vec<Capability>,
}

/// Whose hosts a task runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LaunchType {
    /// Nodes that the tenant owns.
    Node,
    /// The shared pool, which bills per run.
    Pool,
}

impl LaunchType {
    fn all() -> Vec<Self> {
        vec![Self::Node, Self::Pool]
    }
}

impl FromStr for LaunchType {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "node" => Ok(Self::Node),
            "pool" => Ok(Self::Pool),
            _ => Err(ParseError(format!(
                "`{}` is not a launch type: use node or pool",
                crate::digest::shortened(text)
            ))),
        }
    }
}

/// One container of a task definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ContainerDefinition {
    /// Unique within the definition.
    pub name: ContainerName,
    /// The image as a person names it; without a registry it means the bundled one, and there the
    /// tenant's own name space.
    pub image: String,
    /// What `image` meant when the revision was registered. Never given by a client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// What the image asks for, read from it when the revision was registered. Never given by a
    /// client.
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
    /// limit.
    #[serde(default = "default_memory_soft")]
    pub memory_soft_bytes: u64,
    /// Memory that is never exceeded, in bytes.
    #[serde(default = "default_memory_hard")]
    pub memory_hard_bytes: u64,
    /// Ports on which it may be reached; each is a grant.
    #[serde(default)]
    pub ports: Vec<PortMapping>,
    /// Volumes that it sees; each is a grant.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// When it ends, the task ends.
    #[serde(default = "yes")]
    pub essential: bool,
    /// CPU time of one request, or of a whole command, in milliseconds. When left out: 10 seconds
    /// for a request on a node of your own, and none for a command. The pool gives a request 50
    /// milliseconds at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_time_max_ms: Option<u64>,
}

/// A day: what computes for longer should write down how far it is.
const CPU_TIME_MS_MAX: u64 = 24 * 3600 * 1000;

fn default_cpu_millis() -> u32 {
    100
}
fn default_memory_soft() -> u64 {
    32 << 20
}
fn default_memory_hard() -> u64 {
    128 << 20
}
fn yes() -> bool {
    true
}

/// A port of a container, and where it is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PortMapping {
    /// As the container knows it.
    pub container_port: u16,
    /// On the host: nothing to be reached through the ingress only, 0 for any free one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
    /// What is spoken.
    #[serde(default)]
    pub protocol: Protocol,
}

/// What is spoken on a port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP: the ingress routes to it, and Wasm is called for each request.
    #[default]
    Http,
    /// Bytes, for native images.
    Tcp,
}

/// A volume that a definition may mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeClaim {
    /// The volume on its node. Tasks that mount it follow it there.
    pub name: VolumeName,
    /// The most bytes in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_max: Option<u64>,
}

/// Where a container sees a volume.
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
    /// Each is a process of its own; whoever needs more needs another task.
    pub const CONTAINERS_MAX: usize = 10;
    /// Ports of one container: a node reports each of them with every status.
    pub const PORTS_MAX: usize = 32;

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
            ports: container.ports.iter().map(|port| port.container_port).collect(),
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

    /// The secrets that some container of it really gets: its role grants them, and its image does
    /// not do without.
    pub fn secrets(&self) -> BTreeSet<SecretName> {
        if !self.role.allow.iter().any(|line| matches!(line, Capability::Secret(_))) {
            return BTreeSet::new();
        }
        let resolved = self.containers.iter().filter_map(|container| self.resolve(container).ok());
        let secrets = resolved.flat_map(|resolved| resolved.capabilities.secrets);
        secrets.map(|grant| grant.name).collect()
    }

    /// What is wrong with it as a whole, in a sentence; the types have checked the parts.
    ///
    /// # Errors
    /// The first thing found.
    pub fn check(&self) -> Result<(), ParseError> {
        let wrong =
            |why: String| Err(ParseError(format!("task definition `{}`: {why}", self.family)));
        if self.containers.is_empty() || self.containers.len() > Self::CONTAINERS_MAX {
            return wrong("it needs 1 to 10 `[[containers]]`".to_owned());
        }
        if self.launch_types.is_empty() {
            return wrong("`launch_types` is empty: name node, pool or both".to_owned());
        }
        let secrets =
            self.role.allow.iter().filter(|line| matches!(line, Capability::Secret(_))).count();
        if secrets > SecretValue::COUNT_MAX {
            return wrong(format!(
                "its role grants {secrets} secrets, and {} are the most",
                SecretValue::COUNT_MAX
            ));
        }
        let mut host_ports = BTreeSet::new();
        for (index, container) in self.containers.iter().enumerate() {
            let name = &container.name;
            if self.containers[..index].iter().any(|other| other.name == *name) {
                return wrong(format!("two containers are named `{name}`"));
            }
            if container.memory_soft_bytes > container.memory_hard_bytes {
                return wrong(format!(
                    "container `{name}` reserves more memory than its hard limit"
                ));
            }
            if container.memory_hard_bytes < 1 << 16 || container.memory_hard_bytes > 64 << 30 {
                return wrong(format!(
                    "container `{name}` has a hard memory limit outside 64KiB to 64GiB"
                ));
            }
            if container
                .cpu_time_max_ms
                .is_some_and(|millis| !(1..=CPU_TIME_MS_MAX).contains(&millis))
            {
                return wrong(format!(
                    "container `{name}` has a `cpu_time_max_ms` outside 1 to {CPU_TIME_MS_MAX}"
                ));
            }
            if container.ports.len() > Self::PORTS_MAX {
                return wrong(format!(
                    "container `{name}` has more than {} ports",
                    Self::PORTS_MAX
                ));
            }
            for port in &container.ports {
                if port.container_port == 0 {
                    return wrong(format!(
                        "container `{name}` has `container_port` 0: name the port that it listens on"
                    ));
                }
                if let Some(host_port) =
                    port.host_port.filter(|port| *port != 0 && !host_ports.insert(*port))
                {
                    return wrong(format!(
                        "host port {host_port} is asked for twice: leave one of them out, or give 0"
                    ));
                }
            }
            for mount in &container.mounts {
                if !self.volumes.iter().any(|claim| claim.name == mount.volume) {
                    return wrong(format!(
                        "container `{name}` mounts `{}`, which is not among its `[[volumes]]`",
                        mount.volume
                    ));
                }
                format!("fs:{};volume={}", mount.path, mount.volume).parse::<Capability>()?;
            }
            for name in container.env.keys() {
                format!("env:{name}").parse::<Capability>()?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(allow: &[&str], wants: &[&str]) -> TaskDefinition {
        let container = serde_json::json!({ "name": "app", "image": "app", "wants": wants });
        let definition = serde_json::json!({ "family": "app", "role": { "allow": allow }, "containers": [container] });
        serde_json::from_value(definition).unwrap()
    }

    #[test]
    fn a_secret_takes_a_grant_and_an_image_that_does_not_do_without() {
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
    fn a_definition_that_asks_for_too_much_is_refused_by_name() {
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
}
