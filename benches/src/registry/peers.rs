use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::{
    load::{self, Server},
    machine,
    platform::Margay,
};

pub const REPOSITORY: &str = "bench/data";
const USER: &str = "bench";
const PASSWORD: &str = "a password of a benchmark";

/// Where a registry is, and with what it is asked.
#[derive(Clone)]
pub struct Address {
    pub port: u16,
    pub login: Option<String>,
}

/// A registry that runs.
pub struct Peer {
    pub name: &'static str,
    pub address: Address,
    program: PathBuf,
    folder: TempDir,
    server: Option<Server>,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Margay,
    Zot,
    Distribution,
}

/// Their programs, and how they come to be there.
const PEERS: [(&str, &str, Kind, &str); 3] = [
    ("zot", "zot", Kind::Zot, "from its releases"),
    (
        "distribution 3",
        "registry",
        Kind::Distribution,
        "go install github.com/distribution/distribution/v3/cmd/registry@v3.1.2",
    ),
    ("distribution 2.8", "docker-registry", Kind::Distribution, "apt-get install docker-registry"),
];

/// Says which peers are not there.
pub fn name_absent() {
    for (_, program, _, how) in PEERS {
        machine::peer(program, how);
    }
}

/// margay, and what is installed of the others.
pub fn all(margay: &Margay) -> Result<Vec<Peer>> {
    let mut peers = vec![self::margay(margay)?];
    if let Some(before) = Margay::before()? {
        peers.push(Peer::start("margay before", before.program().to_owned(), Kind::Margay)?);
    }
    for (name, program, kind, _) in PEERS {
        if let Some(program) = machine::find(program) {
            peers.push(Peer::start(name, program, kind)?);
        }
    }
    Ok(peers)
}

pub fn margay(margay: &Margay) -> Result<Peer> {
    Peer::start("margay", margay.program().to_owned(), Kind::Margay)
}

impl Peer {
    fn start(name: &'static str, program: PathBuf, kind: Kind) -> Result<Self> {
        let address = Address { port: load::free_port()?, login: None };
        let folder = tempfile::tempdir()?;
        let mut peer = Self { name, address, program, folder, server: None, kind };
        peer.restart()?;
        if kind == Kind::Margay {
            peer.add_user()?;
            peer.log_in()?;
        }
        Ok(peer)
    }

    pub fn is_margay(&self) -> bool {
        self.kind == Kind::Margay
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("it was started")
    }

    pub fn cpu_time(&self) -> Duration {
        self.server().cpu_time()
    }

    /// `margay registry ARGS`, for this one.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("registry").args(args).env("MARGAY_HOME", self.folder.path());
        command.stdout(Stdio::null());
        command
    }

    /// Ends it and starts it again. How long it took until it answered.
    pub fn restart(&mut self) -> Result<Duration> {
        self.server = None;
        let mut command = match self.kind {
            Kind::Margay => {
                let port = format!("127.0.0.1:{}", self.address.port);
                self.command(&["--listen", &port])
            }
            Kind::Zot => zot(&self.program, self.folder.path(), self.address.port)?,
            Kind::Distribution => {
                distribution(&self.program, self.folder.path(), self.address.port)?
            }
        };
        let began = Instant::now();
        self.server = Some(Server::start(&mut command)?);
        let url = format!("http://127.0.0.1:{}/v2/", self.address.port);
        while load::get(&url).is_err() {
            ensure!(began.elapsed() < Duration::from_secs(60), "{} does not answer", self.name);
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(began.elapsed())
    }

    fn add_user(&self) -> Result<()> {
        let mut command = self.command(&["user", "add", USER, "--password-stdin"]);
        let mut adding = command.stdin(Stdio::piped()).spawn()?;
        adding.stdin.take().context("a pipe")?.write_all(PASSWORD.as_bytes())?;
        ensure!(adding.wait()?.success(), "cannot add a user");
        Ok(())
    }

    /// Another token, as clients ask for one: it lasts for some minutes.
    pub fn log_in(&mut self) -> Result<()> {
        if self.kind != Kind::Margay {
            return Ok(());
        }
        let url = format!(
            "http://127.0.0.1:{}/token?service=bench&scope=repository:{REPOSITORY}:pull,push,delete",
            self.address.port
        );
        let login = format!("{USER}:{PASSWORD}");
        let said = Command::new("curl").args(["-sf", "-u", &login, &url]).output()?;
        ensure!(said.status.success(), "curl failed on {url}");
        let said: serde_json::Value = serde_json::from_slice(&said.stdout)?;
        let token = said["token"].as_str().context("a token")?;
        self.address.login = Some(format!("Bearer {token}"));
        Ok(())
    }

    /// A number of `/proc/PID/status`, in megabytes.
    pub fn memory(&self, name: &str) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.server().id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let Some(kilobytes) = line.and_then(|line| line.split_whitespace().next()) else {
            bail!("no {name} of {}", self.name)
        };
        Ok(kilobytes.parse::<f64>()? / 1024.0)
    }
}

/// As durable as margay: it syncs what it commits.
fn zot(program: &Path, folder: &Path, port: u16) -> Result<Command> {
    let config = serde_json::json!({
        "distSpecVersion": "1.1.1",
        "storage": { "rootDirectory": folder.join("data"), "commit": true },
        "http": { "address": "127.0.0.1", "port": port.to_string() },
        "log": { "level": "error", "output": folder.join("log") },
    });
    let path = folder.join("zot.json");
    std::fs::write(&path, config.to_string())?;
    let mut command = Command::new(program);
    command.arg("serve").arg(path);
    Ok(command)
}

fn distribution(program: &Path, folder: &Path, port: u16) -> Result<Command> {
    let path = folder.join("distribution.yml");
    let config = format!(
        "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  \
         filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\n  cache:\n    \
         blobdescriptor: inmemory\nhttp:\n  addr: 127.0.0.1:{port}\n",
        folder.join("data").display()
    );
    std::fs::write(&path, config)?;
    let mut command = Command::new(program);
    command.arg("serve").arg(path).env("OTEL_TRACES_EXPORTER", "none");
    Ok(command)
}
