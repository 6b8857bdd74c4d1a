//! Replicas that speak HTTP/2, as servers of gRPC do.

use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use http_body_util::{Empty, StreamBody, combinators::BoxBody};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::TokioExecutor;
use tokio::sync::mpsc;

use super::*;

type Body = BoxBody<Bytes, Infallible>;

fn http2_backend(node: &str, task: &str) -> Backend {
    Backend { protocol: spec::Protocol::Http2, ..backend(node, task) }
}

/// Frames that are sent one at a time.
fn frames() -> (mpsc::UnboundedSender<Frame<Bytes>>, Body) {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let frames =
        futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx).map(|frame| frame.map(Ok)));
    (sender, BoxBody::new(StreamBody::new(frames)))
}

/// A replica that says each piece again as it comes, and at the end how it was asked.
fn server(site: &Site, task: &'static str) -> JoinHandle<()> {
    let listener = site.socket(task);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = service_fn(|mut request: Request<Incoming>| async move {
                let said = |name: &str| {
                    let value = request.headers().get(name);
                    value.map_or("-", |value| value.to_str().unwrap()).to_owned()
                };
                let asked = format!(
                    "{} {} te={} timeout={} host={}",
                    request.method(),
                    request.uri(),
                    said("te"),
                    said("grpc-timeout"),
                    said("host"),
                );
                let (sender, body) = frames();
                tokio::spawn(async move {
                    let mut trailers = HeaderMap::new();
                    while let Some(Ok(frame)) = request.body_mut().frame().await {
                        match frame.into_data() {
                            Ok(data) => drop(sender.send(Frame::data(data))),
                            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
                        }
                    }
                    trailers.insert("grpc-status", HeaderValue::from_static("0"));
                    trailers.insert("margay-error", HeaderValue::from_static("E_CPU"));
                    trailers.insert("asked", asked.parse().unwrap());
                    let _ = sender.send(Frame::trailers(trailers));
                });
                let response = Response::builder().header("content-type", "application/grpc");
                Ok::<_, Infallible>(response.body(body).unwrap())
            });
            tokio::spawn(async move {
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    })
}

async fn open(site: &Site) -> SendRequest<Body> {
    let stream = TcpStream::connect(site.address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    sender
}

fn call(body: Body) -> Request<Body> {
    let request = Request::post(format!("http://{HOST}/pack.Service/Method"));
    let request = request.header("content-type", "application/grpc").header("te", "trailers");
    request.header("grpc-timeout", "5S").body(body).unwrap()
}

/// Speaks in turns with the server behind the ingress.
async fn converse(site: &Site) -> Result<HeaderMap, String> {
    let mut sender = open(site).await;
    let (speak, body) = frames();
    speak.send(Frame::data("one".into())).unwrap();
    let mut response = sender.send_request(call(body)).await.map_err(|error| error.to_string())?;
    if let Some(status) = response.headers().get("grpc-status") {
        return Err(format!("{status:?} {:?}", response.headers().get("grpc-message")));
    }
    let mut heard = async |want: &str| {
        let frame = timeout(Duration::from_secs(5), response.body_mut().frame()).await;
        let frame = frame.expect("a piece").expect("not the end").expect("no error");
        assert_eq!(frame.into_data().expect("not the trailers"), want);
    };
    heard("one").await;
    speak.send(Frame::data("two".into())).unwrap();
    heard("two").await;
    let mut trailers = HeaderMap::new();
    trailers.insert("mine", HeaderValue::from_static("yes"));
    trailers.insert("x-forwarded-for", HeaderValue::from_static("6.6.6.6"));
    speak.send(Frame::trailers(trailers)).unwrap();
    drop(speak);
    let end = timeout(Duration::from_secs(5), response.body_mut().frame()).await;
    let end = end.expect("an end").expect("trailers").expect("no error");
    Ok(end.into_trailers().expect("the last of it"))
}

#[tokio::test]
async fn a_call_streams_both_ways_with_trailers_both_ways() {
    let ca = Ca::new();
    let site = Site::open("n1", &[http2_backend("n1", "a")], Some(ca.ingress("n1"))).await;
    let there = Site::open("n2", &[http2_backend("n2", "b")], Some(ca.ingress("n2"))).await;
    there.route("n2", &[http2_backend("n2", "b")], &[("n1", site.peers)]);
    let (_a, _b) = (server(&site, "a"), server(&there, "b"));
    for (node, task) in [("n1", "a"), ("n2", "b")] {
        site.route("n1", &[http2_backend(node, task)], &[("n2", there.peers)]);
        let deadline = Instant::now() + Duration::from_secs(10);
        let trailers = loop {
            match converse(&site).await {
                Ok(trailers) => break trailers,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        };
        assert_eq!(trailers["grpc-status"], "0");
        assert_eq!(trailers["mine"], "yes", "trailers of the request arrive");
        assert!(!trailers.contains_key("x-forwarded-for"), "but no claims");
        assert!(!trailers.contains_key("margay-error"), "and nothing in the name of margay");
        let asked = trailers["asked"].to_str().unwrap();
        let want = format!("POST http://{HOST}/pack.Service/Method te=trailers timeout=5S host=-");
        assert_eq!(asked, want);
    }
}

#[tokio::test]
async fn a_stream_may_be_larger_than_a_body_and_pause_for_as_long_as_a_response() {
    let limits = Limits { idle_time_max: Duration::from_secs(5), ..limits() };
    let site = Site::open_with("n1", &[http2_backend("n1", "a")], None, limits).await;
    let _a = server(&site, "a");
    let mut sender = open(&site).await;
    let (speak, body) = frames();
    let mut response = sender.send_request(call(body)).await.unwrap();
    let piece = Bytes::from(vec![b'x'; 64 << 10]);
    let mut left = 3 * limits.body_bytes_max as usize;
    // Longer than a client may pause in the body of a page.
    tokio::time::sleep(limits.stall_time_max * 2).await;
    while left > 0 {
        speak.send(Frame::data(piece.clone())).unwrap();
        let mut heard = 0;
        while heard < piece.len() {
            let frame = timeout(Duration::from_secs(5), response.body_mut().frame()).await;
            heard += frame.unwrap().unwrap().unwrap().into_data().unwrap().len();
        }
        left = left.saturating_sub(piece.len());
    }
    drop(speak);
    let end = response.body_mut().frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(end["grpc-status"], "0");
}

#[tokio::test]
async fn clients_of_grpc_are_refused_in_its_own_words() {
    let site = Site::open("n1", &[], None).await;
    let mut sender = open(&site).await;
    let empty = || BoxBody::new(Empty::new());
    let response = sender.send_request(call(empty())).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "application/grpc");
    assert_eq!(response.headers()["grpc-status"], "14");
    let message = response.headers()["grpc-message"].to_str().unwrap();
    assert!(message.starts_with("E_STARTING: "), "{message}");
    // A silent server is left out as a frozen one of HTTP/1.1 is.
    site.route("n1", &[http2_backend("n1", "deaf")], &[]);
    let _deaf = site.socket("deaf");
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let response = sender.send_request(call(empty())).await.unwrap();
        let status = &response.headers()["grpc-status"];
        if status == "4" {
            break;
        }
        assert!(Instant::now() < deadline, "{status:?}");
    }
}

#[tokio::test]
async fn requests_share_connections_to_a_replica_and_outlive_one_that_is_closed() {
    let site = Site::open("n1", &[http2_backend("n1", "a")], None).await;
    let listener = site.socket("a");
    let opened = Arc::new(AtomicUsize::new(0));
    let counted = opened.clone();
    let close = Arc::new(tokio::sync::Notify::new());
    let closing = close.clone();
    let _a = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            let closing = closing.clone();
            tokio::spawn(async move {
                let answer = service_fn(|_: Request<Incoming>| async {
                    Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("ok")))
                });
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let serving = builder.serve_connection(TokioIo::new(stream), answer);
                tokio::select! {
                    _ = serving => {}
                    () = closing.notified() => {}
                }
            });
        }
    });
    let get = || async { site.get(HOST).await };
    let many = futures_util::future::join_all((0..30).map(|_| get())).await;
    assert!(
        many.iter().all(|(status, text)| *status == StatusCode::OK && text == "ok"),
        "{many:?}"
    );
    assert_eq!(opened.load(Ordering::SeqCst), 1, "clients of HTTP/1.1 share it too");
    close.notify_waiters();
    for _ in 0..10 {
        assert_eq!(get().await, (StatusCode::OK, "ok".to_owned()));
    }
    assert_eq!(opened.load(Ordering::SeqCst), 2);
}
