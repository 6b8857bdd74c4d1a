//! The flags of `run` that choose something beyond the image, in Docker's words.

use std::{collections::BTreeMap, num::IntErrorKind, path::PathBuf};

use anyhow::{bail, ensure};
use node::{Attach, Mounted, Settings};
use shim::{HostLine, Tmpfs, Ulimit};
use spec::{Platform, Port};

use crate::{
    failure::{Advice, USAGE_ERROR},
    flags::read_text,
    given::{Given, unless_empty},
    health::HealthFlags,
    images::Choice,
    log_flags::LogFlags,
    mount::{Mount, mount},
};

/// Larger than any list of labels that was written by hand.
const LABEL_FILE_BYTES_MAX: u64 = 1 << 20;
/// A label is a word, not a document.
const LABEL_BYTES_MAX: usize = 4 << 10;
const LABELS_MAX: usize = 256;

/// Of -m, where it is left out.
const MEMORY_BYTES_MAX: u64 = 128 << 20;

/// What a run chooses beyond its image.
#[derive(Debug, clap::Args)]
pub struct SettingsFlags {
    /// Run as this user of a Linux image
    #[arg(short, long, value_name = "USER[:GROUP]", value_parser = unless_empty(user))]
    user: Option<Given<String>>,
    /// Start in this folder of the guest
    #[arg(short, long, value_name = "PATH", value_parser = unless_empty(workdir))]
    workdir: Option<Given<String>>,
    /// Join this group of a Linux image as well
    #[arg(long, value_name = "GROUP", value_parser = group)]
    group_add: Vec<String>,
    /// Mount a file system in memory
    #[arg(long, value_name = "PATH[:OPTIONS]")]
    tmpfs: Vec<Tmpfs>,
    /// Mount a volume, a folder of this machine, or memory, by keys
    #[arg(long, value_name = "type=volume|bind|tmpfs,…", value_parser = mount)]
    mount: Vec<Mount>,
    /// Limit the bytes in /dev/shm of a Linux program [default: 64m]
    #[arg(long, value_name = "BYTES", value_parser = shm_bytes)]
    shm_size: Option<u64>,
    /// Let a Linux program use this much of the processors
    #[arg(long, value_name = "NUMBER", value_parser = cpus)]
    cpus: Option<u32>,
    /// Leave a Linux program this much memory where the machine is short of it
    #[arg(long, value_name = "BYTES", value_parser = spec::parse_bytes)]
    memory_reservation: Option<u64>,
    /// Limit memory and swap together: only the value of -m, because a task has no swap
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = swap)]
    memory_swap: Option<u64>,
    /// Limit the processes and threads of a Linux program [default: 512]
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true, value_parser = shim::Settings::processes)]
    pids_limit: Option<u32>,
    /// Set a limit of each process of a Linux program
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    ulimit: Vec<Ulimit>,
    /// Name the host, as a Linux program sees it
    #[arg(short = 'h', long, value_name = "NAME", value_parser = unless_empty(shim::hostname))]
    hostname: Option<Given<String>>,
    /// Add a line to /etc/hosts of a Linux program
    #[arg(long, value_name = "NAME:ADDRESS")]
    add_host: Vec<HostLine>,
    /// Ask a Linux program to end with this signal
    #[arg(long, value_name = "SIGNAL", value_parser = stop_signal)]
    stop_signal: Option<String>,
    /// Remember a label with the task
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// Read labels from a file, one in each line
    #[arg(long, value_name = "FILE")]
    label_file: Vec<PathBuf>,
    /// Publish every exposed port on a free one
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// Name a port for -P
    #[arg(long, value_name = "PORT[-PORT][/udp]", value_parser = expose)]
    expose: Vec<Vec<Port>>,
    /// Choose the network: `none`, or `bridge` for published ports and granted ways out
    #[arg(long, visible_alias = "net", value_name = "none|bridge", value_parser = unless_empty(network))]
    network: Option<Given<Network>>,
    /// Take a capability of Linux away from root of the image; ALL for each
    #[arg(long, value_name = "CAPABILITY", value_parser = shim::droppable_capability)]
    cap_drop: Vec<String>,
    /// Give a capability of Linux back to root of the image
    #[arg(long, value_name = "CAPABILITY", value_parser = shim::grantable_capability)]
    cap_add: Vec<String>,
    /// Let a Linux program get no more rights than it starts with
    #[arg(long, value_name = "no-new-privileges", value_parser = security)]
    security_opt: Vec<Security>,
    /// Run an init as process 1, which forwards signals and waits for orphans
    #[arg(long)]
    init: bool,
    /// Run the image for this platform, where there are several
    #[arg(long, value_name = "OS/ARCHITECTURE", value_parser = unless_empty(platform))]
    platform: Option<Given<Platform>>,
    /// Attach only these of the guest's streams
    #[arg(short, long, value_name = "STREAM")]
    attach: Vec<Stream>,
    /// Say nothing about fetching and preparing the image
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    health: HealthFlags,
    #[command(flatten)]
    log: LogFlags,
}

/// What `--attach` can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Stream {
    Stdin,
    Stdout,
    Stderr,
}

/// What `--security-opt` can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Security {
    NoNewPrivileges,
    /// No labels of SELinux, which no task has.
    NoLabels,
}

/// What `--network` can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Network {
    None,
    /// Published ports and granted ways out, as without the flag.
    Bridge,
}

impl SettingsFlags {
    /// What was chosen.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        let memory = self.mount.iter().filter_map(|mount| match mount {
            Mount::Memory(tmpfs) => Some(tmpfs.clone()),
            Mount::Folder(_) => None,
        });
        Ok(Settings {
            user: Given::of(self.user.as_ref()),
            working_dir: Given::of(self.workdir.as_ref()),
            stop_signal: self.stop_signal.clone().filter(|signal| !signal.is_empty()),
            cpu_millis: self.cpus.filter(|millis| *millis > 0),
            labels: self.labels()?,
            publish_all: self.publish_all,
            expose: self.expose.iter().flatten().copied().collect(),
            health: self.health.check(),
            no_log: self.log.is_none(),
            attach: (!self.attach.is_empty()).then(|| Attach {
                stdout: self.attach.contains(&Stream::Stdout),
                stderr: self.attach.contains(&Stream::Stderr),
            }),
            linux: shim::Settings {
                hostname: Given::of(self.hostname.as_ref()),
                hosts: self.add_host.clone(),
                groups: self.group_add.clone(),
                tmpfs: self.tmpfs.iter().cloned().chain(memory).collect(),
                shm_bytes_max: self.shm_size.filter(|bytes| *bytes > 0),
                processes_max: self.pids_limit,
                memory_bytes_soft: self.memory_reservation.filter(|bytes| *bytes > 0),
                ulimits: self.ulimit.clone(),
                cap_drop: self.cap_drop.clone(),
                cap_add: self.cap_add.clone(),
                no_new_privileges: self.security_opt.contains(&Security::NoNewPrivileges),
                init: self.init,
            },
        })
    }

    /// Which of several images to run, and whether to say how it is fetched.
    pub fn choice(&self) -> Choice<'_> {
        Choice { platform: self.platform.as_ref().and_then(Given::get), quiet: self.quiet }
    }

    /// How many bytes of log are to be kept, where that was said in Docker's words.
    pub fn log_bytes_max(&self) -> anyhow::Result<Option<u64>> {
        self.log.bytes_max()
    }

    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    pub fn attaches(&self) -> bool {
        !self.attach.is_empty()
    }

    /// Whether `-a stdin` asks for what `-i` does.
    pub fn attaches_stdin(&self) -> bool {
        self.attach.contains(&Stream::Stdin)
    }

    /// The mounts of `--mount`.
    pub fn mounts(&self) -> impl Iterator<Item = Mounted> {
        self.mount.iter().filter_map(|mount| match mount {
            Mount::Folder(mounted) => Some(mounted.clone()),
            Mount::Memory(_) => None,
        })
    }

    /// Where it has something mounted in memory.
    pub fn tmpfs_paths(&self) -> impl Iterator<Item = &str> {
        let memory = self.mount.iter().filter_map(|mount| match mount {
            Mount::Memory(tmpfs) => Some(tmpfs),
            Mount::Folder(_) => None,
        });
        self.tmpfs.iter().chain(memory).map(|tmpfs| tmpfs.path.as_str())
    }

    /// What contradicts `memory` (of `-m`), or the ports and grants of the network.
    pub fn check(&self, memory: Option<u64>, reaches_out: bool) -> anyhow::Result<()> {
        if let Some(both) = self.memory_swap.filter(|bytes| *bytes > 0) {
            ensure!(
                memory == Some(both),
                Advice::new("--memory-swap differs from -m, and a task has no swap")
                    .hint("leave it out, or give it the value of -m")
                    .code(USAGE_ERROR)
            );
        }
        // Docker's rule, and here -m has a default.
        let most = memory.unwrap_or(MEMORY_BYTES_MAX);
        ensure!(
            self.memory_reservation.is_none_or(|bytes| bytes <= most),
            Advice::new(
                "--memory-reservation is more than -m, which is the most that there can be"
            )
            .hint(format!("-m is {}: raise it, or lower the other", spec::print_bytes(most)))
            .code(USAGE_ERROR)
        );
        let is_reached = reaches_out || self.publish_all;
        ensure!(
            Given::of(self.network.as_ref()) != Some(Network::None) || !is_reached,
            Advice::new("--network none, and a port is published or a way out is granted")
                .hint("leave one of them out")
                .code(USAGE_ERROR)
        );
        Ok(())
    }

    /// From `--label-file` (first) and `-l` (they win).
    fn labels(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let mut lines = Vec::new();
        for path in &self.label_file {
            let named = || format!("cannot read the labels in `{}`", path.display());
            let text = read_text(path, LABEL_FILE_BYTES_MAX, named, "no list of labels")?;
            let is_label = |line: &&str| !line.is_empty() && !line.starts_with('#');
            lines.extend(text.lines().map(str::trim_start).filter(is_label).map(str::to_owned));
        }
        let mut labels = BTreeMap::new();
        for line in lines.iter().chain(&self.label) {
            let (key, value) = line.split_once('=').unwrap_or((line, ""));
            if key.is_empty() || key.chars().any(char::is_control) || line.len() > LABEL_BYTES_MAX {
                let message = format!("`{}` is no label", key.escape_debug());
                let hint = format!("write KEY=VALUE, {LABEL_BYTES_MAX} bytes at most");
                bail!(Advice::new(message).hint(hint).code(USAGE_ERROR));
            }
            labels.insert(key.to_owned(), value.to_owned());
        }
        let count = labels.len();
        ensure!(
            count <= LABELS_MAX,
            Advice::new(format!("{count} labels for one task, and {LABELS_MAX} are the most"))
                .code(USAGE_ERROR)
        );
        Ok(labels)
    }
}

fn user(text: &str) -> Result<String, &'static str> {
    match text.is_empty() || text.len() > 256 || text.chars().any(char::is_control) {
        true => Err("use a name or a number, and a group behind a colon"),
        false => Ok(text.to_owned()),
    }
}

fn group(text: &str) -> Result<String, &'static str> {
    match text.is_empty() || text.len() > 256 || text.chars().any(char::is_control) {
        true => Err("use the name of a group of the image, or a number"),
        false => Ok(text.to_owned()),
    }
}

/// Nothing is the image's own.
fn stop_signal(text: &str) -> Result<String, &'static str> {
    match text.is_empty() || shim::parse_signal(text).is_some() {
        true => Ok(text.to_owned()),
        false => Err("it is no signal, such as SIGTERM, SIGRTMIN+3 or 15"),
    }
}

fn workdir(text: &str) -> Result<String, &'static str> {
    let is_plain = text.starts_with('/') && !text.contains('\0');
    match is_plain {
        true => Ok(text.to_owned()),
        false => Err("use an absolute path, as in /srv"),
    }
}

/// One page at least; 0 is the default, as in Docker.
fn shm_bytes(text: &str) -> Result<u64, String> {
    match spec::parse_bytes(text).map_err(|error| error.to_string())? {
        1..4096 => Err("use 4k or more".to_owned()),
        bytes => Ok(bytes),
    }
}

/// 0 is as if it were left out, as in Docker.
fn swap(text: &str) -> Result<u64, String> {
    match text {
        "-1" => Err("a task has no swap: leave it out, or give it the value of -m".to_owned()),
        _ => spec::parse_bytes(text).map_err(|error| error.to_string()),
    }
}

/// Thousandths of a processor; 0 is no limit, as in Docker.
fn cpus(text: &str) -> Result<u32, String> {
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get());
    let most = u32::try_from(processors).unwrap_or(u32::MAX).saturating_mul(1000);
    match cpu_millis(text) {
        Some(millis) if is_zero(text) || (10..=most).contains(&millis) => Ok(millis),
        _ => Err(format!("use 0.01 to {processors}, which is how many processors there are")),
    }
}

fn is_zero(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0' | b'.'))
}

/// Processors, in thousandths: what is smaller is left out.
pub fn cpu_millis(text: &str) -> Option<u32> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole) || !is_digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let whole: u32 = match whole.parse() {
        Ok(whole) => whole,
        Err(error) if *error.kind() == IntErrorKind::Empty => 0,
        Err(_) => return None,
    };
    let thousandths: String = fraction.chars().chain("000".chars()).take(3).collect();
    whole.checked_mul(1000)?.checked_add(thousandths.parse().ok()?)
}

/// `80`, `80/tcp`, `53/udp` or `8000-8010`.
fn expose(text: &str) -> Result<Vec<Port>, String> {
    let wrong = || "use a port or a range of ports, as in 80, 53/udp or 8000-8010".to_owned();
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let range: node::PublishRange = format!("{ports}/{protocol}").parse().map_err(|_| wrong())?;
    match ports.contains(':') {
        true => Err(wrong()),
        false => Ok(range.0.iter().map(node::Publish::port).collect()),
    }
}

fn security(text: &str) -> Result<Security, &'static str> {
    match text {
        "no-new-privileges" | "no-new-privileges:true" | "no-new-privileges=true" => {
            Ok(Security::NoNewPrivileges)
        }
        "label=disable" | "label:disable" => Ok(Security::NoLabels),
        _ if text.starts_with("seccomp") => Err("every task has the list of system calls that \
             margay was reviewed with"),
        _ if text.starts_with("apparmor") || text.starts_with("label") => {
            Err("margay sets no profile of AppArmor and no label of SELinux")
        }
        _ => Err("use no-new-privileges"),
    }
}

/// A platform that this machine runs.
fn platform(text: &str) -> Result<Platform, String> {
    let wanted: Platform = text.parse().map_err(|error: spec::ParseError| error.to_string())?;
    let wasm = Platform { os: "wasi".to_owned(), architecture: "wasm".to_owned(), variant: None };
    let here: Vec<Platform> = [wasm].into_iter().chain(packager::host_platforms()).collect();
    match here.iter().any(|platform| image::is_same(platform, &wanted)) {
        true => Ok(wanted),
        false => {
            let names: Vec<String> = here.iter().map(ToString::to_string).collect();
            Err(format!("this machine runs {}", names.join(" and ")))
        }
    }
}

fn network(text: &str) -> Result<Network, &'static str> {
    match text {
        "none" => Ok(Network::None),
        "bridge" | "default" => Ok(Network::Bridge),
        "host" => Err("no task has the network of this machine: publish ports with -p, \
             and grant ways out with --allow net.out:URL"),
        _ => Err("there are no networks to join: publish ports with -p, \
             and grant ways out with --allow net.out:URL"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted_in_thousandths() {
        for (text, want) in [
            ("1", 1000),
            ("0.5", 500),
            (".25", 250),
            ("0.0109", 10),
            ("1.", 1000),
            ("0", 0),
            ("0.0", 0),
        ] {
            assert_eq!(cpus(text), Ok(want), "{text}");
        }
        for text in ["", ".", "0.001", "0.0001", "-1", "1e3", "99999999999", "4294967295", "9999"] {
            assert!(cpus(text).is_err(), "{text}");
        }
    }

    #[test]
    fn zero_is_as_if_it_were_left_out_and_no_task_has_swap() {
        assert_eq!((shm_bytes("0"), swap("0"), swap("64m")), (Ok(0), Ok(0), Ok(64 << 20)));
        assert!(shm_bytes("1k").is_err());
        assert!(swap("-1").expect_err("no swap").contains("a task has no swap"));
    }

    #[test]
    fn only_what_runs_here_is_a_platform() {
        let host = packager::host_platforms().remove(0).to_string();
        for text in ["wasi/wasm", "wasi/wasm32", host.as_str()] {
            assert!(platform(text).is_ok(), "{text}");
        }
        for (text, why) in [
            ("linux/s390x", "this machine runs wasi/wasm and linux/"),
            ("windows/amd64", "this machine runs"),
            ("amd64", "is not a platform"),
        ] {
            assert!(platform(text).expect_err(text).contains(why), "{text}");
        }
    }

    #[test]
    fn exposed_ports_have_a_protocol_and_may_be_a_range() {
        for (text, want) in [
            ("80", "80/tcp"),
            ("80/tcp", "80/tcp"),
            ("53/udp", "53/udp"),
            ("8000-8002", "8000/tcp 8001/tcp 8002/tcp"),
            ("53-54/udp", "53/udp 54/udp"),
        ] {
            let ports = expose(text).unwrap().into_iter().map(|port| port.to_string());
            assert_eq!(ports.collect::<Vec<_>>().join(" "), want, "{text}");
        }
        for text in ["", "0", "x", "80:80", "80/sctp"] {
            assert!(expose(text).is_err(), "{text}");
        }
    }
}
