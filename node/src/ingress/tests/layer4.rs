//! Ports of services that speak no HTTP.

use spec::{Port, Protocol, ServiceListener, wire::ListenerRoute};

use super::*;
use crate::ingress::ReservedPorts;

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn listener(port: u16) -> ServiceListener {
    ServiceListener {
        port: Port::tcp(port),
        container_port: None,
        proxy_protocol: false,
        sources: Vec::new(),
        idle_seconds_max: None,
    }
}

fn of(node: &str, task: &str) -> Backend {
    Backend { protocol: Protocol::Tcp, ..backend(node, task) }
}

/// An ingress that has `port` set aside.
async fn site_with(port: u16, ca: &Ca) -> Site {
    let ports = ReservedPorts::bind([127, 0, 0, 1].into(), port.to_string().parse().unwrap());
    let front = Front { ports, ..Front::default() };
    Site::open_behind("n1", &[], Some(ca.ingress("n1")), limits(), front).await
}

fn share(site: &Site, node: &str, listeners: Vec<ListenerRoute>, ingresses: &[(&str, SocketAddr)]) {
    let routes = RouteTable { listeners, ..routes(&[], ingresses) };
    let networks = vec!["127.0.0.0/8".parse().unwrap()];
    let node = node.parse().unwrap();
    site.folder.write_shared(&Shared { version: 1, node, routes, networks }).unwrap();
}

fn route(listener: ServiceListener, backends: &[Backend]) -> ListenerRoute {
    ListenerRoute { listener, host: HOST.to_owned(), backends: backends.to_vec() }
}

/// A replica that says its name, and then everything again.
fn echo(site: &Site, task: &'static str) -> JoinHandle<()> {
    let listener = site.socket(task);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                write.write_all(task.as_bytes()).await.unwrap();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    })
}

/// What a client that says `text` and ends hears until the end; nothing where it is not let in.
async fn hear(port: u16, text: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    stream.write_all(text).await.ok()?;
    stream.shutdown().await.ok()?;
    let mut heard = Vec::new();
    let read = timeout(Duration::from_secs(5), stream.read_to_end(&mut heard)).await;
    read.expect("an end").ok()?;
    Some(heard)
}

async fn heard(port: u16, text: &[u8], want: &[u8]) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let heard = hear(port, text).await;
        if heard.as_deref() == Some(want) {
            return;
        }
        assert!(Instant::now() < deadline, "{heard:?}, not {}", want.escape_ascii());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn bytes_of_a_port_go_to_a_replica_here_or_on_another_node_and_back() {
    let (ca, port) = (Ca::new(), free_port());
    let site = site_with(port, &ca).await;
    let there = Site::open("n2", &[], Some(ca.ingress("n2"))).await;
    assert!(hear(port, b"x").await.is_none(), "no service has it: refused");
    let (_a, _b) = (echo(&site, "a"), echo(&there, "b"));
    let ingresses = [("n1", site.peers), ("n2", there.peers)];
    for (backends, want) in [
        (&[of("n1", "a")][..], &b"a\0hello\r\n\r\n"[..]),
        (&[of("n2", "b")], b"b\0hello\r\n\r\n"),
        // One on the other node that is not there any more, beside one that is.
        (&[of("n2", "gone"), of("n2", "lost"), of("n2", "b")], b"b\0hello\r\n\r\n"),
        // The same here.
        (&[of("n1", "gone"), of("n2", "gone"), of("n1", "a")], b"a\0hello\r\n\r\n"),
    ] {
        share(&there, "n2", vec![route(listener(port), backends)], &ingresses);
        share(&site, "n1", vec![route(listener(port), backends)], &ingresses);
        heard(port, b"\0hello\r\n\r\n", want).await;
    }
    // No replica: the connection ends, and without the listener it is refused.
    share(&site, "n1", vec![route(listener(port), &[])], &ingresses);
    let deadline = Instant::now() + Duration::from_secs(10);
    while hear(port, b"x").await.is_some_and(|heard| !heard.is_empty()) {
        assert!(Instant::now() < deadline, "no replica has it");
    }
    share(&site, "n1", Vec::new(), &ingresses);
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
        assert!(Instant::now() < deadline, "it still listens");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_listener_says_which_client_it_is_and_lets_in_its_networks_alone() {
    let (ca, port) = (Ca::new(), free_port());
    let site = site_with(port, &ca).await;
    let _a = echo(&site, "a");
    let with = |change: fn(&mut ServiceListener)| {
        let mut listener = listener(port);
        change(&mut listener);
        share(&site, "n1", vec![route(listener, &[of("n1", "a")])], &[]);
    };
    with(|_| {});
    heard(port, b"x", b"ax").await;
    with(|listener| listener.sources = vec!["10.0.0.0/8".parse().unwrap()]);
    let deadline = Instant::now() + Duration::from_secs(10);
    // Closed without a byte of the replica.
    while hear(port, b"x").await.is_some_and(|heard| !heard.is_empty()) {
        assert!(Instant::now() < deadline, "its address is let in");
    }
    with(|listener| {
        listener.sources = vec!["127.0.0.0/8".parse().unwrap()];
        listener.proxy_protocol = true;
    });
    let deadline = Instant::now() + Duration::from_secs(10);
    let named = loop {
        let heard = hear(port, b"x").await.unwrap_or_default();
        if heard.len() > 2 {
            break heard;
        }
        assert!(Instant::now() < deadline, "{heard:?}");
    };
    let mut header = &named[1..];
    let client = net::read_proxy_header(&mut header).await.unwrap().unwrap();
    assert_eq!((client.to_string().as_str(), header), ("127.0.0.1", &b"x"[..]));
}

#[tokio::test]
async fn a_connection_that_is_idle_ends_and_one_in_use_stays() {
    let (ca, port) = (Ca::new(), free_port());
    let site = site_with(port, &ca).await;
    let _a = echo(&site, "a");
    let listener = ServiceListener { idle_seconds_max: Some(1), ..listener(port) };
    share(&site, "n1", vec![route(listener, &[of("n1", "a")])], &[]);
    heard(port, b"x", b"ax").await;
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut byte, began) = ([0], Instant::now());
    stream.read_exact(&mut byte).await.unwrap();
    while began.elapsed() < Duration::from_millis(2500) {
        stream.write_all(b"x").await.unwrap();
        stream.read_exact(&mut byte).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let ended = timeout(Duration::from_secs(5), stream.read(&mut byte)).await.expect("an end");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}

#[tokio::test]
async fn a_frozen_node_costs_one_client_its_time_and_the_next_ones_none() {
    let (ca, port) = (Ca::new(), free_port());
    let site = site_with(port, &ca).await;
    let _a = echo(&site, "a");
    // It takes connections, and says nothing.
    let frozen = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let ingresses = [("n2", frozen.local_addr().unwrap())];
    let backends = ["b", "c", "d", "e"].map(|task| of("n2", task));
    let backends = [&[of("n1", "a")][..], &backends].concat();
    share(&site, "n1", vec![route(listener(port), &backends)], &ingresses);
    heard(port, b"x", b"ax").await;
    let took = async || {
        let began = Instant::now();
        assert_eq!(hear(port, b"x").await.as_deref(), Some(&b"ax"[..]));
        began.elapsed()
    };
    // Most replicas are there, so most of these would begin with the node that is frozen.
    let mut slow = 0;
    for _ in 0..30 {
        slow += usize::from(took().await > Duration::from_secs(1));
    }
    assert!(slow <= 1, "{slow} clients waited");
}

#[tokio::test]
async fn a_node_of_a_tenant_reaches_no_replica_of_another_at_its_port() {
    let (ca, port) = (Ca::new(), free_port());
    let site = site_with(port, &ca).await;
    let _a = echo(&site, "a");
    let table = |trust| {
        let listeners = vec![route(listener(port), &[of("n1", "a")])];
        let peers = BTreeMap::from([("n2".parse().unwrap(), trust)]);
        RouteTable { listeners, peers, ..routes(&[], &[]) }
    };
    let name = socket_name(&"me".parse().unwrap(), &"a".parse().unwrap(), Port::tcp(80));
    let name = name.trim_end_matches(".sock");
    let ask = format!(
        "GET / HTTP/1.1\r\nhost: layer4.margay\r\nconnection: upgrade\r\n\
         upgrade: margay-layer4\r\nx-margay-hop: {name}\r\n\r\n"
    );
    for (trust, want) in [
        (PeerTrust::Pool, "HTTP/1.1 101"),
        (PeerTrust::Tenant("me".parse().unwrap()), "HTTP/1.1 101"),
        (PeerTrust::Tenant("ann".parse().unwrap()), "HTTP/1.1 503"),
    ] {
        let routes = table(trust);
        let (node, networks) = ("n1".parse().unwrap(), Vec::new());
        site.folder.write_shared(&Shared { version: 1, node, routes, networks }).unwrap();
        heard(port, b"x", b"ax").await;
        let stream = TcpStream::connect(site.peers).await.unwrap();
        let tls = tokio_rustls::TlsConnector::from(ca.ingress("n2").client().unwrap());
        let mut stream =
            tls.connect(net::tls::ingress(&"n1".parse().unwrap()), stream).await.unwrap();
        stream.write_all(ask.as_bytes()).await.unwrap();
        let mut status = [0; 12];
        timeout(Duration::from_secs(5), stream.read_exact(&mut status)).await.unwrap().unwrap();
        assert_eq!(std::str::from_utf8(&status).unwrap(), want);
    }
    // A client at the front is no ingress, whatever it says.
    let (status, _) = super::ask(site.address, &ask.replace("upgrade\r\n", "close\r\n")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}
