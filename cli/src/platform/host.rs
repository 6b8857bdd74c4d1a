//! A node on a machine of its own: its agent, and the ingress by which the other nodes reach its tasks.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::Context as _;
use node::JoinOptions;
use spec::wire::JoinToken;

use crate::{
    home::Home,
    output::{line, talk},
    verbs::up::asked_to_end,
};

use super::{
    LISTEN_FD, PEERS_FD, Ports, listen,
    supervisor::{Process, Supervisor},
};

/// Where a node is reached.
#[derive(Debug, Clone, clap::Args)]
pub struct Door {
    /// The address of this machine to listen on [default: the one from which it reaches the control plane]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<IpAddr>,
    /// Where requests come in; 0 for any free port
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    ingress_port: u16,
    /// Where the ingresses of other nodes reach this one's; 0 for any free port
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    peers_port: u16,
}

/// Joins, and then runs the node unless told not to.
pub async fn join_and_run(
    home: &Home,
    token: &JoinToken,
    options: JoinOptions,
    door: &Door,
    no_run: bool,
) -> anyhow::Result<()> {
    // The port is decided before the others are told about it; it is kept for every later start.
    let address = door.listen.or_else(|| towards(&token.address)).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let sockets = Sockets::bind(home, door, address)?;
    let options = JoinOptions { ingress_address: Some(sockets.peers.local_addr()?.to_string()), ..options };
    let name = node::join(home.node(), token, options).await?;
    line(format_args!("{name}"));
    match no_run {
        true => Ok(()),
        false => supervise(home, sockets, false).await,
    }
}

/// Runs a node that has joined.
pub async fn run(home: &Home, door: &Door, leave: bool) -> anyhow::Result<()> {
    let ports = Ports::last(home);
    let address = door.listen.or(ports.address).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    supervise(home, Sockets::bind(home, door, address)?, leave).await
}

async fn supervise(home: &Home, sockets: Sockets, leave: bool) -> anyhow::Result<()> {
    let asked = asked_to_end()?;
    let ingress = sockets.ingress.local_addr()?;
    let ingress_sockets = vec![(LISTEN_FD, sockets.ingress), (PEERS_FD, sockets.peers)];
    let leave = leave.then(|| "--leave".to_owned());
    let mut supervisor = Supervisor::new(
        home.clone(),
        vec![
            Process::new("ingress", vec!["ingress".to_owned()], ingress_sockets),
            Process::new("node", ["node".to_owned()].into_iter().chain(leave).collect(), Vec::new()),
        ],
    );
    for process in &mut supervisor.processes {
        process.start(home)?;
    }
    talk(format_args!("The node runs; requests come in at http://{ingress}. Ctrl-C ends it and its tasks."));
    let result = tokio::select! {
        () = asked => Ok(()),
        result = async { loop { if let Err(error) = supervisor.tend().await { break Err(error) } } } => result,
    };
    supervisor.drain().await;
    result
}

struct Sockets {
    ingress: std::net::TcpListener,
    peers: std::net::TcpListener,
}

impl Sockets {
    fn bind(home: &Home, door: &Door, address: IpAddr) -> anyhow::Result<Self> {
        let last = Ports::last(home);
        let sockets = Self {
            ingress: listen::bind_again(address, door.ingress_port, last.ingress, "--ingress-port")?,
            peers: listen::bind_again(address, door.peers_port, last.peers, "--peers-port")?,
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

/// Which of our addresses the way to `control_plane` starts from. Nothing is sent: a UDP socket only picks a route.
fn towards(control_plane: &str) -> Option<IpAddr> {
    let to: SocketAddr = control_plane.parse().ok()?;
    let socket = UdpSocket::bind((if to.is_ipv4() { "0.0.0.0" } else { "::" }, 0)).ok()?;
    socket.connect(to).ok()?;
    Some(socket.local_addr().ok()?.ip())
}
