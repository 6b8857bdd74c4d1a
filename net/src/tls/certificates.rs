use rustls::{
    RootCertStore,
    client::verify_server_name,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem, pem::PemObject},
    server::ParsedCertificate,
};
use spec::{Digest, NodeId};

/// The certificates in `pem`, the leaf first.
///
/// # Errors
/// When it is damaged.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect()
}

/// The private key in `pem`.
///
/// # Errors
/// When it is damaged, or has none.
pub fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>, pem::Error> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes())
}

/// Trust in `authorities` alone.
///
/// # Errors
/// When one of them is damaged.
pub fn roots(
    authorities: impl IntoIterator<Item = CertificateDer<'static>>,
) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority)?;
    }
    Ok(roots)
}

/// SHA-256 of a certificate (DER), 64 lowercase hex digits.
pub fn fingerprint(certificate: &[u8]) -> String {
    Digest::of(certificate).hex()
}

/// Whether a certificate names `name`.
pub fn names(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> bool {
    let parsed = ParsedCertificate::try_from(certificate);
    parsed.is_ok_and(|certificate| verify_server_name(&certificate, name).is_ok())
}

/// The node whose ingress a certificate names, of `nodes`. A peer that showed it has proven to be
/// that, as far as the CA knows.
pub fn ingress_of<'a>(
    certificate: &CertificateDer<'_>,
    mut nodes: impl Iterator<Item = &'a NodeId>,
) -> Option<&'a NodeId> {
    let certificate = ParsedCertificate::try_from(certificate).ok()?;
    nodes.find(|node| verify_server_name(&certificate, &super::ingress(node)).is_ok())
}
