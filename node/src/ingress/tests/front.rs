//! What stands between the ingress and its clients: proxies and a certificate.

use super::*;

/// Behind a proxy at every address of this machine.
fn behind_a_proxy(proxy_protocol: bool) -> Front {
    let loopback = spec::Host::Network([127, 0, 0, 0].into(), 8);
    let proxies = net::TrustedProxies::new([loopback]);
    Front { proxies, proxy_protocol, ..Front::default() }
}

#[tokio::test]
async fn a_trusted_proxy_says_which_client_asks_and_another_address_does_not() {
    let site =
        Site::open_behind("n1", &[backend("n1", "a")], None, limits(), behind_a_proxy(false)).await;
    let _a = site.replica("a");
    let said = format!(
        "GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\
         x-forwarded-for: 6.6.6.6, 1.2.3.4, 127.0.0.9\r\nx-forwarded-proto: https\r\n\r\n"
    );
    assert_eq!(ask(site.address, &said).await.1, "a: GET / 0 1.2.3.4https");
    let site = Site::open("n1", &[backend("n1", "a")], None).await;
    let _a = site.replica("a");
    assert_eq!(ask(site.address, &said).await.1, "a: GET / 0 127.0.0.1");
}

#[tokio::test]
async fn connections_of_a_trusted_proxy_begin_with_the_client_it_names() {
    let site =
        Site::open_behind("n1", &[backend("n1", "a")], None, limits(), behind_a_proxy(true)).await;
    let _a = site.replica("a");
    let get = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    let named = format!("PROXY TCP4 1.2.3.4 10.0.0.1 555 443\r\n{get}");
    assert_eq!(ask(site.address, &named).await.1, "a: GET / 0 1.2.3.4");
    assert_eq!(ask(site.address, &get).await.1, "", "closed without a header");
    // To an ingress that does not expect it, or not from there, the header is no request.
    let site = Site::open("n1", &[backend("n1", "a")], None).await;
    assert_eq!(ask(site.address, &named).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn with_a_certificate_clients_speak_tls_and_others_are_sent_there() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec![HOST.to_owned()]).unwrap();
    let (chain, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    std::fs::write(&chain, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let certificate = net::tls::CertificateFiles::open(&chain, &key).unwrap();
    let front = Front { certificate: Some(certificate), ..Front::default() };
    let site = Site::open_behind("n1", &[backend("n1", "a")], None, limits(), front).await;
    let _a = site.replica("a");
    let roots = net::tls::roots([made.cert.der().clone()]).unwrap();
    let connector = tokio_rustls::TlsConnector::from(net::tls::web_client(roots));
    let stream = TcpStream::connect(site.address).await.unwrap();
    let mut stream = connector.connect(HOST.try_into().unwrap(), stream).await.unwrap();
    let get = format!("GET /x HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    stream.write_all(get.as_bytes()).await.unwrap();
    assert_eq!(read_answer(stream).await.1, "a: GET /x 0 127.0.0.1https");
    let mut plain = TcpStream::connect(site.address).await.unwrap();
    plain.write_all(get.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(Duration::from_secs(5), plain.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 308 "), "{answer}");
    assert!(answer.contains(&format!("location: https://{HOST}/x\r\n")), "{answer}");
    // A client that begins a handshake and does not go on is given up.
    let mut silent = TcpStream::connect(site.address).await.unwrap();
    silent.write_all(b"\x16\x03\x01").await.unwrap();
    let closed = timeout(Duration::from_secs(8), silent.read(&mut [0; 64])).await;
    closed.expect("a handshake has a deadline").unwrap_or_default();
}

#[tokio::test]
async fn an_authority_that_asks_for_a_token_is_answered_before_the_service() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec![HOST.to_owned()]).unwrap();
    let (chain, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    std::fs::write(&chain, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    for has_certificate in [false, true] {
        let certificate = net::tls::CertificateFiles::open(&chain, &key).unwrap();
        let certificate = Some(certificate).filter(|_| has_certificate);
        let front = Front { certificate, ..Front::default() };
        let backends = [backend("n1", "a")];
        let site = Site::open_behind("n1", &backends, None, limits(), front).await;
        let _a = site.replica("a");
        let challenge = spec::wire::HttpChallenge {
            token: "t0k-en_".to_owned(),
            key_authorization: "t0k-en_.thumb".to_owned(),
        };
        let challenges = BTreeMap::from([(HOST.parse().unwrap(), challenge)]);
        let routes = RouteTable { challenges, ..routes(&backends, &[]) };
        let (node, networks) = ("n1".parse().unwrap(), Vec::new());
        site.folder.write_shared(&Shared { version: 1, node, routes, networks }).unwrap();
        for (path, method, host, is_answered) in [
            ("t0k-en_", "GET", HOST, true),
            ("t0k-en_?x=1", "GET", HOST, true),
            ("other", "GET", HOST, false),
            ("t0k-en_/x", "GET", HOST, false),
            ("t0k-en_", "POST", HOST, false),
            ("t0k-en_", "GET", "dogs.main.localhost", false),
        ] {
            let request = format!(
                "{method} /.well-known/acme-challenge/{path} HTTP/1.1\r\nhost: {host}\r\n\
                 connection: close\r\n\r\n"
            );
            let (status, body) = ask(site.address, &request).await;
            let got = status == StatusCode::OK && body == "t0k-en_.thumb";
            assert_eq!(got, is_answered, "{path} {method} {host}: {status} {body}");
        }
    }
}
