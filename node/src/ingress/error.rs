use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;

/// Why a request is not passed on, or came back without a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GatewayError {
    pub status: StatusCode,
    /// A stable word for programs.
    pub code: &'static str,
    /// A sentence for users.
    pub text: String,
    /// Whether it may well work in a second.
    pub retry_after: bool,
}

impl GatewayError {
    pub fn bad(text: &str) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            code: "E_REQUEST",
            text: text.to_owned(),
            retry_after: false,
        }
    }

    pub fn unsupported(text: &str) -> Self {
        Self {
            status: StatusCode::NOT_IMPLEMENTED,
            code: "E_UNSUPPORTED",
            text: text.to_owned(),
            retry_after: false,
        }
    }

    pub fn no_route(host: &str) -> Self {
        let host: String = host.chars().take(100).collect();
        Self {
            status: StatusCode::NOT_FOUND,
            code: "E_NO_ROUTE",
            text: format!(
                "no service here answers for the host {host}\nservices answer for SERVICE.CLUSTER.localhost"
            ),
            retry_after: false,
        }
    }

    pub fn no_replica(host: &str, why: &str) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            code: "E_NO_REPLICA",
            text: format!("no replica of {host} can be reached right now: {why}"),
            retry_after: true,
        }
    }

    pub fn lost(host: &str, why: &str) -> Self {
        Self {
            status: StatusCode::BAD_GATEWAY,
            code: "E_WORKER_LOST",
            text: format!("a replica of {host} went away before it answered: {why}"),
            retry_after: true,
        }
    }

    pub fn removed(node: &spec::NodeId) -> Self {
        Self {
            status: StatusCode::FORBIDDEN,
            code: "E_NODE",
            text: format!("node {node} is not one of this platform"),
            retry_after: false,
        }
    }

    pub fn too_slow(host: &str) -> Self {
        Self {
            status: StatusCode::GATEWAY_TIMEOUT,
            code: "E_TOO_SLOW",
            text: format!("a replica of {host} did not answer in time"),
            retry_after: false,
        }
    }

    pub fn too_large(bytes_max: u64) -> Self {
        Self {
            status: StatusCode::PAYLOAD_TOO_LARGE,
            code: "E_BODY",
            text: format!("a body may have {} here", spec::print_bytes(bytes_max)),
            retry_after: false,
        }
    }

    pub fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::from(format!("{}: {}\n", self.code, self.text)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // The text repeats the host that was asked for: it must never be taken for a page.
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
