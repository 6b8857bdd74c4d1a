//! What one node's ingress can do to another's.

use std::time::{Duration, Instant};

use http::StatusCode;
use spec::wire::PeerTrust;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{
    Limits,
    limits::TENANT_CONNECTIONS_PER_NODE_MAX,
    tests::{HOST, Site, backend, read_answer, routes},
};
use crate::identity::tests::Ca;

/// The answer to one request of the ingress of `n1`, with headers that lie.
async fn asked(site: &Site, ca: &Ca, host: &str) -> (StatusCode, String) {
    let mut peer = site.connect_as(&ca.ingress("n1")).await;
    let request = format!(
        "GET / HTTP/1.1\r\nhost: {host}\r\nx-forwarded-for: 6.6.6.6\r\nconnection: close\r\n\r\n"
    );
    peer.write_all(request.as_bytes()).await.unwrap();
    read_answer(peer).await
}

#[tokio::test]
async fn a_node_of_a_tenant_reaches_hosts_of_its_tenant_and_is_believed_nothing_else() {
    let ca = Ca::new();
    let site = Site::open("n2", &[], Some(ca.ingress("n2"))).await;
    let _b = site.replica("b"); // of the tenant `me`
    for (tenant, status, text) in [
        ("", StatusCode::OK, "b: GET / 0 6.6.6.6"), // a node of the pool
        ("me", StatusCode::OK, "b: GET / 0 127.0.0.1"),
        ("other", StatusCode::NOT_FOUND, "no service here answers for the host"),
    ] {
        let mut table = routes(&[backend("n2", "b")], &[("n1", site.peers)]);
        let trust = tenant.parse().map_or(PeerTrust::Pool, PeerTrust::Tenant);
        table.peers.insert("n1".parse().unwrap(), trust);
        site.share(table, &[]);
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let (got, answer) = asked(&site, &ca, HOST).await;
            if got == status && answer.contains(text) {
                break;
            }
            assert!(Instant::now() < deadline, "{tenant:?}: {got} {answer}");
        }
    }
    // A table without a word about a node: an earlier version wrote it.
    let mut table = routes(&[backend("n2", "b")], &[("n1", site.peers)]);
    table.peers.clear();
    site.share(table, &[]);
    let mut peer = site.connect_as(&ca.ingress("n1")).await;
    let _ = peer.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(read_answer(peer).await.1, "", "closed without a word");
}

#[tokio::test]
async fn a_node_of_a_tenant_takes_its_part_of_the_connections() {
    let ca = Ca::new();
    // Idle connections stay for longer than the test lasts.
    let limits = Limits { head_time_max: Duration::from_secs(60), ..Limits::default() };
    let site = Site::open_with("n2", &[], Some(ca.ingress("n2")), limits).await;
    let _b = site.replica("b");
    let mut table = routes(&[backend("n2", "b")], &[("n1", site.peers), ("n3", site.peers)]);
    for node in ["n1", "n3"] {
        table.peers.insert(node.parse().unwrap(), PeerTrust::Tenant("me".parse().unwrap()));
    }
    site.share(table, &[]);
    let greedy = ca.ingress("n1");
    let mut held = Vec::new();
    let mut closed = false;
    while !closed && held.len() <= TENANT_CONNECTIONS_PER_NODE_MAX {
        let mut peer = site.connect_as(&greedy).await;
        let request = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
        peer.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        let read = tokio::io::AsyncReadExt::read_exact(&mut peer, &mut answer);
        closed = timeout(Duration::from_secs(5), read).await.expect("an answer").is_err();
        held.push(peer);
    }
    assert!(closed, "{} connections of one node", held.len());
    let mut other = site.connect_as(&ca.ingress("n3")).await;
    let request = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    other.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(read_answer(other).await.0, StatusCode::OK, "another node is not kept out");
}

#[tokio::test]
async fn an_address_that_a_node_makes_up_is_not_dialled_and_nothing_is_told_about_it() {
    let ca = Ca::new();
    let site = Site::open("n2", &[], Some(ca.ingress("n2"))).await;
    let victim = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let open = victim.local_addr().unwrap();
    let shut = {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        gone.local_addr().unwrap()
    };
    let mut answers = Vec::new();
    for (address, networks) in [
        (open.to_string(), &[][..]),
        (shut.to_string(), &[][..]),
        (format!("[::ffff:127.0.0.1]:{}", open.port()), &[][..]),
        (format!("localhost:{}", open.port()), &["127.0.0.0/8"][..]), // no name is looked up
        ("169.254.169.254:80".to_owned(), &["127.0.0.0/8"][..]),
        (shut.to_string(), &["127.0.0.0/8"][..]), // dialled, and refused there
    ] {
        let mut table = routes(&[backend("n1", "b")], &[("n1", open)]);
        table.ingresses.insert("n1".parse().unwrap(), address.clone());
        site.share(table, networks);
        let text = site.get_until(StatusCode::SERVICE_UNAVAILABLE).await;
        answers.push(text);
    }
    let dialled = timeout(Duration::from_millis(50), victim.accept()).await;
    assert!(dialled.is_err(), "the port was dialled");
    for text in &answers {
        let told = ["refused", "denied", "loopback", "link-local", "os error", "lookup", "127."];
        assert!(!told.iter().any(|word| text.contains(word)), "{text}");
    }
    // With the second key it is dialled, and only a TLS server with that node's name is spoken to.
    let table = routes(&[backend("n1", "b")], &[("n1", open)]);
    site.share(table, &["127.0.0.0/8"]);
    let stream = tokio::spawn(TcpStream::connect(site.address));
    let mut client = stream.await.unwrap().unwrap();
    let request = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    timeout(Duration::from_secs(5), victim.accept()).await.expect("a call").unwrap();
}
