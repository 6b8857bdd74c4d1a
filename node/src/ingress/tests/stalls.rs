//! Replicas and clients that stop in the middle, and requests that go in circles.

use super::*;

/// Ends what pauses within half a second.
fn hasty() -> Limits {
    Limits { idle_time_max: Duration::from_millis(500), ..limits() }
}

#[tokio::test]
async fn a_replica_that_stalls_in_head_body_or_trailer_is_cut_off() {
    for (sent, want, is_begun) in [
        ("HTTP/1.1 200 OK\r\nx: ", StatusCode::GATEWAY_TIMEOUT, false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello", StatusCode::OK, true),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello", StatusCode::OK, true),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx: ",
            StatusCode::OK,
            true,
        ),
    ] {
        let site = Site::open_with("n1", &[backend("n1", "a")], None, hasty()).await;
        let listener = site.socket("a");
        let stalled = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 1024];
                let read = stream.read(&mut head).await.unwrap();
                if !String::from_utf8_lossy(&head[..read]).contains("host: ") {
                    let _ = stream.write_all(b"HTTP/1.1 400 Bad\r\n\r\n").await; // a probe
                    continue;
                }
                stream.write_all(sent.as_bytes()).await.unwrap();
                // Ends when the ingress closes the connection.
                let rest = timeout(Duration::from_secs(10), stream.read(&mut head)).await;
                return rest.expect("the connection is cut").unwrap_or(0);
            }
        });
        let began = Instant::now();
        let (status, text) = site.get(HOST).await;
        assert_eq!(status, want, "{sent:?}: {text}");
        assert!(began.elapsed() < Duration::from_secs(4), "{sent:?}");
        assert_eq!(text.contains("hello"), is_begun, "{sent:?}: {text}");
        assert!(!text.ends_with("0\r\n\r\n"), "a client sees that it is not whole: {text}");
        assert_eq!(stalled.await.unwrap(), 0, "{sent:?}: nothing more is sent to it");
    }
}

#[tokio::test]
async fn a_client_that_goes_away_at_any_byte_ends_its_request_at_the_replica() {
    let body = "content-length: 10\r\n\r\nhello";
    let request = format!("POST / HTTP/1.1\r\nhost: {HOST}\r\n");
    for (sent, answered) in [
        (format!("{request}content-length: 0\r\n\r\n"), ""), // waits for the head
        (format!("{request}{body}"), ""),                    // in its upload
        (format!("{request}content-length: 0\r\n\r\n"), "HTTP/1.1 200 OK\r\n"),
        (
            format!("{request}content-length: 0\r\n\r\n"),
            "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello",
        ),
    ] {
        let limits = Limits { response_time_max: Duration::from_secs(60), ..limits() };
        let limits = Limits { stall_time_max: Duration::from_secs(60), ..limits };
        let site = Site::open_with("n1", &[backend("n1", "a")], None, limits).await;
        let listener = site.socket("a");
        let mut client = TcpStream::connect(site.address).await.unwrap();
        client.write_all(sent.as_bytes()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = vec![0; 4096];
        assert!(stream.read(&mut seen).await.unwrap() > 0);
        stream.write_all(answered.as_bytes()).await.unwrap();
        if answered.ends_with("hello") {
            assert!(client.read(&mut seen).await.unwrap() > 0);
        }
        drop(client);
        let ended = timeout(Duration::from_secs(5), async {
            while stream.read(&mut seen).await.is_ok_and(|read| read > 0) {}
        });
        ended.await.unwrap_or_else(|_| panic!("{sent:?} {answered:?}: it goes on"));
    }
}

#[tokio::test]
async fn services_that_call_each_other_in_a_circle_get_508() {
    let site = Site::open("n1", &[backend("n1", "a")], None).await;
    let (listener, ingress) = (site.socket("a"), site.address);
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    // Sends on what it is asked, with the number that it was told.
    let _a = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let counted = counted.clone();
            tokio::spawn(async move {
                let mut head = [0; 2048];
                let read = stream.read(&mut head).await.unwrap();
                let head = String::from_utf8_lossy(&head[..read]).into_owned();
                let hops = head.lines().find(|line| line.starts_with("margay-hops: "));
                counted.fetch_add(1, Ordering::SeqCst);
                let hops = hops.unwrap_or("x: y");
                let next = format!(
                    "GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n{hops}\r\n\r\n"
                );
                let (status, text) = ask(ingress, &next).await;
                let (code, length) = (status.as_u16(), text.len());
                let answer = format!(
                    "HTTP/1.1 {code} X\r\nconnection: close\r\n\
                     content-length: {length}\r\n\r\n{text}"
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    let (status, text) = site.get(HOST).await;
    assert_eq!(status, StatusCode::LOOP_DETECTED, "{text}");
    assert!(text.contains("E_LOOP") && text.contains("goes in circles"), "{text}");
    assert_eq!(calls.load(Ordering::SeqCst), 16);
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// Says `first`, and then `rest` again and again, a piece every twentieth of a second, until the
/// connection ends. Returns how long that took.
async fn drip(site: &Site, first: &[u8], rest: &[u8]) -> Duration {
    let began = Instant::now();
    let stream = TcpStream::connect(site.address).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let first = first.to_vec();
    let rest = rest.to_vec();
    let dripping = tokio::spawn(async move {
        if write.write_all(&first).await.is_err() {
            return;
        }
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if !rest.is_empty() && write.write_all(&rest).await.is_err() {
                return;
            }
        }
    });
    let mut said = Vec::new();
    let ended = timeout(Duration::from_secs(10), read.read_to_end(&mut said)).await;
    dripping.abort();
    assert!(ended.is_ok(), "it goes on: {}", first_words(&said));
    began.elapsed()
}

fn first_words(said: &[u8]) -> String {
    said[..said.len().min(200)].escape_ascii().to_string()
}

#[tokio::test]
async fn a_client_that_sends_a_byte_now_and_then_holds_no_connection() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const CONTINUATION: u8 = 9;
    // `:method POST`, `:scheme http`, `:path /`, `:authority` as it is.
    let fields = [&[0x83, 0x86, 0x84, 0x41, HOST.len() as u8], HOST.as_bytes()].concat();
    let open = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    let unfinished = [&open[..], &frame(HEADERS, 0, 1, &fields)].concat();
    let with_body = [&open[..], &frame(HEADERS, 4, 1, &fields)].concat();
    let site = Site::open_with("n1", &[backend("n1", "a")], None, hasty()).await;
    let _a = site.replica("a");
    let post = format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 100000\r\n\r\n");
    for (what, first, rest) in [
        ("nothing", &b""[..], &b""[..]),
        ("a line without an end", b"G", b"E"),
        ("a head without an end", b"GET / HTTP/1.1\r\n", b"a: b\r\n"),
        ("a body", post.as_bytes(), b"x"),
        ("half a preface", &PREFACE[..10], b""),
        ("a preface alone", PREFACE, b""),
        ("a preface and pings", &open, &frame(PING, 0, 0, &[0; 8])),
        ("a head of HTTP/2 without an end", &unfinished, b""),
        ("a head of HTTP/2 in pieces", &unfinished, &frame(CONTINUATION, 0, 1, &[])),
        ("a body of HTTP/2", &with_body, &frame(DATA, 0, 1, b"x")),
    ] {
        let took = drip(&site, first, rest).await;
        assert!(took < Duration::from_secs(8), "{what}: {took:?}");
        // Others are served meanwhile, and after.
        assert_eq!(site.get(HOST).await.0, StatusCode::OK, "{what}");
    }
}
