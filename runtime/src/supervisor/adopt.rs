use std::{io, os::fd::OwnedFd, path::Path, time::Duration};

use engine::{
    Listeners, Slots,
    cgroup::Place,
    frame::{self, Received},
};
use rustix::net::sockopt;
use spec::Capabilities;

use crate::{Broker, Error, Worker, frame::ToSupervisor};

/// The name of a worker's socket in its container's folder.
pub(crate) const SOCKET: &str = "worker.sock";
/// A worker answers at once or never; this is for a machine under load.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// A worker that an earlier agent has left behind, with the listeners that it was given.
#[derive(Debug)]
pub struct Adopted {
    /// Its events and requests for connections come here from now on.
    pub worker: Worker,
    /// Whether it had started before.
    pub started: bool,
    pub listeners: Listeners,
}

/// Takes over the worker of the container in `folder`, which is in the cgroup `place`. `grants` are
/// from the caller's own record, never from the worker.
///
/// # Errors
/// [`Error::NotAdopted`] when no worker listens there any more, or one that speaks another
/// protocol.
pub async fn adopt(
    folder: &Path,
    place: Option<Place>,
    grants: Capabilities,
    broker: Broker,
) -> Result<Adopted, Error> {
    let refused = |why: &str| Error::NotAdopted(io::Error::other(why.to_owned()));
    let folder = folder.to_owned();
    let met = tokio::task::spawn_blocking(move || meet(&folder)).await;
    let (control, first) =
        met.map_err(io::Error::other).and_then(|met| met).map_err(Error::NotAdopted)?;
    let Some(Received { message: ToSupervisor::Adopted { started, listeners }, fds, sender }) =
        first
    else {
        return Err(refused("it did not introduce itself"));
    };
    let pid = sender.ok_or_else(|| refused("the kernel does not say which process it is"))?;
    let mut slots = Slots::from(fds);
    let listeners = listeners.join(&mut slots).map_err(Error::NotAdopted)?;
    if !slots.is_empty() {
        // Closing a descriptor of a hostile worker may take its time.
        drop(tokio::task::spawn_blocking(move || drop(slots)));
        return Err(refused("it handed over more than it announced"));
    }
    let worker = Worker::watch(control, pid, None, place, grants.outbound, broker)?;
    Ok(Adopted { worker, started, listeners })
}

/// Connects to a worker and receives its first message. The kernel says which process sent it: the
/// listening socket was made by another one, and what the worker says of itself is not believed.
fn meet(folder: &Path) -> io::Result<(OwnedFd, Option<Received<ToSupervisor>>)> {
    let control = frame::connect_expecting_sender(folder, SOCKET)?;
    sockopt::set_socket_timeout(&control, sockopt::Timeout::Recv, Some(ANSWER_TIME_MAX))?;
    let first = frame::receive_from(&control)?;
    sockopt::set_socket_timeout(&control, sockopt::Timeout::Recv, None)?;
    sockopt::set_socket_passcred(&control, false)?;
    Ok((control, first))
}
