//! The ingress with replicas that do what replicas can do: answer, die, hang, lie.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use net::Descriptors;
use spec::{
    NodeId,
    wire::{Backend, PeerTrust, RouteTable},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener},
    task::JoinHandle,
    time::timeout,
};

use super::{
    Front, IngressFolder, Limits, Listeners, Shared, limits::DESCRIPTORS_WANTED, serve, socket_name,
};
use crate::identity::{IngressIdentity, tests::Ca};

mod calls;
mod datagrams;
mod frozen;
mod front;
mod host_certificates;
mod http2;
mod layer4;
mod rules;
mod seen;
mod shares;
mod stalls;
mod upgrades;
mod wake;

pub(super) struct Site {
    _folder: tempfile::TempDir,
    pub folder: IngressFolder,
    pub address: SocketAddr,
    pub peers: SocketAddr,
    _serving: JoinHandle<()>,
}

pub(super) const HOST: &str = "cats.main.localhost";

fn limits() -> Limits {
    Limits {
        head_time_max: Duration::from_millis(300),
        stall_time_max: Duration::from_millis(300),
        response_time_max: Duration::from_secs(2),
        body_bytes_max: 1 << 20,
        body_bytes_per_second_min: 1 << 20,
        drain_time_max: Duration::from_millis(200),
        ..Limits::default()
    }
}

pub(super) fn backend(node: &str, task: &str) -> Backend {
    Backend {
        node: node.parse().unwrap(),
        tenant: "me".parse().unwrap(),
        task: task.parse().unwrap(),
        container_port: 80,
        newest: false,
        protocol: spec::Protocol::Http,
    }
}

impl Site {
    pub async fn open(node: &str, backends: &[Backend], identity: Option<IngressIdentity>) -> Self {
        Self::open_with(node, backends, identity, limits()).await
    }

    pub async fn open_with(
        node: &str,
        backends: &[Backend],
        identity: Option<IngressIdentity>,
        limits: Limits,
    ) -> Self {
        Self::open_behind(node, backends, identity, limits, Front::default()).await
    }

    async fn open_behind(
        node: &str,
        backends: &[Backend],
        identity: Option<IngressIdentity>,
        limits: Limits,
        front: Front,
    ) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let folder = IngressFolder::at(temporary.path().join("ingress"));
        folder.make().unwrap();
        if let Some(identity) = &identity {
            folder.write_identity(identity).unwrap();
        }
        write_routes(&folder, node, backends, &[]);
        let bind = || async { TcpListener::bind("127.0.0.1:0").await.unwrap() };
        let (listener, peers) = (bind().await, bind().await);
        let (address, peer_address) = (listener.local_addr().unwrap(), peers.local_addr().unwrap());
        let inside = folder.listen_inside().unwrap();
        inside.set_nonblocking(true).unwrap();
        let inside = UnixListener::from_std(inside).unwrap();
        let listeners = Listeners {
            folder: folder.path().to_owned(),
            clients: listener,
            peers: Some(peers),
            inside: Some(inside),
            limits,
            told: Some(super::server::Told::open(&folder).unwrap()),
            front,
        };
        let serving = tokio::spawn(serve(listeners, std::future::pending()));
        Self { _folder: temporary, folder, address, peers: peer_address, _serving: serving }
    }

    fn route(&self, node: &str, backends: &[Backend], ingresses: &[(&str, SocketAddr)]) {
        write_routes(&self.folder, node, backends, ingresses);
    }

    /// The same on a machine that opens no internal network, with nodes of tenants.
    pub fn share(&self, routes: RouteTable, networks: &[&str]) {
        let networks = networks.iter().map(|network| network.parse().unwrap()).collect();
        let node = "n2".parse().unwrap();
        self.folder.write_shared(&Shared { version: 1, node, routes, networks }).unwrap();
    }

    fn socket(&self, task: &str) -> UnixListener {
        self.socket_at(task, spec::Port::tcp(80))
    }

    fn socket_at(&self, task: &str, port: spec::Port) -> UnixListener {
        let name = socket_name(&"me".parse().unwrap(), &task.parse().unwrap(), port);
        let listener = self.folder.listen(&name).unwrap();
        listener.set_nonblocking(true).unwrap();
        UnixListener::from_std(listener).unwrap()
    }

    /// A replica that answers with its name and what it was asked.
    pub fn replica(&self, task: &'static str) -> JoinHandle<()> {
        self.counting_replica(task).0
    }

    /// The same, and how many requests have reached it.
    fn counting_replica(&self, task: &'static str) -> (JoinHandle<()>, Arc<AtomicUsize>) {
        let listener = self.socket(task);
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        let replica = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let counted = counted.clone();
                let answer = service_fn(move |request: Request<Incoming>| {
                    counted.fetch_add(1, Ordering::SeqCst);
                    async move {
                        let head = format!("{} {}", request.method(), request.uri());
                        let said = |name: &str| {
                            let value = request.headers().get(name);
                            value.map(|value| value.to_str().unwrap().to_owned())
                        };
                        let forwarded = said("x-forwarded-for");
                        let scheme = said("x-forwarded-proto").filter(|scheme| scheme == "https");
                        let body = request.into_body().collect().await;
                        let length = body.map(|body| body.to_bytes().len()).unwrap_or_default();
                        let text =
                            format!("{task}: {head} {length} {}", forwarded.unwrap_or_default());
                        let text = text + scheme.as_deref().unwrap_or_default();
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
                    }
                });
                tokio::spawn(async move {
                    let _ =
                        http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        (replica, asked)
    }

    /// Asks until the answer has this status: routes are followed soon, not at once.
    pub async fn get_until(&self, want: StatusCode) -> String {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let (status, text) = self.get(HOST).await;
            if status == want {
                return text;
            }
            assert!(Instant::now() < deadline, "{status}, not {want}: {text}");
        }
    }

    /// Connects as another node.
    pub async fn connect_as(
        &self,
        identity: &IngressIdentity,
    ) -> impl AsyncRead + AsyncWrite + Unpin + use<> {
        let stream = TcpStream::connect(self.peers).await.unwrap();
        let tls = tokio_rustls::TlsConnector::from(identity.client().unwrap());
        tls.connect(net::tls::ingress(&"n2".parse().unwrap()), stream).await.unwrap()
    }

    pub async fn get(&self, host: &str) -> (StatusCode, String) {
        ask(
            self.address,
            &format!("GET /x?y=1 HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"),
        )
        .await
    }
}

fn write_routes(
    folder: &IngressFolder,
    node: &str,
    backends: &[Backend],
    ingresses: &[(&str, SocketAddr)],
) {
    let routes = routes(backends, ingresses);
    let networks = vec!["127.0.0.0/8".parse().unwrap()];
    let node = node.parse().unwrap();
    folder.write_shared(&Shared { version: 1, node, routes, networks }).unwrap();
}

/// A table whose nodes are all of the pool.
pub(super) fn routes(backends: &[Backend], ingresses: &[(&str, SocketAddr)]) -> RouteTable {
    let ingresses: BTreeMap<NodeId, String> =
        ingresses.iter().map(|(node, at)| (node.parse().unwrap(), at.to_string())).collect();
    let peers = ingresses.keys().map(|node| (node.clone(), PeerTrust::Pool)).collect();
    let hosts = BTreeMap::from([(HOST.to_owned(), backends.to_vec())]);
    RouteTable { version: 1, hosts, ingresses, peers, ..RouteTable::default() }
}

/// Sends bytes as they are, and reads to the end.
async fn ask(address: SocketAddr, text: &str) -> (StatusCode, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    read_answer(stream).await
}

pub(super) async fn read_answer(mut stream: impl AsyncRead + Unpin) -> (StatusCode, String) {
    let mut bytes = Vec::new();
    let _ = timeout(Duration::from_secs(5), stream.read_to_end(&mut bytes)).await.expect("an end");
    let text = String::from_utf8(bytes).unwrap();
    let status = text.get(9..12).and_then(|s| s.parse().ok()).unwrap_or(StatusCode::IM_A_TEAPOT);
    (status, text.split_once("\r\n\r\n").map_or(text.clone(), |(_, body)| body.to_owned()))
}

#[tokio::test]
async fn a_request_reaches_a_replica_of_its_host_and_names_its_sender() {
    let site = Site::open("n1", &[backend("n1", "a")], None).await;
    let _a = site.replica("a");
    assert_eq!(
        site.get("CATS.main.localhost:8000").await,
        (StatusCode::OK, "a: GET /x?y=1 0 127.0.0.1".to_owned())
    );
    let (status, text) = site.get("dogs.main.localhost").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(text.contains("no service here answers for the host dogs.main.localhost"), "{text}");
    let post = format!(
        "POST / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello"
    );
    assert_eq!(ask(site.address, &post).await.1, "a: POST / 5 127.0.0.1");
}

#[tokio::test]
async fn a_service_without_a_ready_copy_is_starting() {
    let site = Site::open("n1", &[], None).await;
    let (status, text) = site.get(HOST).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(text.contains("is starting: no copy of it is ready yet"), "{text}");
    site.route("n1", &[backend("n1", "a")], &[]);
    let _a = site.replica("a");
    site.get_until(StatusCode::OK).await;
}

#[tokio::test]
async fn requests_spread_over_replicas_and_follow_new_routes() {
    let site = Site::open("n1", &[backend("n1", "a"), backend("n1", "b")], None).await;
    let (_a, _b) = (site.replica("a"), site.replica("b"));
    let mut counts = BTreeMap::new();
    for _ in 0..40 {
        let (_, text) = site.get(HOST).await;
        *counts.entry(text[..1].to_owned()).or_insert(0) += 1;
    }
    assert!(counts["a"] > 5 && counts["b"] > 5, "{counts:?}");
    site.route("n1", &[backend("n1", "b")], &[]);
    let deadline = Instant::now() + Duration::from_secs(2);
    let mut in_a_row = 0;
    while in_a_row < 20 {
        in_a_row = if site.get(HOST).await.1.starts_with('b') { in_a_row + 1 } else { 0 };
        assert!(Instant::now() < deadline, "the new routes are not followed");
    }
}

#[tokio::test]
async fn a_replica_that_cannot_be_reached_costs_no_request() {
    let site = Site::open("n1", &[backend("n1", "gone"), backend("n1", "b")], None).await;
    drop(site.socket("gone"));
    let _b = site.replica("b");
    for _ in 0..20 {
        assert_eq!(site.get(HOST).await.0, StatusCode::OK);
    }
    // Without any replica the client is told within a second or so, and one that comes back in time
    // is used.
    site.route("n1", &[backend("n1", "gone"), backend("n1", "late")], &[]);
    let late = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(site.replica("late")); // detached, not ended
    };
    let (answer, ()) = tokio::join!(site.get(HOST), late);
    assert_eq!(answer.0, StatusCode::OK, "{}", answer.1);
    site.route("n1", &[backend("n1", "gone")], &[]);
    let text = site.get_until(StatusCode::SERVICE_UNAVAILABLE).await;
    assert!(text.contains("no replica of cats.main.localhost"), "{text}");
}

#[tokio::test]
async fn a_get_is_sent_again_when_its_replica_dies_and_a_post_is_not() {
    let site = Site::open("n1", &[backend("n1", "a")], None).await;
    let listener = site.socket("a");
    let deaths = Arc::new(AtomicUsize::new(0));
    let counted = deaths.clone();
    // Takes the first request on each of the first two connections and drops it; then behaves.
    let _a = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = [0; 1024];
            let read = stream.read(&mut bytes).await.unwrap();
            if counted.fetch_add(1, Ordering::SeqCst) < 2 {
                continue;
            }
            assert!(read > 0);
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
                .await
                .unwrap();
        }
    });
    assert_eq!(site.get(HOST).await, (StatusCode::OK, "ok".to_owned()));
    deaths.store(0, Ordering::SeqCst);
    let post = format!(
        "POST / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    );
    let (status, text) = ask(site.address, &post).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY, "{text}");
    assert!(text.contains("E_WORKER_LOST"), "{text}");
    assert_eq!(
        deaths.load(Ordering::SeqCst),
        1,
        "a request that may have had an effect is sent once"
    );
}

#[tokio::test]
async fn what_is_too_slow_or_too_large_is_ended() {
    let site = Site::open("n1", &[backend("n1", "a")], None).await;
    let _a = site.replica("a");
    let big = format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 9999999\r\n\r\n");
    assert_eq!(ask(site.address, &big).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    // A head that never ends, a body that never comes, nothing at all: each connection is closed.
    for text in [
        "GET / HTTP/1.1\r\nx: y\r\n",
        &format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 9\r\n\r\nab"),
        "",
    ] {
        let began = Instant::now();
        ask(site.address, text).await;
        assert!(began.elapsed() < Duration::from_secs(4), "{text:?}");
    }
    // A replica that never answers.
    site.route("n1", &[backend("n1", "deaf")], &[]);
    let _deaf = site.socket("deaf");
    site.get_until(StatusCode::GATEWAY_TIMEOUT).await;
}

#[tokio::test]
async fn an_upload_may_take_longer_than_a_response_unless_the_replica_takes_none_of_it() {
    let time_max = Duration::from_millis(500);
    let limits = Limits {
        response_time_max: time_max,
        stall_time_max: Duration::from_secs(5), // the clients of this test are honest
        body_bytes_per_second_min: 1024,
        body_bytes_max: 64 << 20,
        ..limits()
    };
    let site = Site::open_with("n1", &[backend("n1", "a")], None, limits).await;
    let _a = site.replica("a");
    let head = |bytes: usize| {
        format!(
            "POST / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\
             content-length: {bytes}\r\n\r\n"
        )
    };
    let (began, pieces) = (Instant::now(), 20);
    let mut stream = TcpStream::connect(site.address).await.unwrap();
    stream.write_all(head(pieces * 1024).as_bytes()).await.unwrap();
    // The pace of a client: a piece for each tick, over three times what an answer may take.
    let mut ticks = tokio::time::interval(time_max * 3 / pieces as u32);
    for _ in 0..pieces {
        ticks.tick().await;
        stream.write_all(&[b'x'; 1024]).await.unwrap();
    }
    let (status, text) = read_answer(stream).await;
    assert!(began.elapsed() > time_max * 2, "the upload was too quick to show anything");
    assert_eq!((status, text.as_str()), (StatusCode::OK, "a: POST / 20480 127.0.0.1"));
    // A replica that takes the connection and none of the body: more is sent than all buffers hold.
    site.route("n1", &[backend("n1", "deaf")], &[]);
    let _deaf = site.socket("deaf");
    site.get_until(StatusCode::GATEWAY_TIMEOUT).await;
    let stream = TcpStream::connect(site.address).await.unwrap();
    let (read, mut write) = stream.into_split();
    let flood = tokio::spawn(async move {
        write.write_all(head(64 << 20).as_bytes()).await.unwrap();
        let piece = vec![b'x'; 1 << 20];
        while write.write_all(&piece).await.is_ok() {}
    });
    let (status, text) = read_answer(read).await;
    flood.abort();
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT, "{text}");
}

#[tokio::test]
async fn two_requests_in_one_are_refused_or_kept_apart() {
    let site = Site::open("n1", &[backend("n1", "a")], None).await;
    let (_a, asked) = site.counting_replica("a");
    for (text, want) in [
        (format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nhost: evil\r\n\r\n"), 400),
        (format!("GET http://evil/ HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n"), 400),
        ("GET / HTTP/1.1\r\nconnection: close\r\n\r\n".to_owned(), 400),
        (
            format!(
                "POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\na"
            ),
            400,
        ),
        (format!("GET / HTTP/1.1\r\nhost : {HOST}\r\n\r\n"), 400),
    ] {
        assert_eq!(ask(site.address, &text).await.0.as_u16(), want, "{text}");
    }
    // A length and chunks at once, and a chunk that is none.
    let chunked = format!(
        "POST / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\ntransfer-encoding: chunked\r\n"
    );
    let smuggled = format!("0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    let both = ask(site.address, &format!("{chunked}content-length: 4\r\n\r\n{smuggled}")).await;
    assert_eq!(both.0, StatusCode::BAD_REQUEST, "{}", both.1);
    assert_eq!(asked.load(Ordering::SeqCst), 0, "none of these is for a replica");
    let broken = ask(site.address, &format!("{chunked}\r\n5\r\nhello!\r\n{smuggled}")).await;
    assert_eq!(broken.0, StatusCode::BAD_REQUEST, "{}", broken.1);
    assert!(broken.1.contains("E_REQUEST"), "the client's fault, not the replica's: {}", broken.1);
    // A body in chunks stays with its request, whatever the method.
    asked.store(0, Ordering::SeqCst);
    let get = format!(
        "GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\
         transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    );
    assert_eq!(ask(site.address, &get).await.1, "a: GET / 5 127.0.0.1");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn one_address_takes_a_part_of_the_connections_and_no_more() {
    // With few descriptors an address has less than its limit says.
    let share = |max: &usize| Descriptors::allowed().share(*max, DESCRIPTORS_WANTED);
    let limits = Limits {
        connections_per_address_max: (3..).find(|max| share(max) == 3).unwrap(),
        head_time_max: Duration::from_secs(30),
        ..limits()
    };
    let site = Site::open_with("n1", &[backend("n1", "a")], None, limits).await;
    let _a = site.replica("a");
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(site.address).await.unwrap();
        stream.write_all(b"GET / HT").await.unwrap();
        held.push(stream);
    }
    // A fourth one has a request, and takes the place of the first once that is not new any more.
    let deadline = Instant::now() + Duration::from_secs(5);
    let request = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    loop {
        let mut fourth = TcpStream::connect(site.address).await.unwrap();
        let _ = fourth.write_all(request.as_bytes()).await;
        let mut answer = String::new();
        let _ = fourth.read_to_string(&mut answer).await; // a reset is no answer
        if answer.starts_with("HTTP/1.1 200") {
            break;
        }
        assert!(Instant::now() < deadline, "no place in 5 s: {answer:?}");
    }
    let closed = timeout(Duration::from_secs(5), held[0].read(&mut [0])).await;
    assert!(matches!(closed, Ok(Ok(0) | Err(_))), "{closed:?}");
    // Those with a request keep theirs, and one more is closed.
    let site = Site::open_with("n1", &[backend("n1", "a")], None, limits).await;
    let silent = site.socket("a");
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(site.address).await.unwrap();
        let request = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        // Until the replica has it: then it is under way.
        let (mut replica, _) = silent.accept().await.unwrap();
        while replica.read_u8().await.unwrap() != b'\n' {}
        held.push((stream, replica));
    }
    let mut fourth = TcpStream::connect(site.address).await.unwrap();
    let closed = timeout(Duration::from_secs(5), fourth.read(&mut [0])).await;
    assert!(matches!(closed, Ok(Ok(0) | Err(_))), "{closed:?}");
    for (stream, _) in &mut held {
        assert!(timeout(Duration::from_millis(10), stream.read(&mut [0])).await.is_err());
    }
}

#[tokio::test]
async fn clients_take_no_connection_that_is_kept_for_peers() {
    let ca = Ca::new();
    let limits = Limits { connections_max: 1, head_time_max: Duration::from_secs(30), ..limits() };
    let here = [backend("n2", "b")];
    let site = Site::open_with("n2", &here, Some(ca.ingress("n2")), limits).await;
    let _b = site.replica("b");
    site.route("n2", &here, &[("n1", site.peers)]);
    let mut client = TcpStream::connect(site.address).await.unwrap();
    client.write_all(b"GET / HT").await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let mut peer = site.connect_as(&ca.ingress("n1")).await;
        let request = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
        peer.write_all(request.as_bytes()).await.unwrap();
        if read_answer(peer).await.0 == StatusCode::OK {
            break;
        }
        assert!(Instant::now() < deadline, "the node is not known, or gets no connection");
    }
}

#[tokio::test]
async fn a_request_for_another_node_goes_through_its_ingress_over_mtls() {
    let ca = Ca::new();
    let here = Site::open("n1", &[], Some(ca.ingress("n1"))).await;
    let there = Site::open("n2", &[backend("n2", "b")], Some(ca.ingress("n2"))).await;
    let _b = there.replica("b");
    here.route("n1", &[backend("n2", "b")], &[("n2", there.peers)]);
    // A good certificate is not enough: only a node of the platform gets in.
    here.get_until(StatusCode::BAD_GATEWAY).await;
    there.route("n2", &[backend("n2", "b")], &[("n1", here.peers)]);
    assert_eq!(here.get_until(StatusCode::OK).await, "b: GET /x?y=1 0 127.0.0.1");
    // Removed while it has a connection: what it says about its senders counts no more.
    let mut kept = there.connect_as(&ca.ingress("n1")).await;
    let spoof = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nx-forwarded-for: 6.6.6.6\r\n\r\n");
    kept.write_all(spoof.as_bytes()).await.unwrap();
    let mut answer = [0; 1024];
    let read = kept.read(&mut answer).await.unwrap();
    assert!(String::from_utf8_lossy(&answer[..read]).contains("b: GET / 0 6.6.6.6"));
    there.route("n2", &[backend("n2", "b")], &[("n9", here.peers)]);
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        kept.write_all(spoof.as_bytes()).await.unwrap();
        let read = kept.read(&mut answer).await.unwrap();
        if answer[..read].starts_with(b"HTTP/1.1 403") {
            break;
        }
        assert!(Instant::now() < deadline, "{}", answer[..read].escape_ascii());
    }
    // Two nodes that each believe that the other has it: no circle.
    there.route("n2", &[backend("n1", "b")], &[("n1", here.peers)]);
    here.get_until(StatusCode::SERVICE_UNAVAILABLE).await;
    // Another node at that address gets no request.
    let impostor = Site::open("n3", &[backend("n3", "b")], Some(ca.ingress("n3"))).await;
    let _c = impostor.replica("b");
    here.route("n1", &[backend("n2", "b")], &[("n2", impostor.peers)]);
    here.get_until(StatusCode::SERVICE_UNAVAILABLE).await;
    // And a client without a certificate is not taken for a node.
    let mut plain = TcpStream::connect(there.peers).await.unwrap();
    plain.write_all(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n").as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let _ = timeout(Duration::from_secs(6), plain.read_to_end(&mut bytes)).await.expect("an end");
    assert!(!bytes.starts_with(b"HTTP/1.1 2"), "{}", bytes.escape_ascii());
}
