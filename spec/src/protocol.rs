use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::transport::Transport;

/// The protocol on a port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP: the ingress routes to it, and Wasm is called for each request.
    #[default]
    Http,
    /// HTTP/2 without TLS, as gRPC speaks it, for native images: the ingress routes to it, with
    /// trailers and streams in both directions.
    Http2,
    /// Bytes, for native images.
    Tcp,
    /// Datagrams, for native images.
    Udp,
}

impl Protocol {
    /// Whether the ingress routes to it.
    pub fn is_routed(self) -> bool {
        match self {
            Self::Http | Self::Http2 => true,
            Self::Tcp | Self::Udp => false,
        }
    }

    /// What it goes over.
    pub fn transport(self) -> Transport {
        match self {
            Self::Http | Self::Http2 | Self::Tcp => Transport::Tcp,
            Self::Udp => Transport::Udp,
        }
    }

    /// Whether it is the usual one.
    pub fn is_http(&self) -> bool {
        *self == Self::Http
    }
}
