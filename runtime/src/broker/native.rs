//! Connections of programs that speak for themselves, as those of Linux images.

use std::os::fd::OwnedFd;

use spec::OutboundGrant;

use super::{Broker, decide};
use crate::{
    denied,
    frame::{Refusal, SchemeName, Target},
};

impl Broker {
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
