use std::{net::SocketAddr, os::fd::RawFd};

use node::ingress::IngressConfig;

use crate::{
    home::Home,
    platform::{
        self, apart,
        copies::Holder,
        front::IngressFront,
        listen::{LISTEN_FD, Listen, PEERS_FD, bind, inherited},
    },
    serve::Child,
};

/// Run the ingress apart: requests by host name to healthy tasks
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    listen: Listen,
    /// Answer the ingresses of other nodes here
    #[arg(long, value_name = "ADDRESS:PORT")]
    peers: Option<SocketAddr>,
    /// Take over a listening socket that the parent left open
    #[arg(long, hide = true, conflicts_with = "peers")]
    peers_fd: Option<RawFd>,
    #[command(flatten)]
    front: IngressFront,
    #[command(flatten)]
    child: Child,
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let kept: Vec<RawFd> =
            self.listen.inherited_fd().into_iter().chain(self.peers_fd).collect();
        self.child.begin(&kept)?;
        let listener = self.listen.socket(platform::INGRESS_PORT)?;
        self.listen.announce("ingress", &listener)?;
        let peers = match (self.peers_fd, self.peers) {
            (Some(number), _) => Some(inherited(number)?),
            (None, Some(address)) => Some(bind(address, "--peers ADDRESS:")?),
            (None, None) => None,
        };
        if self.front.certificate.paths().is_some() && !self.child.has_parent() {
            let peers = peers.map(|peers| (PEERS_FD, peers));
            let listeners = [(LISTEN_FD, listener)].into_iter().chain(peers).collect();
            let arguments = self.front.arguments().collect();
            let certificate = &self.front.certificate;
            let holder = Holder::Ingress;
            return apart::serve(home, "ingress", arguments, listeners, certificate, holder);
        }
        let config = IngressConfig {
            home: home.node().clone(),
            listener,
            peers,
            certificate: self
                .front
                .certificate
                .paths()
                .map(|(chain, key)| (chain.into(), key.into())),
            proxies: self.front.proxies.trusted(),
            proxy_protocol: self.front.proxy_protocol,
            access_log: self.front.access_log,
            ports: self.front.ingress_ports,
            limits: node::ingress::Limits::default(),
        };
        let child = self.child;
        Ok(node::ingress::run(config, || child.end_with_parent_or_exit())?)
    }
}
