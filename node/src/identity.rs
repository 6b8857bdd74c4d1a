use std::{path::Path, sync::Arc};

use disk::Survives;
use net::tls::{self, Clients};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
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

    /// For connections to the control plane.
    pub fn client(&self) -> Result<Arc<ClientConfig>> {
        let Self { certificate_pem, key_pem, ca_pem, .. } = self;
        client(certificate_pem, key_pem, ca_pem)
    }

    /// The CA of the platform, in DER.
    pub fn authorities(&self) -> Result<Vec<Vec<u8>>> {
        let authorities = tls::certificates(&self.ca_pem).map_err(unusable)?;
        Ok(authorities.into_iter().map(|authority| authority.to_vec()).collect())
    }

    /// Whether its certificate is one of an earlier version, which the ingress of this node held
    /// together with the key: its DNS name says so.
    pub fn was_the_ingress(&self) -> bool {
        let name = ServerName::try_from(format!("{}.node.margay", self.node));
        let chain = tls::certificates(&self.certificate_pem).unwrap_or_default();
        let leaf = chain.first().zip(name.ok());
        leaf.is_some_and(|(certificate, name)| tls::names(certificate, &name))
    }
}

/// What proves to the ingresses of other nodes which node's ingress this is, and nothing to the
/// control plane: all that the ingress has besides its routes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IngressIdentity {
    pub version: u32,
    pub node: NodeId,
    pub certificate_pem: String,
    pub key_pem: String,
    pub ca_pem: String,
}

impl std::fmt::Debug for IngressIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IngressIdentity").field("node", &self.node).finish_non_exhaustive()
    }
}

impl IngressIdentity {
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let identity: Option<Self> = files::read_json(path)?;
        if let Some(identity) = &identity {
            spec::wire::check_version("the ingress's identity", identity.version)
                .map_err(|source| Error::Newer { path: path.to_owned(), source })?;
        }
        Ok(identity)
    }

    /// For connections to the ingresses of other nodes.
    pub fn client(&self) -> Result<Arc<ClientConfig>> {
        let Self { certificate_pem, key_pem, ca_pem, .. } = self;
        client(certificate_pem, key_pem, ca_pem)
    }

    /// For connections from them.
    pub fn server(&self) -> Result<Arc<ServerConfig>> {
        let (chain, key) = (chain(&self.certificate_pem)?, key(&self.key_pem)?);
        tls::server(chain, key, roots(&self.ca_pem)?, Clients::Certified).map_err(unusable)
    }
}

fn client(certificate_pem: &str, key_pem: &str, ca_pem: &str) -> Result<Arc<ClientConfig>> {
    tls::client(chain(certificate_pem)?, key(key_pem)?, roots(ca_pem)?).map_err(unusable)
}

fn chain(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    tls::certificates(pem).map_err(unusable)
}

fn key(pem: &str) -> Result<PrivateKeyDer<'static>> {
    tls::private_key(pem).map_err(unusable)
}

fn roots(ca_pem: &str) -> Result<RootCertStore> {
    tls::roots(tls::certificates(ca_pem).map_err(unusable)?).map_err(unusable)
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

        pub fn issue(&self, name: &str, usages: &[ExtendedKeyUsagePurpose]) -> IngressIdentity {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
            params.extended_key_usages = usages.to_vec();
            let certificate = params.signed_by(&key, &self.issuer).unwrap();
            IngressIdentity {
                version: 1,
                node: name.split('.').next().unwrap().parse().unwrap(),
                certificate_pem: format!("{}{}", certificate.pem(), self.pem),
                key_pem: key.serialize_pem(),
                ca_pem: self.pem.clone(),
            }
        }

        pub fn ingress(&self, node: &str) -> IngressIdentity {
            self.issue(&format!("{node}.ingress.margay"), &[SERVER, CLIENT])
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
    async fn ingresses_trust_each_other_by_name_alone() {
        let (ca, other_ca) = (Ca::new(), Ca::new());
        let named = |name: &str| tls::ingress(&name.parse().unwrap());
        let server = ca.ingress("b").server().unwrap();
        for (client, name, want, what) in [
            (ca.ingress("a"), named("b"), true, "an ingress and the one that it meant"),
            (ca.ingress("a"), named("c"), false, "an ingress that is not the one that was meant"),
            (other_ca.ingress("a"), named("b"), false, "an ingress of another platform"),
            (
                ca.issue("control.margay", &[SERVER]),
                named("b"),
                false,
                "a client that is no ingress",
            ),
            (
                ca.ingress("a"),
                tls::control_plane(),
                false,
                "an ingress that stands in for the control plane",
            ),
        ] {
            assert_eq!(meet(server.clone(), client.client().unwrap(), name).await, want, "{what}");
        }
    }

    #[test]
    fn a_certificate_that_the_ingress_once_held_is_known() {
        let ca = Ca::new();
        for (name, want) in [("a.node.margay", true), ("a.ingress.margay", false)] {
            let issued = ca.issue(name, &[SERVER, CLIENT]);
            let identity = Identity {
                version: 1,
                node: issued.node,
                control_plane: "localhost:1".to_owned(),
                registry: None,
                certificate_pem: issued.certificate_pem,
                key_pem: issued.key_pem,
                ca_pem: issued.ca_pem,
            };
            assert_eq!(identity.was_the_ingress(), want, "{name}");
        }
    }

    #[tokio::test]
    async fn a_join_trusts_the_control_plane_of_the_pinned_ca_only() {
        let (ca, other_ca) = (Ca::new(), Ca::new());
        let fingerprint = tls::fingerprint(&ca.der);
        let open = |identity: &IngressIdentity| {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(
                    chain(&identity.certificate_pem).unwrap(),
                    key(&identity.key_pem).unwrap(),
                );
            Arc::new(config.unwrap())
        };
        let mut forged = other_ca.issue("control.margay", &[SERVER]);
        forged.certificate_pem.push_str(&ca.pem);
        for (identity, want, what) in [
            (ca.issue("control.margay", &[SERVER]), true, "the control plane"),
            (ca.ingress("x"), false, "an ingress of the same CA"),
            (other_ca.issue("control.margay", &[SERVER]), false, "a control plane of another CA"),
            (forged, false, "the right CA stands in the chain, and has signed nothing in it"),
        ] {
            let client = tls::pinned_client(&fingerprint);
            let met = meet(open(&identity), client, tls::control_plane()).await;
            assert_eq!(met, want, "{what}");
        }
    }
}
