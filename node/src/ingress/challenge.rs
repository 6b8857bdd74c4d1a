use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::Full;
use spec::wire::HttpChallenge;

use super::{head, routes::Routes};

/// The answer to an authority that looks for a host here before it issues a certificate for it, if
/// this is what a request asks for. Other requests below this path are those of the service.
pub(super) fn answer<B>(routes: &Routes, request: &Request<B>) -> Option<Response<Full<Bytes>>> {
    let token = request.uri().path().strip_prefix(HttpChallenge::PATH)?;
    let host = head::host(request).ok().filter(|_| request.method() == Method::GET)?;
    let known = routes.challenge(&host, token).or_else(|| {
        routes.refresh(); // it may have come just now
        routes.challenge(&host, token)
    });
    let mut response = Response::new(Full::from(known?));
    let kind = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Some(response)
}
