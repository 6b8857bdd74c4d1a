use std::{
    fs::{self, File, Permissions},
    io,
    net::IpAddr,
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};

/// What connections come from.
pub trait Listener: Send + Sync {
    /// One connection.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// The next connection with the address of its client, which a Unix socket does not have.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Option<IpAddr>)>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Option<IpAddr>)> {
        let (stream, from) = TcpListener::accept(self).await?;
        // Responses go out whole; waiting to fill a packet only delays the last one.
        let _ = stream.set_nodelay(true);
        Ok((stream, Some(from.ip().to_canonical())))
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, Option<IpAddr>)> {
        Ok((UnixListener::accept(self).await?.0, None))
    }
}

/// A Unix socket for the user of this process alone: 0600, and a connection of another user (root
/// aside) that got past that is closed.
#[derive(Debug)]
pub struct PrivateListener(UnixListener);

impl PrivateListener {
    /// Listens at `path`, in a folder that only its owner may enter. A socket that lies there is
    /// replaced: the caller holds the lock that says that its process is dead.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let (_folder, short) = short_path(path)?;
        let listener = UnixListener::bind(short)?;
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        Ok(Self(listener))
    }
}

impl Listener for PrivateListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, Option<IpAddr>)> {
        let owner = rustix::process::geteuid().as_raw();
        loop {
            let (stream, _) = self.0.accept().await?;
            if stream.peer_cred()?.uid() == owner || stream.peer_cred()?.uid() == 0 {
                return Ok((stream, None));
            }
        }
    }
}

/// Connects to the Unix socket at `path`.
pub(crate) async fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let (_folder, short) = short_path(path)?;
    UnixStream::connect(short).await
}

/// The folder of the socket at `path`, and a name for the socket through it: an address holds 107
/// bytes, and a home can lie deeper. The folder must stay open while the name is used.
fn short_path(path: &Path) -> io::Result<(File, PathBuf)> {
    let folder = File::open(path.parent().unwrap_or(Path::new(".")))?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
    Ok((folder, short.join(path.file_name().unwrap_or_default())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_private_socket_may_lie_deeper_than_an_address_holds() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("x".repeat(200));
        fs::create_dir(&folder).unwrap();
        let path = folder.join("private.sock");
        drop(PrivateListener::bind(&path).unwrap());
        let listener = PrivateListener::bind(&path).expect("the socket of a dead process");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (accepted, connected) = tokio::join!(listener.accept(), connect_unix(&path));
        assert_eq!(accepted.unwrap().1, None);
        connected.unwrap();
    }
}
