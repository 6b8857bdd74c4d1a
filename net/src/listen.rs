use std::{io, net::IpAddr, path::Path};

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
        let listener = disk::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(Self(UnixListener::from_std(listener)?))
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

/// Connects to the Unix socket at `path`, however deep its folder is.
///
/// # Errors
/// Of the kernel, as when nothing listens there.
pub async fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    if path.as_os_str().len() <= disk::SocketPath::BYTES_MAX {
        return UnixStream::connect(path).await;
    }
    let short = disk::SocketPath::of(path)?;
    UnixStream::connect(&short).await // by reference: tokio drops a path before it connects
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[tokio::test]
    async fn a_private_socket_may_lie_deeper_than_an_address_holds() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["x".to_owned(), "x".repeat(200)] {
            let folder = dir.path().join(name);
            connect_unix(&folder.join("private.sock")).await.unwrap_err();
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
}
