use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use serde::Serialize;

pub(crate) type ResponseBody = UnsyncBoxBody<Bytes, io::Error>;
pub(crate) type Response = http::Response<ResponseBody>;

/// The digest of the blob or manifest that a response carries or confirms.
pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let bytes = serde_json::to_vec(value).expect("response bodies have string keys");
    with_headers(status, full(bytes), [(header::CONTENT_TYPE, "application/json")])
}

pub(crate) fn empty<const N: usize>(
    status: StatusCode,
    headers: [(HeaderName, &str); N],
) -> Response {
    with_headers(status, full(Bytes::new()), headers)
}

pub(crate) fn with_headers<const N: usize>(
    status: StatusCode,
    body: ResponseBody,
    headers: [(HeaderName, &str); N],
) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().extend(headers.map(|(name, value)| (name, header_value(value))));
    response
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> ResponseBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body that breaks off when `end` is there.
pub(crate) struct UntilBody {
    body: ResponseBody,
    end: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl UntilBody {
    pub fn new(body: ResponseBody, end: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { body, end: Box::pin(end) }
    }
}

impl Body for UntilBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.end.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Some(Err(io::ErrorKind::PermissionDenied.into()))),
            Poll::Pending => Pin::new(&mut self.body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Values are made of parsed names and digests; any other is dropped whole.
pub(crate) fn header_value(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or(HeaderValue::from_static(""))
}
