//! TLS 1.3 between margay's processes, and TLS towards the web.
//!
//! An address says where a process should be, a certificate says which one answers: so names are
//! `control.margay` and `NODE.ingress.margay` whatever the address, and the CA says which platform
//! it is.

mod certificates; // PEM, and which node a certificate names
mod files; // a certificate in files that are renewed
mod by_name; // one certificate for each host name
mod validity; // certificates of another time
mod pinned; // trust in the one CA that has a fingerprint

use std::sync::Arc;

use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    server::{WantsServerCert, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use spec::NodeId;

pub use by_name::CertificatesByName;
pub use certificates::{certificates, fingerprint, ingress_of, names, private_key, roots};
pub use files::{
    CertificateError, CertificateFiles, HTTP_2, Pair, Renewal, WEB, pair, pair_of, server_with,
    speaks_http2,
};
use pinned::PinnedCa;
pub use validity::hint_about_time;

/// The name of every control plane.
pub const CONTROL_PLANE_NAME: &str = "control.margay";

/// The names in its certificate: clients on its own machine may call it by the second.
pub const CONTROL_PLANE_NAMES: [&str; 2] = [CONTROL_PLANE_NAME, "localhost"];

/// [`CONTROL_PLANE_NAME`], to connect to.
pub fn control_plane() -> ServerName<'static> {
    ServerName::try_from(CONTROL_PLANE_NAME).expect("it is a DNS name")
}

/// The URI in the certificate of a node.
pub fn node_uri(node: &NodeId) -> String {
    format!("spiffe://margay/node/{node}")
}

/// The URI in the certificate of a node's ingress.
pub fn ingress_uri(node: &NodeId) -> String {
    format!("spiffe://margay/ingress/{node}")
}

/// The DNS name in the certificate of a node's ingress, by which those of other nodes call it.
pub fn ingress_dns(node: &NodeId) -> String {
    format!("{node}.ingress.margay")
}

/// [`ingress_dns`], to connect to.
pub fn ingress(node: &NodeId) -> ServerName<'static> {
    ServerName::try_from(ingress_dns(node)).expect("the id of a node is a label of a DNS name")
}

/// Which clients a server takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clients {
    /// With a certificate that one of the roots has signed.
    Certified,
    /// With such a certificate, or without any.
    CertifiedOrUnauthenticated,
}

/// A server with this certificate chain, for `clients` of `roots`.
///
/// # Errors
/// When the key is not that of the certificate, or there is no root.
pub fn server(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: RootCertStore,
    clients: Clients,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    Ok(Arc::new(verifying(roots, clients)?.with_single_cert(chain, key)?))
}

/// The server of a platform, which has another certificate besides, in `files`: clients that name
/// one of `names`, or no server at all, are shown `own`, and those that name another one the pair
/// in the files as it is then.
///
/// # Errors
/// When there is no root.
pub fn server_beside(
    files: &CertificateFiles,
    own: Pair,
    names: &'static [&'static str],
    roots: RootCertStore,
    clients: Clients,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let resolver = files.beside(own, names);
    Ok(Arc::new(verifying(roots, clients)?.with_cert_resolver(resolver)))
}

fn verifying(
    roots: RootCertStore,
    clients: Clients,
) -> Result<ConfigBuilder<ServerConfig, WantsServerCert>, rustls::Error> {
    let verifier: Arc<dyn ClientCertVerifier> = {
        let builder = WebPkiClientVerifier::builder_with_provider(roots.into(), provider());
        let builder = match clients {
            Clients::Certified => builder,
            Clients::CertifiedOrUnauthenticated => builder.allow_unauthenticated(),
        };
        builder.build().map_err(|error| rustls::Error::General(error.to_string()))?
    };
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier);
    Ok(config)
}

/// A client with this certificate chain, of servers of `roots`.
///
/// # Errors
/// When the key is not that of the certificate.
pub fn client(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: RootCertStore,
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    Ok(Arc::new(config))
}

/// A client without a certificate, which knows the CA of its server by the [`fingerprint`] alone.
/// The CA must be among what the server sends.
pub fn pinned_client(ca_fingerprint: &str) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring speaks TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedCa::new(ca_fingerprint, provider())))
        .with_no_client_auth();
    Arc::new(config)
}

/// A client of servers of the web, with TLS 1.2 too, that trusts `roots`.
pub fn web_client(roots: RootCertStore) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// The roots that browsers trust.
pub fn web_roots() -> RootCertStore {
    RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
