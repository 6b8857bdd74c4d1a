use std::{collections::BTreeMap, path::PathBuf, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};
use spec::{
    Capability, Digest, LimitOverrides, Port, PublishedPort, SecretName, SecretValue, Transport,
    Usage, VolumeName,
};

use crate::{error::Error, settings::Settings, tasks::RestartPolicy, tuning::PrivateNetwork};

/// What `margay run` was asked for: one task on this machine, without a server. It is kept in the
/// task's folder for its next start, so a field that is added needs a default.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    pub image: LocalImage,
    pub name: Option<String>,
    /// `--entrypoint`: replaces the image's, and with it the image's arguments.
    pub entrypoint: Option<Vec<String>>,
    /// What stands after the image: replaces the image's arguments. Empty keeps them.
    pub command: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub secrets: BTreeMap<SecretName, SecretValue>,
    /// Where their values were read, and are read again when it is started again.
    #[serde(default)]
    pub secret_files: BTreeMap<SecretName, PathBuf>,
    pub ports: Vec<Publish>,
    pub mounts: Vec<Mounted>,
    pub allow: Vec<Capability>,
    pub private_networks: Vec<PrivateNetwork>,
    /// `-m`.
    pub memory_bytes_max: Option<u64>,
    /// `--cpu-time`: of one request, or of the command.
    pub cpu_time_max: Option<Duration>,
    /// `--timeout`: of one request, or of the command.
    pub wall_time_max: Option<Duration>,
    /// `--limit`.
    #[serde(default)]
    pub limits: LimitOverrides,
    /// `-i`: hand over our standard input.
    pub interactive: bool,
    /// `-t`: the program may know that it speaks to a terminal of these rows and columns.
    pub terminal: Option<(u16, u16)>,
    pub remove_at_end: bool,
    #[serde(default)]
    pub restart: RestartPolicy,
    /// `--read-only`: a Linux program writes to memory, and to `/tmp` and what its grants name
    /// alone. A Wasm program writes nothing but what its grants name.
    #[serde(default)]
    pub read_only: bool,
    /// How long it may take to stop once asked to.
    pub grace: Duration,
    #[serde(default)]
    pub settings: Settings,
    /// `--learn`: reach every host but internal ones, and say which were reached.
    #[serde(default)]
    pub learn: bool,
}

/// An image whose blobs lie on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalImage {
    /// As it was asked for.
    pub name: String,
    /// Its manifest, or its index.
    pub digest: Digest,
    /// The OCI layout that has it.
    pub layout: PathBuf,
}

/// `-p [[IP:]HOST:]CONTAINER[/udp]`: a port of the container on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// Where on the host; every address when left out.
    pub address: Option<std::net::IpAddr>,
    /// On the host; 0 for any free one.
    pub host_port: u16,
    /// As the container knows it.
    pub container_port: u16,
    #[serde(default, skip_serializing_if = "Transport::is_tcp")]
    pub transport: Transport,
}

impl Publish {
    /// As the container knows it.
    pub fn port(&self) -> Port {
        Port { number: self.container_port, transport: self.transport }
    }
}

/// `-p 8000-8010:8000-8010`: as many ports of the container as of the host, or one of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishRange(pub Vec<Publish>);

/// `-v SOURCE:PATH[:ro]`: a volume, or a folder of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mounted {
    pub source: MountSource,
    /// Where the container sees it.
    pub path: String,
    pub read_only: bool,
    /// The most bytes in it.
    pub bytes_max: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountSource {
    Volume(VolumeName),
    /// A folder of the host, absolute.
    Folder(PathBuf),
}

/// What happens while a task runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Note {
    /// Its image was not ready to run, and is being made so.
    Preparing {
        /// Of its layers, as they are stored.
        bytes: u64,
    },
    /// What its owner is to know about this machine, once.
    Warning {
        text: String,
    },
    /// Its folder exists, under this id and name.
    Created {
        id: String,
        name: String,
    },
    /// Its control socket is there, and its program starts when a terminal is attached.
    Listening {
        id: String,
    },
    Started(Started),
    /// It asked for something that it was not granted.
    Denied {
        /// The line that would grant it.
        line: String,
        /// How often so far.
        count: u64,
    },
    /// It has ended, and these lines grant the hosts that it reached.
    Learned {
        lines: Vec<String>,
    },
    Stopping,
    /// It was interrupted a moment ago, and still runs.
    Interrupted,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Started {
    /// The name of its folder.
    pub id: String,
    pub name: String,
    /// Where it is reached.
    pub ports: Vec<PublishedPort>,
    pub granted: Vec<Capability>,
    /// Granted, and not used: the image does not ask for it.
    pub cut: Vec<Capability>,
    /// Asked for as optional, and not granted.
    pub denied: Vec<Capability>,
    /// It serves on these ports, and none is published.
    pub unpublished: Vec<u16>,
    /// These were to be published, and it serves none of them.
    pub unserved: Vec<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunOutcome {
    /// The name of its folder, which is gone by now if it was to be removed.
    pub id: String,
    pub name: String,
    /// The guest's code, 128 and the signal when it was killed, 125 for a failure of ours.
    pub exit_code: i32,
    /// Why, in a sentence, where there is something to say.
    pub reason: Option<String>,
    pub usage: Usage,
}

impl std::fmt::Debug for RunRequest {
    /// Without the values of variables: they may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunRequest")
            .field("image", &self.image)
            .field("command", &self.command)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("secrets", &self.secrets.keys().collect::<Vec<_>>())
            .field("ports", &self.ports)
            .field("mounts", &self.mounts)
            .field("allow", &self.allow)
            .finish_non_exhaustive()
    }
}

impl RunRequest {
    /// A run of `image` with nothing else asked for.
    pub fn of(image: LocalImage) -> Self {
        Self {
            image,
            name: None,
            entrypoint: None,
            command: Vec::new(),
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            secret_files: BTreeMap::new(),
            ports: Vec::new(),
            mounts: Vec::new(),
            allow: Vec::new(),
            private_networks: Vec::new(),
            memory_bytes_max: None,
            cpu_time_max: None,
            wall_time_max: None,
            limits: LimitOverrides::default(),
            interactive: false,
            terminal: None,
            remove_at_end: false,
            restart: RestartPolicy::No,
            read_only: false,
            grace: Duration::from_secs(10),
            settings: Settings::default(),
            learn: false,
        }
    }

    /// The ports to publish: those that were asked for, and with `-P` each that the image or
    /// `--expose` names and that is not among them, on any free port.
    pub(crate) fn ports(&self, image: &[Port]) -> Vec<Publish> {
        let mut ports = self.ports.clone();
        if self.settings.publish_all {
            for port in self.settings.expose.iter().chain(image).copied() {
                if !ports.iter().any(|publish| publish.port() == port) {
                    ports.push(Publish {
                        address: None,
                        host_port: 0,
                        container_port: port.number,
                        transport: port.transport,
                    });
                }
            }
        }
        ports
    }
}

impl FromStr for Publish {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::BadArgument {
            text: text.to_owned(),
            what: "a port to publish: HOST:CONTAINER as in 8080:80, ADDRESS:HOST:CONTAINER, \
                   or CONTAINER for a free port",
        };
        let whole = text;
        let (text, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (rest, container) =
            text.rsplit_once(':').map_or((None, text), |(rest, port)| (Some(rest), port));
        let (address, host) = match rest {
            None => (None, "0"),
            Some(rest) => match rest.rsplit_once(':') {
                None => (None, rest),
                Some((address, host)) => {
                    let bare = address
                        .strip_prefix('[')
                        .and_then(|a| a.strip_suffix(']'))
                        .unwrap_or(address);
                    (
                        Some(bare.parse().map_err(|_| wrong())?),
                        if host.is_empty() { "0" } else { host },
                    )
                }
            },
        };
        let port = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) {
            true => text.parse::<u16>().map_err(|_| wrong()),
            false => Err(wrong()),
        };
        match (protocol, port(container)?) {
            ("sctp", _) => Err(Error::BadArgument {
                text: whole.to_owned(),
                what: "a port that can be published: connections of TCP and datagrams of UDP are \
                       relayed, and no other protocol",
            }),
            ("tcp" | "udp", container_port @ 1..) => {
                let transport = if protocol == "udp" { Transport::Udp } else { Transport::Tcp };
                Ok(Self { address, host_port: port(host)?, container_port, transport })
            }
            _ => Err(wrong()),
        }
    }
}

impl FromStr for PublishRange {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |what| Error::BadArgument { text: text.to_owned(), what };
        let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (rest, container) = ports.rsplit_once(':').unwrap_or(("", ports));
        let Some(container_ports) = range(container) else {
            return Ok(Self(vec![text.parse()?]));
        };
        let (address, host) = rest.rsplit_once(':').unwrap_or(("", rest));
        let host_ports: Vec<u16> = match host {
            "" => container_ports.clone().map(|_| 0).collect(),
            _ => range(host).map(Iterator::collect).unwrap_or_default(),
        };
        if host_ports.len() != container_ports.len() {
            return Err(wrong(
                "a range of ports to publish: as many ports of the host as of the task, as in \
                 8000-8010:8000-8010",
            ));
        }
        if host_ports.len() > PORTS_MAX {
            return Err(wrong("a range of ports to publish: 256 ports at most"));
        }
        let address = if address.is_empty() { String::new() } else { format!("{address}:") };
        let one = |(host, container)| format!("{address}{host}:{container}/{protocol}").parse();
        let ports = host_ports.into_iter().zip(container_ports).map(one);
        Ok(Self(ports.collect::<Result<_, _>>()?))
    }
}

/// Each published port is a descriptor of its own.
const PORTS_MAX: usize = 256;

/// `8000-8010`, the smaller first; `None` for what is no range.
fn range(text: &str) -> Option<std::ops::RangeInclusive<u16>> {
    let (first, last) = text.split_once('-')?;
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    let range = port(first)?..=port(last)?;
    (!range.is_empty()).then_some(range)
}

impl FromStr for Mounted {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::BadArgument {
            text: text.to_owned(),
            what: "a mount: VOLUME:/PATH, /FOLDER:/PATH, ./FOLDER:/PATH or /PATH alone, \
                   with :ro at the end to forbid writing",
        };
        let (text, read_only) = match text.rsplit_once(':') {
            Some((before, options)) => match read_only(options)? {
                Some(read_only) => (before, read_only),
                None => (text, false),
            },
            None => (text, false),
        };
        let (source, path) = match text.rsplit_once(':') {
            Some((source, path)) => (Some(source), path),
            None => (None, text),
        };
        let path = path.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(path);
        if path == "/" {
            let what = "a mount: nothing can be mounted at `/`; \
                        give it a folder of its own, such as /data";
            return Err(Error::BadArgument { text: text.to_owned(), what });
        }
        format!("fs:{path}").parse::<Capability>().map_err(|_| wrong())?;
        let Some(source) = source else {
            let source = MountSource::Volume(anonymous_volume());
            return Ok(Self { source, path: path.to_owned(), read_only, bytes_max: None });
        };
        // As with programs in a shell, a slash makes it a folder.
        let relative = matches!(source, "." | "..")
            || ["./", "../"].iter().any(|start| source.starts_with(start));
        let source = match relative || source.starts_with('/') {
            true => MountSource::Folder(std::path::absolute(source).map_err(|_| wrong())?),
            false => MountSource::Volume(source.parse().map_err(|_| wrong())?),
        };
        Ok(Self { source, path: path.to_owned(), read_only, bytes_max: None })
    }
}

/// Whether the options after a mount's path forbid writing; none where that is no list of options.
/// Those that label files for SELinux or order caches of other hosts change nothing here.
///
/// # Errors
/// Names an option that asks for something else.
fn read_only(options: &str) -> Result<Option<bool>, Error> {
    let mut read_only = false;
    for option in options.split(',') {
        match option {
            "ro" | "readonly" => read_only = true,
            "rw" | "z" | "Z" | "cached" | "delegated" | "consistent" | "private" | "rprivate" => {}
            "shared" | "rshared" | "slave" | "rslave" | "nocopy" | "U" | "O" => {
                let what = "an option of a mount here: ro, rw, z and Z are";
                return Err(Error::BadArgument { text: option.to_owned(), what });
            }
            _ => return Ok(None),
        }
    }
    Ok(Some(read_only))
}

/// The name of a volume for one task alone: 32 hex digits.
fn anonymous_volume() -> VolumeName {
    disk::random_hex::<16>().parse().expect("hex digits are a name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_to_publish_reads_as_docker_reads_it() {
        let publish = |address: Option<&str>, host_port, container_port| {
            Some(Publish {
                address: address.map(|a| a.parse().unwrap()),
                host_port,
                container_port,
                transport: Transport::Tcp,
            })
        };
        let udp = |host_port, port| {
            publish(None, host_port, port)
                .map(|publish| Publish { transport: Transport::Udp, ..publish })
        };
        for (text, want) in [
            ("8080:80", publish(None, 8080, 80)),
            ("8080:80/tcp", publish(None, 8080, 80)),
            ("80", publish(None, 0, 80)),
            ("0:80", publish(None, 0, 80)),
            ("127.0.0.1:8080:80", publish(Some("127.0.0.1"), 8080, 80)),
            ("127.0.0.1::80", publish(Some("127.0.0.1"), 0, 80)),
            ("[::1]:8080:80", publish(Some("::1"), 8080, 80)),
            ("8080:80/udp", udp(8080, 80)),
            ("53/udp", udp(0, 53)),
            ("8080:80/sctp", None),
            ("", None),
            (":", None),
            ("8080:", None),
            ("8080:0", None),
            ("99999:80", None),
            ("+80:80", None),
            ("localhost:8080:80", None),
        ] {
            assert_eq!(text.parse::<Publish>().ok(), want, "{text}");
        }
    }

    #[test]
    fn every_exposed_port_is_published_once() {
        let image = LocalImage {
            name: "cats".to_owned(),
            digest: Digest::of(b"cats"),
            layout: "/images".into(),
        };
        let asked: Publish = "8080:80".parse().unwrap();
        let mut request = RunRequest { ports: vec![asked], ..RunRequest::of(image) };
        let tcp = Port::tcp;
        let udp = Port { number: 80, transport: Transport::Udp };
        request.settings.expose = [tcp(80), tcp(81)].into();
        assert_eq!(request.ports(&[tcp(443)]), [asked]);
        request.settings.publish_all = true;
        let ports = request.ports(&[tcp(80), udp, tcp(443)]);
        let ports: Vec<_> =
            ports.iter().map(|port| format!("{}:{}", port.host_port, port.port())).collect();
        assert_eq!(ports, ["8080:80/tcp", "0:81/tcp", "0:80/udp", "0:443/tcp"]);
    }

    #[test]
    fn a_range_of_ports_is_as_many_ports() {
        for (text, want) in [
            ("8000-8002:9000-9002", "8000:9000 8001:9001 8002:9002"),
            ("9000-9001", "0:9000 0:9001"),
            ("127.0.0.1:8000-8001:80-81", "8000:80 8001:81"),
            ("127.0.0.1::80-81/tcp", "0:80 0:81"),
            ("8080:80", "8080:80"),
            ("5000-5001:53-54/udp", "5000:53 5001:54"),
        ] {
            let range: PublishRange =
                text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            let shown = range.0.iter().map(|p| format!("{}:{}", p.host_port, p.container_port));
            assert_eq!(shown.collect::<Vec<_>>().join(" "), want, "{text}");
        }
        for (text, why) in [
            ("8000-8002:80", "a port to publish"),
            ("8000:80-81", "as many ports"),
            ("8000-8002:80-81", "as many ports"),
            ("9001-9000", "a port to publish"),
            ("1-60000", "256 ports"),
        ] {
            let error = text.parse::<PublishRange>().expect_err(text).to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_mount_reads_as_docker_reads_it() {
        let here = std::env::current_dir().unwrap();
        let volume = |name: &str| MountSource::Volume(name.parse().unwrap());
        for (text, want) in [
            ("book:/data", Some((volume("book"), "/data", false))),
            ("book:/data/:ro", Some((volume("book"), "/data", true))),
            ("/srv/a:b:/data:rw", Some((MountSource::Folder("/srv/a:b".into()), "/data", false))),
            ("/srv:/", None), // an image has a root of its own
            ("book:/data:z", Some((volume("book"), "/data", false))),
            ("book:/data:ro,Z", Some((volume("book"), "/data", true))),
            ("book:/data:ro,nocopy", None),
            ("book:/data:rshared", None),
            ("data", None),
            ("book:data", None),
            ("./x:/data", Some((MountSource::Folder(here.join("x")), "/data", false))),
            ("../x:/data", Some((MountSource::Folder(here.join("../x")), "/data", false))),
            ("x/y:/data", None),
            ("book:/a/../b", None),
            (":/data", None),
        ] {
            let got = text.parse::<Mounted>().ok();
            let want = want.map(|(source, path, read_only)| Mounted {
                source,
                path: path.to_owned(),
                read_only,
                bytes_max: None,
            });
            assert_eq!(got, want, "{text}");
        }
        let alone: Mounted = "/data:ro".parse().unwrap();
        assert_eq!((alone.path.as_str(), alone.read_only), ("/data", true));
        assert!(matches!(alone.source, MountSource::Volume(name) if name.as_str().len() == 32));
    }
}
