use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;

const A_SECOND: Duration = Duration::from_secs(1);

const NO_REPLICA: &str = "E_NO_REPLICA";
const STARTING: &str = "E_STARTING";

/// Why a request is not passed on, or came back without a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GatewayError {
    pub status: StatusCode,
    /// A stable word for programs.
    pub code: &'static str,
    /// A sentence for users.
    pub text: String,
    /// When it may well work.
    pub retry_after: Option<Duration>,
}

impl GatewayError {
    pub fn new(status: StatusCode, code: &'static str, text: impl Into<String>) -> Self {
        Self { status, code, text: text.into(), retry_after: None }
    }

    pub fn bad(text: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "E_REQUEST", text)
    }

    pub fn unsupported(text: &str) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "E_UNSUPPORTED", text)
    }

    pub fn no_route(host: &str) -> Self {
        let host: String = host.chars().take(100).collect();
        let text = format!("no service here answers for the host {host}");
        Self::new(StatusCode::NOT_FOUND, "E_NO_ROUTE", text)
    }

    pub fn no_path(host: &str) -> Self {
        let text = format!("no service here answers for this path of the host {host}");
        Self::new(StatusCode::NOT_FOUND, "E_NO_ROUTE", text)
    }

    pub fn ambiguous_path() -> Self {
        Self::bad("this host is routed by paths, and the path has a segment that means another")
    }

    /// Whether it was carried out is not known.
    pub fn stopped_answering(host: &str) -> Self {
        let text =
            format!("a replica of {host} stopped answering: the request may have been carried out");
        Self::new(StatusCode::GATEWAY_TIMEOUT, "E_TOO_SLOW", text)
    }

    pub fn too_many(text: String, after: Duration) -> Self {
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "E_RATE", text);
        Self { retry_after: Some(after), ..error }
    }

    pub fn too_many_upgrades() -> Self {
        let text = "this service has as many upgraded connections as it may have here";
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "E_UPGRADES", text);
        Self { retry_after: Some(A_SECOND), ..error }
    }

    /// Why is for the log: which addresses answer, and how, is no client's business.
    pub fn no_replica(host: &str) -> Self {
        let text = format!("no replica of {host} can be reached right now");
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, NO_REPLICA, text);
        Self { retry_after: Some(A_SECOND), ..error }
    }

    /// The host is one of a service, and none of its copies has been ready yet or is ready again.
    pub fn starting(host: &str) -> Self {
        let text = format!("the service at {host} is starting: no copy of it is ready yet");
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, STARTING, text);
        Self { retry_after: Some(A_SECOND), ..error }
    }

    pub fn lost(host: &str) -> Self {
        let text = format!("a replica of {host} went away before it answered");
        let error = Self::new(StatusCode::BAD_GATEWAY, "E_WORKER_LOST", text);
        Self { retry_after: Some(A_SECOND), ..error }
    }

    pub fn status(status: StatusCode) -> Self {
        let text = format!("the app answered with status {}, which is none", status.as_u16());
        Self::new(StatusCode::BAD_GATEWAY, "E_STATUS", text)
    }

    pub fn removed(node: &spec::NodeId) -> Self {
        let text = format!("node {node} is not one of this platform");
        Self::new(StatusCode::FORBIDDEN, "E_NODE", text)
    }

    pub fn too_slow(host: &str) -> Self {
        let text = format!("a replica of {host} did not answer in time");
        Self::new(StatusCode::GATEWAY_TIMEOUT, "E_TOO_SLOW", text)
    }

    pub fn too_large(bytes_max: u64) -> Self {
        let text = format!("a body may have {} here", spec::print_bytes(bytes_max));
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "E_BODY", text)
    }

    /// Whether the request has reached no replica that could have carried it out.
    pub fn is_unsent(&self) -> bool {
        matches!(self.code, NO_REPLICA | STARTING)
    }

    pub fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::from(format!("{}: {}\n", self.code, self.text)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // The text repeats the host that was asked for: it must never be taken for a page.
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Some(after) = self.retry_after {
            let seconds = after.as_secs_f64().ceil().max(1.0) as u64;
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
