use std::{path::Path, time::Duration};

use net::tls;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
    date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use spec::{NodeId, Timestamp};

use super::{files, tokens};
use crate::{
    Error,
    limits::{CA_TIME, CLOCK_SLACK, LEAF_TIME},
};

/// The certificate authority of one control plane. It names nodes and the control plane itself, and
/// nothing else.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub certificate: CertificateDer<'static>,
    pub pem: String,
    /// SHA-256 of the certificate, as join tokens and credentials carry it.
    pub fingerprint: String,
}

/// Why a certificate signing request was not signed.
#[derive(Debug, thiserror::Error)]
#[error("the certificate signing request is invalid: {0}")]
pub(crate) struct InvalidSigningRequest(rcgen::Error);

/// The certificate of a node or its ingress.
pub(crate) struct Leaf {
    pub pem: String,
    pub fingerprint: String,
}

impl Ca {
    /// The one in `folder`, made on the first start. Its key is 0600.
    pub fn open(folder: &Path, now: Timestamp) -> Result<Self, Error> {
        let key = files::private_file(&folder.join("ca.key"), || {
            let key = KeyPair::generate().map_err(crypto("make the key of the CA"))?;
            Ok(key.serialize_pem().into_bytes())
        })?;
        let key =
            KeyPair::from_pem(&String::from_utf8_lossy(&key)).map_err(crypto("read `ca.key`"))?;
        let pem = files::private_file(&folder.join("ca.pem"), || {
            let mut params = params(now, CA_TIME, "margay CA");
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            let certificate = params.self_signed(&key);
            Ok(certificate.map_err(crypto("make the certificate of the CA"))?.pem().into_bytes())
        })?;
        let pem = String::from_utf8_lossy(&pem).into_owned();
        let certificate =
            CertificateDer::from_pem_slice(pem.as_bytes()).map_err(crypto("read `ca.pem`"))?;
        let fingerprint = tokens::hashed(&certificate);
        let issuer =
            Issuer::from_ca_cert_der(&certificate, key).map_err(crypto("read `ca.pem`"))?;
        Ok(Self { issuer, certificate, pem, fingerprint })
    }

    /// A certificate and key for the control plane, made at each start. It has the names that parts
    /// of a platform call it by, and the host of `address`, by which other clients know it.
    pub fn server(
        &self,
        address: Option<&str>,
        now: Timestamp,
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), Error> {
        let key = KeyPair::generate().map_err(crypto("make the key of the control plane"))?;
        let mut params = params(now, CA_TIME, "margay control plane");
        let host = address.and_then(|address| address.rsplit_once(':')).map(|(host, _)| host);
        let host = host.map(|host| host.trim_matches(['[', ']']));
        let names = tls::CONTROL_PLANE_NAMES.into_iter().chain(["127.0.0.1", "::1"]).chain(host);
        params.subject_alt_names = names.map(alternative_name).collect::<Result<_, _>>()?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = params
            .signed_by(&key, &self.issuer)
            .map_err(crypto("make the certificate of the control plane"))?;
        Ok((leaf.der().clone(), PrivatePkcs8KeyDer::from(key.serialize_der()).into()))
    }

    /// A certificate and key in PEM for a server of this platform that clients know by `names`, DNS
    /// names and addresses.
    pub fn named(&self, names: &[String], now: Timestamp) -> Result<(String, String), Error> {
        let key = KeyPair::generate().map_err(crypto("make the key of a server"))?;
        let mut params = params(now, CA_TIME, "margay server");
        let names = names.iter().map(|name| alternative_name(name));
        params.subject_alt_names = names.collect::<Result<_, _>>()?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = params
            .signed_by(&key, &self.issuer)
            .map_err(crypto("make the certificate of a server"))?;
        Ok((leaf.pem(), key.serialize_pem()))
    }

    /// A certificate for `node` and the key that signed `csr`; every name in the request is
    /// ignored. It proves to the control plane which node asks, and nothing to others.
    pub fn sign(
        &self,
        node: &NodeId,
        csr_pem: &str,
        now: Timestamp,
    ) -> Result<Leaf, InvalidSigningRequest> {
        let uri = ia5_name(tls::node_uri(node))?;
        let usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign_as(node.as_str(), vec![SanType::URI(uri)], usages, csr_pem, now)
    }

    /// The same for the ingress of `node`: it proves to other ingresses which one this is, and
    /// nothing to the control plane.
    pub fn sign_ingress(
        &self,
        node: &NodeId,
        csr_pem: &str,
        now: Timestamp,
    ) -> Result<Leaf, InvalidSigningRequest> {
        let names = vec![
            SanType::URI(ia5_name(tls::ingress_uri(node))?),
            SanType::DnsName(ia5_name(tls::ingress_dns(node))?),
        ];
        let usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        self.sign_as(&format!("ingress of {node}"), names, usages, csr_pem, now)
    }

    fn sign_as(
        &self,
        common_name: &str,
        names: Vec<SanType>,
        usages: Vec<ExtendedKeyUsagePurpose>,
        csr_pem: &str,
        now: Timestamp,
    ) -> Result<Leaf, InvalidSigningRequest> {
        let wrong = InvalidSigningRequest;
        let mut request = CertificateSigningRequestParams::from_pem(csr_pem).map_err(wrong)?;
        let mut params = params(now, LEAF_TIME, common_name);
        params.subject_alt_names = names;
        params.extended_key_usages = usages;
        request.params = params;
        let certificate = request.signed_by(&self.issuer).map_err(wrong)?;
        Ok(Leaf { pem: certificate.pem(), fingerprint: tokens::hashed(certificate.der()) })
    }
}

fn ia5_name(text: String) -> Result<rcgen::string::Ia5String, InvalidSigningRequest> {
    text.try_into().map_err(InvalidSigningRequest)
}

fn params(now: Timestamp, valid_for: Duration, name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = date_time_ymd(1970, 1, 1) + Duration::from_millis(now.millis());
    params.not_before = now - CLOCK_SLACK;
    params.not_after = now + valid_for;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
}

fn alternative_name(name: &str) -> Result<SanType, Error> {
    match name.parse() {
        Ok(address) => Ok(SanType::IpAddress(address)),
        Err(_) => ia5(name).map(SanType::DnsName),
    }
}

fn ia5(text: &str) -> Result<rcgen::string::Ia5String, Error> {
    text.to_owned().try_into().map_err(crypto("name the control plane"))
}

/// Attaches what was tried to the failure of a cryptographic library.
pub(crate) fn crypto<E: std::error::Error + Send + Sync + 'static>(
    what: &str,
) -> impl FnOnce(E) -> Error + use<'_, E> {
    move |source| Error::Crypto { what: what.to_owned(), source: source.into() }
}
