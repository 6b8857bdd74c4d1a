use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
};

use rustix::net::{
    AddressFamily, Shutdown, SocketFlags, SocketType, bind, listen, shutdown, socket_with, sockopt,
};
use spec::PortRange;

use crate::ingress::limits::LAYER4_BACKLOG;

/// The ports that an operator has set aside for services. They are bound before the ingress gives
/// up its rights, and listen while a service has them: until then a connection is refused.
#[derive(Debug, Default)]
pub struct ReservedPorts {
    sockets: BTreeMap<u16, OwnedFd>,
}

impl ReservedPorts {
    /// Binds every port of `range` at `address`. One that something else has is left out.
    pub fn bind(address: IpAddr, range: PortRange) -> Self {
        let bound = range.ports().filter_map(|port| match bound(SocketAddr::new(address, port)) {
            Ok(socket) => Some((port, socket)),
            Err(error) => {
                tracing::warn!(port, %error, "this port is left out: it cannot be bound");
                None
            }
        });
        Self { sockets: bound.collect() }
    }

    /// Begins to listen on `port`, if it is one of these.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn listen(&self, port: u16) -> io::Result<Option<tokio::net::TcpListener>> {
        let Some(socket) = self.sockets.get(&port) else { return Ok(None) };
        // Connections of before that are in TIME_WAIT are no hindrance.
        sockopt::set_socket_reuseaddr(socket, true)?;
        listen(socket, LAYER4_BACKLOG)?;
        let listener = std::net::TcpListener::from(socket.try_clone()?);
        tokio::net::TcpListener::from_std(listener).map(Some)
    }

    /// Refuses connections to `port` from now on, and drops those that wait.
    pub fn close(&self, port: u16) {
        let Some(socket) = self.sockets.get(&port) else { return };
        let closed = shutdown(socket, Shutdown::Both);
        let kept = sockopt::set_socket_reuseaddr(socket, false);
        if let Err(error) = closed.and(kept) {
            tracing::debug!(port, %error, "it did not listen");
        }
    }
}

/// A socket that has the port for itself: of two that do not listen and both reuse addresses the
/// kernel would give it to either. It does so only where connections of before are in TIME_WAIT.
fn bound(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    if bind(socket.as_fd(), &address).is_err() {
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(socket.as_fd(), &address)?;
        sockopt::set_socket_reuseaddr(&socket, false)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn a_reserved_port_refuses_connections_unless_it_listens() {
        let local: IpAddr = Ipv4Addr::LOCALHOST.into();
        let free = std::net::TcpListener::bind((local, 0)).unwrap().local_addr().unwrap().port();
        let ports = ReservedPorts::bind(local, format!("{free}").parse().unwrap());
        assert!(ports.listen(free.wrapping_add(1)).unwrap().is_none(), "no port of these");
        for _ in 0..2 {
            assert!(TcpStream::connect((local, free)).await.is_err(), "it does not listen");
            // Nothing else takes it meanwhile.
            assert!(std::net::TcpListener::bind((local, free)).is_err());
            let listener = ports.listen(free).unwrap().expect("it is one of these");
            let (client, accepted) =
                tokio::join!(TcpStream::connect((local, free)), listener.accept());
            assert!(client.is_ok() && accepted.is_ok());
            drop(listener);
            ports.close(free);
        }
        let taken = ReservedPorts::bind(local, format!("{free}").parse().unwrap());
        assert!(taken.listen(free).unwrap().is_none(), "what something else has is left out");
    }
}
