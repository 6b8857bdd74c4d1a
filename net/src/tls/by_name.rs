use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{
    ServerConfig,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::files::{CertificateFiles, Pair, WEB, server_of};

/// Which certificate a client is shown: the one of the name that it calls, or of the wildcard that
/// this name is one of, or else the one in files.
#[derive(Debug)]
pub struct CertificatesByName {
    pairs: RwLock<Arc<BTreeMap<String, Pair>>>,
    default: Option<Arc<dyn ResolvesServerCert>>,
}

impl CertificatesByName {
    /// None yet but the one in `files`.
    pub fn new(files: Option<&CertificateFiles>) -> Arc<Self> {
        let default = files.map(CertificateFiles::resolver);
        Arc::new(Self { pairs: RwLock::default(), default })
    }

    /// From the next handshake on these, by names in lower case, whose first label may be `*`.
    pub fn replace(&self, pairs: BTreeMap<String, Pair>) {
        *self.pairs.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pairs);
    }

    /// Whether clients that do not speak TLS are to be sent there, whatever they ask for.
    pub fn has_default(&self) -> bool {
        self.default.is_some()
    }

    /// TLS 1.2 and 1.3, for clients without a certificate.
    pub fn server(self: &Arc<Self>) -> Arc<ServerConfig> {
        server_of(self.clone(), &WEB)
    }

    fn of(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let pairs = self.pairs.read().unwrap_or_else(PoisonError::into_inner).clone();
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let wildcard = || {
            let (_, parent) = name.split_once('.')?;
            pairs.get(&format!("*.{parent}"))
        };
        pairs.get(&name).or_else(wildcard).cloned()
    }
}

impl ResolvesServerCert for CertificatesByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.of(name));
        named.or_else(|| self.default.as_ref()?.resolve(hello))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exact_name_goes_before_a_wildcard_of_one_label() {
        let pair = |name: &str| {
            let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
            super::super::pair(&made.cert.pem(), &made.signing_key.serialize_pem()).unwrap()
        };
        let names = ["shop.example", "*.shop.example", "a.shop.example"];
        let pairs: BTreeMap<String, Pair> =
            names.iter().map(|name| ((*name).to_owned(), pair(name))).collect();
        let certificates = CertificatesByName::new(None);
        certificates.replace(pairs.clone());
        for (asked, want) in [
            ("shop.example", Some("shop.example")),
            ("SHOP.example.", Some("shop.example")),
            ("a.shop.example", Some("a.shop.example")),
            ("b.shop.example", Some("*.shop.example")),
            ("c.b.shop.example", None),
            ("example", None),
            ("other.example", None),
        ] {
            let found = certificates.of(asked);
            let same = match (&found, want) {
                (Some(found), Some(want)) => Arc::ptr_eq(found, &pairs[want]),
                (found, want) => found.is_none() && want.is_none(),
            };
            assert!(same, "{asked}");
        }
    }
}
