use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::home::{Home, write_private};

/// `run/ports.json`: where this home listened last. "Any free port" is that one again, where it is
/// still free, because names of images hold the registry's, and nodes know the control plane's.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Ports {
    pub address: Option<IpAddr>,
    pub server: u16,
    pub registry: u16,
    pub ingress: u16,
    pub peers: u16,
}

impl Ports {
    pub fn last(home: &Home) -> Self {
        let bytes = std::fs::read(home.path().join("run/ports.json")).ok();
        bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    pub fn keep(&self, home: &Home) -> anyhow::Result<()> {
        write_private(&home.folder("run")?.join("ports.json"), &serde_json::to_vec(self)?)
    }
}

/// The flags that pass an inherited socket to a process.
pub const LISTEN_FD: &str = "--listen-fd";
pub const PEERS_FD: &str = "--peers-fd";
