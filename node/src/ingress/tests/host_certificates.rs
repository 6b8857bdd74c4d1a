//! One certificate for each host name.

use std::collections::BTreeMap;

use spec::wire::RouteCertificate;

use super::*;
use crate::ingress::{HostCertificate, HostCertificates};

struct Made {
    host: &'static str,
    der: rustls::pki_types::CertificateDer<'static>,
    pair: HostCertificate,
}

fn made(host: &'static str) -> Made {
    let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).unwrap();
    let certificate = RouteCertificate {
        tenant: "me".parse().unwrap(),
        name: "one".parse().unwrap(),
        fingerprint: net::tls::fingerprint(made.cert.der()),
    };
    let (chain_pem, key_pem) = (made.cert.pem(), made.signing_key.serialize_pem());
    Made {
        host,
        der: made.cert.der().clone(),
        pair: HostCertificate { certificate, chain_pem, key_pem },
    }
}

fn show(site: &Site, certificates: &[&Made]) {
    let pairs = certificates.iter().map(|made| made.pair.clone()).collect();
    site.folder.write_certificates(&HostCertificates { version: 1, pairs }).unwrap();
    let shown = certificates
        .iter()
        .map(|made| (made.host.parse().unwrap(), made.pair.certificate.clone()))
        .collect::<BTreeMap<_, _>>();
    let backends = [backend("n1", "a")];
    let table = RouteTable { certificates: shown, ..routes(&backends, &[]) };
    let (node, networks) = ("n1".parse().unwrap(), Vec::new());
    site.folder.write_shared(&Shared { version: 1, node, routes: table, networks }).unwrap();
}

/// Whether a client that calls `name` is shown `want`.
async fn is_shown(site: &Site, name: &str, want: &Made) -> bool {
    let config = net::tls::web_client(net::tls::roots([want.der.clone()]).unwrap());
    let stream = TcpStream::connect(site.address).await.unwrap();
    let name = name.to_owned().try_into().unwrap();
    let Ok(stream) = tokio_rustls::TlsConnector::from(config).connect(name, stream).await else {
        return false;
    };
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    shown == Some(&want.der)
}

async fn until_shown(site: &Site, name: &str, want: &Made) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_shown(site, name, want).await {
        assert!(Instant::now() < deadline, "{name} is not shown {}", want.host);
    }
}

#[tokio::test]
async fn clients_are_shown_the_certificate_of_the_host_that_they_call() {
    let site = Site::open("n1", &[backend("n1", "a")], None).await;
    let _a = site.replica("a");
    let (exact, wildcard, next) =
        (made("a.shop.example"), made("*.shop.example"), made("a.shop.example"));
    show(&site, &[&exact, &wildcard]);
    until_shown(&site, "a.shop.example", &exact).await;
    until_shown(&site, "b.shop.example", &wildcard).await;
    assert!(!is_shown(&site, "shop.example", &wildcard).await);
    // Without a certificate for every name, plain HTTP is answered beside it.
    assert_eq!(site.get(HOST).await.0, StatusCode::OK);
    // Another one in its place, and then none.
    show(&site, &[&next, &wildcard]);
    until_shown(&site, "a.shop.example", &next).await;
    show(&site, &[&wildcard]);
    until_shown(&site, "a.shop.example", &wildcard).await;
}
