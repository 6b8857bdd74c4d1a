use std::future::pending;

use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, duplex};

use super::*;

const MINUTE: Duration = Duration::from_secs(60);
const REST: Duration = Duration::from_millis(5);

/// Answers with the path and the body, `/large` with more than a socket takes and `/stuck` never.
async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    match head.uri.path() {
        "/large" => return Ok(Response::new(Full::from(vec![b'a'; 1 << 20]))),
        "/stuck" => pending().await,
        _ => {}
    }
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    Ok(Response::new(Full::from([head.uri.path().as_bytes(), &body].concat())))
}

fn limits() -> HttpLimits {
    HttpLimits::with_times(MINUTE, MINUTE)
}

#[tokio::test]
async fn a_connection_rests_between_two_requests_and_nowhere_else() {
    for (what, came, want) in [
        ("a request", "GET / HTTP/1.1\r\nhost: a\r\n\r\n", true),
        ("two at once", "GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n", true),
        ("a body", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nab", true),
        ("a body of nothing", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n", true),
        (
            "chunks",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
            true,
        ),
        ("a part of a head", "GET / HTTP/1.1\r\nho", false),
        ("a part of the next one", "GET / HTTP/1.1\r\nhost: a\r\n\r\nG", false),
        ("an empty line", "GET / HTTP/1.1\r\nhost: a\r\n\r\n\r\n", false),
        ("a part of a body", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nab", false),
        (
            "a part of chunks",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n",
            false,
        ),
        ("no response yet", "GET /stuck HTTP/1.1\r\nhost: a\r\n\r\n", false),
        (
            "none to the second",
            "GET / HTTP/1.1\r\nhost: a\r\n\r\nGET /stuck HTTP/1.1\r\nhost: a\r\n\r\n",
            false,
        ),
        ("a response that is not taken", "GET /large HTTP/1.1\r\nhost: a\r\n\r\n", false),
    ] {
        for at_once in [came.len(), 1, 16] {
            let (mut client, server) = duplex(1 << 10);
            let connections = Connections::new();
            let serving = Serving::new(&connections, limits(), REST, service_fn(echo));
            let (first, rest) = came.as_bytes().split_at(at_once);
            client.write_all(rest).await.unwrap();
            let resting = serving.serve_requests(server, first.to_vec());
            let time = if want { MINUTE } else { 20 * REST };
            let rests = timeout(time, resting).await.map(|stream| stream.is_some());
            assert_eq!(rests.ok(), want.then_some(true), "{what}, {at_once} bytes before");
        }
    }
}

async fn ask(client: &mut (impl AsyncRead + AsyncWrite + Unpin), bytes: &[u8], want: &str) {
    client.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(want.as_bytes()) {
        let byte = timeout(MINUTE, client.read_u8()).await;
        answer.push(byte.expect("it comes").expect("the connection stays"));
    }
}

#[tokio::test]
async fn a_connection_that_rested_goes_on() {
    let (mut client, server) = duplex(1 << 16);
    let serving = tokio::spawn(async move {
        let connections = Connections::new();
        Serving::new(&connections, limits(), REST, service_fn(echo)).serve(server).await;
    });
    for round in 0..3 {
        let (one, two) = (format!("/one-{round}"), format!("/two-{round}"));
        // Together, and the end of the second later.
        let head = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
        let both = head(&one) + &head(&two);
        let (now, later) = both.split_at(both.len() - 5);
        ask(&mut client, now.as_bytes(), &one).await;
        sleep(10 * REST).await;
        ask(&mut client, later.as_bytes(), &two).await;
        sleep(10 * REST).await;
        let body = vec![b'b'; 3 * FIRST_BYTES_MAX];
        let head =
            format!("POST /post HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len());
        let want = String::from_utf8([b"/post", &body[..]].concat()).unwrap();
        ask(&mut client, &[head.as_bytes(), &body].concat(), &want).await;
        sleep(10 * REST).await;
    }
    ask(&mut client, b"BAD\r\n\r\n", "METHOD TARGET VERSION\n").await;
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
    serving.await.unwrap();
}

#[tokio::test]
async fn a_connection_that_rests_ends_in_its_time_with_its_client_and_with_its_server() {
    for what in ["its time", "its client", "its server"] {
        let (mut client, server) = duplex(1 << 16);
        let connections = Connections::new();
        let (serving, began) = (connections.clone(), Instant::now());
        let second = Duration::from_secs(1);
        let serving = tokio::spawn(async move {
            let time_max = if what == "its time" { second } else { MINUTE };
            let limits = HttpLimits::with_times(time_max, MINUTE);
            Serving::new(&serving, limits, REST, service_fn(echo)).serve(server).await;
        });
        ask(&mut client, b"GET /one HTTP/1.1\r\nhost: a\r\n\r\n", "/one").await;
        sleep(10 * REST).await;
        match what {
            "its client" => client.shutdown().await.unwrap(),
            "its server" => connections.closing().cancel(),
            _ => {}
        }
        let end = timeout(MINUTE / 2, client.read(&mut [0; 8])).await;
        assert_eq!(end.expect(what).unwrap(), 0, "{what}");
        serving.await.unwrap();
        assert!(what != "its time" || began.elapsed() >= second, "not before its time");
    }
}
