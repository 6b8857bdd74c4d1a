//! The pull-through cache, against another registry and against upstreams that lie.

use std::{
    fs,
    sync::{Arc, Mutex},
    time::Duration,
};

use spec::Digest;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

use super::{
    deletion::manifest_of,
    fixture::{PASSWORD, TestRegistry, TestResponse, noise},
};
use crate::{
    Error, Limits, NewUpstream, RegistryLogin, Repository, Role, UpstreamCounts, Visibility,
};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn upstream(url: &str) -> NewUpstream {
    NewUpstream {
        url: url.to_owned(),
        repositories: Vec::new(),
        ttl_seconds: 3600,
        public: true,
        private: true,
        login: None,
    }
}

impl TestRegistry {
    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    async fn pull_from(&self, wanted: &NewUpstream) {
        self.admin.create_upstream(&"hub".parse().unwrap(), wanted).await.unwrap();
    }

    async fn get(&self, path: &str) -> TestResponse {
        self.request(&format!("GET /v2/{path}"), &[("accept", MANIFEST)], "").await
    }

    async fn publish(&self, repository: &str) {
        let repository: Repository = repository.parse().unwrap();
        self.admin.set_visibility(&repository, Visibility::Public).await.unwrap();
    }

    async fn counts(&self) -> UpstreamCounts {
        self.admin.upstreams().await.unwrap()[0].counts
    }

    async fn last_failure(&self) -> String {
        let last = self.admin.upstreams().await.unwrap()[0].last_failure.clone();
        last.map(|failure| failure.error).unwrap_or_default()
    }
}

/// How a scripted upstream answers.
enum Answer {
    Bytes(String, Vec<u8>),
    /// The head, and then bytes without end.
    Endless(String),
    /// The head and some bytes, and then silence.
    Stall(String, Vec<u8>),
}

/// An upstream that answers as a test wants, and the heads of the requests it got.
struct Scripted {
    url: String,
    heads: Arc<Mutex<Vec<String>>>,
}

fn ok(headers: &str, body: &[u8]) -> Answer {
    let Answer::Bytes(head, _) = status(200, headers) else { unreachable!("it has a status") };
    let length = format!("content-length: {}", body.len());
    Answer::Bytes(head.replace("content-length: 0", &length), body.to_vec())
}

fn status(status: u16, headers: &str) -> Answer {
    let headers = [headers, if headers.is_empty() { "" } else { "\r\n" }].concat();
    let head = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n{headers}\r\n");
    Answer::Bytes(head, Vec::new())
}

impl Scripted {
    async fn start(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (Arc::clone(&heads), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        match stream.read_u8().await {
                            Ok(byte) => head.push(byte),
                            Err(_) => return,
                        }
                    }
                    let head = String::from_utf8(head).unwrap();
                    seen.lock().unwrap().push(head.clone());
                    match answer(&head) {
                        Answer::Bytes(head, body) => {
                            stream.write_all(head.as_bytes()).await.ok();
                            stream.write_all(&body).await.ok();
                        }
                        Answer::Endless(head) => {
                            stream.write_all(head.as_bytes()).await.ok();
                            while stream.write_all(&[b'x'; 65536]).await.is_ok() {}
                        }
                        Answer::Stall(head, body) => {
                            stream.write_all(head.as_bytes()).await.ok();
                            stream.write_all(&body).await.ok();
                            std::future::pending::<()>().await;
                        }
                    }
                });
            }
        });
        Self { url, heads }
    }

    fn requests(&self) -> Vec<String> {
        let heads = self.heads.lock().unwrap();
        heads.iter().map(|head| head.lines().next().unwrap_or_default().to_owned()).collect()
    }
}

#[tokio::test]
async fn what_is_pulled_is_fetched_once_and_served_while_the_upstream_is_gone() {
    let (origin, cache) = (TestRegistry::open().await, TestRegistry::open().await);
    let layer = noise(7, 1_500_000);
    let image = origin.push_image("ann/cats", "v1", &[b"{}", &layer]).await;
    let later = origin.push_image("ann/cats", "v2", &[b"{}", b"later"]).await;
    origin.publish("ann/cats").await;
    cache.pull_from(&upstream(&origin.url())).await;
    let blob = format!("hub/ann/cats/blobs/{}", Digest::of(&layer));
    assert_eq!(cache.get(&blob).await.status, 404, "no manifest names it yet");
    let manifest = cache.get("hub/ann/cats/manifests/v1").await;
    assert_eq!((manifest.status.as_u16(), Digest::of(&manifest.bytes)), (200, image));
    assert_eq!(manifest.header("content-type"), MANIFEST);
    let head = cache.request(&format!("HEAD /v2/{blob}"), &[], "").await;
    assert_eq!((head.status.as_u16(), head.header("content-length")), (200, "1500000"));
    assert!(cache.get(&blob).await.bytes[..] == layer);
    let part = cache.request(&format!("GET /v2/{blob}"), &[("range", "bytes=5-9")], "").await;
    assert_eq!((part.status.as_u16(), &part.bytes[..]), (206, &layer[5..10]));
    let fetched = cache.counts().await.fetched_bytes;
    assert!(fetched < 1_502_000 && fetched > 1_500_000, "{fetched}");

    origin.close().await;
    for path in ["hub/ann/cats/manifests/v1", &format!("hub/ann/cats/manifests/{image}"), &blob] {
        assert_eq!(cache.get(path).await.status, 200, "{path} is kept");
    }
    assert_eq!(cache.counts().await.fetched_bytes, fetched);
    let missing = cache.get(&format!("hub/ann/cats/manifests/{later}")).await;
    assert_eq!(missing.status, 502, "{:?}", missing.bytes);
    let again = cache.get("hub/ann/cats/manifests/v2").await;
    assert_eq!(again.status, 503, "an upstream that does not answer is left alone");
    assert_ne!(again.header("retry-after"), "");
    // Another process has everything, and asks the upstream for the tag first.
    let dir = cache.close().await;
    let cache = TestRegistry::open_in(dir, |_| ()).await;
    assert_eq!(cache.get("hub/ann/cats/manifests/v1").await.status, 200);
    assert!(cache.get(&blob).await.bytes[..] == layer);
    assert!(cache.last_failure().await.contains("cannot reach"));
    assert_eq!(cache.counts().await.stale, 1);
    cache.close().await;
}

#[tokio::test]
async fn a_tag_is_followed_after_its_time_and_an_immutable_one_is_not() {
    let (origin, cache) = (TestRegistry::open().await, TestRegistry::open().await);
    let old = origin.push_image("ann/cats", "v1", &[b"{}", b"old"]).await;
    origin.push_image("ann/cats", "gone", &[b"{}", b"gone"]).await;
    origin.publish("ann/cats").await;
    cache.pull_from(&upstream(&origin.url())).await;
    let tag = async |cache: &TestRegistry, name: &str| {
        let answer = cache.get(&format!("hub/ann/cats/manifests/{name}")).await;
        (answer.status.as_u16(), answer.header("docker-content-digest").to_owned())
    };
    assert_eq!(tag(&cache, "v1").await, (200, old.to_string()));
    assert_eq!(tag(&cache, "gone").await.0, 200);
    let new = origin.push_image("ann/cats", "v1", &[b"{}", b"new"]).await;
    let cats: Repository = "ann/cats".parse().unwrap();
    origin.admin.remove_tag(&cats, "gone").await.unwrap();
    assert_eq!(tag(&cache, "v1").await.1, old.to_string(), "its time is an hour");
    cache.pull_from(&NewUpstream { ttl_seconds: 0, ..upstream(&origin.url()) }).await;
    assert_eq!(tag(&cache, "v1").await, (200, new.to_string()));
    assert_eq!(tag(&cache, "gone").await.0, 404);
    let kept = cache.get(&format!("hub/ann/cats/manifests/{old}")).await;
    assert_eq!(kept.status, 200, "a digest is kept for good");
    let before = cache.counts().await.fetched_bytes;
    assert_eq!(tag(&cache, "v1").await.0, 200);
    assert_eq!(cache.counts().await.fetched_bytes, before, "what has not moved is not sent");
    let immutable = crate::Immutable { except: Vec::new() };
    let kept: Repository = "hub/ann/cats".parse().unwrap();
    cache.admin.set_immutable(&kept, Some(immutable)).await.unwrap();
    origin.push_image("ann/cats", "v1", &[b"{}", b"newer"]).await;
    assert_eq!(tag(&cache, "v1").await, (200, new.to_string()));
    cache.close().await;
    origin.close().await;
}

#[tokio::test]
async fn policies_decide_which_clients_pull_and_patterns_what() {
    let (origin, cache) = (TestRegistry::open().await, TestRegistry::open().await);
    origin.push_image("ann/cats", "v1", &[b"{}", b"cat"]).await;
    origin.push_image("ann/dogs", "v1", &[b"{}", b"dog"]).await;
    let login = RegistryLogin { username: "ann".to_owned(), password: PASSWORD.to_owned() };
    let repositories = vec!["ann/c*".to_owned()];
    let wanted =
        NewUpstream { login: Some(login), public: false, repositories, ..upstream(&origin.url()) };
    cache.pull_from(&wanted).await;
    let pull = async |user: &str, name: &str| {
        let reference = cache.reference(&format!("hub/ann/{name}:v1"));
        cache.client(user).resolve(&reference).await.map(drop)
    };
    let denied = pull("ann", "cats").await.unwrap_err();
    assert!(matches!(denied, Error::Denied { .. } | Error::NotFound { .. }), "{denied}");
    assert_eq!(cache.get("hub/ann/cats/manifests/v1").await.status, 401);
    assert_eq!(cache.counts().await, UpstreamCounts::default(), "it was not asked");
    let (pattern, ann) = ("hub/*".parse().unwrap(), "ann".parse().unwrap());
    cache.admin.set_policy(&pattern, &ann, &[Role::Pull].into()).await.unwrap();
    pull("ann", "cats").await.unwrap();
    let other = pull("ann", "dogs").await.unwrap_err();
    assert!(matches!(other, Error::NotFound { .. }), "{other}");
    assert!(pull("bob", "cats").await.is_err());
    let listed = serde_json::to_string(&cache.admin.upstreams().await.unwrap()).unwrap();
    assert!(listed.contains("\"username\":\"ann\"") && !listed.contains(PASSWORD), "{listed}");
    for (name, change, want) in [
        ("ann", upstream("https://ghcr.io"), "there is a user `ann`"),
        ("x", upstream("https://ghcr.io/acme"), "is not the URL of a registry"),
        ("x", upstream("ghcr.io"), "is not the URL of a registry"),
        ("x", NewUpstream { private: false, ..upstream("http://ghcr.io") }, "plain HTTP"),
        ("x", NewUpstream { repositories: vec!["A b".into()], ..wanted.clone() }, "no pattern"),
        ("x", NewUpstream { ttl_seconds: u64::MAX, ..wanted.clone() }, "once in a year"),
    ] {
        let refused = cache.admin.create_upstream(&name.parse().unwrap(), &change).await;
        let error = refused.unwrap_err().to_string();
        assert!(error.contains(want), "{name} {}: {error}", change.url);
    }
    // Its organisation takes it along.
    let hub = "hub".parse().unwrap();
    cache.admin.remove_organisation(&hub, &crate::Repositories::Delete).await.unwrap();
    assert_eq!(cache.admin.upstreams().await.unwrap(), []);
    cache.close().await;
    origin.close().await;
}

#[tokio::test]
async fn a_client_may_name_the_registry_that_it_means() {
    let (origin, cache) = (TestRegistry::open().await, TestRegistry::open().await);
    let image = origin.push_image("ann/cats", "v1", &[b"{}", b"cat"]).await;
    cache.push_image("ann/cats", "v1", &[b"{}", b"another cat"]).await;
    for registry in [&origin, &cache] {
        registry.publish("ann/cats").await;
    }
    cache.pull_from(&upstream(&origin.url())).await;
    let named = cache.get(&format!("ann/cats/manifests/v1?ns={}", origin.address)).await;
    assert_eq!(Digest::of(&named.bytes), image);
    let own = cache.get("ann/cats/manifests/v1").await;
    assert_ne!(Digest::of(&own.bytes), image);
    let other = cache.get(&format!("ann/dogs/manifests/v1?ns={}", origin.address)).await;
    assert_eq!(other.status, 404);
    cache.close().await;
    origin.close().await;
}

#[tokio::test]
async fn clients_that_want_the_same_blob_wait_for_one_fetch_and_read_while_it_comes() {
    let layer = noise(9, 3_000_000);
    let (digest, manifest) = (Digest::of(&layer), manifest_of(&[b"{}", &layer]));
    let body = layer.clone();
    let upstreams = Scripted::start(move |head| match head.contains("/manifests/") {
        true => ok(&format!("content-type: {MANIFEST}"), manifest.as_bytes()),
        // Half of it, and then a silence that the registry does not wait out.
        false if !head.contains("range: bytes=") => {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            Answer::Bytes(head, body[..1_000_000].to_vec())
        }
        false => {
            let line = head.lines().find(|line| line.starts_with("range: ")).unwrap();
            let from: usize =
                line.trim_start_matches("range: bytes=").trim_end_matches('-').parse().unwrap();
            let head = format!(
                "HTTP/1.1 206 x\r\ncontent-length: {}\r\ncontent-range: bytes {from}-{}/{}\r\n\r\n",
                body.len() - from,
                body.len() - 1,
                body.len()
            );
            Answer::Bytes(head, body[from..].to_vec())
        }
    })
    .await;
    let cache = TestRegistry::open().await;
    cache.pull_from(&upstream(&upstreams.url)).await;
    assert_eq!(cache.get("hub/cats/manifests/v1").await.status, 200);
    let path = format!("hub/cats/blobs/{digest}");
    let pulls = (0..8).map(|_| cache.get(&path));
    for answer in futures_util::future::join_all(pulls).await {
        assert_eq!(answer.status, 200);
        assert!(answer.bytes[..] == layer, "{} bytes", answer.bytes.len());
    }
    let fetches = upstreams.requests();
    let fetches: Vec<_> = fetches.iter().filter(|line| line.contains("/blobs/")).collect();
    assert_eq!(fetches.len(), 2, "one, and one that goes on where it broke: {fetches:?}");
    cache.close().await;
}

#[tokio::test]
async fn an_upstream_that_lies_gets_nothing_into_the_registry() {
    let layer = noise(3, 100_000);
    let manifest = manifest_of(&[b"{}", &layer]);
    let (image, blob) = (Digest::of(manifest.as_bytes()), Digest::of(&layer));
    let (wrong, document) = (noise(4, 100_000), manifest.clone());
    let upstreams = Scripted::start(move |head| {
        let path = head.split(' ').nth(1).unwrap();
        let body = document.as_bytes();
        match path {
            "/v2/good/manifests/v1" => ok(&format!("content-type: {MANIFEST}"), body),
            "/v2/good/blobs/wrong" => ok("", &wrong),
            _ if path.starts_with("/v2/good/blobs/") => ok("", &wrong),
            "/v2/announced/manifests/v1" => {
                let other = Digest::of(b"other");
                ok(&format!("docker-content-digest: {other}\r\ncontent-type: {MANIFEST}"), body)
            }
            _ if path.starts_with("/v2/pinned/") => ok("", b"{\"schemaVersion\": 2}"),
            "/v2/old/manifests/v1" => {
                ok("content-type: application/json", b"{\"schemaVersion\":1}")
            }
            "/v2/page/manifests/v1" => ok("content-type: text/html", b"<html>"),
            "/v2/endless/manifests/v1" => Answer::Endless("HTTP/1.1 200 OK\r\n\r\n".to_owned()),
            "/v2/loop/manifests/v1" => status(307, "location: /v2/loop/manifests/v1"),
            "/v2/inside/manifests/v1" => {
                status(307, "location: http://169.254.169.254/latest/meta-data")
            }
            _ => status(404, ""),
        }
    })
    .await;
    let cache = TestRegistry::open().await;
    cache.pull_from(&upstream(&upstreams.url)).await;
    for (path, want, why) in [
        ("announced/manifests/v1", 502, "sent wrong bytes"),
        (&*format!("pinned/manifests/{image}"), 502, "sent wrong bytes"),
        ("old/manifests/v1", 400, ""),
        ("page/manifests/v1", 400, ""),
        ("endless/manifests/v1", 502, "has more than"),
        ("loop/manifests/v1", 502, "redirects"),
        ("inside/manifests/v1", 502, "internal address"),
        ("nothing/manifests/v1", 404, ""),
        ("good/manifests/v1", 200, ""),
    ] {
        let answer = cache.get(&format!("hub/{path}")).await;
        assert_eq!(answer.status.as_u16(), want, "{path}: {:?}", answer.bytes);
        let text = String::from_utf8_lossy(&answer.bytes).into_owned();
        assert!(!text.contains("169.254") && !text.contains("127.0.0.1"), "{path}: {text}");
        let failure = cache.last_failure().await;
        assert!(failure.contains(why), "{path}: {failure}");
    }
    // A client that reads while it comes lacks the last byte, and so does the next one.
    for _ in 0..2 {
        let (status, bytes) = broken_get(&cache, &format!("hub/good/blobs/{blob}")).await;
        assert!(status == 502 || status == 200 && bytes < 100_000, "{status} {bytes}");
    }
    let names: Vec<_> =
        cache.admin.repositories().await.unwrap().into_iter().map(|one| one.name).collect();
    assert_eq!(names, ["hub/good"], "what was not stored makes no repository");
    cache.close().await;
}

/// The status, and how many bytes of the body came.
async fn broken_get(registry: &TestRegistry, path: &str) -> (u16, usize) {
    let mut stream = tokio::net::TcpStream::connect(registry.address).await.unwrap();
    let request = format!("GET /v2/{path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let status = String::from_utf8_lossy(&answer[9..12]).parse().unwrap();
    (status, if status == 200 { answer.len() - end } else { 0 })
}

#[tokio::test]
async fn a_stalled_blob_keeps_no_other_waiting_and_a_wait_that_is_asked_for_is_kept() {
    let (slow, fast) = (noise(5, 50_000), noise(6, 50_000));
    let manifest = manifest_of(&[b"{}", &slow, &fast]);
    let (stalls, quick) = (Digest::of(&slow), Digest::of(&fast));
    let limited = Arc::new(Mutex::new(false));
    let (is_limited, body, stalling) = (Arc::clone(&limited), fast.clone(), stalls.to_string());
    let upstreams = Scripted::start(move |head| match () {
        () if *is_limited.lock().unwrap() => status(429, "retry-after: 900"),
        () if head.contains("/manifests/") => {
            ok(&format!("content-type: {MANIFEST}"), manifest.as_bytes())
        }
        () if head.contains(&stalling) => {
            Answer::Stall("HTTP/1.1 200 OK\r\ncontent-length: 50000\r\n\r\n".into(), vec![1; 100])
        }
        () => ok("", &body),
    })
    .await;
    let cache = TestRegistry::open().await;
    cache.pull_from(&NewUpstream { ttl_seconds: 0, ..upstream(&upstreams.url) }).await;
    assert_eq!(cache.get("hub/cats/manifests/v1").await.status, 200);
    let path = format!("hub/cats/blobs/{stalls}");
    assert!(timeout(Duration::from_millis(300), cache.get(&path)).await.is_err(), "it stalls");
    assert!(cache.get(&format!("hub/cats/blobs/{quick}")).await.bytes[..] == fast);
    *limited.lock().unwrap() = true;
    assert_eq!(cache.get("hub/cats/manifests/v1").await.status, 200, "what is kept");
    let asked = upstreams.requests().len();
    let answer = cache.get("hub/cats/manifests/v2").await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after").len()), (503, 3));
    assert_eq!(cache.get("hub/cats/manifests/v1").await.status, 200);
    assert_eq!(upstreams.requests().len(), asked, "it is not asked before its time");
    let counts = cache.counts().await;
    assert_eq!((counts.stale, counts.failed), (2, 1), "{counts:?}");
    cache.close().await;
}

#[tokio::test]
async fn a_password_goes_to_its_upstream_and_to_no_other_host() {
    let realm = Scripted::start(|_| status(200, "")).await;
    let challenge = format!("www-authenticate: Bearer realm=\"{}/token\",service=\"x\"", realm.url);
    let upstreams = Scripted::start(move |_| status(401, &challenge)).await;
    let cache = TestRegistry::open().await;
    let login = RegistryLogin { username: "me".to_owned(), password: "a secret".to_owned() };
    cache.pull_from(&NewUpstream { login: Some(login), ..upstream(&upstreams.url) }).await;
    assert_eq!(cache.get("hub/cats/manifests/v1").await.status, 502);
    assert_eq!(realm.requests(), Vec::<String>::new());
    let failure = cache.last_failure().await;
    assert!(failure.contains("internal address"), "{failure}");
    // Without `private` it is not called at an internal address, whatever its name.
    let inside = NewUpstream { private: false, ..upstream("https://127.0.0.1:1") };
    cache.pull_from(&inside).await;
    assert_eq!(cache.get("hub/cats/manifests/v1").await.status, 502);
    let failure = cache.last_failure().await;
    assert!(failure.contains("internal address"), "{failure}");
    cache.close().await;
}

#[tokio::test]
async fn what_a_disk_has_lost_comes_from_the_upstream_again() {
    let (origin, cache) = (TestRegistry::open().await, TestRegistry::open().await);
    let layer = noise(2, 300_000);
    let image = origin.push_image("ann/cats", "v1", &[b"{}", &layer]).await;
    origin.publish("ann/cats").await;
    cache.pull_from(&upstream(&origin.url())).await;
    let (tag, blob) = ("hub/ann/cats/manifests/v1", Digest::of(&layer));
    let path = format!("hub/ann/cats/blobs/{blob}");
    assert_eq!(cache.get(tag).await.status, 200);
    assert!(cache.get(&path).await.bytes[..] == layer);
    for digest in [&image, &blob] {
        let hex = digest.hex();
        let file = cache.dir.path().join("blobs/sha256").join(&hex[..2]).join(&hex);
        fs::write(file, noise(8, 300)).unwrap();
    }
    let scrubbed = cache.admin.scrub(Some(u64::MAX)).await.unwrap();
    assert_eq!(scrubbed.damaged.len(), 2, "{scrubbed:?}");
    assert_eq!(Digest::of(&cache.get(tag).await.bytes), image);
    assert!(cache.get(&path).await.bytes[..] == layer);
    assert_eq!(cache.admin.scrub(Some(u64::MAX)).await.unwrap().damaged, []);
    // Also one that a client finds first.
    fs::remove_file(cache.dir.path().join("blobs/sha256").join(&blob.hex()[..2]).join(blob.hex()))
        .unwrap();
    assert!(cache.get(&path).await.bytes[..] == layer);
    cache.close().await;
    origin.close().await;
}

#[tokio::test]
async fn a_full_quota_makes_room_of_what_was_not_pulled_for_the_longest_time() {
    let origin = TestRegistry::open().await;
    let limits = Limits { retain_grace: Duration::ZERO, ..Limits::default() };
    let cache = TestRegistry::open_with(|config| config.limits = limits).await;
    let layers = [1, 2, 3].map(|seed| noise(seed, 100_000));
    let mut images = Vec::new();
    for (n, layer) in layers.iter().enumerate() {
        images.push(origin.push_image("ann/cats", &format!("v{n}"), &[b"{}", layer]).await);
    }
    origin.publish("ann/cats").await;
    cache.pull_from(&upstream(&origin.url())).await;
    cache.limit("hub", &["bytes=250000"]).await;
    for (n, layer) in layers.iter().enumerate() {
        assert_eq!(cache.get(&format!("hub/ann/cats/manifests/v{n}")).await.status, 200);
        let blob = cache.get(&format!("hub/ann/cats/blobs/{}", Digest::of(layer))).await;
        assert_eq!(blob.bytes.len(), 100_000, "{n}: {:?}", blob.status);
    }
    let cats: Repository = "hub/ann/cats".parse().unwrap();
    let kept = cache.admin.manifests(&cats).await.unwrap();
    assert!(kept.iter().all(|one| one.digest != images[0]), "{kept:?}");
    assert!(kept.iter().any(|one| one.digest == images[2]), "{kept:?}");
    // What fits in no way is refused by the name of the quota.
    cache.limit("hub", &["bytes=50000"]).await;
    let path = format!("hub/ann/cats/manifests/{}", images[0]);
    assert_eq!(cache.get(&path).await.status, 200);
    let refused = cache.get(&format!("hub/ann/cats/blobs/{}", Digest::of(&layers[0]))).await;
    let text = String::from_utf8_lossy(&refused.bytes).into_owned();
    assert!(refused.status == 403 && text.contains("the quota of `hub`"), "{text}");
    cache.close().await;
    origin.close().await;
}
