use std::{fmt, net::IpAddr};

use super::grammar::{Line, parse_port, words};

/// `net.out:https://api.example.com:443`: connections that the guest may open.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutboundGrant {
    /// The protocol.
    pub scheme: Scheme,
    /// The hosts that may be connected to.
    pub host: Host,
    /// The port there.
    pub port: u16,
    /// `;private`: the first of the two keys to an address in [`forbidden`](crate::forbidden).
    pub private: bool,
}

/// The protocol of a connection. Plain `tcp` and `udp` are absent until `wasi:sockets` goes through
/// the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// HTTP in the clear; port 80 unless said.
    Http,
    /// HTTP over TLS, with the name checked; port 443 unless said.
    Https,
}

/// The hosts that a guest may connect to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// One DNS name, lower case.
    Name(String),
    /// `*.example.com`: every name below, not `example.com` itself. Holds the part after `*.`.
    Below(String),
    /// One address.
    Address(IpAddr),
    /// `10.2.0.0/24`: every address with the same leading bits.
    Network(IpAddr, u8),
}

impl OutboundGrant {
    pub(super) fn parse(line: &mut Line<'_>) -> Result<Self, String> {
        let (scheme, authority) = line
            .target
            .split_once("://")
            .ok_or("an outbound connection is `net.out:SCHEME://HOST[:PORT]`")?;
        if matches!(scheme, "tcp" | "udp") {
            return Err(format!(
                "this version cannot grant `{scheme}` to a guest yet: use http or https"
            ));
        }
        let scheme: Scheme =
            scheme.parse().map_err(|_| format!("the scheme `{scheme}` is none of http, https"))?;
        let (host, port) = parse_authority(authority)?;
        let port = port.map_or(Ok(scheme.default_port()), parse_port)?;
        Ok(Self { scheme, host, port, private: line.flag("private")? })
    }

    /// Whether it grants a connection to `host`, looking at names only: see
    /// [`forbidden`](crate::forbidden) for the addresses that they resolve to.
    pub fn allows(&self, scheme: Scheme, host: &Host, port: u16) -> bool {
        self.scheme == scheme && self.port == port && self.host.includes(host)
    }

    pub(super) fn covers(&self, want: &Self) -> bool {
        self.allows(want.scheme, &want.host, want.port) && (self.private || !want.private)
    }
}

words!(Scheme, Http = "http", Https = "https");

impl Scheme {
    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl Host {
    /// Whether every host that `other` names is named here too.
    pub fn includes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Name(a), Self::Name(b)) => a == b,
            (Self::Below(zone), Self::Name(name)) => is_below(name, zone),
            (Self::Below(zone), Self::Below(inner)) => zone == inner || is_below(inner, zone),
            (Self::Address(a), Self::Address(b)) => a == b,
            (Self::Network(net, bits), Self::Address(address)) => in_network(*address, *net, *bits),
            (Self::Network(net, bits), Self::Network(inner, inner_bits)) => {
                inner_bits >= bits && in_network(*inner, *net, *bits)
            }
            (Self::Name(_) | Self::Address(_), _) | (Self::Below(_) | Self::Network(..), _) => {
                false
            }
        }
    }
}

fn is_below(name: &str, zone: &str) -> bool {
    name.strip_suffix(zone)
        .and_then(|rest| rest.strip_suffix('.'))
        .is_some_and(|label| !label.is_empty())
}

fn in_network(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let bits = u32::from(bits);
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => (a.to_bits() ^ n.to_bits()).leading_zeros() >= bits,
        (IpAddr::V6(a), IpAddr::V6(n)) => (a.to_bits() ^ n.to_bits()).leading_zeros() >= bits,
        _ => false,
    }
}

impl fmt::Display for OutboundGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net.out:{}://{}:{}", self.scheme.name(), self.host, self.port)?;
        if self.private { f.write_str(";private") } else { Ok(()) }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Below(zone) => write!(f, "*.{zone}"),
            Self::Address(IpAddr::V4(v4)) => write!(f, "{v4}"),
            Self::Address(IpAddr::V6(v6)) => write!(f, "[{v6}]"),
            Self::Network(IpAddr::V4(v4), bits) => write!(f, "{v4}/{bits}"),
            Self::Network(IpAddr::V6(v6), bits) => write!(f, "[{v6}/{bits}]"),
        }
    }
}

/// `HOST[:PORT]`, with IPv6 in brackets.
fn parse_authority(text: &str) -> Result<(Host, Option<&str>), String> {
    if text.contains(['@', '/', '?', '%', '\\']) && !is_network(text) {
        return Err("its host has no user, path, query or escapes".to_owned());
    }
    match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or("its `[` has no `]`")?;
            let host = address_or_network(host);
            let host = host.ok_or("there is no IPv6 address between `[` and `]`")?;
            Ok((host, after.strip_prefix(':')))
        }
        None => {
            let (host, port) = text.split_once(':').map_or((text, None), |(h, p)| (h, Some(p)));
            Ok((parse_host(host)?, port))
        }
    }
}

fn is_network(text: &str) -> bool {
    !text.contains(['@', '?', '%', '\\']) && text.matches('/').count() == 1
}

fn address_or_network(text: &str) -> Option<Host> {
    match text.split_once('/') {
        None => text.parse().ok().map(Host::Address),
        Some((address, bits)) => {
            let address: IpAddr = address.parse().ok()?;
            let bits: u8 = bits.parse().ok()?;
            (bits <= if address.is_ipv4() { 32 } else { 128 })
                .then_some(Host::Network(address, bits))
        }
    }
}

fn parse_host(text: &str) -> Result<Host, String> {
    if let Some(host) = address_or_network(text) {
        return Ok(host);
    }
    // `127.1`, `0x7f.1` and `2130706433` are addresses to some resolvers and names to others: here
    // they are neither.
    let last = text.rsplit('.').next().unwrap_or_default();
    if last.starts_with("0x") || (!last.is_empty() && last.bytes().all(|b| b.is_ascii_digit())) {
        return Err(format!("`{text}` is neither a DNS name nor an address written in full"));
    }
    match text.strip_prefix("*.") {
        Some(zone) if is_dns_name(zone) && zone.contains('.') => Ok(Host::Below(zone.to_owned())),
        None if is_dns_name(text) => Ok(Host::Name(text.to_owned())),
        _ => Err(format!(
            "`{text}` is not a host: a lower-case DNS name, `*.` and a name of two labels or more, \
             or an address"
        )),
    }
}

fn is_dns_name(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| {
                    b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_')
                })
        })
}
