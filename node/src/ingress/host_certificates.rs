use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use net::tls::{CertificatesByName, Pair};
use spec::wire::RouteCertificate;
use tokio::time::sleep;

use super::{
    folder::{HostCertificate, HostCertificates, IngressFolder},
    limits::CERTIFICATES_EVERY,
    routes::Routes,
};

/// Takes up other certificates and other hosts of them.
pub(super) async fn keep_up(
    folder: &IngressFolder,
    routes: &Routes,
    shown: &Arc<CertificatesByName>,
) {
    let mut pairs: BTreeMap<RouteCertificate, Pair> = BTreeMap::new();
    let (mut file_seen, mut names_seen) = (None, None);
    loop {
        let file = seen(folder);
        if file != file_seen {
            file_seen = file;
            pairs = read(folder, &pairs);
            names_seen = None;
        }
        let names = routes.certificates();
        if names_seen.as_ref() != Some(&names) {
            let named = names.iter().filter_map(|(host, certificate)| {
                Some((host.to_string(), pair_of(&pairs, certificate)?.clone()))
            });
            shown.replace(named.collect());
            names_seen = Some(names);
        }
        sleep(CERTIFICATES_EVERY).await;
    }
}

/// A pair, or the one before it, until the new one is here.
fn pair_of<'a>(
    pairs: &'a BTreeMap<RouteCertificate, Pair>,
    certificate: &RouteCertificate,
) -> Option<&'a Pair> {
    let same = |known: &RouteCertificate| {
        (&known.tenant, &known.name) == (&certificate.tenant, &certificate.name)
    };
    let before = || pairs.iter().find(|(known, _)| same(known)).map(|(_, pair)| pair);
    pairs.get(certificate).or_else(before)
}

fn seen(folder: &IngressFolder) -> Option<(SystemTime, u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(folder.certificates_file()).ok()?;
    Some((metadata.modified().ok()?, metadata.ino(), metadata.len()))
}

/// The pairs in the file. One that is known is not parsed again, and a bad file changes nothing.
fn read(
    folder: &IngressFolder,
    known: &BTreeMap<RouteCertificate, Pair>,
) -> BTreeMap<RouteCertificate, Pair> {
    let file = crate::files::read_json::<HostCertificates>(&folder.certificates_file());
    let Ok(Some(HostCertificates { version: 1, pairs })) = file else {
        tracing::warn!("the certificates of hosts cannot be read; the last ones stay");
        return known.clone();
    };
    let pair = |stored: HostCertificate| {
        let HostCertificate { certificate, chain_pem, key_pem } = stored;
        let pair = match known.get(&certificate) {
            Some(known) => Ok(known.clone()),
            None => net::tls::pair(&chain_pem, &key_pem),
        };
        match pair {
            Ok(pair) => Some((certificate, pair)),
            Err(error) => {
                tracing::warn!(name = %certificate.name, %error, "a certificate cannot be used");
                None
            }
        }
    };
    pairs.into_iter().filter_map(pair).collect()
}
