//! Replicas and nodes that take connections and answer nothing, on another node than the client's.

use super::*;
use crate::ingress::limits::COPIED_BYTES_MAX;

/// As in production, where a response may take longer than a frozen replica is waited for.
fn patient() -> Limits {
    Limits { response_time_max: Duration::from_secs(60), ..limits() }
}

/// The ingresses of two nodes that know each other, and the backends of the second.
async fn two_nodes(ca: &Ca, backends: &[Backend]) -> (Site, Site) {
    let here = Site::open_with("n1", &[], Some(ca.ingress("n1")), patient()).await;
    let there = Site::open_with("n2", &[], Some(ca.ingress("n2")), patient()).await;
    there.route("n2", backends, &[("n1", here.peers)]);
    here.route("n1", backends, &[("n2", there.peers)]);
    (here, there)
}

/// Counts the requests of the connections that wait at a frozen replica, once it is asked.
async fn thaw(listener: UnixListener) -> usize {
    let mut requests = 0;
    while let Ok(Ok((mut stream, _))) = timeout(Duration::from_millis(300), listener.accept()).await
    {
        let mut bytes = [0; 2048];
        let read = timeout(Duration::from_millis(300), stream.read(&mut bytes)).await;
        let read = read.ok().and_then(Result::ok).unwrap_or_default();
        requests += usize::from(String::from_utf8_lossy(&bytes[..read]).contains("host: cats"));
    }
    requests
}

async fn post(site: &Site, body: &str) -> (StatusCode, String) {
    let head = format!("POST / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n");
    let length = body.len();
    let mut stream = TcpStream::connect(site.address).await.unwrap();
    let request = format!("{head}content-length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(Duration::from_secs(30), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    (answer[9..12].parse().unwrap(), answer)
}

/// How long the slowest of so many requests took, all of which succeed.
async fn slowest_of(site: &Site, requests: usize) -> Duration {
    let mut slowest = Duration::ZERO;
    for _ in 0..requests {
        let began = Instant::now();
        let (status, text) = site.get(HOST).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        slowest = slowest.max(began.elapsed());
    }
    slowest
}

#[tokio::test]
async fn a_frozen_replica_of_another_node_is_left_out_and_its_node_is_not() {
    let ca = Ca::new();
    let both = [backend("n2", "frozen"), backend("n2", "b"), backend("n1", "a")];
    let (here, there) = two_nodes(&ca, &both).await;
    let frozen = there.socket("frozen");
    let (_a, (_b, of_b)) = (here.replica("a"), there.counting_replica("b"));
    let slowest = slowest_of(&here, 30).await;
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    of_b.store(0, Ordering::SeqCst);
    let slowest = slowest_of(&here, 40).await;
    assert!(slowest < Duration::from_millis(500), "it is still asked: {slowest:?}");
    assert!(of_b.load(Ordering::SeqCst) > 0, "its neighbour is left out as well");
    // It thaws, and is asked again.
    drop(frozen);
    let (_frozen, asked) = there.counting_replica("frozen");
    let deadline = Instant::now() + Duration::from_secs(5);
    while asked.load(Ordering::SeqCst) < 3 {
        slowest_of(&here, 1).await;
        assert!(Instant::now() < deadline, "it is not taken back");
    }
}

#[tokio::test]
async fn a_frozen_node_is_left_out_within_two_seconds() {
    let ca = Ca::new();
    let here = Site::open_with("n1", &[], Some(ca.ingress("n1")), patient()).await;
    // Its kernel makes connections, and its ingress takes none.
    let frozen = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backends = [backend("n2", "b"), backend("n2", "c"), backend("n1", "a")];
    let _a = here.replica("a");
    here.route("n1", &backends, &[("n2", frozen.local_addr().unwrap())]);
    let began = Instant::now();
    let clients = (0..8).map(|_| here.get(HOST));
    for (status, text) in futures_util::future::join_all(clients).await {
        assert!(status == StatusCode::OK && text.starts_with('a'), "{status} {text}");
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let slowest = slowest_of(&here, 20).await;
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
}

#[tokio::test]
async fn a_post_at_a_frozen_replica_of_another_node_is_sent_once_and_told_once() {
    let ca = Ca::new();
    let (here, there) = two_nodes(&ca, &[backend("n2", "frozen")]).await;
    let frozen = there.socket("frozen");
    let (status, answer) = post(&here, "ab").await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT, "{answer}");
    let told = "stopped answering: the request may have been carried out";
    assert_eq!(answer.matches(told).count(), 1, "{answer}");
    assert!(!answer.contains("x-margay-hop"), "{answer}");
    assert_eq!(thaw(frozen).await, 1);
}

#[tokio::test]
async fn a_request_that_reached_no_replica_goes_to_another_with_its_small_body() {
    let ca = Ca::new();
    let (here, there) = two_nodes(&ca, &[backend("n2", "gone"), backend("n1", "a")]).await;
    drop(there.socket("gone"));
    let (_a, asked) = here.counting_replica("a");
    here.get_until(StatusCode::OK).await;
    asked.store(0, Ordering::SeqCst);
    let largest = "x".repeat(COPIED_BYTES_MAX);
    for body in ["", "two", &largest].repeat(4) {
        let (status, answer) = post(&here, body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert!(answer.contains(&format!("a: POST / {} ", body.len())), "{answer}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 12);
    // A larger one is not kept: it is answered, or told that it may come again.
    let larger = "x".repeat(COPIED_BYTES_MAX + 1);
    for _ in 0..4 {
        let (status, answer) = post(&here, &larger).await;
        let is_told = status == StatusCode::SERVICE_UNAVAILABLE && answer.contains("retry-after");
        assert!(status == StatusCode::OK || is_told, "{answer}");
    }
}

#[tokio::test]
async fn another_node_asks_only_about_replicas_that_are_here_and_may_be_its_own() {
    let ca = Ca::new();
    let site = Site::open("n2", &[], Some(ca.ingress("n2"))).await;
    let _b = site.replica("b");
    let _frozen = site.socket("frozen");
    let mut table = routes(&[backend("n2", "b"), backend("n2", "frozen")], &[("n1", site.peers)]);
    let name = |task: &str| {
        let name = socket_name(&"me".parse().unwrap(), &task.parse().unwrap(), spec::Port::tcp(80));
        name.trim_end_matches(".sock").to_owned()
    };
    for (trust, name, want) in [
        (PeerTrust::Pool, name("b"), 204),
        (PeerTrust::Pool, name("frozen"), 504),
        (PeerTrust::Tenant("me".parse().unwrap()), name("b"), 204),
        (PeerTrust::Tenant("other".parse().unwrap()), name("b"), 400),
        (PeerTrust::Pool, name("none"), 400),
    ] {
        table.peers.insert("n1".parse().unwrap(), trust.clone());
        site.share(table.clone(), &[]);
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let mut peer = site.connect_as(&ca.ingress("n1")).await;
            let probe = format!("GET / HTTP/1.0\r\nx-margay-hop: {name}\r\n\r\n");
            peer.write_all(probe.as_bytes()).await.unwrap();
            let (status, text) = read_answer(peer).await;
            if status.as_u16() == want {
                break;
            }
            assert!(Instant::now() < deadline, "{trust:?} {name}: {status} {text}");
        }
    }
    // No client is told anything of the kind.
    let probe = format!("GET / HTTP/1.0\r\nx-margay-hop: {}\r\n\r\n", name("b"));
    assert_eq!(ask(site.address, &probe).await.0, StatusCode::BAD_REQUEST);
}
