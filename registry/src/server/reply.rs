use std::io;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use serde::Serialize;

use crate::Error;

/// What an answer carries.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;
pub(crate) type Reply = Response<Body>;

/// The name of the bytes that come with an answer.
pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// A request that we do not do, in the words of the distribution-spec.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), headers: Vec::new() }
    }

    pub fn bad(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub fn absent(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    pub fn with(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.push((name, text(value)));
        self
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }
}

impl From<Error> for Refusal {
    /// The caller learns that it is our fault, our log learns why.
    fn from(error: Error) -> Self {
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        tracing::error!(%error, cause, "a request failed");
        match is_full(&error) {
            true => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "UNKNOWN",
                "the disk of this registry is full",
            ),
            false => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "UNKNOWN",
                "this registry failed; its log says why",
            ),
        }
    }
}

/// Whether there was no room, be it for a file or for the database.
fn is_full(error: &Error) -> bool {
    match error {
        Error::File { source, .. } => {
            matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        }
        Error::Metadata { source, .. } => {
            matches!(source.downcast_ref(), Some(store::Error::Unavailable { .. }))
        }
        _ => false,
    }
}

#[derive(Serialize)]
struct Complaint<'a> {
    errors: [ComplaintLine<'a>; 1],
}

#[derive(Serialize)]
struct ComplaintLine<'a> {
    code: &'a str,
    message: &'a str,
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        let complaint =
            Complaint { errors: [ComplaintLine { code: refusal.code, message: &refusal.message }] };
        let mut reply = json(refusal.status, &complaint);
        reply.headers_mut().extend(refusal.headers);
        reply
    }
}

pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Reply {
    let bytes = serde_json::to_vec(value).expect("our answers have string keys");
    with_headers(status, full(bytes), [(header::CONTENT_TYPE, "application/json")])
}

/// An answer with nothing in it.
pub(crate) fn empty<const N: usize>(status: StatusCode, headers: [(HeaderName, &str); N]) -> Reply {
    with_headers(status, full(Bytes::new()), headers)
}

pub(crate) fn with_headers<const N: usize>(
    status: StatusCode,
    body: Body,
    headers: [(HeaderName, &str); N],
) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    reply.headers_mut().extend(headers.map(|(name, value)| (name, text(value))));
    reply
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// What stands in our headers is made of checked names and digests; anything else would be dropped
/// whole.
fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or(HeaderValue::from_static(""))
}
