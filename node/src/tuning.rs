use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use spec::{Forbidden, Host};

use crate::error::Error;

/// What the owner of a node has said about it. What they left open is ours to choose.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tuning {
    /// Internal addresses that grants with `;private` may reach: the second of the two keys.
    /// Without any, none.
    pub private_networks: Vec<PrivateNetwork>,
    /// A container of the shared pool without a request for so long has no worker until the next
    /// one.
    pub idle_after: Option<Duration>,
    /// Workers that wait for a task. Settings of an earlier version call them `blank_workers`.
    #[serde(alias = "blank_workers")]
    pub spare_workers: Option<u32>,
    /// Whether Linux programs of every tenant run here, where it is a node of the pool. They share
    /// a kernel with everything else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_native: Option<bool>,
}

impl Tuning {
    /// Short enough that a pool is not full of services without requests, longer than a user reads
    /// a page.
    pub const IDLE_AFTER: Duration = Duration::from_secs(60);
    /// One for a request, and one for the next while the first is made up for.
    pub const SPARE_WORKERS: u32 = 2;

    /// This, and where it leaves something open, what `other` says.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            private_networks: match self.private_networks.is_empty() {
                true => other.private_networks,
                false => self.private_networks,
            },
            idle_after: self.idle_after.or(other.idle_after),
            spare_workers: self.spare_workers.or(other.spare_workers),
            pool_native: self.pool_native.or(other.pool_native),
        }
    }
}

/// Addresses inside that a node's owner opens, as in `10.2.0.0/16`; an address alone is a network
/// of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PrivateNetwork {
    address: IpAddr,
    bits: u8,
}

impl PrivateNetwork {
    /// The networks of the kind that a node's own ingress is in, at `address:port`: its owner has
    /// put it there for other nodes, which are there as well. None around a public address.
    pub(crate) fn around(ingress_address: Option<&str>) -> Vec<Self> {
        let address = ingress_address.and_then(|text| text.parse::<SocketAddr>().ok());
        let networks: &[&str] = match address.and_then(|address| spec::forbidden(address.ip())) {
            Some(Forbidden::Loopback) => &["127.0.0.0/8", "::1"],
            Some(Forbidden::Private) => {
                &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"]
            }
            Some(Forbidden::LinkLocal | Forbidden::NotAHost) | None => &[],
        };
        networks.iter().map(|text| text.parse().expect("it is one")).collect()
    }

    /// In the words of grants.
    pub fn host(self) -> Host {
        Host::Network(self.address, self.bits)
    }
}

impl fmt::Display for PrivateNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl FromStr for PrivateNetwork {
    type Err = Error;

    /// Bits beyond the prefix are refused: `10.2.0.7/8` opens far more than its author meant.
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::BadArgument {
            text: text.chars().take(100).collect(),
            what: "a network: ADDRESS/BITS as in 10.2.0.0/16 or fd00::/8, \
                   without bits beyond the prefix, or one address",
        };
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits: u8 = match bits {
            None => width,
            Some(bits) if bits.bytes().all(|b| b.is_ascii_digit()) => {
                bits.parse().map_err(|_| wrong())?
            }
            Some(_) => return Err(wrong()),
        };
        let number = match address {
            IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
            IpAddr::V6(v6) => v6.to_bits(),
        };
        match bits <= width && number.checked_shl(bits.into()).is_none_or(|beyond| beyond == 0) {
            true => Ok(Self { address, bits }),
            false => Err(wrong()),
        }
    }
}

impl TryFrom<String> for PrivateNetwork {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<PrivateNetwork> for String {
    fn from(network: PrivateNetwork) -> Self {
        network.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_network_is_what_it_says_or_refused() {
        for (text, want) in [
            ("10.2.0.0/16", "10.2.0.0/16"),
            ("10.2.0.7", "10.2.0.7/32"),
            ("127.0.0.1/32", "127.0.0.1/32"),
            ("fd00::/8", "fd00::/8"),
            ("::1", "::1/128"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("10.2.0.7/8", ""),
            ("fd00::1/8", ""),
            ("10.0.0.0/33", ""),
            ("::/129", ""),
            ("10.0.0.0/+8", ""),
            ("10.0.0.0/", ""),
            ("10.0.0/8", ""),
            ("localhost", ""),
            ("", ""),
        ] {
            let got = text.parse::<PrivateNetwork>();
            match &got {
                Ok(network) => assert_eq!(network.to_string(), want, "{text}"),
                Err(error) => {
                    assert!(want.is_empty() && error.to_string().contains(text), "{text}: {error}")
                }
            }
        }
    }

    #[test]
    fn other_nodes_are_in_networks_of_the_kind_of_this_one() {
        for (ours, theirs, want) in [
            (Some("127.0.0.1:4000"), "127.0.0.1", true),
            (Some("127.0.0.1:4000"), "10.0.0.7", false),
            (Some("10.0.0.5:4000"), "10.9.0.7", true),
            (Some("10.0.0.5:4000"), "192.168.1.1", true),
            (Some("[fd00::5]:4000"), "fd00::7", true),
            (Some("10.0.0.5:4000"), "127.0.0.1", false),
            (Some("10.0.0.5:4000"), "169.254.169.254", false),
            (Some("169.254.0.5:4000"), "169.254.169.254", false),
            (Some("198.18.0.1:4000"), "10.0.0.7", false),
            (Some("8.8.8.8:4000"), "10.0.0.7", false),
            (Some("here:4000"), "127.0.0.1", false),
            (None, "127.0.0.1", false),
        ] {
            let opened = PrivateNetwork::around(ours).into_iter().map(PrivateNetwork::host);
            let rules = runtime::AddressRules::new(opened);
            let got = rules.refusal(theirs.parse().unwrap(), true).is_none();
            assert_eq!(got, want, "{theirs} from {ours:?}");
        }
    }

    #[test]
    fn what_was_said_now_goes_before_what_was_said_when_the_node_joined() {
        let network: PrivateNetwork = "10.2.0.0/16".parse().unwrap();
        let joined = Tuning {
            private_networks: vec![network],
            idle_after: Some(Duration::from_secs(5)),
            spare_workers: None,
            pool_native: Some(true),
        };
        let now = Tuning {
            spare_workers: Some(0),
            pool_native: None,
            idle_after: Some(Duration::from_secs(9)),
            ..Tuning::default()
        };
        let both = now.or(joined.clone());
        assert_eq!(
            (both.private_networks, both.idle_after),
            (vec![network], Some(Duration::from_secs(9)))
        );
        assert_eq!(both.spare_workers, Some(0));
        assert_eq!(both.pool_native, Some(true));
        let text = serde_json::to_string(&joined).unwrap();
        assert!(text.contains("\"10.2.0.0/16\""), "{text}");
        assert_eq!(serde_json::from_str::<Tuning>(&text).unwrap(), joined);
        assert_eq!(serde_json::from_str::<Tuning>("{}").unwrap(), Tuning::default());
    }
}
