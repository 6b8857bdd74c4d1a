use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use spec::Host;

use crate::limits::PROXIES_MAX;

/// The client of a request, as far as it is known here and not only claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    pub address: IpAddr,
    pub scheme: Scheme,
    /// The `Host` that a trusted proxy was asked for, when it says so.
    pub host: Option<HeaderValue>,
    /// The address as a header has it: written once for all requests of a connection.
    forwarded_for: HeaderValue,
}

/// How a client has asked, perhaps a proxy in front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// Addresses whose word about the client of a request is taken.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Vec<Host>);

impl TrustedProxies {
    /// Those within `networks`.
    pub fn new(networks: impl IntoIterator<Item = Host>) -> Self {
        Self(networks.into_iter().collect())
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let address = Host::Address(address.to_canonical());
        self.0.iter().any(|network| network.includes(&address))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Headers of which a program believes that a proxy has set them: a client, a URL, a method. A name
/// with a hyphen at its end is the beginning of more names.
const CLAIMS: [&str; 23] = [
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "client-ip",
    "fastly-client-ip",
    "forwarded",
    "forwarded-for",
    "proxy",
    "proxy-client-ip",
    "real-ip",
    "true-client-ip",
    "wl-proxy-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-forwarded",
    "x-forwarded-",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-",
    "x-originating-ip",
    "x-real-ip",
    "x-remote-",
    "x-rewrite-",
];
const OWN: [&str; 2] = ["margay-", "x-margay-"];

/// Takes out of a request what its client may not say: where it comes from, which URL or method is
/// really meant, and what only margay says. In every spelling: programs of CGI and WSGI read
/// `X-Real-IP`, `X_Real_IP` and `X.Real.IP` as one name.
pub fn remove_claims(headers: &mut HeaderMap) {
    remove(headers, |name| is_one_of(name, &CLAIMS) || is_one_of(name, &OWN));
}

/// Takes out of a response what only margay says.
pub fn remove_own(headers: &mut HeaderMap) {
    remove(headers, |name| is_one_of(name, &OWN));
}

fn remove(headers: &mut HeaderMap, is_removed: impl Fn(&str) -> bool) {
    // Nearly always there is none.
    while let Some(name) = headers.keys().find(|name| is_removed(name.as_str())).cloned() {
        headers.remove(name);
    }
}

fn is_one_of(name: &str, names: &[&str]) -> bool {
    names.iter().any(|known| {
        let is_long_enough = match known.ends_with('-') {
            true => name.len() >= known.len(),
            false => name.len() == known.len(),
        };
        is_long_enough && name.bytes().zip(known.bytes()).all(|(a, b)| a == b || is_hyphen(a, b))
    })
}

/// Names of headers are in lower case here.
fn is_hyphen(byte: u8, known: u8) -> bool {
    known == b'-' && !byte.is_ascii_alphanumeric()
}

impl Sender {
    /// A client that has connected here itself.
    pub fn direct(address: IpAddr, scheme: Scheme) -> Self {
        Self::with_host(address, scheme, None)
    }

    /// The client of a request that came over a connection of `peer`. When that is a trusted proxy,
    /// the client is the last address of `X-Forwarded-For` that is none: what stands in front of it
    /// the client may have made up.
    pub fn of(peer: IpAddr, scheme: Scheme, headers: &HeaderMap, trusted: &TrustedProxies) -> Self {
        if !trusted.contains(peer) {
            return Self::direct(peer, scheme);
        }
        let mut address = peer;
        let lines = headers.get_all(&FORWARDED_FOR).iter().rev();
        let hops = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
        for hop in hops.take(PROXIES_MAX) {
            let Some(hop) = std::str::from_utf8(hop).ok().and_then(address_of) else { break };
            address = hop;
            if !trusted.contains(hop) {
                break;
            }
        }
        let last = |name: &HeaderName| headers.get_all(name).iter().next_back();
        let said = last(&FORWARDED_PROTO).map(|value| value.as_bytes().trim_ascii());
        let scheme = match said {
            Some(said) if said.eq_ignore_ascii_case(b"https") => Scheme::Https,
            Some(said) if said.eq_ignore_ascii_case(b"http") => Scheme::Http,
            _ => scheme,
        };
        let host = last(&FORWARDED_HOST).filter(|host| is_host(host)).cloned();
        Self::with_host(address, scheme, host)
    }

    fn with_host(address: IpAddr, scheme: Scheme, host: Option<HeaderValue>) -> Self {
        let text = HeaderValue::try_from(address.to_string());
        Self { address, scheme, host, forwarded_for: text.expect("an address is text") }
    }

    /// Names the client, in the place of what it says itself.
    pub fn replace_claims(&self, headers: &mut HeaderMap) {
        remove_claims(headers);
        let host = self.host.as_ref().or_else(|| headers.get(header::HOST)).cloned();
        headers.insert(FORWARDED_FOR, self.forwarded_for.clone());
        if let Some(host) = host {
            headers.insert(FORWARDED_HOST, host);
        }
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(self.scheme.name()));
    }
}

/// An address as proxies write it: bare, or with a port.
fn address_of(text: &str) -> Option<IpAddr> {
    let text = text.trim().trim_matches('"');
    let address = text.parse::<IpAddr>().ok();
    let with_port = || text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip());
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    address.or_else(with_port).or_else(in_brackets).map(|address| address.to_canonical())
}

fn is_host(value: &HeaderValue) -> bool {
    let is_of_host = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(byte);
    !value.is_empty() && value.as_bytes().iter().all(is_of_host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn claims_are_removed_in_every_spelling() {
        let names = [
            "Forwarded",
            "X-Forwarded-For",
            "X-Forwarded-Host",
            "X-Forwarded-Proto",
            "X-Forwarded-Port",
            "X-Forwarded-Prefix",
            "X-Forwarded-Client-Cert",
            "X-Forwarded",
            "X-Real-IP",
            "True-Client-IP",
            "CF-Connecting-IP",
            "X-Client-IP",
            "Client-IP",
            "X-Cluster-Client-IP",
            "X-Original-URL",
            "X-Original-Forwarded-For",
            "X-Rewrite-URL",
            "X-HTTP-Method-Override",
            "X-HTTP-Method",
            "X-Method-Override",
            "Proxy",
            "X-Margay-Hop",
            "Margay-Error",
            "Fastly-Client-IP",
            "X-Remote-Addr",
            "X-Remote-IP",
            "X-Originating-IP",
            "WL-Proxy-Client-IP",
            "Proxy-Client-IP",
        ];
        for name in names {
            for spelling in [
                name.to_owned(),
                name.to_uppercase(),
                name.replace('-', "_"),
                name.replacen('-', "_", 1),
                name.replace('-', "."),
            ] {
                let mut headers = headers(&[(&spelling, "1"), ("accept", "2"), (&spelling, "3")]);
                remove_claims(&mut headers);
                assert_eq!(headers.len(), 1, "{spelling}");
            }
        }
        let kept = [
            "accept",
            "proxy-authorization",
            "x-request-id",
            "client",
            "x-forward",
            "margay",
            "forwarded-by",
            "x-real-ip-2",
            "host",
            "cookie",
            "x-http-methods",
        ];
        let mut kept = headers(&kept.map(|name| (name, "1")));
        let before = kept.len();
        remove_claims(&mut kept);
        assert_eq!(kept.len(), before);
        let mut response =
            headers(&[("margay-error", "E"), ("X-Margay_A", "1"), ("x-real-ip", "1")]);
        remove_own(&mut response);
        assert_eq!(response.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-real-ip"]);
    }

    #[test]
    fn the_client_is_the_last_address_that_is_not_trusted() {
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|text| {
            let (address, bits) = text.split_once('/').unwrap();
            Host::Network(address.parse().unwrap(), bits.parse().unwrap())
        });
        let trusted = TrustedProxies::new(trusted);
        for (peer, lines, want) in [
            ("9.9.9.9", &["1.2.3.4"][..], "9.9.9.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1", &["1.2.3.4:555"], "1.2.3.4"),
            ("10.0.0.1", &["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1", &["6.6.6.6", "1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1", &["6.6.6.6, 1.2.3.4, 10.0.0.2"], "1.2.3.4"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &["6.6.6.6, evil, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["6.6.6.6,"], "10.0.0.1"),
            ("fd00::1", &["[2001:db8::1]:80"], "2001:db8::1"),
            ("fd00::1", &["::ffff:1.2.3.4"], "1.2.3.4"),
        ] {
            let lines: Vec<_> = lines.iter().map(|line| ("X-Forwarded-For", *line)).collect();
            let peer = peer.parse().unwrap();
            let sender = Sender::of(peer, Scheme::Http, &headers(&lines), &trusted);
            assert_eq!(sender.address.to_string(), want, "{peer} {lines:?}");
        }
        let said = headers(&[
            ("host", "a"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "cats.example.com"),
            ("x-forwarded-port", "443"),
        ]);
        for (peer, scheme, host) in
            [("10.0.0.1", "https", "cats.example.com"), ("9.9.9.9", "http", "a")]
        {
            let mut told = said.clone();
            let peer = peer.parse().unwrap();
            Sender::of(peer, Scheme::Http, &said, &trusted).replace_claims(&mut told);
            assert_eq!(told.len(), 4, "{told:?}");
            assert_eq!(
                (&told["x-forwarded-proto"], &told["x-forwarded-host"]),
                (&HeaderValue::from_static(scheme), &HeaderValue::from_static(host),)
            );
        }
    }
}
