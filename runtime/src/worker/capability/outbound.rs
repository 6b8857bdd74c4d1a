//! Requests that a guest sends: the broker connects, this process speaks HTTP and TLS over what it
//! was handed.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    uri::{PathAndQuery, Scheme, Uri},
};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use spec::OutboundGrant;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Semaphore,
    time::{Sleep, timeout},
};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::{
    broker,
    frame::{Refusal, SchemeName, Target},
    limits::{
        CONNECTING_PER_WORKER_MAX, OUTBOUND_BODY_BYTES_MAX, OUTBOUND_CONNECTIONS_MAX,
        OUTBOUND_STEP_TIME_MAX,
    },
    usage::add,
    worker::{control::Control, meter::Meter},
};

/// The requests that one container sends.
pub(crate) struct Outbound {
    /// None where the broker decides alone.
    grants: Option<Vec<OutboundGrant>>,
    control: Arc<Control>,
    meter: Arc<Meter>,
    open: Arc<Semaphore>,
    connecting: Semaphore,
    /// Whether the log says already that there are no plain sockets.
    sockets_refused: AtomicBool,
}

impl Outbound {
    pub fn new(
        grants: Option<Vec<OutboundGrant>>,
        control: Arc<Control>,
        meter: Arc<Meter>,
    ) -> Self {
        let open = Arc::new(Semaphore::new(OUTBOUND_CONNECTIONS_MAX));
        let connecting = Semaphore::new(CONNECTING_PER_WORKER_MAX);
        let sockets_refused = AtomicBool::new(false);
        Self { grants, control, meter, open, connecting, sockets_refused }
    }
}

/// How often a request and those that led to it have come through an ingress, which ends circles.
const HOPS: HeaderName = HeaderName::from_static("margay-hops");

/// The hooks of one instance.
#[derive(Clone)]
pub(crate) struct Hooks {
    pub outbound: Arc<Outbound>,
    /// What the request says that the instance answers.
    hops: Option<HeaderValue>,
}

impl Hooks {
    pub fn new(outbound: Arc<Outbound>) -> Self {
        Self { outbound, hops: None }
    }

    /// The instance answers a request with these headers.
    pub fn answers(&mut self, headers: &HeaderMap) {
        self.hops = headers.get(HOPS).cloned();
    }
}

/// Has what an instance sends carry on the number, whatever the guest says.
fn carry_on(hops: Option<&HeaderValue>, headers: &mut HeaderMap) {
    match hops {
        Some(hops) => drop(headers.insert(HOPS, hops.clone())),
        None => drop(headers.remove(HOPS)),
    }
}

type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Answer = Result<(http::Response<WasiBody>, Io), Error>;

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        mut request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Answer> + Send> {
        carry_on(self.hops.as_ref(), request.headers_mut());
        let outbound = self.outbound.clone();
        Box::new(async move { outbound.send(request, options.unwrap_or_default()).await })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        OUTBOUND_BODY_BYTES_MAX
    }
}

impl Outbound {
    /// A guest called for a plain socket by `import`. It gets an error; the log says once what to
    /// use.
    pub fn socket_refused(&self, import: &str) {
        if !self.sockets_refused.swap(true, Ordering::Relaxed) {
            self.control.log(&format!(
                "margay: the program called `{import}`: there are no plain sockets here. Build \
                 for wasm32-wasip2: serve with `wasi:http/incoming-handler`, and send with \
                 `wasi:http/outgoing-handler` and --allow net.out:http://HOST:PORT"
            ));
        }
    }

    async fn send(&self, mut request: http::Request<WasiBody>, options: RequestOptions) -> Answer {
        let target = target(request.uri())?;
        // Checked here for a quick answer, and in the broker because this process may be hostile.
        if let Some(grants) = &self.grants
            && let Err(refusal) = broker::decide(grants, &target)
        {
            return Err(self.refused(refusal));
        }
        let connect_time =
            options.connect_timeout.unwrap_or(OUTBOUND_STEP_TIME_MAX).min(OUTBOUND_STEP_TIME_MAX);
        // A guest that sends many requests at once waits for its own connections to end.
        let permit = match timeout(connect_time, self.open.clone().acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) | Err(_) => return Err(self.too_many_connections()),
        };
        let stream = timeout(connect_time, self.connect(&target))
            .await
            .map_err(|_| Error::ConnectionTimeout)??;
        *request.uri_mut() = origin_form(request.uri());
        let meter = self.meter.clone();
        let request = request.map(|body| {
            body.map_frame(move |frame| {
                if let Some(data) = frame.data_ref() {
                    add(&meter.page.bytes_out, data.len() as u64);
                }
                frame
            })
        });
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the connection, which ends when the response's body is gone.
        let driver = tokio::spawn(async move {
            let _permit = permit;
            connection.await
        });
        let driver = AbortOnDrop(driver);
        let first_byte = options.first_byte_timeout.unwrap_or(OUTBOUND_STEP_TIME_MAX);
        let response = timeout(first_byte, sender.send_request(request))
            .await
            .map_err(|_| Error::ConnectionReadTimeout)??;
        let between = options.between_bytes_timeout.unwrap_or(OUTBOUND_STEP_TIME_MAX);
        let meter = self.meter.clone();
        let response = response.map(|body| {
            ResponseBody { body, between, waiting: None, meter, driver }.boxed_unsync()
        });
        Ok((response, Box::new(async { Ok(()) })))
    }

    async fn connect(&self, target: &Target) -> Result<Box<dyn Stream>, Error> {
        let permit = self.connecting.acquire().await;
        let socket = self.control.connect(target).await.map_err(|refusal| self.refused(refusal))?;
        drop(permit);
        let stream = std::net::TcpStream::from(socket);
        stream.set_nonblocking(true).map_err(Error::Connect)?;
        let stream = TcpStream::from_std(stream).map_err(Error::Connect)?;
        match target.scheme {
            SchemeName::Http => Ok(Box::new(stream)),
            SchemeName::Https => {
                let name = ServerName::try_from(target.host.clone())
                    .map_err(|_| Error::HttpRequestUriInvalid)?;
                let connector = tokio_rustls::TlsConnector::from(tls());
                let secured = connector.connect(name, stream).await;
                Ok(Box::new(secured.map_err(|error| self.tls_failed(target, error))?))
            }
        }
    }

    /// The guest gets an error code; the log names the limit.
    fn too_many_connections(&self) -> Error {
        self.control.log(&format!(
            "margay: a request waited too long: {OUTBOUND_CONNECTIONS_MAX} connections are open, \
             which is the most that one container has; read or drop their responses first"
        ));
        Error::ConnectionLimitReached
    }

    /// The guest gets an error code; the log says what is wrong.
    fn tls_failed(&self, target: &Target, error: std::io::Error) -> Error {
        self.control.log(&format!("margay: no TLS with {}:{}: {error}", target.host, target.port));
        tls_error(error)
    }

    /// The interface's error code for a refusal; a denial is also counted and reported.
    fn refused(&self, refusal: Refusal) -> Error {
        match refusal {
            Refusal::Denied { line } => {
                self.control.deny(&line);
                Error::HttpRequestDenied
            }
            Refusal::Forbidden { line, why, granted } => {
                self.control.deny_address(&line, &why, granted);
                Error::DestinationIpProhibited
            }
            Refusal::NoSuchName => {
                Error::DnsError { rcode: Some("NXDOMAIN".to_owned()), info_code: None }
            }
            Refusal::Unreachable { .. } => Error::DestinationUnavailable,
            Refusal::Busy => Error::ConnectionLimitReached,
            Refusal::NoBroker => {
                Error::InternalError(Some("E_BROKER: the node's agent does not answer".to_owned()))
            }
        }
    }
}

fn target(uri: &Uri) -> Result<Target, Error> {
    let scheme = match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTP => SchemeName::Http,
        Some(scheme) if *scheme == Scheme::HTTPS => SchemeName::Https,
        _ => return Err(Error::HttpProtocolError),
    };
    let authority = uri.authority().ok_or(Error::HttpRequestUriInvalid)?;
    if authority.as_str().contains('@') {
        return Err(Error::HttpRequestUriInvalid);
    }
    let default = match scheme {
        SchemeName::Http => 80,
        SchemeName::Https => 443,
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    Ok(Target { scheme, host, port: authority.port_u16().unwrap_or(default) })
}

/// Only a proxy wants to see scheme and host in the request line.
fn origin_form(uri: &Uri) -> Uri {
    uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")).into()
}

/// The roots that browsers trust, and no others: what the host trusts is the host's business, and a
/// worker cannot read it.
fn tls() -> Arc<rustls::ClientConfig> {
    static CONFIG: OnceLock<Arc<rustls::ClientConfig>> = OnceLock::new();
    CONFIG.get_or_init(|| net::tls::web_client(net::tls::web_roots())).clone()
}

/// A certificate that is not good enough is the server's fault, and not a protocol gone wrong.
fn tls_error(error: std::io::Error) -> Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            Error::TlsCertificateError
        }
        _ => Error::Tls(error),
    }
}

/// A connection, with TLS or without.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

struct AbortOnDrop(tokio::task::JoinHandle<hyper::Result<()>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A response's body on its way in. Keeps its connection alive, and ends it.
struct ResponseBody {
    body: Incoming,
    between: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
    meter: Arc<Meter>,
    driver: AbortOnDrop,
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let _alive = &self.driver;
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.waiting = None;
                if let Some(data) = frame.data_ref() {
                    add(&self.meter.page.bytes_in, data.len() as u64);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                let between = self.between;
                let waiting =
                    self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(between)));
                ready!(waiting.as_mut().poll(cx));
                Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rustls::{RootCertStore, pki_types::PrivateKeyDer};

    use super::*;

    #[test]
    fn requests_of_a_guest_carry_the_number_of_hops_on() {
        for (said, hops, want) in [
            (None, None, None),
            (None, Some("3"), Some("3")),
            (Some("0"), Some("3"), Some("3")),
            (Some("0"), None, None),
        ] {
            let value = |text: &str| HeaderValue::from_str(text).unwrap();
            let mut headers = HeaderMap::from_iter(said.map(|said| (HOPS, value(said))));
            carry_on(hops.map(value).as_ref(), &mut headers);
            let got = headers.get(HOPS).map(|hops| hops.to_str().unwrap());
            assert_eq!(got, want, "{said:?} {hops:?}");
        }
    }

    #[tokio::test]
    async fn only_a_certificate_of_a_trusted_root_with_the_right_name_will_do() {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["cats.example".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions();
        let server = server
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
        let known = || {
            let mut roots = RootCertStore::empty();
            roots.add(cert.der().clone()).unwrap();
            net::tls::web_client(roots)
        };
        for (roots, name, good) in [
            (known(), "cats.example", true),
            (known(), "dogs.example", false),
            (tls(), "cats.example", false),
        ] {
            let (client, server) = tokio::io::duplex(16 << 10);
            let connector = tokio_rustls::TlsConnector::from(roots);
            let name = ServerName::try_from(name).unwrap();
            let (connected, _) =
                tokio::join!(connector.connect(name.clone(), client), acceptor.accept(server));
            match connected.map_err(tls_error) {
                Ok(_) => assert!(good, "{name:?}"),
                Err(error) => assert!(
                    !good && matches!(error, Error::TlsCertificateError),
                    "{name:?}: {error:?}"
                ),
            }
        }
    }
}
