use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response, request::Parts};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use runtime::AddressRules;
use spec::{NodeId, Protocol};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

use super::{
    connection::Connection,
    exchange::{Exchange, Failed},
    hop,
    limits::CONNECT_TIME_MAX,
    outgoing,
    peer_tls::PeerTls,
    pool::Pool,
    request_body::RequestBody,
    shared::{self, SharedConnections, SharedStream},
    table::{Replica, Target},
};

pub(super) struct Upstream {
    shared: SharedConnections,
    tls: Arc<PeerTls>,
}

/// The right to send one request.
pub(super) enum Lease {
    Own { pool: Arc<Pool>, connection: Connection },
    Shared(SharedStream),
}

/// The body of a replica's response, on the connection that it comes from.
pub(super) enum ReplicaBody {
    Own(Box<Exchange>),
    /// As long as this is there, the stream counts for its connection.
    Shared(Box<(Incoming, SharedStream)>),
}

impl Upstream {
    pub fn new(tls: Arc<PeerTls>) -> Self {
        Self { shared: SharedConnections::default(), tls }
    }

    /// A connection to `replica` that is there already.
    pub fn kept(&self, replica: &Replica) -> Option<Lease> {
        if replica.protocol == Protocol::Http2 {
            return None; // shared, and not kept for one request
        }
        let connection = replica.pool.take()?;
        Some(Lease::Own { pool: replica.pool.clone(), connection })
    }

    /// A connection to `replica`, new unless it has place for many requests.
    pub async fn lease(&self, replica: &Replica, addresses: &AddressRules) -> io::Result<Lease> {
        self.open(replica, addresses, false).await
    }

    /// A new connection to `replica`.
    pub async fn fresh(&self, replica: &Replica, addresses: &AddressRules) -> io::Result<Lease> {
        self.open(replica, addresses, true).await
    }

    async fn open(
        &self,
        replica: &Replica,
        addresses: &AddressRules,
        must_be_new: bool,
    ) -> io::Result<Lease> {
        if replica.protocol == Protocol::Http2 {
            let connect = in_time(self.connect_shared(&replica.target, addresses));
            let stream = self.shared.stream(&replica.target, must_be_new, connect).await?;
            return Ok(Lease::Shared(stream));
        }
        let connection = in_time(self.connect(&replica.target, addresses)).await?;
        Ok(Lease::Own { pool: replica.pool.clone(), connection })
    }

    /// Closes shared connections that were idle for long.
    pub fn close_idle(&self) {
        self.shared.close_idle();
    }

    /// A node that has joined may say any address of its ingress: one that is off limits here is
    /// not dialled, and no name is looked up.
    async fn connect(&self, target: &Target, addresses: &AddressRules) -> io::Result<Connection> {
        match target {
            Target::Local(path) => Ok(Connection::new(net::connect_unix(path).await?)),
            Target::Peer { node, address } => {
                let stream = self.dial(node, *address, addresses, Protocol::Http).await?;
                Ok(Connection::new(stream))
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
            Target::Local(path) => shared::open(net::connect_unix(path).await?).await,
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
                let mut stream = net::connect_unix(path).await?;
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
            Protocol::Http | Protocol::Tcp | Protocol::Udp => hop::WITHOUT_HOST.as_bytes(),
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

impl Lease {
    /// Whether the connection has carried a request before, so that the replica may have closed it
    /// meanwhile.
    pub fn used(&self) -> bool {
        match self {
            Self::Own { connection, .. } => connection.used,
            Self::Shared(stream) => stream.used,
        }
    }

    /// Begins a request. When what comes of it is dropped, whatever is on the connection ends: a
    /// replica that takes no bytes would hold the rest of a request, and with it the client's
    /// connection. A shared connection stays, and its stream is reset.
    ///
    /// # Errors
    /// When the replica has closed the connection already.
    pub fn ask(self, head: &Parts, body: RequestBody) -> Result<Asked, Failed> {
        Ok(match self {
            Self::Own { pool, connection } => {
                Asked::Own(Some(Exchange::begin(pool, connection, head, body)?))
            }
            Self::Shared(stream) => {
                Asked::Shared(Box::pin(ask_shared(stream, outgoing::in_http2(head, body))))
            }
        })
    }
}

/// A request that waits for its response.
pub(super) enum Asked {
    /// Until there is one.
    Own(Option<Box<Exchange>>),
    Shared(Pin<Box<dyn Future<Output = ReplicaAnswer> + Send>>),
}

/// A response, or why there is none.
pub(super) type ReplicaAnswer = Result<Response<ReplicaBody>, Failed>;

impl Future for Asked {
    type Output = ReplicaAnswer;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<ReplicaAnswer> {
        let own = match self.get_mut() {
            Self::Own(own) => own,
            Self::Shared(answer) => return answer.as_mut().poll(cx),
        };
        let Some(exchange) = own else { return Poll::Pending };
        let answer = ready!(exchange.poll_answer(cx));
        let exchange = own.take().expect("it was there");
        Poll::Ready(answer.map(|parts| Response::from_parts(parts, ReplicaBody::Own(exchange))))
    }
}

async fn ask_shared(mut stream: SharedStream, request: Request<RequestBody>) -> ReplicaAnswer {
    match stream.sender.try_send_request(request).await {
        Ok(response) => Ok(response.map(|body| ReplicaBody::Shared(Box::new((body, stream))))),
        Err(mut failed) => Err(match failed.take_message() {
            Some(whole) => Failed::Unsent(whole.into_body(), failed.into_error().to_string()),
            None => Failed::Lost(crate::error::chain(&failed.into_error())),
        }),
    }
}

impl ReplicaBody {
    /// Whether all of it was taken.
    pub fn is_end(&self) -> bool {
        match self {
            Self::Own(exchange) => exchange.is_end(),
            Self::Shared(shared) => shared.0.is_end_stream(),
        }
    }

    pub fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(exchange) => exchange.size_hint(),
            Self::Shared(shared) => shared.0.size_hint(),
        }
    }

    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self {
            Self::Own(exchange) => exchange.poll_frame(cx),
            Self::Shared(shared) => {
                Pin::new(&mut shared.0).poll_frame(cx).map_err(io::Error::other)
            }
        }
    }

    /// It has come in full: the next request may have the connection.
    pub fn finish(self) {
        match self {
            Self::Own(exchange) => exchange.finish(),
            Self::Shared(_) => {}
        }
    }
}
