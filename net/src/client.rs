use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use serde::{Serialize, de::DeserializeOwned};
use spec::{Frame, wire::Fault};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{
    limits::{CONNECT_TIME_MAX, RESPONSE_BYTES_MAX, STREAM_SILENCE_MAX},
    listen::connect_unix,
    stream::{FrameBody, FrameReader},
    tls,
};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Why a call of the API has no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server answered with a fault.
    #[error("{0}")]
    Refused(Fault),
    /// There is no connection, or it broke.
    #[error("cannot reach the control plane at `{to}`")]
    Connect {
        /// Address or path.
        to: String,
        /// From the connection.
        source: io::Error,
    },
    /// The deadline of the request has passed.
    #[error("the control plane at `{to}` does not answer")]
    NoAnswer {
        /// Address or path.
        to: String,
    },
    /// A stream that was begun has come to no end.
    #[error("the stream from the control plane at `{to}` broke off")]
    BrokenOff {
        /// Address or path.
        to: String,
        /// From the connection.
        source: io::Error,
    },
    /// The answer is none of the API.
    #[error("the answer from `{to}` ({status}) is not one of a control plane")]
    Answer {
        /// Address or path.
        to: String,
        /// As it came.
        status: StatusCode,
        /// From the parser.
        source: serde_json::Error,
    },
}

/// Calls an API that takes and answers JSON over HTTP/1.1, through a Unix socket or over TLS. One
/// idle connection is kept; calls at the same time make their own.
pub struct ApiClient {
    endpoint: Endpoint,
    idle: Mutex<Option<Connection>>,
}

#[derive(Debug)]
enum Endpoint {
    Unix(PathBuf),
    Tls { address: String, config: Arc<ClientConfig> },
}

impl std::fmt::Debug for ApiClient {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ApiClient").field(&self.endpoint).finish()
    }
}

/// One request.
#[derive(Debug, Clone)]
pub struct ApiRequest<'a> {
    method: Method,
    path: &'a str,
    body: Bytes,
    idempotency_key: Option<String>,
    authorization: Option<String>,
    time_max: Duration,
}

impl<'a> ApiRequest<'a> {
    /// A request that is to be answered within `time_max`.
    pub fn new(method: Method, path: &'a str, time_max: Duration) -> Self {
        Self {
            method,
            path,
            body: Bytes::new(),
            idempotency_key: None,
            authorization: None,
            time_max,
        }
    }

    /// With this JSON as its body.
    #[must_use]
    pub fn json(mut self, body: &impl Serialize) -> Self {
        self.body = serde_json::to_vec(body).expect("bodies of the API have string keys").into();
        self
    }

    /// With this key, by which the server knows a request that is sent again.
    #[must_use]
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    /// With a bearer token.
    #[must_use]
    pub fn bearer(mut self, token: &str) -> Self {
        self.authorization = Some(format!("Bearer {token}"));
        self
    }
}

type RequestBody = Either<Full<Bytes>, FrameBody>;

/// A connection, which ends when this is dropped.
#[derive(Debug)]
struct Connection {
    sender: SendRequest<RequestBody>,
    driver: JoinHandle<hyper::Result<()>>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl ApiClient {
    /// Through the Unix socket at `path`.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self::of(Endpoint::Unix(path.into()))
    }

    /// Over TLS at `address` (`host:port`), to a server that is called
    /// [`tls::CONTROL_PLANE_NAME`].
    pub fn tls(address: impl Into<String>, config: Arc<ClientConfig>) -> Self {
        Self::of(Endpoint::Tls { address: address.into(), config })
    }

    fn of(endpoint: Endpoint) -> Self {
        Self { endpoint, idle: Mutex::default() }
    }

    /// The result of a request; an empty answer is `null`.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the server answers with a fault, and the others when there is
    /// no such answer.
    pub async fn call<T: DeserializeOwned>(
        &self,
        request: ApiRequest<'_>,
    ) -> Result<T, ClientError> {
        let (status, bytes) = self.exchange(request).await?;
        let odd = |source| ClientError::Answer { to: self.place(), status, source };
        if status.is_success() {
            let text = if bytes.is_empty() { &b"null"[..] } else { &bytes };
            return serde_json::from_slice(text).map_err(odd);
        }
        Err(self.refusal(status, &bytes))
    }

    /// The answer to a request, whatever it is.
    ///
    /// # Errors
    /// [`ClientError::Connect`] and [`ClientError::NoAnswer`].
    pub async fn exchange(
        &self,
        request: ApiRequest<'_>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let time_max = request.time_max;
        let exchange = async {
            let (connection, response) = self.send(self.http(request)?).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), RESPONSE_BYTES_MAX).collect().await;
            let bytes = body.map_err(|error| self.broken(error))?.to_bytes();
            *self.idle() = Some(connection);
            Ok((status, bytes))
        };
        let no_answer = |_| ClientError::NoAnswer { to: self.place() };
        timeout(time_max, exchange).await.map_err(no_answer)?
    }

    /// Begins a stream over a connection of its own: `body` is what is sent, if anything is.
    ///
    /// # Errors
    /// As [`call`](Self::call), before the stream has begun.
    pub async fn open(
        &self,
        request: ApiRequest<'_>,
        body: Option<FrameBody>,
    ) -> Result<FrameStream, ClientError> {
        let time_max = request.time_max;
        let opening = async {
            let mut http = self.http(request)?;
            if let Some(body) = body {
                let kind = HeaderValue::from_static(spec::STREAM_MEDIA_TYPE);
                http.headers_mut().insert(header::CONTENT_TYPE, kind);
                *http.body_mut() = Either::Right(body);
            }
            let mut connection = self.connect().await?;
            let sent = connection.sender.send_request(http).await;
            let response = sent.map_err(|error| self.broken(error))?;
            let status = response.status();
            if status.is_success() {
                let (to, frames) = (self.place(), FrameReader::new(response.into_body()));
                return Ok(FrameStream { to, frames, _connection: connection });
            }
            let body = Limited::new(response.into_body(), RESPONSE_BYTES_MAX).collect().await;
            let bytes = body.map_err(|error| self.broken(error))?.to_bytes();
            Err(self.refusal(status, &bytes))
        };
        let no_answer = |_| ClientError::NoAnswer { to: self.place() };
        timeout(time_max, opening).await.map_err(no_answer)?
    }

    fn refusal(&self, status: StatusCode, bytes: &[u8]) -> ClientError {
        let odd = |source| ClientError::Answer { to: self.place(), status, source };
        serde_json::from_slice(bytes).map_or_else(odd, ClientError::Refused)
    }

    fn http(&self, request: ApiRequest<'_>) -> Result<Request<RequestBody>, ClientError> {
        let ApiRequest { method, path, body, idempotency_key, authorization, .. } = request;
        let mut http = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, tls::CONTROL_PLANE_NAME);
        if !body.is_empty() {
            http = http.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(key) = idempotency_key {
            http = http.header(IDEMPOTENCY_KEY, key);
        }
        if let Some(authorization) = authorization {
            http = http.header(header::AUTHORIZATION, authorization);
        }
        http.body(Either::Left(Full::new(body))).map_err(|error| self.broken(error))
    }

    /// Sends a request over the idle connection, or over a new one when the server has closed that
    /// one before the request was on it.
    async fn send(
        &self,
        request: Request<RequestBody>,
    ) -> Result<(Connection, Response<Incoming>), ClientError> {
        let idle = self.idle().take();
        let mut request = request;
        if let Some(mut connection) = idle
            && connection.sender.ready().await.is_ok()
        {
            match connection.sender.try_send_request(request).await {
                Ok(response) => return Ok((connection, response)),
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(self.broken(failed.into_error())),
                },
            }
        }
        let mut connection = self.connect().await?;
        let sent = connection.sender.send_request(request).await;
        Ok((connection, sent.map_err(|error| self.broken(error))?))
    }

    async fn connect(&self) -> Result<Connection, ClientError> {
        let connecting = async {
            match &self.endpoint {
                Endpoint::Unix(path) => drive(connect_unix(path).await?).await,
                Endpoint::Tls { address, config } => {
                    let stream = TcpStream::connect(address).await?;
                    stream.set_nodelay(true)?;
                    let connector = TlsConnector::from(config.clone());
                    drive(connector.connect(tls::control_plane(), stream).await?).await
                }
            }
        };
        match timeout(CONNECT_TIME_MAX, connecting).await {
            Ok(connected) => connected.map_err(|error| self.broken(error)),
            Err(_) => Err(self.broken(io::Error::from(io::ErrorKind::TimedOut))),
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Option<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn broken(&self, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
        let source = match error.into().downcast::<io::Error>() {
            Ok(error) => *error,
            Err(other) => io::Error::other(other),
        };
        ClientError::Connect { to: self.place(), source }
    }

    /// The address of the server, for messages.
    pub fn place(&self) -> String {
        match &self.endpoint {
            Endpoint::Unix(path) => path.display().to_string(),
            Endpoint::Tls { address, .. } => address.clone(),
        }
    }
}

/// The frames that come over a stream. Its connection ends when this is dropped.
#[derive(Debug)]
pub struct FrameStream {
    to: String,
    frames: FrameReader,
    _connection: Connection,
}

impl FrameStream {
    /// The next frame that says something; nothing at the end. Nothing is lost when this is dropped
    /// before it is ready.
    ///
    /// # Errors
    /// [`ClientError::BrokenOff`], also when nothing has come for too long.
    pub async fn next(&mut self) -> Result<Option<Frame>, ClientError> {
        loop {
            let next = match timeout(STREAM_SILENCE_MAX, self.frames.next()).await {
                Ok(next) => next,
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            };
            match next {
                Ok(Some(Frame::Alive)) => {}
                Ok(next) => return Ok(next),
                Err(source) => {
                    return Err(ClientError::BrokenOff { to: self.to.clone(), source });
                }
            }
        }
    }
}

async fn drive<S>(stream: S) -> io::Result<Connection>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    Ok(Connection { sender, driver: tokio::spawn(connection) })
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, path::Path};

    use hyper::service::service_fn;

    use super::*;
    use crate::{ConnectionLimits, Connections, HttpLimits, PrivateListener};

    const TIME_MAX: Duration = Duration::from_secs(5);

    /// An API at `socket` that keeps idle connections for `idle`.
    fn serve(socket: &Path, idle: Duration) {
        let listener = PrivateListener::bind(socket).unwrap();
        let limits = HttpLimits::with_times(idle, TIME_MAX);
        tokio::spawn(async move {
            let connections = Connections::new();
            let accepted = |stream, _, permit| {
                let connections = connections.clone();
                async move {
                    connections.serve_http(stream, limits, service_fn(answer)).await;
                    drop(permit);
                }
            };
            match connections.accept(&listener, &ConnectionLimits::in_all(8), accepted).await {}
        });
    }

    async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let (status, text) = match request.uri().path() {
            "/nothing" => (204, ""),
            "/fault" => (404, r#"{"code":"not-found","message":"there is no `x`"}"#),
            "/page" => (502, "<html>"),
            "/silent" => std::future::pending().await,
            _ => (200, "[1,2]"),
        };
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        Ok(response)
    }

    #[tokio::test]
    async fn a_call_has_a_value_or_a_typed_error() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("api.sock");
        let client = ApiClient::unix(&socket);
        let get = |path, time_max| ApiRequest::new(Method::GET, path, time_max);
        let absent = client.call::<Vec<u8>>(get("/", TIME_MAX)).await.unwrap_err();
        assert!(matches!(absent, ClientError::Connect { .. }), "{absent}");
        serve(&socket, TIME_MAX);
        assert_eq!(client.call::<Vec<u8>>(get("/", TIME_MAX)).await.unwrap(), [1, 2]);
        client.call::<()>(get("/nothing", TIME_MAX)).await.unwrap();
        let fault = client.call::<()>(get("/fault", TIME_MAX)).await.unwrap_err();
        assert!(matches!(&fault, ClientError::Refused(fault) if fault.code == "not-found"));
        let page = client.call::<()>(get("/page", TIME_MAX)).await.unwrap_err();
        assert!(matches!(page, ClientError::Answer { .. }), "{page}");
        let silent = client.call::<()>(get("/silent", Duration::from_millis(50))).await;
        assert!(matches!(silent, Err(ClientError::NoAnswer { .. })));
        assert_eq!(client.call::<Vec<u8>>(get("/", TIME_MAX)).await.unwrap(), [1, 2]);
    }

    #[tokio::test]
    async fn a_call_outlives_the_idle_connection_that_the_server_has_closed() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("api.sock");
        serve(&socket, Duration::from_millis(20));
        let client = ApiClient::unix(&socket);
        for _ in 0..3 {
            let request = ApiRequest::new(Method::GET, "/", TIME_MAX);
            assert_eq!(client.call::<Vec<u8>>(request).await.unwrap(), [1, 2]);
            // Until the server has closed it.
            let idle = client.idle().take().expect("the connection is kept");
            while !idle.sender.is_closed() {
                tokio::task::yield_now().await;
            }
            *client.idle() = Some(idle);
        }
    }
}
