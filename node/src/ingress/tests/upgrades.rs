//! Connections that become something else than HTTP.

use super::*;

/// A replica that agrees to speak `protocol`, and then says everything again.
fn echo(site: &Site, task: &'static str, protocol: &'static str) -> JoinHandle<()> {
    let listener = site.socket(task);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let head = read_head(&mut stream).await.to_ascii_lowercase();
                assert!(head.contains("\r\nconnection: upgrade\r\n"), "{head}");
                assert!(head.contains("\r\nsec-websocket-key: abc\r\n"), "{head}");
                let agreed = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\n\
                     upgrade: {protocol}\r\nsec-websocket-accept: xyz\r\n\
                     margay-error: E_CPU\r\n\r\n"
                );
                stream.write_all(agreed.as_bytes()).await.unwrap();
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    })
}

async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        match timeout(Duration::from_secs(5), stream.read_u8()).await.expect("a head") {
            Ok(byte) => bytes.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn wish() -> String {
    format!(
        "GET /chat HTTP/1.1\r\nhost: {HOST}\r\nconnection: keep-alive, Upgrade\r\n\
         upgrade: websocket\r\nsec-websocket-key: abc\r\n\r\n"
    )
}

/// Asks, and says `hello` once the answer is there.
async fn ask_and_speak(site: &Site) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(site.address).await.unwrap();
    stream.write_all(wish().as_bytes()).await.unwrap();
    let head = read_head(&mut stream).await;
    (head, stream)
}

#[tokio::test]
async fn a_websocket_goes_through_to_the_replica_and_back() {
    let ca = Ca::new();
    let site = Site::open("n1", &[backend("n1", "a")], Some(ca.ingress("n1"))).await;
    let there = Site::open("n2", &[backend("n2", "b")], Some(ca.ingress("n2"))).await;
    there.route("n2", &[backend("n2", "b")], &[("n1", site.peers)]);
    let (_a, _b) = (echo(&site, "a", "websocket"), echo(&there, "b", "WebSocket"));
    for node in ["n1", "n2"] {
        let task = if node == "n1" { "a" } else { "b" };
        site.route("n1", &[backend(node, task)], &[("n2", there.peers)]);
        let deadline = Instant::now() + Duration::from_secs(10);
        let (head, mut stream) = loop {
            let (head, stream) = ask_and_speak(&site).await;
            if head.starts_with("HTTP/1.1 101 ") {
                break (head, stream);
            }
            assert!(Instant::now() < deadline, "{head}");
        };
        let head = head.to_ascii_lowercase();
        for line in ["connection: upgrade", "upgrade: websocket", "sec-websocket-accept: xyz"] {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{line}: {head}");
        }
        assert!(!head.contains("margay-error"), "{head}");
        // Not HTTP any more: neither the bytes of a request nor what no request may have.
        let said = b"\0\xffGET / HTTP/1.1\r\nhost: a\nx\r\n\r\n";
        stream.write_all(said).await.unwrap();
        let mut heard = vec![0; said.len()];
        timeout(Duration::from_secs(5), stream.read_exact(&mut heard)).await.unwrap().unwrap();
        assert_eq!(heard, said);
        stream.shutdown().await.unwrap();
        let end = timeout(Duration::from_secs(5), stream.read(&mut heard)).await.unwrap();
        assert!(matches!(end, Ok(0)), "its end goes through as well: {end:?}");
    }
}

#[tokio::test]
async fn a_replica_declines_as_it_likes_and_agrees_to_what_was_asked_alone() {
    let site = Site::open("n1", &[backend("n1", "a")], None).await;
    let _a = site.replica("a");
    let (head, _stream) = ask_and_speak(&site).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let site = Site::open("n1", &[backend("n1", "b")], None).await;
    let _b = echo(&site, "b", "telnet");
    let (head, _stream) = ask_and_speak(&site).await;
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
}

#[tokio::test]
async fn an_upgraded_connection_ends_when_nothing_moves() {
    let idle_time_max = Duration::from_millis(400);
    let limits = Limits { idle_time_max, ..limits() };
    let site = Site::open_with("n1", &[backend("n1", "a")], None, limits).await;
    let _a = echo(&site, "a", "websocket");
    let (head, mut stream) = ask_and_speak(&site).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let began = Instant::now();
    while began.elapsed() < idle_time_max * 3 {
        stream.write_all(b"x").await.unwrap();
        let mut heard = [0];
        timeout(Duration::from_secs(5), stream.read_exact(&mut heard)).await.unwrap().unwrap();
        tokio::time::sleep(idle_time_max / 4).await; // the pace of a client that is there
    }
    let mut rest = Vec::new();
    let end = timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await;
    assert!(end.is_ok() && rest.is_empty(), "it ends when nothing moves");
}
