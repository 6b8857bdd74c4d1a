use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    text::{ParseError, written_as_text},
    transport::Port,
};

/// A port of the ingresses whose connections, or datagrams, go to a service as they come: a
/// listener of layer 4.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceListener {
    /// Where clients reach it: a port that the operator has set aside for that.
    #[schema(value_type = String, example = "20000/tcp")]
    pub port: Port,
    /// The port of the service's container; when left out, the first one of its protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 65535)]
    pub container_port: Option<u16>,
    /// Whether each connection begins with a header of the PROXY protocol, version 2, which names
    /// its client.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub proxy_protocol: bool,
    /// The networks that its clients are in; everywhere when left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceNetwork>,
    /// Seconds until a connection ends in which nothing moves: 350 when left out, as at AWS; 120
    /// until a client of datagrams is forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 86_400)]
    pub idle_seconds_max: Option<u32>,
}

impl ServiceListener {
    /// Networks of one listener: each connection is compared with all of them.
    pub const SOURCES_MAX: usize = 64;
    /// A day, as for requests.
    pub const IDLE_SECONDS_MAX: u32 = 86_400;

    /// Checks what the types of its parts do not.
    ///
    /// # Errors
    /// Names the field and what it may be.
    pub fn check(&self) -> Result<(), ParseError> {
        let problem = match self {
            Self { sources, .. } if sources.len() > Self::SOURCES_MAX => {
                format!("a listener has {} `sources` at most", Self::SOURCES_MAX)
            }
            Self { idle_seconds_max: Some(idle), .. }
                if !(1..=Self::IDLE_SECONDS_MAX).contains(idle) =>
            {
                format!("`idle_seconds_max` is 1 to {}", Self::IDLE_SECONDS_MAX)
            }
            Self { container_port: Some(0), .. } => "`container_port` is 1 to 65535".to_owned(),
            Self { port, proxy_protocol: true, .. } if !port.transport.is_tcp() => {
                "`proxy_protocol` is for connections, and this port takes datagrams".to_owned()
            }
            Self { .. } => return Ok(()),
        };
        Err(ParseError(format!("listener `{}`: {problem}", self.port)))
    }

    /// Whether a client at `address` may use it.
    pub fn admits(&self, address: IpAddr) -> bool {
        self.sources.is_empty() || self.sources.iter().any(|network| network.contains(address))
    }
}

/// The ports of each ingress that its operator has set aside for listeners, as in `20000-20100`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Each of them is a descriptor of the ingress.
    pub const COUNT_MAX: u16 = 256;

    /// Whether it has this port.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// All of its ports.
    pub fn ports(self) -> impl Iterator<Item = u16> {
        self.first..=self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl FromStr for PortRange {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let most = Self::COUNT_MAX;
        let wrong = || {
            let rule = format!("use FIRST-LAST as in 20000-20100, with {most} ports at most");
            ParseError::about(text, format_args!("is no range of ports: {rule}"))
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| {
            let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u16>().ok().filter(|port| is_number && *port > 0).ok_or_else(wrong)
        };
        let (first, last) = (number(first)?, number(last)?);
        match last.checked_sub(first) {
            Some(more) if more < most => Ok(Self { first, last }),
            _ => Err(wrong()),
        }
    }
}

/// A network of clients, as in `10.2.0.0/16`; an address alone is a network of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceNetwork {
    address: IpAddr,
    bits: u8,
}

impl SourceNetwork {
    /// Whether `address` is in it, also when an address of IPv4 is written as one of IPv6.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (own, width) = number(self.address);
        let (other, other_width) = number(address.to_canonical());
        let beyond = width - u32::from(self.bits);
        width == other_width
            && own.checked_shr(beyond).unwrap_or(0) == other.checked_shr(beyond).unwrap_or(0)
    }
}

/// An address as a number, and how many bits it has.
fn number(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(address) => (address.to_bits().into(), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    }
}

impl fmt::Display for SourceNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl FromStr for SourceNetwork {
    type Err = ParseError;

    /// Bits beyond the prefix are refused: `10.2.0.7/8` lets in far more than its author meant.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || {
            ParseError::about(
                text,
                "is no network: use ADDRESS/BITS as in 10.2.0.0/16 or 2001:db8::/32, without bits \
                 beyond the prefix, or one address",
            )
        };
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let (number, width) = number(address);
        let bits = match bits {
            None => width,
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => {
                bits.parse().map_err(|_| wrong())?
            }
            Some(_) => return Err(wrong()),
        };
        let beyond = width.checked_sub(bits).ok_or_else(wrong)?;
        let is_plain = number.trailing_zeros() >= beyond || number == 0;
        match u8::try_from(bits) {
            Ok(bits) if is_plain => Ok(Self { address, bits }),
            _ => Err(wrong()),
        }
    }
}

written_as_text!(
    SourceNetwork,
    "A network of clients, as ADDRESS/BITS; an address alone is a network of one.",
    "10.2.0.0/16"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_the_addresses_below_its_prefix() {
        for (network, address, want) in [
            ("10.2.0.0/16", "10.2.255.1", true),
            ("10.2.0.0/16", "10.3.0.1", false),
            ("10.2.0.0/16", "::ffff:10.2.0.1", true),
            ("10.2.0.7", "10.2.0.7", true),
            ("10.2.0.7", "10.2.0.8", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "2001:db8::1", true),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
        ] {
            let network: SourceNetwork = network.parse().unwrap();
            assert_eq!(network.contains(address.parse().unwrap()), want, "{network} {address}");
        }
        for text in ["", "10.2.0.0/33", "10.2.0.7/8", "10.2.0.0/", "10.2.0.0/+8", "a/8", "::/129"] {
            assert!(text.parse::<SourceNetwork>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_range_of_ports_goes_up_and_has_an_end() {
        for (text, count) in [("20000", 1), ("20000-20000", 1), ("20000-20255", 256)] {
            let range: PortRange = text.parse().unwrap();
            assert_eq!(range.ports().count(), count, "{text}");
            assert!(range.contains(20000) && !range.contains(20256), "{text}");
            assert_eq!(range.to_string().parse::<PortRange>().unwrap(), range);
        }
        for text in
            ["", "0", "0-5", "20000-20256", "20001-20000", "1-65536", "+1-5", "a-b", "1-2-3"]
        {
            assert!(text.parse::<PortRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_listener_is_refused_by_the_name_of_its_field() {
        for (text, want) in [
            (r#"{ "port": 20000 }"#, ""),
            (r#"{ "port": 20053, "container_port": 53, "sources": ["10.0.0.0/8"] }"#, ""),
            (r#"{ "port": "20053/udp", "container_port": 53 }"#, ""),
            (r#"{ "port": "20053/udp", "proxy_protocol": true }"#, "is for connections"),
            (r#"{ "port": 20000, "container_port": 0 }"#, "`container_port` is 1 to"),
            (r#"{ "port": 20000, "idle_seconds_max": 0 }"#, "`idle_seconds_max` is 1 to 86400"),
        ] {
            let listener: ServiceListener = serde_json::from_str(text).unwrap();
            let said = listener.check().err().map_or_else(String::new, |error| error.to_string());
            assert_eq!(said.is_empty(), want.is_empty(), "{text}: {said}");
            assert!(said.contains(want), "{text}: {said}");
        }
        for text in [r#"{ "port": 0 }"#, r#"{ "port": "20000/sctp" }"#, "{}"] {
            assert!(serde_json::from_str::<ServiceListener>(text).is_err(), "{text}");
        }
    }
}
