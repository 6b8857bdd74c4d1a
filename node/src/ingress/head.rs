use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version, header, request,
    uri::{Authority, PathAndQuery},
};
use http_body_util::Full;
use net::Sender;

use super::{error::GatewayError, hop::HOP, limits::HOPS_MAX, routes::Arrival};

/// Headers about one connection only (RFC 9110 7.6.1), or about the client and its proxies.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// By which version a request came here (RFC 9110 7.6.3).
const VIA: HeaderValue = HeaderValue::from_static("1.1 margay");
const VIA_2: HeaderValue = HeaderValue::from_static("2.0 margay");
/// Counts calls from service to service: a worker adds what it was told to what its guest sends.
/// A client that makes up a number has fewer calls, and no more.
const HOPS: HeaderName = HeaderName::from_static("margay-hops");
/// What is said of the sender, the way and the trace.
const HEADERS_ADDED: usize = 8;
/// A request that has been through so many proxies goes in circles.
const VIA_MAX: usize = 8;

/// The host that a request is for: lower case, without port.
pub(super) fn host(request: &Request<impl Sized>) -> Result<String, GatewayError> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (first, more) = (hosts.next(), hosts.next());
    let named = match (first, more) {
        (_, Some(_)) => return Err(GatewayError::bad("the request has more than one Host header")),
        (Some(value), None) => Some(
            authority(value.as_bytes())
                .ok_or_else(|| GatewayError::bad("the Host header names no host"))?,
        ),
        (None, None) => None,
    };
    let asked = match request.uri().authority() {
        Some(asked) => Some(
            authority(asked.as_str().as_bytes())
                .ok_or_else(|| GatewayError::bad("the request names no host"))?,
        ),
        None => None,
    };
    match (named, asked) {
        (Some(named), Some(asked)) if named != asked => Err(GatewayError::new(
            StatusCode::MISDIRECTED_REQUEST,
            "E_HOST",
            "the request line and the Host header name two different hosts",
        )),
        (Some(host), _) | (None, Some(host)) => Ok(host),
        (None, None) => Err(GatewayError::bad("the request has no Host header")),
    }
}

/// The host in `HOST[:PORT]`.
fn authority(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    let authority: Authority = text.parse().ok()?;
    let port_is_number =
        text.rsplit_once(':').is_none_or(|(_, p)| p.ends_with(']') || p.parse::<u16>().is_ok());
    if text.contains('@') || !port_is_number {
        return None;
    }
    let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
    (!host.is_empty()).then_some(host)
}

/// The same URL, to be asked for with TLS. The method and the body stay what they are.
pub(super) fn to_https(
    request: &Request<impl Sized>,
) -> Result<http::Response<Full<Bytes>>, GatewayError> {
    host(request)?;
    let named = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let authority = request.uri().authority().map(Authority::as_str).or(named).unwrap_or_default();
    let path = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
    let mut response = http::Response::new(Full::default());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    let location = HeaderValue::from_str(&format!("https://{}{path}", authority.trim()));
    let location = location.map_err(|_| GatewayError::bad("the request names no URL"))?;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

/// Makes of a client's head the one that goes to a replica: with what is known of the sender, and
/// without what only it says.
pub(super) fn to_replica(
    parts: &mut request::Parts,
    host: &str,
    sender: &Sender,
    arrival: &Arrival,
) -> Result<(), GatewayError> {
    if parts.method == Method::CONNECT {
        return Err(GatewayError::unsupported("CONNECT is not offered here"));
    }
    let headers = &mut parts.headers;
    let hops = hops(headers);
    if proxies(headers) >= VIA_MAX || hops >= HOPS_MAX {
        return Err(GatewayError::new(
            StatusCode::LOOP_DETECTED,
            "E_LOOP",
            "the request has been through too many proxies and services: it goes in circles",
        ));
    }
    headers.reserve(HEADERS_ADDED);
    keep_end_to_end(headers);
    headers.remove(header::EXPECT);
    // Other ingresses know a service by its host, and not by its name inside.
    let is_inside = matches!(arrival, Arrival::Inside(_));
    if is_inside || !headers.contains_key(header::HOST) {
        let asked = parts.uri.authority().filter(|_| !is_inside).map_or(host, Authority::as_str);
        let asked = HeaderValue::from_str(asked).unwrap_or(HeaderValue::from_static(""));
        headers.insert(header::HOST, asked);
    }
    if parts.uri.authority().is_some() || parts.uri.path_and_query().is_none() {
        let path = parts.uri.path_and_query().cloned();
        parts.uri = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    }
    join_cookies(headers);
    match arrival.hides_the_client() {
        true => sender.replace_claims(headers),
        false => drop(headers.remove(HOP)),
    }
    let is_http2 = parts.version == Version::HTTP_2;
    headers.append(header::VIA, if is_http2 { VIA_2 } else { VIA });
    let hops = if hops == 0 { HeaderValue::from_static("1") } else { HeaderValue::from(hops + 1) };
    headers.insert(HOPS, hops);
    parts.extensions.clear();
    Ok(())
}

/// Makes one header of all cookies. Clients of HTTP/2 send them in pieces, which programs behind
/// HTTP/1.1 must not see (RFC 9113 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let cookies: Vec<&[u8]> =
        headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(one) = HeaderValue::from_bytes(&cookies.join(&b"; "[..])) {
        headers.insert(header::COOKIE, one);
    }
}

/// How many proxies say that they have passed it on.
fn proxies(headers: &HeaderMap) -> usize {
    let lines = headers.get_all(header::VIA).iter();
    lines.map(|line| 1 + line.as_bytes().iter().filter(|byte| **byte == b',').count()).sum()
}

/// How often a request and those that led to it have come through an ingress.
fn hops(headers: &HeaderMap) -> u32 {
    let said = headers.get(HOPS).and_then(|hops| hops.to_str().ok());
    said.and_then(|hops| hops.parse().ok()).unwrap_or_default()
}

/// The head that goes back to the client.
///
/// # Errors
/// A status that ends no request: hyper passes on 101 and what is beyond 599 as they come.
pub(super) fn to_client(parts: &mut http::response::Parts) -> Result<(), GatewayError> {
    if !(200..=599).contains(&parts.status.as_u16()) {
        return Err(GatewayError::status(parts.status));
    }
    keep_end_to_end(&mut parts.headers);
    net::remove_own(&mut parts.headers);
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    Ok(())
}

/// The same for what comes after the body of a response.
pub(super) fn trailers_to_client(trailers: &HeaderMap) -> HeaderMap {
    let mut trailers = without_framing(trailers);
    net::remove_own(&mut trailers);
    trailers
}

/// The same for what comes after the body of a request.
pub(super) fn trailers_to_replica(trailers: &HeaderMap) -> HeaderMap {
    let mut trailers = without_framing(trailers);
    net::remove_claims(&mut trailers);
    trailers
}

/// What trailers may say: nothing of where a message ends or whose it is (RFC 9110 6.5.1).
fn without_framing(trailers: &HeaderMap) -> HeaderMap {
    let mut trailers = trailers.clone();
    keep_end_to_end(&mut trailers);
    for name in [header::CONTENT_LENGTH, header::HOST, header::AUTHORIZATION, header::SET_COOKIE] {
        trailers.remove(name);
    }
    trailers
}

/// Removes what is about one connection, by its own words or by RFC 9110's.
pub(super) fn keep_end_to_end(headers: &mut HeaderMap) {
    if !headers.keys().any(|name| HOP_BY_HOP.contains(name)) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // A body is framed by its length: `Connection: content-length` is an attack, not a wish.
        .filter(|name| *name != header::CONTENT_LENGTH && *name != header::HOST)
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spec::wire::PeerTrust;

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn a_request_is_for_exactly_one_host() {
        for (uri, hosts, want) in [
            ("/", &["Cats.Example.com:8080"][..], Ok("cats.example.com")),
            ("/", &["cats.example.com."], Ok("cats.example.com")),
            ("/", &["[::1]:80"], Ok("[::1]")),
            ("http://cats.example.com/x", &["cats.example.com"], Ok("cats.example.com")),
            ("http://cats.example.com/x", &[], Ok("cats.example.com")),
            ("http://evil.example.com/", &["cats.example.com"], Err("two different hosts")),
            ("/", &["a", "b"], Err("more than one Host")),
            ("/", &[], Err("no Host")),
            ("/", &[""], Err("names no host")),
            ("/", &["cats:8080@evil"], Err("names no host")),
            ("/", &["cats:port"], Err("names no host")),
            ("/", &["cats/x"], Err("names no host")),
        ] {
            let headers: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            match (host(&request(uri, &headers)), want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want),
                (Err(got), Err(want)) => {
                    assert!(got.text.contains(want), "{uri} {hosts:?}: {}", got.text)
                }
                (got, want) => panic!("{uri} {hosts:?}: {got:?}, not {want:?}"),
            }
        }
    }

    #[test]
    fn what_a_sender_says_about_itself_does_not_reach_a_task() {
        let headers = [
            ("host", "cats.localhost:8080"),
            ("connection", "keep-alive, x-secret, content-length"),
            ("keep-alive", "timeout=5"),
            ("x-secret", "1"),
            ("content-length", "0"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
            ("forwarded", "for=1.2.3.4"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-host", "evil"),
            ("x-real-ip", "1.2.3.4"),
            ("x_forwarded_for", "1.2.3.4"),
            ("x-forwarded_proto", "https"),
            ("x-forwarded-port", "443"),
            ("x-forwarded-client-cert", "admin"),
            ("x_real_ip", "1.2.3.4"),
            ("x_margay_hop", "n1"),
            ("x-margay-hop", "n1"),
            ("x-margay-anything", "1"),
            ("accept", "text/html"),
        ];
        let sender = Sender::direct("9.9.9.9".parse().unwrap(), net::Scheme::Http);
        let said = || request("http://cats.localhost:8080/a?b=c", &headers).into_parts().0;
        let mut parts = said();
        to_replica(&mut parts, "cats.localhost", &sender, &Arrival::Client).unwrap();
        let mut got: Vec<_> = parts
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        got.sort();
        assert_eq!(
            got,
            [
                "accept: text/html",
                "content-length: 0",
                "host: cats.localhost:8080",
                "margay-hops: 1",
                "via: 1.1 margay",
                "x-forwarded-for: 9.9.9.9",
                "x-forwarded-host: cats.localhost:8080",
                "x-forwarded-proto: http",
            ]
        );
        assert_eq!(parts.uri, "/a?b=c");
        for (trust, want) in [
            (PeerTrust::Pool, "1.2.3.4"), // the other ingress has judged it
            (PeerTrust::Tenant("me".parse().unwrap()), "9.9.9.9"),
        ] {
            let arrival = Arrival::Peer("n1".parse().unwrap(), trust);
            let mut peer = said();
            to_replica(&mut peer, "cats.localhost", &sender, &arrival).unwrap();
            assert_eq!(peer.headers["x-forwarded-for"], want, "{arrival:?}");
            assert!(!peer.headers.contains_key(HOP));
        }
    }

    #[test]
    fn a_response_ends_its_request_and_says_nothing_in_the_name_of_margay() {
        for (status, want) in
            [(200, true), (204, true), (599, true), (101, false), (103, false), (600, false)]
        {
            let response = http::Response::builder().status(status).header("accept", "x");
            let response = response.header("Margay-Error", "E_CPU").header("x_margay_hop", "n1");
            let mut parts = response.body(()).unwrap().into_parts().0;
            assert_eq!(to_client(&mut parts).is_ok(), want, "{status}");
            assert!(!want || parts.headers.len() == 1, "{:?}", parts.headers);
        }
    }

    #[test]
    fn tunnels_are_refused_and_circles_are_seen() {
        let refusal = |request: Request<()>| {
            let sender = Sender::direct([1, 1, 1, 1].into(), net::Scheme::Http);
            let mut parts = request.into_parts().0;
            to_replica(&mut parts, "a", &sender, &Arrival::Client).unwrap_err().status.as_u16()
        };
        assert_eq!(refusal(request("/", &[("via", "1.1 x"); VIA_MAX])), 508);
        let list = ["1.1 x"; VIA_MAX].join(", ");
        assert_eq!(refusal(request("/", &[("via", &list)])), 508);
        assert_eq!(refusal(request("/", &[("margay-hops", "16")])), 508);
        let mut connect = request("a:80", &[("host", "a")]);
        *connect.method_mut() = Method::CONNECT;
        assert_eq!(refusal(connect), 501);
    }
}
