//! `margay up`: four processes that share a home, and the one that starts them, says where they
//! are, and starts again what dies.

pub mod host; // a node and its ingress on a machine of their own
pub mod listen; // sockets that outlive the process that answers on them
pub mod record; // up.json
pub mod supervisor; // start, watch, start again, drain

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use orchestrator::{Client, CreateJoinToken};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use spec::{NodeCondition, Tenant};

use crate::{
    failure::{Advice, fail},
    home::{Home, write_private},
    output::talk,
    serve::Asked,
};
use record::Record;
use supervisor::{Process, Supervisor};

/// The end of every host name: browsers and resolvers answer it with this machine.
pub const DOMAIN: &str = "localhost";
/// Where the control plane listens unless said otherwise.
pub const SERVER_PORT: u16 = 7700;
/// Where the registry listens: the port that registries have.
pub const REGISTRY_PORT: u16 = 5000;
/// Where the ingress listens.
pub const INGRESS_PORT: u16 = 8000;
/// Slower machines than we know of are up within this.
const START_TIME_MAX: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Where a platform listens and whose it is.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// The address of this machine to listen on
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub listen: IpAddr,
    /// The address by which nodes reach this machine [default: the one to listen on, or of the way
    /// out when that is all]
    #[arg(long, value_name = "ADDRESS")]
    pub advertise: Option<IpAddr>,
    /// Where nodes reach the control plane; 0 for any free port
    #[arg(long, value_name = "PORT", default_value_t = SERVER_PORT)]
    pub server_port: u16,
    /// Where the registry listens; 0 for any free port
    #[arg(long, value_name = "PORT", default_value_t = REGISTRY_PORT)]
    pub registry_port: u16,
    /// Where requests come in; 0 for any free port
    #[arg(long, value_name = "PORT", default_value_t = INGRESS_PORT)]
    pub ingress_port: u16,
    /// Where the ingresses of other nodes reach this one's; 0 for any free port
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub peers_port: u16,
    /// Whose the clusters, services and repositories made here are
    #[arg(long, value_name = "NAME", default_value = "me")]
    pub user: Tenant,
    #[command(flatten)]
    pub tuning: host::Tuning,
}

impl Settings {
    /// What others are told: an address that leads here from where they are.
    fn advertised(&self, way_out: impl FnOnce() -> Option<IpAddr>) -> IpAddr {
        match self.advertise {
            Some(address) => address,
            None if self.listen.is_unspecified() => {
                way_out().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
            }
            None => self.listen,
        }
    }
}

/// Which of our addresses the way to other machines starts from, by the way to one that is
/// nobody's.
fn way_out() -> Option<IpAddr> {
    host::towards("192.0.2.1:9").or_else(|| host::towards("[2001:db8::1]:9"))
}

/// What the four listen on.
struct Sockets {
    server: TcpListener,
    registry: TcpListener,
    ingress: TcpListener,
    peers: TcpListener,
}

impl Sockets {
    fn bind(home: &Home, settings: &Settings) -> anyhow::Result<Self> {
        let last = Ports::last(home);
        let bind = |port, last, flag| listen::bind_again(settings.listen, port, last, flag);
        let sockets = Self {
            server: bind(settings.server_port, last.server, "--server-port")?,
            registry: bind(settings.registry_port, last.registry, "--registry-port")?,
            ingress: bind(settings.ingress_port, last.ingress, "--ingress-port")?,
            peers: bind(settings.peers_port, last.peers, "--peers-port")?,
        };
        let port = |socket: &TcpListener| socket.local_addr().map(|address| address.port());
        let now = Ports {
            address: Some(settings.listen),
            server: port(&sockets.server)?,
            registry: port(&sockets.registry)?,
            ingress: port(&sockets.ingress)?,
            peers: port(&sockets.peers)?,
        };
        now.keep(home)?;
        Ok(sockets)
    }
}

/// `run/ports.json`: where this home listened last. "Any free port" is that one again, where it is
/// still free, because names of images hold the registry's, and nodes know the control plane's.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Ports {
    address: Option<IpAddr>,
    server: u16,
    registry: u16,
    ingress: u16,
    peers: u16,
}

impl Ports {
    fn last(home: &Home) -> Self {
        let bytes = std::fs::read(home.path().join("run/ports.json")).ok();
        bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    fn keep(&self, home: &Home) -> anyhow::Result<()> {
        write_private(&home.folder("run")?.join("ports.json"), &serde_json::to_vec(self)?)
    }
}

/// The flags by which a process hears of a socket that it inherits.
const LISTEN_FD: &str = "--listen-fd";
const PEERS_FD: &str = "--peers-fd";

/// A platform that runs.
pub struct Platform {
    home: Home,
    supervisor: Supervisor,
    /// Where everything is.
    pub record: Record,
    /// Held for as long as this lives: one `up` in a home.
    _lock: File,
}

/// Where the password of the first user is kept.
pub fn password_file(home: &Home) -> PathBuf {
    home.path().join("registry/password")
}

impl Platform {
    /// Starts the four and waits until each does its work. `None` when it was asked to end before
    /// that.
    pub async fn start(
        home: &Home,
        settings: &Settings,
        asked: &mut Asked,
    ) -> anyhow::Result<Option<Self>> {
        let lock = lock(home)?;
        let sockets = Sockets::bind(home, settings)?;
        let here = settings.advertised(way_out);
        let advertised =
            |socket: &TcpListener| socket.local_addr().map(|at| SocketAddr::new(here, at.port()));
        let record = Record {
            version: Record::version(),
            pid: std::process::id(),
            user: settings.user.to_string(),
            server: advertised(&sockets.server)?,
            registry: advertised(&sockets.registry)?,
            ingress: sockets.ingress.local_addr()?,
            peers: advertised(&sockets.peers)?,
            processes: Vec::new(),
        };
        let supervisor =
            Supervisor::new(home.clone(), processes(&record, sockets, &settings.tuning));
        let mut platform = Self { home: home.clone(), supervisor, record, _lock: lock };
        let woken = tokio::select! {
            woken = platform.wake() => woken.map(|()| true),
            () = asked.again() => Ok(false),
        };
        match woken {
            Ok(true) => Ok(Some(platform)),
            ended => {
                platform.stop(asked).await;
                ended.map(|_| None)
            }
        }
    }

    /// In the order of who needs whom.
    async fn wake(&mut self) -> anyhow::Result<()> {
        self.home.folder("run")?;
        self.start_process("registry")?;
        self.start_process("server")?;
        let client = Client::unix(self.home.server_socket());
        let registry = registry_client(&self.record);
        self.until("the control plane", || async { client.health().await.is_ok() }).await?;
        let name = self.record.registry_name();
        self.until("the registry", || async { answers(&registry, &name).await }).await?;
        self.make_user().await?;
        self.join(&client).await?;
        self.start_process("ingress")?;
        self.start_process("node")?;
        self.until("the node", || async { is_ready(&client).await }).await?;
        self.note()
    }

    fn start_process(&mut self, name: &str) -> anyhow::Result<()> {
        let process = self.supervisor.processes.iter_mut().find(|process| process.name == name);
        process.context("no such process")?.start(&self.home)
    }

    /// Asks again until the answer is yes. A process that has ended meanwhile has said why, and is
    /// not waited for.
    async fn until<F: Future<Output = bool>>(
        &mut self,
        what: &str,
        mut ready: impl FnMut() -> F,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIME_MAX;
        while !ready().await {
            if let Some(dead) = self.supervisor.who_has_ended() {
                return fail(
                    Advice::new(format!("the {dead} ended while it started"))
                        .hint("what it said is above; margay doctor says what this machine lacks"),
                );
            }
            if Instant::now() > deadline {
                return fail(Advice::new(format!(
                    "{what} did not answer within {} s",
                    START_TIME_MAX.as_secs()
                )));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Starts again what dies, until the future that this is raced against is done.
    pub async fn tend(&mut self) -> anyhow::Result<()> {
        loop {
            if self.supervisor.tend().await? {
                self.note()?;
                self.come_back().await;
            }
        }
    }

    /// Who removes the node of this machine by force finds it back, without work: a platform of
    /// `up` has one.
    async fn come_back(&self) {
        if node::check_joined(self.home.node()).is_ok() {
            return;
        }
        // When the control plane is away, the node falls again, and this comes again with it.
        if let Err(error) = self.join(&Client::unix(self.home.server_socket())).await {
            talk(format_args!("this machine cannot join its platform again yet: {error:#}"));
        }
    }

    /// Ends everything in order, tasks included; who asks a second time does not want to wait for
    /// that.
    pub async fn stop(mut self, asked: &mut Asked) {
        talk(format_args!("Ending…"));
        tokio::select! {
            () = self.supervisor.drain() => {}
            () = asked.again() => talk(format_args!("Killing what still runs")),
        }
        // Whoever was not waited for is killed when this is dropped.
        let _ = std::fs::remove_file(self.home.up_json());
    }

    /// The first user of the registry gets a password of ours, kept where only its owner can read
    /// it.
    async fn make_user(&self) -> anyhow::Result<()> {
        let path = password_file(&self.home);
        let admin = registry::Admin::new(self.home.path().join("registry"));
        let user = self.record.user.parse()?;
        if path.exists() && admin.users().await?.contains(&user) {
            return Ok(());
        }
        let mut bytes = [0; 18];
        getrandom::fill(&mut bytes)
            .map_err(|error| anyhow::anyhow!("the kernel gives no random bytes: {error}"))?;
        let password: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        // Written first: a password that is known and not set is set anew, one that is set and not
        // known is lost.
        write_private(&path, password.as_bytes())?;
        Ok(admin.put_user(&user, &password).await?)
    }

    /// At the first start this machine becomes the platform's first node, and takes work of every
    /// launch type. At every other it hears where the platform is now: addresses and ports may be
    /// others than last time. One that was removed meanwhile joins again.
    async fn join(&self, client: &Client) -> anyhow::Result<()> {
        let Record { server, registry, peers, .. } = &self.record;
        let joined = node::relocate(
            self.home.node(),
            &server.to_string(),
            &registry.to_string(),
            &peers.to_string(),
        )?;
        if let Some(node) = joined {
            match client.node(&node).await {
                Err(orchestrator::Error::Refused(fault)) if fault.code == "not-found" => {
                    talk(format_args!(
                        "Node `{node}` was removed from this platform: it joins again"
                    ));
                }
                known => return Ok(known.map(drop)?),
            }
        }
        let made = client.create_join_token(CreateJoinToken { pool: true, shared: false }).await?;
        let options = node::JoinOptions {
            name: Some("local".parse()?),
            ingress_address: Some(peers.to_string()),
            ..node::JoinOptions::default()
        };
        node::join(self.home.node(), &made.token.parse()?, options).await?;
        Ok(())
    }

    fn note(&mut self) -> anyhow::Result<()> {
        let processes = self.supervisor.processes.iter();
        self.record.processes =
            processes.map(|process| (process.name.to_owned(), process.pid())).collect();
        self.record.write(&self.home)
    }
}

/// The processes in the order in which they are started, and what each is told.
fn processes(record: &Record, sockets: Sockets, tuning: &host::Tuning) -> Vec<Process> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let registry = record.registry.to_string();
    let address = record.server.to_string();
    let mut server = words(&[
        "server",
        "--advertise",
        &address,
        "--registry",
        &registry,
        "--user",
        &record.user,
    ]);
    server.extend(tuning.networks());
    vec![
        Process::new("registry", words(&["registry"]), vec![(LISTEN_FD, sockets.registry)]),
        Process::new("server", server, vec![(LISTEN_FD, sockets.server)]),
        Process::new(
            "ingress",
            words(&["ingress"]),
            vec![(LISTEN_FD, sockets.ingress), (PEERS_FD, sockets.peers)],
        ),
        Process::new(
            "node",
            words(&["node"]).into_iter().chain(tuning.words()).collect(),
            Vec::new(),
        ),
    ]
}

/// One `up` in a home: the lock goes with the process, however that ends.
fn lock(home: &Home) -> anyhow::Result<File> {
    let path = home.folder("run")?.join("up.lock");
    let file = File::options().write(true).create(true).truncate(false).open(&path);
    let file = file.with_context(|| format!("cannot open `{}`", path.display()))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
        return Ok(file);
    }
    let pid = Record::read(home).ok().flatten().map(|record| format!(" (process {})", record.pid));
    fail(Advice::new(format!("margay is up already in `{}`{}", home.path().display(), pid.unwrap_or_default())).hint(
        "use it, end it with Ctrl-C, or start another in another MARGAY_HOME with --server-port 0 \
                   --registry-port 0 --ingress-port 0",
    ))
}

fn registry_client(record: &Record) -> registry::Client {
    let plain_http = std::collections::HashSet::from([record.registry.to_string()]);
    registry::Client::new(registry::ClientOptions {
        plain_http,
        quiet_time_max: Duration::from_secs(2),
        retries_max: 0,
        ..registry::ClientOptions::default()
    })
}

async fn answers(client: &registry::Client, registry: &str) -> bool {
    match client.check(registry).await {
        // It may want a login, but it is there.
        Ok(()) | Err(registry::Error::LoginNeeded { .. }) => true,
        Err(_) => false,
    }
}

async fn is_ready(client: &Client) -> bool {
    let nodes = client.nodes().await.unwrap_or_default();
    nodes.iter().any(|node| node.status.condition == NodeCondition::Ready)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_told_an_address_that_leads_here() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            settings: Settings,
        }
        for (line, way_out, told) in [
            (&["up"][..], Some("10.0.0.5"), "127.0.0.1"),
            (&["up", "--listen", "10.0.0.7"], Some("10.0.0.5"), "10.0.0.7"),
            (&["up", "--listen", "0.0.0.0"], Some("10.0.0.5"), "10.0.0.5"),
            (&["up", "--listen", "::"], None, "127.0.0.1"),
            (
                &["up", "--listen", "0.0.0.0", "--advertise", "192.0.2.7"],
                Some("10.0.0.5"),
                "192.0.2.7",
            ),
        ] {
            let settings = <Line as clap::Parser>::parse_from(line).settings;
            let way_out = || way_out.map(|text| text.parse().unwrap());
            assert_eq!(settings.advertised(way_out).to_string(), told, "{line:?}");
        }
    }
}
