//! One container, decided and then done: what it is granted, what it is handed, and the process
//! that runs it.
//!
//! [`Launch::decide`] is where wants and grants meet; everything after it only carries that out, so
//! a second start after a crash hands over exactly what the first did.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

use engine::{Assignment, Engine as _, Listeners, Stdio, VolumeMount, VolumeSource};
use runtime::{Prepared, WasmEngine, WasmProgram};
use shim::{NativeProgram, RootAccess};
use spec::{
    Bounded, Capability, ContainerName, Digest, FileGrant, InboundGrant, LaunchType, LimitRequest,
    Limits, NodeId, OperatorGrants, Port, PublishedPort, Resolved, SecretGrant, SecretName,
    SecretValue, TaskId, Transport, bound, resolve,
};

use crate::{
    anonymous_volumes,
    error::{Error, Result},
    home::Home,
    images::{Native, Ready},
    request::{MountSource, Mounted, Publish},
    settings::Settings,
    tasks::{Check, Kind, MountRecord, TaskFolder},
    volumes,
};

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
    /// The same for bytes that are no HTTP and for datagrams, which a Linux program takes.
    pub stream_ports: Vec<Port>,
    pub mounts: Vec<Mounted>,
    /// Every line that its operator grants.
    pub grants: Vec<Capability>,
    pub limits: LimitRequest,
    pub cpu_millis: Option<u32>,
    /// Whether a Linux program writes its root in memory only, and there few folders.
    pub read_only: bool,
    pub launch_type: LaunchType,
    /// Whether it runs on when its supervisor is gone, to be adopted.
    pub adoptable: bool,
    pub settings: Settings,
}

/// A container with everything decided.
#[derive(Debug)]
pub(crate) struct Launch {
    pub container: Container,
    pub args: Vec<String>,
    pub resolved: Resolved,
    pub limits: Limits,
    pub kind: Kind,
    pub ready: Ready,
}

/// What a Linux program may write to its root, which is on disk: the size that other engines begin
/// a storage quota with.
const DISK_BYTES_MAX: u64 = 10 << 30;

/// What a local request grants: its own lines, and those of its ports, variables, secrets and
/// mounts.
///
/// # Errors
/// [`Error::BadArgument`] names a variable that no line can name.
pub(crate) fn local_grants(
    allow: &[Capability],
    ports: Vec<Port>,
    env: &BTreeMap<String, String>,
    secrets: &BTreeMap<SecretName, SecretValue>,
    mounts: &[Mounted],
) -> Result<Vec<Capability>> {
    let is_name = |name: &&String| format!("env:{name}").parse::<Capability>().is_ok();
    if let Some(name) = env.keys().find(|name| !is_name(name)) {
        return Err(Error::BadArgument {
            text: name.clone(),
            what: "the name of an environment variable: letters, digits and `_`, not beginning \
                   with a digit",
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
    /// Lets wants and grants meet, within what the launch type gives.
    ///
    /// # Errors
    /// [`Error::NotGranted`] holds the line that is missing.
    pub fn decide(mut container: Container, ready: Ready, args: Vec<String>) -> Result<Self> {
        let kind = match &ready {
            Ready::Wasm { .. } => Kind::Wasm,
            Ready::Native(native) => {
                let wanted = native.plan.execution().volumes.iter().flatten();
                anonymous_volumes::mount_wanted(
                    &format!("{} {}", container.task, container.name),
                    wanted.map(|(path, _)| path),
                    &mut container.mounts,
                    &mut container.grants,
                )?;
                Kind::Native
            }
        };
        let mut resolved = resolve(ready.wants(), &container.grants)?;
        check_secrets(&container.secrets, &resolved.capabilities.secrets)?;
        if kind == Kind::Wasm {
            check_ports(&resolved.capabilities.inbound)?;
        }
        let on_disk = kind == Kind::Native && !container.read_only;
        let request = LimitRequest {
            serves: ready.serves_requests(),
            requests_per_instance: ready.reuse(),
            writable_bytes_default: on_disk.then_some(DISK_BYTES_MAX),
            ..container.limits.clone()
        };
        let asked = (resolved.capabilities.clock, resolved.capabilities.random);
        let Bounded { limits, clamped } =
            bound(container.launch_type, &request, &mut resolved.capabilities);
        if kind == Kind::Native {
            // Linux shows every program the real time: where its operator lets it run, that is so.
            (resolved.capabilities.clock, resolved.capabilities.random) = asked;
        }
        for clamped in clamped {
            tracing::warn!(task = %container.task, container = %container.name, "{clamped}");
        }
        Ok(Self { container, args, resolved, limits, kind, ready })
    }

    /// A worker for so many requests at once, which makes itself ready while its task gets a
    /// folder. None where no worker is used, and none when it cannot be had: the start tries again,
    /// and names why.
    pub fn spare_worker(&self, requests_max: u32) -> Option<runtime::SpareWorker> {
        let Ready::Wasm { prepared, .. } = &self.ready else { return None };
        let options = runtime::SpawnOptions::of(prepared.facts.world, requests_max);
        runtime::SpareWorker::spawn(&options).ok()
    }

    pub fn takes_spare_worker(&self) -> bool {
        matches!(self.ready, Ready::Wasm { .. })
    }

    /// Whether it answers requests, a fresh instance for each, so that it may be idle while there
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

    /// Its variables: those that were given, and where granted by name, which task it is and where.
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

    /// The thousandths of a processor that a Wasm container has at most. In the pool one processor,
    /// or as many as it reserves; on a node of the tenant's own a reservation is no limit.
    fn cpu_millis_max(&self) -> Option<u32> {
        let (container, whole) = (&self.container, 1000);
        match (container.launch_type, &container.node) {
            (LaunchType::Pool, _) => Some(container.cpu_millis.unwrap_or(whole).max(whole)),
            (LaunchType::Node, Some(_)) => None,
            (LaunchType::Node, None) => container.cpu_millis,
        }
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
                anonymous: match &m.source {
                    MountSource::Volume(name) => anonymous_volumes::is_one(name),
                    MountSource::Folder(_) => false,
                },
            })
            .collect()
    }

    /// What to write into its folder about its ports.
    pub fn asked_ports(&self) -> Vec<PublishedPort> {
        let published = self.container.ports.iter();
        let published = published.map(|p| PublishedPort {
            container_port: p.container_port,
            address: p.address,
            host_port: Some(p.host_port),
            transport: p.transport,
        });
        let inside = self.container.ingress_ports.iter();
        let inside = inside.map(|port| PublishedPort {
            container_port: *port,
            address: None,
            host_port: None,
            transport: Transport::Tcp,
        });
        published.chain(inside).collect()
    }

    /// The signal that stops it, where its image names one.
    pub fn stop_signal(&self) -> Option<i32> {
        let Ready::Native(native) = &self.ready else { return None };
        let ours = self.container.settings.stop_signal.as_deref();
        shim::parse_signal(ours.or(native.plan.execution().stop_signal.as_deref())?)
    }

    /// How it is asked whether it is well. One that ends while it has no requests is not asked: a
    /// probe is a run like any other, and it would never be idle.
    pub fn health_check(&self) -> Option<Check> {
        match &self.ready {
            Ready::Wasm { .. } if self.container.launch_type == LaunchType::Pool => None,
            Ready::Wasm { .. } | Ready::Native(_) => self.image_health_check(),
        }
    }

    /// How its image, and what changes that, want it to be asked.
    pub fn image_health_check(&self) -> Option<Check> {
        let execution = match &self.ready {
            Ready::Wasm { plan, .. } => plan.execution(),
            Ready::Native(native) => native.plan.execution(),
        };
        let check = self.container.settings.health_check(execution.healthcheck.as_ref())?;
        Check::of(&check, execution.shell.as_deref())
    }

    /// The ports on which its image says that it serves; none where another program of it runs.
    pub fn served_ports(&self) -> Vec<u16> {
        match self.ready.is_own_program(&self.args) {
            true => self.ready.served_ports(),
            false => Vec::new(),
        }
    }

    fn may_listen(&self, port: Port) -> bool {
        self.resolved.capabilities.has_port(port)
    }

    /// The ports that are open to the outside.
    pub fn published_ports(&self) -> Vec<Publish> {
        // A Wasm program that runs once would leave its clients waiting.
        let serves = self.kind == Kind::Native || self.serves_requests();
        let ports = self.container.ports.iter().copied().filter(|_| serves);
        ports.filter(|publish| self.may_listen(publish.port())).collect()
    }

    /// The ports on which the ingress may reach it.
    pub fn ingress_ports(&self) -> Vec<u16> {
        self.inside_ports(Transport::Tcp)
    }

    /// The ports at which the ingress may bring it datagrams.
    pub fn framed_ports(&self) -> Vec<u16> {
        self.inside_ports(Transport::Udp)
    }

    fn inside_ports(&self, transport: Transport) -> Vec<u16> {
        let streams = self.container.stream_ports.iter().filter(|_| self.kind == Kind::Native);
        let ports = self.container.ingress_ports.iter().map(|port| Port::tcp(*port));
        let ports = ports.chain(streams.copied()).filter(|port| port.transport == transport);
        ports.filter(|port| self.may_listen(*port)).map(|port| port.number).collect()
    }

    /// Its volumes, with their folders made where they are missing.
    fn volumes(&self, home: &Home) -> Result<Vec<VolumeMount>> {
        let mut volumes = Vec::new();
        for grant in &self.resolved.capabilities.files {
            let FileGrant { path, rights, volume: Some(volume), max_bytes } = grant else {
                continue;
            };
            let named = |(index, mount): &(usize, &Mounted)| {
                mount.path == *path && volume_name(*index, &mount.source) == *volume
            };
            let mount =
                self.container.mounts.iter().enumerate().find(named).map(|(_, mount)| mount);
            let source = match mount.map(|mount| &mount.source) {
                Some(MountSource::Folder(folder)) => VolumeSource::Host(host_folder(folder)?),
                // `--allow fs:/data#rw;volume=book` names a volume without a `-v`.
                Some(MountSource::Volume(_)) | None => {
                    VolumeSource::Folder(volumes::folder(home, &self.container.owner, volume)?)
                }
            };
            volumes.push(VolumeMount {
                path: path.clone(),
                rights: *rights,
                source,
                bytes_max: *max_bytes,
            });
        }
        Ok(volumes)
    }

    /// Starts its process. `spare` is a worker that waits, if there is one.
    pub async fn start(
        &self,
        home: &Home,
        folder: &TaskFolder,
        listeners: &Listeners,
        stdio: Stdio,
        broker: &runtime::Broker,
        spare: Option<runtime::SpareWorker>,
    ) -> Result<Box<dyn engine::Container>> {
        let shared = self.assignment(home, folder, listeners, stdio)?;
        let started = match &self.ready {
            Ready::Wasm { plan, prepared } => {
                let program = self.wasm_program(plan, prepared)?;
                let program = WasmProgram { learns: broker.learned().is_some(), ..program };
                let broker = broker.of(&self.container.owner);
                let engine = WasmEngine::new(broker, spare);
                let engine = engine.of(&self.container.owner, self.cpu_millis_max());
                engine.start(shared.with(program)).await
            }
            Ready::Native(native) => {
                let program = self.native_program(native, folder);
                let broker = broker.of(&self.container.owner);
                crate::engines::native(broker).start(shared.with(program)).await
            }
        };
        started.map_err(|error| Error::Start {
            task: folder.record().name.clone(),
            why: error.message,
            hint: error.hint,
            exit_code: error.failure.exit_code(),
        })
    }

    pub fn assignment(
        &self,
        home: &Home,
        folder: &TaskFolder,
        listeners: &Listeners,
        stdio: Stdio,
    ) -> Result<Assignment<()>> {
        let container = &self.container;
        let copy = |source| Error::System { verb: "copy a descriptor", source };
        Ok(Assignment {
            task: container.task.clone(),
            container: container.name.clone(),
            image: container.image,
            node: container.node.clone(),
            folder: folder.path().to_owned(),
            args: self.args.clone(),
            env: self.env(),
            grants: self.resolved.capabilities.clone(),
            limits: self.limits.clone(),
            volumes: self.volumes(home)?,
            listeners: listeners.try_clone().map_err(copy)?,
            stdio,
            log: (!container.settings.no_log).then(|| folder.log()),
            adoptable: container.adoptable,
            program: (),
        })
    }

    pub fn wasm_program(&self, plan: &image::Plan, prepared: &Prepared) -> Result<WasmProgram> {
        let copy = |file: &File| {
            file.try_clone().map_err(|source| Error::System { verb: "copy a descriptor", source })
        };
        let execution = plan.execution();
        let mut image_env = variables(execution.env.as_deref().unwrap_or_default());
        let working_dir = self.container.settings.working_dir.as_ref();
        let working_dir = working_dir.or(execution.working_dir.as_ref());
        let working_dir = working_dir.filter(|folder| !folder.is_empty());
        if let Some(folder) = working_dir {
            // Where WASI has no word for it, as in 0.1, some runtimes of languages look there.
            image_env.insert("PWD".to_owned(), folder.clone());
        }
        Ok(WasmProgram {
            world: prepared.facts.world,
            image_env,
            working_dir: working_dir.cloned().unwrap_or_else(|| "/".to_owned()),
            secrets: self.secrets(),
            files_only: false,
            learns: false,
            code: copy(&prepared.code)?,
            index: copy(&prepared.index)?,
            lines: prepared.lines.as_ref().map(copy).transpose()?,
            layers: prepared.layers.iter().map(copy).collect::<Result<_>>()?,
        })
    }

    pub fn native_program(&self, native: &Native, folder: &TaskFolder) -> NativeProgram {
        NativeProgram {
            config: self.container.settings.applied_to(&native.plan.config),
            layers: native.layers.clone(),
            runtime: native.runtime.clone(),
            cpu_millis: self.container.cpu_millis,
            settings: self.container.settings.linux.clone(),
            root: match self.container.read_only {
                true => RootAccess::ReadOnly,
                false => RootAccess::Writable,
            },
            owner: folder.record().origin.owner().to_owned(),
            local_ports: Vec::new(), // its engine knows them
        }
    }
}

/// A Wasm program is called with requests, and has no sockets.
fn check_ports(granted: &[InboundGrant]) -> Result<()> {
    match granted.iter().all(|grant| grant.port.transport.is_tcp()) {
        true => Ok(()),
        false => Err(Error::NotForWasm {
            flag: "-p PORT/udp",
            why: "it is called with requests, and has no socket that could take datagrams",
            hint: "publish its port of HTTP: -p 8080:80",
        }),
    }
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

/// A file or folder of the host; a folder is made where nothing is, as other engines do.
fn host_folder(path: &Path) -> Result<PathBuf> {
    match path.canonicalize() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(path).map_err(Error::file("make folder", path))?;
            path.canonicalize()
        }
        found => found,
    }
    .map_err(Error::file("find", path))
}

/// `NAME=VALUE` lines as an image has them.
fn variables(lines: &[String]) -> BTreeMap<String, String> {
    let pairs = lines.iter().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
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
            stream_ports: Vec::new(),
            mounts: Vec::new(),
            limits: LimitRequest::default(),
            cpu_millis: None,
            read_only: false,
            launch_type: LaunchType::Node,
            adoptable: false,
            settings: Settings::default(),
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
