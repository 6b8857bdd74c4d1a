//! `margay up`: four processes that share a home, and the supervisor that starts them, prints where
//! they listen, and restarts those that exit.

pub mod certificates; // of the platform's own authority
pub mod acme; // certificates of hosts, from another authority
pub mod front; // a certificate, and proxies
pub mod copies; // of the certificate, for servers that read nothing else
pub mod host; // a node and its ingress on a machine of their own
pub mod listen; // sockets that outlive the process that answers on them
pub mod record; // up.json
pub mod supervisor; // start, watch, restart, drain
pub mod apart; // one server with a certificate
pub mod log_file; // what a platform in the background has to say
pub mod background; // `up -d`
pub mod service_manager; // systemd
pub mod hooks; // programs that add and remove machines
pub mod reboot; // tasks that a reboot has ended

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use disk::Lock;
use orchestrator::{Client, CreateJoinToken};
use spec::{HostName, NodeCondition, Tenant};

use crate::{
    authorities,
    failure::Advice,
    home::{Home, write_private},
    output::notice,
    serve::{ShutdownSignal, keep_agent_capabilities, say_few_descriptors},
};
use copies::{Copies, Holder};
use listen::{LISTEN_FD, PEERS_FD, Ports};
use record::Record;
pub use supervisor::Restarts;
use supervisor::{Process, Supervisor};

/// The end of every host name: browsers and resolvers answer it with this machine.
pub const DOMAIN: &str = "localhost";

/// A domain below which host names are made.
pub fn domain(text: &str) -> Result<String, spec::ParseError> {
    match text.parse::<HostName>() {
        _ if text == DOMAIN => Ok(text.to_owned()),
        Ok(host) if host.is_wildcard() => Err(spec::ParseError::about(
            text,
            "is a wildcard: leave `*.` out, every name is made below the domain",
        )),
        host => host.map(|host| host.to_string()),
    }
}
pub const SERVER_PORT: u16 = 7700;
pub const REGISTRY_PORT: u16 = 5000;
pub const INGRESS_PORT: u16 = 8000;
/// Ten times what a loaded machine with two cores takes.
const START_TIME_MAX: Duration = Duration::from_secs(30);
const POLL_EVERY: Duration = Duration::from_millis(10);

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
    /// Let tasks run on when it is asked to end, for the next one to adopt: an upgrade
    #[arg(long)]
    pub leave: bool,
    /// The end of the host names of services, SERVICE.CLUSTER.DOMAIN; a wildcard record for it in
    /// DNS leads to the ingress
    #[arg(long, value_name = "DOMAIN", default_value = DOMAIN, value_parser = domain)]
    pub domain: String,
    #[command(flatten)]
    pub front: front::IngressFront,
    #[command(flatten)]
    pub url: front::PublicUrl,
    #[command(flatten)]
    pub acme: acme::AcmeFlags,
    #[command(flatten)]
    pub tuning: host::Tuning,
}

impl Settings {
    /// The address that nodes and clients on other machines are given.
    fn advertised(&self, outbound_address: impl FnOnce() -> Option<IpAddr>) -> IpAddr {
        match self.advertise {
            Some(address) => address,
            None if self.listen.is_unspecified() => {
                outbound_address().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
            }
            None => self.listen,
        }
    }
}

/// The address of this machine from which it reaches other machines: the source of a route to an
/// address that is reserved for documentation.
pub fn outbound_address() -> Option<IpAddr> {
    host::source_address("192.0.2.1:9").or_else(|| host::source_address("[2001:db8::1]:9"))
}

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

struct Platform {
    home: Home,
    supervisor: Supervisor,
    record: Record,
    certificate: Option<Copies>,
    /// Held for as long as this lives: one `up` in a home.
    _lock: Lock,
}

pub fn password_file(home: &Home) -> PathBuf {
    home.path().join("registry/password")
}

/// Keeps another password of the user that `margay up` made, where it is read from the home.
pub fn keep_password(home: &Home, user: &Tenant, password: &str) -> anyhow::Result<()> {
    let path = password_file(home);
    match Record::read(home)? {
        Some(record) if record.user == user.as_str() && path.exists() => {
            write_private(&path, password.as_bytes())
        }
        _ => Ok(()),
    }
}

/// Starts the four processes and waits until each does its work; restarts those that exit, until
/// `work` is done or a signal comes; then ends them.
pub async fn run(
    home: &Home,
    settings: &Settings,
    restarts: Restarts,
    work: impl AsyncFnOnce(Record) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    keep_agent_capabilities()?;
    say_few_descriptors();
    let mut shutdown = ShutdownSignal::listen()?;
    let mut platform = Platform::prepare(home, settings, restarts)?;
    let result = tokio::select! {
        () = shutdown.recv() => Ok(()),
        result = platform.serve(work) => result,
    };
    platform.stop(&mut shutdown).await;
    result
}

impl Platform {
    fn prepare(home: &Home, settings: &Settings, restarts: Restarts) -> anyhow::Result<Self> {
        settings.acme.config()?; // what is wrong with its files is said before anything starts
        let lock = lock(home)?;
        let sockets = Sockets::bind(home, settings)?;
        // Two processes want the key: neither has to make it while the other looks.
        registry::Tokens::open(&home.folder("registry")?)?;
        let here = settings.advertised(outbound_address);
        let advertised =
            |socket: &TcpListener| socket.local_addr().map(|at| SocketAddr::new(here, at.port()));
        let record = Record {
            version: record::VERSION,
            pid: std::process::id(),
            user: settings.user.to_string(),
            server: advertised(&sockets.server)?,
            registry: advertised(&sockets.registry)?,
            ingress: sockets.ingress.local_addr()?,
            ingress_tls: settings.front.certificate.paths().is_some(),
            peers: advertised(&sockets.peers)?,
            domain: settings.domain.clone(),
            processes: Vec::new(),
        };
        let certificate = settings.front.certificate.copies(home, &Holder::ALL)?;
        let issued = issue(home, &record, settings)?;
        let processes = processes(home, &record, sockets, settings, issued);
        let supervisor = Supervisor { home: home.clone(), processes, restarts };
        Ok(Self { home: home.clone(), supervisor, record, certificate, _lock: lock })
    }

    async fn serve(
        &mut self,
        work: impl AsyncFnOnce(Record) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.start_processes().await?;
        let work = work(self.record.clone());
        let certificate = self.certificate.take();
        let home = self.home.clone();
        tokio::select! {
            result = work => result,
            result = self.supervise() => result,
            never = copies::keep_up(certificate.as_ref()) => match never {},
            never = hooks::carry_out(&home) => match never {},
        }
    }

    /// Each process after those that it depends on.
    async fn start_processes(&mut self) -> anyhow::Result<()> {
        self.home.folder("run")?;
        self.start_process("registry")?;
        self.start_process("server")?;
        let client = Client::unix(self.home.server_socket());
        let registry = registry_client(&self.home, &self.record)?;
        let health = || async { Ok(client.health().await.map(drop)?) };
        self.wait_until("the control plane", health).await?;
        let name = self.record.registry_name();
        self.wait_until("the registry", || async { answers(&registry, &name).await }).await?;
        self.create_first_user().await?;
        self.join(&client).await?;
        self.start_process("ingress")?;
        self.start_process("node")?;
        self.wait_until("the node", || async { is_ready(&client).await }).await?;
        self.write_record()
    }

    fn start_process(&mut self, name: &str) -> anyhow::Result<()> {
        let process = self.supervisor.processes.iter_mut().find(|process| process.name == name);
        process.context("no such process")?.start(&self.home)
    }

    /// Polls until `ready`. A process that exits meanwhile has printed why, and ends the wait.
    async fn wait_until<F: Future<Output = anyhow::Result<()>>>(
        &mut self,
        what: &str,
        mut ready: impl FnMut() -> F,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIME_MAX;
        while let Err(error) = ready().await {
            if let Some(dead) = self.supervisor.exited_process() {
                bail!(
                    Advice::new(format!("the {dead} exited during start-up"))
                        .hint("its error is printed above; margay doctor checks this machine")
                );
            }
            let seconds = START_TIME_MAX.as_secs();
            if Instant::now() > deadline {
                return Err(error.context(format!("{what} did not answer within {seconds} s")));
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
        Ok(())
    }

    /// Restarts processes that exit.
    async fn supervise(&mut self) -> anyhow::Result<()> {
        loop {
            if self.supervisor.supervise().await? {
                self.write_record()?;
                self.rejoin().await;
            }
        }
    }

    /// A node of this machine that was removed by force joins again, without work: the platform of
    /// `up` always has one.
    async fn rejoin(&self) {
        if node::check_joined(self.home.node()).is_ok() {
            return;
        }
        // While the control plane is away the node exits again, and this runs again with it.
        if let Err(error) = self.join(&Client::unix(self.home.server_socket())).await {
            notice(format_args!("this machine cannot join its platform again yet: {error:#}"));
        }
    }

    /// Ends everything in order, tasks included. A second signal ends the wait.
    async fn stop(mut self, shutdown: &mut ShutdownSignal) {
        service_manager::tell("STOPPING=1");
        notice(format_args!("Ending…"));
        tokio::select! {
            () = self.supervisor.drain() => {}
            () = shutdown.recv() => notice(format_args!("Killing what still runs")),
        }
        // Dropping this kills the processes that were not waited for.
        let _ = std::fs::remove_file(self.home.up_json());
    }

    /// The first user of the registry gets a generated password, kept where only its owner can read
    /// it.
    async fn create_first_user(&self) -> anyhow::Result<()> {
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
        Ok(admin.put_user(&user, &password, registry::Existing::Any).await?)
    }

    /// At the first start this machine becomes the platform's first node, and takes work of every
    /// launch type. At every later start it is given the present addresses and ports. A node that
    /// was removed meanwhile joins again.
    async fn join(&self, client: &Client) -> anyhow::Result<()> {
        let Record { server, registry, peers, .. } = &self.record;
        let [server, registry, peers] = [server, registry, peers].map(ToString::to_string);
        let joined = node::relocate(self.home.node(), &server, &registry, &peers)?;
        if let Some(node) = joined {
            match client.node(&node).await {
                Err(error) if error.fault().is_some_and(|fault| fault.code == "not-found") => {
                    notice(format_args!(
                        "Node `{node}` was removed from this platform: it joins again"
                    ));
                }
                known => return Ok(known.map(drop)?),
            }
        }
        let made = client.create_join_token(CreateJoinToken { pool: true, shared: false }).await?;
        let options = node::JoinOptions {
            name: Some("local".parse()?),
            ingress_address: Some(peers),
            ..node::JoinOptions::default()
        };
        node::join(self.home.node(), &made.token.parse()?, options).await?;
        Ok(())
    }

    fn write_record(&mut self) -> anyhow::Result<()> {
        let processes = self.supervisor.processes.iter();
        self.record.processes =
            processes.map(|process| (process.name.to_owned(), process.pid())).collect();
        self.record.write(&self.home)
    }
}

/// The processes in the order in which they are started, with their arguments.
fn processes(
    home: &Home,
    record: &Record,
    sockets: Sockets,
    settings: &Settings,
    issued: Vec<String>,
) -> Vec<Process> {
    let Settings { tuning, front, url, .. } = settings;
    let leave = settings.leave.then(|| "--leave".to_owned());
    let copied = |holder: Holder| {
        let arguments = front.certificate.paths().map(|_| holder.arguments(home));
        arguments.unwrap_or_default().into_iter()
    };
    let registry_arguments = copied(Holder::Registry).chain(front.proxies.arguments());
    let registry_arguments = registry_arguments.chain(url.arguments()).chain(issued).collect();
    let (server, registry) = (record.server.to_string(), record.registry.to_string());
    let server = ["--advertise", &server, "--registry", &registry, "--user", &record.user];
    let server = server.into_iter().chain(["--domain", &record.domain]).map(str::to_owned);
    let server = server.chain(tuning.networks());
    let server = server.chain(settings.acme.arguments()).chain(front.ports());
    let server = server.chain(copied(Holder::ControlPlane)).collect();
    let ingress_arguments = copied(Holder::Ingress).chain(front.arguments()).collect();
    let ingress = vec![(LISTEN_FD, sockets.ingress), (PEERS_FD, sockets.peers)];
    vec![
        Process::new("registry", registry_arguments, vec![(LISTEN_FD, sockets.registry)]),
        Process::new("server", server, vec![(LISTEN_FD, sockets.server)]),
        Process::new("ingress", ingress_arguments, ingress),
        Process::new("node", tuning.arguments().into_iter().chain(leave).collect(), Vec::new()),
    ]
}

/// Where other machines reach the registry it has a certificate of the platform's authority, which
/// this home and its nodes trust: the arguments that name it.
fn issue(home: &Home, record: &Record, settings: &Settings) -> anyhow::Result<Vec<String>> {
    if record.registry.ip().is_loopback() && settings.listen.is_loopback() {
        return Ok(Vec::new());
    }
    let names = [record.registry.ip().to_string()];
    let issued = certificates::issue(home, settings.listen, &names)?;
    let folder = home.folder("registry")?;
    let (chain, key) = (folder.join("platform.crt"), folder.join("platform.key"));
    copies::write_for_owner(&folder, "platform.crt", issued.chain.as_bytes())?;
    copies::write_for_owner(&folder, "platform.key", issued.key.as_bytes())?;
    authorities::keep(home, &record.registry.to_string(), &issued.ca)?;
    let text = |path: PathBuf| path.display().to_string();
    Ok(vec!["--platform-cert".to_owned(), text(chain), text(key)])
}

/// One `up` in a home: the lock goes with the process, however that ends.
fn lock(home: &Home) -> anyhow::Result<Lock> {
    let path = home.folder("run")?.join("up.lock");
    let lock = Lock::try_exclusive(&path);
    if let Some(lock) = lock.with_context(|| format!("cannot lock `{}`", path.display()))? {
        return Ok(lock);
    }
    let pid = Record::read(home).ok().flatten().map(|record| format!(" (process {})", record.pid));
    let (home, pid) = (home.path().display(), pid.unwrap_or_default());
    bail!(Advice::new(format!("margay is up already in `{home}`{pid}")).hint(
        "use it, end it with `margay down`, or start another in another MARGAY_HOME with --server-port 0 \
         --registry-port 0 --ingress-port 0"
    ))
}

/// Says early that a platform runs in this home.
fn refuse_a_second(home: &Home) -> anyhow::Result<()> {
    lock(home).map(drop)
}

fn registry_client(home: &Home, record: &Record) -> anyhow::Result<registry::Client> {
    Ok(registry::Client::new(registry::ClientOptions {
        authorities: authorities::of(home, &record.registry.to_string())?,
        idle_time_max: Duration::from_secs(2),
        retries_max: 0,
        ..registry::ClientOptions::default()
    }))
}

async fn answers(client: &registry::Client, registry: &str) -> anyhow::Result<()> {
    match client.check(registry).await {
        // It may want a login, but it is there.
        Ok(()) | Err(registry::Error::LoginNeeded { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn is_ready(client: &Client) -> anyhow::Result<()> {
    let nodes = client.nodes().await?;
    let ready = nodes.iter().any(|node| node.status.condition == NodeCondition::Ready);
    ensure!(ready, "it has not reported yet");
    Ok(())
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
        for (line, outbound_address, told) in [
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
            let outbound_address = || outbound_address.map(|text| text.parse().unwrap());
            assert_eq!(settings.advertised(outbound_address).to_string(), told, "{line:?}");
        }
    }
}
