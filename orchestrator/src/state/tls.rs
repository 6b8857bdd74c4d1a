use std::{io, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring::default_provider},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    server::WebPkiClientVerifier,
};
use spec::NodeId;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{Error, ca::crypto, secret};

/// The name by which every control plane is known to TLS, whatever its address is; the CA says
/// which one it is.
pub(crate) const CONTROL_NAME: &str = "control.margay";

/// The URI in the certificate of a node: who it is.
pub(crate) fn node_uri(node: &NodeId) -> String {
    format!("spiffe://margay/node/{node}")
}

/// The DNS name in it: by which other nodes' ingresses call it.
pub(crate) fn node_dns(node: &NodeId) -> String {
    format!("{node}.node.margay")
}

/// The server's side: our certificate with the CA behind it, and clients with a node's certificate
/// or none at all.
pub(crate) fn server(
    leaf: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    ca: &CertificateDer<'static>,
) -> Result<Arc<ServerConfig>, Error> {
    let provider = Arc::new(default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).map_err(crypto("trust the CA"))?;
    let nodes = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(crypto("trust the CA"))?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(crypto("set up TLS"))?
        .with_client_cert_verifier(nodes)
        .with_single_cert(vec![leaf, ca.clone()], key)
        .map_err(crypto("set up TLS"))?;
    Ok(Arc::new(config))
}

/// A TLS connection to the control plane whose CA has this fingerprint.
pub(crate) async fn connect_pinned(
    ca_fingerprint: &str,
    stream: TcpStream,
) -> io::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(default_provider());
    let pinned = PinnedCa { fingerprint: ca_fingerprint.to_owned(), provider: provider.clone() };
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(pinned))
        .with_no_client_auth();
    let name = ServerName::try_from(CONTROL_NAME).expect("it is a DNS name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// Trusts the one CA that has the right fingerprint, which the server sends along, and then checks
/// as strictly as ever.
#[derive(Debug)]
struct PinnedCa {
    fingerprint: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let ours = |certificate: &&CertificateDer<'_>| {
            secret::fingerprint(certificate) == self.fingerprint
        };
        let ca = intermediates.iter().find(ours).ok_or_else(|| {
            rustls::Error::General(
                "this is another control plane: its CA has another fingerprint".to_owned(),
            )
        })?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(roots.into(), self.provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
