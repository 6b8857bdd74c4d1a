use std::fmt;

use super::grammar::{Line, parse_port};
use crate::transport::{Port, Transport};

/// `net.in:http/8080`, `net.in:udp/53`: a port on which the guest may be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InboundGrant {
    /// The port as the guest knows it.
    pub port: Port,
}

impl InboundGrant {
    pub(super) fn parse(line: &mut Line<'_>) -> Result<Self, String> {
        match line.target.split_once('/') {
            Some(("http", port)) => Ok(Self { port: Port::tcp(parse_port(port)?) }),
            Some(("udp", port)) => {
                Ok(Self { port: Port { number: parse_port(port)?, transport: Transport::Udp } })
            }
            _ => Err("an inbound port is `net.in:http/PORT` or `net.in:udp/PORT`".to_owned()),
        }
    }
}

impl fmt::Display for InboundGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.port.transport {
            Transport::Tcp => "http",
            Transport::Udp => "udp",
        };
        write!(f, "net.in:{protocol}/{}", self.port.number)
    }
}
