//! Ports of a service that speaks no HTTP, as flags.

use std::{str::FromStr, time::Duration};

use spec::{Port, ServiceListener, SourceNetwork, Transport};

/// Ports of the ingresses whose connections go to a service as they come.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ListenerFlags {
    /// Pass connections to this port of the ingresses on to the port of the container, or to its
    /// first one with protocol = "tcp"; repeat it for more
    #[arg(long, value_name = "PORT[:CONTAINER_PORT]")]
    listener: Vec<Listener>,
    /// Of these ports take connections from this network alone; repeat it for more
    #[arg(long, value_name = "ADDRESS/BITS", requires = "listener")]
    listener_source: Vec<SourceNetwork>,
    /// Begin each connection with a header of the PROXY protocol, version 2, which names its client
    #[arg(long, requires = "listener")]
    listener_proxy_protocol: bool,
    /// End connections in which nothing has moved for so long [default: 350s]
    #[arg(long, value_name = "DURATION", value_parser = spec::parse_duration,
        requires = "listener")]
    listener_idle: Option<Duration>,
}

/// A port of the ingresses, and of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Listener {
    port: u16,
    container_port: Option<u16>,
}

impl FromStr for Listener {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (port, container_port) = match text.split_once(':') {
            Some((port, container_port)) => (port, Some(container_port)),
            None => (text, None),
        };
        let number = |text: &str| {
            let port: Port =
                text.parse().ok().filter(|port: &Port| port.transport == Transport::Tcp)?;
            Some(port.number)
        };
        let wrong = || {
            let rule = "use a port, as in 20000, or with the container's 20000:6379";
            format!("`{text}` is no listener: {rule}")
        };
        let port = number(port).ok_or_else(wrong)?;
        let container_port = container_port.map(|text| number(text).ok_or_else(wrong));
        Ok(Self { port, container_port: container_port.transpose()? })
    }
}

impl ListenerFlags {
    pub fn is_given(&self) -> bool {
        !self.listener.is_empty()
    }

    /// The listeners that were asked for, or those before.
    pub fn applied_to(&self, before: Vec<ServiceListener>) -> Vec<ServiceListener> {
        if self.listener.is_empty() {
            return before;
        }
        let seconds = |idle: Duration| u32::try_from(idle.as_secs()).unwrap_or(u32::MAX);
        let listener = |asked: &Listener| ServiceListener {
            port: Port::tcp(asked.port),
            container_port: asked.container_port,
            proxy_protocol: self.listener_proxy_protocol,
            sources: self.listener_source.clone(),
            idle_seconds_max: self.listener_idle.map(seconds),
        };
        self.listener.iter().map(listener).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_a_port_and_perhaps_that_of_the_container() {
        for (text, want) in [
            ("20000", Some((20000, None))),
            ("20000:6379", Some((20000, Some(6379)))),
            ("20000/tcp", Some((20000, None))),
            ("20000/udp", None),
            ("0", None),
            ("20000:", None),
            ("20000:0", None),
            (":6379", None),
            ("a", None),
        ] {
            let parsed = text.parse::<Listener>().ok();
            assert_eq!(parsed.map(|one| (one.port, one.container_port)), want, "{text}");
        }
    }
}
