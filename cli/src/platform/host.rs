//! A node on a machine of its own: its agent, and the ingress by which the other nodes reach its
//! tasks.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use node::{JoinOptions, PrivateNetwork};
use spec::wire::JoinToken;

use crate::{
    failure::Advice,
    home::Home,
    output::{line, notice},
    serve::{ShutdownSignal, keep_agent_capabilities, say_few_descriptors},
};

use super::{
    copies::{self, Holder},
    front::IngressFront,
    listen::{LISTEN_FD, PEERS_FD, Ports, bind_again},
    supervisor::{Process, Restarts, Supervisor},
};

/// Where a node listens.
#[derive(Debug, Clone, clap::Args)]
pub struct ListenOptions {
    /// The address of this machine to listen on [default: the one from which it reaches the control
    /// plane]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<IpAddr>,
    /// Where requests come in; 0 for any free port
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    ingress_port: u16,
    /// Where the ingresses of other nodes reach this one's; 0 for any free port
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    peers_port: u16,
    #[command(flatten)]
    front: IngressFront,
}

/// How a node behaves.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Tuning {
    /// Open an internal network to grants with `;private` (the second of the two keys), to
    /// registries of images and to other nodes
    #[arg(long, value_name = "ADDRESS/BITS")]
    pub private_network: Vec<PrivateNetwork>,
    /// End the worker of a service in the pool after so long without a request; the next one starts
    /// it [default: 1m]
    #[arg(long, value_name = "DURATION", value_parser = idle_after)]
    idle_after: Option<Duration>,
    /// Keep so many spare workers, which start a task at once; each takes about 10 MB [default: 2]
    #[arg(long, alias = "blank-workers", value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(..=SPARE_WORKERS_MAX))]
    spare_workers: Option<u32>,
    /// As a node of the pool, run Linux programs of every tenant: each with users, a cgroup and a
    /// list of system calls of its own, and in the kernel that all of them share
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true")]
    pool_native: Option<bool>,
}

/// More than wake up at the same time on one machine.
const SPARE_WORKERS_MAX: i64 = 64;
/// Below a second workers would come and go between the requests of one page view; a day stands for
/// "never".
const IDLE_AFTER: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

fn idle_after(text: &str) -> Result<Duration, String> {
    let after = spec::parse_duration(text).map_err(|error| error.to_string())?;
    IDLE_AFTER.contains(&after).then_some(after).ok_or_else(|| "use 1s to 24h".to_owned())
}

impl Tuning {
    pub fn for_node(&self) -> node::Tuning {
        let Self { private_network, idle_after, spare_workers, pool_native } = self.clone();
        node::Tuning { private_networks: private_network, idle_after, spare_workers, pool_native }
    }

    /// As arguments of the process `margay node`.
    pub fn arguments(&self) -> Vec<String> {
        let idle_after = self
            .idle_after
            .map(|after| ["--idle-after".into(), format!("{}ms", after.as_millis())]);
        let workers =
            self.spare_workers.map(|count| ["--spare-workers".to_owned(), count.to_string()]);
        let native = self.pool_native.map(|runs| format!("--pool-native={runs}"));
        let words = idle_after.into_iter().chain(workers).flatten();
        words.chain(native).chain(self.networks()).collect()
    }

    /// Of these arguments, those that the control plane takes too.
    pub fn networks(&self) -> impl Iterator<Item = String> {
        self.private_network
            .iter()
            .flat_map(|network| ["--private-network".to_owned(), network.to_string()])
    }
}

/// Joins, and then runs the node unless told not to.
pub async fn join_and_run(
    home: &Home,
    token: &JoinToken,
    options: JoinOptions,
    listen: &ListenOptions,
    no_run: bool,
) -> anyhow::Result<()> {
    // Bound before it is announced to the control plane, and kept for every later start.
    let address = listen
        .listen
        .or_else(|| source_address(&token.address))
        .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let sockets = Sockets::bind(home, listen, address)?;
    let options =
        JoinOptions { ingress_address: Some(sockets.peers.local_addr()?.to_string()), ..options };
    let name = node::join(home.node(), token, options).await?;
    line(format_args!("{name}"));
    if no_run {
        return Ok(());
    }
    // The options of this call are in the node's settings already.
    supervise(home, sockets, &listen.front, Vec::new()).await
}

pub async fn run(
    home: &Home,
    listen: &ListenOptions,
    tuning: &Tuning,
    leave: bool,
) -> anyhow::Result<()> {
    node::check_joined(home.node())?;
    let ports = Ports::last(home);
    let address = listen.listen.or(ports.address).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let sockets = Sockets::bind(home, listen, address)?;
    let leave = leave.then(|| "--leave".to_owned());
    let arguments = tuning.arguments().into_iter().chain(leave).collect();
    supervise(home, sockets, &listen.front, arguments).await
}

async fn supervise(
    home: &Home,
    sockets: Sockets,
    front: &IngressFront,
    arguments: Vec<String>,
) -> anyhow::Result<()> {
    keep_agent_capabilities()?;
    let certificate = front.certificate.copies(home, &[Holder::Ingress])?;
    say_few_descriptors();
    let mut shutdown = ShutdownSignal::listen()?;
    let ingress = sockets.ingress.local_addr()?;
    let ingress_sockets = vec![(LISTEN_FD, sockets.ingress), (PEERS_FD, sockets.peers)];
    let copied = certificate.iter().flat_map(|_| Holder::Ingress.arguments(home));
    let mut supervisor = Supervisor {
        home: home.clone(),
        processes: vec![
            Process::new("ingress", copied.chain(front.arguments()).collect(), ingress_sockets),
            Process::new("node", arguments, Vec::new()),
        ],
        restarts: Restarts::Always,
    };
    for process in &mut supervisor.processes {
        process.start(home)?;
    }
    super::reboot::bring_back(home);
    let scheme = if certificate.is_some() { "https" } else { "http" };
    notice(format_args!(
        "The node runs; requests come in at {scheme}://{ingress}. Ctrl-C ends it and its tasks."
    ));
    let result = tokio::select! {
        () = shutdown.recv() => Ok(()),
        result = supervise_until_removed(&mut supervisor, home) => result,
        never = copies::keep_up(certificate.as_ref()) => match never {},
    };
    tokio::select! {
        () = supervisor.drain() => {}
        () = shutdown.recv() => notice(format_args!("Killing what still runs")),
    }
    result
}

/// Restarts processes that exit, unless the node was removed from its platform.
async fn supervise_until_removed(supervisor: &mut Supervisor, home: &Home) -> anyhow::Result<()> {
    loop {
        supervisor.supervise().await?;
        ensure!(
            node::check_joined(home.node()).is_ok(),
            Advice::new("this node was removed from its platform, and its tasks have ended")
                .hint("join again: margay node join TOKEN")
        );
    }
}

struct Sockets {
    ingress: std::net::TcpListener,
    peers: std::net::TcpListener,
}

impl Sockets {
    fn bind(home: &Home, listen: &ListenOptions, address: IpAddr) -> anyhow::Result<Self> {
        let last = Ports::last(home);
        let bind = |port, last, flag| bind_again(address, port, last, flag);
        let sockets = Self {
            ingress: bind(listen.ingress_port, last.ingress, "--ingress-port")?,
            peers: bind(listen.peers_port, last.peers, "--peers-port")?,
        };
        let ports = Ports {
            address: Some(address),
            ingress: sockets.ingress.local_addr()?.port(),
            peers: sockets.peers.local_addr()?.port(),
            ..last
        };
        ports.keep(home).context("cannot keep the ports")?;
        Ok(sockets)
    }
}

/// The address of this machine from which it reaches `control_plane`. Nothing is sent: connecting a
/// UDP socket only picks a route.
pub fn source_address(control_plane: &str) -> Option<IpAddr> {
    let to: SocketAddr = control_plane.parse().ok()?;
    let socket = UdpSocket::bind((if to.is_ipv4() { "0.0.0.0" } else { "::" }, 0)).ok()?;
    socket.connect(to).ok()?;
    Some(socket.local_addr().ok()?.ip())
}
