use std::fmt;

use super::grammar::{Line, parse_port};

/// `net.in:http/8080`: a port on which the guest may be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InboundGrant {
    /// The port as the guest knows it.
    pub port: u16,
}

impl InboundGrant {
    pub(super) fn parse(line: &mut Line<'_>) -> Result<Self, String> {
        match line.target.split_once('/') {
            Some(("http", port)) => Ok(Self { port: parse_port(port)? }),
            _ => Err("an inbound port is `net.in:http/PORT`".to_owned()),
        }
    }
}

impl fmt::Display for InboundGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net.in:http/{}", self.port)
    }
}
