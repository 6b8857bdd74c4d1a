use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{
        TrySendError,
        http1::{self, SendRequest},
    },
};
use hyper_util::rt::TokioIo;
use runtime::AddressRules;
use spec::{NodeId, Protocol};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::AbortHandle,
    time::{Instant, timeout},
};
use tokio_rustls::client::TlsStream;

use super::{
    hop,
    limits::{CONNECT_TIME_MAX, IDLE_MAX, IDLE_TIME_MAX},
    outgoing,
    peer_tls::PeerTls,
    request_body::RequestBody,
    shared::{self, SharedConnections, SharedStream},
    table::{Replica, Target},
};
use crate::local_socket;

/// One connection, and the task that moves its bytes.
struct Connection {
    sender: SendRequest<RequestBody>,
    task: AbortHandle,
}

pub(super) struct Upstream {
    idle: Mutex<HashMap<Target, Vec<(Connection, Instant)>>>,
    shared: SharedConnections,
    tls: Arc<PeerTls>,
}

/// The right to send one request.
pub(super) struct Lease {
    on: On,
    /// Whether the connection has carried a request before, so that the replica may have closed it
    /// meanwhile.
    pub used: bool,
}

enum On {
    Own { upstream: Arc<Upstream>, target: Target, connection: Connection },
    Shared(SharedStream),
}

impl Upstream {
    pub fn new(tls: Arc<PeerTls>) -> Self {
        Self { idle: Mutex::default(), shared: SharedConnections::default(), tls }
    }

    /// A connection to `replica`: one that is there, or a new one.
    pub async fn lease(
        self: &Arc<Self>,
        replica: &Replica,
        addresses: &AddressRules,
    ) -> io::Result<Lease> {
        if replica.protocol == Protocol::Http2 {
            return self.share(&replica.target, addresses, false).await;
        }
        while let Some(mut connection) = self.take_idle(&replica.target) {
            if connection.sender.ready().await.is_ok() {
                return Ok(self.own(&replica.target, connection, true));
            }
        }
        self.fresh(replica, addresses).await
    }

    /// A new connection to `replica`.
    pub async fn fresh(
        self: &Arc<Self>,
        replica: &Replica,
        addresses: &AddressRules,
    ) -> io::Result<Lease> {
        if replica.protocol == Protocol::Http2 {
            return self.share(&replica.target, addresses, true).await;
        }
        let connection = in_time(self.connect(&replica.target, addresses)).await?;
        Ok(self.own(&replica.target, connection, false))
    }

    fn own(self: &Arc<Self>, target: &Target, connection: Connection, used: bool) -> Lease {
        let on = On::Own { upstream: self.clone(), target: target.clone(), connection };
        Lease { on, used }
    }

    async fn share(
        &self,
        target: &Target,
        addresses: &AddressRules,
        must_be_new: bool,
    ) -> io::Result<Lease> {
        let connect = in_time(self.connect_shared(target, addresses));
        let stream = self.shared.stream(target, must_be_new, connect).await?;
        Ok(Lease { used: stream.used, on: On::Shared(stream) })
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
        self.shared.close_idle();
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
            Target::Local(path) => open(local_socket::connect(path).await?).await,
            Target::Peer { node, address } => {
                open(self.dial(node, *address, addresses, Protocol::Http).await?).await
            }
        }
    }

    /// The same for HTTP/2.
    async fn connect_shared(
        &self,
        target: &Target,
        addresses: &AddressRules,
    ) -> io::Result<shared::Sender> {
        match target {
            Target::Local(path) => shared::open(local_socket::connect(path).await?).await,
            Target::Peer { node, address } => {
                let stream = self.dial(node, *address, addresses, Protocol::Http2).await?;
                shared::open(stream).await
            }
        }
    }

    /// Whether `target` answers anything on a new connection, and what an ingress says of the
    /// replica behind it that is named.
    pub async fn answers(&self, probed: &Probed, addresses: &AddressRules) -> io::Result<Answer> {
        match &probed.target {
            Target::Local(path) => {
                let mut stream = local_socket::connect(path).await?;
                stream.write_all(probed.question()).await?;
                stream.read_u8().await?;
                Ok(Answer::Answers)
            }
            Target::Peer { node, address } => {
                // Of HTTP/1.1, whatever the replica speaks.
                let stream = self.dial(node, *address, addresses, Protocol::Http).await?;
                answer_of(stream, probed.replica.as_deref()).await
            }
        }
    }

    async fn dial(
        &self,
        node: &NodeId,
        address: SocketAddr,
        addresses: &AddressRules,
        protocol: Protocol,
    ) -> io::Result<TlsStream<TcpStream>> {
        let no_certificate = || io::Error::other("this ingress has no certificate yet");
        let tls = self.tls.connector(protocol).ok_or_else(no_certificate)?;
        let stream = addresses.connect(address, true).await?;
        stream.set_nodelay(true)?;
        tls.connect(net::tls::ingress(node), stream).await
    }
}

async fn in_time<T>(connect: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no connection in time");
    timeout(CONNECT_TIME_MAX, connect).await.map_err(late)?
}

/// What every server of HTTP/2 answers with its settings: a preface, and no settings.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// What is asked whether it answers: a replica, or, without a name, an ingress.
#[derive(Debug, Clone)]
pub(super) struct Probed {
    pub target: Target,
    pub protocol: Protocol,
    pub replica: Option<Arc<str>>,
}

impl Probed {
    pub fn replica(replica: &Replica) -> Self {
        let (target, protocol) = (replica.target.clone(), replica.protocol);
        Self { target, protocol, replica: Some(replica.name.clone()) }
    }

    pub fn ingress_of(replica: &Replica) -> Self {
        Self { replica: None, ..Self::replica(replica) }
    }

    fn question(&self) -> &'static [u8] {
        match self.protocol {
            Protocol::Http2 => HTTP2_PREFACE,
            Protocol::Http | Protocol::Tcp => hop::WITHOUT_HOST.as_bytes(),
        }
    }
}

/// What came back for a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Answers,
    /// The ingress answers, and the replica behind it does not.
    ReplicaIsSilent,
}

async fn answer_of(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    replica: Option<&str>,
) -> io::Result<Answer> {
    stream.write_all(hop::probe(replica).as_bytes()).await?;
    if replica.is_none() {
        stream.read_u8().await?;
        return Ok(Answer::Answers);
    }
    let mut status = [0; "HTTP/1.0 504".len()];
    stream.read_exact(&mut status).await?;
    Ok(match status.ends_with(hop::SILENT.as_str().as_bytes()) {
        true => Answer::ReplicaIsSilent,
        false => Answer::Answers,
    })
}

async fn open<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: S,
) -> io::Result<Connection> {
    // A hundred headers at most are hyper's own limit, which costs less than one that is said.
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(64 << 10)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    // Ends when the sender is dropped or the replica closes.
    let task = tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to a replica broke");
        }
    });
    Ok(Connection { sender, task: task.abort_handle() })
}

impl Lease {
    /// Sends a request. One of which nothing was sent comes back with the error.
    pub async fn send(
        &mut self,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        match &mut self.on {
            On::Own { connection, .. } => {
                outgoing::in_http1(&mut request);
                connection.sender.try_send_request(request).await
            }
            On::Shared(stream) => {
                outgoing::in_http2(&mut request);
                stream.sender.try_send_request(request).await
            }
        }
    }

    /// Ends whatever is on it. A replica that takes no bytes would hold the rest of a request, and
    /// with it the client's connection. A shared connection stays: its stream is reset.
    pub fn cut(self) {
        match self.on {
            On::Own { connection, .. } => connection.task.abort(),
            On::Shared(_) => {}
        }
    }

    /// The response has come in full: the next request may have the connection.
    pub fn give_back(self) {
        let On::Own { upstream, target, connection } = self.on else { return };
        if connection.sender.is_closed() {
            return;
        }
        let mut idle = upstream.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.entry(target).or_default();
        if kept.len() < IDLE_MAX {
            kept.push((connection, Instant::now()));
        }
    }
}
