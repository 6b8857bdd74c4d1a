use std::{net::TcpListener, path::PathBuf, sync::Arc};

use net::tls::CertificateFiles;
use spec::{PortRange, Tenant};

use super::resolver::ImageResolver;
use crate::acme::AcmeConfig;

/// Everything that the control plane is told when it starts.
pub struct Config {
    /// Its own folder, made 0700: store, CA, keys, and the credential for the operator.
    pub data_dir: PathBuf,
    /// The Unix socket to listen on, 0600 in a folder that is made 0700. A user that may open it is
    /// the operator.
    pub socket: PathBuf,
    /// The TCP listener, which speaks TLS only; nothing when only the socket is wanted (then no
    /// node can join).
    pub listener: Option<TcpListener>,
    /// What clients are shown that call it by another name than a platform's own parts do.
    pub certificate: Option<CertificateFiles>,
    /// The `host:port` that join tokens and credentials name; the listener's own address when
    /// none is given.
    pub advertise: Option<String>,
    /// The operator's tenant: requests through the socket are of this one.
    pub tenant: Tenant,
    /// The end of every host name, as in `SERVICE.CLUSTER.localhost`.
    pub domain: String,
    /// The authority that is asked for certificates of hosts, where there is one.
    pub acme: Option<AcmeConfig>,
    /// The ports of ingresses that services may have.
    pub ingress_ports: Option<PortRange>,
    /// Where the bundled registry is, `host:port`: told to nodes when they join.
    pub registry: Option<String>,
    /// Turns an image as a user names it into a digest and wants.
    pub resolver: Arc<dyn ImageResolver>,
}
