//! The way out of a container: a pair of devices, one in the container's network and one in a
//! network namespace that has no other way out. Whatever address the container connects to is one
//! of the second namespace, where sockets of this process listen on the granted ports; the rest is
//! refused by the kernel. The container may listen on any port itself.

use std::{
    io,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    os::fd::{AsFd, OwnedFd},
};

use engine::frame;
use rustix::{
    process::{Pid, WaitOptions, waitpid},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space},
};
use serde::{Deserialize, Serialize};

use super::netlink::{LOOPBACK, Netlink, Way};
use crate::bundle::NAME_SERVER;

/// The container's own address, beside [`NAME_SERVER`].
const CONTAINER: Ipv4Addr = Ipv4Addr::new(169, 254, 77, 2);
const LINK_BITS: u8 = 30;
const INSIDE: &str = "eth0";
const OUTSIDE: &str = "out0";
const ANY: (Ipv4Addr, u8) = (Ipv4Addr::UNSPECIFIED, 0);

/// Sockets in the second namespace.
pub(super) struct Gateway {
    /// In the order of the ports that were asked for.
    pub listeners: Vec<TcpListener>,
    pub names: UdpSocket,
}

/// What a process that makes them says, with the sockets.
#[derive(Serialize, Deserialize)]
struct Made {
    /// The number of the error that kept it from that.
    error: Option<i32>,
}

impl Gateway {
    /// Makes the way out of the network namespace `network`, which belongs to the user namespace
    /// `user`. Another process does so: it becomes root of that one, so that this one needs no
    /// capability over the networks of the machine.
    pub fn open(user: impl AsFd, network: impl AsFd, ports: &[u16]) -> io::Result<Self> {
        let (socket, other) = frame::pair()?;
        let maker = in_child(|| {
            let (error, sockets) = match make(&user, &network, ports) {
                Ok(sockets) => (None, sockets),
                Err(error) => (Some(error.raw_os_error().unwrap_or(libc::EIO)), Vec::new()),
            };
            let sockets: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
            frame::send(&other, &Made { error }, &sockets).is_ok()
        })?;
        drop(other);
        let made = frame::receive::<Made>(&socket);
        let _ = waitpid(Some(maker), WaitOptions::empty());
        let mut sockets = match made? {
            Some((Made { error: None }, sockets)) => sockets,
            Some((Made { error: Some(error) }, _)) => {
                return Err(io::Error::from_raw_os_error(error));
            }
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        };
        let names = sockets.pop().ok_or(io::ErrorKind::UnexpectedEof)?;
        let listeners = sockets.into_iter().map(TcpListener::from).collect();
        Ok(Self { listeners, names: UdpSocket::from(names) })
    }
}

/// Makes both ends, and listens: a socket for each port, and one for names.
fn make(user: impl AsFd, network: impl AsFd, ports: &[u16]) -> io::Result<Vec<OwnedFd>> {
    move_into_link_name_space(user.as_fd(), Some(LinkNameSpaceType::User))?;
    leave_network()?;
    let outside = Netlink::open()?;
    outside.add_pair(OUTSIDE, INSIDE, &network)?;
    let device = outside.device(OUTSIDE)?;
    outside.bring_up(LOOPBACK)?;
    outside.bring_up(device)?;
    outside.add_address(device, NAME_SERVER, LINK_BITS)?;
    // What the container sends is for sockets here, whatever address it is sent to; what is for the
    // container itself is not.
    outside.add_route(libc::RT_TABLE_LOCAL, (CONTAINER, 32), &Way::Out(device))?;
    outside.add_route(libc::RT_TABLE_LOCAL, ANY, &Way::Here)?;
    let listen = |port: &u16| -> io::Result<OwnedFd> {
        Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port))?.into())
    };
    let mut sockets = ports.iter().map(listen).collect::<io::Result<Vec<_>>>()?;
    sockets.push(UdpSocket::bind((NAME_SERVER, NAMES_PORT))?.into());

    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
    let inside = Netlink::open()?;
    let device = inside.device(INSIDE)?;
    inside.bring_up(LOOPBACK)?;
    inside.bring_up(device)?;
    inside.add_address(device, CONTAINER, LINK_BITS)?;
    inside.add_route(libc::RT_TABLE_MAIN, ANY, &Way::By(NAME_SERVER))?;
    Ok(sockets)
}

/// Of DNS.
const NAMES_PORT: u16 = 53;

#[expect(
    unsafe_code,
    reason = "rustix marks unsharing unsafe for the sake of programs with threads"
)]
fn leave_network() -> io::Result<()> {
    // SAFETY: this process has one thread, and CLONE_FILES, which could close descriptors under
    // others, is not among the flags.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?)
}

/// Does `work` in a process of its own, which ends with it.
#[expect(unsafe_code, reason = "std offers no fork without an exec at once")]
fn in_child(work: impl FnOnce() -> bool) -> io::Result<Pid> {
    // SAFETY: this process has one thread, so that its copy finds every lock free and every value
    // whole.
    match unsafe { libc::fork() } {
        0 => {
            let done = work();
            // SAFETY: nothing of this process is to be done at its end: the parent does it.
            unsafe { libc::_exit(i32::from(!done)) }
        }
        pid => Pid::from_raw(pid).filter(|_| pid > 0).ok_or_else(io::Error::last_os_error),
    }
}
