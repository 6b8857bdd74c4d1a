//! Shares of two revisions of one service.

use spec::{RouteSettings, wire::Backend};

use super::*;

fn newest(task: &str) -> Backend {
    Backend { newest: true, ..backend("n2", task) }
}

/// A table whose service gives its newest replica this share.
fn shared(backends: &[Backend], percent: u32, sticky: bool) -> RouteTable {
    let mut table = routes(backends, &[]);
    let settings = RouteSettings {
        newest_percent: Some(percent),
        counted: true,
        sticky,
        ..RouteSettings::default()
    };
    table.settings.insert(HOST.to_owned(), settings);
    table
}

/// Which replica answers, and the cookie that it comes with.
async fn asked(site: &Site, cookie: &str) -> (String, Option<String>) {
    let mut stream = TcpStream::connect(site.address).await.unwrap();
    let text = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n{cookie}connection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = timeout(Duration::from_secs(5), stream.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let set = head.lines().find_map(|line| line.strip_prefix("set-cookie: "));
    let set = set.map(|set| format!("cookie: {}\r\n", set.split(';').next().unwrap()));
    (body.split(':').next().unwrap_or_default().to_owned(), set)
}

/// Waits until the ingress goes by a table, which these requests tell.
async fn until(site: &Site, cookie: &str, want: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while asked(site, cookie).await.0 != want {
        assert!(Instant::now() < deadline, "`{want}` never answers");
    }
}

#[tokio::test]
async fn the_newest_revision_has_exactly_its_share() {
    let site = Site::open("n2", &[], None).await;
    let (_a, a) = site.counting_replica("a");
    let (_b, b) = site.counting_replica("b");
    site.share(shared(&[backend("n2", "a"), newest("b")], 1, false), &[]);
    until(&site, "", "a").await;
    let before = (a.load(Ordering::SeqCst), b.load(Ordering::SeqCst));
    for _ in 0..500 {
        asked(&site, "").await;
    }
    let had = (a.load(Ordering::SeqCst) - before.0, b.load(Ordering::SeqCst) - before.1);
    assert_eq!(had, (495, 5));
    // The row goes on where it was with the next table.
    site.share(shared(&[backend("n2", "a"), newest("b")], 100, false), &[]);
    until(&site, "", "b").await;
    // One in a hundred was its share before, too, but no two in a row.
    while asked(&site, "").await.0 != "b" {
        until(&site, "", "b").await;
    }
    for _ in 0..20 {
        assert_eq!(asked(&site, "").await.0, "b");
    }
}

#[tokio::test]
async fn the_other_revision_answers_where_one_has_no_replica() {
    let site = Site::open("n2", &[], None).await;
    let _replicas = [site.replica("a"), site.replica("b")];
    // A replica that is not there yet has the whole share, and one that is lost too.
    for (backends, percent, want) in [
        (vec![backend("n2", "a"), newest("gone")], 100, "a"),
        (vec![backend("n2", "gone"), newest("b")], 0, "b"),
        (vec![newest("b")], 0, "b"),
        (vec![backend("n2", "a")], 100, "a"),
    ] {
        site.share(shared(&backends, percent, false), &[]);
        until(&site, "", want).await;
        for _ in 0..10 {
            assert_eq!(asked(&site, "").await.0, want, "{backends:?}");
        }
    }
}

#[tokio::test]
async fn a_client_stays_with_its_revision_until_that_has_no_share() {
    let site = Site::open("n2", &[], None).await;
    let _replicas = [site.replica("a"), site.replica("b")];
    let table = |percent| shared(&[backend("n2", "a"), newest("b")], percent, true);
    site.share(table(50), &[]);
    until(&site, "", "b").await;
    let mut cookies = BTreeMap::new();
    while cookies.len() < 2 {
        let (replica, cookie) = asked(&site, "").await;
        cookies.insert(replica, cookie.expect("a cookie"));
    }
    for percent in [50, 1, 99] {
        site.share(table(percent), &[]);
        for _ in 0..20 {
            for (replica, cookie) in &cookies {
                assert_eq!(asked(&site, cookie).await, (replica.clone(), None), "{percent}");
            }
        }
    }
    for (percent, left, want) in [(100, "a", "b"), (0, "b", "a")] {
        site.share(table(percent), &[]);
        until(&site, &cookies[left], want).await;
        assert_eq!(asked(&site, &cookies[want]).await.0, want);
    }
}

#[tokio::test]
async fn requests_are_counted_for_the_control_plane() {
    let site = Site::open("n2", &[], None).await;
    let _a = site.replica("a");
    // One that closes before it answers.
    let listener = site.socket("b");
    let _b = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
        }
    });
    let mut table = shared(&[backend("n2", "a")], 0, false);
    table.hosts.insert("dogs.main.localhost".to_owned(), vec![backend("n2", "b")]);
    let counted = RouteSettings { counted: true, ..RouteSettings::default() };
    table.settings.insert("dogs.main.localhost".to_owned(), counted);
    table.hosts.insert("mice.main.localhost".to_owned(), vec![backend("n2", "c")]);
    site.share(table, &[]);
    until(&site, "", "a").await;
    let post = "POST / HTTP/1.1\r\nhost: dogs.main.localhost\r\ncontent-length: 1\r\n\
                connection: close\r\n\r\nx";
    assert_eq!(ask(site.address, post).await.0, StatusCode::BAD_GATEWAY);
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let counts = crate::ingress::counted_requests(&site.folder).unwrap_or_default();
        let told: Vec<_> = counts
            .iter()
            .map(|(_, task, counts)| (task.as_str(), counts.requests, counts.failed_requests))
            .collect();
        if let [("a", 1.., 0), ("b", 1, 1)] | [("b", 1, 1), ("a", 1.., 0)] = told[..] {
            break;
        }
        assert!(Instant::now() < deadline, "{counts:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
