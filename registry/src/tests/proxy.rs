use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::interval,
};

/// A proxy before a registry, which stands for a network with faults.
pub struct Proxy {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// Each connection breaks after so many bytes from the registry.
    CutDown(usize),
    /// Each connection breaks after so many bytes to the registry.
    CutUp(usize),
    /// Connects, and then sends nothing.
    Silence,
    /// After so many bytes from the registry, one byte at a time.
    Trickle(usize),
}

impl Proxy {
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

    /// Terminates TLS, with the certificate of `key`, for a registry that speaks none.
    pub async fn behind_tls(
        registry: SocketAddr,
        key: &rcgen::CertifiedKey<rcgen::KeyPair>,
    ) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![key.cert.der().clone()],
                key.signing_key.serialize_der().try_into().unwrap(),
            )
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let (Ok(mut near), Ok(mut far)) =
                        (acceptor.accept(near).await, TcpStream::connect(registry).await)
                    else {
                        return;
                    };
                    tokio::io::copy_bidirectional(&mut near, &mut far).await.ok();
                });
            }
        });
        Self { address, connections: Arc::default() }
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
        Fault::CutDown(bytes) | Fault::Trickle(bytes) => (usize::MAX, bytes),
        Fault::CutUp(bytes) => (bytes, usize::MAX),
        Fault::Silence => (0, 0),
    };
    let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
    // The direction that ends first ends the other.
    tokio::select! {
        () = pipe(near_read, far_write, up) => {}
        () = answer(far_read, near_write, down, fault) => {}
    }
}

async fn answer(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, whole: usize, fault: Fault) {
    pipe(&mut from, &mut to, whole).await;
    if matches!(fault, Fault::Trickle(_)) {
        let mut ticks = interval(Duration::from_millis(20));
        while let Ok(byte) = from.read_u8().await {
            ticks.tick().await;
            if to.write_u8(byte).await.is_err() {
                return;
            }
        }
    }
}

async fn pipe(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut left: usize,
) {
    let mut buffer = vec![0; 16 << 10];
    while left > 0 {
        let wanted = buffer.len().min(left);
        match from.read(&mut buffer[..wanted]).await {
            Ok(read) if read > 0 && to.write_all(&buffer[..read]).await.is_ok() => left -= read,
            _ => return,
        }
    }
}
