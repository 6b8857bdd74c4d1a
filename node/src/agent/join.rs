use std::{collections::BTreeMap, path::Path, time::SystemTime};

use rcgen::{CertificateParams, KeyPair};
use spec::{
    NodeId,
    wire::{self, IngressCertificate, JoinRequest, JoinResponse, JoinToken, RenewRequest},
};

use super::{
    capacity::node_spec,
    control::Control,
    settings::{NodeFolder, Settings},
};
use crate::{
    error::{Error, Result},
    home::Home,
    identity::{Identity, IngressIdentity},
    tuning::Tuning,
};

/// How a node asks to be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinOptions {
    /// Its name; the control plane decides.
    pub name: Option<NodeId>,
    /// A failure domain: services spread over zones before they spread over nodes.
    pub zone: String,
    /// Free text to select by.
    pub labels: BTreeMap<String, String>,
    /// Where other nodes' ingresses reach this one's, `host:port`.
    pub ingress_address: Option<String>,
    /// What holds for it from now on, unless a start says otherwise.
    pub tuning: Tuning,
}

impl Default for JoinOptions {
    fn default() -> Self {
        let Settings { zone, labels, ingress_address, tuning } = Settings::default();
        Self { name: None, zone, labels, ingress_address, tuning }
    }
}

/// Whether this machine is a node: it has joined a platform, and was not removed from it since.
///
/// # Errors
/// [`Error::NotJoined`] when it is none.
pub fn check_joined(home: &Home) -> Result<()> {
    let identity = NodeFolder::of(home)?.identity();
    if identity.exists() { Ok(()) } else { Err(Error::NotJoined(identity)) }
}

/// Makes this machine a node of the token's control plane, which it knows by the token's CA
/// fingerprint.
///
/// # Errors
/// When the control plane cannot be reached, is another one, or takes the token no more.
pub async fn join(home: &Home, token: &JoinToken, options: JoinOptions) -> Result<NodeId> {
    let folder = NodeFolder::of(home)?;
    let JoinOptions { name, zone, labels, ingress_address, tuning } = options;
    let settings = Settings { zone, labels, ingress_address, tuning };
    let (key, csr_pem) = certificate_request()?;
    let control = Control::new(&token.address, net::tls::pinned_client(&token.ca_fingerprint));
    let request = JoinRequest {
        version: wire::VERSION,
        secret: token.secret.clone(),
        name,
        csr_pem,
        spec: node_spec(&settings, settings.tuning.pool_native.unwrap_or(false)),
    };
    let answer: JoinResponse = control.post("/v1/node/join", &request).await?;
    let identity = identity(&token.address, answer, &key)?;
    folder.write_settings(&settings)?;
    identity.write(&folder.identity())?;
    // A desired set of another control plane says nothing about this one.
    let _ = std::fs::remove_file(folder.desired());
    Ok(identity.node)
}

/// Tells the node of this home, whose agent does not run, where its platform is now, and where its
/// own ingress. Its identity stays, and so does what it knows. The node's id; nothing when it has
/// not joined yet.
///
/// # Errors
/// When what it knows cannot be read or written.
pub fn relocate(
    home: &Home,
    control_plane: &str,
    registry: &str,
    ingress_address: &str,
) -> Result<Option<NodeId>> {
    let folder = NodeFolder::of(home)?;
    let Some(known) = Identity::read(&folder.identity())? else { return Ok(None) };
    let (control_plane, registry) = (control_plane.to_owned(), Some(registry.to_owned()));
    let moved = Identity { control_plane, registry, ..known.clone() };
    if moved != known {
        let written = age(&folder.identity()).and_then(|age| SystemTime::now().checked_sub(age));
        moved.write(&folder.identity())?;
        // The certificate is as old as it was.
        let path = folder.identity();
        let restored = written.map(|written| std::fs::File::open(&path)?.set_modified(written));
        restored.transpose().map_err(Error::file("change", &path))?;
    }
    let settings = folder.settings()?;
    if settings.ingress_address.as_deref() != Some(ingress_address) {
        folder.write_settings(&Settings {
            ingress_address: Some(ingress_address.to_owned()),
            ..settings
        })?;
    }
    Ok(Some(moved.node))
}

/// The next certificate of the node.
pub(super) async fn renew(
    folder: &NodeFolder,
    control: &Control,
    identity: &Identity,
) -> Result<Identity> {
    let (key, csr_pem) = certificate_request()?;
    let answer: JoinResponse =
        control.post("/v1/node/renew", &RenewRequest { version: wire::VERSION, csr_pem }).await?;
    let renewed = self::identity(&identity.control_plane, answer, &key)?;
    renewed.write(&folder.identity())?;
    Ok(renewed)
}

/// A certificate and a key for the ingress of the node.
pub(super) async fn certify_ingress(control: &Control, node: &NodeId) -> Result<IngressIdentity> {
    let (key, csr_pem) = certificate_request()?;
    let request = RenewRequest { version: wire::VERSION, csr_pem };
    let answer: IngressCertificate = control.post("/v1/node/ingress", &request).await?;
    wire::check_version("the certificate of the ingress", answer.version)
        .map_err(|error| Error::Identity(error.to_string()))?;
    let identity = IngressIdentity {
        version: 1,
        node: node.clone(),
        certificate_pem: answer.certificate_pem,
        key_pem: key.serialize_pem(),
        ca_pem: answer.ca_pem,
    };
    identity.client()?;
    identity.server()?;
    Ok(identity)
}

/// How long ago the identity at `path` was written, which is when its certificate was made.
pub(super) fn age(path: &Path) -> Option<std::time::Duration> {
    let written = std::fs::metadata(path).ok()?.modified().ok()?;
    SystemTime::now().duration_since(written).ok()
}

fn certificate_request() -> Result<(KeyPair, String)> {
    let broken = |error: rcgen::Error| Error::Identity(error.to_string());
    let key = KeyPair::generate().map_err(broken)?;
    let request = CertificateParams::default().serialize_request(&key).map_err(broken)?;
    Ok((key, request.pem().map_err(broken)?))
}

fn identity(address: &str, answer: JoinResponse, key: &KeyPair) -> Result<Identity> {
    wire::check_version("the answer of the control plane", answer.version).map_err(|error| {
        Error::ControlPlane { address: address.to_owned(), why: error.to_string() }
    })?;
    let identity = Identity {
        version: 1,
        node: answer.node,
        control_plane: address.to_owned(),
        registry: answer.registry,
        certificate_pem: answer.certificate_pem,
        key_pem: key.serialize_pem(),
        ca_pem: answer.ca_pem,
    };
    // Better checked now than when the first task waits for it.
    identity.client()?;
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_relocated_node_keeps_its_identity_and_the_age_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("home")).unwrap();
        let folder = NodeFolder::of(&home).unwrap();
        let relocate =
            || relocate(&home, "10.0.0.1:7700", "10.0.0.1:5000", "10.0.0.1:4000").unwrap();
        assert_eq!(relocate(), None, "no node has joined");
        let identity = Identity {
            version: 1,
            node: "local".parse().unwrap(),
            control_plane: "127.0.0.1:7700".to_owned(),
            registry: Some("127.0.0.1:5000".to_owned()),
            certificate_pem: "certificate".to_owned(),
            key_pem: "key".to_owned(),
            ca_pem: "ca".to_owned(),
        };
        identity.write(&folder.identity()).unwrap();
        let long_ago = SystemTime::now() - Duration::from_secs(3 * 24 * 3600);
        std::fs::File::open(folder.identity()).unwrap().set_modified(long_ago).unwrap();
        folder
            .write_settings(&Settings { zone: "attic".to_owned(), ..Settings::default() })
            .unwrap();

        assert_eq!(relocate(), Some(identity.node.clone()));
        let moved = Identity::read(&folder.identity()).unwrap().unwrap();
        let (control_plane, registry) =
            ("10.0.0.1:7700".to_owned(), Some("10.0.0.1:5000".to_owned()));
        assert_eq!(moved, Identity { control_plane, registry, ..identity });
        assert!(
            age(&folder.identity()).unwrap() > Duration::from_secs(2 * 24 * 3600),
            "it is still renewed in time"
        );
        let settings = folder.settings().unwrap();
        assert_eq!(
            (settings.zone.as_str(), settings.ingress_address.as_deref()),
            ("attic", Some("10.0.0.1:4000"))
        );
    }
}
