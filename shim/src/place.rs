//! A Unix socket's address holds 107 bytes, and task folders can be deeper: sockets are bound and
//! reached through a descriptor of their folder.

use std::{
    fs::File,
    io,
    os::{
        fd::AsRawFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags, openat};

/// Binds a new socket `name` in `folder`, in place of one that somebody left there.
pub(crate) fn bind(folder: &Path, name: &str) -> io::Result<UnixListener> {
    match std::fs::remove_file(folder.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (_open, short) = shortened(folder, name)?;
    UnixListener::bind(short)
}

/// Connects to the socket `name` in `folder`, if somebody listens there. An error says nothing
/// about that: whoever runs out of descriptors must not take others for dead.
pub(crate) fn connect(folder: &Path, name: &str) -> io::Result<Option<UnixStream>> {
    match shortened(folder, name).and_then(|(_open, short)| UnixStream::connect(short)) {
        Ok(stream) => Ok(Some(stream)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn shortened(folder: &Path, name: &str) -> io::Result<(File, PathBuf)> {
    let open: File =
        openat(CWD, folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?
            .into();
    let short = PathBuf::from(format!("/proc/self/fd/{}/{name}", open.as_raw_fd()));
    Ok((open, short))
}
