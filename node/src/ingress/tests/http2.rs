//! Clients that speak HTTP/2.

use http::header;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::TokioExecutor;

use super::*;

async fn open(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> SendRequest<Full<Bytes>> {
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn said(sender: &mut SendRequest<Full<Bytes>>, request: Request<Full<Bytes>>) -> String {
    let response = sender.send_request(request).await.unwrap();
    let status = response.status();
    let text = response.into_body().collect().await.unwrap().to_bytes();
    format!("{} {}", status.as_u16(), String::from_utf8_lossy(&text).trim())
}

fn request(method: &str, url: &str, body: &'static str) -> Request<Full<Bytes>> {
    Request::builder().method(method).uri(url).body(Full::from(body)).unwrap()
}

#[tokio::test]
async fn clients_that_know_speak_http2_in_the_clear() {
    let site = Site::open("n1", &[backend("n1", "a")], None).await;
    let _a = site.replica("a");
    let mut sender = open(TcpStream::connect(site.address).await.unwrap()).await;
    for (method, url, body, want) in [
        ("GET", format!("http://{HOST}:8000/x?y=1"), "", "200 a: GET /x?y=1 0 127.0.0.1"),
        ("POST", format!("http://{HOST}/"), "hello", "200 a: POST / 5 127.0.0.1"),
        ("GET", "http://dogs.example/".to_owned(), "", "404 E_NO_ROUTE: no service here answers"),
        ("GET", "http://dogs_/".to_owned(), "", "404 "),
    ] {
        let got = said(&mut sender, request(method, &url, body)).await;
        assert!(got.starts_with(want), "{method} {url}: {got}");
    }
    let mut many = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let mut sender = sender.clone();
        let url = format!("http://{HOST}/");
        many.spawn(async move { said(&mut sender, request("GET", &url, "")).await });
    }
    while let Some(answer) = many.join_next().await {
        assert_eq!(answer.unwrap(), "200 a: GET / 0 127.0.0.1");
    }
    // The same port still takes HTTP/1.1.
    assert_eq!(site.get(HOST).await.0, StatusCode::OK);
}

#[tokio::test]
async fn what_reaches_a_replica_is_one_request_of_http1() {
    let site = Site::open("n1", &[backend("n1", "a")], None).await;
    let listener = site.socket("a");
    let seen = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = vec![0; 4096];
        let length = stream.read(&mut bytes).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    });
    let mut sender = open(TcpStream::connect(site.address).await.unwrap()).await;
    let mut asked = request("GET", &format!("http://{HOST}:81/x"), "");
    asked.headers_mut().append(header::COOKIE, "a=1".parse().unwrap());
    asked.headers_mut().append(header::COOKIE, "b=2".parse().unwrap());
    asked.headers_mut().append("x-forwarded-for", "6.6.6.6".parse().unwrap());
    assert_eq!(said(&mut sender, asked).await, "200 ");
    let mut lines: Vec<String> = seen.await.unwrap().trim().lines().map(str::to_owned).collect();
    lines.retain(|line| !line.starts_with("traceparent: ") && !line.starts_with("x-request-id: "));
    lines[1..].sort();
    let forwarded = format!("x-forwarded-host: {HOST}:81");
    let host = format!("host: {HOST}:81");
    let want = [
        "GET /x HTTP/1.1",
        "cookie: a=1; b=2",
        &host,
        "margay-hops: 1",
        "via: 2.0 margay",
        "x-forwarded-for: 127.0.0.1",
        &forwarded,
        "x-forwarded-proto: http",
    ];
    assert_eq!(lines, want);
}

#[tokio::test]
async fn with_a_certificate_both_sides_choose_the_version() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec![HOST.to_owned()]).unwrap();
    let pem = folder.path().join("tls.pem");
    let text = format!("{}{}", made.cert.pem(), made.signing_key.serialize_pem());
    std::fs::write(&pem, text).unwrap();
    let certificate = net::tls::CertificateFiles::open(&pem, &pem).unwrap();
    let front = Front { certificate: Some(certificate), ..Front::default() };
    let site = Site::open_behind("n1", &[backend("n1", "a")], None, limits(), front).await;
    let _a = site.replica("a");
    let roots = net::tls::roots([made.cert.der().clone()]).unwrap();
    for (offered, want) in
        [(&["h2", "http/1.1"][..], Some("h2")), (&["http/1.1"], Some("http/1.1")), (&[], None)]
    {
        let mut config = (*net::tls::web_client(roots.clone())).clone();
        config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = TcpStream::connect(site.address).await.unwrap();
        let mut stream = connector.connect(HOST.try_into().unwrap(), stream).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), want.map(str::as_bytes), "{offered:?}");
        if want == Some("h2") {
            let mut sender = open(stream).await;
            let got = said(&mut sender, request("GET", &format!("https://{HOST}/x"), "")).await;
            assert_eq!(got, "200 a: GET /x 0 127.0.0.1https");
        } else {
            let get = format!("GET /x HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
            stream.write_all(get.as_bytes()).await.unwrap();
            assert_eq!(read_answer(stream).await.1, "a: GET /x 0 127.0.0.1https");
        }
    }
}
