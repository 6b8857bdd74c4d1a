//! Who speaks: certificates of one private CA, which names nodes and the control plane and nobody
//! else.
//!
//! An address is where somebody is said to be, a certificate is who answers: so names are
//! `control.margay` and `NODE.node.margay` whatever the address, and the CA says which platform it
//! is.

use std::{path::Path, sync::Arc};

use disk::Survives;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::{ParsedCertificate, WebPkiClientVerifier},
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

/// The name of every control plane.
pub(crate) fn control_plane() -> ServerName<'static> {
    ServerName::try_from("control.margay").expect("it is a DNS name")
}

/// The name of one node.
pub(crate) fn node(node: &NodeId) -> Result<ServerName<'static>> {
    ServerName::try_from(format!("{node}.node.margay"))
        .map_err(|error| Error::Identity(error.to_string()))
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
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(broken)?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(self.chain()?, self.key()?)
            .map_err(broken)?;
        Ok(Arc::new(config))
    }

    /// For connections from other nodes, and from nobody else: the CA signs client certificates for
    /// nodes only.
    pub fn server(&self) -> Result<Arc<ServerConfig>> {
        let nodes =
            WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()?), provider())
                .build()
                .map_err(|error| Error::Identity(error.to_string()))?;
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(broken)?
            .with_client_cert_verifier(nodes)
            .with_single_cert(self.chain()?, self.key()?)
            .map_err(broken)?;
        Ok(Arc::new(config))
    }

    fn chain(&self) -> Result<Vec<CertificateDer<'static>>> {
        certificates(&self.certificate_pem)
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes())
            .map_err(|error| Error::Identity(error.to_string()))
    }

    fn roots(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.ca_pem)? {
            roots.add(certificate).map_err(broken)?;
        }
        Ok(roots)
    }
}

/// For the one connection that a node makes before it has a certificate: the CA is known by its
/// fingerprint (SHA-256 of its DER, hex), and must be among what the server sends.
pub(crate) fn pinned(ca_fingerprint: &str) -> Result<Arc<ClientConfig>> {
    let verifier =
        PinnedCa { fingerprint: ca_fingerprint.to_ascii_lowercase(), provider: provider() };
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(broken)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Which of `nodes` a certificate names. Who has shown it has proven to be that node, as far as the
/// CA knows.
pub(crate) fn which<'a>(
    certificate: &CertificateDer<'_>,
    mut nodes: impl Iterator<Item = &'a NodeId>,
) -> Option<&'a NodeId> {
    let certificate = ParsedCertificate::try_from(certificate).ok()?;
    nodes.find(|id| node(id).is_ok_and(|name| verify_server_name(&certificate, &name).is_ok()))
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| Error::Identity(error.to_string()))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn broken(error: rustls::Error) -> Error {
    Error::Identity(error.to_string())
}

/// Trusts the one CA with the right fingerprint, and then checks as strictly as ever.
#[derive(Debug)]
struct PinnedCa {
    fingerprint: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        stapled: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let is_pinned = |der: &&CertificateDer<'_>| spec::Digest::of(der).hex() == self.fingerprint;
        let ca = intermediates.iter().find(is_pinned).ok_or(CertificateError::UnknownIssuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(roots.into(), self.provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(certificate, &[], name, stapled, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
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
    async fn nodes_know_each_other_by_name_and_nobody_else() {
        let (ca, other_ca) = (Ca::new(), Ca::new());
        let named = |name: &str| node(&name.parse().unwrap()).unwrap();
        let server = ca.node("b").server().unwrap();
        for (client, name, want, what) in [
            (ca.node("a"), named("b"), true, "a node and the node that it meant"),
            (ca.node("a"), named("c"), false, "a node that is not the one that was meant"),
            (other_ca.node("a"), named("b"), false, "a node of another platform"),
            (ca.issue("control.margay", &[SERVER]), named("b"), false, "a client that is no node"),
            (ca.node("a"), control_plane(), false, "a node that stands in for the control plane"),
        ] {
            assert_eq!(meet(server.clone(), client.client().unwrap(), name).await, want, "{what}");
        }
    }

    #[tokio::test]
    async fn a_join_trusts_the_control_plane_of_the_pinned_ca_only() {
        let (ca, other_ca) = (Ca::new(), Ca::new());
        let fingerprint = spec::Digest::of(&ca.der).hex();
        let open = |identity: &Identity| {
            let config = ServerConfig::builder_with_provider(provider())
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
            let met = meet(open(&identity), pinned(&fingerprint).unwrap(), control_plane()).await;
            assert_eq!(met, want, "{what}");
        }
    }
}
