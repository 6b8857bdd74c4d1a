//! A request in HTTP/2, for the replicas that speak it. It may be tried with several, and during a
//! rollout they may differ.

use http::{HeaderValue, Request, Uri, Version, header, request::Parts, uri::PathAndQuery};

use super::request_body::RequestBody;

/// With the host in the URL, and with the wish for trailers, which servers of gRPC look for.
pub(super) fn in_http2(head: &Parts, body: RequestBody) -> Request<RequestBody> {
    let mut head = head.clone();
    if let Some(host) = head.headers.remove(header::HOST) {
        let path = head.uri.path_and_query().cloned();
        let url = Uri::builder().scheme("http").authority(host.as_bytes());
        let url = url.path_and_query(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
        head.uri = url.build().unwrap_or_default();
    }
    head.version = Version::HTTP_2;
    for name in [header::TRANSFER_ENCODING, header::CONNECTION, header::UPGRADE] {
        head.headers.remove(name);
    }
    head.headers.insert(header::TE, HeaderValue::from_static("trailers"));
    Request::from_parts(head, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_http2_has_its_host_in_the_url() {
        let head = Request::post("/a?b=c").header("host", "cats.example:81").body(()).unwrap();
        let request = in_http2(&head.into_parts().0, RequestBody::none());
        assert_eq!(request.uri(), "http://cats.example:81/a?b=c");
        let names: Vec<_> = request.headers().keys().map(|name| name.as_str()).collect();
        assert_eq!((request.version(), names), (Version::HTTP_2, vec!["te"]));
    }
}
