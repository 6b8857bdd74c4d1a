use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt},
};

/// A listener on the host: TCP for a published port, Unix for the ingress.
pub(super) enum HostListener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl HostListener {
    /// A client, with its address unless it is the ingress.
    pub(super) fn accept(&self) -> io::Result<(ClientStream, Option<IpAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, from) = listener.accept()?;
                Ok((ClientStream::Tcp(stream), Some(from.ip())))
            }
            Self::Unix(listener) => Ok((ClientStream::Unix(listener.accept()?.0), None)),
        }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

/// The client's side of a connection.
pub(super) enum ClientStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl ClientStream {
    /// A stream that a supervisor has connected.
    pub(super) fn of(fd: OwnedFd) -> io::Result<Self> {
        Ok(match sockopt::socket_domain(&fd)? {
            AddressFamily::UNIX => Self::Unix(UnixStream::from(fd)),
            _ => Self::Tcp(TcpStream::from(fd)),
        })
    }

    /// The address on this side.
    pub(super) fn local_address(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(stream) => stream.local_addr().ok().map(|address| address.ip()),
            Self::Unix(_) => None,
        }
    }

    pub(super) fn prepare(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                stream.set_nonblocking(true)?;
                // A client whose machine vanished must not hold a connection for ever.
                sockopt::set_socket_keepalive(stream, true)?;
                stream.set_nodelay(true)
            }
            Self::Unix(stream) => stream.set_nonblocking(true),
        }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }

    /// Makes its closing a reset, which a client takes for a refusal: it was accepted before it
    /// could be known that no program listens.
    pub(super) fn reset(&self) {
        if let Self::Tcp(stream) = self {
            let _ = sockopt::set_socket_linger(stream, Some(std::time::Duration::ZERO));
        }
    }

    pub(super) fn shutdown_write(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }
}

impl Read for ClientStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for ClientStream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buffer),
            Self::Unix(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A program may listen in either family.
#[derive(Clone, Copy)]
pub(super) enum Family {
    V4,
    V6,
}

/// Begins a connection to `port` on the container's own loopback, without blocking.
pub(super) fn connect_loopback(family: Family, port: u16) -> io::Result<TcpStream> {
    let (family, address) = match family {
        Family::V4 => (AddressFamily::INET, SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        Family::V6 => (AddressFamily::INET6, SocketAddr::from((Ipv6Addr::LOCALHOST, port))),
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket: OwnedFd = socket_with(family, SocketType::STREAM, flags, None)?;
    match connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => {
            sockopt::set_tcp_nodelay(&socket, true)?;
            Ok(TcpStream::from(socket))
        }
        Err(error) => Err(error.into()),
    }
}

/// Keeps `ports` out of the ephemeral range of this network namespace. Otherwise an attempt to
/// reach a program that is still starting may get its port as its own source port, connect to
/// itself, and occupy the port.
pub(super) fn reserve(ports: &[u16]) -> io::Result<()> {
    let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
    std::fs::write("/proc/sys/net/ipv4/ip_local_reserved_ports", ports.join(","))
}
