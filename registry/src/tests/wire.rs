use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// A network between a client and a registry that misbehaves.
pub struct Wire {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

/// How.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// Each connection breaks after so many bytes from the registry.
    CutDown(usize),
    /// Each connection breaks after so many bytes to the registry.
    CutUp(usize),
    /// Connects, and then nothing.
    Silence,
}

impl Wire {
    pub async fn to(registry: SocketAddr, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(carry(near, registry, fault));
            }
        });
        Self { address, connections }
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn carry(near: TcpStream, registry: SocketAddr, fault: Fault) {
    if matches!(fault, Fault::Silence) {
        std::future::pending::<()>().await;
    }
    let Ok(far) = TcpStream::connect(registry).await else { return };
    let (up, down) = match fault {
        Fault::CutDown(bytes) => (usize::MAX, bytes),
        Fault::CutUp(bytes) => (bytes, usize::MAX),
        Fault::Silence => (0, 0),
    };
    let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
    // Whichever direction ends first takes the other with it.
    tokio::select! {
        () = pipe(near_read, far_write, up) => {}
        () = pipe(far_read, near_write, down) => {}
    }
}

async fn pipe(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin, mut left: usize) {
    let mut buffer = vec![0; 16 << 10];
    while left > 0 {
        let wanted = buffer.len().min(left);
        match from.read(&mut buffer[..wanted]).await {
            Ok(read) if read > 0 && to.write_all(&buffer[..read]).await.is_ok() => left -= read,
            _ => return,
        }
    }
}
