use std::{io, net::TcpListener};

use sandbox::{Network, Service};

use super::{
    folder::{INGRESS_ID, IngressFolder},
    limits::{DESCRIPTORS_MIN, Limits},
    server::{Listeners, serve},
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
    let (listener, peers) = (config.listener, config.peers);
    for socket in [Some(&listener), peers.as_ref()].into_iter().flatten() {
        socket.set_nonblocking(true).map_err(system("listen"))?;
    }
    net::raise_descriptor_limit(DESCRIPTORS_MIN);
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
            limits: config.limits,
        };
        serve(listeners, crate::signals::terminated()).await;
        Ok(())
    })
}

fn system(verb: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::System { verb, source }
}
