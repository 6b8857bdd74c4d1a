//! One container, decided and then done: what it is granted, what it is handed, and the process
//! that runs it.
//!
//! [`Launch::decide`] is where wants and grants meet; everything after it only carries that out, so
//! a second start after a crash hands over exactly what the first did.

use std::{
    collections::BTreeMap,
    fs::File,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::PathBuf,
    time::Duration,
};

use runtime::World;
use spec::{
    Capability, ContainerName, Digest, FileGrant, LaunchType, Limits, NodeId, OperatorGrants,
    PublishedPort, Resolved, SecretGrant, SecretName, SecretValue, TaskId, resolve,
};

use crate::{
    error::{Error, Result, chain},
    home::{Home, make_private, set_mode},
    images::{Native, Ready},
    request::{MountSource, Mounted, Publish},
    running::Running,
    tasks::{Kind, MountRecord, TaskFolder},
};

/// What somebody wants to run, whoever it is.
#[derive(Debug, Clone)]
pub(crate) struct Container {
    pub task: TaskId,
    pub name: ContainerName,
    pub node: Option<NodeId>,
    /// Whose volumes it sees: a tenant's, or `local`.
    pub owner: String,
    pub image: Digest,
    pub env: BTreeMap<String, String>,
    /// Values by name; which of them it gets, and how, its grants say.
    pub secrets: BTreeMap<SecretName, SecretValue>,
    pub ports: Vec<Publish>,
    /// Ports that only the ingress reaches.
    pub ingress_ports: Vec<u16>,
    pub mounts: Vec<Mounted>,
    /// Every line that its operator grants.
    pub grants: Vec<Capability>,
    pub memory_bytes_max: Option<u64>,
    pub cpu_time_max: Option<Duration>,
    pub wall_time_max: Option<Duration>,
    pub cpu_millis: Option<u32>,
    pub launch_type: LaunchType,
    /// Whether it runs on when its supervisor is gone, to be adopted.
    pub adoptable: bool,
}

/// A container with everything decided.
#[derive(Debug)]
pub(crate) struct Launch {
    pub container: Container,
    pub args: Vec<String>,
    pub resolved: Resolved,
    pub limits: Limits,
    pub kind: Kind,
    ready: Ready,
}

/// How much of a processor one request may have, or a command. In the pool nobody gets more than
/// its default by asking.
fn cpu_time(
    asked: Option<Duration>,
    launch_type: LaunchType,
    serves: bool,
    default: Option<Duration>,
) -> Option<Duration> {
    match (asked, launch_type) {
        (Some(time), LaunchType::Node) => Some(time),
        (Some(time), LaunchType::Pool) => Some(default.map_or(time, |most| time.min(most))),
        (None, LaunchType::Node) if serves => Some(OWN_CPU_TIME_MAX),
        (None, LaunchType::Node | LaunchType::Pool) => default,
    }
}

/// What a container listens on, held by its supervisor for as long as the container is wanted.
#[derive(Debug, Default)]
pub(crate) struct Doors {
    pub published: Vec<(u16, TcpListener)>,
    pub ingress: Vec<(u16, UnixListener)>,
}

/// What a program is born with.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    pub terminal: Option<(u16, u16)>,
}

/// On a node that you own a request may think for as long as a person waits; the pool has its own,
/// tighter default.
const OWN_CPU_TIME_MAX: Duration = Duration::from_secs(10);

/// What a local request grants: its own lines, and those of its ports, variables, secrets and
/// mounts.
///
/// # Errors
/// [`Error::BadArgument`] names a variable that no line can name.
pub(crate) fn local_grants(
    allow: &[Capability],
    ports: Vec<u16>,
    env: &BTreeMap<String, String>,
    secrets: &BTreeMap<SecretName, SecretValue>,
    mounts: &[Mounted],
) -> Result<Vec<Capability>> {
    let is_name = |name: &&String| format!("env:{name}").parse::<Capability>().is_ok();
    if let Some(name) = env.keys().find(|name| !is_name(name)) {
        return Err(Error::BadArgument {
            text: name.clone(),
            what: "the name of an environment variable: letters, digits and `_`, not beginning with a digit",
        });
    }
    let mounts = mounts.iter().enumerate().map(|(index, mount)| {
        let volume = volume_name(index, &mount.source);
        FileGrant::mount(&mount.path, mount.read_only, &volume, mount.bytes_max)
    });
    let grants = OperatorGrants {
        allow,
        ports,
        env: env.keys().map(String::as_str).collect(),
        secrets: secrets.keys().collect(),
        mounts: mounts.collect(),
    };
    Ok(grants.lines())
}

/// The name under which a mount appears in a grant: the volume's, or one that stands for a folder
/// of the host.
fn volume_name(index: usize, source: &MountSource) -> spec::VolumeName {
    match source {
        MountSource::Volume(name) => name.clone(),
        MountSource::Folder(_) => {
            format!("host-{index}").parse().expect("letters, a dash and digits are a name")
        }
    }
}

impl Launch {
    /// Lets wants and grants meet.
    ///
    /// # Errors
    /// [`Error::NotGranted`] holds the line that is missing.
    pub fn decide(container: Container, ready: Ready, args: Vec<String>) -> Result<Self> {
        let resolved = resolve(ready.wants(), &container.grants)?;
        check_secrets(&container.secrets, &resolved.capabilities.secrets)?;
        let kind = match &ready {
            Ready::Wasm { .. } => Kind::Wasm,
            Ready::Native(_) => Kind::Native,
        };
        let serves = ready.serves_requests();
        let mut limits = if serves { Limits::for_requests() } else { Limits::for_commands() };
        if let Some(bytes) = container.memory_bytes_max {
            limits.memory_bytes_max = bytes;
        }
        limits.cpu_time_max =
            cpu_time(container.cpu_time_max, container.launch_type, serves, limits.cpu_time_max);
        if container.wall_time_max.is_some() {
            limits.wall_time_max = container.wall_time_max;
        }
        Ok(Self { container, args, resolved, limits, kind, ready })
    }

    /// A worker for so many requests at once, which makes itself ready while its task gets a
    /// folder. None for a native image, and none when it cannot be had: the start tries again, and
    /// names why.
    pub fn blank(&self, requests_max: u32) -> Option<runtime::Blank> {
        match &self.ready {
            Ready::Wasm { prepared, .. } => spawn(prepared.facts.world, requests_max).ok(),
            Ready::Native(_) => None,
        }
    }

    /// Whether it answers requests, a fresh instance for each, so that nobody misses it while there
    /// are none.
    pub fn serves_requests(&self) -> bool {
        self.ready.serves_requests()
    }

    /// How long it gets to end when it is to have `grace`. A Wasm program that runs once has no
    /// signals, and so nothing to end itself for.
    pub fn grace(&self, grace: Duration) -> Duration {
        match self.kind {
            Kind::Wasm if !self.serves_requests() => Duration::ZERO,
            Kind::Wasm | Kind::Native => grace,
        }
    }

    /// Its variables: those that were given, and where granted by name, who and where it is.
    fn env(&self) -> BTreeMap<String, String> {
        let container = &self.container;
        let mut env = container.env.clone();
        let told = [
            ("MARGAY_TASK", Some(container.task.to_string())),
            ("MARGAY_NODE", container.node.as_ref().map(ToString::to_string)),
            ("MARGAY_IMAGE", Some(container.image.to_string())),
        ];
        for (name, value) in told {
            let granted = self.resolved.capabilities.has_variable(name);
            if let Some(value) = value.filter(|_| granted) {
                env.entry(name.to_owned()).or_insert(value);
            }
        }
        env
    }

    /// The values of what was granted, and of nothing else.
    fn secrets(&self) -> BTreeMap<SecretName, Vec<u8>> {
        let granted = self.resolved.capabilities.secrets.iter();
        let value = |name| Some(self.container.secrets.get(name)?.expose().to_vec());
        granted.filter_map(|grant| Some((grant.name.clone(), value(&grant.name)?))).collect()
    }

    /// What to write into its folder about its mounts.
    pub fn mount_records(&self) -> Vec<MountRecord> {
        let source = |source: &MountSource| match source {
            MountSource::Volume(name) => name.to_string(),
            MountSource::Folder(path) => path.display().to_string(),
        };
        let mounts = self.container.mounts.iter();
        mounts
            .map(|m| MountRecord {
                source: source(&m.source),
                path: m.path.clone(),
                read_only: m.read_only,
            })
            .collect()
    }

    /// What to write into its folder about its ports.
    pub fn asked_ports(&self) -> Vec<PublishedPort> {
        let published = self.container.ports.iter();
        let published = published.map(|p| PublishedPort {
            container_port: p.container_port,
            host_port: Some(p.host_port),
        });
        let inside = self.container.ingress_ports.iter();
        published
            .chain(inside.map(|port| PublishedPort { container_port: *port, host_port: None }))
            .collect()
    }

    fn may_listen(&self, port: u16) -> bool {
        self.resolved.capabilities.has_port(port)
    }

    /// Opens its ports on the host.
    ///
    /// # Errors
    /// [`Error::PortTaken`] names the port.
    pub fn open_ports(&self) -> Result<Vec<(u16, TcpListener)>> {
        let granted =
            self.container.ports.iter().filter(|publish| self.may_listen(publish.container_port));
        granted.map(|publish| Ok((publish.container_port, listen(publish)?))).collect()
    }

    /// The ports on which the ingress may reach it.
    pub fn ingress_ports(&self) -> Vec<u16> {
        self.container.ingress_ports.iter().copied().filter(|port| self.may_listen(*port)).collect()
    }

    /// The folders behind its mounts, made where they are missing.
    fn folders(&self, home: &Home) -> Result<Vec<Folder>> {
        let mut folders = Vec::new();
        for grant in &self.resolved.capabilities.files {
            let FileGrant { path, rights, volume: Some(volume), max_bytes } = grant else {
                continue;
            };
            let named = |(index, mount): &(usize, &Mounted)| {
                mount.path == *path && volume_name(*index, &mount.source) == *volume
            };
            let mount =
                self.container.mounts.iter().enumerate().find(named).map(|(_, mount)| mount);
            let folder = match mount.map(|mount| &mount.source) {
                Some(MountSource::Folder(folder)) => {
                    folder.canonicalize().map_err(Error::file("find", folder))?
                }
                // `--allow fs:/data#rw;volume=book` names a volume without a `-v`.
                Some(MountSource::Volume(_)) | None => {
                    volume_folder(home, &self.container.owner, volume)?
                }
            };
            folders.push(Folder {
                path: path.clone(),
                rights: *rights,
                folder,
                max_bytes: *max_bytes,
            });
        }
        Ok(folders)
    }

    /// Starts its process. `blank` is a worker that waits, if there is one.
    pub async fn start(
        &self,
        home: &Home,
        folder: &TaskFolder,
        doors: &Doors,
        streams: Streams,
        broker: &runtime::Broker,
        blank: Option<runtime::Blank>,
    ) -> Result<Running> {
        match &self.ready {
            Ready::Wasm { plan, prepared } => {
                let assignment =
                    self.wasm_assignment(home, folder, doors, streams, plan, prepared)?;
                let failed =
                    |error: runtime::Error| self.failed(folder, chain(&error), error.hint());
                let blank = match blank {
                    Some(blank) => blank,
                    None => spawn(assignment.world, assignment.limits.concurrency_max)
                        .map_err(failed)?,
                };
                Ok(Running::wasm(
                    blank.assign(assignment, broker.of(&self.container.owner)).map_err(failed)?,
                ))
            }
            Ready::Native(native) => {
                let assignment = self.native_assignment(home, folder, doors, streams, native)?;
                let (path, name) = (folder.path().to_owned(), folder.record().name.clone());
                Running::native(path, assignment).await.map_err(|error| Error::Start {
                    task: name,
                    why: chain(&error),
                    hint: error.hint(),
                    exit_code: u8::try_from(error.exit_code()).unwrap_or(Error::OURS),
                })
            }
        }
    }

    fn failed(&self, folder: &TaskFolder, why: String, hint: Option<String>) -> Error {
        Error::Start { task: folder.record().name.clone(), why, hint, exit_code: Error::OURS }
    }

    fn wasm_assignment(
        &self,
        home: &Home,
        folder: &TaskFolder,
        doors: &Doors,
        streams: Streams,
        plan: &image::Plan,
        prepared: &runtime::Prepared,
    ) -> Result<runtime::Assignment> {
        let container = &self.container;
        let system = |verb| move |source| Error::System { verb, source };
        let failed = |error: runtime::Error| self.failed(folder, chain(&error), error.hint());
        let copy = |file: &File| file.try_clone().map_err(system("copy a descriptor"));
        let root = rustix::process::geteuid().is_root();
        let volumes =
            self.folders(home)?.into_iter().map(|f| f.for_worker(root)).collect::<Result<_, _>>();
        let mut listeners = Vec::new();
        for (container_port, socket) in &doors.published {
            let socket = socket.try_clone().map_err(system("copy a descriptor"))?;
            listeners.push(runtime::Listener { container_port: *container_port, socket });
        }
        let ingress = match doors.ingress.first() {
            Some((container_port, socket)) => {
                let socket = socket.try_clone().map_err(system("copy a descriptor"))?;
                Some(runtime::Ingress { container_port: *container_port, socket })
            }
            None => None,
        };
        let adoption = match container.adoptable {
            true => Some(runtime::adoption_socket(folder.path(), "worker.sock").map_err(failed)?),
            false => None,
        };
        let execution = plan.execution();
        Ok(runtime::Assignment {
            task: container.task.clone(),
            container: container.name.clone(),
            image: container.image,
            node: container.node.clone(),
            world: prepared.facts.world,
            args: self.args.clone(),
            image_env: variables(execution.env.as_deref().unwrap_or_default()),
            env: self.env(),
            working_dir: execution
                .working_dir
                .clone()
                .filter(|dir| !dir.is_empty())
                .unwrap_or_else(|| "/".to_owned()),
            grants: self.resolved.capabilities.clone(),
            limits: self.limits.clone(),
            secrets: self.secrets(),
            code: copy(&prepared.code)?,
            index: copy(&prepared.index)?,
            layers: prepared.layers.iter().map(copy).collect::<Result<_>>()?,
            volumes: volumes.map_err(failed)?,
            listeners,
            ingress,
            adoption,
            stdio: runtime::Stdio {
                stdin: streams.stdin,
                stdout: streams.stdout,
                stderr: streams.stderr,
                terminal: streams.terminal.is_some(),
            },
            log: Some(open_log(folder)?),
            usage: crate::meter::open(&folder.usage_page()).map_err(failed)?,
        })
    }

    fn native_assignment(
        &self,
        home: &Home,
        folder: &TaskFolder,
        doors: &Doors,
        streams: Streams,
        native: &Native,
    ) -> Result<shim::Assignment> {
        let container = &self.container;
        let system = |verb| move |source| Error::System { verb, source };
        let mut listeners = Vec::new();
        for (container_port, socket) in &doors.published {
            let socket = socket.try_clone().map_err(system("copy a descriptor"))?;
            listeners.push(shim::Listener { container_port: *container_port, socket });
        }
        let mut ingress = Vec::new();
        for (container_port, socket) in &doors.ingress {
            let socket = socket.try_clone().map_err(system("copy a descriptor"))?;
            ingress.push(shim::Ingress { container_port: *container_port, socket });
        }
        let volumes = self.folders(home)?.into_iter().map(|f| shim::VolumeMount {
            path: f.path,
            rights: f.rights,
            folder: f.folder,
        });
        Ok(shim::Assignment {
            task: container.task.clone(),
            container: container.name.clone(),
            image: container.image,
            config: native.plan.config.clone(),
            layers: native.layers.clone(),
            runtime: native.runtime.clone(),
            // The arguments are put together already.
            entrypoint: Some(self.args.clone()),
            command: Some(Vec::new()),
            env: self.env(),
            hostname: None,
            grants: self.resolved.capabilities.clone(),
            limits: self.limits.clone(),
            cpu_millis: container.cpu_millis,
            volumes: volumes.collect(),
            listeners,
            ingress,
            stdio: shim::Stdio {
                stdin: streams.stdin,
                stdout: streams.stdout,
                stderr: streams.stderr,
                terminal: streams.terminal,
            },
            log: Some(folder.log()),
            orphan: if container.adoptable { shim::Orphan::Keep } else { shim::Orphan::Stop },
        })
    }
}

/// A place for an instance costs a stack with a guard page before anything runs, and a command
/// needs one.
fn spawn(world: World, requests_max: u32) -> Result<runtime::Blank, runtime::Error> {
    let instances_max = match world {
        World::Command => 1,
        World::Http => requests_max,
    };
    runtime::Blank::spawn(&runtime::SpawnOptions { instances_max, ..Default::default() })
}

/// A guest that was promised a secret finds it.
fn check_secrets(
    values: &BTreeMap<SecretName, SecretValue>,
    granted: &[SecretGrant],
) -> Result<()> {
    for SecretGrant { name, as_env } in granted {
        let value = values.get(name).ok_or_else(|| Error::NoSecret(name.to_string()))?;
        let is_text = || std::str::from_utf8(value.expose()).is_ok_and(|text| !text.contains('\0'));
        if *as_env && !is_text() {
            return Err(Error::SecretIsNotText(name.to_string()));
        }
    }
    Ok(())
}

/// A mount with its folder on this host.
struct Folder {
    path: String,
    rights: spec::Rights,
    folder: PathBuf,
    max_bytes: Option<u64>,
}

impl Folder {
    fn for_worker(self, root: bool) -> Result<runtime::VolumeMount, runtime::Error> {
        let source = match root {
            true => {
                runtime::VolumeSource::Detached(runtime::volume::detach(&self.folder, self.rights)?)
            }
            false => runtime::VolumeSource::Folder(self.folder),
        };
        Ok(runtime::VolumeMount {
            path: self.path,
            rights: self.rights,
            source,
            max_bytes: self.max_bytes,
        })
    }
}

/// A named volume's folder. Open to every user, because each worker is another; closed to everybody
/// by its parents.
fn volume_folder(home: &Home, owner: &str, volume: &spec::VolumeName) -> Result<PathBuf> {
    let parent = home.volumes(owner);
    make_private(&parent)?;
    let folder = parent.join(volume.as_str());
    match std::fs::create_dir(&folder) {
        Ok(()) => set_mode(&folder, 0o777)?,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(Error::file("make volume", &folder)(error)),
    }
    Ok(folder)
}

fn open_log(folder: &TaskFolder) -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let path = folder.log();
    let open = File::options().read(true).append(true).create(true).mode(0o600).open(&path);
    open.map_err(Error::file("open", path))
}

/// A listener for one `-p`. Without an address it takes both families, where the machine has both.
fn listen(publish: &Publish) -> Result<TcpListener> {
    let everywhere = || match TcpListener::bind((Ipv6Addr::UNSPECIFIED, publish.host_port)) {
        Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, publish.host_port))
        }
        other => other,
    };
    let bound = match publish.address {
        Some(address) => TcpListener::bind(SocketAddr::new(address, publish.host_port)),
        None => everywhere(),
    };
    let listener = bound.map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => Error::PortTaken { port: publish.host_port, task: None },
        _ => Error::Listen { port: publish.host_port, source },
    })?;
    listener
        .set_nonblocking(true)
        .map_err(|source| Error::Listen { port: publish.host_port, source })?;
    Ok(listener)
}

impl Doors {
    /// Where it is reached, for people.
    pub fn ports(&self) -> Vec<PublishedPort> {
        let port =
            |listener: &TcpListener| listener.local_addr().ok().map(|address| address.port());
        let published = self.published.iter();
        let published = published.map(|(container_port, l)| PublishedPort {
            container_port: *container_port,
            host_port: port(l),
        });
        let only_inside =
            self.ingress.iter().filter(|(port, _)| !self.published.iter().any(|(p, _)| p == port));
        published
            .chain(only_inside.map(|(container_port, _)| PublishedPort {
                container_port: *container_port,
                host_port: None,
            }))
            .collect()
    }
}

/// `NAME=VALUE` lines as an image has them.
fn variables(lines: &[String]) -> BTreeMap<String, String> {
    let pairs = lines.iter().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Program and arguments, as Docker puts them together: an entrypoint of the caller's own drops the
/// image's arguments.
pub(crate) fn arguments(
    plan: &image::Plan,
    name: &str,
    entrypoint: Option<&[String]>,
    command: Option<&[String]>,
) -> Vec<String> {
    let execution = plan.execution();
    let image_entrypoint = execution.entrypoint.as_deref().unwrap_or_default();
    let image_command = execution.cmd.as_deref().unwrap_or_default();
    let head = entrypoint.unwrap_or(image_entrypoint);
    let tail = match (command, entrypoint) {
        (Some(command), _) => command,
        (None, Some(_)) => &[],
        (None, None) => image_command,
    };
    let is_program_alone = matches!(plan.program, image::Program::Layer(_)) && head.is_empty();
    let program = is_program_alone.then(|| name.to_owned());
    program.into_iter().chain(head.iter().cloned()).chain(tail.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(secrets: &[(&str, &[u8])], allow: &[&str]) -> Container {
        let value = |bytes: &[u8]| SecretValue::new(bytes.to_vec()).unwrap();
        let secrets: BTreeMap<SecretName, SecretValue> =
            secrets.iter().map(|(name, bytes)| (name.parse().unwrap(), value(bytes))).collect();
        let allow: Vec<Capability> = allow.iter().map(|line| line.parse().unwrap()).collect();
        Container {
            task: "t".parse().unwrap(),
            name: "c".parse().unwrap(),
            node: None,
            owner: "local".to_owned(),
            image: Digest::of(b"image"),
            env: BTreeMap::new(),
            grants: local_grants(&allow, Vec::new(), &BTreeMap::new(), &secrets, &[]).unwrap(),
            secrets,
            ports: Vec::new(),
            ingress_ports: Vec::new(),
            mounts: Vec::new(),
            memory_bytes_max: None,
            cpu_time_max: None,
            wall_time_max: None,
            cpu_millis: None,
            launch_type: LaunchType::Node,
            adoptable: false,
        }
    }

    #[test]
    fn a_definition_decides_about_cpu_time_on_own_nodes_and_the_pool_about_its_own() {
        let ms = Duration::from_millis;
        for (asked, launch_type, serves, want) in [
            (None, LaunchType::Node, true, Some(ms(10_000))),
            (Some(ms(200)), LaunchType::Node, true, Some(ms(200))),
            (Some(ms(60_000)), LaunchType::Node, true, Some(ms(60_000))),
            (None, LaunchType::Pool, true, Some(ms(50))),
            (Some(ms(20)), LaunchType::Pool, true, Some(ms(20))),
            (Some(ms(200)), LaunchType::Pool, true, Some(ms(50))),
            (None, LaunchType::Node, false, None),
            (None, LaunchType::Pool, false, None),
            (Some(ms(200)), LaunchType::Pool, false, Some(ms(200))),
        ] {
            let default =
                if serves { Limits::for_requests() } else { Limits::for_commands() }.cpu_time_max;
            assert_eq!(
                cpu_time(asked, launch_type, serves, default),
                want,
                "{asked:?} {launch_type:?} {serves}"
            );
        }
    }

    #[test]
    fn a_secret_that_is_handed_in_is_granted_and_one_that_is_granted_must_be_handed_in() {
        let key: &[(&str, &[u8])] = &[("key", b"hunter2")];
        for (secrets, allow, want) in [
            (key, &[][..], Ok("secret:key")),
            (key, &["secret:key"], Ok("secret:key")),
            (key, &["secret:key;as=env"], Ok("secret:key;as=env")),
            (key, &["secret:key", "secret:key;as=env"], Ok("secret:key secret:key;as=env")),
            (&[], &["secret:key"], Err("secret `key` is granted but no value was provided")),
            (key, &["secret:other"], Err("secret `other` is granted but no value was provided")),
            (&[("key", b"\xff")], &["secret:key;as=env"], Err("secret `key` is not text")),
            (&[("key", b"a\0b")], &["secret:key;as=env"], Err("secret `key` is not text")),
            (&[("key", b"\xff\0")], &[], Ok("secret:key")),
        ] {
            let container = container(secrets, allow);
            let capabilities = resolve(&[], &container.grants).unwrap().capabilities;
            let lines: Vec<String> = capabilities.lines().iter().map(ToString::to_string).collect();
            match (check_secrets(&container.secrets, &capabilities.secrets), want) {
                (Ok(()), Ok(want)) => assert_eq!(lines.join(" "), want, "{allow:?}"),
                (Err(error), Err(want)) => assert!(error.to_string().starts_with(want), "{error}"),
                (got, want) => panic!("{got:?}, not {want:?}"),
            }
            let shown = format!("{container:?}");
            assert!(!shown.contains("hunter2") && !shown.contains("104, 117"), "{shown}");
        }
    }
}
