use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
};

use rustix::net::{
    AddressFamily, RecvFlags, Shutdown, SocketFlags, SocketType, bind, connect, connect_unspec,
    getsockname, listen, recv, shutdown, socket_with, sockopt,
};
use spec::{Port, PortRange, Transport};

use crate::ingress::limits::LAYER4_BACKLOG;

/// The ports that an operator has set aside for services. They are bound before the ingress gives
/// up its rights, and listen while a service has them: until then a connection is refused.
#[derive(Debug, Default)]
pub struct ReservedPorts {
    sockets: BTreeMap<u16, OwnedFd>,
    /// The same for datagrams. Until a service has the port, datagrams to it are refused too.
    datagrams: BTreeMap<u16, OwnedFd>,
}

impl ReservedPorts {
    /// Binds every port of `range` at `address`. One that something else has is left out.
    pub fn bind(address: IpAddr, range: PortRange) -> Self {
        let bound = |transport: Transport| {
            let bind = move |number| {
                let port = Port { number, transport };
                match bound(SocketAddr::new(address, number), transport) {
                    Ok(socket) => Some((number, socket)),
                    Err(error) => {
                        tracing::warn!(%port, %error, "this port is left out: it cannot be bound");
                        None
                    }
                }
            };
            range.ports().filter_map(bind).collect()
        };
        let ports = Self { sockets: bound(Transport::Tcp), datagrams: bound(Transport::Udp) };
        ports.datagrams.keys().for_each(|port| ports.refuse_datagrams(*port));
        ports
    }

    /// Begins to take datagrams at `port`, if it is one of these.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn receive(&self, port: u16) -> io::Result<Option<tokio::net::UdpSocket>> {
        let Some(socket) = self.datagrams.get(&port) else { return Ok(None) };
        connect_unspec(socket)?;
        let socket = std::net::UdpSocket::from(socket.try_clone()?);
        tokio::net::UdpSocket::from_std(socket).map(Some)
    }

    /// A socket that is connected takes nothing from others: the kernel answers them that the port
    /// is unreachable. Nothing but the socket itself is at its own address.
    pub fn refuse_datagrams(&self, port: u16) {
        let Some(socket) = self.datagrams.get(&port) else { return };
        let refused = getsockname(socket).and_then(|own| {
            let own = SocketAddr::try_from(own)?;
            let own = match own.ip().is_unspecified() {
                true if own.is_ipv4() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
                true => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port),
                false => own,
            };
            connect(socket, &own)
        });
        if let Err(error) = refused {
            tracing::debug!(port, %error, "datagrams to it are dropped, and not refused");
        }
        // What came before belongs to the service that had the port.
        let mut datagram = [0; 1];
        for _ in 0..LAYER4_BACKLOG {
            if recv(socket, &mut datagram[..], RecvFlags::DONTWAIT).is_err() {
                break;
            }
        }
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
fn bound(address: SocketAddr, transport: Transport) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let kind = match transport {
        Transport::Tcp => SocketType::STREAM,
        Transport::Udp => SocketType::DGRAM,
    };
    let socket = socket_with(family, kind, flags, None)?;
    if transport == Transport::Udp {
        bind(socket.as_fd(), &address)?;
        return Ok(socket);
    }
    if bind(socket.as_fd(), &address).is_err() {
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(socket.as_fd(), &address)?;
        sockopt::set_socket_reuseaddr(&socket, false)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
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
        let client = std::net::UdpSocket::bind((local, 0)).unwrap();
        client.connect((local, free)).unwrap();
        client.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        for _ in 0..2 {
            client.send(b"refused").unwrap();
            let refused = client.recv(&mut [0]).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            assert!(std::net::UdpSocket::bind((local, free)).is_err());
            let socket = ports.receive(free).unwrap().expect("it is one of these");
            client.send(b"taken").unwrap();
            let mut datagram = [0; 16];
            let (length, _) = socket.recv_from(&mut datagram).await.unwrap();
            assert_eq!(&datagram[..length], b"taken");
            client.send(b"left").unwrap();
            drop(socket);
            ports.refuse_datagrams(free);
        }
        let taken = ReservedPorts::bind(local, format!("{free}").parse().unwrap());
        assert!(taken.listen(free).unwrap().is_none(), "what something else has is left out");
        assert!(taken.receive(free).unwrap().is_none());
    }
}
