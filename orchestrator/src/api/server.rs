use std::{convert::Infallible, future::Future, path::Path, sync::Arc};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header, request::Parts};
use http_body_util::{Either, Full};
use hyper::{body::Incoming, service::service_fn};
use net::{
    Connections, Descriptors, FrameBody, HttpLimits, PrivateListener, tls::CertificateFiles,
};
use store::SqliteStore;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::{
    audited::Audited,
    bodies,
    call::{Call, Reply},
    config::Config,
    connections::ConnectionClasses,
    context::Api,
    error::ApiError,
    openapi::openapi,
    principal::{Peer, Principal, authorize, node_of},
    routes::{self, Params, Route},
};
use crate::{
    Error,
    acme::{AcmeConfig, Keeper},
    limits::{DRAIN_TIME_MAX, HEAD_BYTES_MAX, HEAD_TIME_MAX, WRITE_TIME_MAX},
    state::{expiry, files, tokens},
};

const HTTP_LIMITS: HttpLimits = HttpLimits {
    head_time_max: HEAD_TIME_MAX,
    write_time_max: WRITE_TIME_MAX,
    head_bytes_max: HEAD_BYTES_MAX,
};

/// Is the control plane until `shutdown`: opens its store, listens, and reconciles.
///
/// Before it listens it writes `credential.json` (0600) into its folder: the operator's way in over
/// TCP.
///
/// # Errors
/// When the store, a key or a listener cannot be had; and when the store stops writing after a
/// failure of the disk: then only a new start can find out what is on it.
pub async fn serve(mut config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    files::private_folder(&config.data_dir)?;
    let path = config.data_dir.join("store.db");
    let store =
        tokio::task::spawn_blocking(move || SqliteStore::open(&path)).await.map_err(|join| {
            Error::Io { path: config.data_dir.clone(), source: std::io::Error::other(join) }
        })??;
    let at = |source| Error::Io { path: config.data_dir.clone(), source };
    let tcp = config.listener.take().map(|listener| {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    });
    let tcp = tcp.transpose().map_err(at)?;
    let address = tcp.as_ref().map(TcpListener::local_addr).transpose().map_err(at)?;
    let unix = listen(&config.socket)?;
    let (certificate, acme) = (config.certificate.take(), config.acme.clone());
    let api = Api::start(config, Arc::new(store), address).await?.describing(openapi());
    let api = Arc::new(api);
    let acceptor = api.acceptor(certificate.as_ref())?;
    let server = Server::new(api.clone(), Descriptors::raise());
    let closing = server.connections.closing().clone();
    server.connections.spawn(expiry::sweep(api.state.clone(), closing.clone()));
    let watched = api.clone();
    let watch = async move { watched.watch_operator_credential(closing).await };
    server.connections.spawn(watch);
    let result = tokio::select! {
        () = shutdown => Ok(()),
        broken = api.reconciler.run() => Err(broken.into()),
        never = server.accept_operator(&unix) => match never {},
        never = server.accept_tls(tcp.as_ref(), &acceptor) => match never {},
        never = renewals(certificate.as_ref()) => match never {},
        never = orders(&api, acme) => match never {},
    };
    api.streams.close().await;
    server.connections.drain(DRAIN_TIME_MAX).await;
    result
}

/// Certificates of hosts that an authority is asked for.
async fn orders(api: &Api, acme: Option<AcmeConfig>) -> Infallible {
    let Some(config) = acme else { return std::future::pending().await };
    let (state, node_watch, issuer) = (&*api.state, &*api.node_watch, &api.issuer);
    Keeper { state, node_watch, issuer, config, folder: api.data_dir.clone() }.run().await
}

async fn renewals(certificate: Option<&CertificateFiles>) -> Infallible {
    match certificate {
        Some(files) => files.keep_up().await,
        None => std::future::pending().await,
    }
}

/// The socket of the operator. Its folder is closed to other users before it is there, and the
/// store's lock says that no other control plane is alive.
fn listen(path: &Path) -> Result<PrivateListener, Error> {
    if let Some(folder) = path.parent() {
        files::private_folder(folder)?;
    }
    PrivateListener::bind(path).map_err(|source| Error::Io { path: path.to_owned(), source })
}

/// From a request to its answer. Every request passes here, and so through [`authorize`] and into
/// the audit log.
async fn answer(api: Arc<Api>, peer: Peer, request: Request<Incoming>) -> Result<Reply, ApiError> {
    let (parts, body) = request.into_parts();
    let mut audited = Audited::begin(&api, &peer, &parts.method, parts.uri.path());
    let result = carry_out(api, &peer, parts, body, &mut audited).await;
    audited.end(result).await
}

async fn carry_out(
    api: Arc<Api>,
    peer: &Peer,
    parts: Parts,
    body: Incoming,
    audited: &mut Audited,
) -> Result<Reply, ApiError> {
    match admit(&api, peer, &parts, audited).await {
        Ok((route, params, principal)) => {
            let size = route.body_size();
            (route.handle)(Call::read(api, size, principal, params, parts, body).await?).await
        }
        Err(error) => {
            bodies::discard(body).await;
            Err(error)
        }
    }
}

/// What a request asks for, and for which principal: decided before a byte of its body is read.
async fn admit(
    api: &Api,
    peer: &Peer,
    parts: &Parts,
    audited: &mut Audited,
) -> Result<(&'static Route, Params, Principal), ApiError> {
    let (route, params) = routes::find(&parts.method, parts.uri.path())?;
    let operator = api.operator();
    let principal = Principal::of(&api.state, &api.issuer, operator, peer, &parts.headers).await?;
    audited.of(route, &principal);
    authorize(&principal, route.access)?;
    api.note_heartbeat(&principal);
    if route.changes() && !api.audit.has_space() {
        let message = "the disk has no space for the audit log: nothing is changed until it has";
        return Err(ApiError::new(StatusCode::INSUFFICIENT_STORAGE, "audit-full", message)
            .hint("free some space on the disk of the control plane"));
    }
    Ok((route, params, principal))
}

struct Server {
    api: Arc<Api>,
    classes: Arc<ConnectionClasses>,
    connections: Connections,
}

impl Server {
    fn new(api: Arc<Api>, descriptors: Descriptors) -> Self {
        let classes = Arc::new(ConnectionClasses::within(descriptors));
        Self { api, classes, connections: Connections::new() }
    }

    async fn accept_operator(&self, listener: &PrivateListener) -> Infallible {
        let accepted = |stream, _, permit| {
            let (api, connections) = (self.api.clone(), self.connections.clone());
            async move {
                answer_all(api, stream, Peer::Socket, &connections, HTTP_LIMITS).await;
                drop(permit);
            }
        };
        self.connections.accept(listener, &self.classes.operator, accepted).await
    }

    async fn accept_tls(
        &self,
        listener: Option<&TcpListener>,
        acceptor: &TlsAcceptor,
    ) -> Infallible {
        let Some(listener) = listener else { return std::future::pending().await };
        let accepted = |stream, from, handshake_permit| {
            let (api, classes) = (self.api.clone(), self.classes.clone());
            let (connections, acceptor) = (self.connections.clone(), acceptor.clone());
            async move {
                let Some(stream) = connections.handshake(&acceptor, stream).await else { return };
                let certificates = stream.get_ref().1.peer_certificates();
                let certificate = certificates.and_then(<[_]>::first).map(tokens::hashed);
                let node = match &certificate {
                    Some(fingerprint) => node_of(&api.state, fingerprint).await.unwrap_or_default(),
                    None => None,
                };
                let peer = Peer::Tls { certificate, from };
                let Some(permit) = classes.admit(node, from).await else {
                    tracing::debug!(?from, "closed: it, or its class, has enough connections");
                    return;
                };
                drop(handshake_permit);
                answer_all(api, stream, peer, &connections, HTTP_LIMITS).await;
                drop(permit);
            }
        };
        self.connections.accept(listener, &self.classes.handshakes, accepted).await
    }
}

/// Answers the requests of one connection. Long polls end when the server closes.
async fn answer_all<S>(
    api: Arc<Api>,
    stream: S,
    peer: Peer,
    connections: &Connections,
    limits: HttpLimits,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let closing = connections.closing();
    let service = service_fn(|request: Request<Incoming>| {
        let (api, peer, closing) = (api.clone(), peer.clone(), closing.clone());
        async move {
            let line = format!("{} {}", request.method(), request.uri().path());
            let waits = routes::waits(request.method(), request.uri().path());
            let answer = answer(api, peer, request);
            let result = tokio::select! {
                biased;
                result = answer => result,
                () = closing.cancelled(), if waits => Err(ApiError::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "ending",
                    "the control plane is ending",
                )),
            };
            Ok::<_, Infallible>(written(&line, result))
        }
    });
    connections.serve_http(stream, limits, service).await;
}

/// Two voices: a code and a sentence for the caller, the whole chain for our log.
fn written(
    line: &str,
    result: Result<Reply, ApiError>,
) -> Response<Either<Full<Bytes>, FrameBody>> {
    let (status, body) = match result {
        Ok(Reply { frames: Some(frames), .. }) => {
            let mut response = Response::new(Either::Right(frames));
            let kind = header::HeaderValue::from_static(spec::STREAM_MEDIA_TYPE);
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            return response;
        }
        Ok(Reply { status, body, frames: None }) => (status, body),
        Err(error) => {
            let ApiError { status, fault, source, .. } = error;
            match source {
                Some(source) => {
                    tracing::error!(request = line, code = %fault.code, ?source, "refused")
                }
                None => tracing::info!(request = line, %status, code = %fault.code, "refused"),
            }
            (status, serde_json::to_value(&fault).expect("a fault has string keys"))
        }
    };
    let bytes = match body.is_null() {
        true => Bytes::new(),
        false => serde_json::to_vec(&body).expect("it is JSON already").into(),
    };
    let mut response = Response::new(Either::Left(Full::new(bytes)));
    *response.status_mut() = status;
    let wait = match status {
        StatusCode::SERVICE_UNAVAILABLE => Some("1"), // starting, ending, or the disk was busy
        StatusCode::TOO_MANY_REQUESTS => Some("5"), // requests of the same client have to end first
        _ => None,
    };
    if let Some(seconds) = wait {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, header::HeaderValue::from_static(seconds));
    }
    if !body.is_null() {
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use store::MemoryStore;
    use tokio::{io::AsyncWriteExt, time::timeout};

    use super::*;
    use crate::journeys::fixture;

    #[test]
    fn busy_responses_carry_retry_after() {
        for (status, want) in [
            (StatusCode::SERVICE_UNAVAILABLE, Some("1")),
            (StatusCode::TOO_MANY_REQUESTS, Some("5")),
            (StatusCode::CONFLICT, None),
        ] {
            let response = written("GET /", Err(ApiError::new(status, "code", "a sentence")));
            let told =
                response.headers().get(header::RETRY_AFTER).map(|value| value.to_str().unwrap());
            assert_eq!(told, want, "{status}");
        }
    }

    #[tokio::test]
    async fn a_client_that_reads_no_response_loses_its_connection() {
        let dir = tempfile::tempdir().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let config = fixture::config(dir.path(), listener);
        let api = Arc::new(Api::start(config, Arc::new(MemoryStore::new()), None).await.unwrap());
        // Less than a response has, so that the server has to wait for the client.
        let (server, mut client) = tokio::io::duplex(64);
        let limits = HttpLimits { write_time_max: Duration::from_millis(50), ..HTTP_LIMITS };
        let connections = Connections::new();
        let answering = answer_all(api, server, Peer::Socket, &connections, limits);
        let request = client.write_all(b"GET /v1/health HTTP/1.1\r\nhost: x\r\n\r\n");
        let both = async { tokio::join!(answering, request) };
        let ended = timeout(Duration::from_secs(5), both).await;
        ended.expect("the server gives the connection up").1.unwrap();
    }
}
