use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use node::PrivateNetwork;
use orchestrator::Config;
use registry::Tokens;
use sandbox::{Network, Service};
use spec::{PortRange, Tenant};

use crate::{
    home::Home,
    platform::{
        self,
        acme::AcmeFlags,
        apart,
        copies::Holder,
        front::Certificate,
        listen::{LISTEN_FD, Listen},
    },
    resolver::RegistryResolver,
    rights,
    serve::{self, Child},
};

/// Run the control plane apart
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    listen: Listen,
    /// The address that join tokens and credentials name [default: the one that it listens on]
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// The registry that images without one mean
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from(([127, 0, 0, 1], platform::REGISTRY_PORT)))]
    registry: SocketAddr,
    /// The key file of that registry, with which nodes get tokens to pull [default: the one in this
    /// home]
    #[arg(long, value_name = "FILE")]
    registry_key: Option<PathBuf>,
    /// The operator's tenant: the principal of requests through the socket
    #[arg(long, value_name = "NAME", default_value = "me")]
    user: Tenant,
    /// The end of the host names of services, SERVICE.CLUSTER.DOMAIN
    #[arg(long, value_name = "DOMAIN", default_value = platform::DOMAIN, value_parser = platform::domain)]
    domain: String,
    /// Let images come from registries in this internal network too, beside the bundled one
    #[arg(long, value_name = "ADDRESS/BITS")]
    private_network: Vec<PrivateNetwork>,
    /// The ports that ingresses have set aside for services that speak no HTTP
    #[arg(long, value_name = "FIRST-LAST")]
    ingress_ports: Option<PortRange>,
    #[command(flatten)]
    certificate: Certificate,
    #[command(flatten)]
    acme: AcmeFlags,
    #[command(flatten)]
    child: Child,
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        self.child.begin(self.listen.inherited_fd().as_slice())?;
        let acme = self.acme.config()?;
        let listener = self.listen.socket(platform::SERVER_PORT)?;
        if self.certificate.paths().is_some() && !self.child.has_parent() {
            self.listen.announce("control plane", &listener)?;
            let listeners = vec![(LISTEN_FD, listener)];
            let (certificate, holder) = (&self.certificate, Holder::ControlPlane);
            return apart::serve(home, "server", self.arguments(), listeners, certificate, holder);
        }
        let data_dir = home.folder("server")?;
        let tokens = match &self.registry_key {
            Some(path) => Tokens::load(path)?,
            // Whichever of the two starts first makes it.
            None => {
                Tokens::open(&home.folder("registry")?).context("cannot open the registry's key")?
            }
        };
        let networks = self.private_network.into_iter().map(PrivateNetwork::host).collect();
        let authorities = platform::certificates::authorities(home)?;
        // What lies elsewhere was read before this process becomes another user.
        self.child.confine(&Service {
            user: rights::CONTROL_PLANE,
            home: home.path(),
            owns: Some(&data_dir),
            reads: &[],
            network: Network::Connects,
        })?;
        self.listen.announce("control plane", &listener)?;
        let config = Config {
            data_dir,
            socket: home.server_socket(),
            listener: Some(listener),
            advertise: self.advertise,
            certificate: self.certificate.open()?,
            tenant: self.user,
            domain: self.domain,
            acme,
            ingress_ports: self.ingress_ports,
            registry: Some(self.registry.to_string()),
            resolver: Arc::new(RegistryResolver::new(self.registry, tokens, authorities, networks)),
        };
        serve::until_shutdown(|stop| orchestrator::serve(config, stop))
    }

    /// For the process that serves, beside its certificate.
    fn arguments(&self) -> Vec<String> {
        let (registry, user) = (self.registry.to_string(), self.user.to_string());
        let key = self.registry_key.as_ref().map(|path| path.display().to_string());
        let flags = [
            ("--advertise", self.advertise.clone()),
            ("--registry", Some(registry)),
            ("--registry-key", key),
            ("--user", Some(user)),
            ("--domain", Some(self.domain.clone())),
            ("--ingress-ports", self.ingress_ports.map(|ports| ports.to_string())),
        ];
        let flags = flags.into_iter().filter_map(|(flag, value)| Some([flag.to_owned(), value?]));
        let networks = self.private_network.iter();
        let networks =
            networks.map(|network| ["--private-network".to_owned(), network.to_string()]);
        flags.chain(networks).flatten().chain(self.acme.arguments()).collect()
    }
}
