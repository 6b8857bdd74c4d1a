use std::{
    io,
    net::{TcpListener, UdpSocket},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixListener,
    },
};

use serde::{Deserialize, Serialize};
use spec::{Port, Transport};

use crate::Slots;

/// A port of a container: bound, and listening where it takes connections. Needs a `net.in` grant.
#[derive(Debug)]
pub struct Listener<S> {
    /// As the container knows it.
    pub container_port: u16,
    pub socket: S,
}

/// The ports by which a container is reached.
#[derive(Debug, Default)]
pub struct Listeners {
    /// Open to the outside.
    pub published: Vec<Listener<TcpListener>>,
    /// Where the ingress of this node reaches it.
    pub ingress: Vec<Listener<UnixListener>>,
    /// Open to the outside, for datagrams.
    pub datagrams: Vec<Listener<UdpSocket>>,
    /// Where the ingress of this node reaches it with datagrams: a connection for each client of
    /// the ingress, with a frame for each datagram.
    pub framed: Vec<Listener<UnixListener>>,
}

/// [`Listeners`] as they cross a socket: container ports, and the slots of the descriptors.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenersMessage {
    published: Vec<(u16, usize)>,
    ingress: Vec<(u16, usize)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    datagrams: Vec<(u16, usize)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    framed: Vec<(u16, usize)>,
}

impl Listeners {
    pub fn is_empty(&self) -> bool {
        self.sockets().next().is_none()
    }

    /// As the container knows them.
    pub fn container_ports(&self) -> impl Iterator<Item = Port> {
        let published = self.published.iter().map(|listener| listener.container_port);
        let tcp = published.chain(self.ingress.iter().map(|listener| listener.container_port));
        let udp = self.datagrams.iter().map(|listener| listener.container_port);
        let udp = udp.chain(self.framed.iter().map(|listener| listener.container_port));
        let udp = udp.map(|number| Port { number, transport: Transport::Udp });
        tcp.map(Port::tcp).chain(udp)
    }

    /// The sockets: the published ones, those of the ingress, those for datagrams of both.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let published = self.published.iter().map(|listener| listener.socket.as_fd());
        let ingress = self.ingress.iter().map(|listener| listener.socket.as_fd());
        let datagrams = self.datagrams.iter().map(|listener| listener.socket.as_fd());
        let framed = self.framed.iter().map(|listener| listener.socket.as_fd());
        published.chain(ingress).chain(datagrams).chain(framed)
    }

    /// Other descriptors of the same sockets.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            published: copies(&self.published, TcpListener::try_clone)?,
            ingress: copies(&self.ingress, UnixListener::try_clone)?,
            datagrams: copies(&self.datagrams, UdpSocket::try_clone)?,
            framed: copies(&self.framed, UnixListener::try_clone)?,
        })
    }

    /// What to send beside [`Listeners::sockets`].
    pub fn message(&self) -> ListenersMessage {
        let mut count = 0;
        ListenersMessage {
            published: numbered(&self.published, &mut count),
            ingress: numbered(&self.ingress, &mut count),
            datagrams: numbered(&self.datagrams, &mut count),
            framed: numbered(&self.framed, &mut count),
        }
    }

    pub(crate) fn split(self, slots: &mut Slots) -> ListenersMessage {
        ListenersMessage {
            published: put(self.published, slots),
            ingress: put(self.ingress, slots),
            datagrams: put(self.datagrams, slots),
            framed: put(self.framed, slots),
        }
    }
}

impl ListenersMessage {
    /// The listeners with their descriptors.
    ///
    /// # Errors
    /// When a descriptor is missing or taken twice.
    pub fn join(self, slots: &mut Slots) -> io::Result<Listeners> {
        Ok(Listeners {
            published: take(self.published, slots)?,
            ingress: take(self.ingress, slots)?,
            datagrams: take(self.datagrams, slots)?,
            framed: take(self.framed, slots)?,
        })
    }
}

/// Their ports, each with the number of its socket.
fn numbered<S>(listeners: &[Listener<S>], count: &mut usize) -> Vec<(u16, usize)> {
    let number = |listener: &Listener<S>| {
        *count += 1;
        (listener.container_port, *count - 1)
    };
    listeners.iter().map(number).collect()
}

fn copies<S>(
    listeners: &[Listener<S>],
    copy: impl Fn(&S) -> io::Result<S>,
) -> io::Result<Vec<Listener<S>>> {
    let copied = listeners.iter().map(|listener| {
        let socket = copy(&listener.socket)?;
        Ok(Listener { container_port: listener.container_port, socket })
    });
    copied.collect()
}

fn put<S: Into<std::os::fd::OwnedFd>>(
    listeners: Vec<Listener<S>>,
    slots: &mut Slots,
) -> Vec<(u16, usize)> {
    listeners.into_iter().map(|l| (l.container_port, slots.put(l.socket))).collect()
}

fn take<S: From<std::os::fd::OwnedFd>>(
    ports: Vec<(u16, usize)>,
    slots: &mut Slots,
) -> io::Result<Vec<Listener<S>>> {
    let taken = ports.into_iter().map(|(container_port, slot)| {
        Ok(Listener { container_port, socket: slots.take(slot)?.into() })
    });
    taken.collect()
}
