//! Ports of services that take datagrams.

use engine::{FrameSplitter, framed};
use spec::{Port, Protocol, ServiceListener, Transport, wire::ListenerRoute};
use tokio::net::UdpSocket;

use super::*;
use crate::ingress::ReservedPorts;

fn udp(number: u16) -> Port {
    Port { number, transport: Transport::Udp }
}

fn listener(port: u16) -> ServiceListener {
    ServiceListener {
        port: udp(port),
        container_port: None,
        proxy_protocol: false,
        sources: Vec::new(),
        idle_seconds_max: None,
    }
}

fn of(node: &str, task: &str) -> Backend {
    Backend { protocol: Protocol::Udp, ..backend(node, task) }
}

/// An ingress with a port set aside.
async fn site(ca: &Ca) -> (Site, u16) {
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let ports = ReservedPorts::bind([127, 0, 0, 1].into(), port.to_string().parse().unwrap());
    let front = Front { ports, ..Front::default() };
    (Site::open_behind("n1", &[], Some(ca.ingress("n1")), limits(), front).await, port)
}

fn share(
    site: &Site,
    node: &str,
    listener: ServiceListener,
    backends: &[Backend],
    ingresses: &[(&str, SocketAddr)],
) {
    let route = ListenerRoute { listener, host: HOST.to_owned(), backends: backends.to_vec() };
    let routes = RouteTable { listeners: vec![route], ..routes(&[], ingresses) };
    let networks = vec!["127.0.0.0/8".parse().unwrap()];
    let node = node.parse().unwrap();
    site.folder.write_shared(&Shared { version: 1, node, routes, networks }).unwrap();
}

/// A replica that answers each datagram with its name and the same again.
fn echo(site: &Site, task: &'static str) -> JoinHandle<()> {
    let listener = site.socket_at(task, udp(80));
    tokio::spawn(async move {
        // Its connections end with it.
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            connections.spawn(async move {
                let (mut frames, mut buffer) = (FrameSplitter::default(), vec![0; 4096]);
                while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                    let mut answers = Vec::new();
                    frames.split(&buffer[..length], |datagram| {
                        let answer = [task.as_bytes(), datagram].concat();
                        answers.extend(framed(&answer).unwrap());
                    });
                    stream.write_all(&answers).await.unwrap();
                }
            });
        }
    })
}

async fn client(port: u16) -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(("127.0.0.1", port)).await.unwrap();
    client
}

/// The answer to `text`; nothing where none comes.
async fn ask(client: &UdpSocket, text: &[u8]) -> Option<Vec<u8>> {
    client.send(text).await.ok()?;
    let mut answer = vec![0; 70_000];
    let length = timeout(Duration::from_millis(200), client.recv(&mut answer)).await.ok()?.ok()?;
    answer.truncate(length);
    Some(answer)
}

/// A client asks again until it hears `want`, as clients of datagrams do.
async fn hears(client: &UdpSocket, text: &[u8], want: &[u8]) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let heard = ask(client, text).await;
        if heard.as_deref() == Some(want) {
            return;
        }
        assert!(Instant::now() < deadline, "{heard:?}, not {}", want.escape_ascii());
    }
}

#[tokio::test]
async fn datagrams_of_a_port_go_to_a_replica_here_or_on_another_node_and_back() {
    let ca = Ca::new();
    let (site, port) = site(&ca).await;
    let there = Site::open("n2", &[], Some(ca.ingress("n2"))).await;
    let ingresses = [("n1", site.peers), ("n2", there.peers)];
    let one = client(port).await;
    assert!(ask(&one, b"x").await.is_none(), "no service has it: refused");
    let (_a, _b) = (echo(&site, "a"), echo(&there, "b"));
    for (backends, want) in [
        (&[of("n1", "a")][..], &b"a"[..]),
        // The replica has left: the same client goes over to another one.
        (&[of("n2", "b")], b"b"),
        (&[of("n2", "gone"), of("n1", "gone"), of("n1", "a")], b"a"),
    ] {
        share(&there, "n2", listener(port), backends, &ingresses);
        share(&site, "n1", listener(port), backends, &ingresses);
        hears(&one, b"", want).await;
        let large = vec![7; 30_000];
        hears(&one, &large, &[want, &large].concat()).await;
    }
    // Each client has its own answers.
    let others = [client(port).await, client(port).await, client(port).await];
    for (number, other) in others.iter().enumerate() {
        hears(other, &[number as u8], &[b'a', number as u8]).await;
    }
    // From another network than the one that is named nothing is taken.
    let from_afar = vec!["10.0.0.0/8".parse().unwrap()];
    let listener = ServiceListener { sources: from_afar, ..listener(port) };
    share(&site, "n1", listener, &[of("n1", "a")], &ingresses);
    let deadline = Instant::now() + Duration::from_secs(10);
    while ask(&one, b"x").await.is_some() {
        assert!(Instant::now() < deadline, "it is still let in");
    }
}

#[tokio::test]
async fn a_client_whose_replica_has_ended_goes_to_another_one() {
    let ca = Ca::new();
    let (site, port) = site(&ca).await;
    let replicas = [("a", echo(&site, "a")), ("b", echo(&site, "b"))];
    share(&site, "n1", listener(port), &[of("n1", "a"), of("n1", "b")], &[]);
    let one = client(port).await;
    let deadline = Instant::now() + Duration::from_secs(10);
    let first = loop {
        if let Some(answer) = ask(&one, b"").await {
            break answer;
        }
        assert!(Instant::now() < deadline, "no answer");
    };
    for _ in 0..20 {
        assert_eq!(ask(&one, b"").await.as_ref(), Some(&first), "it stays with its replica");
    }
    let (other, replica) = match &first[..] {
        b"a" => ("b", &replicas[0].1),
        _ => ("a", &replicas[1].1),
    };
    replica.abort();
    hears(&one, b"", other.as_bytes()).await;
}

#[tokio::test]
async fn more_clients_than_there_may_be_are_answered_all_the_same() {
    let ca = Ca::new();
    let (site, port) = site(&ca).await;
    let _a = echo(&site, "a");
    share(&site, "n1", listener(port), &[of("n1", "a")], &[]);
    let first = client(port).await;
    hears(&first, b"", b"a").await;
    // Of one address: each has its share, and the oldest make room.
    let share = Descriptors::allowed()
        .share(crate::ingress::limits::LAYER4_SESSIONS_PER_ADDRESS_MAX, DESCRIPTORS_WANTED);
    for _ in 0..share + 20 {
        let one = client(port).await;
        hears(&one, b"x", b"ax").await;
    }
    hears(&first, b"", b"a").await;
}
