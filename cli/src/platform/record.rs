//! `up.json`: the addresses and process ids of a running `margay up`, for the other verbs and for
//! programs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::ensure;
use serde::{Deserialize, Serialize};

use crate::{
    failure::Advice,
    home::{Home, read_json, write_private},
};

/// The version that is written; a newer one is refused by name.
pub const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub version: u32,
    /// Of `margay up` itself.
    pub pid: u32,
    /// Whose the local volumes, repositories and services are.
    pub user: String,
    /// Where nodes reach the control plane.
    pub server: SocketAddr,
    pub registry: SocketAddr,
    /// Where requests come in.
    pub ingress: SocketAddr,
    /// Whether they come in over TLS.
    #[serde(default)]
    pub ingress_tls: bool,
    /// Where the ingresses of other nodes connect.
    pub peers: SocketAddr,
    /// The end of the host names of services.
    #[serde(default = "local_domain")]
    pub domain: String,
    pub processes: Vec<(String, Option<u32>)>,
}

fn local_domain() -> String {
    super::DOMAIN.to_owned()
}

impl Record {
    /// Reads it; `None` when there never was one, or its platform ended in order.
    pub fn read(home: &Home) -> anyhow::Result<Option<Self>> {
        let path = home.up_json();
        let Some(record) = read_json::<Self>(&path)? else { return Ok(None) };
        let (path, version) = (path.display(), record.version);
        ensure!(
            (1..=VERSION).contains(&version),
            Advice::new(format!("`{path}` has version {version}, and this margay knows {VERSION}"))
                .hint("update margay, or use another MARGAY_HOME")
        );
        Ok(Some(record))
    }

    pub fn write(&self, home: &Home) -> anyhow::Result<()> {
        write_private(&home.up_json(), &serde_json::to_vec_pretty(self)?)
    }

    /// The registry as images name it.
    pub fn registry_name(&self) -> String {
        // `localhost` is these two and no other loopback address.
        let localhost = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        match localhost.contains(&self.registry.ip()) {
            true => format!("localhost:{}", self.registry.port()),
            false => self.registry.to_string(),
        }
    }

    /// The page of a host name at the ingress.
    pub fn url(&self, host: &str) -> String {
        let (scheme, usual) = if self.ingress_tls { ("https", 443) } else { ("http", 80) };
        match self.ingress.port() {
            port if port == usual => format!("{scheme}://{host}"),
            port => format!("{scheme}://{host}:{port}"),
        }
    }
}

/// Whether `name` is the registry at `address`, in any of the spellings of this machine.
pub fn is_registry(address: SocketAddr, name: &str) -> bool {
    let here = ["localhost", "127.0.0.1", "[::1]"].map(|host| format!("{host}:{}", address.port()));
    name == address.to_string() || here.iter().any(|spelling| name == spelling)
}
