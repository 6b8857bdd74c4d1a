//! Listening sockets that outlive the process that answers on them: `up` holds each, and its child
//! inherits it. While a killed process is started again, clients wait in the socket's backlog
//! instead of being refused.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
};

use anyhow::ensure;
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use serde::{Deserialize, Serialize};

use crate::{
    failure::{Advice, USAGE_ERROR},
    home::{Home, read_json, write_private},
    output::line,
};

/// The flags that pass an inherited socket to a process.
pub const LISTEN_FD: &str = "--listen-fd";
pub const PEERS_FD: &str = "--peers-fd";

/// `run/ports.json`: where this home listened last. "Any free port" is that one again, where it is
/// still free, because names of images hold the registry's, and nodes know the control plane's.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Ports {
    pub address: Option<IpAddr>,
    pub server: u16,
    pub registry: u16,
    pub ingress: u16,
    pub peers: u16,
}

impl Ports {
    pub fn last(home: &Home) -> Self {
        read_json(&home.path().join("run/ports.json")).ok().flatten().unwrap_or_default()
    }

    pub fn keep(&self, home: &Home) -> anyhow::Result<()> {
        write_private(&home.folder("run")?.join("ports.json"), &serde_json::to_vec(self)?)
    }
}

/// Binds `address`; `flag` is what would choose another port, up to its number.
pub fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    let (host, port) = (address.ip(), address.port());
    let advice = |error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => Advice::new(format!("port {port} on {host} is taken"))
            .hint(format!("choose another: {flag}PORT, or {flag}0 for any free one")),
        io::ErrorKind::PermissionDenied => {
            Advice::new(format!("cannot listen on port {port} of {host}: {error}"))
                .hint(format!("ports below 1024 need root: {flag}PORT"))
        }
        io::ErrorKind::AddrNotAvailable => {
            Advice::new(format!("{host} is no address of this machine"))
                .hint("listen on one of its own: --listen 127.0.0.1")
        }
        _ => Advice::new(format!("cannot listen on {address}: {error}")),
    };
    TcpListener::bind(address).map_err(|error| advice(error).into())
}

/// As [`bind`]; for "any free port" the one of the last time, where that is still free.
pub fn bind_again(host: IpAddr, port: u16, last: u16, flag: &str) -> anyhow::Result<TcpListener> {
    let bind = |port| bind(SocketAddr::new(host, port), &format!("{flag} "));
    match port {
        0 => bind(last).or_else(|_| bind(0)),
        port => bind(port),
    }
}

/// Where a process of its own listens.
#[derive(Debug, clap::Args)]
pub struct Listen {
    /// Listen here; port 0 for any free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Take over a listening socket that the parent left open
    #[arg(long, hide = true, conflicts_with = "listen")]
    listen_fd: Option<RawFd>,
}

impl Listen {
    pub fn socket(&self, default_port: u16) -> anyhow::Result<TcpListener> {
        if let Some(number) = self.listen_fd {
            return inherited(number);
        }
        let address =
            self.listen.unwrap_or(SocketAddr::new(IpAddr::from([127, 0, 0, 1]), default_port));
        bind(address, "--listen ADDRESS:")
    }

    /// The descriptor that the parent left open.
    pub fn inherited_fd(&self) -> Option<RawFd> {
        self.listen_fd
    }

    /// Prints the address, unless a parent passed the socket on.
    pub fn announce(&self, name: &str, socket: &TcpListener) -> anyhow::Result<()> {
        if self.listen_fd.is_none() {
            line(format_args!("{name} listens on {}", socket.local_addr()?));
        }
        Ok(())
    }
}

/// A listening socket that the parent left open under this number.
pub fn inherited(number: RawFd) -> anyhow::Result<TcpListener> {
    // 0 to 2 are the standard streams, which are in use. SAFETY: borrowed only to
    // ask the kernel whether there is such a descriptor; the answer is checked.
    let there =
        number > 2 && fcntl_getfd(unsafe { std::os::fd::BorrowedFd::borrow_raw(number) }).is_ok();
    ensure!(there, Advice::new(format!("descriptor {number} is not open")).code(USAGE_ERROR));
    // SAFETY: it is open, as was just checked, and nothing else in this process knows its number:
    // only the parent passes this flag, and the process has opened nothing of its own with it yet.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
    Ok(socket.into())
}

/// Lets the children that are started inside `work` inherit `sockets`, each under its flag. One
/// thread only: another one that starts a process at that moment would pass them on as well.
pub fn lend<T>(
    sockets: &[(&'static str, TcpListener)],
    work: impl FnOnce(Vec<String>) -> T,
) -> io::Result<T> {
    let mut flags = Vec::new();
    for (flag, socket) in sockets {
        fcntl_setfd(socket, FdFlags::empty())?;
        flags.extend([(*flag).to_owned(), socket.as_raw_fd().to_string()]);
    }
    let result = work(flags);
    for (_, socket) in sockets {
        fcntl_setfd(socket, FdFlags::CLOEXEC)?;
    }
    Ok(result)
}
