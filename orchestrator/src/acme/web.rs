use std::{future::Future, io, pin::Pin, sync::Arc};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use net::tls;
use rustls::pki_types::ServerName;
use spec::Timestamp;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use crate::{
    limits::{ACME_ANSWER_BYTES_MAX, ACME_BUSY_FOR, ACME_REQUEST_TIME_MAX},
    state::{Shared, now},
};

/// Why a request to the authority has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum WebError {
    #[error("`{0}` is no URL of https")]
    Url(Uri),
    #[error("cannot reach `{address}`")]
    Unreachable { address: String, source: io::Error },
    #[error("the certificate of `{address}` is not trusted")]
    Untrusted { address: String, source: io::Error },
    #[error("`{address}` did not answer within {} s", ACME_REQUEST_TIME_MAX.as_secs())]
    TimedOut { address: String },
    #[error("the connection to `{address}` broke")]
    Broken { address: String, source: hyper::Error },
    #[error("the answer of `{address}` cannot be read")]
    Body { address: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("`{address}` answered with status {status}, and not in the words of ACME")]
    Status { address: String, status: StatusCode },
}

/// Until when the authority wants to hear nothing, if it has said so.
pub(super) type BusyUntil = Arc<Shared<Option<Timestamp>>>;

/// One connection for each request: an order has some ten of them, and days lie between orders.
#[derive(Clone)]
pub(super) struct WebClient {
    tls: TlsConnector,
    busy_until: BusyUntil,
}

impl WebClient {
    /// Trusts `roots`, or what the web trusts.
    pub fn new(roots_pem: Option<&str>, busy_until: BusyUntil) -> Result<Self, rustls::Error> {
        let roots = match roots_pem {
            None => tls::web_roots(),
            Some(pem) => {
                let roots = tls::certificates(pem);
                tls::roots(roots.map_err(|error| rustls::Error::General(error.to_string()))?)?
            }
        };
        Ok(Self { tls: tls::web_client(roots).into(), busy_until })
    }

    async fn exchange(&self, request: Request<BodyWrapper<Bytes>>) -> Result<Answer, WebError> {
        let uri = request.uri().clone();
        let (Some("https"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(WebError::Url(uri));
        };
        let address = authority.to_string();
        match timeout(ACME_REQUEST_TIME_MAX, self.ask(&uri, address.clone(), request)).await {
            Ok(answer) => answer,
            Err(_) => Err(WebError::TimedOut { address }),
        }
    }

    async fn ask(
        &self,
        uri: &Uri,
        address: String,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Result<Answer, WebError> {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|_| WebError::Url(uri.clone()))?;
        let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await;
        let stream =
            stream.map_err(|source| WebError::Unreachable { address: address.clone(), source })?;
        let stream = self.tls.connect(name, stream).await;
        let stream =
            stream.map_err(|source| WebError::Untrusted { address: address.clone(), source })?;
        let broken = |source| WebError::Broken { address: address.clone(), source };
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Ends with the sender too, when this is cancelled.
        let driving = tokio::spawn(connection);
        let answer = async {
            let response = sender.send_request(relative(request, &address)).await;
            let (parts, body) = response.map_err(broken)?.into_parts();
            let body = Limited::new(body, ACME_ANSWER_BYTES_MAX).collect().await;
            let body =
                body.map_err(|source| WebError::Body { address: address.clone(), source })?;
            Ok((parts, body.to_bytes()))
        };
        let answer = answer.await;
        driving.abort();
        let (parts, body) = answer?;
        self.note(&parts);
        let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let is_problem = kind.is_some_and(|kind| kind.contains("json"));
        if (parts.status.is_client_error() || parts.status.is_server_error()) && !is_problem {
            return Err(WebError::Status { address, status: parts.status });
        }
        Ok((parts, body))
    }

    /// Whether the authority has had enough of this client, and for how long.
    fn note(&self, parts: &http::response::Parts) {
        let refuses = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
        if refuses.contains(&parts.status) {
            let after = parts.headers.get(header::RETRY_AFTER);
            let seconds = after.and_then(|after| after.to_str().ok()?.trim().parse::<u64>().ok());
            let usual = ACME_BUSY_FOR.as_secs();
            // A day is more than any authority counts.
            let seconds = seconds.unwrap_or(usual).min(24 * 3600);
            let until = Timestamp::from_millis(now().millis() + seconds * 1000);
            *self.busy_until.write() = Some(until);
        }
    }
}

type Answer = (http::response::Parts, Bytes);

/// The request as it is written on a connection to its host.
fn relative(request: Request<BodyWrapper<Bytes>>, address: &str) -> Request<BodyWrapper<Bytes>> {
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().cloned();
    parts.uri = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    let host = address.rsplit('@').next().unwrap_or(address);
    if let Ok(host) = host.parse() {
        parts.headers.insert(header::HOST, host);
    }
    Request::from_parts(parts, body)
}

impl HttpClient for WebClient {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let client = self.clone();
        Box::pin(async move {
            let answer = client.exchange(request).await;
            let (parts, body) =
                answer.map_err(|error| instant_acme::Error::Other(Box::new(error)))?;
            Ok(BytesResponse { parts, body: Box::new(body) })
        })
    }
}
