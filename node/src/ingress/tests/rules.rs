//! Host names, paths, weights and limits that services ask for.

use spec::{RateLimit, RouteRule, RouteSettings};

use super::*;

const OTHER: &str = "dogs.main.localhost";

/// Two services with one replica each.
fn two_services() -> RouteTable {
    let mut table = routes(&[backend("n2", "a")], &[]);
    table.hosts.insert(OTHER.to_owned(), vec![backend("n2", "b")]);
    table
}

fn rule(path: &str, services: &[(&str, u32)]) -> RouteRule {
    let services = services.iter().map(|(host, weight)| ((*host).to_owned(), *weight));
    RouteRule { path: path.parse().unwrap(), services: services.collect() }
}

/// A site with both services and this table.
async fn site(table: RouteTable) -> (Site, [JoinHandle<()>; 2]) {
    let site = Site::open("n2", &[], None).await;
    site.share(table, &[]);
    let replicas = [site.replica("a"), site.replica("b")];
    (site, replicas)
}

async fn get(site: &Site, host: &str, path: &str, headers: &str) -> (StatusCode, String) {
    let text = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n{headers}connection: close\r\n\r\n");
    ask(site.address, &text).await
}

/// The whole answer, with its head.
async fn whole(site: &Site, host: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(site.address).await.unwrap();
    let text = format!("GET / HTTP/1.1\r\nhost: {host}\r\n{headers}connection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = timeout(Duration::from_secs(5), stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

#[tokio::test]
async fn hosts_and_paths_lead_to_the_services_that_have_them() {
    let mut table = two_services();
    let rules =
        vec![rule("=/b", &[(OTHER, 1)]), rule("/api", &[(OTHER, 1)]), rule("/", &[(HOST, 1)])];
    table.rules.insert("cats.example".parse().unwrap(), rules);
    table.rules.insert("*.cats.example".parse().unwrap(), vec![rule("/", &[(OTHER, 1)])]);
    table.rules.insert("part.example".parse().unwrap(), vec![rule("/api", &[(HOST, 1)])]);
    let (site, _replicas) = site(table).await;
    for (host, path, status, text) in [
        ("cats.example", "/", 200, "a: GET /"),
        ("CATS.example:80", "/", 200, "a: GET /"),
        ("cats.example", "/api", 200, "b: GET /api"),
        ("cats.example", "/api/x?y=../z", 200, "b: GET /api/x?y=../z"),
        ("cats.example", "/%61pi/x", 200, "b: GET /%61pi/x"),
        ("cats.example", "/apis", 200, "a: GET /apis"),
        ("cats.example", "/b", 200, "b: GET /b"),
        ("cats.example", "/b/c", 200, "a: GET /b/c"),
        ("www.cats.example", "/", 200, "b: GET /"),
        ("a.www.cats.example", "/", 404, "E_NO_ROUTE"),
        ("part.example", "/", 404, "this path of the host part.example"),
        ("part.example", "/api/", 200, "a: GET /api/"),
        ("cats.example", "/x/../api", 400, "E_REQUEST"),
        ("cats.example", "/x/%2e%2e/api", 400, "E_REQUEST"),
        ("cats.example", "//api", 400, "E_REQUEST"),
        // Where no path decides anything, a program gets what was sent.
        (HOST, "/x/../api", 200, "a: GET /x/../api"),
        ("www.cats.example", "/x%2Fy//z/..", 200, "b: GET /x%2Fy//z/.."),
    ] {
        let (got, answer) = get(&site, host, path, "").await;
        assert!(got.as_u16() == status && answer.contains(text), "{host}{path}: {got} {answer}");
    }
}

#[tokio::test]
async fn weights_share_requests_between_services() {
    let mut table = two_services();
    let shared = vec![rule("/", &[(HOST, 3), (OTHER, 1)])];
    table.rules.insert("cats.example".parse().unwrap(), shared);
    let (site, _replicas) = site(table).await;
    let mut to_b = 0;
    for _ in 0..40 {
        let (status, text) = get(&site, "cats.example", "/", "").await;
        assert_eq!(status, StatusCode::OK, "{text}");
        to_b += usize::from(text.starts_with('b'));
    }
    assert_eq!(to_b, 10);
}

#[tokio::test]
async fn a_client_stays_with_the_replica_that_answered_it_first() {
    let mut table = routes(&[backend("n2", "a"), backend("n2", "b")], &[]);
    let settings = RouteSettings { sticky: true, ..RouteSettings::default() };
    table.settings.insert(HOST.to_owned(), settings);
    let (site, _replicas) = site(table).await;
    for _ in 0..4 {
        let first = whole(&site, HOST, "").await;
        let cookie = first.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
        assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{cookie}");
        let pair = cookie.split(';').next().unwrap();
        let body = |answer: &str| answer.rsplit("\r\n\r\n").next().unwrap()[..1].to_owned();
        for _ in 0..10 {
            let next = whole(&site, HOST, &format!("cookie: x=y; {pair}\r\n")).await;
            assert_eq!(body(&next), body(&first));
            assert!(!next.contains("set-cookie"), "{next}");
        }
    }
    let made_up = whole(&site, HOST, "cookie: margay-replica=../../etc\r\n").await;
    assert!(made_up.starts_with("HTTP/1.1 200") && made_up.contains("set-cookie"), "{made_up}");
}

#[tokio::test]
async fn plain_http_is_sent_to_https_and_too_many_requests_are_told_when_to_come_again() {
    let mut table = two_services();
    let settings = RouteSettings { https: true, ..RouteSettings::default() };
    table.settings.insert(HOST.to_owned(), settings);
    let limit = RateLimit { requests_per_second: 1, burst: Some(3) };
    let settings = RouteSettings { rate_limit: Some(limit), ..RouteSettings::default() };
    table.settings.insert(OTHER.to_owned(), settings);
    let (site, _replicas) = site(table).await;
    let moved = whole(&site, HOST, "").await;
    assert!(moved.starts_with("HTTP/1.1 308"), "{moved}");
    assert!(moved.contains(&format!("location: https://{HOST}/\r\n")), "{moved}");
    for _ in 0..3 {
        assert!(whole(&site, OTHER, "").await.starts_with("HTTP/1.1 200"));
    }
    let refused = whole(&site, OTHER, "").await;
    assert!(refused.starts_with("HTTP/1.1 429"), "{refused}");
    assert!(refused.contains("retry-after: 1\r\n"), "{refused}");
    assert!(refused.contains("E_RATE: a client may make 1 requests a second here"), "{refused}");
}

#[tokio::test]
async fn a_route_has_times_of_its_own_and_a_response_that_pauses_for_too_long_is_cut() {
    let limits = Limits {
        response_time_max: Duration::from_millis(300),
        idle_time_max: Duration::from_millis(600),
        ..limits()
    };
    let site = Site::open_with("n2", &[], None, limits).await;
    let mut table = two_services();
    let settings = RouteSettings { request_seconds_max: Some(1), ..RouteSettings::default() };
    table.settings.insert(OTHER.to_owned(), settings);
    site.share(table, &[]);
    // Both take half a second to begin; then `a` sends three pieces, each within the idle time of
    // the one before, and no more.
    for task in ["a", "b"] {
        let listener = site.socket(task);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 1024];
                let _ = stream.read(&mut head).await;
                tokio::time::sleep(Duration::from_millis(500)).await;
                let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                let _ = stream.write_all(head.as_bytes()).await;
                tokio::spawn(async move {
                    for _ in 0..3 {
                        let _ = stream.write_all(b"5\r\nhello\r\n").await;
                        tokio::time::sleep(Duration::from_millis(300)).await;
                    }
                    std::future::pending::<()>().await;
                });
            }
        });
    }
    let (status, text) = get(&site, HOST, "/", "").await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT, "{text}");
    let began = Instant::now();
    let (status, text) = get(&site, OTHER, "/", "").await;
    assert_eq!((status, text.matches("hello").count()), (StatusCode::OK, 3), "{text}");
    assert!(!text.ends_with("0\r\n\r\n"), "the client sees that it is not whole: {text}");
    let took = began.elapsed();
    assert!(took > Duration::from_millis(1300) && took < Duration::from_secs(4), "{took:?}");
}

#[tokio::test]
async fn an_ingress_asks_another_for_the_replica_that_it_has_chosen() {
    let ca = Ca::new();
    let there = Site::open("n2", &[], Some(ca.ingress("n2"))).await;
    let (_a, _b) = (there.replica("a"), there.replica("b"));
    let both = [backend("n2", "a"), backend("n2", "b")];
    there.route("n2", &both, &[("n1", there.peers)]);
    for task in ["a", "b", "a", "a", "b"] {
        let name = socket_name(&"me".parse().unwrap(), &task.parse().unwrap(), spec::Port::tcp(80));
        let name = name.trim_end_matches(".sock");
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let mut peer = there.connect_as(&ca.ingress("n1")).await;
            let request = format!(
                "GET / HTTP/1.1\r\nhost: {HOST}\r\nx-margay-hop: {name}\r\n\
                 connection: close\r\n\r\n"
            );
            peer.write_all(request.as_bytes()).await.unwrap();
            let (status, text) = read_answer(peer).await;
            if status == StatusCode::OK {
                assert!(text.starts_with(task), "{text}, not {task}");
                break;
            }
            assert!(Instant::now() < deadline, "{status} {text}");
        }
    }
}

#[tokio::test]
async fn a_request_that_may_not_be_sent_twice_does_not_wait_for_a_frozen_replica() {
    let limits = Limits { response_time_max: Duration::from_secs(60), ..limits() };
    let site = Site::open_with("n1", &[backend("n1", "frozen")], None, limits).await;
    // Connections to it are made by the kernel, and it takes none.
    let _frozen = site.socket("frozen");
    let mut stream = TcpStream::connect(site.address).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n");
    stream.write_all(format!("{head}content-length: 2\r\n\r\nab").as_bytes()).await.unwrap();
    let (began, mut answer) = (Instant::now(), String::new());
    timeout(Duration::from_secs(30), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    assert!(
        answer.contains("stopped answering: the request may have been carried out"),
        "{answer}"
    );
    assert!(
        began.elapsed() > Duration::from_secs(10),
        "it may only have been stopped for a moment"
    );
}
