use std::net::IpAddr;

use http::{HeaderMap, HeaderValue, header, uri::Authority};
use net::{Scheme, Sender, TrustedProxies};

/// The registry as one client has called it.
#[derive(Debug, Clone)]
pub(super) struct Called {
    pub address: IpAddr,
    scheme: Scheme,
    host: String,
}

impl Called {
    /// Where that client finds the token endpoint.
    pub fn realm(&self) -> String {
        format!("{}://{}/token", self.scheme.name(), self.host)
    }

    pub fn of(peer: IpAddr, scheme: Scheme, headers: &HeaderMap, proxies: &TrustedProxies) -> Self {
        let Sender { address, scheme, host, .. } = Sender::of(peer, scheme, headers, proxies);
        let host = host.as_ref().or_else(|| headers.get(header::HOST));
        Self { address, scheme: at_least(scheme, headers), host: host_of(host) }
    }
}

/// A client that came by HTTPS is never sent to plain HTTP, also where a proxy is not known as one:
/// what this says goes back to the client that said it.
fn at_least(scheme: Scheme, headers: &HeaderMap) -> Scheme {
    match headers.get("x-forwarded-proto") {
        Some(said) if said.as_bytes().trim_ascii().eq_ignore_ascii_case(b"https") => Scheme::Https,
        _ => scheme,
    }
}

/// The host as the client wrote it: it is only sent back to that client.
fn host_of(named: Option<&HeaderValue>) -> String {
    let host = named.and_then(|value| value.to_str().ok()?.parse::<Authority>().ok());
    match host {
        Some(host) if !host.as_str().contains(['@', '"', '\\']) => host.to_string(),
        _ => "localhost".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_realm_has_the_scheme_and_the_host_of_the_client() {
        let loopback = spec::Host::Network([127, 0, 0, 0].into(), 8);
        let proxies = TrustedProxies::new([loopback]);
        for (peer, scheme, headers, want) in [
            ("10.0.0.1", Scheme::Http, &[("host", "a:5000")][..], "http://a:5000/token"),
            ("10.0.0.1", Scheme::Https, &[("host", "a:5000")], "https://a:5000/token"),
            // A proxy that is known says more than one that is not; https is taken from any.
            (
                "127.0.0.1",
                Scheme::Http,
                &[("host", "a"), ("x-forwarded-proto", "https"), ("x-forwarded-host", "b.example")],
                "https://b.example/token",
            ),
            (
                "10.0.0.1",
                Scheme::Http,
                &[("host", "a"), ("x-forwarded-proto", "https"), ("x-forwarded-host", "b.example")],
                "https://a/token",
            ),
            (
                "10.0.0.1",
                Scheme::Https,
                &[("host", "a"), ("x-forwarded-proto", "http")],
                "https://a/token",
            ),
            ("10.0.0.1", Scheme::Http, &[("host", "a\"b")], "http://localhost/token"),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.insert(*name, HeaderValue::from_static(value));
            }
            let called = Called::of(peer.parse().unwrap(), scheme, &map, &proxies);
            assert_eq!(called.realm(), want, "{peer} {headers:?}");
        }
    }
}
