use std::{
    collections::BTreeMap,
    fs::File,
    net::TcpListener,
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};
use spec::{Capabilities, ContainerName, Digest, Limits, NodeId, Rights, SecretName, TaskId};

use crate::{Error, frame::Slots};

/// Which of the two worlds a program is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum World {
    /// `wasi:http`: a fresh instance answers each request.
    Http,
    /// `wasi:cli`: it runs once, to its end.
    Command,
}

/// Everything that one worker is handed, and so everything that its guest can reach: a descriptor
/// is the capability. What is not in here does not exist for the worker.
#[derive(Debug)]
pub struct Assignment {
    /// Which task.
    pub task: TaskId,
    /// Which of its containers.
    pub container: ContainerName,
    /// Which image, by the digest that was resolved.
    pub image: Digest,
    /// On which node, where there is one.
    pub node: Option<NodeId>,
    /// What the program is written for.
    pub world: World,
    /// The program's name, then its arguments.
    pub args: Vec<String>,
    /// Variables that the image itself carries: no grant is needed for what the guest was built
    /// with.
    pub image_env: BTreeMap<String, String>,
    /// Variables from outside. Those without an `env:` grant are left out, and that is reported as
    /// a denial.
    pub env: BTreeMap<String, String>,
    /// The folder that relative paths start from.
    pub working_dir: String,
    /// What was granted: wants, role and node policy have met already.
    pub grants: Capabilities,
    /// What it may use at most.
    pub limits: Limits,
    /// Files under `/run/secrets`, by name. Only those with a `secret:` grant appear.
    pub secrets: BTreeMap<SecretName, Vec<u8>>,
    /// The program's machine code, open for reading.
    pub code: File,
    /// The index over the layers, open for reading.
    pub index: File,
    /// The uncompressed layer tars in the index's order, open for reading.
    pub layers: Vec<File>,
    /// What is mounted where.
    pub volumes: Vec<VolumeMount>,
    /// Published ports: listening already.
    pub listeners: Vec<Listener>,
    /// Where the ingress of this node reaches it, listening already.
    pub ingress: Option<Ingress>,
    /// Where a later agent finds it; see [`adoption_socket`](crate::adoption_socket). Without it
    /// the worker ends with its supervisor, however that ends.
    pub adoption: Option<OwnedFd>,
    /// What its program reads and writes.
    pub stdio: Stdio,
    /// Where its output is kept, line by line in the CRI format. Opened for appending, and for
    /// reading too, so that the worker can keep the last lines when the log is full.
    pub log: Option<File>,
    /// Where its usage is counted; see [`usage::create`](crate::usage::create).
    pub usage: File,
}

/// A volume in a guest's tree.
#[derive(Debug)]
pub struct VolumeMount {
    /// Where the guest sees it.
    pub path: String,
    /// What it may do there.
    pub rights: Rights,
    /// What is mounted.
    pub source: VolumeSource,
    /// The most bytes in it.
    pub max_bytes: Option<u64>,
}

/// How a volume reaches a worker.
#[derive(Debug)]
pub enum VolumeSource {
    /// A detached mount, made by a supervisor with the right to: see
    /// [`volume::detach`](crate::volume::detach).
    Detached(OwnedFd),
    /// A folder that the worker detaches itself in its own user namespace, before it drops
    /// everything.
    Folder(PathBuf),
}

/// A port of the container that is open to the outside.
#[derive(Debug)]
pub struct Listener {
    /// As the container knows it. Needs a `net.in` grant.
    pub container_port: u16,
    /// Bound and listening.
    pub socket: TcpListener,
}

/// The way in for this node's ingress.
#[derive(Debug)]
pub struct Ingress {
    /// As the container knows it. Needs a `net.in` grant.
    pub container_port: u16,
    /// Bound and listening.
    pub socket: UnixListener,
}

/// The three descriptors that a program is born with; `None` reads as empty and writes into nothing
/// (but the log).
#[derive(Debug, Default)]
pub struct Stdio {
    /// Read by the guest.
    pub stdin: Option<OwnedFd>,
    /// Written by the guest.
    pub stdout: Option<OwnedFd>,
    /// Written by the guest, and by the worker about the guest.
    pub stderr: Option<OwnedFd>,
    /// Whether they are a terminal, and the guest may know.
    pub terminal: bool,
}

/// An assignment as it crosses the socket: values, and the slots of the descriptors that ride
/// beside them.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Order {
    pub version: u32,
    pub task: TaskId,
    pub container: ContainerName,
    pub image: Digest,
    pub node: Option<NodeId>,
    pub world: World,
    pub args: Vec<String>,
    pub image_env: BTreeMap<String, String>,
    pub env: BTreeMap<String, String>,
    pub working_dir: String,
    pub grants: Capabilities,
    pub limits: Limits,
    pub secrets: BTreeMap<SecretName, Vec<u8>>,
    pub code: usize,
    pub index: usize,
    pub layers: Vec<usize>,
    pub volumes: Vec<OrderedVolume>,
    pub listeners: Vec<(u16, usize)>,
    pub ingress: Option<(u16, usize)>,
    pub adoption: Option<usize>,
    pub stdin: Option<usize>,
    pub stdout: Option<usize>,
    pub stderr: Option<usize>,
    pub terminal: bool,
    pub log: Option<usize>,
    pub usage: usize,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OrderedVolume {
    pub path: String,
    pub rights: String,
    pub detached: Option<usize>,
    pub folder: Option<PathBuf>,
    pub max_bytes: Option<u64>,
}

/// The version of [`Order`]; a worker is the same binary as its supervisor, except across an
/// upgrade.
pub(crate) const ORDER_VERSION: u32 = 1;

impl Assignment {
    /// Splits it into what is said and what is handed over.
    pub(crate) fn split(self) -> (Order, Vec<OwnedFd>) {
        let mut slots = Slots::default();
        let order = Order {
            version: ORDER_VERSION,
            task: self.task,
            container: self.container,
            image: self.image,
            node: self.node,
            world: self.world,
            args: self.args,
            image_env: self.image_env,
            env: self.env,
            working_dir: self.working_dir,
            grants: self.grants,
            limits: self.limits,
            secrets: self.secrets,
            code: slots.put(self.code),
            index: slots.put(self.index),
            layers: self.layers.into_iter().map(|layer| slots.put(layer)).collect(),
            volumes: self.volumes.into_iter().map(|volume| volume.split(&mut slots)).collect(),
            listeners: self
                .listeners
                .into_iter()
                .map(|l| (l.container_port, slots.put(l.socket)))
                .collect(),
            ingress: self
                .ingress
                .map(|ingress| (ingress.container_port, slots.put(ingress.socket))),
            adoption: self.adoption.map(|socket| slots.put(socket)),
            stdin: self.stdio.stdin.map(|fd| slots.put(fd)),
            stdout: self.stdio.stdout.map(|fd| slots.put(fd)),
            stderr: self.stdio.stderr.map(|fd| slots.put(fd)),
            terminal: self.stdio.terminal,
            log: self.log.map(|log| slots.put(log)),
            usage: slots.put(self.usage),
        };
        (order, slots.into_fds())
    }
}

impl VolumeMount {
    fn split(self, slots: &mut Slots) -> OrderedVolume {
        let (detached, folder) = match self.source {
            VolumeSource::Detached(fd) => (Some(slots.put(fd)), None),
            VolumeSource::Folder(path) => (None, Some(path)),
        };
        OrderedVolume {
            path: self.path,
            rights: self.rights.to_string(),
            detached,
            folder,
            max_bytes: self.max_bytes,
        }
    }
}

impl Order {
    /// Puts an order and its descriptors together again, on the worker's side.
    pub(crate) fn join(self, fds: Vec<OwnedFd>) -> Result<Assignment, Error> {
        if self.version != ORDER_VERSION {
            return Err(Error::Protocol(format!(
                "the order has version {}, and this worker knows {ORDER_VERSION}",
                self.version
            )));
        }
        let mut slots = Slots::from(fds);
        let volumes = self
            .volumes
            .into_iter()
            .map(|volume| volume.join(&mut slots))
            .collect::<Result<_, _>>()?;
        Ok(Assignment {
            task: self.task,
            container: self.container,
            image: self.image,
            node: self.node,
            world: self.world,
            args: self.args,
            image_env: self.image_env,
            env: self.env,
            working_dir: self.working_dir,
            grants: self.grants,
            limits: self.limits,
            secrets: self.secrets,
            code: slots.take(self.code)?.into(),
            index: slots.take(self.index)?.into(),
            layers: self
                .layers
                .into_iter()
                .map(|slot| slots.take(slot).map(File::from))
                .collect::<Result<_, _>>()?,
            volumes,
            listeners: self
                .listeners
                .into_iter()
                .map(|(container_port, slot)| {
                    Ok(Listener { container_port, socket: slots.take(slot)?.into() })
                })
                .collect::<Result<_, Error>>()?,
            ingress: match self.ingress {
                Some((container_port, slot)) => {
                    Some(Ingress { container_port, socket: slots.take(slot)?.into() })
                }
                None => None,
            },
            adoption: slots.take_if(self.adoption)?,
            stdio: Stdio {
                stdin: slots.take_if(self.stdin)?,
                stdout: slots.take_if(self.stdout)?,
                stderr: slots.take_if(self.stderr)?,
                terminal: self.terminal,
            },
            log: slots.take_if(self.log)?.map(File::from),
            usage: slots.take(self.usage)?.into(),
        })
    }
}

impl OrderedVolume {
    fn join(self, slots: &mut Slots) -> Result<VolumeMount, Error> {
        let source = match (self.detached, self.folder) {
            (Some(slot), None) => VolumeSource::Detached(slots.take(slot)?),
            (None, Some(path)) => VolumeSource::Folder(path),
            _ => return Err(Error::Protocol("a volume is either detached or a folder".to_owned())),
        };
        let rights = self.rights.parse().map_err(Error::Protocol)?;
        Ok(VolumeMount { path: self.path, rights, source, max_bytes: self.max_bytes })
    }
}
