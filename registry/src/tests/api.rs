use std::time::Duration;

use spec::{Algorithm, Digest, MediaType};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::fixture::{TestRegistry, noise};

/// A registry, and the authorization for `ann/cats` in it.
async fn cats() -> (TestRegistry, String) {
    let server = TestRegistry::open().await;
    let bearer = format!("Bearer {}", server.token("ann/cats"));
    (server, bearer)
}

fn sha512(bytes: &[u8]) -> Digest {
    Algorithm::Sha512.digest(bytes)
}

#[tokio::test]
async fn a_blob_is_pushed_in_chunks_and_pulled_in_ranges() {
    let (server, bearer) = cats().await;
    let auth = ("authorization", bearer.as_str());
    let bytes = noise(1, 1_000_000);
    for digest in [Digest::of(&bytes), sha512(&bytes)] {
        let begun = server.request("POST /v2/ann/cats/blobs/uploads/", &[auth], "").await;
        assert_eq!((begun.status.as_u16(), begun.header("range")), (202, "0-0"));
        let upload = begun.header("location").to_owned();
        assert!(
            upload.starts_with("/v2/"),
            "a Location is relative, so that it survives proxies: {upload}"
        );
        let patch = |range: &'static str, from: usize, to: usize| {
            let (server, upload, part) = (&server, &upload, bytes[from..to].to_vec());
            async move {
                server
                    .request(&format!("PATCH {upload}"), &[auth, ("content-range", range)], part)
                    .await
            }
        };
        assert_eq!(patch("0-399999", 0, 400_000).await.header("range"), "0-399999");
        for (range, want) in
            [("500000-599999", 416), ("0-99999", 416), ("400000-400001", 400), ("x", 400)]
        {
            let wrong = patch(range, 0, 100_000).await;
            assert_eq!(wrong.status.as_u16(), want, "{range}");
            if want == 416 {
                assert_eq!(
                    (wrong.header("range"), wrong.header("location")),
                    ("0-399999", upload.as_str())
                );
            }
        }
        let status = server.request(&format!("GET {upload}"), &[auth], "").await;
        assert_eq!((status.status.as_u16(), status.header("range")), (204, "0-399999"));
        let done = server
            .request(&format!("PUT {upload}?digest={digest}"), &[auth], bytes[400_000..].to_vec())
            .await;
        assert_eq!(
            (done.status.as_u16(), done.header("docker-content-digest")),
            (201, digest.to_string().as_str())
        );
        assert_eq!(
            server.request(&format!("GET {upload}"), &[auth], "").await.code(),
            "BLOB_UPLOAD_UNKNOWN"
        );

        let blob = done.header("location");
        let head = server.request(&format!("HEAD {blob}"), &[auth], "").await;
        assert_eq!(
            (head.status.as_u16(), head.header("content-length"), head.bytes.len()),
            (200, "1000000", 0)
        );
        // From the file to the socket; and through this process, as over TLS.
        for option in ["keep-alive", "close"] {
            let with = [auth, ("connection", option), ("range", "bytes=300000-899999")];
            let whole = server.request(&format!("GET {blob}"), &with[..2], "").await;
            assert!(whole.bytes == bytes, "{option}: {} bytes", whole.bytes.len());
            let part = server.request(&format!("GET {blob}"), &with, "").await;
            assert_eq!(
                (part.status.as_u16(), part.header("content-range")),
                (206, "bytes 300000-899999/1000000")
            );
            assert!(part.bytes == bytes[300_000..900_000], "{option}: {} bytes", part.bytes.len());
        }
        let none =
            server.request(&format!("GET {blob}"), &[auth, ("range", "bytes=1000000-")], "").await;
        assert_eq!((none.status.as_u16(), none.header("content-range")), (416, "bytes */1000000"));
    }
}

#[tokio::test]
async fn content_that_does_not_match_its_digest_is_rejected() {
    let (server, bearer) = cats().await;
    let auth = ("authorization", bearer.as_str());
    let promised = Digest::of(b"cat");
    let begun = server.request("POST /v2/ann/cats/blobs/uploads/", &[auth], "").await;
    for request in [
        format!("PUT {}?digest={promised}", begun.header("location")),
        format!("POST /v2/ann/cats/blobs/uploads/?digest={promised}"),
    ] {
        let answer = server.request(&request, &[auth], "dog").await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (400, "DIGEST_INVALID"),
            "{request}"
        );
    }
    for query in ["", "?digest=sha256:00", "?digest=sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709"]
    {
        let begun = server.request("POST /v2/ann/cats/blobs/uploads/", &[auth], "").await;
        let answer = server
            .request(&format!("PUT {}{query}", begun.header("location")), &[auth], "dog")
            .await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (400, "DIGEST_INVALID"),
            "{query}"
        );
    }
    for digest in [promised, Digest::of(b"dog")] {
        let answer = server.request(&format!("GET /v2/ann/cats/blobs/{digest}"), &[auth], "").await;
        assert_eq!(answer.code(), "BLOB_UNKNOWN");
    }
}

#[tokio::test]
async fn only_valid_manifests_whose_blobs_exist_are_accepted() {
    let (server, bearer) = cats().await;
    let blob = server.push_blob("ann/cats", b"{}").await;
    let elsewhere = server.push_blob("ann/dogs", b"bone").await;
    let (manifest, index) = (MediaType::OCI_MANIFEST, MediaType::OCI_INDEX);
    let link = |digest: &str, size: &str| {
        format!(r#"{{"mediaType":"a/b","digest":"{digest}","size":{size}}}"#)
    };
    let good = link(&blob.to_string(), "2");
    let with = |rest: &str| format!(r#"{{"schemaVersion":2,"mediaType":"{manifest}"{rest}}}"#);
    let deep = format!(r#","annotations":{}"#, "[".repeat(100_000));
    for (name, content_type, body, want) in [
        ("a manifest", manifest, with(&format!(r#","config":{good},"layers":[{good}]"#)), 201),
        ("a manifest without a config", manifest, with(r#","layers":[]"#), 201),
        ("unknown fields", manifest, with(r#","x":{"y":[1,null]}"#), 201),
        ("Docker's", MediaType::DOCKER_MANIFEST, r#"{"schemaVersion":2}"#.to_owned(), 201),
        ("no media type of its own", manifest, r#"{"schemaVersion":2}"#.to_owned(), 201),
        ("no media type at all", "", r#"{"schemaVersion":2}"#.to_owned(), 400),
        (
            "a media type of something else",
            "application/json",
            r#"{"schemaVersion":2}"#.to_owned(),
            400,
        ),
        ("two media types", index, with(""), 400),
        ("schema 1", manifest, r#"{"schemaVersion":1}"#.to_owned(), 400),
        ("an index and a manifest in one", manifest, with(r#","layers":[],"manifests":[]"#), 400),
        ("an index that says manifest", manifest, with(r#","manifests":[]"#), 400),
        (
            "an absent blob",
            manifest,
            with(&format!(r#","config":{}"#, link(&Digest::of(b"?").to_string(), "1"))),
            400,
        ),
        (
            "a blob of another repository",
            manifest,
            with(&format!(r#","config":{}"#, link(&elsewhere.to_string(), "4"))),
            400,
        ),
        (
            "a wrong size",
            manifest,
            with(&format!(r#","config":{}"#, link(&blob.to_string(), "3"))),
            400,
        ),
        (
            "a negative size",
            manifest,
            with(&format!(r#","config":{}"#, link(&blob.to_string(), "-2"))),
            400,
        ),
        (
            "a size beyond all numbers",
            manifest,
            with(&format!(r#","config":{}"#, link(&blob.to_string(), "1e999"))),
            400,
        ),
        (
            "a huge size",
            manifest,
            with(&format!(r#","config":{}"#, link(&blob.to_string(), "18446744073709551616"))),
            400,
        ),
        (
            "a digest in capitals",
            manifest,
            with(&format!(r#","config":{}"#, link(&blob.to_string().to_uppercase(), "2"))),
            400,
        ),
        ("a key that is there twice", manifest, with(r#","layers":[],"layers":[]"#), 400),
        ("a key in two cases", manifest, with(r#","layers":[],"LAYERS":[]"#), 400),
        ("a key twice that no registry reads", manifest, with(r#","x":{"a":1,"a":2}"#), 400),
        ("labels in two cases", manifest, with(r#","annotations":{"a":"1","A":"2"}"#), 201),
        ("half a surrogate", manifest, with(r#","annotations":{"a":"\ud800"}"#), 400),
        ("a hundred thousand brackets", manifest, with(&deep), 400),
        ("a byte order mark", manifest, format!("\u{feff}{}", with("")), 400),
        ("nothing", manifest, String::new(), 400),
        (
            "ten thousand layers",
            manifest,
            with(&format!(r#","layers":[{}]"#, vec![good.as_str(); 10_000].join(","))),
            400,
        ),
        ("4 MiB and one byte", manifest, " ".repeat((4 << 20) + 1), 413),
    ] {
        let mut headers = vec![("authorization", bearer.as_str())];
        if !content_type.is_empty() {
            headers.push(("content-type", content_type));
        }
        let answer = server.request("PUT /v2/ann/cats/manifests/v1", &headers, body.clone()).await;
        assert_eq!(
            answer.status.as_u16(),
            want,
            "{name}: {}",
            String::from_utf8_lossy(&answer.bytes)
        );
        if want == 201 {
            let read = server.request("GET /v2/ann/cats/manifests/v1", &headers[..1], "").await;
            assert_eq!(
                (read.bytes, read.headers["docker-content-digest"].to_str().unwrap()),
                (body.clone().into(), Digest::of(body.as_bytes()).to_string().as_str()),
                "{name}"
            );
        } else {
            assert!(
                answer.code().starts_with("MANIFEST_") || answer.code() == "SIZE_INVALID",
                "{name}: {}",
                answer.code()
            );
        }
    }
    // An index may be sparse: a mirror of one platform keeps the digest of all.
    let sparse = format!(
        r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
        link(&Digest::of(b"?").to_string(), "1")
    );
    let headers = [("authorization", bearer.as_str()), ("content-type", index)];
    assert_eq!(
        server.request("PUT /v2/ann/cats/manifests/all", &headers, sparse).await.status.as_u16(),
        201
    );
}

#[tokio::test]
async fn head_of_a_manifest_reads_no_file() {
    let (server, bearer) = cats().await;
    let auth = ("authorization", bearer.as_str());
    let manifest = format!(r#"{{"schemaVersion":2,"mediaType":"{}"}}"#, MediaType::OCI_MANIFEST);
    let digest = server.push_manifest("ann/cats", "v1", &manifest).await;
    let (shard, name) = (digest.hex()[..2].to_owned(), digest.hex());
    std::fs::remove_file(server.dir.path().join("blobs/sha256").join(shard).join(name)).unwrap();
    let head = server.request("HEAD /v2/ann/cats/manifests/v1", &[auth], "").await;
    assert_eq!((head.status.as_u16(), head.bytes.len()), (200, 0));
    for (header, want) in [
        ("docker-content-digest", digest.to_string()),
        ("content-length", manifest.len().to_string()),
        ("content-type", MediaType::OCI_MANIFEST.to_owned()),
    ] {
        assert_eq!(head.header(header), want, "{header}");
    }
    let get = server.request("GET /v2/ann/cats/manifests/v1", &[auth], "").await;
    assert_eq!(get.status.as_u16(), 404, "it is lost, and not vouched for from now on");
}

#[tokio::test]
async fn tags_are_listed_by_page_and_deleted_with_their_manifest() {
    let (server, bearer) = cats().await;
    let auth = ("authorization", bearer.as_str());
    let one = server
        .push_manifest(
            "ann/cats",
            "v1",
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#,
        )
        .await;
    let two =
        format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[]}}"#, MediaType::OCI_INDEX);
    server.push_manifest("ann/cats", "latest", &two).await;
    let many = format!("PUT /v2/ann/cats/manifests/{one}?tag=v2&tag=v3&tag=v2");
    let body = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#;
    let answer = server.request(&many, &[auth], body).await;
    let tags: Vec<_> =
        answer.headers.get_all("oci-tag").iter().map(|tag| tag.to_str().unwrap()).collect();
    assert_eq!((answer.status.as_u16(), tags), (201, vec!["v2", "v3"]));
    let too_many: Vec<_> = (0..17).map(|n| format!("tag=t{n}")).collect();
    let answer = server
        .request(&format!("PUT /v2/ann/cats/manifests/{one}?{}", too_many.join("&")), &[auth], body)
        .await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (400, "TAG_INVALID"));

    for (query, want, link) in [
        ("", r#"["latest","v1","v2","v3"]"#, ""),
        ("?n=2", r#"["latest","v1"]"#, r#"</v2/ann/cats/tags/list?n=2&last=v1>; rel="next""#),
        ("?n=2&last=v1", r#"["v2","v3"]"#, ""),
        ("?last=v2", r#"["v3"]"#, ""),
        ("?n=0", "[]", ""),
        ("?n=2147483647", r#"["latest","v1","v2","v3"]"#, ""),
    ] {
        let page = server.request(&format!("GET /v2/ann/cats/tags/list{query}"), &[auth], "").await;
        assert_eq!(page.bytes, format!(r#"{{"name":"ann/cats","tags":{want}}}"#), "{query}");
        assert_eq!(page.header("link"), link, "{query}");
    }
    for query in ["?n=-1", "?n=x", "?last=..%2f"] {
        assert_eq!(
            server.request(&format!("GET /v2/ann/cats/tags/list{query}"), &[auth], "").await.status,
            400,
            "{query}"
        );
    }
    assert_eq!(server.request("DELETE /v2/ann/cats/manifests/v2", &[auth], "").await.status, 202);
    assert_eq!(
        server.request(&format!("GET /v2/ann/cats/manifests/{one}"), &[auth], "").await.status,
        200
    );
    assert_eq!(
        server.request(&format!("DELETE /v2/ann/cats/manifests/{one}"), &[auth], "").await.status,
        202
    );
    let left = server.request("GET /v2/ann/cats/tags/list", &[auth], "").await;
    assert_eq!(left.bytes, r#"{"name":"ann/cats","tags":["latest"]}"#);
    for gone in ["v1", "v2", "v3", &one.to_string()] {
        assert_eq!(
            server.request(&format!("GET /v2/ann/cats/manifests/{gone}"), &[auth], "").await.code(),
            "MANIFEST_UNKNOWN"
        );
    }
}

#[tokio::test]
async fn referrers_are_listed_by_subject_and_artifact_type() {
    let (server, bearer) = cats().await;
    let auth = ("authorization", bearer.as_str());
    let subject = Digest::of(b"not pushed yet");
    for (tag, kind) in [("a", "application/x-signature"), ("b", "application/x-sbom")] {
        let body = format!(
            r#"{{"schemaVersion":2,"mediaType":"{m}","artifactType":"{kind}","annotations":{{"cat":"{tag}"}},"subject":{{"mediaType":"{m}","digest":"{subject}","size":14}}}}"#,
            m = MediaType::OCI_MANIFEST
        );
        let answer =
            server.request(&format!("PUT /v2/ann/cats/manifests/{tag}"), &[auth], body).await;
        assert_eq!(answer.header("oci-subject"), subject.to_string());
    }
    let list = async |query: &str| {
        let answer = server
            .request(&format!("GET /v2/ann/cats/referrers/{subject}{query}"), &[auth], "")
            .await;
        assert_eq!(answer.header("content-type"), MediaType::OCI_INDEX);
        let list: serde_json::Value = serde_json::from_slice(&answer.bytes).unwrap();
        let mut tags: Vec<_> = list["manifests"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m["annotations"]["cat"].to_string())
            .collect();
        tags.sort();
        (tags.concat(), answer.header("oci-filters-applied").to_owned())
    };
    assert_eq!(list("").await, (r#""a""b""#.to_owned(), String::new()));
    assert_eq!(
        list("?artifactType=application/x-sbom").await,
        (r#""b""#.to_owned(), "artifactType".to_owned())
    );
    assert_eq!(
        list("?artifactType=application%2Fx-none").await,
        (String::new(), "artifactType".to_owned())
    );
    assert_eq!(server.request("DELETE /v2/ann/cats/manifests/a", &[auth], "").await.status, 202);
    assert_eq!(list("").await.0, r#""a""b""#, "deleting a tag keeps the manifest");
}

#[tokio::test]
async fn referrers_and_their_pages_are_limited_in_bytes() {
    let (server, bearer) = cats().await;
    let auth = ("authorization", bearer.as_str());
    let subject = Digest::of(b"not pushed yet");
    let put = async |n: usize, kind: &str, note: &str| {
        let body = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MediaType::OCI_MANIFEST,
            "artifactType": kind,
            "annotations": { "n": n.to_string(), "note": note },
            "subject": { "mediaType": MediaType::OCI_MANIFEST, "digest": subject, "size": 14 },
        });
        server.request("PUT /v2/ann/cats/manifests/note", &[auth], body.to_string()).await
    };
    for (name, kind, note) in [
        ("a long artifact type", "a/".to_owned() + &"x".repeat(300_000), String::new()),
        ("a long annotation", "a/b".to_owned(), "x".repeat(65_536)),
        ("an annotation that is long as JSON", "a/b".to_owned(), "\u{1}".repeat(60_000)),
    ] {
        let answer = put(0, &kind, &note).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (400, "MANIFEST_INVALID"),
            "{name}"
        );
    }
    for n in 0..20 {
        assert_eq!(put(n, "a/b", &"x".repeat(60_000)).await.status.as_u16(), 201);
    }
    let (mut next, mut pages, mut digests) =
        (format!("/v2/ann/cats/referrers/{subject}"), 0, Vec::new());
    while !next.is_empty() {
        let page = server.request(&format!("GET {next}"), &[auth], "").await;
        assert!(page.bytes.len() <= (1 << 20) + 1000, "{} bytes", page.bytes.len());
        let list: serde_json::Value = serde_json::from_slice(&page.bytes).unwrap();
        digests
            .extend(list["manifests"].as_array().unwrap().iter().map(|m| m["digest"].to_string()));
        next = page.header("link").split(['<', '>']).nth(1).unwrap_or_default().to_owned();
        pages += 1;
    }
    digests.sort_unstable();
    digests.dedup();
    assert_eq!((pages, digests.len()), (2, 20));
}

#[tokio::test]
async fn open_uploads_have_a_limit_and_can_be_cancelled() {
    let server = TestRegistry::open_with(|config| config.limits.uploads_per_user_max = 2).await;
    let bearer = format!("Bearer {}", server.token("ann/cats"));
    let auth = ("authorization", bearer.as_str());
    let begin = async || server.request("POST /v2/ann/cats/blobs/uploads/", &[auth], "").await;
    let first = begin().await.header("location").to_owned();
    begin().await;
    assert_eq!(
        (begin().await.status.as_u16(), begin().await.code().as_str()),
        (429, "TOOMANYREQUESTS")
    );
    assert_eq!(server.request(&format!("DELETE {first}"), &[auth], "").await.status, 204);
    assert_eq!(
        server.request(&format!("PATCH {first}"), &[auth], "x").await.code(),
        "BLOB_UPLOAD_UNKNOWN"
    );
    assert_eq!(begin().await.status, 202);
}

#[tokio::test]
async fn a_blob_has_a_size_limit() {
    let server = TestRegistry::open_with(|config| config.limits.blob_bytes_max = 1000).await;
    let bearer = format!("Bearer {}", server.token("ann/cats"));
    let digest = Digest::of(&[0; 1001]);
    let request = format!("POST /v2/ann/cats/blobs/uploads/?digest={digest}");
    let answer = server.request(&request, &[("authorization", &bearer)], vec![0; 1001]).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (413, "SIZE_INVALID"));
    server.push_blob("ann/cats", &[0; 1000]).await;
}

#[tokio::test]
async fn stalled_requests_time_out_and_received_bytes_are_kept() {
    let server = TestRegistry::open_with(|config| {
        config.limits.idle_time_max = Duration::from_millis(300);
        config.limits.header_time_max = Duration::from_millis(300);
    })
    .await;
    let bearer = format!("Bearer {}", server.token("ann/cats"));
    let begun =
        server.request("POST /v2/ann/cats/blobs/uploads/", &[("authorization", &bearer)], "").await;
    let upload = begun.header("location");
    for (sent, want) in [
        ("GET /v2/ HTTP/1.1\r\nHost: x\r\n".to_owned(), None),
        (
            format!(
                "PATCH {upload} HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer}\r\nContent-Length: 9\r\n\r\ncat"
            ),
            Some("408"),
        ),
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok();
        assert_eq!(
            answer.split(' ').nth(1).filter(|status| want.is_some() || *status != "408"),
            want,
            "{sent}"
        );
    }
    let status = server.request(&format!("GET {upload}"), &[("authorization", &bearer)], "").await;
    assert_eq!(status.header("range"), "0-2");
}

#[tokio::test]
async fn one_address_cannot_exhaust_connections_or_the_admin_socket() {
    let server = TestRegistry::open_with(|config| {
        config.limits.connections_max = 6;
        config.limits.connections_of_one_address_max = 4;
    })
    .await;
    let connect = async |from: [u8; 4]| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let mut stream = socket.connect(server.address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.ok();
        let mut start = [0; 12];
        let answered =
            tokio::time::timeout(Duration::from_secs(2), stream.read_exact(&mut start)).await;
        matches!(answered, Ok(Ok(_))).then_some(stream) // else it was closed, or has to wait
    };
    let (one, two, three) = ([127, 0, 0, 1], [127, 0, 0, 2], [127, 0, 0, 3]);
    let mut kept = Vec::new();
    for _ in 0..8 {
        kept.push(connect(one).await.expect("one that is idle makes room for another"));
    }
    for from in [two, two, three, three, three] {
        kept.push(connect(from).await.expect("one that is idle makes room for another address"));
    }
    server.admin.users().await.expect("the admin socket has its own limit");
}

#[tokio::test]
async fn unauthenticated_responses_name_the_token_endpoint() {
    let server = TestRegistry::open().await;
    let ping = server.request("GET /v2/", &[], "").await;
    assert_eq!((ping.status.as_u16(), ping.code().as_str()), (401, "UNAUTHORIZED"));
    assert_eq!(ping.header("docker-distribution-api-version"), "registry/2.0");
    let realm =
        format!(r#"Bearer realm="http://{}/token",service="margay-registry""#, server.address);
    assert_eq!(ping.header("www-authenticate"), realm);
    assert_eq!(server.request("GET /healthz", &[], "").await.status, 200);
    let odd = server.request("GET /v2/ann/cats/tags/list", &[("host", "evil\"x")], "").await;
    assert!(!odd.header("www-authenticate").contains("evil"));
    let pull = server.request("GET /v2/ann/cats/tags/list", &[], "").await;
    assert!(pull.header("www-authenticate").ends_with(r#",scope="repository:ann/cats:pull""#));
}
