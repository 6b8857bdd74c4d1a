//! The broker: it runs in the supervisor, resolves names, checks the grant, connects, and hands the connected socket
//! over. A worker has no network of its own, so what the broker does not connect stays unconnected.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use spec::{Capability, Host, Scheme, forbidden};
use tokio::{net::TcpStream, sync::Semaphore, time::timeout};

use crate::frame::{Refusal, Target};

/// Long enough for a slow resolver, short enough for a guest that waits.
const RESOLVE_TIME_MAX: Duration = Duration::from_secs(5);
/// What browsers and curl are patient for, halved: a guest's request has 30 s in all.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// More answers than this to one name are a trick.
const ADDRESSES_MAX: usize = 16;
/// Connections being made at once, for all workers of an agent: each holds a descriptor of the agent.
const CONNECTING_MAX: usize = 256;

/// Connects guests to what they were granted. Cheap to clone; one per agent.
#[derive(Debug, Clone)]
pub struct Broker {
    private: Arc<[Host]>,
    connecting: Arc<Semaphore>,
}

impl Broker {
    /// A broker on a node that opens `private` (addresses and networks) to grants that say `;private`: the second of
    /// the two keys. With nothing in it, loopback, link-local and internal addresses are out of reach whatever a
    /// grant says.
    pub fn new(private: impl IntoIterator<Item = Host>) -> Self {
        Self { private: private.into_iter().collect(), connecting: Arc::new(Semaphore::new(CONNECTING_MAX)) }
    }

    pub(crate) async fn connect(&self, grants: &[Capability], target: &Target) -> Result<OwnedFd, Refusal> {
        let Ok(_permit) = self.connecting.try_acquire() else { return Err(Refusal::Busy) };
        let allowed = decide(grants, target)?;
        let addresses = resolve(target).await?;
        let open = self.reachable(&addresses, allowed, target)?;
        dial(&open).await
    }

    /// The addresses that are not off limits. Resolved once: what was checked is what is dialled.
    fn reachable(
        &self,
        addresses: &[SocketAddr],
        allowed: Allowed,
        target: &Target,
    ) -> Result<Vec<SocketAddr>, Refusal> {
        let mut why = None;
        let open: Vec<SocketAddr> = addresses
            .iter()
            .copied()
            .filter(|address| match forbidden(address.ip()) {
                None => true,
                Some(_) if allowed.private && self.opens(address.ip()) => true,
                Some(reason) => {
                    why = Some(format!("{} is {reason}", address.ip()));
                    false
                }
            })
            .collect();
        match (open.is_empty(), why) {
            (true, Some(why)) => Err(Refusal::Forbidden { line: format!("{};private", line_for(target)), why }),
            (true, None) => Err(Refusal::NoSuchName),
            (false, _) => Ok(open),
        }
    }

    fn opens(&self, address: IpAddr) -> bool {
        let plain = Host::Address(unmapped(address));
        self.private.iter().any(|host| host.includes(&plain))
    }
}

impl Default for Broker {
    fn default() -> Self {
        Self::new([])
    }
}

fn unmapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// A connection that a grant allows, before anything is resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowed {
    pub private: bool,
}

/// Whether some grant allows `target`. Pure: names, not addresses.
pub(crate) fn decide(grants: &[Capability], target: &Target) -> Result<Allowed, Refusal> {
    let scheme = Scheme::from(target.scheme);
    let Some(host) = host(&target.host) else { return Err(Refusal::NoSuchName) };
    let matching = grants.iter().filter_map(|grant| match grant {
        Capability::NetOut { scheme: s, host: h, port, private }
            if *s == scheme && *port == target.port && h.includes(&host) =>
        {
            Some(*private)
        }
        _ => None,
    });
    match matching.reduce(|one, other| one || other) {
        Some(private) => Ok(Allowed { private }),
        None => Err(Refusal::Denied { line: line_for(target) }),
    }
}

/// The line that would grant `target`.
pub(crate) fn line_for(target: &Target) -> String {
    let scheme = Scheme::from(target.scheme).name();
    let host = match target.host.parse::<std::net::Ipv6Addr>() {
        Ok(v6) => format!("[{v6}]"),
        Err(_) => target.host.clone(),
    };
    format!("net.out:{scheme}://{host}:{}", target.port)
}

/// A host as a guest writes it, read with the grammar of the grants; anything else is no host.
fn host(text: &str) -> Option<Host> {
    let bracketed = if text.contains(':') { format!("[{text}]") } else { text.to_owned() };
    let line = format!("net.out:http://{bracketed}:80").parse::<Capability>().ok()?;
    match line {
        Capability::NetOut { host: host @ (Host::Name(_) | Host::Address(_)), .. } => Some(host),
        _ => None,
    }
}

async fn resolve(target: &Target) -> Result<Vec<SocketAddr>, Refusal> {
    if let Ok(address) = target.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, target.port)]);
    }
    let looked_up = timeout(RESOLVE_TIME_MAX, tokio::net::lookup_host((target.host.as_str(), target.port))).await;
    match looked_up {
        Ok(Ok(found)) => Ok(found.take(ADDRESSES_MAX).collect()),
        Ok(Err(_)) => Err(Refusal::NoSuchName),
        Err(_) => Err(Refusal::Unreachable { why: format!("`{}` did not resolve in 5 s", target.host) }),
    }
}

async fn dial(addresses: &[SocketAddr]) -> Result<OwnedFd, Refusal> {
    let mut why = String::new();
    for address in addresses {
        match timeout(CONNECT_TIME_MAX, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                match stream.into_std() {
                    Ok(stream) => return Ok(stream.into()),
                    Err(error) => why = error.to_string(),
                }
            }
            Ok(Err(error)) => why = error.to_string(),
            Err(_) => why = "no answer in 10 s".to_owned(),
        }
    }
    Err(Refusal::Unreachable { why })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::SchemeName;

    fn target(host: &str, port: u16) -> Target {
        Target { scheme: SchemeName::Http, host: host.to_owned(), port }
    }

    fn grants(lines: &[&str]) -> Vec<Capability> {
        lines.iter().map(|line| line.parse().unwrap()).collect()
    }

    #[test]
    fn what_no_line_grants_is_denied_with_the_line_that_would() {
        let held = grants(&["net.out:http://api.example.com:80", "net.out:https://api.example.com:443"]);
        assert_eq!(decide(&held, &target("api.example.com", 80)), Ok(Allowed { private: false }));
        for (host, port, line) in [
            ("api.example.com", 443, "net.out:http://api.example.com:443"),
            ("example.com", 80, "net.out:http://example.com:80"),
            ("10.0.0.1", 80, "net.out:http://10.0.0.1:80"),
            ("::1", 80, "net.out:http://[::1]:80"),
        ] {
            let denied = decide(&held, &target(host, port));
            assert_eq!(denied, Err(Refusal::Denied { line: line.to_owned() }), "{host}:{port}");
            line.parse::<Capability>().expect("the line that is offered parses");
        }
    }

    #[test]
    fn a_host_that_is_neither_name_nor_address_is_no_host() {
        let held = grants(&["net.out:http://*.example.com:80"]);
        for host in ["127.1", "0x7f.1", "2130706433", "a@b.example.com", "*.example.com", "", "a b", "127.0.0.1:80"] {
            assert!(decide(&held, &target(host, 80)).is_err(), "{host}");
        }
    }

    #[tokio::test]
    async fn an_internal_address_takes_two_keys() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let one_key = format!("net.out:http://127.0.0.1:{port}");
        let loopback = || {
            "net.out:http://127.0.0.0/8".parse::<Capability>().map(|c| match c {
                Capability::NetOut { host, .. } => host,
                _ => unreachable!("it is a way out"),
            })
        };
        for (grant, key, reached) in [
            (one_key.clone(), false, false),
            (one_key.clone(), true, false),
            (format!("{one_key};private"), false, false),
            (format!("{one_key};private"), true, true),
        ] {
            let broker = Broker::new(key.then(|| loopback().unwrap()));
            let got = broker.connect(&grants(&[&grant]), &target("127.0.0.1", port)).await;
            assert_eq!(got.is_ok(), reached, "{grant} on a node that opens loopback: {key}: {got:?}");
        }
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_the_machine_itself_is_refused_after_resolution() {
        let held = grants(&["net.out:http://localhost:80"]);
        let got = Broker::default().connect(&held, &target("localhost", 80)).await;
        assert!(matches!(got, Err(Refusal::Forbidden { .. })), "{got:?}");
    }
}
