//! Connections of programs that speak for themselves, as those of Linux images.

use std::os::fd::OwnedFd;

use spec::OutboundGrant;

use super::{Broker, decide, local};
use crate::{
    denied,
    frame::{Refusal, SchemeName, Target},
};

impl Broker {
    /// The ports of the others of its task that a container reaches.
    pub fn local_ports(&self) -> Vec<u16> {
        self.local.numbers()
    }

    /// A connection to a host and port that some grant names, over which the program speaks what
    /// it likes.
    ///
    /// # Errors
    /// What the log of the container should say.
    pub async fn connect_native(
        &self,
        grants: &[OutboundGrant],
        host: &str,
        port: u16,
    ) -> Result<OwnedFd, String> {
        let target = |scheme| Target { scheme, host: host.to_owned(), port };
        let schemes = [SchemeName::Http, SchemeName::Https].map(target);
        let granted = schemes.iter().find(|target| decide(grants, target).is_ok());
        let target = granted.unwrap_or(&schemes[0]);
        if let Some(path) = self.local.path(target) {
            // Without a line: they are one task.
            return local::connect(path, target).await.map_err(|refusal| said(&refusal, target));
        }
        self.connect(grants, target).await.map_err(|refusal| said(&refusal, target))
    }
}

fn said(refusal: &Refusal, Target { host, port, .. }: &Target) -> String {
    match refusal {
        Refusal::Denied { line } => denied::line(line, 1),
        Refusal::Forbidden { line, why, granted } => denied::address(line, 1, why, *granted),
        Refusal::NoSuchName => format!("margay: no host has the name `{host}`"),
        Refusal::Unreachable { why } => {
            format!("margay: no connection to `{host}` on port {port}: {why}")
        }
        Refusal::Busy | Refusal::NoBroker => {
            format!("margay: no connection to `{host}` on port {port}: too many at one time")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::outbound::tests::grants, *};

    #[tokio::test]
    async fn ports_of_the_same_task_are_reached_at_the_loopback_address_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache.sock");
        let _listener = tokio::net::UnixListener::bind(&path).unwrap();
        let ports = [(6379, path), (6380, folder.path().join("absent.sock"))];
        let broker = Broker::default().with_local_ports(ports.into_iter().collect());
        assert_eq!(broker.local_ports(), [6379, 6380]);
        for (host, port, want) in [
            ("127.0.0.1", 6379, ""),
            ("::1", 6379, ""),
            ("127.0.0.1", 6380, "port 6380 is not up"),
            ("127.0.0.1", 6381, "denied net.out:http://127.0.0.1:6381"),
            ("10.0.0.1", 6379, "denied net.out:http://10.0.0.1:6379"),
            ("example.com", 6379, "denied"),
        ] {
            let got = broker.connect_native(&[], host, port).await;
            let said = got.map_or_else(|why| why, |_| String::new());
            assert!(said.contains(want) && said.is_empty() == want.is_empty(), "{host}: {said}");
        }
    }

    #[tokio::test]
    async fn a_program_is_connected_by_any_scheme_and_told_what_is_missing() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let loopback = grants(&["net.out:http://127.0.0.0/8"]).remove(0).host;
        for scheme in ["http", "https"] {
            let held = grants(&[&format!("net.out:{scheme}://127.0.0.1:{port};private")]);
            let opened = Broker::new([loopback.clone()]);
            assert!(opened.connect_native(&held, "127.0.0.1", port).await.is_ok(), "{scheme}");
            let why = Broker::default().connect_native(&held, "127.0.0.1", port).await;
            assert!(why.unwrap_err().contains("the network is not opened"), "{scheme}");
            let why = opened.connect_native(&held, "127.0.0.2", port).await.unwrap_err();
            let line = format!("net.out:http://127.0.0.2:{port}");
            assert_eq!(why, format!("margay: denied {line} (1x); grant it: --allow {line}"));
        }
    }
}
