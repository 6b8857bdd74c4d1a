use std::{path::Path, sync::Arc};

use disk::Survives;
use net::tls::{self, Clients};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use serde::{Deserialize, Serialize};
use spec::NodeId;

use crate::{
    error::{Error, Result},
    files,
};

/// What a node is given when it joins, and what proves later that it is that node. Kept at 0600.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    pub version: u32,
    pub node: NodeId,
    /// `host:port` of the control plane.
    pub control_plane: String,
    pub registry: Option<String>,
    pub certificate_pem: String,
    pub key_pem: String,
    pub ca_pem: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Identity {
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let identity: Option<Self> = files::read_json(path)?;
        if let Some(identity) = &identity {
            spec::wire::check_version("the node's identity", identity.version)
                .map_err(|source| Error::Newer { path: path.to_owned(), source })?;
        }
        Ok(identity)
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        files::write_json(path, self, Survives::PowerLoss)
    }

    /// For connections to the control plane and to other nodes.
    pub fn client(&self) -> Result<Arc<ClientConfig>> {
        tls::client(self.chain()?, self.key()?, self.roots()?).map_err(unusable)
    }

    /// For connections from other nodes alone: the CA signs client certificates for nodes only.
    pub fn server(&self) -> Result<Arc<ServerConfig>> {
        tls::server(self.chain()?, self.key()?, self.roots()?, Clients::Certified).map_err(unusable)
    }

    fn chain(&self) -> Result<Vec<CertificateDer<'static>>> {
        tls::certificates(&self.certificate_pem).map_err(unusable)
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>> {
        tls::private_key(&self.key_pem).map_err(unusable)
    }

    /// The CA of the platform, in DER.
    pub fn authorities(&self) -> Result<Vec<Vec<u8>>> {
        let authorities = tls::certificates(&self.ca_pem).map_err(unusable)?;
        Ok(authorities.into_iter().map(|authority| authority.to_vec()).collect())
    }

    fn roots(&self) -> Result<RootCertStore> {
        let authorities = tls::certificates(&self.ca_pem).map_err(unusable)?;
        tls::roots(authorities).map_err(unusable)
    }
}

fn unusable(error: impl std::error::Error) -> Error {
    Error::Identity(error.to_string())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
        KeyUsagePurpose, SanType,
    };
    use rustls::pki_types::ServerName;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    const SERVER: ExtendedKeyUsagePurpose = ExtendedKeyUsagePurpose::ServerAuth;
    const CLIENT: ExtendedKeyUsagePurpose = ExtendedKeyUsagePurpose::ClientAuth;

    /// A CA as the control plane has one.
    pub(crate) struct Ca {
        issuer: Issuer<'static, KeyPair>,
        pem: String,
        der: Vec<u8>,
    }

    impl Ca {
        pub fn new() -> Self {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            let certificate = params.self_signed(&key).unwrap();
            let (pem, der) = (certificate.pem(), certificate.der().to_vec());
            Self { issuer: Issuer::new(params, key), pem, der }
        }

        pub fn issue(&self, name: &str, usages: &[ExtendedKeyUsagePurpose]) -> Identity {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
            params.extended_key_usages = usages.to_vec();
            let certificate = params.signed_by(&key, &self.issuer).unwrap();
            Identity {
                version: 1,
                node: name.split('.').next().unwrap().parse().unwrap(),
                control_plane: "localhost:1".to_owned(),
                registry: None,
                certificate_pem: format!("{}{}", certificate.pem(), self.pem),
                key_pem: key.serialize_pem(),
                ca_pem: self.pem.clone(),
            }
        }

        pub fn node(&self, node: &str) -> Identity {
            self.issue(&format!("{node}.node.margay"), &[SERVER, CLIENT])
        }
    }

    async fn meet(
        server: Arc<ServerConfig>,
        client: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> bool {
        let (a, b) = tokio::io::duplex(16 << 10);
        let serve = async {
            let mut stream = TlsAcceptor::from(server).accept(a).await?;
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"hi").await?;
            tokio::io::AsyncWriteExt::shutdown(&mut stream).await
        };
        let dial = async {
            let mut stream = TlsConnector::from(client).connect(name, b).await?;
            let mut text = [0; 2];
            tokio::io::AsyncReadExt::read_exact(&mut stream, &mut text).await
        };
        let (served, dialled) = tokio::join!(serve, dial);
        served.is_ok() && dialled.is_ok()
    }

    #[tokio::test]
    async fn nodes_trust_each_other_by_name_alone() {
        let (ca, other_ca) = (Ca::new(), Ca::new());
        let named = |name: &str| tls::node(&name.parse().unwrap());
        let server = ca.node("b").server().unwrap();
        for (client, name, want, what) in [
            (ca.node("a"), named("b"), true, "a node and the node that it meant"),
            (ca.node("a"), named("c"), false, "a node that is not the one that was meant"),
            (other_ca.node("a"), named("b"), false, "a node of another platform"),
            (ca.issue("control.margay", &[SERVER]), named("b"), false, "a client that is no node"),
            (
                ca.node("a"),
                tls::control_plane(),
                false,
                "a node that stands in for the control plane",
            ),
        ] {
            assert_eq!(meet(server.clone(), client.client().unwrap(), name).await, want, "{what}");
        }
    }

    #[tokio::test]
    async fn a_join_trusts_the_control_plane_of_the_pinned_ca_only() {
        let (ca, other_ca) = (Ca::new(), Ca::new());
        let fingerprint = tls::fingerprint(&ca.der);
        let open = |identity: &Identity| {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(identity.chain().unwrap(), identity.key().unwrap());
            Arc::new(config.unwrap())
        };
        let mut forged = other_ca.issue("control.margay", &[SERVER]);
        forged.certificate_pem.push_str(&ca.pem);
        for (identity, want, what) in [
            (ca.issue("control.margay", &[SERVER]), true, "the control plane"),
            (ca.node("x"), false, "a node of the same CA"),
            (other_ca.issue("control.margay", &[SERVER]), false, "a control plane of another CA"),
            (forged, false, "the right CA stands in the chain, and has signed nothing in it"),
        ] {
            let client = tls::pinned_client(&fingerprint);
            let met = meet(open(&identity), client, tls::control_plane()).await;
            assert_eq!(met, want, "{what}");
        }
    }
}
