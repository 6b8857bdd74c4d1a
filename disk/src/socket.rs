use std::{
    fs::{self, Permissions},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            fs::PermissionsExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::folder::parent;

/// A Unix socket's path in a form that fits the 107 bytes of an address, however deep its folder
/// is: through an open descriptor of the folder. Valid while it lives.
#[derive(Debug)]
pub struct SocketPath {
    path: PathBuf,
    _folder: OwnedFd,
}

impl SocketPath {
    /// What an address holds, beside the byte at its end.
    pub const BYTES_MAX: usize = 107;

    /// # Errors
    /// When the folder cannot be opened.
    pub fn of(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(CWD, parent(path), flags, Mode::empty())?;
        let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
        Ok(Self { path: short.join(path.file_name().unwrap_or_default()), _folder: folder })
    }
}

impl AsRef<Path> for SocketPath {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

/// Listens at `path` with mode 0600, in place of a socket that a dead process left there. The
/// caller knows that no living one listens, and its folder is private: until the mode is set, only
/// that protects the socket.
///
/// # Errors
/// When the socket cannot be made.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    let short = SocketPath::of(path)?;
    crate::remove(short.as_ref())?;
    let listener = UnixListener::bind(&short)?;
    fs::set_permissions(&short, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Connects to the socket at `path`.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] and [`io::ErrorKind::ConnectionRefused`] when no process listens
/// there. Any other error says nothing about that: a caller without descriptors must not take
/// others for dead.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(SocketPath::of(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_in_deep_folders_are_private_and_take_the_place_of_old_ones() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a".repeat(120)).join("server.sock");
        assert_eq!(connect(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::create_dir(path.parent().unwrap()).unwrap();
        for _ in 0..2 {
            let listener = bind(&path).unwrap();
            connect(&path).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            drop(listener);
            assert_eq!(connect(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        }
    }
}
