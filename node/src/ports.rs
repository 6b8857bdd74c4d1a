//! Published ports become listening sockets here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use engine::{Listener, Listeners};
use spec::PublishedPort;

use crate::{
    error::{Error, Result},
    home::Home,
    request::Publish,
    tasks,
};

/// Opens ports on the host.
///
/// # Errors
/// [`Error::PortTaken`] names the port.
pub(crate) fn open(ports: &[Publish]) -> Result<Vec<Listener<TcpListener>>> {
    let opened = ports.iter().map(|publish| {
        let socket = listen(publish)?;
        Ok(Listener { container_port: publish.container_port, socket })
    });
    opened.collect()
}

/// A listener for one `-p`. Without an address it takes both families, where the machine has both.
fn listen(publish: &Publish) -> Result<TcpListener> {
    let everywhere = || match TcpListener::bind((Ipv6Addr::UNSPECIFIED, publish.host_port)) {
        Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, publish.host_port))
        }
        other => other,
    };
    let bound = match publish.address {
        Some(address) => TcpListener::bind(SocketAddr::new(address, publish.host_port)),
        None => everywhere(),
    };
    let listener = bound.map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => Error::PortTaken { port: publish.host_port, task: None },
        _ => Error::Listen { port: publish.host_port, source },
    })?;
    listener
        .set_nonblocking(true)
        .map_err(|source| Error::Listen { port: publish.host_port, source })?;
    Ok(listener)
}

/// Where a container is reached, for statuses.
pub(crate) fn published(listeners: &Listeners) -> Vec<PublishedPort> {
    let outside = listeners.published.iter().map(|listener| {
        let address = listener.socket.local_addr().ok();
        PublishedPort {
            container_port: listener.container_port,
            // One that is bound to `::` takes both families.
            address: address
                .map(|address| address.ip())
                .filter(|ip| *ip != IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
            host_port: address.map(|address| address.port()),
        }
    });
    let is_outside =
        |port| listeners.published.iter().any(|listener| listener.container_port == port);
    let ingress = listeners.ingress.iter().map(|listener| listener.container_port);
    let only_inside = ingress.filter(|port| !is_outside(*port));
    outside
        .chain(only_inside.map(|container_port| PublishedPort {
            container_port,
            address: None,
            host_port: None,
        }))
        .collect()
}

/// A taken port, with the task of this home that has it.
pub(crate) fn name_owner(home: &Home, error: Error) -> Error {
    let Error::PortTaken { port, .. } = error else { return error };
    let has_it = |task: &tasks::TaskFolder| {
        let status = task.status().ok().flatten();
        status.is_some_and(|status| status.ports.iter().any(|p| p.host_port == Some(port)))
            && task.state().is_ok_and(tasks::State::is_alive)
    };
    let task = tasks::list(home).unwrap_or_default().into_iter().find(has_it);
    Error::PortTaken { port, task: task.map(|task| task.record().name.clone()) }
}
