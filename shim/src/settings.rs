use std::{net::IpAddr, str::FromStr};

use rustix::process::Resource;
use serde::{Deserialize, Serialize};

use crate::limits::{OPEN_FILES_ASKED_MAX, PIDS_ASKED_MAX, PIDS_ASKED_MIN};

/// What a run may choose about a container beyond its image. What is left out is as the image and
/// the profile have it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    pub hostname: Option<String>,
    /// Lines of `/etc/hosts`.
    pub hosts: Vec<HostLine>,
    /// Groups beside those of the user, by name or number.
    pub groups: Vec<String>,
    pub tmpfs: Vec<Tmpfs>,
    /// Bytes in `/dev/shm`.
    pub shm_bytes_max: Option<u64>,
    /// Processes and threads.
    pub processes_max: Option<u32>,
    /// Memory that the kernel leaves it for as long as it can.
    pub memory_bytes_soft: Option<u64>,
    pub ulimits: Vec<Ulimit>,
    /// Capabilities of its root that are taken away, as in `CAP_CHOWN`; `ALL` for each.
    pub cap_drop: Vec<String>,
    /// Given in spite of that.
    pub cap_add: Vec<String>,
    /// Whether a program may get no more rights than its starter has.
    pub no_new_privileges: bool,
    /// Whether process 1 is an init, which starts the program.
    pub init: bool,
}

/// What a container may write of its root file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RootAccess {
    /// All of it. What it writes is kept in its folder, on disk, for its next start.
    Writable,
    /// `/tmp` and the folders that its grants name. What it writes is in memory, and ends with it.
    ReadOnly,
}

/// A name with an address of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostLine {
    pub name: String,
    pub address: IpAddr,
}

/// A file system in memory. Its pages count as the container's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tmpfs {
    /// Where the container sees it: absolute, and without `..`.
    pub path: String,
    /// As much as the writable layer may have when left out.
    pub bytes_max: Option<u64>,
    pub mode: u32,
    pub read_only: bool,
    /// Whether programs in it may run.
    pub executable: bool,
}

/// One limit of each process, as `setrlimit` has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ulimit {
    /// As in `RLIMIT_NOFILE`, in lower case and without the beginning.
    pub name: String,
    pub soft: u64,
    pub hard: u64,
}

impl Settings {
    /// Checks how many processes a container may have.
    ///
    /// # Errors
    /// Says why a number cannot be a limit.
    pub fn processes(text: &str) -> Result<u32, String> {
        match text.parse::<i64>() {
            Ok(-1 | 0) => {
                Err(format!("a task always has a limit: use {PIDS_ASKED_MIN} to {PIDS_ASKED_MAX}"))
            }
            Ok(number) => u32::try_from(number)
                .ok()
                .filter(|number| (PIDS_ASKED_MIN..=PIDS_ASKED_MAX).contains(number))
                .ok_or_else(|| format!("use {PIDS_ASKED_MIN} to {PIDS_ASKED_MAX}")),
            Err(_) => Err("it is not a number".to_owned()),
        }
    }
}

/// What root may do with the users, files and processes of its own user namespace: those of an
/// engine's default that a server needs, which starts as root and gives that up. Not among them:
/// `MKNOD`, which makes no device in a user namespace; `NET_RAW`, because there is no network to
/// look at; `AUDIT_WRITE`, which the kernel denies outside the first user namespace.
pub(crate) const CAPABILITIES: [&str; 11] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Those that no container has.
const NEVER_GRANTED: [&str; 30] = [
    "CAP_AUDIT_CONTROL",
    "CAP_AUDIT_READ",
    "CAP_AUDIT_WRITE",
    "CAP_BLOCK_SUSPEND",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
    "CAP_DAC_READ_SEARCH",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_LEASE",
    "CAP_LINUX_IMMUTABLE",
    "CAP_MAC_ADMIN",
    "CAP_MAC_OVERRIDE",
    "CAP_MKNOD",
    "CAP_NET_ADMIN",
    "CAP_NET_BROADCAST",
    "CAP_NET_RAW",
    "CAP_PERFMON",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYSLOG",
    "CAP_SYS_MODULE",
    "CAP_SYS_NICE",
    "CAP_SYS_PACCT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_WAKE_ALARM",
];

/// The whole name of a capability to drop, with or without `CAP_` before it, in any case.
///
/// # Errors
/// When there is none of that name.
pub fn droppable_capability(text: &str) -> Result<String, String> {
    let name = text.to_ascii_uppercase();
    if name == "ALL" {
        return Ok(name);
    }
    let name = if name.starts_with("CAP_") { name } else { format!("CAP_{name}") };
    match CAPABILITIES.iter().chain(&NEVER_GRANTED).any(|known| *known == name) {
        true => Ok(name),
        false => Err(format!("there is no capability `{name}`")),
    }
}

/// The whole name of a capability to add.
///
/// # Errors
/// When there is none of that name, or no container has it.
pub fn grantable_capability(text: &str) -> Result<String, String> {
    let name = droppable_capability(text)?;
    match CAPABILITIES.contains(&name.as_str()) {
        true => Ok(name),
        false => Err(format!("no task gets `{name}`: use one of {}", CAPABILITIES.join(", "))),
    }
}

impl Settings {
    /// What is left of `usual`, and what is added to it, in order.
    pub(crate) fn capabilities(&self, usual: &[&'static str]) -> Vec<&'static str> {
        let is_in = |names: &[String], name: &str| names.iter().any(|given| given == name);
        let is_dropped = |name: &str| is_in(&self.cap_drop, name) || is_in(&self.cap_drop, "ALL");
        let has =
            |name: &&str| is_in(&self.cap_add, name) || (usual.contains(name) && !is_dropped(name));
        CAPABILITIES.into_iter().filter(has).collect()
    }

    /// The content of `/etc/hosts`.
    pub(crate) fn hosts_file(&self, hostname: &str) -> String {
        let given = self.hosts.iter().map(|line| format!("{}\t{}\n", line.address, line.name));
        let usual = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost\n");
        [usual].into_iter().chain(given).collect()
    }
}

impl FromStr for HostLine {
    type Err = String;

    /// `NAME:ADDRESS` or `NAME=ADDRESS`, the address of the second family in brackets or without.
    fn from_str(text: &str) -> Result<Self, String> {
        let end = text.find(['=', ':']).ok_or("it is not NAME:ADDRESS, as in db:10.0.0.7")?;
        let (name, address) = (&text[..end], &text[end + 1..]);
        if !is_host_name(name) {
            return Err(format!("`{name}` is no host name"));
        }
        if address == "host-gateway" {
            return Err("a task has no gateway to this machine".to_owned());
        }
        let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let parsed = bare.unwrap_or(address).parse();
        let address = parsed.map_err(|_| format!("`{address}` is no address"))?;
        Ok(Self { name: name.to_owned(), address })
    }
}

/// Letters, digits, `-` and `_` in labels: more than the standard allows, as other engines do.
pub(crate) fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            && !label.starts_with('-')
    };
    name.len() <= HOST_NAME_BYTES_MAX && name.split('.').all(is_label)
}

/// The kernel's.
const HOST_NAME_BYTES_MAX: usize = 64;

/// The host name that a container may be given.
///
/// # Errors
/// Says what is wrong with it.
pub fn hostname(text: &str) -> Result<String, String> {
    match is_host_name(text) {
        true => Ok(text.to_owned()),
        false => {
            Err(format!("use letters, digits, `-` and `.`, {HOST_NAME_BYTES_MAX} bytes at most"))
        }
    }
}

impl FromStr for Tmpfs {
    type Err = String;

    /// `PATH` or `PATH:OPTION,…`, with the options of Docker.
    fn from_str(text: &str) -> Result<Self, String> {
        let (path, options) = text.split_once(':').unwrap_or((text, ""));
        let mut tmpfs = Self {
            path: container_folder(path)?,
            bytes_max: None,
            mode: 0o1777,
            read_only: false,
            executable: false,
        };
        for option in options.split(',').filter(|option| !option.is_empty()) {
            tmpfs.set(option)?;
        }
        Ok(tmpfs)
    }
}

impl Tmpfs {
    /// Sets one option.
    ///
    /// # Errors
    /// Names the option when it is unknown, or would open a way to more rights.
    pub fn set(&mut self, option: &str) -> Result<(), String> {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        match key {
            "size" => {
                let bytes = spec::parse_bytes(value).map_err(|error| error.to_string())?;
                self.bytes_max = Some(bytes).filter(|bytes| *bytes > 0);
            }
            "mode" => {
                let mode = u32::from_str_radix(value, 8).ok().filter(|mode| *mode <= 0o1777);
                self.mode = mode.ok_or_else(|| format!("`{value}` is no mode, as in 1777"))?;
            }
            "rw" => self.read_only = false,
            "ro" => self.read_only = true,
            "exec" => self.executable = true,
            "noexec" => self.executable = false,
            // As they always are.
            "nosuid" | "nodev" | "noatime" | "relatime" => {}
            "suid" | "dev" => return Err(format!("`{key}` is never set in a task")),
            _ => return Err(format!("`{key}` is no option here: use size, mode, ro, rw or exec")),
        }
        Ok(())
    }

    /// The options for `mount`.
    pub(crate) fn options(&self, bytes_default: u64) -> Vec<String> {
        let bytes = self.bytes_max.unwrap_or(bytes_default);
        let mut options = vec![
            "nosuid".to_owned(),
            "nodev".to_owned(),
            format!("mode={:o}", self.mode),
            format!("size={bytes}"),
        ];
        if !self.executable {
            options.push("noexec".to_owned());
        }
        if self.read_only {
            options.push("ro".to_owned());
        }
        options
    }
}

/// A folder that a container may have something mounted at.
fn container_folder(path: &str) -> Result<String, String> {
    let path = path.trim_end_matches('/');
    let is_plain = path.starts_with('/')
        && !path.contains('\0')
        && path[1..].split('/').all(|part| !matches!(part, "" | "." | ".."));
    if !is_plain {
        return Err(format!("`{path}` is not an absolute path, as in /scratch"));
    }
    let is_kernels = ["/proc", "/sys", "/dev"].iter().any(|folder| {
        path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    });
    match is_kernels {
        true => Err(format!("nothing can be mounted at `{path}`")),
        false => Ok(path.to_owned()),
    }
}

/// The limits that concern a container alone. Not among them: `nice`, `rtprio` and `rttime`, with
/// which a task would take processors from all others; `core`, because a core file goes where the
/// machine sends it.
const ULIMITS: [&str; 11] = [
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nofile",
    "nproc",
    "rss",
    "sigpending",
    "stack",
];

impl Ulimit {
    /// The kernel's name for it.
    pub(crate) fn resource(&self) -> Option<Resource> {
        Some(match self.name.as_str() {
            "cpu" => Resource::Cpu,
            "data" => Resource::Data,
            "fsize" => Resource::Fsize,
            "locks" => Resource::Locks,
            "memlock" => Resource::Memlock,
            "msgqueue" => Resource::Msgqueue,
            "nofile" => Resource::Nofile,
            "nproc" => Resource::Nproc,
            "rss" => Resource::Rss,
            "sigpending" => Resource::Sigpending,
            "stack" => Resource::Stack,
            _ => return None,
        })
    }
}

impl FromStr for Ulimit {
    type Err = String;

    /// `NAME=SOFT[:HARD]`, where -1 is no limit.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "it is not NAME=SOFT[:HARD], as in nofile=1024:4096".to_owned();
        let (name, values) = text.split_once('=').ok_or_else(wrong)?;
        let number = |text: &str| match text {
            "-1" | "unlimited" => Ok(u64::MAX),
            _ => text.parse().map_err(|_| wrong()),
        };
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        let (soft, hard) = (number(soft)?, number(hard)?);
        match name {
            "core" if (soft, hard) == (0, 0) => {}
            "core" => return Err("core files of tasks are never written: use core=0".to_owned()),
            "nofile" if hard > OPEN_FILES_ASKED_MAX => {
                return Err(format!("use {OPEN_FILES_ASKED_MAX} or fewer open files"));
            }
            "cpu" if hard == 0 => {
                return Err(
                    "the program would be killed before it starts: use 1 or more".to_owned()
                );
            }
            "nice" | "rtprio" | "rttime" => {
                return Err(format!("with `{name}` a task would take processors from all others"));
            }
            _ if !ULIMITS.contains(&name) => {
                return Err(format!("`{name}` is no limit: use one of {}", ULIMITS.join(", ")));
            }
            _ => {}
        }
        match soft <= hard {
            true => Ok(Self { name: name.to_owned(), soft, hard }),
            false => Err("the soft limit is above the hard one".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tmpfs_reads_as_docker_reads_it() {
        for (text, want) in [
            ("/run", "nosuid nodev mode=1777 size=7 noexec"),
            ("/run/:size=64m,mode=755,exec", "nosuid nodev mode=755 size=67108864"),
            ("/x:rw,noexec,nosuid,size=1k,ro", "nosuid nodev mode=1777 size=1024 noexec ro"),
            ("/x:size=0", "nosuid nodev mode=1777 size=7 noexec"),
        ] {
            let tmpfs: Tmpfs = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(tmpfs.options(7).join(" "), want, "{text}");
        }
        for (text, why) in [
            ("run", "absolute path"),
            ("/", "absolute path"),
            ("/a/../b", "absolute path"),
            ("/dev/shm", "nothing can be mounted"),
            ("/x:suid", "never set"),
            ("/x:size=lots", "not a size"),
            ("/x:mode=9", "no mode"),
            ("/x:uid=0", "no option"),
        ] {
            let error = text.parse::<Tmpfs>().expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_ulimit_that_concerns_others_is_refused() {
        for (text, soft, hard) in [
            ("nofile=1024", 1024, 1024),
            ("nofile=1024:4096", 1024, 4096),
            ("memlock=-1:-1", u64::MAX, u64::MAX),
            ("stack=1:unlimited", 1, u64::MAX),
            ("core=0", 0, 0),
        ] {
            let got: Ulimit = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(got.resource().is_none(), got.name == "core", "{text}");
            assert_eq!((got.soft, got.hard), (soft, hard), "{text}");
        }
        for (text, why) in [
            ("nofile", "NAME=SOFT"),
            ("nofile=x", "NAME=SOFT"),
            ("nofile=-1", "or fewer"),
            ("nofile=9:1", "above the hard one"),
            ("cpu=0", "use 1 or more"),
            ("core=-1", "never written"),
            ("rtprio=9", "from all others"),
            ("files=1", "is no limit"),
        ] {
            let error = text.parse::<Ulimit>().expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_host_line_has_a_name_and_an_address() {
        for (text, name, address) in [
            ("db:10.0.0.7", "db", "10.0.0.7"),
            ("db=10.0.0.7", "db", "10.0.0.7"),
            ("db.local:::1", "db.local", "::1"),
            ("db:[::1]", "db", "::1"),
        ] {
            let got: HostLine = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((got.name.as_str(), got.address.to_string().as_str()), (name, address));
        }
        for (text, why) in [
            ("db", "NAME:ADDRESS"),
            ("db:", "no address"),
            ("a b:1.2.3.4", "no host name"),
            ("db:host-gateway", "no gateway"),
        ] {
            let error = text.parse::<HostLine>().expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(hostname("web-1.example").is_ok() && hostname("a\nb").is_err());
        assert!(hostname("").is_err() && hostname(&"a".repeat(65)).is_err());
    }

    #[test]
    fn capabilities_are_dropped_and_only_harmless_ones_added() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        for (drop, add, want) in [
            (&[][..], &[][..], "CAP_CHOWN CAP_KILL"),
            (&["CAP_KILL"], &[], "CAP_CHOWN"),
            (&["ALL"], &[], ""),
            (&["ALL"], &["CAP_KILL"], "CAP_KILL"),
            (&[], &["CAP_SETUID"], "CAP_CHOWN CAP_KILL CAP_SETUID"),
        ] {
            let settings =
                Settings { cap_drop: names(drop), cap_add: names(add), ..Settings::default() };
            assert_eq!(settings.capabilities(&["CAP_CHOWN", "CAP_KILL"]).join(" "), want);
        }
        assert_eq!(droppable_capability("net_raw"), Ok("CAP_NET_RAW".to_owned()));
        assert_eq!(grantable_capability("cap_chown"), Ok("CAP_CHOWN".to_owned()));
        for name in ["SYS_ADMIN", "ALL", "NET_ADMIN", "FLY"] {
            assert!(grantable_capability(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_task_has_a_limit_of_processes() {
        assert_eq!(Settings::processes("64"), Ok(64));
        for text in ["-1", "0", "15", "x", "99999999"] {
            assert!(Settings::processes(text).is_err(), "{text}");
        }
    }
}
