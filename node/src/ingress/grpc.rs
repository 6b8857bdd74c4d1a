//! Refusals in the words of gRPC: its clients look for a status in headers or trailers, and take
//! any other answer for a fault of their network.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;

use super::error::GatewayError;

const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
const STATUS: &str = "grpc-status";
const MESSAGE: &str = "grpc-message";

/// Whether a request is a call of gRPC.
pub(super) fn is_call(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let rest = kind.and_then(|kind| kind.strip_prefix("application/grpc"));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']))
}

/// A response that is its trailers alone.
pub(super) fn refusal(error: &GatewayError) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, CONTENT_TYPE);
    headers.insert(STATUS, HeaderValue::from(code(error.status)));
    let text = format!("{}: {}", error.code, error.text);
    if let Ok(text) = HeaderValue::from_str(&encoded(&text)) {
        headers.insert(MESSAGE, text);
    }
    response
}

/// As gRPC's own table has it (HTTP to gRPC Status Code Mapping), and for what that does not know
/// the status that says it best.
fn code(status: StatusCode) -> u16 {
    match status {
        StatusCode::GATEWAY_TIMEOUT => 4,
        StatusCode::FORBIDDEN => 7,
        StatusCode::PAYLOAD_TOO_LARGE => 8,
        StatusCode::NOT_FOUND | StatusCode::NOT_IMPLEMENTED => 12,
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE => 14,
        _ => 13,
    }
}

/// Percent-encoded where it is not printable ASCII.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_a_call_is_a_status_of_grpc() {
        for (kind, want) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x=y", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, kind.parse().unwrap())]);
            assert_eq!(is_call(&headers), want, "{kind}");
        }
        for (error, status, text) in [
            (
                GatewayError::no_route("a.example"),
                "12",
                "E_NO_ROUTE: no service here answers for the host a.example",
            ),
            (
                GatewayError::starting("a"),
                "14",
                "E_STARTING: the service at a is starting: no copy of it is ready yet",
            ),
            (GatewayError::too_slow("a"), "4", "E_TOO_SLOW: a replica of a did not answer in time"),
            (GatewayError::bad("50 %\u{e4}"), "13", "E_REQUEST: 50 %25%C3%A4"),
        ] {
            let response = refusal(&error);
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.headers()[STATUS], status, "{}", error.text);
            assert_eq!(response.headers()[MESSAGE], text);
        }
    }
}
