//! Connections that become something else than HTTP, WebSockets above all. The ingress passes the
//! wish on to the replica and, where that agrees, moves bytes.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version, header, request};
use http_body::Body;
use http_body_util::Full;
use net::Tunnel;
use tokio::sync::{OwnedSemaphorePermit, TryAcquireError};

use super::{
    error::GatewayError,
    head,
    response_body::{InFlight, ResponseBody},
    table::Service,
    upstream::ReplicaBody,
};

/// What a client asks to speak from its response on, and the right to.
pub(super) struct Upgrade {
    protocol: HeaderValue,
    permit: OwnedSemaphorePermit,
}

/// Versions of HTTP itself are spoken from the beginning or not at all.
const HTTP: [&str; 4] = ["h2c", "h2", "http", "tls"];

impl Upgrade {
    /// What `request` asks for, where it may. A server may take an upgrade for no wish at all (RFC
    /// 9110 7.8), and so every other request is answered as if it had none.
    ///
    /// # Errors
    /// When `service` has as many upgraded connections as it may have.
    pub fn asked(
        head: &request::Parts,
        body: &impl Body,
        service: &Service,
    ) -> Result<Option<Self>, GatewayError> {
        let Some(protocol) = protocol(head, body).filter(|_| !service.speaks_http2()) else {
            return Ok(None);
        };
        match service.upgrades.clone().try_acquire_owned() {
            Ok(permit) => Ok(Some(Self { protocol, permit })),
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => {
                Err(GatewayError::too_many_upgrades())
            }
        }
    }

    /// Asks a replica for the same.
    pub fn ask(&self, headers: &mut HeaderMap) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, self.protocol.clone());
    }

    /// The response of a replica that has agreed.
    ///
    /// # Errors
    /// When it has agreed to something else.
    pub fn switched(
        self,
        response: Response<ReplicaBody>,
        in_flight: InFlight,
        idle_time_max: Duration,
    ) -> Result<Response<ResponseBody>, GatewayError> {
        let agreed = response.headers().get(header::UPGRADE);
        let is_agreed = agreed
            .is_some_and(|agreed| agreed.as_bytes().eq_ignore_ascii_case(self.protocol.as_bytes()));
        let (parts, body) = response.into_parts();
        let upgraded = match body {
            ReplicaBody::Own(exchange) if is_agreed => exchange.upgraded(),
            _ => return Err(GatewayError::status(parts.status)),
        };
        let mut headers = parts.headers;
        head::keep_end_to_end(&mut headers);
        net::remove_own(&mut headers);
        headers.remove(header::CONTENT_LENGTH);
        self.ask(&mut headers);
        let held = (in_flight, self.permit);
        let tunnel = Tunnel::new(upgraded, idle_time_max, held);
        let mut response = Response::new(ResponseBody::Own(Full::<Bytes>::default()));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = headers;
        response.extensions_mut().insert(tunnel);
        Ok(response)
    }
}

/// The one protocol that a request asks for, when it is `GET` over HTTP/1.1 and has no body.
fn protocol(head: &request::Parts, body: &impl Body) -> Option<HeaderValue> {
    let headers = &head.headers;
    let mut wishes = headers.get_all(header::UPGRADE).iter();
    let (protocol, None) = (wishes.next()?, wishes.next()) else { return None };
    let name = protocol.to_str().ok()?.split('/').next()?;
    let is_one = !protocol.as_bytes().contains(&b',') && !name.is_empty();
    let is_http = HTTP.iter().any(|http| http.eq_ignore_ascii_case(name));
    let mut wants =
        headers.get_all(header::CONNECTION).iter().filter_map(|line| line.to_str().ok());
    let is_meant =
        wants.any(|line| line.split(',').any(|name| name.trim().eq_ignore_ascii_case("upgrade")));
    let is_plain =
        head.version == Version::HTTP_11 && head.method == Method::GET && body.is_end_stream();
    (is_one && !is_http && is_meant && is_plain).then(|| protocol.clone())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use http::Request;
    use spec::wire::RouteTable;

    use super::*;
    use crate::ingress::{Shared, limits::UPGRADES_PER_SERVICE_MAX, table::Table};

    #[test]
    fn a_service_has_so_many_upgraded_connections_and_no_more() {
        let hosts = BTreeMap::from([("a.localhost".to_owned(), Vec::new())]);
        let routes = RouteTable { version: 1, hosts, ..RouteTable::default() };
        let node: spec::NodeId = "n1".parse().unwrap();
        let shared = || Shared {
            version: 1,
            node: node.clone(),
            routes: routes.clone(),
            networks: Vec::new(),
        };
        let before = Table::build(None, shared(), "sockets".into(), &Table::default());
        let wish = Request::get("/").header("connection", "upgrade").header("upgrade", "websocket");
        let (wish, body) = wish.body(Full::<Bytes>::default()).unwrap().into_parts();
        let service = &before.services["a.localhost"];
        let held: Vec<_> = (0..UPGRADES_PER_SERVICE_MAX)
            .map(|_| Upgrade::asked(&wish, &body, service).unwrap().expect("it may"))
            .collect();
        // Another version of the routes changes nothing about it.
        let after = Table::build(None, shared(), "sockets".into(), &before);
        let refused = Upgrade::asked(&wish, &body, &after.services["a.localhost"]).err().unwrap();
        assert_eq!((refused.code, refused.status.as_u16()), ("E_UPGRADES", 503));
        drop(held);
        assert!(Upgrade::asked(&wish, &body, &after.services["a.localhost"]).unwrap().is_some());
    }

    #[test]
    fn only_a_plain_wish_for_one_other_protocol_is_one() {
        for (method, version, headers, body, want) in [
            (
                "GET",
                Version::HTTP_11,
                &[("connection", "Upgrade"), ("upgrade", "websocket")][..],
                "",
                true,
            ),
            (
                "GET",
                Version::HTTP_11,
                &[("connection", "keep-alive, upgrade"), ("upgrade", "x/1")],
                "",
                true,
            ),
            ("GET", Version::HTTP_11, &[("upgrade", "websocket")], "", false),
            ("GET", Version::HTTP_11, &[("connection", "upgrade")], "", false),
            ("GET", Version::HTTP_11, &[("connection", "upgrade"), ("upgrade", "a, b")], "", false),
            (
                "GET",
                Version::HTTP_11,
                &[("connection", "upgrade"), ("upgrade", "a"), ("upgrade", "b")],
                "",
                false,
            ),
            ("GET", Version::HTTP_11, &[("connection", "upgrade"), ("upgrade", "h2c")], "", false),
            (
                "GET",
                Version::HTTP_11,
                &[("connection", "upgrade"), ("upgrade", "TLS/1.0")],
                "",
                false,
            ),
            (
                "GET",
                Version::HTTP_11,
                &[("connection", "upgrade"), ("upgrade", "websocket")],
                "x",
                false,
            ),
            (
                "POST",
                Version::HTTP_11,
                &[("connection", "upgrade"), ("upgrade", "websocket")],
                "",
                false,
            ),
            (
                "GET",
                Version::HTTP_10,
                &[("connection", "upgrade"), ("upgrade", "websocket")],
                "",
                false,
            ),
            (
                "GET",
                Version::HTTP_2,
                &[("connection", "upgrade"), ("upgrade", "websocket")],
                "",
                false,
            ),
        ] {
            let mut request = Request::builder().method(method).version(version);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let (head, whole) = request.body(Full::<Bytes>::from(body)).unwrap().into_parts();
            assert_eq!(
                protocol(&head, &whole).is_some(),
                want,
                "{method} {version:?} {headers:?} {body}"
            );
        }
    }
}
