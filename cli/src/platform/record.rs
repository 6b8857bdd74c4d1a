//! `up.json`: the addresses and process ids of a running `margay up`, for the other verbs and for
//! programs.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::{
    failure::{Advice, fail},
    home::{Home, write_private},
};

/// The version that is written; a newer one is refused by name.
const VERSION: u32 = 1;

/// Addresses and processes of one platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub version: u32,
    /// Of `margay up` itself.
    pub pid: u32,
    /// Whose the local volumes, repositories and services are.
    pub user: String,
    /// Where nodes reach the control plane.
    pub server: SocketAddr,
    /// The bundled registry.
    pub registry: SocketAddr,
    /// Where requests come in.
    pub ingress: SocketAddr,
    /// Where the ingresses of other nodes connect.
    pub peers: SocketAddr,
    /// Process ids by name.
    pub processes: Vec<(String, Option<u32>)>,
}

impl Record {
    /// Reads it; `None` when there never was one, or its platform ended in order.
    pub fn read(home: &Home) -> anyhow::Result<Option<Self>> {
        let path = home.up_json();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read `{}`", path.display()));
            }
        };
        let record: Self = serde_json::from_slice(&bytes)
            .with_context(|| format!("cannot read `{}`", path.display()))?;
        match record.version {
            1..=VERSION => Ok(Some(record)),
            newer => fail(
                Advice::new(format!(
                    "`{}` has version {newer}, and this margay knows {VERSION}",
                    path.display()
                ))
                .hint("update margay, or use another MARGAY_HOME"),
            ),
        }
    }

    /// Writes it whole.
    pub fn write(&self, home: &Home) -> anyhow::Result<()> {
        write_private(&home.up_json(), &serde_json::to_vec_pretty(self)?)
    }

    /// The version that is written.
    pub fn version() -> u32 {
        VERSION
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

    /// Whether `name` is this platform's registry, in any of the spellings of this machine.
    pub fn is_registry(&self, name: &str) -> bool {
        let port = self.registry.port();
        name == self.registry.to_string()
            || ["localhost", "127.0.0.1", "[::1]"]
                .iter()
                .any(|host| name == format!("{host}:{port}"))
    }

    /// The page of a host name at the ingress.
    pub fn url(&self, host: &str) -> String {
        format!("http://{host}:{}", self.ingress.port())
    }
}
