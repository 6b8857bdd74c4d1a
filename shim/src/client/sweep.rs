use std::{io, os::fd::OwnedFd, path::Path};

use engine::frame;

use crate::{
    Error,
    record::{ENDED, SOCKET, TRACES, Traces, clear, read, remove},
};

/// The outcome of [`sweep`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swept {
    /// Its shim is alive: nothing was touched.
    Alive,
    /// Nothing of it was left.
    Nothing,
    /// Something was left, and is gone now.
    Remains,
}

/// Removes what a killed shim left of the container of `folder`: its processes, its cgroup, the
/// runtime's state. Its mounts and its network namespace end with its last process, because no
/// other process was ever in them. May be called at any time, and again.
///
/// # Errors
/// [`Error::Io`] when something cannot be removed, or when it is unknown whether the shim is
/// alive.
pub fn sweep(folder: &Path) -> Result<Swept, Error> {
    if reach(folder)?.is_some() {
        return Ok(Swept::Alive);
    }
    let Some(traces) = read::<Traces>(&folder.join(TRACES))? else { return Ok(Swept::Nothing) };
    clear(folder, &traces)?;
    Ok(Swept::Remains)
}

/// A connection to the shim of `folder`, or `None` when it is dead.
pub(crate) fn reach(folder: &Path) -> Result<Option<OwnedFd>, Error> {
    match frame::connect(folder, SOCKET) {
        Ok(socket) => Ok(Some(socket)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            Ok(None)
        }
        Err(error) => {
            Err(Error::io(format!("reach the task shim in `{}`", folder.display()))(error))
        }
    }
}

/// Prepares `folder` for a new container: sweeps it, and removes the exit status of the last one.
pub(crate) fn prepare(folder: &Path) -> Result<(), Error> {
    if sweep(folder)? == Swept::Alive {
        let source = io::Error::from(io::ErrorKind::AddrInUse);
        return Err(Error::Io {
            what: format!("start a second container in `{}`", folder.display()),
            source,
        });
    }
    let path = folder.join(ENDED);
    remove(disk::remove(&path), &path)
}
