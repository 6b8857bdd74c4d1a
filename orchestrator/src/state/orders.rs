//! Certificates that an authority is asked for by ACME: one order at a time for each host.

use serde::{Deserialize, Serialize};
use spec::{CertificateName, Digest, HostName, Timestamp, wire::HttpChallenge};
use utoipa::ToSchema;

/// A certificate that the platform asks an authority for, until it has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CertificateOrder {
    /// The host that the certificate is for.
    pub host: HostName,
    /// The certificate that it becomes, or replaces.
    pub certificate: CertificateName,
    /// When the authority was last asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tried: Option<Timestamp>,
    /// It is not asked again before.
    pub next: Timestamp,
    /// How many tries in a row have failed.
    #[serde(default)]
    pub failures: u32,
    /// Why the last one has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// An order as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OrderRecord {
    pub order: CertificateOrder,
    /// Whether a client has asked for it, however long the certificate is still good.
    #[serde(default)]
    pub requested: bool,
    /// What ingresses answer the authority.
    #[serde(default)]
    pub challenge: Option<HttpChallenge>,
}

impl OrderRecord {
    pub fn new(host: HostName, now: Timestamp) -> Self {
        let order = CertificateOrder {
            certificate: certificate_name(&host),
            host,
            tried: None,
            next: now,
            failures: 0,
            error: None,
            hint: None,
        };
        Self { order, requested: false, challenge: None }
    }
}

/// The name of the certificate that is ordered for `host`: `acme-` and the host, with dashes for
/// its dots and its `*`. Where that could be the name of another host's too, or is too long for a
/// name, it ends with digits of the host's digest.
pub(crate) fn certificate_name(host: &HostName) -> CertificateName {
    const CHARS_MAX: usize = 63;
    let plain = format!("acme-{}", host.as_str().replace(['.', '*'], "-"));
    let is_plain = !host.as_str().contains(['-', '*']);
    let name = match !is_plain || plain.len() > CHARS_MAX {
        false => plain,
        true => {
            let digest = Digest::of(host.as_str().as_bytes()).hex();
            let kept = plain.get(..CHARS_MAX - 9).unwrap_or(&plain);
            format!("{kept}-{}", &digest[..8])
        }
    };
    name.parse().expect("a host name has letters, digits and inner dashes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_of_two_hosts_have_two_names() {
        let long = format!("{}.example", "a".repeat(60));
        let name = |host: &str| certificate_name(&host.parse().unwrap()).to_string();
        assert_eq!(name("shop.example"), "acme-shop-example");
        assert!(name("a-b.example").starts_with("acme-a-b-example-"));
        assert!(name(&long).len() <= 63);
        assert!(name("*.shop.example").starts_with("acme---shop-example-"));
        let names = ["a-b.example", "a.b-example.org", "a.b.example.org", "a-b.example.org", &long];
        let distinct: std::collections::BTreeSet<_> = names.iter().map(|host| name(host)).collect();
        assert_eq!(distinct.len(), names.len());
    }
}
