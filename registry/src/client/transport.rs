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

use super::{Reach, origin::Origin};
use crate::Error;

/// What a request carries.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Registries answer from the next room or from the next continent; more than this is no answer.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// Idle connections kept for each origin: as many as one push uses at once.
const IDLE_MAX: usize = 4;

/// How long nothing may happen before we give up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub connect: Duration,
    pub quiet: Duration,
}

impl Patience {
    pub fn new(quiet: Duration) -> Self {
        Self { connect: CONNECT_TIME_MAX.min(quiet), quiet }
    }
}

/// Counts what has moved, so that a long upload is told apart from a dead one.
#[derive(Debug, Clone, Default)]
pub(super) struct Pulse(Arc<AtomicU64>);

impl Pulse {
    pub fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Connections to registries: HTTP/1.1, plain or over TLS, reused while they live.
pub(super) struct Transport {
    tls: TlsConnector,
    patience: Patience,
    reach: Reach,
    idle: Mutex<HashMap<Origin, Vec<SendRequest<Body>>>>,
}

impl Transport {
    /// `authorities` are certificates in DER to trust beside the public ones; what is none is
    /// passed over.
    pub fn new(patience: Patience, authorities: &[Vec<u8>], reach: Reach) -> Self {
        let mut roots = tls::web_roots();
        roots.add_parsable_certificates(authorities.iter().map(|der| der.clone().into()));
        Self { tls: tls::web_client(roots).into(), patience, reach, idle: Mutex::default() }
    }

    pub fn patience(&self) -> Patience {
        self.patience
    }

    /// Sends `request` and waits for the head of the answer, as long as the `pulse` of its body
    /// goes on.
    pub async fn send(
        &self,
        origin: &Origin,
        what: &str,
        mut request: Request<Body>,
        pulse: &Pulse,
    ) -> Result<Response<Incoming>, Error> {
        let host = HeaderValue::from_str(&origin.authority()).map_err(|_| Error::NotARegistry {
            registry: origin.to_string(),
            message: "its name cannot stand in a header".to_owned(),
        })?;
        request.headers_mut().insert(header::HOST, host);
        let (mut sender, request) = match self.reuse(origin) {
            None => (self.connect(origin).await?, request),
            Some(mut sender) => {
                match self.wait(origin, what, pulse, sender.try_send_request(request)).await? {
                    Ok(response) => return Ok(self.keep(origin, sender, response)),
                    // The other end had closed the connection before it saw anything of the
                    // request: it comes back to us.
                    Err(mut failed) => match failed.take_message() {
                        Some(request) => (self.connect(origin).await?, request),
                        None => return Err(cut(origin, what, failed.into_error())),
                    },
                }
            }
        };
        match self.wait(origin, what, pulse, sender.send_request(request)).await? {
            Ok(response) => Ok(self.keep(origin, sender, response)),
            Err(error) => Err(cut(origin, what, error)),
        }
    }

    async fn wait<T>(
        &self,
        origin: &Origin,
        what: &str,
        pulse: &Pulse,
        answer: impl Future<Output = T>,
    ) -> Result<T, Error> {
        tokio::pin!(answer);
        loop {
            let before = pulse.count();
            match timeout(self.patience.quiet, &mut answer).await {
                Ok(answer) => return Ok(answer),
                Err(_) if pulse.count() != before => continue,
                Err(_) => return Err(slow(origin, what, self.patience.quiet)),
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
        if senders.len() < IDLE_MAX {
            senders.push(sender);
        }
        response
    }

    async fn connect(&self, origin: &Origin) -> Result<SendRequest<Body>, Error> {
        let down = |source| Error::Down { registry: origin.to_string(), source };
        let stream = match timeout(self.patience.connect, self.dial(origin)).await {
            Ok(stream) => stream?,
            Err(_) => return Err(slow(origin, "connecting", self.patience.connect)),
        };
        // Requests go out whole; waiting to fill a packet only delays the last one.
        stream.set_nodelay(true).map_err(down)?;
        if !origin.secure {
            return handshake(origin, stream).await;
        }
        let tls = |source| Error::Tls { registry: origin.to_string(), source };
        let name =
            ServerName::try_from(origin.host.clone()).map_err(|e| tls(io::Error::other(e)))?;
        match timeout(self.patience.connect, self.tls.connect(name, stream)).await {
            Ok(stream) => handshake(origin, stream.map_err(tls)?).await,
            Err(_) => Err(slow(origin, "the TLS handshake", self.patience.connect)),
        }
    }

    /// Every connection is made here, so that no redirect leads where its registry may not be.
    async fn dial(&self, origin: &Origin) -> Result<TcpStream, Error> {
        let down = |source| Error::Down { registry: origin.to_string(), source };
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
                Err(Error::Internal { registry: origin.to_string(), address, why })
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
        .map_err(|error| cut(origin, "the first bytes", error))?;
    // Ends with the connection: when the sender is dropped, or the other end closes.
    tokio::spawn(async move { connection.await.ok() });
    Ok(sender)
}

/// The whole body of an answer, if it has at most `bytes_max`.
pub(super) async fn read_all(
    origin: &Origin,
    what: &str,
    response: Response<Incoming>,
    bytes_max: usize,
    quiet: Duration,
) -> Result<Bytes, Error> {
    let mut body = timed(response.into_body(), quiet);
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|e| slow_or_cut(origin, what, e, quiet))?.into_data() {
            if bytes.len() + data.len() > bytes_max {
                return Err(Error::NotARegistry {
                    registry: origin.to_string(),
                    message: format!("{what} has more than {bytes_max} bytes"),
                });
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes.into())
}

pub(super) fn body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

pub(super) fn slow(origin: &Origin, what: &str, after: Duration) -> Error {
    Error::Slow { registry: origin.to_string(), what: what.to_owned(), after }
}

/// The body of an answer, which fails when it comes too slowly.
pub(super) fn timed(body: Incoming, quiet: Duration) -> TimedBody<Incoming> {
    TimedBody::new(body, MinThroughput::with_grace(quiet))
}

/// What the failure of a [`timed`] body means.
pub(super) fn slow_or_cut(origin: &Origin, what: &str, error: io::Error, quiet: Duration) -> Error {
    match error.kind() {
        io::ErrorKind::TimedOut => slow(origin, what, quiet),
        _ => cut(origin, what, error),
    }
}

pub(super) fn cut(
    origin: &Origin,
    what: &str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::Cut { registry: origin.to_string(), what: what.to_owned(), source: source.into() }
}
