//! The flags of `run` that choose something beyond the image, in Docker's words.

use std::{collections::BTreeMap, num::IntErrorKind, path::PathBuf};

use anyhow::{bail, ensure};
use node::{MountSource, Mounted, Settings};
use shim::{HostLine, Tmpfs, Ulimit};

use crate::{
    failure::{Advice, USAGE_ERROR},
    flags::read_text,
};

/// Larger than any list of labels that was written by hand.
const LABEL_FILE_BYTES_MAX: u64 = 1 << 20;
/// A label is a word, not a document.
const LABEL_BYTES_MAX: usize = 4 << 10;
const LABELS_MAX: usize = 256;

/// What a run chooses beyond its image.
#[derive(Debug, clap::Args)]
pub struct SettingsFlags {
    /// Run as this user of a Linux image
    #[arg(short, long, value_name = "USER[:GROUP]", value_parser = user)]
    user: Option<String>,
    /// Start in this folder of the guest
    #[arg(short, long, value_name = "PATH", value_parser = workdir)]
    workdir: Option<String>,
    /// Join this group of a Linux image as well
    #[arg(long, value_name = "GROUP")]
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
    /// Limit memory and swap together: only the value of -m, because a task has no swap
    #[arg(long, value_name = "BYTES", value_parser = spec::parse_bytes, requires = "memory")]
    memory_swap: Option<u64>,
    /// Limit the processes and threads of a Linux program [default: 512]
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true, value_parser = shim::Settings::processes)]
    pids_limit: Option<u32>,
    /// Set a limit of each process of a Linux program
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    ulimit: Vec<Ulimit>,
    /// Name the host, as a Linux program sees it
    #[arg(short = 'h', long, value_name = "NAME", value_parser = shim::hostname)]
    hostname: Option<String>,
    /// Add a line to /etc/hosts of a Linux program
    #[arg(long, value_name = "NAME:ADDRESS")]
    add_host: Vec<HostLine>,
    /// Ask a Linux program to end with this signal
    #[arg(long, value_name = "SIGNAL")]
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
    #[arg(long, value_name = "PORT[-PORT]", value_parser = expose)]
    expose: Vec<Vec<u16>>,
    /// Choose the network: `none`, or `bridge` for published ports and granted ways out
    #[arg(long, visible_alias = "net", value_name = "none|bridge", value_parser = network)]
    network: Option<Network>,
}

/// What `--network` can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Network {
    None,
    /// Published ports and granted ways out, as without the flag.
    Bridge,
}

/// What `--mount` asks for.
#[derive(Debug, Clone)]
enum Mount {
    Folder(Mounted),
    Memory(Tmpfs),
}

impl SettingsFlags {
    /// What was chosen.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        let memory = self.mount.iter().filter_map(|mount| match mount {
            Mount::Memory(tmpfs) => Some(tmpfs.clone()),
            Mount::Folder(_) => None,
        });
        Ok(Settings {
            user: self.user.clone(),
            working_dir: self.workdir.clone(),
            stop_signal: self.stop_signal.clone(),
            cpu_millis: self.cpus,
            labels: self.labels()?,
            publish_all: self.publish_all,
            expose: self.expose.iter().flatten().copied().collect(),
            linux: shim::Settings {
                hostname: self.hostname.clone(),
                hosts: self.add_host.clone(),
                groups: self.group_add.clone(),
                tmpfs: self.tmpfs.iter().cloned().chain(memory).collect(),
                shm_bytes_max: self.shm_size,
                processes_max: self.pids_limit,
                ulimits: self.ulimit.clone(),
            },
        })
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
        if let (Some(both), Some(memory)) = (self.memory_swap, memory) {
            ensure!(
                both == memory,
                Advice::new("--memory-swap differs from -m, and a task has no swap")
                    .hint("leave it out, or give it the value of -m")
                    .code(USAGE_ERROR)
            );
        }
        let is_reached = reaches_out || self.publish_all;
        ensure!(
            self.network != Some(Network::None) || !is_reached,
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
        0..4096 => Err("use 4k or more".to_owned()),
        bytes => Ok(bytes),
    }
}

/// Thousandths of a processor.
fn cpus(text: &str) -> Result<u32, String> {
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get());
    let wrong = || format!("use 0.01 to {processors}, which is how many processors there are");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole) || !is_digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return Err(wrong());
    }
    let whole: u32 = match whole.parse() {
        Ok(whole) => whole,
        Err(error) if *error.kind() == IntErrorKind::Empty => 0,
        Err(_) => return Err(wrong()),
    };
    let thousandths: String = fraction.chars().chain("000".chars()).take(3).collect();
    let millis = whole.checked_mul(1000).ok_or_else(wrong)?;
    let millis = millis.checked_add(thousandths.parse().map_err(|_| wrong())?).ok_or_else(wrong)?;
    let most = u32::try_from(processors).unwrap_or(u32::MAX).saturating_mul(1000);
    if (10..=most).contains(&millis) { Ok(millis) } else { Err(wrong()) }
}

/// `80`, `80/tcp` or `8000-8010`.
fn expose(text: &str) -> Result<Vec<u16>, String> {
    let wrong = || "use a port or a range of TCP ports, as in 80 or 8000-8010".to_owned();
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let range: node::PublishRange = format!("{ports}/{protocol}").parse().map_err(|_| wrong())?;
    match ports.contains(':') {
        true => Err(wrong()),
        false => Ok(range.0.iter().map(|publish| publish.container_port).collect()),
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

/// The keys of `--mount`.
#[derive(Default)]
struct MountKeys<'a> {
    kind: &'a str,
    source: Option<&'a str>,
    target: Option<&'a str>,
    read_only: bool,
    tmpfs: Vec<String>,
}

impl<'a> MountKeys<'a> {
    fn read(text: &'a str) -> Result<Self, String> {
        let mut keys = Self { kind: "volume", ..Self::default() };
        for field in text.split(',') {
            let (key, value) = field.split_once('=').unwrap_or((field, ""));
            match key.trim() {
                "type" => keys.kind = value,
                "source" | "src" => keys.source = Some(value),
                "target" | "destination" | "dst" => keys.target = Some(value),
                "readonly" | "ro" => match value {
                    "" | "true" | "1" => keys.read_only = true,
                    "false" | "0" => keys.read_only = false,
                    _ => return Err(format!("`{key}` is true or false")),
                },
                "tmpfs-size" => keys.tmpfs.push(format!("size={value}")),
                "tmpfs-mode" => keys.tmpfs.push(format!("mode={value}")),
                // As it always is.
                "bind-propagation" if matches!(value, "private" | "rprivate") => {}
                "consistency" | "volume-nocopy" => {}
                "bind-propagation" => {
                    return Err("mounts of a task are its own: use rprivate".to_owned());
                }
                "volume-driver" | "volume-opt" | "volume-label" | "volume-subpath" => {
                    return Err(format!("`{key}` is absent here: a volume is a folder"));
                }
                _ => {
                    return Err(format!(
                        "`{key}` is no key of a mount: use type, source, target, readonly, \
                         tmpfs-size or tmpfs-mode"
                    ));
                }
            }
        }
        Ok(keys)
    }
}

fn mount(text: &str) -> Result<Mount, String> {
    let keys = MountKeys::read(text)?;
    let target = keys.target.ok_or("it names no target, as in target=/data")?;
    if keys.kind != "tmpfs" && !keys.tmpfs.is_empty() {
        return Err("`tmpfs-size` and `tmpfs-mode` belong to type=tmpfs".to_owned());
    }
    let source = || keys.source.filter(|source| !source.is_empty());
    match keys.kind {
        "tmpfs" => {
            if source().is_some() {
                return Err("memory has no source".to_owned());
            }
            let mut tmpfs: Tmpfs = target.parse()?;
            for option in &keys.tmpfs {
                tmpfs.set(option)?;
            }
            // As Docker has it for this form.
            (tmpfs.read_only, tmpfs.executable) = (keys.read_only, true);
            Ok(Mount::Memory(tmpfs))
        }
        "bind" => {
            let path = source().ok_or("it names no source, as in source=/srv/data")?;
            let path = std::path::absolute(path).map_err(|error| error.to_string())?;
            if !path.exists() {
                return Err(format!("there is no file or folder `{}`", path.display()));
            }
            Ok(Mount::Folder(Mounted {
                source: MountSource::Folder(path),
                path: folder(target)?,
                read_only: keys.read_only,
                bytes_max: None,
            }))
        }
        "volume" => {
            let name = source().ok_or("it names no source, as in source=book")?;
            if name.contains('/') {
                return Err(format!("`{name}` is no name of a volume: for a folder use type=bind"));
            }
            let mount = format!("{name}:{target}{}", if keys.read_only { ":ro" } else { "" });
            let mounted = mount.parse::<Mounted>().map_err(|error| error.to_string())?;
            Ok(Mount::Folder(mounted))
        }
        kind => Err(format!("`{kind}` is no type of mount: use volume, bind or tmpfs")),
    }
}

/// A folder of the guest, as `-v` takes it.
fn folder(target: &str) -> Result<String, String> {
    let mounted: Mounted = format!("x:{target}").parse().map_err(|_| {
        format!("`{target}` is no folder to mount at: use an absolute path, as in /data")
    })?;
    Ok(mounted.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted_in_thousandths() {
        for (text, want) in [("1", 1000), ("0.5", 500), (".25", 250), ("0.0109", 10), ("1.", 1000)]
        {
            assert_eq!(cpus(text), Ok(want), "{text}");
        }
        for text in ["", ".", "0", "0.001", "-1", "1e3", "99999999999", "4294967295", "9999"] {
            assert!(cpus(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_mount_by_keys_is_the_same_as_in_the_short_form() {
        let shown = |text: &str| match mount(text) {
            Ok(Mount::Folder(mounted)) => {
                let short = match &mounted.source {
                    MountSource::Volume(name) => name.to_string(),
                    MountSource::Folder(folder) => folder.display().to_string(),
                    #[allow(unreachable_patterns, reason = "more kinds may come")]
                    _ => "other".to_owned(),
                };
                format!("{short}:{}{}", mounted.path, if mounted.read_only { ":ro" } else { "" })
            }
            Ok(Mount::Memory(tmpfs)) => {
                format!("{}:{:?},{:o}", tmpfs.path, tmpfs.bytes_max, tmpfs.mode)
            }
            Err(error) => error,
        };
        for (text, want) in [
            ("source=book,target=/data", "book:/data"),
            ("type=volume,src=book,dst=/data,readonly", "book:/data:ro"),
            ("type=bind,source=/,destination=/host,ro=true", "/:/host:ro"),
            ("type=bind,src=/,target=/host,bind-propagation=rprivate", "/:/host"),
            ("type=tmpfs,target=/run,tmpfs-size=64m,tmpfs-mode=755", "/run:Some(67108864),755"),
            ("type=tmpfs,target=/run", "/run:None,1777"),
            ("type=bind,source=/no/such,target=/x", "there is no file or folder `/no/such`"),
            ("type=bind,source=/,target=x", "`x` is no folder"),
            ("type=volume,source=/x,target=/x", "`/x` is no name of a volume"),
            ("type=npipe,source=x,target=/x", "`npipe` is no type"),
            ("source=x", "it names no target"),
            ("type=tmpfs,target=/x,uid=1", "`uid` is no key"),
            ("source=x,target=/x,tmpfs-size=1", "belong to type=tmpfs"),
            ("source=x,target=/x,volume-driver=nfs", "a volume is a folder"),
        ] {
            assert!(shown(text).contains(want), "{text}: {}", shown(text));
        }
    }

    #[test]
    fn exposed_ports_are_tcp_and_may_be_a_range() {
        assert_eq!(expose("80").unwrap(), [80]);
        assert_eq!(expose("80/tcp").unwrap(), [80]);
        assert_eq!(expose("8000-8002").unwrap(), [8000, 8001, 8002]);
        for text in ["", "0", "x", "80:80", "80/sctp"] {
            assert!(expose(text).is_err(), "{text}");
        }
    }
}
