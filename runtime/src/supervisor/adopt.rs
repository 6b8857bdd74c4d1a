use std::{
    io,
    net::TcpListener,
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::Path,
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use spec::Capabilities;

use crate::{
    Broker, Error, Ingress, Listener, Worker,
    frame::{self, Received, ToSupervisor},
};

/// A worker answers at once or never; this is for a machine under load.
const ANSWER_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(5);
/// Agents come one at a time; what is more is a mistake.
const BACKLOG: i32 = 4;

/// A worker that an earlier agent has left behind, with the listeners that it was given.
#[derive(Debug)]
pub struct Adopted {
    /// Events and connections come to us from now on.
    pub worker: Worker,
    /// Whether it had started before.
    pub started: bool,
    /// The published ports.
    pub listeners: Vec<Listener>,
    /// The way in for the ingress.
    pub ingress: Option<Ingress>,
}

/// Makes the socket `name` in `folder` for an assignment's
/// [`adoption`](crate::Assignment::adoption), in place of an old one. The folder decides who may
/// open it.
///
/// # Errors
/// When the socket cannot be made.
pub fn adoption_socket(folder: &Path, name: &str) -> Result<OwnedFd, Error> {
    let listen = || -> io::Result<OwnedFd> {
        let short = disk::SocketPath::of(&folder.join(name))?;
        let _ = std::fs::remove_file(&short);
        let socket = socket()?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(short.as_ref())?)?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(socket)
    };
    listen().map_err(Error::file("make the socket", folder.join(name)))
}

/// Takes over the worker that listens at `name` in `folder`. `grants` are from the caller's own
/// record, never from the worker.
///
/// # Errors
/// [`Error::WorkerLost`] when nobody listens there any more.
pub async fn adopt(
    folder: &Path,
    name: &str,
    grants: Capabilities,
    broker: Broker,
) -> Result<Adopted, Error> {
    let lost = || Error::WorkerLost("waiting for an agent");
    let (folder, name) = (folder.to_owned(), name.to_owned());
    let met =
        tokio::task::spawn_blocking(move || meet(&folder, &name)).await.map_err(|_| lost())?;
    let (control, first) = met.map_err(|_| lost())?;
    let Some(Received { message: ToSupervisor::Adopted { started, ports, ingress }, fds, sender }) =
        first
    else {
        return Err(lost());
    };
    let pid = sender.ok_or_else(lost)?;
    let mut fds = fds.into_iter();
    let listeners = ports
        .into_iter()
        .zip(fds.by_ref())
        .map(|(container_port, fd)| Listener { container_port, socket: TcpListener::from(fd) })
        .collect();
    let ingress = ingress
        .zip(fds.next())
        .map(|(container_port, fd)| Ingress { container_port, socket: UnixListener::from(fd) });
    // More than it announced: closing a stranger's descriptor may take its time.
    let surplus: Vec<_> = fds.collect();
    if !surplus.is_empty() {
        drop(tokio::task::spawn_blocking(move || drop(surplus)));
        return Err(lost());
    }
    Ok(Adopted {
        worker: Worker::watch(control, pid, None, grants.outbound, broker)?,
        started,
        listeners,
        ingress,
    })
}

/// Connects to a worker and hears its first word. The kernel says who spoke: whoever made the
/// listening socket was another process, and what the worker says of itself is not believed.
fn meet(folder: &Path, name: &str) -> io::Result<(OwnedFd, Option<Received<ToSupervisor>>)> {
    let short = disk::SocketPath::of(&folder.join(name))?;
    let control = socket()?;
    sockopt::set_socket_passcred(&control, true)?;
    rustix::net::connect(&control, &SocketAddrUnix::new(short.as_ref())?)?;
    sockopt::set_socket_timeout(&control, sockopt::Timeout::Recv, Some(ANSWER_TIME_MAX))?;
    let first = frame::receive_from(&control)?;
    sockopt::set_socket_timeout(&control, sockopt::Timeout::Recv, None)?;
    sockopt::set_socket_passcred(&control, false)?;
    Ok((control, first))
}

fn socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}
