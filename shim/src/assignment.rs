use std::{
    collections::BTreeMap,
    net::TcpListener,
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};
use spec::{Capabilities, ContainerName, Digest, ImageConfig, Limits, Rights, TaskId};

use crate::{Error, Layer, Runtime};

/// Everything that one native container is handed.
#[derive(Debug)]
pub struct Assignment {
    /// Which task.
    pub task: TaskId,
    /// Which of its containers.
    pub container: ContainerName,
    /// Which image, by the digest that was resolved.
    pub image: Digest,
    /// How the image wants to be run.
    pub config: ImageConfig,
    /// Its layers, lowest first, as [`Layers::unpacked`](crate::Layers::unpacked) gave them.
    pub layers: Vec<Layer>,
    /// Who runs it.
    pub runtime: Runtime,
    /// Replaces the image's entrypoint, and with it the image's arguments.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's arguments.
    pub command: Option<Vec<String>>,
    /// Variables from outside; they win over those of the image.
    pub env: BTreeMap<String, String>,
    /// What the container calls its host; the container's name when left out.
    pub hostname: Option<String>,
    /// What was granted: wants, role and node policy have met already.
    pub grants: Capabilities,
    /// What it may use at most. Times are those of the whole container.
    pub limits: Limits,
    /// Share of a processor in thousandths; all of them when left out.
    pub cpu_millis: Option<u32>,
    /// What is mounted where. Each needs an `fs` grant for its path.
    pub volumes: Vec<VolumeMount>,
    /// Published ports: listening already.
    pub listeners: Vec<Listener>,
    /// Where the ingress of this node reaches it, listening already.
    pub ingress: Vec<Ingress>,
    /// What its program reads and writes.
    pub stdio: Stdio,
    /// Where its output is kept, line by line in the CRI format. Shortened to its newer half at
    /// `limits.log_bytes_max`.
    pub log: Option<PathBuf>,
    /// What becomes of it when the process that spawned it dies.
    pub orphan: Orphan,
}

/// A volume in a container's tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeMount {
    /// Where the container sees it.
    pub path: String,
    /// What it may do there: `r` or `rwd`, and `x` to run programs from it. Linux cannot grant `w`
    /// without `d`.
    #[serde(with = "as_text")]
    pub rights: Rights,
    /// The folder on this host.
    pub folder: PathBuf,
}

/// A port of the container that is open to the outside. Needs a `net.in` grant.
#[derive(Debug)]
pub struct Listener {
    /// As the container knows it.
    pub container_port: u16,
    /// Bound and listening.
    pub socket: TcpListener,
}

/// The ways into a container that runs.
#[derive(Debug, Default)]
pub struct Doors {
    /// Published ports.
    pub listeners: Vec<Listener>,
    /// Where the ingress of this node reaches it.
    pub ingress: Vec<Ingress>,
}

/// The way in for this node's ingress. Needs a `net.in` grant.
#[derive(Debug)]
pub struct Ingress {
    /// As the container knows it.
    pub container_port: u16,
    /// Bound and listening.
    pub socket: UnixListener,
}

/// The descriptors that a program's streams are copied from and to. `None` reads as empty and
/// writes into the log alone.
#[derive(Debug, Default)]
pub struct Stdio {
    /// Copied to the program's standard input.
    pub stdin: Option<OwnedFd>,
    /// Gets the program's standard output; everything, when there is a terminal.
    pub stdout: Option<OwnedFd>,
    /// Gets the program's standard error.
    pub stderr: Option<OwnedFd>,
    /// Gives the program a terminal of its own with these rows and columns.
    pub terminal: Option<(u16, u16)>,
}

/// What becomes of a container when the process that spawned it dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Orphan {
    /// It runs on, to be adopted.
    Keep,
    /// It is stopped: nobody would ever look at its output.
    Stop,
}

mod as_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use spec::Rights;

    pub(super) fn serialize<S: Serializer>(
        rights: &Rights,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(rights)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Rights, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// The version of [`Order`]; a shim is the same binary as its supervisor, except across an upgrade.
pub(crate) const ORDER_VERSION: u32 = 1;

/// An assignment as it crosses the socket: values here, descriptors beside them in the order of the
/// fields.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Order {
    pub version: u32,
    /// Where status, sockets and the runtime's state are kept.
    pub folder: PathBuf,
    pub task: TaskId,
    pub container: ContainerName,
    pub image: Digest,
    pub config: ImageConfig,
    pub layers: Vec<PathBuf>,
    pub runtime: Runtime,
    pub entrypoint: Option<Vec<String>>,
    pub command: Option<Vec<String>>,
    pub env: BTreeMap<String, String>,
    pub hostname: Option<String>,
    pub grants: Capabilities,
    pub limits: Limits,
    pub cpu_millis: Option<u32>,
    pub volumes: Vec<VolumeMount>,
    pub log: Option<PathBuf>,
    pub orphan: Orphan,
    pub terminal: Option<(u16, u16)>,
    pub listeners: Vec<u16>,
    pub ingress: Vec<u16>,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// The descriptors of an [`Order`].
#[derive(Debug)]
pub(crate) struct Handed {
    pub listeners: Vec<Listener>,
    pub ingress: Vec<Ingress>,
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

impl Assignment {
    /// Splits it into what is said and what is handed over.
    pub(crate) fn split(self, folder: PathBuf) -> (Order, Vec<OwnedFd>) {
        let Stdio { stdin, stdout, stderr, terminal } = self.stdio;
        let order = Order {
            version: ORDER_VERSION,
            folder,
            task: self.task,
            container: self.container,
            image: self.image,
            config: self.config,
            layers: self.layers.iter().map(|layer| layer.folder().to_owned()).collect(),
            runtime: self.runtime,
            entrypoint: self.entrypoint,
            command: self.command,
            env: self.env,
            hostname: self.hostname,
            grants: self.grants,
            limits: self.limits,
            cpu_millis: self.cpu_millis,
            volumes: self.volumes,
            log: self.log,
            orphan: self.orphan,
            terminal,
            listeners: self.listeners.iter().map(|l| l.container_port).collect(),
            ingress: self.ingress.iter().map(|i| i.container_port).collect(),
            stdin: stdin.is_some(),
            stdout: stdout.is_some(),
            stderr: stderr.is_some(),
        };
        let fds = (self.listeners.into_iter().map(|l| OwnedFd::from(l.socket)))
            .chain(self.ingress.into_iter().map(|i| OwnedFd::from(i.socket)))
            .chain([stdin, stdout, stderr].into_iter().flatten())
            .collect();
        (order, fds)
    }
}

impl Order {
    /// Gives each descriptor its place again, on the shim's side.
    pub(crate) fn hand(&self, fds: Vec<OwnedFd>) -> Result<Handed, Error> {
        let mut fds = fds.into_iter();
        let mut next =
            || fds.next().ok_or_else(|| Error::protocol("an order came with too few descriptors"));
        let mut listeners = Vec::new();
        for &container_port in &self.listeners {
            listeners.push(Listener { container_port, socket: next()?.into() });
        }
        let mut ingress = Vec::new();
        for &container_port in &self.ingress {
            ingress.push(Ingress { container_port, socket: next()?.into() });
        }
        let mut next_if = |there: bool| if there { next().map(Some) } else { Ok(None) };
        let (stdin, stdout, stderr) =
            (next_if(self.stdin)?, next_if(self.stdout)?, next_if(self.stderr)?);
        Ok(Handed { listeners, ingress, stdin, stdout, stderr })
    }
}
