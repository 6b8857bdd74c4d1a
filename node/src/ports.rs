//! Published ports become listening sockets here.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    time::Duration,
};

use engine::{Listener, Listeners};
use spec::{PublishedPort, Transport};

use crate::{
    error::{Error, Result},
    home::Home,
    ingress::{IngressFolder, socket_name},
    request::Publish,
    tasks::{self, Origin},
};

/// Opens ports on the host.
///
/// # Errors
/// [`Error::PortTaken`] names the port.
pub(crate) fn open(ports: &[Publish]) -> Result<Listeners> {
    let mut listeners = Listeners::default();
    for publish in ports {
        let container_port = publish.container_port;
        match publish.transport {
            Transport::Tcp => {
                let socket = bind(publish, |address| {
                    let listener = TcpListener::bind(address)?;
                    listener.set_nonblocking(true).map(|()| listener)
                })?;
                listeners.published.push(Listener { container_port, socket });
            }
            Transport::Udp => {
                let socket = bind(publish, |address| {
                    let socket = UdpSocket::bind(address)?;
                    socket.set_nonblocking(true).map(|()| socket)
                })?;
                listeners.datagrams.push(Listener { container_port, socket });
            }
        }
    }
    Ok(listeners)
}

/// A socket for one `-p`. Without an address it takes both families, where the machine has both.
fn bind<S>(publish: &Publish, bind: impl Fn(SocketAddr) -> io::Result<S>) -> Result<S> {
    let at = |address: IpAddr| bind(SocketAddr::new(address, publish.host_port));
    let bound = match publish.address {
        Some(address) => at(address),
        None => match at(Ipv6Addr::UNSPECIFIED.into()) {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                at(Ipv4Addr::UNSPECIFIED.into())
            }
            other => other,
        },
    };
    let (port, transport) = (publish.host_port, publish.transport);
    bound.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => Error::PortTaken { port, transport, task: None },
        _ => Error::Listen { port, source },
    })
}

/// Where a container is reached, for statuses.
pub(crate) fn published(listeners: &Listeners) -> Vec<PublishedPort> {
    let outside = |container_port, address: Option<SocketAddr>, transport| PublishedPort {
        container_port,
        // One that is bound to `::` takes both families.
        address: address
            .map(|address| address.ip())
            .filter(|ip| *ip != IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        host_port: address.map(|address| address.port()),
        transport,
    };
    let connections = listeners.published.iter().map(|listener| {
        outside(listener.container_port, listener.socket.local_addr().ok(), Transport::Tcp)
    });
    let datagrams = listeners.datagrams.iter().map(|listener| {
        outside(listener.container_port, listener.socket.local_addr().ok(), Transport::Udp)
    });
    let mut all: Vec<PublishedPort> = connections.chain(datagrams).collect();
    let ingress = listeners.ingress.iter().map(|one| (one.container_port, Transport::Tcp));
    let framed = listeners.framed.iter().map(|one| (one.container_port, Transport::Udp));
    let inside = ingress.chain(framed).map(|(port, over)| outside(port, None, over));
    let is_outside = |port: &PublishedPort| all.iter().any(|one| one.port() == port.port());
    let only_inside: Vec<_> = inside.filter(|port| !is_outside(port)).collect();
    all.extend(only_inside);
    all
}

/// Where this machine reaches port `container_port` of a task, if it is published.
pub(crate) fn address_of(task: &tasks::TaskFolder, container_port: u16) -> Option<SocketAddr> {
    let ports = task.status().ok().flatten()?.ports;
    let is_it = |port: &&PublishedPort| port.container_port == container_port;
    ports.iter().filter(is_it).find_map(address)
}

fn address(port: &PublishedPort) -> Option<SocketAddr> {
    let ip = port.address.filter(|ip| !ip.is_unspecified());
    let ip = ip.unwrap_or(Ipv4Addr::LOCALHOST.into());
    Some(SocketAddr::new(ip, port.host_port.filter(|_| port.transport == Transport::Tcp)?))
}

/// A connection to the first port of a task that can be reached: a published one, or one of the
/// ingress.
pub(crate) fn connect(home: &Home, task: &tasks::TaskFolder) -> Option<OwnedFd> {
    connect_published(task).map(OwnedFd::from).or_else(|| connect_ingress(home, task))
}

fn connect_published(task: &tasks::TaskFolder) -> Option<TcpStream> {
    let ports = task.status().ok().flatten()?.ports;
    let mut addresses = ports.iter().filter_map(address);
    addresses.find_map(|address| TcpStream::connect_timeout(&address, CONNECT_TIME_MAX).ok())
}

fn connect_ingress(home: &Home, task: &tasks::TaskFolder) -> Option<OwnedFd> {
    let record = task.record();
    let Origin::Cluster(origin) = &record.origin else { return None };
    let sockets = IngressFolder::at(home.ingress()).sockets();
    let is_inside =
        |port: &&PublishedPort| port.host_port.is_none() && port.transport == Transport::Tcp;
    let mut ports = record.ports.iter().filter(is_inside);
    ports.find_map(|port| {
        let name = socket_name(&origin.tenant, &origin.task, port.port());
        disk::connect(&sockets.join(name)).ok().map(OwnedFd::from)
    })
}

/// To a socket of this machine.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(1);

/// The sockets of `listeners`, as a status names them.
///
/// # Errors
/// When one is no socket.
pub(crate) fn sockets(listeners: &Listeners) -> io::Result<Vec<(u16, u64)>> {
    let numbers = listeners.container_ports().map(|port| port.number);
    let mut sockets = numbers
        .zip(listeners.sockets())
        .map(|(port, socket)| Ok((port, rustix::net::sockopt::socket_cookie(socket)?)))
        .collect::<io::Result<Vec<_>>>()?;
    sockets.sort_unstable();
    Ok(sockets)
}

/// Whether `listeners`, which a container hands back, are those that it was handed. `known` is the
/// agent's own record; a container is believed nothing.
pub(crate) fn are_known(listeners: &Listeners, known: Option<&[(u16, u64)]>) -> bool {
    known.is_none_or(|known| sockets(listeners).is_ok_and(|sockets| sockets == known))
}

/// A taken port, with the task of this home that has it.
pub(crate) fn name_owner(home: &Home, error: Error) -> Error {
    let Error::PortTaken { port, transport, .. } = error else { return error };
    let has_it = |task: &tasks::TaskFolder| {
        let status = task.status().ok().flatten();
        let is_it = |p: &PublishedPort| p.host_port == Some(port) && p.transport == transport;
        status.is_some_and(|status| status.ports.iter().any(is_it))
            && task.state().is_ok_and(tasks::State::is_alive)
    };
    let task = tasks::list(home).unwrap_or_default().into_iter().find(has_it);
    Error::PortTaken { port, transport, task: task.map(|task| task.record().name.clone()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_that_come_back_are_those_that_were_handed_out() {
        let listener = |container_port| {
            let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            Listener { container_port, socket }
        };
        let ours =
            Listeners { published: vec![listener(80), listener(443)], ..Listeners::default() };
        let known = sockets(&ours).unwrap();
        let mut back = ours.try_clone().unwrap();
        back.published.reverse();
        assert!(are_known(&back, Some(&known)), "other descriptors of the same sockets");
        let mut swapped = ours.try_clone().unwrap();
        swapped.published[0].container_port = 443;
        swapped.published[1].container_port = 80;
        let mut fewer = ours.try_clone().unwrap();
        fewer.published.pop();
        let mut twice = ours.try_clone().unwrap();
        twice.published[1].socket = twice.published[0].socket.try_clone().unwrap();
        let mut more = ours.try_clone().unwrap();
        more.published.push(listener(81));
        let others =
            Listeners { published: vec![listener(80), listener(443)], ..Listeners::default() };
        for (what, lie) in [
            ("two ports that are exchanged", swapped),
            ("one less", fewer),
            ("one twice", twice),
            ("one more", more),
            ("sockets of its own", others),
        ] {
            assert!(!are_known(&lie, Some(&known)), "{what}");
        }
        assert!(are_known(&ours, None), "an earlier version wrote none");
    }
}
