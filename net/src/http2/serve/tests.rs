use http::{StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::TokioExecutor;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    task::JoinHandle,
};

use super::*;

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

fn limits() -> Http2Limits {
    let minute = Duration::from_secs(60);
    Http2Limits {
        first_time_max: minute,
        idle_time_max: minute,
        take_time_max: minute,
        write_time_max: minute,
    }
}

/// A server of one connection, which answers `/stuck` never and everything else with a body of as
/// many bytes as the path says.
fn serve(
    limits: Http2Limits,
    requests: ConnectionLimits,
) -> (DuplexStream, Connections, JoinHandle<()>) {
    let (client, server) = duplex(1 << 16);
    let connections = Connections::new();
    let serving = connections.clone();
    let answer = service_fn(|request: Request<Incoming>| async move {
        if request.uri().path() == "/stuck" {
            std::future::pending::<()>().await;
        }
        let bytes = request.uri().path()[1..].parse().unwrap_or(0);
        Ok::<_, Infallible>(Response::new(Full::from(vec![b'x'; bytes])))
    });
    let serving = tokio::spawn(async move {
        serving.serve_http2(server, CLIENT, limits, Arc::new(requests), answer).await;
    });
    (client, connections, serving)
}

async fn open(stream: DuplexStream) -> SendRequest<Empty<Bytes>> {
    let io = TokioIo::new(stream);
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("http://a.example{path}")).body(Empty::new()).unwrap()
}

/// A client by hand: its preface, its settings, and `frames` for as long as they are taken. Ends
/// when the server closes.
async fn flood(mut stream: DuplexStream, frames: impl Iterator<Item = Vec<u8>>) -> usize {
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    stream.write_all(&bytes).await.unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    let reading = tokio::spawn(async move {
        let mut space = vec![0; 1 << 16];
        while matches!(read.read(&mut space).await, Ok(1..)) {}
    });
    let mut sent = 0;
    for frame in frames {
        if write.write_all(&frame).await.is_err() {
            break;
        }
        sent += 1;
    }
    timeout(Duration::from_secs(10), reading).await.expect("the server closes").unwrap();
    sent
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// `GET /stuck` with the fields of the static table and plain literals.
fn headers(stream: u32) -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x04, 6];
    block.extend(b"/stuck");
    block.extend([0x01, 1, b'a']);
    frame(1, 5, stream, &block)
}

#[tokio::test]
async fn requests_share_a_connection_and_bodies_come_whole() {
    let (stream, _connections, _serving) = serve(limits(), ConnectionLimits::in_all(9));
    let sender = open(stream).await;
    let asked = [0, 1, 16 << 10, (16 << 10) + 1, 1 << 20].map(|bytes| {
        let mut sender = sender.clone();
        async move {
            let response = sender.send_request(get(&format!("/{bytes}"))).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            if bytes > 0 {
                assert_eq!(response.headers()[header::CONTENT_LENGTH], bytes.to_string().as_str());
            }
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), bytes);
        }
    });
    for asked in asked.map(tokio::spawn) {
        asked.await.unwrap();
    }
}

#[tokio::test]
async fn a_head_is_refused_alone_and_too_many_requests_of_an_address_are() {
    let (stream, connections, serving) = serve(limits(), ConnectionLimits::new(9, 1));
    let mut sender = open(stream).await;
    let mut bad = get("/1");
    bad.headers_mut().insert("content_length", header::HeaderValue::from_static("1"));
    let refused = sender.send_request(bad).await.unwrap();
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    assert!(!refused.headers().contains_key(header::CONNECTION));
    let text = refused.into_body().collect().await.unwrap().to_bytes();
    assert!(text.starts_with(b"E_REQUEST: "), "{text:?}");
    let stuck = tokio::spawn(sender.send_request(get("/stuck")));
    let deadline = Instant::now() + Duration::from_secs(5);
    while sender.send_request(get("/1")).await.unwrap().status() == StatusCode::OK {
        assert!(Instant::now() < deadline, "a second request is too many");
    }
    stuck.abort();
    while sender.send_request(get("/1")).await.unwrap().status() != StatusCode::OK {
        assert!(Instant::now() < deadline, "what was reset gives its place back");
    }
    timeout(Duration::from_secs(5), connections.drain(Duration::from_secs(1))).await.unwrap();
    timeout(Duration::from_secs(5), serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn floods_of_frames_that_carry_nothing_end_the_connection() {
    let many = 100_000;
    fn odd(n: u32) -> u32 {
        2 * n + 1
    }
    let ping = (0..many).map(|_| frame(6, 0, 0, &[0; 8]));
    let settings = (0..many).map(|_| frame(4, 0, 0, &[]));
    let window = (0..many).map(|_| frame(8, 0, 0, &[0, 0, 0, 1]));
    let priority = (0..many).map(|_| frame(2, 0, 1, &[0, 0, 0, 3, 1]));
    let unknown = (0..many).map(|_| frame(0xbe, 0, 0, &[]));
    let empty = [headers(1)].into_iter().chain((0..many).map(|_| frame(0, 0, 1, &[])));
    let resets = (0..many).map(|n| [headers(odd(n)), frame(3, 0, odd(n), &[0, 0, 0, 8])].concat());
    let beyond = (0..many).map(|n| headers(odd(n)));
    let mut block = frame(1, 1, 1, &[0x82]);
    block.extend(frame(9, 0, 1, &[]));
    let continued = [block].into_iter().chain((0..many).map(|_| frame(9, 0, 1, &[])));
    let long = [frame(1, 1, 1, &[0x82])].into_iter();
    let long = long.chain((0..many).map(|_| frame(9, 0, 1, &[0; 16 << 10])));
    type Flood = Box<dyn Iterator<Item = Vec<u8>> + Send>;
    let floods: [(&str, Flood, usize); 10] = [
        ("long", Box::new(long), 20),
        ("ping", Box::new(ping), 8000),
        ("settings", Box::new(settings), 8000),
        ("window", Box::new(window), 8000),
        ("priority", Box::new(priority), 8000),
        ("unknown", Box::new(unknown), 8000),
        ("empty data", Box::new(empty), 8000),
        ("resets", Box::new(resets), 3000),
        ("streams", Box::new(beyond), 5000),
        ("continuations", Box::new(continued), 8000),
    ];
    for (name, frames, sent_max) in floods {
        let (stream, _connections, serving) = serve(limits(), ConnectionLimits::in_all(1000));
        // What was sent and not read yet is in the buffer of the pipe.
        let sent = flood(stream, frames).await;
        assert!(sent < sent_max, "{name}: {sent}");
        timeout(Duration::from_secs(10), serving).await.expect(name).unwrap();
    }
}

#[tokio::test]
async fn connections_that_ask_for_nothing_or_take_nothing_end() {
    let short = Duration::from_millis(200);
    let (stream, _connections, serving) =
        serve(Http2Limits { first_time_max: short, ..limits() }, ConnectionLimits::in_all(9));
    assert_eq!(flood(stream, std::iter::empty()).await, 0);
    serving.await.unwrap();
    // A head without an end is no request yet.
    let (stream, _connections, serving) =
        serve(Http2Limits { first_time_max: short, ..limits() }, ConnectionLimits::in_all(9));
    assert_eq!(flood(stream, [frame(1, 1, 1, &[0x82])].into_iter()).await, 1);
    serving.await.unwrap();
    let (stream, _connections, serving) =
        serve(Http2Limits { idle_time_max: short, ..limits() }, ConnectionLimits::in_all(9));
    let mut sender = open(stream).await;
    assert_eq!(sender.send_request(get("/1")).await.unwrap().status(), StatusCode::OK);
    timeout(Duration::from_secs(5), serving).await.expect("it was idle").unwrap();
    // A window that is never opened again: in the middle of a body, and at its end.
    for bytes in [1 << 20, 70_000] {
        let (stream, _connections, serving) =
            serve(Http2Limits { take_time_max: short, ..limits() }, ConnectionLimits::in_all(9));
        let mut sender = open_small(stream).await;
        let response = sender.send_request(get(&format!("/{bytes}"))).await.unwrap();
        timeout(Duration::from_secs(5), serving).await.expect("nothing was taken").unwrap();
        drop(response);
    }
}

/// A client with a window smaller than a body.
async fn open_small(stream: DuplexStream) -> SendRequest<Empty<Bytes>> {
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(65_535)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

#[tokio::test]
async fn a_drain_finishes_requests_and_cuts_off_those_that_do_not_end() {
    let (stream, connections, serving) = serve(limits(), ConnectionLimits::in_all(9));
    let mut sender = open(stream).await;
    let large = sender.send_request(get("/1048576")).await.unwrap();
    let stuck = tokio::spawn(sender.send_request(get("/stuck")));
    let draining = tokio::spawn(connections.drain(Duration::from_millis(500)));
    let body = large.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body.len(), 1 << 20, "what is under way is finished");
    timeout(Duration::from_secs(5), draining).await.expect("the drain ends").unwrap();
    assert!(stuck.await.unwrap().is_err());
    serving.await.unwrap();
}

#[tokio::test]
async fn the_preface_tells_http2_from_anything_else() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    for (pieces, want) in [
        (&[PREFACE][..], Some(true)),
        (&[&PREFACE[..5], &PREFACE[5..]], Some(true)),
        (&[b"POST / HTTP/1.1\r\n"], Some(false)),
        (&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r."], Some(false)),
        (&[b"PRI "], None),
        (&[], None),
    ] {
        let mut client = TcpStream::connect(address).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let asked =
            tokio::spawn(async move { is_http2(&server, Duration::from_millis(300)).await });
        for piece in pieces {
            client.write_all(piece).await.unwrap();
            sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(asked.await.unwrap(), want, "{pieces:?}");
    }
}
