use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use runtime::AddressRules;
use spec::NodeId;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    task::AbortHandle,
    time::{Instant, timeout},
};
use tokio_rustls::client::TlsStream;

use super::{
    limits::{CONNECT_TIME_MAX, IDLE_MAX, IDLE_TIME_MAX},
    peer_tls::PeerTls,
    request_body::RequestBody,
    table::Target,
};

type Sender = SendRequest<RequestBody>;

/// One connection, and the task that moves its bytes.
struct Connection {
    sender: Sender,
    task: AbortHandle,
}

pub(super) struct Upstream {
    idle: Mutex<HashMap<Target, Vec<(Connection, Instant)>>>,
    tls: Arc<PeerTls>,
}

pub(super) struct Lease {
    upstream: Arc<Upstream>,
    target: Target,
    pub sender: Sender,
    task: AbortHandle,
    /// Whether it has carried a request before, so that the replica may have closed it meanwhile.
    pub used: bool,
}

impl Upstream {
    pub fn new(tls: Arc<PeerTls>) -> Self {
        Self { idle: Mutex::default(), tls }
    }

    /// A connection to `target`: one that is there, or a new one.
    pub async fn lease(
        self: &Arc<Self>,
        target: &Target,
        addresses: &AddressRules,
    ) -> io::Result<Lease> {
        while let Some(Connection { mut sender, task }) = self.take_idle(target) {
            if sender.ready().await.is_ok() {
                return Ok(Lease {
                    upstream: self.clone(),
                    target: target.clone(),
                    sender,
                    task,
                    used: true,
                });
            }
        }
        self.fresh(target, addresses).await
    }

    /// A new connection to `target`.
    pub async fn fresh(
        self: &Arc<Self>,
        target: &Target,
        addresses: &AddressRules,
    ) -> io::Result<Lease> {
        let Connection { sender, task } =
            timeout(CONNECT_TIME_MAX, self.connect(target, addresses))
                .await
                .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no connection in time"))??;
        Ok(Lease { upstream: self.clone(), target: target.clone(), sender, task, used: false })
    }

    fn take_idle(&self, target: &Target) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.get_mut(target)?;
        let found = std::iter::from_fn(|| kept.pop())
            .find(|(c, since)| !c.sender.is_closed() && since.elapsed() < IDLE_TIME_MAX);
        if kept.is_empty() {
            idle.remove(target);
        }
        found.map(|(connection, _)| connection)
    }

    /// Closes connections that were idle for long.
    pub fn close_idle(&self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|_, kept| {
            kept.retain(|(connection, since)| {
                !connection.sender.is_closed() && since.elapsed() < IDLE_TIME_MAX
            });
            !kept.is_empty()
        });
    }

    /// A node that has joined may say any address of its ingress: one that is off limits here is
    /// not dialled, and no name is looked up.
    async fn connect(&self, target: &Target, addresses: &AddressRules) -> io::Result<Connection> {
        match target {
            Target::Local(path) => open(UnixStream::connect(path).await?).await,
            Target::Peer { node, address } => {
                open(self.dial(node, *address, addresses).await?).await
            }
        }
    }

    /// Whether `target` answers anything on a new connection.
    pub async fn answers(&self, target: &Target, addresses: &AddressRules) -> io::Result<()> {
        match target {
            Target::Local(path) => any_answer(UnixStream::connect(path).await?).await,
            Target::Peer { node, address } => {
                any_answer(self.dial(node, *address, addresses).await?).await
            }
        }
    }

    async fn dial(
        &self,
        node: &NodeId,
        address: SocketAddr,
        addresses: &AddressRules,
    ) -> io::Result<TlsStream<TcpStream>> {
        let no_certificate = || io::Error::other("this ingress has no certificate yet");
        let tls = self.tls.connector().ok_or_else(no_certificate)?;
        let stream = addresses.connect(address, true).await?;
        stream.set_nodelay(true)?;
        tls.connect(net::tls::ingress(node), stream).await
    }
}

/// What no worker and no ingress passes on: a request without a host.
const WITHOUT_HOST: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

async fn any_answer(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    stream.write_all(WITHOUT_HOST).await?;
    match stream.read(&mut [0; 1]).await? {
        0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed without an answer")),
        _ => Ok(()),
    }
}

async fn open<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: S,
) -> io::Result<Connection> {
    let (sender, connection) = http1::Builder::new()
        .max_headers(100)
        .max_buf_size(64 << 10)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    // Ends when the sender is dropped or the replica closes.
    let task = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to a replica broke");
        }
    });
    Ok(Connection { sender, task: task.abort_handle() })
}

impl Lease {
    /// Ends the connection under whatever is on it. A replica that takes no bytes would hold the
    /// rest of a request, and with it the client's connection.
    pub fn cut(self) {
        self.task.abort();
    }

    /// The response has come in full: the next request may have the connection.
    pub fn give_back(self) {
        if self.sender.is_closed() {
            return;
        }
        let mut idle = self.upstream.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.entry(self.target.clone()).or_default();
        if kept.len() < IDLE_MAX {
            kept.push((Connection { sender: self.sender, task: self.task }, Instant::now()));
        }
    }
}
