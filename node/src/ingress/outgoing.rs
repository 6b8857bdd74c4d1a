//! A request in the version of HTTP that its replica speaks. It may be tried with several replicas,
//! and during a rollout they may differ.

use http::{HeaderValue, Request, Uri, Version, header, uri::PathAndQuery};
use http_body::Body;

/// With the host in a header, and with what says that there is a body.
pub(super) fn in_http1<B: Body>(request: &mut Request<B>) {
    if let Some(authority) =
        request.uri().authority().map(|authority| authority.as_str().to_owned())
        && let Ok(host) = HeaderValue::from_str(&authority)
    {
        request.headers_mut().insert(header::HOST, host);
        *request.uri_mut() = Uri::from(path_of(request));
        request.headers_mut().remove(header::TE);
    }
    *request.version_mut() = Version::HTTP_11;
    let has_length = request.headers().contains_key(header::CONTENT_LENGTH);
    if !request.body().is_end_stream() && !has_length {
        // Explicit, because a GET is sent without its body otherwise.
        let chunked = HeaderValue::from_static("chunked");
        request.headers_mut().insert(header::TRANSFER_ENCODING, chunked);
    }
}

/// With the host in the URL, and with the wish for trailers, which servers of gRPC look for.
pub(super) fn in_http2<B>(request: &mut Request<B>) {
    if let Some(host) = request.headers_mut().remove(header::HOST) {
        let url = Uri::builder().scheme("http").authority(host.as_bytes());
        let url = url.path_and_query(path_of(request)).build();
        *request.uri_mut() = url.unwrap_or_default();
    }
    *request.version_mut() = Version::HTTP_2;
    for name in [header::TRANSFER_ENCODING, header::CONNECTION, header::UPGRADE] {
        request.headers_mut().remove(name);
    }
    request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
}

fn path_of<B>(request: &Request<B>) -> PathAndQuery {
    request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::Full;

    use super::*;

    #[test]
    fn a_request_can_be_said_in_both_versions_and_back() {
        let request = Request::post("/a?b=c").header("host", "cats.example:81");
        let mut request = request.body(Full::<Bytes>::from("x")).unwrap();
        in_http1(&mut request);
        assert_eq!(request.headers()[header::TRANSFER_ENCODING], "chunked");
        in_http2(&mut request);
        assert_eq!(request.uri(), "http://cats.example:81/a?b=c");
        let names: Vec<_> = request.headers().keys().map(|name| name.as_str()).collect();
        assert_eq!((request.version(), names), (Version::HTTP_2, vec!["te"]));
        in_http1(&mut request);
        assert_eq!(request.uri(), "/a?b=c");
        assert_eq!(request.headers()[header::HOST], "cats.example:81");
        assert!(!request.headers().contains_key(header::TE));
        assert_eq!(request.version(), Version::HTTP_11);
    }
}
