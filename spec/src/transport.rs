use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::ToSchema;

use crate::text::ParseError;

/// What carries the bytes of a port.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Connections.
    #[default]
    Tcp,
    /// Datagrams.
    Udp,
}

impl Transport {
    /// Whether it is the one that is meant where none is named.
    pub fn is_tcp(&self) -> bool {
        *self == Self::Tcp
    }

    /// As addresses and images write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A port of a container, as images and Docker write it: `80`, `80/tcp`, `53/udp`. In documents the
/// first kind is a number, as it was when there was no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// Never 0.
    pub number: u16,
    /// What it takes.
    pub transport: Transport,
}

impl Port {
    /// One for connections.
    pub fn tcp(number: u16) -> Self {
        Self { number, transport: Transport::Tcp }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.transport.word())
    }
}

impl FromStr for Port {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::about(text, "is not a port like 80, 80/tcp or 53/udp");
        let (number, transport) = match text.split_once('/') {
            None | Some((_, "tcp")) => (text.strip_suffix("/tcp").unwrap_or(text), Transport::Tcp),
            Some((number, "udp")) => (number, Transport::Udp),
            Some(_) => return Err(wrong()),
        };
        let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
        match number.parse() {
            Ok(number @ 1..) if is_number => Ok(Self { number, transport }),
            _ => Err(wrong()),
        }
    }
}

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.transport {
            Transport::Tcp => serializer.serialize_u16(self.number),
            Transport::Udp => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u16),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(0) => Err(de::Error::custom("0 is not a port like 80 or 53/udp")),
            Written::Number(number) => Ok(Self::tcp(number)),
            Written::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_read_as_images_write_it_and_kept_as_it_was() {
        for (text, shown, kept) in
            [("80", "80/tcp", "80"), ("80/tcp", "80/tcp", "80"), ("53/udp", "53/udp", "\"53/udp\"")]
        {
            let port: Port = text.parse().unwrap();
            assert_eq!(port.to_string(), shown);
            assert_eq!(serde_json::to_string(&port).unwrap(), kept);
            assert_eq!(serde_json::from_str::<Port>(kept).unwrap(), port);
        }
        for text in ["", "0", "65536", "+80", "80/sctp", "80/tcp/tcp", "/udp", "80/"] {
            let error = text.parse::<Port>().expect_err(text).to_string();
            assert!(error.contains("53/udp"), "{error}");
        }
        for kept in ["0", "\"0\"", "65536"] {
            serde_json::from_str::<Port>(kept).expect_err(kept);
        }
    }
}
