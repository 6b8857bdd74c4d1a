use std::{collections::BTreeMap, path::Path};

use node::tasks::{
    Check, Health, HealthStatus, Kind, MountRecord, RestartPolicy, State, Status, TaskFolder,
    TaskRecord,
};
use serde_json::{Map, Value, json};
use spec::ImageConfig;

use super::{
    ports,
    summary::{Summary, docker_state},
};
use crate::{
    listing::{Fields, record},
    output::{ago, docker_size, docker_time, now},
};

/// What a template of `ps` can name.
pub const FIELDS: Fields = &[
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("ID", "TASK ID"),
    ("Image", "IMAGE"),
    ("Labels", "LABELS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Mounts", "MOUNTS"),
    ("Names", "NAMES"),
    ("Networks", "NETWORKS"),
    ("Platform", "PLATFORM"),
    ("Ports", "PORTS"),
    ("RunningFor", "CREATED"),
    ("Size", "SIZE"),
    ("State", "STATE"),
    ("Status", "STATUS"),
];

/// A task with what was seen of it.
pub struct TaskView<'a> {
    pub folder: &'a TaskFolder,
    pub state: State,
    pub seen: Option<&'a Status>,
    /// Of its image, where that is still here.
    pub config: Option<&'a ImageConfig>,
    /// Its writable files, and those with its image's layers.
    pub sizes: Option<(u64, u64)>,
}

/// The command of a task in one cell.
pub fn command(words: &[String]) -> String {
    format!("\"{}\"", words.join(" "))
}

/// Text of at most so many characters, with an ellipsis where it is cut.
pub fn cut(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some(_) => text.chars().take(chars_max - 1).chain(['…']).collect(),
        None => text.to_owned(),
    }
}

/// `12kB (virtual 3.4MB)`.
pub fn size_cell((writable, whole): (u64, u64)) -> String {
    format!("{} (virtual {})", docker_size(writable), docker_size(whole))
}

impl TaskView<'_> {
    /// A row of `ps` under Docker's names.
    pub fn row(&self, summary: &Summary, no_trunc: bool) -> Map<String, Value> {
        let task = self.folder.record();
        let labels = self.labels();
        let pairs = labels.iter().map(|(name, value)| format!("{name}={value}"));
        let whole = command(&summary.command);
        let mounts: Vec<String> = task
            .mounts
            .iter()
            .map(|mount| if no_trunc { mount.source.clone() } else { cut(&mount.source, 15) })
            .collect();
        record([
            ("Command", if no_trunc { whole.into() } else { cut(&whole, 22).into() }),
            ("CreatedAt", docker_time(task.created).into()),
            ("ID", task.id.clone().into()),
            ("Image", task.image.clone().into()),
            ("Labels", pairs.collect::<Vec<_>>().join(",").into()),
            ("LocalVolumes", task.mounts.iter().filter(|m| is_volume(m)).count().into()),
            ("Mounts", mounts.join(",").into()),
            ("Names", task.name.clone().into()),
            ("Networks", NETWORK.into()),
            ("Platform", self.platform().into()),
            ("Ports", ports::cell(&summary.ports).into()),
            ("RunningFor", ago(task.created, now()).into()),
            ("Size", self.sizes.map(size_cell).unwrap_or_default().into()),
            ("State", docker_state(self.state).into()),
            ("Status", summary.status.clone().into()),
            ("Label", json!(labels)),
        ])
    }

    /// Those of the image, and over them those of the task.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let config = self.config.and_then(|config| config.config.as_ref());
        let mut labels = config.and_then(|config| config.labels.clone()).unwrap_or_default();
        labels.extend(self.folder.record().labels.clone());
        labels
    }

    fn platform(&self) -> &'static str {
        match self.folder.record().kind {
            Kind::Wasm => "wasi",
            Kind::Native => "linux",
        }
    }

    /// The structure of Docker's `inspect`.
    pub fn inspect(&self) -> Map<String, Value> {
        let task = self.folder.record();
        let (path, arguments) = match task.command.split_first() {
            Some((path, arguments)) => (path.as_str(), arguments),
            None => ("", &[][..]),
        };
        let (writable, whole) = self.sizes.unzip();
        let mut all = record([
            ("Id", task.id.clone().into()),
            ("Name", format!("/{}", task.name).into()),
            ("Created", task.created.to_string().into()),
            ("Path", path.into()),
            ("Args", json!(arguments)),
            ("State", self.state()),
            ("Image", task.digest.to_string().into()),
            ("LogPath", self.folder.log().display().to_string().into()),
            ("RestartCount", self.seen.map_or(0, |seen| seen.restarts).into()),
            ("Driver", "margay".into()),
            ("Platform", self.platform().into()),
            ("Mounts", task.mounts.iter().map(|m| mount(m, self.folder.path())).collect()),
            ("Config", self.config(task)),
            ("HostConfig", self.host_config(task)),
            ("NetworkSettings", self.network_settings()),
        ]);
        for (name, size) in [("SizeRw", writable), ("SizeRootFs", whole)] {
            all.extend(size.map(|size| (name.to_owned(), size.into())));
        }
        all
    }

    fn state(&self) -> Value {
        let seen = self.seen;
        let alive = matches!(self.state, State::Running | State::Unsupervised | State::Idle);
        let process = seen.and_then(|seen| seen.process).filter(|_| alive);
        let reason = seen.and_then(|seen| seen.reason.clone()).unwrap_or_default();
        let time = |time: Option<spec::Timestamp>| time.map_or(NEVER.to_owned(), |t| t.to_string());
        let health = seen.and_then(|seen| seen.health.as_ref());
        json!({
            "Status": docker_state(self.state),
            "Running": alive,
            "Paused": false,
            "Restarting": self.state == State::BackOff,
            "OOMKilled": reason.starts_with("E_MEMORY"),
            "Dead": self.state == State::Lost,
            "Pid": process.map_or(0, |process| process.pid),
            "ExitCode": seen.and_then(|seen| seen.exit_code).unwrap_or_default(),
            "Error": reason,
            "StartedAt": time(seen.and_then(|seen| seen.started)),
            "FinishedAt": time(seen.and_then(|seen| seen.ended)),
            // Also where there is none: a template may ask whether there is one.
            "Health": health.map(|health| health_of(health, alive)),
        })
    }

    /// Values of a task's variables are in no record, so only its image's have one.
    fn config(&self, task: &TaskRecord) -> Value {
        let image = self.config.and_then(|config| config.config.clone()).unwrap_or_default();
        let mut env = image.env.unwrap_or_default();
        env.retain(|line| !task.env.iter().any(|name| line.split('=').next() == Some(name)));
        env.extend(task.env.iter().cloned());
        let exposed = task.ports.iter().map(|port| (ports::inside(port), json!({})));
        let mut exposed: Map<String, Value> = exposed.collect();
        exposed.extend(task.exposed.iter().map(|port| (port.to_string(), json!({}))));
        exposed.extend(image.exposed_ports.unwrap_or_default());
        let (own, _) = node::kept_settings(self.folder).unwrap_or_default();
        let signal = own.stop_signal.or(image.stop_signal);
        json!({
            "Hostname": own.linux.hostname.unwrap_or_else(|| task.name.clone()),
            "User": own.user.or(image.user).unwrap_or_default(),
            "ExposedPorts": exposed,
            "Env": env,
            "Cmd": task.command,
            "Image": task.image,
            "Volumes": image.volumes,
            "WorkingDir": own.working_dir.or(image.working_dir).unwrap_or_default(),
            "Entrypoint": image.entrypoint,
            "Labels": self.labels(),
            "StopSignal": signal.unwrap_or_else(|| "SIGTERM".to_owned()),
            "Healthcheck": task.health_check.as_ref().map(check_of),
        })
    }

    fn host_config(&self, task: &TaskRecord) -> Value {
        let binds = task.mounts.iter().map(|mount| {
            let mode = if mount.read_only { ":ro" } else { "" };
            format!("{}:{}{mode}", mount.source, mount.path)
        });
        let (own, read_only) = node::kept_settings(self.folder).unwrap_or_default();
        let linux = own.linux;
        let ulimits = linux.ulimits.iter().map(|limit| {
            // Docker writes no limit as -1.
            let number = |value| i64::try_from(value).unwrap_or(-1);
            json!({"Name": limit.name, "Soft": number(limit.soft), "Hard": number(limit.hard)})
        });
        let hosts = linux.hosts.iter().map(|line| format!("{}:{}", line.name, line.address));
        let security = linux.no_new_privileges.then_some("no-new-privileges");
        json!({
            "AutoRemove": task.remove_at_end,
            "Binds": binds.collect::<Vec<_>>(),
            "LogConfig": {"Type": if task.no_log { "none" } else { "json-file" }, "Config": {}},
            "CapAdd": linux.cap_add,
            "CapDrop": linux.cap_drop,
            "ExtraHosts": hosts.collect::<Vec<_>>(),
            "GroupAdd": linux.groups,
            "Memory": task.limits.memory_bytes_max,
            "NanoCpus": own.cpu_millis.map_or(0, |millis| u64::from(millis) * 1_000_000),
            "NetworkMode": NETWORK,
            "PidsLimit": linux.processes_max,
            "PortBindings": ports::bindings(&task.ports),
            "Privileged": false,
            "ReadonlyRootfs": read_only,
            "RestartPolicy": restart_policy(task.restart),
            "SecurityOpt": security.into_iter().collect::<Vec<_>>(),
            "ShmSize": linux.shm_bytes_max,
            "Ulimits": ulimits.collect::<Vec<_>>(),
        })
    }

    fn network_settings(&self) -> Value {
        let open = match self.seen {
            Some(seen) if self.state.is_alive() => seen.ports.as_slice(),
            _ => &[],
        };
        json!({"IPAddress": "", "Networks": {}, "Ports": ports::bindings(open)})
    }
}

/// What does not run is not well, also where its supervisor could not write that down any more.
fn health_of(health: &Health, alive: bool) -> Value {
    let results = health.log.iter().map(|probe| {
        json!({
            "Start": probe.start.to_string(),
            "End": probe.end.to_string(),
            "ExitCode": probe.exit_code,
            "Output": probe.output,
        })
    });
    let status = if alive { health.status } else { HealthStatus::Unhealthy };
    json!({
        "Status": status.word(),
        "FailingStreak": health.failing_streak,
        "Log": results.collect::<Vec<_>>(),
    })
}

/// Docker's structure has times in nanoseconds.
fn check_of(check: &Check) -> Value {
    let ns = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    json!({
        "Test": check.test,
        "Interval": ns(check.interval),
        "Timeout": ns(check.timeout),
        "StartPeriod": ns(check.start_period),
        "StartInterval": ns(check.start_interval),
        "Retries": check.retries,
    })
}

/// Docker's structure has the name and the number apart.
fn restart_policy(policy: RestartPolicy) -> Value {
    let text = policy.to_string();
    let (name, most) = text.split_once(':').unwrap_or((&text, "0"));
    json!({"Name": name, "MaximumRetryCount": most.parse::<u32>().unwrap_or_default()})
}

/// A task sees no network but its published ports and what it was granted.
const NETWORK: &str = "none";
/// Go's zero time, which Docker prints for what has not happened.
const NEVER: &str = "0001-01-01T00:00:00Z";

pub fn is_volume(mount: &MountRecord) -> bool {
    !mount.source.starts_with('/')
}

fn mount(mount: &MountRecord, task: &Path) -> Value {
    // `HOME/tasks/ID`, beside `HOME/volumes`.
    let home = task.parent().and_then(Path::parent).unwrap_or(task);
    let (kind, name, source) = match is_volume(mount) {
        true => {
            let folder = home.join("volumes").join(spec::OPERATOR).join(&mount.source);
            ("volume", mount.source.as_str(), folder.display().to_string())
        }
        false => ("bind", "", mount.source.clone()),
    };
    json!({
        "Type": kind,
        "Name": name,
        "Source": source,
        "Destination": mount.path,
        "Driver": if kind == "volume" { "local" } else { "" },
        "Mode": if mount.read_only { "ro" } else { "" },
        "RW": !mount.read_only,
    })
}
