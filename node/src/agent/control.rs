use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use serde::{Serialize, de::DeserializeOwned};
use spec::wire::Fault;
use tokio::{net::TcpStream, sync::Mutex, time::timeout};
use tokio_rustls::TlsConnector;

use crate::{
    error::{Error, Result},
    tls,
};

/// A desired set of a thousand tasks is a few megabytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// What is not a long poll is answered at once, or the other side is in trouble.
pub(super) const ANSWER_TIME_MAX: Duration = Duration::from_secs(20);
/// A long poll is answered after 30 s at the latest.
pub(super) const POLL_TIME_MAX: Duration = Duration::from_secs(45);

/// After a failure to reach the control plane; it is back within two seconds, and thousands of
/// nodes wait for it.
pub(super) const RETRY_AFTER: Duration = Duration::from_millis(300);

type Sender = SendRequest<Full<Bytes>>;

/// One conversation with the control plane: requests one after the other over one connection, made
/// again when it broke.
pub(super) struct Control {
    address: String,
    tls: Arc<ClientConfig>,
    kept: Mutex<Option<Sender>>,
}

impl Control {
    pub fn new(address: &str, tls: Arc<ClientConfig>) -> Self {
        Self { address: address.to_owned(), tls, kept: Mutex::new(None) }
    }

    /// The answer to `GET path`.
    pub async fn get<T: DeserializeOwned>(&self, path: &str, time_max: Duration) -> Result<T> {
        self.call(Method::GET, path, Bytes::new(), time_max).await
    }

    /// The answer to `POST path`.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let body = serde_json::to_vec(body).map_err(|error| self.unreachable(error.to_string()))?;
        self.call(Method::POST, path, body.into(), ANSWER_TIME_MAX).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        time_max: Duration,
    ) -> Result<T> {
        let answered = timeout(time_max, self.exchange(method, path, body)).await;
        let (status, bytes) =
            answered.unwrap_or_else(|_| Err(self.unreachable("no answer in time")))?;
        if status.is_success() {
            let text = if bytes.is_empty() { &b"null"[..] } else { &bytes };
            return serde_json::from_slice(text)
                .map_err(|e| self.unreachable(format!("its answer makes no sense: {e}")));
        }
        Err(match serde_json::from_slice::<Fault>(&bytes) {
            Ok(fault) => Error::Refused(fault),
            Err(_) => self.unreachable(format!("it answers {status}")),
        })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes)> {
        let mut kept = self.kept.lock().await;
        let mut sender = match kept.take() {
            Some(mut sender) => match sender.ready().await {
                Ok(()) => sender,
                Err(_) => self.connect().await?,
            },
            None => self.connect().await?,
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "control.margay")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| self.unreachable(error.to_string()))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| self.unreachable(error.to_string()))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let bytes = body.map_err(|error| self.unreachable(error.to_string()))?.to_bytes();
        *kept = Some(sender);
        Ok((status, bytes))
    }

    async fn connect(&self) -> Result<Sender> {
        let connecting = async {
            let stream = TcpStream::connect(&self.address).await?;
            stream.set_nodelay(true)?;
            TlsConnector::from(self.tls.clone()).connect(tls::control_plane(), stream).await
        };
        let stream = timeout(CONNECT_TIME_MAX, connecting)
            .await
            .map_err(|_| self.unreachable("no connection in time"))?
            .map_err(|error| self.unreachable(error.to_string()))?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.unreachable(error.to_string()))?;
        // Ends with the sender or with the other side.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    fn unreachable(&self, why: impl Into<String>) -> Error {
        Error::ControlPlane { address: self.address.clone(), why: why.into() }
    }
}
