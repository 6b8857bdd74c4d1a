use std::{io, path::Path};

use tokio::net::UnixStream;

/// What an address of a Unix socket holds, beside the byte at its end.
const ADDRESS_BYTES_MAX: usize = 107;

/// Connects to the socket at `path`, however deep its folder is.
pub(crate) async fn connect(path: &Path) -> io::Result<UnixStream> {
    if path.as_os_str().len() <= ADDRESS_BYTES_MAX {
        return UnixStream::connect(path).await;
    }
    let short = disk::SocketPath::of(path)?;
    UnixStream::connect(&short).await // by reference: tokio drops a path before it connects
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_in_a_deep_folder_is_reached() {
        let root = tempfile::tempdir().unwrap();
        for name in ["a".to_owned(), "a".repeat(120)] {
            let path = root.path().join(name).join("socket");
            connect(&path).await.unwrap_err();
            std::fs::create_dir(path.parent().unwrap()).unwrap();
            let _listener = disk::bind(&path).unwrap();
            connect(&path).await.unwrap();
        }
    }
}
