use std::{io, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use net::{Duplex, Tunnel};
use spec::ServiceListener;
use tokio::net::UnixStream;

use super::{
    hop::{HOP, chosen},
    request_body::RequestBody,
    table::{Replica, Target},
    upstream::{Lease, ReplicaBody},
};

/// What the connection of two ingresses becomes for a replica that speaks no HTTP.
const PROTOCOL: &str = "margay-layer4";
/// HTTP/1.1 wants a host, and no service has this one.
const HOST: &str = "layer4.margay";

/// The ingress that began the connection ends it when it is idle: this one knows no listener.
const IDLE_TIME_MAX: Duration = Duration::from_secs(ServiceListener::IDLE_SECONDS_MAX as u64);

/// Asks the ingress that `lease` leads to for the bytes of the replica `name`.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] when the ingress answers, and does not reach that replica.
pub(super) async fn ask(lease: Lease, name: &str) -> io::Result<Box<dyn Duplex>> {
    let name = HeaderValue::from_str(name).map_err(io::Error::other)?;
    let request = Request::get("/")
        .header(header::HOST, HOST)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, PROTOCOL)
        .header(HOP, name)
        .body(())
        .map_err(io::Error::other)?;
    let asked = lease.ask(&request.into_parts().0, RequestBody::none());
    let answer = match asked {
        Ok(asked) => asked.await,
        Err(failed) => Err(failed),
    };
    let response = answer.map_err(|failed| io::Error::other(failed.why()))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let why = format!("the ingress of its node answered {}", response.status());
        return Err(io::Error::new(io::ErrorKind::NotFound, why));
    }
    match response.into_body() {
        ReplicaBody::Own(exchange) => Ok(Box::new(exchange.upgraded())),
        ReplicaBody::Shared(_) => Err(io::Error::other("HTTP/2 becomes nothing else")),
    }
}

/// The replica whose bytes another ingress asks for, if that is what `request` is.
pub(super) fn asked<B>(request: &Request<B>) -> Option<&str> {
    let is = |name, want: &str| {
        request.headers().get(name).is_some_and(|value| value.as_bytes() == want.as_bytes())
    };
    chosen(request.headers()).filter(|_| is(header::UPGRADE, PROTOCOL) && is(header::HOST, HOST))
}

/// Leads the connection to `replica`, which is on this node.
///
/// # Errors
/// When it cannot be reached.
pub(super) async fn answer(replica: &Replica) -> io::Result<Response<Full<Bytes>>> {
    let Target::Local(path) = &replica.target else {
        return Err(io::Error::new(io::ErrorKind::NotFound, "it is on another node"));
    };
    let tunnel = Tunnel::new(UnixStream::connect(path).await?, IDLE_TIME_MAX, ());
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
    response.extensions_mut().insert(tunnel);
    Ok(response)
}
