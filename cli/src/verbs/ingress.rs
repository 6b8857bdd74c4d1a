use std::{net::SocketAddr, os::fd::RawFd};

use node::ingress::IngressConfig;

use crate::{
    home::Home,
    platform::{
        self,
        front::IngressFront,
        listen::{Listen, bind, inherited},
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
        let config = IngressConfig {
            home: home.node().clone(),
            listener,
            peers: match (self.peers_fd, self.peers) {
                (Some(number), _) => Some(inherited(number)?),
                (None, Some(address)) => Some(bind(address, "--peers ADDRESS:PORT with another")?),
                (None, None) => None,
            },
            certificate: self
                .front
                .certificate
                .paths()
                .map(|(chain, key)| (chain.into(), key.into())),
            proxies: self.front.proxies.trusted(),
            proxy_protocol: self.front.proxy_protocol,
            limits: node::ingress::Limits::default(),
        };
        let child = self.child;
        Ok(node::ingress::run(config, || child.end_with_parent_or_exit())?)
    }
}
