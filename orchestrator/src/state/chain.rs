use net::tls;
use spec::{HostName, Timestamp};
use x509_parser::{
    certificate::X509Certificate, error::X509Error, extensions::GeneralName, prelude::FromDer,
    time::ASN1Time,
};

use crate::limits::{CERTIFICATE_CHAIN_BYTES_MAX, CERTIFICATE_CHAIN_MAX, CERTIFICATE_HOSTS_MAX};

/// What a chain of certificates says, after all of it was found good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    pub hosts: Vec<HostName>,
    pub issuer: String,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    pub fingerprint: String,
}

/// Why a certificate is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidChain {
    #[error("the chain has no certificate in PEM")]
    NoCertificate,
    #[error("the chain has more than {} certificates or bytes", CERTIFICATE_CHAIN_MAX)]
    TooLarge,
    #[error("certificate {0} of the chain is damaged")]
    Damaged(usize),
    #[error("certificate {0} of the chain, `{1}`, was not signed by the one after it, `{2}`")]
    Broken(usize, String, String),
    #[error("certificate {0} of the chain, `{1}`, has expired on {2}")]
    Expired(usize, String, String),
    #[error("certificate {0} of the chain, `{1}`, is not good before {2}")]
    NotYet(usize, String, String),
    #[error("the certificate `{0}` names no host")]
    NoHost(String),
    #[error("the certificate names `{0}`, which is no host name that can be served")]
    Host(String),
    #[error("the certificate names more than {} hosts", CERTIFICATE_HOSTS_MAX)]
    HostCount,
    #[error("there is no private key in PEM, or it has a password")]
    NoKey,
    #[error("the key is not that of the certificate `{0}`")]
    Key(String),
}

impl InvalidChain {
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoCertificate | Self::TooLarge | Self::Damaged(_) => {
                "give a PEM file: the certificate first, then its intermediates, as in fullchain.pem"
            }
            Self::Broken(..) => {
                "put the intermediates in the order in which each signs the one before it"
            }
            Self::Expired(..) | Self::NotYet(..) => {
                "get a new one from its issuer; see that the clock of this machine is right"
            }
            Self::NoHost(_) | Self::Host(_) | Self::HostCount => {
                "get one whose alternative names are the DNS names of its hosts"
            }
            Self::NoKey => "give a PEM file with a key that has no password",
            Self::Key(_) => "give the key that the certificate was made for",
        }
    }
}

impl Chain {
    /// Judges `chain_pem`, the certificate of a server first, and the key that should be its own.
    pub fn read(chain_pem: &str, key_pem: &str, now: Timestamp) -> Result<Self, InvalidChain> {
        if chain_pem.len() > CERTIFICATE_CHAIN_BYTES_MAX {
            return Err(InvalidChain::TooLarge);
        }
        let ders = tls::certificates(chain_pem).map_err(|_| InvalidChain::NoCertificate)?;
        if ders.len() > CERTIFICATE_CHAIN_MAX {
            return Err(InvalidChain::TooLarge);
        }
        let parsed = ders.iter().enumerate().map(|(index, der)| {
            let parsed = X509Certificate::from_der(der).map(|(_, parsed)| parsed);
            parsed.map_err(|_| InvalidChain::Damaged(index + 1))
        });
        let parsed: Vec<X509Certificate<'_>> = parsed.collect::<Result<_, _>>()?;
        let leaf = parsed.first().ok_or(InvalidChain::NoCertificate)?;
        check_times(&parsed, now)?;
        check_order(&parsed)?;
        let hosts = hosts_of(leaf)?;
        let key = tls::private_key(key_pem).map_err(|_| InvalidChain::NoKey)?;
        let wrong_key = |_| InvalidChain::Key(name_of(leaf));
        tls::pair_of(ders.clone(), key).map_err(wrong_key)?;
        Ok(Self {
            hosts,
            issuer: leaf.issuer().to_string(),
            not_before: timestamp(leaf.validity().not_before),
            not_after: timestamp(leaf.validity().not_after),
            fingerprint: tls::fingerprint(&ders[0]),
        })
    }
}

fn check_times(chain: &[X509Certificate<'_>], now: Timestamp) -> Result<(), InvalidChain> {
    for (index, certificate) in chain.iter().enumerate() {
        let validity = certificate.validity();
        if timestamp(validity.not_after) <= now {
            let until = validity.not_after.to_string();
            return Err(InvalidChain::Expired(index + 1, name_of(certificate), until));
        }
        if timestamp(validity.not_before) > now {
            let from = validity.not_before.to_string();
            return Err(InvalidChain::NotYet(index + 1, name_of(certificate), from));
        }
    }
    Ok(())
}

/// Each is signed by the next. An algorithm that is not known here may be known to clients.
fn check_order(chain: &[X509Certificate<'_>]) -> Result<(), InvalidChain> {
    for (index, pair) in chain.windows(2).enumerate() {
        let [certificate, issuer] = pair else { continue };
        let signed = certificate.verify_signature(Some(issuer.public_key()));
        let is_signed = matches!(signed, Ok(()) | Err(X509Error::SignatureUnsupportedAlgorithm));
        if certificate.issuer() != issuer.subject() || !is_signed {
            let (name, next) = (name_of(certificate), name_of(issuer));
            return Err(InvalidChain::Broken(index + 1, name, next));
        }
    }
    Ok(())
}

/// The DNS names of a certificate. Its common name is none: no client looks at it any more.
fn hosts_of(leaf: &X509Certificate<'_>) -> Result<Vec<HostName>, InvalidChain> {
    let no_host = || InvalidChain::NoHost(name_of(leaf));
    let names = leaf.subject_alternative_name().ok().flatten().ok_or_else(no_host)?;
    let mut hosts = Vec::new();
    for name in &names.value.general_names {
        if let GeneralName::DNSName(name) = name {
            let host = name.parse().map_err(|_| InvalidChain::Host((*name).to_owned()))?;
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
    }
    match hosts.len() {
        0 => Err(no_host()),
        1..=CERTIFICATE_HOSTS_MAX => Ok(hosts),
        _ => Err(InvalidChain::HostCount),
    }
}

fn name_of(certificate: &X509Certificate<'_>) -> String {
    let name = certificate.subject().to_string();
    if name.is_empty() { "without a subject".to_owned() } else { name.chars().take(100).collect() }
}

fn timestamp(time: ASN1Time) -> Timestamp {
    let seconds = u64::try_from(time.timestamp()).unwrap_or_default();
    Timestamp::from_millis(seconds.saturating_mul(1000))
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd,
    };

    use super::*;
    use crate::state::now;

    fn params(names: &[&str]) -> CertificateParams {
        CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
            .unwrap()
    }

    fn self_signed(names: &[&str], change: impl Fn(&mut CertificateParams)) -> (String, String) {
        let (mut params, key) = (params(names), KeyPair::generate().unwrap());
        change(&mut params);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn authority(name: &str) -> (Issuer<'static, KeyPair>, Certificate) {
        let (mut params, key) = (CertificateParams::default(), KeyPair::generate().unwrap());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let certificate = params.self_signed(&key).unwrap();
        (Issuer::new(params, key), certificate)
    }

    #[test]
    fn a_good_chain_says_for_which_hosts_and_how_long_it_is_good() {
        let (issuer, ca) = authority("ca");
        let key = KeyPair::generate().unwrap();
        let mut wanted = params(&["shop.example", "*.shop.example", "SHOP.example"]);
        wanted.not_before = date_time_ymd(2020, 1, 1);
        wanted.not_after = date_time_ymd(2100, 1, 1);
        let leaf = wanted.signed_by(&key, &issuer).unwrap();
        let text = leaf.pem() + &ca.pem();
        let chain = Chain::read(&text, &key.serialize_pem(), now()).unwrap();
        let hosts: Vec<_> = chain.hosts.iter().map(ToString::to_string).collect();
        assert_eq!(hosts, ["shop.example", "*.shop.example"]);
        assert_eq!(chain.not_before, Timestamp::from_millis(1_577_836_800_000));
        assert_eq!(chain.fingerprint, tls::fingerprint(leaf.der()));
        assert!(chain.issuer.contains("ca"), "{}", chain.issuer);
    }

    #[test]
    fn what_is_wrong_with_a_chain_is_named() {
        let good = self_signed(&["a.example"], |_| {});
        let other = self_signed(&["b.example"], |_| {});
        let expired = self_signed(&["a.example"], |params| {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        });
        let later = self_signed(&["a.example"], |params| {
            params.not_before = date_time_ymd(3000, 1, 1);
            params.not_after = date_time_ymd(3001, 1, 1);
        });
        let nameless = self_signed(&[], |_| {});
        let address = self_signed(&["10.0.0.1"], |_| {});
        let single = self_signed(&["localhost"], |_| {});
        let (issuer, ca) = authority("one");
        let (_, unrelated) = authority("two");
        let (_, twin) = authority("one");
        let key = KeyPair::generate().unwrap();
        let leaf = params(&["a.example"]).signed_by(&key, &issuer).unwrap().pem();
        let key = key.serialize_pem();
        let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let many = good.0.repeat(CERTIFICATE_CHAIN_MAX + 1);
        let large = "x".repeat(CERTIFICATE_CHAIN_BYTES_MAX + 1);
        for (chain, key, want) in [
            (&*good.0, &*good.1, ""),
            (&(leaf.clone() + &ca.pem()), &key, ""),
            (&leaf, &key, ""), // its issuer may be a root
            ("", &good.1, "has no certificate"),
            ("\0", &good.1, "has no certificate"),
            (damaged, &good.1, "certificate 1 of the chain is damaged"),
            (&many, &good.1, "more than"),
            (&large, &good.1, "more than"),
            (&good.0, "", "no private key"),
            (&good.0, &good.0, "no private key"),
            (&good.0, &other.1, "the key is not that of"),
            (&expired.0, &expired.1, "has expired on"),
            (&later.0, &later.1, "is not good before"),
            (&nameless.0, &nameless.1, "names no host"),
            (&address.0, &address.1, "names no host"),
            (&single.0, &single.1, "`localhost`, which is no host name"),
            (&(leaf.clone() + &unrelated.pem()), &key, "was not signed by the one after it"),
            (&(leaf.clone() + &twin.pem()), &key, "was not signed by the one after it"),
            (&(ca.pem() + &leaf), &key, "was not signed by the one after it"),
        ] {
            let said = Chain::read(chain, key, now()).err();
            let said = said.map_or_else(String::new, |error| error.to_string());
            assert_eq!(said.is_empty(), want.is_empty(), "{want}: {said}");
            assert!(said.contains(want), "{want}: {said}");
        }
    }
}
