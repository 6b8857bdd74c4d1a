//! The few requests of rtnetlink that make a link between two network namespaces.

use std::{
    io,
    net::Ipv4Addr,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netdevice::name_to_index,
        netlink::SocketAddrNetlink, recv, sendto, socket_with,
    },
};

/// The device that every namespace has, and its number there.
pub(super) const LOOPBACK: u32 = 1;

/// A socket to the kernel, of the network namespace that this thread is in when it is opened.
pub(super) struct Netlink {
    socket: OwnedFd,
}

/// Where packets for an address go.
pub(super) enum Way {
    /// Out of this device.
    Out(u32),
    /// To this neighbour.
    By(Ipv4Addr),
    /// To sockets of this namespace.
    Here,
}

impl Netlink {
    pub fn open() -> io::Result<Self> {
        let kind = SocketType::RAW;
        let socket = socket_with(AddressFamily::NETLINK, kind, SocketFlags::CLOEXEC, None)?; // that of routes
        Ok(Self { socket })
    }

    /// Two devices that are connected: `name` here, and `peer` in the namespace `there`.
    pub fn add_pair(&self, name: &str, peer: &str, there: impl AsFd) -> io::Result<()> {
        let there = there.as_fd().as_raw_fd().to_ne_bytes();
        let mut message = Message::new(libc::RTM_NEWLINK, CREATE);
        message.link(0, 0).text(libc::IFLA_IFNAME, name);
        message.nested(libc::IFLA_LINKINFO, |info| {
            info.text(INFO_KIND, "veth");
            info.nested(INFO_DATA, |data| {
                data.nested(VETH_PEER, |other| {
                    other.link(0, 0).text(libc::IFLA_IFNAME, peer);
                    other.attribute(libc::IFLA_NET_NS_FD, &there);
                });
            });
        });
        self.ask(message)
    }

    /// The number of a device of the namespace that this thread is in.
    pub fn device(&self, name: &str) -> io::Result<u32> {
        let any = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        Ok(name_to_index(any, name)?)
    }

    /// Lets a device send and receive.
    pub fn bring_up(&self, device: u32) -> io::Result<()> {
        let up = libc::IFF_UP.unsigned_abs();
        let mut message = Message::new(libc::RTM_NEWLINK, 0);
        message.link(device, up);
        self.ask(message)
    }

    /// Gives a device an address, in a network of so many leading bits.
    pub fn add_address(&self, device: u32, address: Ipv4Addr, bits: u8) -> io::Result<()> {
        let mut message = Message::new(libc::RTM_NEWADDR, CREATE);
        message.bytes(&[FAMILY, bits, 0, 0]).bytes(&device.to_ne_bytes());
        message.attribute(libc::IFA_LOCAL, &address.octets());
        message.attribute(libc::IFA_ADDRESS, &address.octets());
        self.ask(message)
    }

    /// Says in `table` where packets for the `bits` leading bits of an address go.
    pub fn add_route(
        &self,
        table: u8,
        (address, bits): (Ipv4Addr, u8),
        way: &Way,
    ) -> io::Result<()> {
        let (scope, kind) = match way {
            Way::Out(_) => (libc::RT_SCOPE_LINK, libc::RTN_UNICAST),
            Way::By(_) => (libc::RT_SCOPE_UNIVERSE, libc::RTN_UNICAST),
            Way::Here => (libc::RT_SCOPE_HOST, libc::RTN_LOCAL),
        };
        let mut message = Message::new(libc::RTM_NEWROUTE, CREATE);
        message.bytes(&[FAMILY, bits, 0, 0, table, libc::RTPROT_STATIC, scope, kind]);
        message.bytes(&0_u32.to_ne_bytes());
        message.attribute(libc::RTA_DST, &address.octets());
        match way {
            Way::Out(device) => message.attribute(libc::RTA_OIF, &device.to_ne_bytes()),
            Way::Here => message.attribute(libc::RTA_OIF, &LOOPBACK.to_ne_bytes()),
            Way::By(neighbour) => message.attribute(libc::RTA_GATEWAY, &neighbour.octets()),
        };
        self.ask(message)
    }

    /// Sends one request, and takes the kernel's answer.
    fn ask(&self, message: Message) -> io::Result<()> {
        let bytes = message.finished();
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&self.socket, &bytes, SendFlags::empty(), &kernel)?;
        let mut answer = [0_u8; 4096];
        let (length, _) = recv(&self.socket, &mut answer, RecvFlags::empty())?;
        // A header of 16 bytes, and the error as a negative number; none is 0.
        let code = answer[..length].get(HEADER_BYTES..HEADER_BYTES + 4);
        let code = code.and_then(|code| code.try_into().ok()).map(i32::from_ne_bytes);
        match code {
            Some(0) => Ok(()),
            Some(code) => Err(Errno::from_raw_os_error(-code).into()),
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

const HEADER_BYTES: usize = 16;
const FAMILY: u8 = 2;
/// A new one, and none in the place of another.
const CREATE: i32 = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_PEER: u16 = 1;

/// A request as it is put together: a header, and then attributes.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: i32) -> Self {
        let flags = (flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        let mut message = Self(vec![0; HEADER_BYTES]);
        message.0[4..6].copy_from_slice(&kind.to_ne_bytes());
        message.0[6..8].copy_from_slice(&flags.to_ne_bytes());
        message
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Which device is meant, and the flags that are set.
    fn link(&mut self, device: u32, flags: u32) -> &mut Self {
        self.bytes(&[0; 4]).bytes(&device.to_ne_bytes());
        self.bytes(&flags.to_ne_bytes()).bytes(&flags.to_ne_bytes())
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.nested(kind, |message| {
            message.bytes(value);
        })
    }

    fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        self.attribute(kind, &[value.as_bytes(), b"\0"].concat())
    }

    /// An attribute whose length is known once it is written.
    fn nested(&mut self, kind: u16, write: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.0.len();
        self.bytes(&[0; 2]).bytes(&kind.to_ne_bytes());
        write(self);
        let length = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn finished(mut self) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}
