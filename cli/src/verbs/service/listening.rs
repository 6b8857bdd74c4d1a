//! Ports of a service that speaks no HTTP, as flags.

use std::{str::FromStr, time::Duration};

use spec::{Port, ServiceListener, SourceNetwork, Transport};

/// Ports of the ingresses whose connections go to a service as they come.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ListenerFlags {
    /// Pass connections to this port of the ingresses, or datagrams with /udp, on to the port of
    /// the container, or to its first one with protocol = "tcp" or "udp"; repeat it for more
    #[arg(long, value_name = "PORT[:CONTAINER_PORT][/udp]")]
    listener: Vec<Listener>,
    /// Of these ports take connections from this network alone; repeat it for more
    #[arg(long, value_name = "ADDRESS/BITS", requires = "listener")]
    listener_source: Vec<SourceNetwork>,
    /// Begin each connection with a header of the PROXY protocol, version 2, which names its client
    #[arg(long, requires = "listener")]
    listener_proxy_protocol: bool,
    /// End connections in which nothing has moved for so long [default: 350s, and 120s for clients
    /// of datagrams]
    #[arg(long, value_name = "DURATION", value_parser = spec::parse_duration,
        requires = "listener")]
    listener_idle: Option<Duration>,
}

/// A port of the ingresses, and of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Listener {
    port: Port,
    container_port: Option<u16>,
}

impl FromStr for Listener {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            let rule = "use a port, as in 20000, or with the container's 20000:6379; 20053:53/udp \
                        is for datagrams";
            format!("`{text}` is no listener: {rule}")
        };
        let (ports, word) = text.split_once('/').unwrap_or((text, Transport::Tcp.word()));
        let port = |number: &str| format!("{number}/{word}").parse::<Port>().map_err(|_| wrong());
        let (own, container_port) = match ports.split_once(':') {
            Some((own, container_port)) => (own, Some(port(container_port)?.number)),
            None => (ports, None),
        };
        Ok(Self { port: port(own)?, container_port })
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
            port: asked.port,
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
            ("20000", Some(("20000/tcp", None))),
            ("20000:6379", Some(("20000/tcp", Some(6379)))),
            ("20000:6379/tcp", Some(("20000/tcp", Some(6379)))),
            ("20000/tcp", Some(("20000/tcp", None))),
            ("20053/udp", Some(("20053/udp", None))),
            ("20053:53/udp", Some(("20053/udp", Some(53)))),
            ("20053/udp:53", None),
            ("20000/sctp", None),
            ("20000/", None),
            ("+1", None),
            ("0", None),
            ("20000:", None),
            ("20000:0", None),
            (":6379", None),
            ("a", None),
        ] {
            let parsed = text.parse::<Listener>().ok();
            let parsed = parsed.map(|one| (one.port.to_string(), one.container_port));
            let want = want.map(|(port, container_port)| (port.to_owned(), container_port));
            assert_eq!(parsed, want, "{text}");
        }
    }
}
