use std::{collections::BTreeMap, io, os::fd::OwnedFd, path::PathBuf};

use serde::{Deserialize, Serialize};
use spec::{Capabilities, ContainerName, Digest, Limits, NodeId, Rights, TaskId};

use crate::{Listeners, ListenersMessage, Slots};

/// Everything that one container is handed, and so everything that it can reach: a descriptor is
/// the capability.
#[derive(Debug)]
pub struct Assignment<P> {
    pub task: TaskId,
    pub container: ContainerName,
    /// By the digest that was resolved.
    pub image: Digest,
    pub node: Option<NodeId>,
    /// The container's own folder: its socket, counters and end are kept there.
    pub folder: PathBuf,
    /// The program's name, then its arguments.
    pub args: Vec<String>,
    /// Variables from outside; they win over those of the image.
    pub env: BTreeMap<String, String>,
    /// What was granted: wants, role and node policy have met already.
    pub grants: Capabilities,
    pub limits: Limits,
    pub volumes: Vec<VolumeMount>,
    pub listeners: Listeners,
    pub stdio: Stdio,
    /// Where its output is kept, line by line: the last `limits.log_bytes_max` of its text.
    pub log: Option<PathBuf>,
    /// Whether it runs on when its supervisor is gone, to be adopted by the next one; otherwise it
    /// is stopped.
    pub adoptable: bool,
    /// What only this kind of container has.
    pub program: P,
}

/// A volume in a container's tree. Needs an `fs` grant for its path.
#[derive(Debug)]
pub struct VolumeMount {
    /// Where the container sees it.
    pub path: String,
    pub rights: Rights,
    pub source: VolumeSource,
    pub bytes_max: Option<u64>,
}

/// How a volume reaches a container.
#[derive(Debug)]
pub enum VolumeSource {
    /// The folder of a volume. Files in it have the ids of containers.
    Folder(PathBuf),
    /// A file or folder of this host. Files in it are those of the host's users, root's above all.
    Host(PathBuf),
    /// A detached mount, made by a supervisor with the right to.
    Detached(OwnedFd),
}

/// The descriptors that a program's streams are copied from and to. `None` reads as empty and
/// writes into the log alone.
#[derive(Debug, Default)]
pub struct Stdio {
    pub stdin: Option<OwnedFd>,
    /// Gets everything, where there is a terminal.
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    /// The program may know that it speaks to a terminal of these rows and columns.
    pub terminal: Option<(u16, u16)>,
}

impl Stdio {
    /// Copies of the descriptors, for another start.
    ///
    /// # Errors
    /// When one cannot be copied.
    pub fn try_clone(&self) -> io::Result<Self> {
        let copy = |fd: &Option<OwnedFd>| fd.as_ref().map(OwnedFd::try_clone).transpose();
        Ok(Self {
            stdin: copy(&self.stdin)?,
            stdout: copy(&self.stdout)?,
            stderr: copy(&self.stderr)?,
            terminal: self.terminal,
        })
    }

    /// The descriptors, in order; the size of the terminal stays.
    pub fn take(&mut self) -> [Option<OwnedFd>; 3] {
        [self.stdin.take(), self.stdout.take(), self.stderr.take()]
    }
}

/// The version of [`AssignmentMessage`]; a worker or shim is the same binary as its supervisor,
/// except across an upgrade.
pub const ASSIGNMENT_VERSION: u32 = 3;

/// An assignment as it crosses the socket: values, and the slots of the descriptors that ride
/// beside them.
#[derive(Debug, Serialize, Deserialize)]
pub struct AssignmentMessage<M> {
    version: u32,
    task: TaskId,
    container: ContainerName,
    image: Digest,
    node: Option<NodeId>,
    folder: PathBuf,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    grants: Capabilities,
    limits: Limits,
    volumes: Vec<VolumeMessage>,
    listeners: ListenersMessage,
    stdio: StdioMessage,
    log: Option<PathBuf>,
    adoptable: bool,
    program: M,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VolumeMessage {
    path: String,
    rights: String,
    detached: Option<usize>,
    folder: Option<PathBuf>,
    host: Option<PathBuf>,
    bytes_max: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StdioMessage {
    stdin: Option<usize>,
    stdout: Option<usize>,
    stderr: Option<usize>,
    terminal: Option<(u16, u16)>,
}

impl Assignment<()> {
    /// The same with what only this kind of container has.
    pub fn with<P>(self, program: P) -> Assignment<P> {
        Assignment {
            task: self.task,
            container: self.container,
            image: self.image,
            node: self.node,
            folder: self.folder,
            args: self.args,
            env: self.env,
            grants: self.grants,
            limits: self.limits,
            volumes: self.volumes,
            listeners: self.listeners,
            stdio: self.stdio,
            log: self.log,
            adoptable: self.adoptable,
            program,
        }
    }
}

impl<P> Assignment<P> {
    /// Splits it into what is said and what is handed over; `split` does so with the program.
    pub fn split<M>(
        self,
        split: impl FnOnce(P, &mut Slots) -> M,
    ) -> (AssignmentMessage<M>, Vec<OwnedFd>) {
        let mut slots = Slots::default();
        let message = AssignmentMessage {
            version: ASSIGNMENT_VERSION,
            task: self.task,
            container: self.container,
            image: self.image,
            node: self.node,
            folder: self.folder,
            args: self.args,
            env: self.env,
            grants: self.grants,
            limits: self.limits,
            volumes: self.volumes.into_iter().map(|volume| volume.split(&mut slots)).collect(),
            listeners: self.listeners.split(&mut slots),
            stdio: StdioMessage {
                stdin: self.stdio.stdin.map(|fd| slots.put(fd)),
                stdout: self.stdio.stdout.map(|fd| slots.put(fd)),
                stderr: self.stdio.stderr.map(|fd| slots.put(fd)),
                terminal: self.stdio.terminal,
            },
            log: self.log,
            adoptable: self.adoptable,
            program: split(self.program, &mut slots),
        };
        (message, slots.into_fds())
    }
}

impl<M> AssignmentMessage<M> {
    /// Puts an assignment together again, on the other side of the socket.
    ///
    /// # Errors
    /// When it has another version, or comes with too few descriptors.
    pub fn join<P>(
        self,
        fds: Vec<OwnedFd>,
        join: impl FnOnce(M, &mut Slots) -> io::Result<P>,
    ) -> io::Result<Assignment<P>> {
        if self.version != ASSIGNMENT_VERSION {
            return Err(invalid(format!(
                "the assignment has version {}, and this margay knows {ASSIGNMENT_VERSION}",
                self.version
            )));
        }
        let mut slots = Slots::from(fds);
        let volumes = self.volumes.into_iter().map(|volume| volume.join(&mut slots));
        Ok(Assignment {
            task: self.task,
            container: self.container,
            image: self.image,
            node: self.node,
            folder: self.folder,
            args: self.args,
            env: self.env,
            grants: self.grants,
            limits: self.limits,
            volumes: volumes.collect::<io::Result<_>>()?,
            listeners: self.listeners.join(&mut slots)?,
            stdio: Stdio {
                stdin: slots.take_if(self.stdio.stdin)?,
                stdout: slots.take_if(self.stdio.stdout)?,
                stderr: slots.take_if(self.stdio.stderr)?,
                terminal: self.stdio.terminal,
            },
            log: self.log,
            adoptable: self.adoptable,
            program: join(self.program, &mut slots)?,
        })
    }
}

impl VolumeMount {
    fn split(self, slots: &mut Slots) -> VolumeMessage {
        let (detached, folder, host) = match self.source {
            VolumeSource::Detached(fd) => (Some(slots.put(fd)), None, None),
            VolumeSource::Folder(path) => (None, Some(path), None),
            VolumeSource::Host(path) => (None, None, Some(path)),
        };
        let (path, bytes_max) = (self.path, self.bytes_max);
        VolumeMessage { path, rights: self.rights.to_string(), detached, folder, host, bytes_max }
    }
}

impl VolumeMessage {
    fn join(self, slots: &mut Slots) -> io::Result<VolumeMount> {
        let source = match (self.detached, self.folder, self.host) {
            (Some(slot), None, None) => VolumeSource::Detached(slots.take(slot)?),
            (None, Some(path), None) => VolumeSource::Folder(path),
            (None, None, Some(path)) => VolumeSource::Host(path),
            _ => return Err(invalid("a volume has exactly one source".to_owned())),
        };
        let rights = self.rights.parse().map_err(invalid)?;
        Ok(VolumeMount { path: self.path, rights, source, bytes_max: self.bytes_max })
    }
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Listener;

    fn assignment() -> Assignment<Option<OwnedFd>> {
        let port = |container_port| Listener {
            container_port,
            socket: std::net::TcpListener::bind("127.0.0.1:0").unwrap(),
        };
        let file = || OwnedFd::from(tempfile::tempfile().unwrap());
        Assignment {
            task: "t".parse().unwrap(),
            container: "c".parse().unwrap(),
            image: Digest::of(b"image"),
            node: None,
            folder: "/tasks/t".into(),
            args: vec!["cats".to_owned()],
            env: BTreeMap::new(),
            grants: Capabilities::default(),
            limits: Limits::for_requests(),
            volumes: vec![VolumeMount {
                path: "/data".to_owned(),
                rights: "rw".parse().unwrap(),
                source: VolumeSource::Detached(file()),
                bytes_max: Some(7),
            }],
            listeners: Listeners {
                published: vec![port(80), port(81)],
                datagrams: vec![Listener {
                    container_port: 53,
                    socket: std::net::UdpSocket::bind("127.0.0.1:0").unwrap(),
                }],
                ..Listeners::default()
            },
            stdio: Stdio { stdout: Some(file()), ..Stdio::default() },
            log: None,
            adoptable: true,
            program: Some(file()),
        }
    }

    #[test]
    fn an_assignment_arrives_as_it_was_sent() {
        let sent = assignment();
        let addresses = |assignment: &Assignment<Option<OwnedFd>>| {
            let published = assignment.listeners.published.iter();
            published
                .map(|l| (l.container_port, l.socket.local_addr().unwrap()))
                .collect::<Vec<_>>()
        };
        let want = addresses(&sent);
        let (message, fds) = sent.split(|program, slots| program.map(|fd| slots.put(fd)));
        assert_eq!(fds.len(), 6);
        let message: AssignmentMessage<Option<usize>> =
            serde_json::from_slice(&serde_json::to_vec(&message).unwrap()).unwrap();
        let got = message.join(fds, |slot, slots| slots.take_if(slot)).unwrap();
        assert_eq!(addresses(&got), want, "both ports arrive");
        let ports: Vec<_> = got.listeners.container_ports().map(|port| port.to_string()).collect();
        assert_eq!(ports, ["80/tcp", "81/tcp", "53/udp"]);
        assert!(got.program.is_some() && got.stdio.stdout.is_some() && got.stdio.stdin.is_none());
        assert!(matches!(got.volumes[0].source, VolumeSource::Detached(_)));
    }

    #[test]
    fn an_assignment_of_another_version_is_refused_by_name() {
        let (mut message, fds) = assignment().split(|_, _| ());
        message.version += 1;
        let error = message.join(fds, |(), _| Ok(())).unwrap_err();
        let want = "the assignment has version 4, and this margay knows 3";
        assert_eq!(error.to_string(), want);
    }

    #[test]
    fn an_assignment_with_too_few_descriptors_is_refused() {
        let (message, mut fds) = assignment().split(|_, _| ());
        fds.pop();
        assert!(message.join(fds, |(), _| Ok(())).is_err());
    }
}
