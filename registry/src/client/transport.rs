use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use net::{MinThroughput, TimedBody, tls};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    options::{ClientOptions, Reach},
    origin::Origin,
};
use crate::{
    Error, ProtocolFault,
    limits::{CONNECT_TIME_MAX, IDLE_CONNECTIONS_MAX},
};

/// The body of a request.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

pub(super) const USER_AGENT: &str = concat!("margay/", env!("CARGO_PKG_VERSION"));

/// Counts the chunks of a request's body that were sent, so that a long upload is told from a dead
/// connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Activity(Arc<AtomicU64>);

impl Activity {
    pub fn record(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Connections to registries: HTTP/1.1, plain or over TLS, reused while they live.
pub(super) struct Transport {
    tls: TlsConnector,
    connect_time_max: Duration,
    /// Without any progress.
    idle_time_max: Duration,
    reach: Reach,
    idle: Mutex<HashMap<Origin, Vec<SendRequest<Body>>>>,
}

impl Transport {
    /// Authorities that cannot be parsed are passed over.
    pub fn new(options: &ClientOptions) -> Self {
        let ClientOptions { authorities, reach, idle_time_max, .. } = options;
        let mut roots = tls::web_roots();
        roots.add_parsable_certificates(authorities.iter().map(|der| der.clone().into()));
        Self {
            tls: tls::web_client(roots).into(),
            connect_time_max: CONNECT_TIME_MAX.min(*idle_time_max),
            idle_time_max: *idle_time_max,
            reach: reach.clone(),
            idle: Mutex::default(),
        }
    }

    /// Sends `request` and waits for the head of the response, as long as there is `activity` of
    /// its body.
    pub async fn send(
        &self,
        origin: &Origin,
        subject: &str,
        mut request: Request<Body>,
        activity: &Activity,
    ) -> Result<Response<Incoming>, Error> {
        let host = HeaderValue::from_str(&origin.authority()).map_err(|_| Error::Protocol {
            registry: origin.to_string(),
            source: ProtocolFault::NotSendable { what: "host name" },
        })?;
        request.headers_mut().insert(header::HOST, host);
        let (mut sender, request) = match self.reuse(origin) {
            None => (self.connect(origin).await?, request),
            Some(mut sender) => {
                match self.wait(origin, subject, activity, sender.try_send_request(request)).await?
                {
                    Ok(response) => return Ok(self.keep(origin, sender, response)),
                    // The registry had closed the connection before it read any of the request: the
                    // request can be sent again.
                    Err(mut failed) => match failed.take_message() {
                        Some(request) => (self.connect(origin).await?, request),
                        None => return Err(disconnected(origin, subject, failed.into_error())),
                    },
                }
            }
        };
        match self.wait(origin, subject, activity, sender.send_request(request)).await? {
            Ok(response) => Ok(self.keep(origin, sender, response)),
            Err(error) => Err(disconnected(origin, subject, error)),
        }
    }

    /// The body of a `response` of `origin`.
    pub fn receive<'a>(
        &self,
        origin: &'a Origin,
        subject: &'a str,
        response: Response<Incoming>,
    ) -> Receiving<'a> {
        let idle = self.idle_time_max;
        let body = TimedBody::new(response.into_body(), MinThroughput::with_grace(idle));
        Receiving { origin, subject, body, idle }
    }

    async fn wait<T>(
        &self,
        origin: &Origin,
        subject: &str,
        activity: &Activity,
        answer: impl Future<Output = T>,
    ) -> Result<T, Error> {
        tokio::pin!(answer);
        loop {
            let before = activity.count();
            match timeout(self.idle_time_max, &mut answer).await {
                Ok(answer) => return Ok(answer),
                Err(_) if activity.count() != before => continue,
                Err(_) => return Err(timed_out(origin, subject, self.idle_time_max)),
            }
        }
    }

    fn reuse(&self, origin: &Origin) -> Option<SendRequest<Body>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let senders = idle.get_mut(origin)?;
        senders.retain(|sender| !sender.is_closed());
        let ready = senders.iter().position(SendRequest::is_ready)?;
        Some(senders.swap_remove(ready))
    }

    /// The connection becomes ready again once the body of `response` has been read.
    fn keep(
        &self,
        origin: &Origin,
        sender: SendRequest<Body>,
        response: Response<Incoming>,
    ) -> Response<Incoming> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let senders = idle.entry(origin.clone()).or_default();
        senders.retain(|sender| !sender.is_closed());
        if senders.len() < IDLE_CONNECTIONS_MAX {
            senders.push(sender);
        }
        response
    }

    async fn connect(&self, origin: &Origin) -> Result<SendRequest<Body>, Error> {
        let down = |source| Error::Unreachable { registry: origin.to_string(), source };
        let stream = match timeout(self.connect_time_max, self.dial(origin)).await {
            Ok(stream) => stream?,
            Err(_) => return Err(timed_out(origin, "connecting", self.connect_time_max)),
        };
        // Requests go out whole; waiting to fill a packet only delays the last one.
        stream.set_nodelay(true).map_err(down)?;
        if !origin.secure {
            return handshake(origin, stream).await;
        }
        let tls = |source| Error::Tls { registry: origin.to_string(), source };
        let name =
            ServerName::try_from(origin.host.clone()).map_err(|e| tls(io::Error::other(e)))?;
        match timeout(self.connect_time_max, self.tls.connect(name, stream)).await {
            Ok(stream) => handshake(origin, stream.map_err(tls)?).await,
            Err(_) => Err(timed_out(origin, "the TLS handshake", self.connect_time_max)),
        }
    }

    /// Every connection is made here, so that no redirect leads to an address that the client may
    /// not call.
    async fn dial(&self, origin: &Origin) -> Result<TcpStream, Error> {
        let down = |source| Error::Unreachable { registry: origin.to_string(), source };
        let name = (origin.host.as_str(), origin.port);
        if self.reach.names(origin) {
            return TcpStream::connect(name).await.map_err(down);
        }
        let (mut open, mut internal) = (Vec::new(), None);
        for address in lookup_host(name).await.map_err(down)? {
            match self.reach.forbids(address.ip()) {
                None => open.push(address),
                Some(why) => internal = Some((address.ip(), why)),
            }
        }
        match (open.is_empty(), internal) {
            (true, Some((address, why))) => {
                Err(Error::InternalAddress { registry: origin.to_string(), address, why })
            }
            _ => TcpStream::connect(open.as_slice()).await.map_err(down),
        }
    }
}

async fn handshake(
    origin: &Origin,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<SendRequest<Body>, Error> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| disconnected(origin, "the first bytes", error))?;
    // Ends with the connection: when the sender is dropped, or the registry closes it.
    tokio::spawn(async move { connection.await.ok() });
    Ok(sender)
}

/// The body of a response, read with limits.
pub(super) struct Receiving<'a> {
    origin: &'a Origin,
    subject: &'a str,
    body: TimedBody<Incoming>,
    idle: Duration,
}

impl Receiving<'_> {
    /// The next bytes, or `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let Self { origin, subject, idle, .. } = *self;
        match self.body.frame().await {
            None => Ok(None),
            Some(Ok(frame)) => Ok(Some(frame.into_data().unwrap_or_default())), // or trailers
            Some(Err(error)) if error.kind() == io::ErrorKind::TimedOut => {
                Err(timed_out(origin, subject, idle))
            }
            Some(Err(error)) => Err(disconnected(origin, subject, error)),
        }
    }

    /// All of it, if it has at most `bytes_max`.
    pub async fn read_all(mut self, bytes_max: usize) -> Result<Bytes, Error> {
        let mut bytes = Vec::new();
        while let Some(data) = self.next().await? {
            if bytes.len() + data.len() > bytes_max {
                let subject = self.subject.to_owned();
                return Err(Error::Protocol {
                    registry: self.origin.to_string(),
                    source: ProtocolFault::TooLarge { subject, bytes_max },
                });
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes.into())
    }
}

pub(super) fn body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

fn timed_out(origin: &Origin, subject: &str, after: Duration) -> Error {
    Error::TimedOut { registry: origin.to_string(), subject: subject.to_owned(), after }
}

fn disconnected(
    origin: &Origin,
    subject: &str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    let (registry, subject) = (origin.to_string(), subject.to_owned());
    Error::Disconnected { registry, subject, source: source.into() }
}
