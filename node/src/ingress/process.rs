use std::{
    io,
    net::TcpListener,
    path::{Path, PathBuf},
};

use net::{TrustedProxies, tls::CertificateFiles};
use sandbox::{Network, Service};
use spec::PortRange;

use super::{
    access_log::{AccessLogFiles, AccessLogFormat},
    folder::{INGRESS_ID, IngressFolder},
    layer4::ReservedPorts,
    limits::Limits,
    server::{Front, Listeners, Told, serve},
};
use crate::{
    error::{Error, Result},
    home::Home,
};

#[derive(Debug)]
pub struct IngressConfig {
    /// Whose routes it serves.
    pub home: Home,
    /// For clients; listening already, so that its queue outlives this process when another one
    /// holds it too.
    pub listener: TcpListener,
    /// For the ingresses of other nodes, over mTLS; listening already as well.
    pub peers: Option<TcpListener>,
    pub limits: Limits,
    /// Files of a certificate and its key, when clients speak TLS.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Whose word about their clients is taken.
    pub proxies: TrustedProxies,
    /// Whether their connections begin with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// How the lines of the access log look, where there is one.
    pub access_log: Option<AccessLogFormat>,
    /// Ports that services may have.
    pub ports: Option<PortRange>,
}

/// Gives the ingress of `home` a certificate and its key, in PEM, in the folder that it reads.
///
/// # Errors
/// When the file cannot be written.
pub fn keep_certificate(home: &Home, text: &str) -> Result<()> {
    let folder = IngressFolder::at(home.ingress());
    folder.make()?;
    folder.write_certificate(text)
}

/// Runs the ingress in this process until it is asked to end (SIGTERM, SIGINT). `unprivileged` is
/// called once the rights of root are given up: the kernel forgets then whose child this is, and
/// a supervisor wants to say so again.
///
/// To be called before the process has a second thread: root becomes the ingress' own user here,
/// and everything but its folder and its sockets is given up, which is a matter of threads. The
/// folder of routes becomes the working folder, because that user may not be able to walk to it.
///
/// # Errors
/// When a right cannot be given up.
pub fn run(config: IngressConfig, unprivileged: impl FnOnce()) -> Result<()> {
    let folder = IngressFolder::at(config.home.ingress());
    folder.make()?;
    let told = Told::open(&folder)?;
    let (listener, peers) = (config.listener, config.peers);
    for socket in [Some(&listener), peers.as_ref()].into_iter().flatten() {
        socket.set_nonblocking(true).map_err(system("listen"))?;
    }
    let inside = folder.listen_inside()?;
    inside.set_nonblocking(true).map_err(system("listen"))?;
    let certificate = config.certificate.map(|(chain, key)| {
        let files = CertificateFiles::open(&chain, &key)?;
        // By a relative path below its folder, which is all that its user can walk from now on.
        Ok(match (chain.strip_prefix(folder.path()), key.strip_prefix(folder.path())) {
            (Ok(chain), Ok(key)) => files.moved(chain, key),
            _ => files,
        })
    });
    let certificate = certificate.transpose().map_err(Error::Certificate)?;
    let open = |format| -> Result<_> {
        let open = |path: &Path| {
            disk::open(path, disk::Purpose::Append).map_err(Error::file("open", path))
        };
        let [now, before] = folder.access_logs();
        let files = AccessLogFiles::new(open(&now)?, open(&before)?);
        Ok((format, files.map_err(system("open the access log"))?))
    };
    let access_log = config.access_log.map(open).transpose()?;
    net::Descriptors::raise();
    let address = listener.local_addr().map_err(system("listen"))?.ip();
    let ports = config.ports.map(|range| ReservedPorts::bind(address, range));
    if let Err(error) = engine::prefer_short_turns() {
        tracing::debug!(%error, "the ingress has turns of the usual length");
    }
    let service = Service {
        user: INGRESS_ID,
        home: config.home.root(),
        owns: None,
        reads: &[folder.path()],
        network: Network::Connects,
    };
    let confined = service.confine(unprivileged).map_err(system("give up the rights of root"))?;
    if !confined.own_files {
        tracing::warn!("this kernel has no Landlock: the ingress keeps what its user may read");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(system("start threads"))?;
    runtime.block_on(async {
        let take = |listener| tokio::net::TcpListener::from_std(listener).map_err(system("listen"));
        let listeners = Listeners {
            folder: ".".into(),
            clients: take(listener)?,
            peers: peers.map(take).transpose()?,
            inside: Some(tokio::net::UnixListener::from_std(inside).map_err(system("listen"))?),
            limits: config.limits,
            told: Some(told),
            front: Front {
                certificate,
                proxies: config.proxies,
                proxy_protocol: config.proxy_protocol,
                access_log,
                ports: ports.unwrap_or_default(),
            },
        };
        serve(listeners, crate::signals::terminated()).await;
        Ok(())
    })
}

fn system(verb: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::System { verb, source }
}
