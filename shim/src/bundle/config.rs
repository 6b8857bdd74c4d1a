//! What an OCI runtime is told about a container: one pure function from decided values to
//! `config.json`.
//!
//! Every namespace, a user namespace above all; root in it has the capabilities that concern its
//! own users, files and processes, no capability over the machine, and system calls by list.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
};

use engine::VolumeMount;
use serde_json::{Value, json};
use spec::{Capabilities, Capability, FileGrant, Host, ImageConfig, Limits, OutboundGrant, Rights};

use crate::{
    Error, Settings,
    bundle::account::Account,
    bundle::{seccomp_container, strings::check_variables},
    ids::HostIds,
    limits::{OUTBOUND_PORTS_MAX, PIDS_MAX, SHM_BYTES_MAX, TERMINALS_MAX},
    settings::CAPABILITIES,
};

/// Everything decided about a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bundle {
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub cwd: String,
    pub account: Account,
    pub hostname: String,
    pub terminal: Option<(u16, u16)>,
    /// The root file system, as the runtime sees it.
    pub root: PathBuf,
    pub writable_root: bool,
    pub binds: Vec<Bind>,
    /// Nothing where this process may make none: then the shim counts itself.
    pub cgroup: Option<String>,
    pub ids: HostIds,
    pub limits: Limits,
    pub cpu_millis: Option<u32>,
    pub settings: Settings,
    /// Whether the kernel can count swap.
    pub swap_limit: bool,
    /// The hard limit of each process.
    pub open_files_max: u64,
}

/// A file or folder of the host in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bind {
    pub from: PathBuf,
    pub to: String,
    pub writable: bool,
    /// Whether no program may run from it.
    pub noexec: bool,
}

/// The image's variables, overridden by those of the assignment; PATH, HOME, HOSTNAME and TERM have
/// defaults.
pub(crate) fn env(
    config: &ImageConfig,
    assigned: &BTreeMap<String, String>,
    home: Option<&str>,
    hostname: &str,
    terminal: bool,
) -> Result<Vec<String>, Error> {
    let mut all = BTreeMap::new();
    all.insert(
        "PATH".to_owned(),
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
    );
    all.insert("HOME".to_owned(), home.unwrap_or("/").to_owned());
    all.insert("HOSTNAME".to_owned(), hostname.to_owned());
    if terminal {
        all.insert("TERM".to_owned(), "xterm".to_owned());
    }
    for line in config.config.iter().flat_map(|config| config.env.iter().flatten()) {
        if let Some((name, value)) = line.split_once('=') {
            all.insert(name.to_owned(), value.to_owned());
        }
    }
    all.extend(assigned.iter().map(|(name, value)| (name.clone(), value.clone())));
    check_variables(&all)?;
    Ok(all.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
}

/// Which parts of the root file system the grants let a container write: all of it, or folders.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Writable {
    pub root: bool,
    pub folders: Vec<String>,
}

/// Reads the grants, and names the first one that Linux offers no means to enforce.
pub(crate) fn writable(grants: &Capabilities, volumes: &[VolumeMount]) -> Result<Writable, Error> {
    let mut writable = Writable::default();
    for grant in &grants.lines() {
        let cannot = |why| Err(Error::CannotGrant { grant: grant.to_string(), why });
        match grant {
            Capability::Files(FileGrant { path, volume: Some(_), .. }) => {
                if !volumes.iter().any(|mount| mount.path == *path) {
                    return cannot("no volume is mounted at its path");
                }
            }
            Capability::Files(FileGrant { path, rights, volume: None, max_bytes }) => {
                if max_bytes.is_some() {
                    return cannot("its writable layer has one limit for everything");
                }
                match path.as_str() {
                    _ if !rights.write => {}
                    "/" => writable.root = true,
                    path => writable.folders.push(path.to_owned()),
                }
            }
            Capability::Outbound(OutboundGrant {
                host: Host::Address(IpAddr::V6(_)) | Host::Network(IpAddr::V6(_), _),
                ..
            }) => {
                return cannot("native containers have IPv4 inside: name the host instead");
            }
            Capability::Outbound(_) if ports(grants).len() > OUTBOUND_PORTS_MAX => {
                return cannot("native containers connect to 64 different ports at most");
            }
            Capability::Outbound(_) => {}
            Capability::Secret(_) => {
                return cannot("native containers cannot receive secrets yet");
            }
            Capability::Clock(spec::ClockLevel::Fine)
            | Capability::Random(spec::RandomLevel::Secure) => {}
            Capability::Clock(_) => return cannot("Linux shows every program the real time"),
            Capability::Random(_) => {
                return cannot("Linux gives every program real random numbers");
            }
            Capability::Inbound(_) | Capability::Env(_) => {}
        }
    }
    Ok(writable)
}

/// The ports of connections that it may open.
fn ports(grants: &Capabilities) -> BTreeSet<u16> {
    grants.outbound.iter().map(|grant| grant.port).collect()
}

/// Checks the rights and the path of a volume.
pub(crate) fn bind(
    mount: &VolumeMount,
    grants: &Capabilities,
    from: PathBuf,
) -> Result<Bind, Error> {
    let line = || format!("fs:{}#{}", mount.path, mount.rights);
    let allows = |grant: &FileGrant| grant.path == mount.path && grant.rights.include(mount.rights);
    if !grants.files.iter().any(allows) {
        return Err(Error::Config {
            what: format!("volume at `{}`", mount.path),
            why: format!("needs the grant `{}`", line()),
        });
    }
    let Rights { read, write, delete, .. } = mount.rights;
    if !read || write != delete {
        let why = "Linux grants writing and deleting together: use `r` or `rwd`";
        return Err(Error::CannotGrant { grant: line(), why });
    }
    let path = mount.path.as_str();
    let kernel_folders = ["/proc", "/sys", "/dev"];
    let is_in = |folder: &str| {
        path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if path == "/" || kernel_folders.into_iter().any(is_in) {
        return Err(Error::CannotGrant { grant: line(), why: "a volume cannot be mounted there" });
    }
    Ok(Bind { from, to: mount.path.clone(), writable: write, noexec: false })
}

impl Bundle {
    /// The `config.json` of the runtime-spec.
    pub(crate) fn config(&self) -> Value {
        let caps = self.settings.capabilities(&CAPABILITIES);
        let mut process = json!({
            "terminal": self.terminal.is_some(),
            "user": { "uid": self.account.uid, "gid": self.account.gid, "additionalGids": self.account.groups },
            "args": self.args,
            "env": self.env,
            "cwd": self.cwd,
            "capabilities": {
                "bounding": caps, "effective": caps, "permitted": caps,
                "inheritable": [], "ambient": [],
            },
            "noNewPrivileges": self.settings.no_new_privileges,
            "oomScoreAdj": 500,
            "rlimits": self.rlimits(),
        });
        if let Some((rows, columns)) = self.terminal {
            process["consoleSize"] = json!({ "height": rows, "width": columns });
        }
        let map: Vec<_> = (self.ids.map().into_iter())
            .map(|(inside, here, count)| {
                json!({ "containerID": inside, "hostID": here, "size": count })
            })
            .collect();
        let mut config = json!({
            "ociVersion": "1.0.2",
            "process": process,
            "root": { "path": self.root, "readonly": !self.writable_root },
            "hostname": self.hostname,
            "mounts": self.mounts(),
            "linux": {
                "uidMappings": map,
                "gidMappings": map,
                "namespaces": (["user", "pid", "ipc", "uts", "mount", "network", "cgroup"])
                    .map(|kind| json!({ "type": kind })),
                // A server that has given up root may listen on port 80, as in other engines: the
                // network is the container's own.
                "sysctl": { "net.ipv4.ip_unprivileged_port_start": "0" },
                "seccomp": seccomp_container::profile(),
                "rootfsPropagation": "private",
                "maskedPaths": MASKED,
                "readonlyPaths": READ_ONLY,
            },
        });
        if let Some(cgroup) = &self.cgroup {
            config["linux"]["cgroupsPath"] = json!(format!("/{cgroup}"));
            config["linux"]["resources"] = self.resources();
        }
        config
    }

    fn rlimits(&self) -> Vec<Value> {
        let limit = |name: &str, soft: u64, hard: u64| json!({ "type": format!("RLIMIT_{}", name.to_ascii_uppercase()), "soft": soft, "hard": hard });
        let is_given = |name| self.settings.ulimits.iter().any(|given| given.name == name);
        let usual =
            [("nofile", 1024.min(self.open_files_max), self.open_files_max), ("core", 0, 0)];
        let usual = usual.into_iter().filter(|(name, ..)| !is_given(*name));
        let given =
            self.settings.ulimits.iter().map(|given| limit(&given.name, given.soft, given.hard));
        usual.map(|(name, soft, hard)| limit(name, soft, hard)).chain(given).collect()
    }

    fn mounts(&self) -> Vec<Value> {
        let kernel = |destination: &str, kind: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": kind, "options": options });
        let shm = self.limits.writable_bytes_max.min(SHM_BYTES_MAX);
        let shm = format!("size={}", self.settings.shm_bytes_max.unwrap_or(shm));
        let mut mounts = vec![
            kernel("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            kernel(
                "/dev",
                "tmpfs",
                &["nosuid", "noexec", "strictatime", "mode=755", "size=1m", "nr_inodes=1024"],
            ),
            kernel(
                "/dev/pts",
                "devpts",
                &[
                    "nosuid",
                    "noexec",
                    "newinstance",
                    "ptmxmode=0666",
                    "mode=0620",
                    "gid=5",
                    &format!("max={TERMINALS_MAX}"),
                ],
            ),
            kernel("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", &shm]),
            kernel("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            kernel("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ];
        if !self.writable_root {
            let tmp = format!("size={}", self.limits.writable_bytes_max);
            mounts.push(kernel("/tmp", "tmpfs", &["nosuid", "nodev", "mode=1777", &tmp]));
        }
        let bytes_max = self.limits.writable_bytes_max.min(self.limits.memory_bytes_max);
        for tmpfs in &self.settings.tmpfs {
            // Instead of what the profile has there.
            mounts.retain(|mount| mount["destination"] != tmpfs.path.as_str());
            let options = tmpfs.options(bytes_max);
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            mounts.push(kernel(&tmpfs.path, "tmpfs", &options));
        }
        for bind in &self.binds {
            let access = if bind.writable { "rw" } else { "ro" };
            // What is mounted below a folder may not be uncovered in a user namespace.
            let (bound, apart) = match self.ids.are_of_namespace() {
                true => ("rbind", "rprivate"),
                false => ("bind", "private"),
            };
            let mut options = vec![bound, apart, "nosuid", "nodev", access];
            if bind.noexec {
                options.push("noexec");
            }
            mounts.push(json!({ "destination": bind.to, "type": "bind", "source": bind.from, "options": options }));
        }
        mounts
    }

    fn resources(&self) -> Value {
        let mut memory = json!({ "limit": self.limits.memory_bytes_max });
        if self.swap_limit {
            // The limit of memory and swap together equals that of memory: no swap.
            memory["swap"] = json!(self.limits.memory_bytes_max);
        }
        if let Some(bytes) = self.settings.memory_bytes_soft {
            memory["reservation"] = json!(bytes);
        }
        let mut resources = json!({
            "devices": [{ "allow": false, "access": "rwm" }],
            "memory": memory,
            "pids": { "limit": self.settings.processes_max.unwrap_or(PIDS_MAX) },
        });
        if let Some(millis) = self.cpu_millis {
            // The kernel takes no quota below a millisecond of each period.
            resources["cpu"] =
                json!({ "period": 100_000, "quota": (u64::from(millis) * 100).max(1000) });
        }
        resources
    }
}

/// What shows or controls the machine rather than the container, as runc hides it by default.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/scsi",
    "/proc/sched_debug",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// What a container may read and must not change.
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::OPEN_FILES_MAX;

    fn bundle() -> Bundle {
        Bundle {
            args: vec!["/bin/httpd".to_owned(), "-f".to_owned()],
            env: vec!["PATH=/bin".to_owned()],
            cwd: "/srv".to_owned(),
            account: Account { uid: 33, gid: 33, groups: vec![80], home: None },
            hostname: "cats".to_owned(),
            terminal: None,
            root: PathBuf::from("/mnt/root"),
            writable_root: false,
            binds: vec![Bind {
                from: "/mnt/v/0".into(),
                to: "/data".to_owned(),
                writable: false,
                noexec: false,
            }],
            cgroup: Some("margay-cats".to_owned()),
            ids: HostIds::ON_DISK,
            limits: Limits::for_commands(),
            cpu_millis: Some(250),
            settings: Settings::default(),
            swap_limit: true,
            open_files_max: OPEN_FILES_MAX,
        }
    }

    #[test]
    fn the_profile_is_what_was_reviewed() {
        let mut config = bundle().config();
        config["linux"]["seccomp"] = "see the tests of seccomp".into();
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bundle/config.golden.json");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(golden, format!("{config:#}\n")).unwrap();
        }
        let reviewed: Value =
            serde_json::from_str(&std::fs::read_to_string(golden).unwrap()).unwrap();
        assert_eq!(config, reviewed, "UPDATE_GOLDEN=1 writes it anew");
    }

    #[test]
    fn a_mount_keeps_what_the_kernel_would_not_let_it_lose() {
        let mut bundle = bundle();
        bundle.binds[0].noexec = true;
        let options = |bundle: &Bundle| {
            let config = bundle.config();
            let mounts = config["mounts"].as_array().expect("mounts").clone();
            let found = mounts.into_iter().find(|mount| mount["destination"] == "/data");
            found.expect("the volume")["options"].to_string()
        };
        assert_eq!(options(&bundle), r#"["bind","private","nosuid","nodev","ro","noexec"]"#);
        bundle.ids = HostIds::OF_NAMESPACE;
        assert_eq!(options(&bundle), r#"["rbind","rprivate","nosuid","nodev","ro","noexec"]"#);
        let map = bundle.config()["linux"]["uidMappings"].to_string();
        assert_eq!(
            map,
            r#"[{"containerID":0,"hostID":0,"size":1},{"containerID":1,"hostID":1,"size":65535}]"#
        );
        bundle.cgroup = None;
        assert!(bundle.config()["linux"].get("resources").is_none());
    }

    #[test]
    fn a_user_that_is_not_root_begins_without_capabilities() {
        let config = bundle().config();
        for set in ["inheritable", "ambient"] {
            assert_eq!(config["process"]["capabilities"][set], json!([]), "{set}");
        }
    }

    #[test]
    fn what_linux_cannot_enforce_is_refused_by_name() {
        let volume = |rights: &str| VolumeMount {
            path: "/data".to_owned(),
            rights: rights.parse().unwrap(),
            source: engine::VolumeSource::Folder(PathBuf::from("/v")),
            bytes_max: None,
        };
        for (line, want) in [
            ("fs:/#rw", "ok"),
            ("fs:/var/cache#rw", "ok"),
            ("fs:/data#rwd;volume=book", "ok"),
            ("fs:/other#rwd;volume=book", "no volume is mounted"),
            ("fs:/data#rwd;volume=book;max=1MiB", "ok"),
            ("fs:/var/cache#rw;max=1MiB", "one limit for everything"),
            ("net.out:https://example.com", "ok"),
            ("net.out:http://10.0.0.0/8;private", "ok"),
            ("net.out:http://[::1]:80;private", "IPv4 inside"),
            ("secret:key", "secrets"),
            ("clock:frozen", "the real time"),
            ("clock:fine", "ok"),
            ("random:seeded", "real random"),
            ("net.in:http/80", "ok"),
            ("env:A", "ok"),
        ] {
            let grants = vec![line.parse().unwrap()].into();
            match writable(&grants, &[volume("rwd")]) {
                Ok(_) => assert_eq!(want, "ok", "{line}"),
                Err(error) => {
                    assert!(error.to_string().contains(want), "{line}: {error}");
                    assert!(
                        error.to_string().contains(line.split(';').next().unwrap()),
                        "{line}: {error}"
                    );
                }
            }
        }
        let grants = vec!["fs:/data#rwd;volume=book".parse().unwrap()].into();
        assert!(bind(&volume("rwd"), &grants, "/v".into()).unwrap().writable);
        assert!(!bind(&volume("r"), &grants, "/v".into()).unwrap().writable);
        assert!(
            bind(&volume("rw"), &grants, "/v".into())
                .unwrap_err()
                .to_string()
                .contains("deleting together")
        );
        assert!(
            bind(&volume("r"), &Capabilities::default(), "/v".into())
                .unwrap_err()
                .to_string()
                .contains("needs the grant `fs:/data#r`")
        );
        for path in ["/proc", "/dev/shm", "/sys/x"] {
            let mount = VolumeMount { path: path.to_owned(), ..volume("r") };
            let grants = vec![format!("fs:{path}#r;volume=book").parse().unwrap()].into();
            assert!(
                bind(&mount, &grants, "/v".into())
                    .unwrap_err()
                    .to_string()
                    .contains("mounted there"),
                "{path}"
            );
        }
    }

    #[test]
    fn assigned_variables_override_those_of_the_image() {
        let execution = spec::ExecutionConfig {
            env: Some(vec!["A=image".to_owned(), "PATH=/x".to_owned(), "broken".to_owned()]),
            ..Default::default()
        };
        let config = ImageConfig { config: Some(execution), ..Default::default() };
        let assigned = BTreeMap::from([("A".to_owned(), "outside".to_owned())]);
        assert_eq!(
            env(&config, &assigned, Some("/root"), "cats", false).unwrap(),
            ["A=outside", "HOME=/root", "HOSTNAME=cats", "PATH=/x"]
        );
        let bad = BTreeMap::from([("A".to_owned(), "x\0y".to_owned())]);
        assert!(env(&config, &bad, None, "cats", true).is_err());
    }
}
