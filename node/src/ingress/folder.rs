use std::{
    fs,
    io::Write,
    os::unix::{fs::chown, net::UnixListener},
    path::{Path, PathBuf},
};

use disk::Survives;
use serde::{Deserialize, Serialize};
use spec::{
    Digest, NodeId, Port, TaskId, Tenant, Transport,
    wire::{RouteCertificate, RouteTable},
};

use crate::{
    error::{Error, Result},
    files,
    home::{make_private, set_mode},
    identity::IngressIdentity,
    tuning::PrivateNetwork,
};

/// The user of the ingress when `margay up` is root: above every range that distributions hand out,
/// below the workers'.
pub(super) const INGRESS_ID: u32 = 999_999_999;

/// The copy of a certificate with its key, when clients speak TLS.
pub const CERTIFICATE_FILE: &str = "tls.pem";

/// `routes.json`: the route table, and which of its nodes this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Shared {
    pub version: u32,
    pub node: NodeId,
    pub routes: RouteTable,
    /// Internal networks in which the owner of this node lets other nodes be.
    #[serde(default)]
    pub networks: Vec<PrivateNetwork>,
}

/// `certificates.json`: the certificates of hosts that this ingress serves, with their keys, and of
/// no others.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HostCertificates {
    pub version: u32,
    pub pairs: Vec<HostCertificate>,
}

/// One of them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HostCertificate {
    pub certificate: RouteCertificate,
    pub chain_pem: String,
    pub key_pem: String,
}

impl Default for HostCertificates {
    fn default() -> Self {
        Self { version: 1, pairs: Vec::new() }
    }
}

/// The folder that the agent and the ingress share.
#[derive(Debug, Clone)]
pub(crate) struct IngressFolder(PathBuf);

/// The file name of the socket by which the ingress reaches a port of a task. A digest, because
/// tenant and task together can be longer than a socket's path may be.
pub fn socket_name(tenant: &Tenant, task: &TaskId, port: Port) -> String {
    let port = match port.transport {
        Transport::Tcp => port.number.to_string(),
        Transport::Udp => port.to_string(),
    };
    let mut hex = Digest::of(format!("{tenant}/{task}/{port}").as_bytes()).hex();
    hex.truncate(32);
    format!("{hex}.sock")
}

impl IngressFolder {
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The access log of the ingress, and the one before it.
    pub fn access_logs(&self) -> [PathBuf; 2] {
        ["access.log", "access.log.1"].map(|name| self.0.join(name))
    }

    pub fn sockets(&self) -> PathBuf {
        self.0.join("sockets")
    }

    pub fn routes_file(&self) -> PathBuf {
        self.0.join("routes.json")
    }

    /// What the ingress counts. It is opened before the ingress gives up its rights.
    pub fn counts_file(&self) -> PathBuf {
        self.0.join("counts.json")
    }

    /// Which services requests wait for here. It is opened before the ingress gives up its rights.
    pub fn waiting_file(&self) -> PathBuf {
        self.0.join("waiting.json")
    }

    /// The socket by which the agent connects guests to services on other nodes.
    pub fn inside(&self) -> PathBuf {
        self.0.join("inside.sock")
    }

    /// Listens on it, in place of an ingress before this one.
    pub fn listen_inside(&self) -> Result<UnixListener> {
        let path = self.inside();
        disk::remove(&path).map_err(Error::file("remove", &path))?;
        let bind = || UnixListener::bind(disk::SocketPath::of(&path)?);
        let listener = bind().map_err(Error::file("make socket", &path))?;
        set_mode(&path, 0o600)?;
        Ok(listener)
    }

    pub fn identity_file(&self) -> PathBuf {
        self.0.join("ingress.json")
    }

    pub fn certificates_file(&self) -> PathBuf {
        self.0.join("certificates.json")
    }

    /// Writes the certificates of the hosts that the ingress serves.
    pub fn write_certificates(&self, certificates: &HostCertificates) -> Result<()> {
        let path = self.certificates_file();
        write_for_ingress(&path, &files::json(&path, certificates)?, Survives::PowerLoss)
    }

    /// Writes a certificate with its key to where the ingress may read them.
    pub fn write_certificate(&self, text: &str) -> Result<()> {
        write_for_ingress(&self.0.join(CERTIFICATE_FILE), text.as_bytes(), Survives::Crash)
    }

    /// Makes the folder, open to the ingress alone. The node's own key, which an earlier version
    /// kept here, leaves it.
    pub fn make(&self) -> Result<()> {
        make_private(&self.sockets())?;
        let of_the_node = self.0.join("identity.json");
        disk::remove(&of_the_node).map_err(Error::file("remove", &of_the_node))?;
        for folder in [self.0.clone(), self.sockets()] {
            self.give(&folder)?;
            set_mode(&folder, 0o750)?;
        }
        Ok(())
    }

    pub fn write_shared(&self, shared: &Shared) -> Result<()> {
        let path = self.routes_file();
        match files::read_json::<Shared>(&path) {
            Ok(Some(known)) if known == *shared => Ok(()),
            _ => write_for_ingress(&path, &files::json(&path, shared)?, Survives::Crash),
        }
    }

    pub fn write_identity(&self, identity: &IngressIdentity) -> Result<()> {
        let path = self.identity_file();
        write_for_ingress(&path, &files::json(&path, identity)?, Survives::PowerLoss)
    }

    /// Lets the ingress' group in. The owner stays, so the ingress changes nothing here.
    fn give(&self, path: &Path) -> Result<()> {
        match has_own_id() {
            true => chown(path, None, Some(INGRESS_ID))
                .map_err(Error::file("hand to the ingress", path)),
            false => Ok(()),
        }
    }

    /// A socket on which the ingress can reach a task's port, made anew.
    pub fn listen(&self, name: &str) -> Result<UnixListener> {
        let path = self.sockets().join(name);
        let fresh = path.with_extension("new");
        let _ = fs::remove_file(&fresh);
        let bind = || UnixListener::bind(disk::SocketPath::of(&fresh)?);
        let listener = bind().map_err(Error::file("make socket", &path))?;
        self.give(&fresh)?;
        set_mode(&fresh, 0o660)?;
        fs::rename(&fresh, &path).map_err(Error::file("make socket", &path))?;
        Ok(listener)
    }

    pub fn unlink(&self, name: &str) {
        let _ = fs::remove_file(self.sockets().join(name));
    }
}

/// Whether the ingress is another user than we.
fn has_own_id() -> bool {
    sandbox::can_become(INGRESS_ID)
}

/// Replaces a file that the ingress may read.
fn write_for_ingress(path: &Path, bytes: &[u8], survives: Survives) -> Result<()> {
    let fill = |file: &mut disk::NewFile| {
        file.write_all(bytes)?;
        if has_own_id() {
            std::os::unix::fs::fchown(file.file(), None, Some(INGRESS_ID))?;
        }
        file.set_mode(0o640)
    };
    disk::write_with(path, survives, fill).map_err(Error::file("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_two_tasks_never_share_a_name() {
        let name = |tenant: &str, task: &str, port| {
            let port: Port = format!("{port}").parse().unwrap();
            socket_name(&tenant.parse().unwrap(), &task.parse().unwrap(), port)
        };
        let datagrams = Port { number: 80, transport: Transport::Udp };
        let of_datagrams = socket_name(&"a-b".parse().unwrap(), &"c".parse().unwrap(), datagrams);
        assert_ne!(name("a-b", "c", 80), of_datagrams);
        assert_ne!(name("a-b", "c", 80), name("a", "b-c", 80));
        assert_ne!(name("a", "b", 80), name("a", "b", 8));
        assert!(name(&"a".repeat(63), &"b".repeat(63), 65535).len() < 40);
    }
}
