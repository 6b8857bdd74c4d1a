use std::{convert::Infallible, net::IpAddr, sync::Arc};

use http::{HeaderMap, Request, StatusCode, header};
use hyper::{body::Incoming, service::service_fn};
use net::{ConnectionPermit, Connections, HttpLimits, Negotiated, Scheme, TrustedProxies};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::{
    api::Api,
    called::Called,
    error::{ApiError, ErrorCode},
    response::Response,
};

/// How clients reach the registry.
pub(super) struct Front {
    pub acceptor: Option<TlsAcceptor>,
    /// Whether clients of other machines may speak plain HTTP.
    pub plain_http: bool,
    pub proxies: TrustedProxies,
    pub http: HttpLimits,
}

impl Front {
    /// Answers a connection from `peer`. One that speaks TLS is served over TLS; one that does not
    /// is served when what it sends never leaves this machine, or when that is allowed.
    pub async fn answer(
        &self,
        connections: &Connections,
        api: &Arc<Api>,
        stream: TcpStream,
        peer: IpAddr,
        permit: ConnectionPermit,
    ) {
        let stream = match &self.acceptor {
            None => Negotiated::Plain(stream),
            Some(acceptor) => {
                match connections.negotiate(acceptor, stream, self.http.head_time_max).await {
                    Some(stream) => stream,
                    None => return,
                }
            }
        };
        let called = |scheme, headers: &HeaderMap| Called::of(peer, scheme, headers, &self.proxies);
        match stream {
            Negotiated::Tls(stream) => {
                let service = service_fn(|request: Request<Incoming>| {
                    let called = called(Scheme::Https, request.headers());
                    let answer = api.clone().answer(request, called);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                connections.serve_http(stream, self.http, service).await;
            }
            Negotiated::Plain(stream) if self.plain_http || peer.is_loopback() => {
                let service = service_fn(|request: Request<Incoming>| {
                    let called = called(Scheme::Http, request.headers());
                    let answer = api.clone().answer(request, called);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                connections.serve_http_and_files(stream, self.http, service).await;
            }
            Negotiated::Plain(stream) => {
                tracing::info!(%peer, "refused plain HTTP from another machine");
                let service =
                    service_fn(|_: Request<Incoming>| async { Ok::<_, Infallible>(https_only()) });
                connections.serve_http(stream, self.http, service).await;
            }
        }
        drop(permit);
    }
}

fn https_only() -> Response {
    let message = "this registry speaks HTTPS with other machines: call it with https://";
    let refusal = ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::Denied, message);
    Response::from(refusal.header(header::CONNECTION, "close"))
}
