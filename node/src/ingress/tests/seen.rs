//! What is seen of a request afterwards: its id, its trace, a line of the access log, a page.

use serde_json::Value;

use spec::{ErrorPages, RouteSettings};

use super::*;
use crate::ingress::{AccessLogFiles, AccessLogFormat};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A replica whose responses are the heads of its requests.
fn echo(site: &Site, task: &str) -> JoinHandle<()> {
    let listener = site.socket(task);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    head.push(byte);
                }
                let length = head.len();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nconnection: close\r\n\
                                      x-request-id: its own\r\ncontent-length: {length}\r\n\r\n"
                );
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.write_all(&head).await;
            });
        }
    })
}

/// The whole answer to a GET with these headers.
async fn whole(address: SocketAddr, headers: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET /a?token=secret HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n{headers}\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(Duration::from_secs(10), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

fn header<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut values = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let value = values.next();
    assert_eq!(values.next(), None, "{name} twice in {text}");
    value
}

/// The head of the answer, and that of the request as the replica saw it.
fn both(answer: &str) -> (&str, &str) {
    answer.split_once("\r\n\r\n").unwrap()
}

fn logged(folder: &std::path::Path, format: AccessLogFormat) -> Front {
    let open = |name: &str| disk::open(&folder.join(name), disk::Purpose::Append).unwrap();
    let files = AccessLogFiles::new(open("access.log"), open("access.log.1")).unwrap();
    Front { access_log: Some((format, files)), ..Front::default() }
}

/// The lines of the log, once there are so many.
async fn lines(folder: &std::path::Path, count: usize) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let text = std::fs::read_to_string(folder.join("access.log")).unwrap();
        if text.lines().count() >= count && text.ends_with('\n') {
            return text.lines().map(str::to_owned).collect();
        }
        assert!(Instant::now() < deadline, "{count} lines: {text}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_request_has_one_id_in_all_places_and_goes_on_in_its_trace() {
    let ca = Ca::new();
    let trusted = net::TrustedProxies::new([spec::Host::Network([127, 0, 0, 0].into(), 8)]);
    let front = Front { proxies: trusted, ..Front::default() };
    let (direct, behind) = (
        Site::open("n1", &[backend("n1", "a")], Some(ca.ingress("n1"))).await,
        Site::open_behind("n1", &[backend("n1", "a")], None, limits(), front).await,
    );
    let there = Site::open("n2", &[], Some(ca.ingress("n2"))).await;
    there.route("n2", &[backend("n2", "c")], &[("n1", direct.peers)]);
    let _echoes = [echo(&direct, "a"), echo(&behind, "a"), echo(&there, "c")];
    let said = format!("x-request-id: mine\r\nX_Request_Id: too\r\ntraceparent: {PARENT}\r\n");
    for (site, is_kept) in [(&direct, false), (&behind, true)] {
        let answer = whole(site.address, &said).await;
        let (told, seen) = both(&answer);
        let id = header(seen, "x-request-id").unwrap();
        assert_eq!(header(told, "x-request-id"), Some(id), "{answer}");
        assert_eq!(id == "mine", is_kept, "{answer}");
        assert_eq!(header(seen, "x_request_id"), None);
        assert_eq!(header(seen, "traceparent"), Some(PARENT));
    }
    let answer = whole(direct.address, "traceparent: none\r\ntracestate: a=1\r\n").await;
    let (_, seen) = both(&answer);
    let (id, parent) = (header(seen, "x-request-id"), header(seen, "traceparent").unwrap());
    assert_eq!((id, header(seen, "tracestate")), (parent.get(3..35), None), "{seen}");
    // On another node too.
    direct.route("n1", &[backend("n2", "c")], &[("n2", there.peers)]);
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let answer = whole(direct.address, "").await;
        let (told, seen) = both(&answer);
        if seen.matches("via: 1.1 margay").count() == 2 {
            assert_eq!(header(told, "x-request-id"), header(seen, "x-request-id"), "{answer}");
            break;
        }
        assert!(Instant::now() < deadline, "{answer}");
    }
}

#[tokio::test]
async fn each_request_of_a_client_has_a_line_in_the_access_log() {
    let folder = tempfile::tempdir().unwrap();
    let front = logged(folder.path(), AccessLogFormat::Json);
    let site = Site::open_behind("n1", &[backend("n1", "a")], None, limits(), front).await;
    let _replica = echo(&site, "a");
    let answer = whole(site.address, "user-agent: test\r\ncookie: secret\r\n").await;
    let line: Value = serde_json::from_str(&lines(folder.path(), 1).await[0]).unwrap();
    let (told, seen) = both(&answer);
    for (name, want) in [
        ("id", Value::from(header(told, "x-request-id").unwrap())),
        ("client", "127.0.0.1".into()),
        ("method", "GET".into()),
        ("host", HOST.into()),
        ("path", "/a".into()),
        ("status", 200.into()),
        ("bytes", seen.len().into()),
        ("complete", true.into()),
        ("service", HOST.into()),
        ("tenant", "me".into()),
        ("task", "a".into()),
        ("node", Value::Null),
        ("retries", 0.into()),
        ("user_agent", "test".into()),
    ] {
        assert_eq!(line[name], want, "{name} of {line}");
    }
    assert!(line["duration"].as_f64() >= line["replica_duration"].as_f64(), "{line}");
    assert!(!line.to_string().contains("secret"), "{line}");
    assert_eq!(site.get("dogs.localhost").await.0, StatusCode::NOT_FOUND);
    let line: Value = serde_json::from_str(&lines(folder.path(), 2).await[1]).unwrap();
    assert_eq!((line["status"].as_u64(), line["error"].as_str()), (Some(404), Some("E_NO_ROUTE")));
}

#[tokio::test]
async fn a_client_that_goes_away_has_a_line_too() {
    let folder = tempfile::tempdir().unwrap();
    let front = logged(folder.path(), AccessLogFormat::Json);
    let site = Site::open_behind("n1", &[backend("n1", "deaf")], None, limits(), front).await;
    let deaf = site.socket("deaf");
    let mut client = TcpStream::connect(site.address).await.unwrap();
    let request = format!("POST /gone HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 0\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let _asked = deaf.accept().await.unwrap();
    drop(client);
    let line: Value = serde_json::from_str(&lines(folder.path(), 1).await[0]).unwrap();
    for (name, want) in [
        ("path", Value::from("/gone")),
        ("status", 499.into()),
        ("complete", false.into()),
        ("task", "deaf".into()),
    ] {
        assert_eq!(line[name], want, "{name} of {line}");
    }
}

#[tokio::test]
async fn a_request_that_another_node_answers_has_its_line_where_its_client_is() {
    let ca = Ca::new();
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let front = || logged(folders[0].path(), AccessLogFormat::Json);
    let here = Site::open_behind("n1", &[], Some(ca.ingress("n1")), limits(), front()).await;
    let front = logged(folders[1].path(), AccessLogFormat::Json);
    let there = Site::open_behind("n2", &[], Some(ca.ingress("n2")), limits(), front).await;
    there.route("n2", &[backend("n2", "c")], &[("n1", here.peers)]);
    here.route("n1", &[backend("n2", "c")], &[("n2", there.peers)]);
    let _replica = echo(&there, "c");
    here.get_until(StatusCode::OK).await;
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let last = lines(folders[0].path(), 1).await.pop().unwrap();
        if last.contains("\"node\":\"n2\"") && last.contains("\"status\":200") {
            break;
        }
        assert!(Instant::now() < deadline, "{last}");
    }
    let text = std::fs::read_to_string(folders[1].path().join("access.log")).unwrap();
    assert_eq!(text, "");
}

#[tokio::test]
async fn a_browser_gets_a_page_with_the_id_and_a_program_a_line() {
    let site = Site::open("n1", &[], None).await;
    let page = whole(site.address, "accept: text/html,*/*;q=0.8\r\n").await;
    let (told, body) = both(&page);
    let id = header(told, "x-request-id").unwrap();
    assert!(told.starts_with("HTTP/1.1 503") && told.contains("text/html"), "{told}");
    assert!(told.contains("content-security-policy: default-src 'none'"), "{told}");
    assert!(body.starts_with("<!doctype html>") && body.contains(id), "{body}");
    assert!(body.contains("E_STARTING") && !body.contains("127.0.0.1"), "{body}");
    let line = whole(site.address, "accept: */*\r\n").await;
    let (told, body) = both(&line);
    let id = header(told, "x-request-id").unwrap();
    assert!(told.contains("text/plain") && body.starts_with("E_STARTING: "), "{line}");
    assert!(body.ends_with(&format!("\nrequest: {id}\n")), "{line}");
}

#[tokio::test]
async fn a_service_has_pages_of_its_own_in_the_place_of_errors() {
    let site = Site::open("n2", &[], None).await;
    for (page, kind) in [("<p>back soon: {request_id}", "text/html"), ("back soon", "text/plain")] {
        let mut errors = ErrorPages::default();
        assert!(errors.set(503, Some(page.to_owned())));
        let mut table = routes(&[], &[]);
        let settings = RouteSettings { errors, ..RouteSettings::default() };
        table.settings.insert(HOST.to_owned(), settings);
        site.share(table, &[]);
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let answer = whole(site.address, "accept: */*\r\n").await;
            let (told, body) = both(&answer);
            let id = header(told, "x-request-id").unwrap();
            if body == page.replace("{request_id}", id) {
                assert!(told.starts_with("HTTP/1.1 503") && told.contains(kind), "{told}");
                assert!(told.contains("retry-after: 1") && told.contains("no-store"), "{told}");
                break;
            }
            assert!(Instant::now() < deadline, "{answer}");
        }
    }
    let (status, text) = site.get("dogs.localhost").await;
    assert!(status == StatusCode::NOT_FOUND && text.starts_with("E_NO_ROUTE"), "{text}");
}
