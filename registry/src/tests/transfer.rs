use std::{
    fs,
    io::{Read as _, Write as _},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use spec::{Descriptor, Digest, Host, MediaType, Reference};

use super::{
    fixture::{MemoryImages, PASSWORD, PutBlobs, TestRegistry, client, noise},
    proxy::{Fault, Proxy},
};
use crate::{
    Action, Auth, Client, ClientOptions, Entries, Error, Event, Outcome, Progress, PullOptions,
    PushOptions, Reach, Visibility,
};

fn ann() -> Auth {
    Auth::Password { user: "ann".to_owned(), password: PASSWORD.to_owned() }
}

/// Collects the outcomes of blobs.
fn counting() -> (Arc<Mutex<Vec<Outcome>>>, Progress) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let counted = Arc::clone(&seen);
    let progress: Progress = Arc::new(move |event| {
        if let Event::Finished { outcome, .. } = event {
            counted.lock().unwrap().push(outcome);
        }
    });
    (seen, progress)
}

#[tokio::test]
async fn only_missing_blobs_are_transferred() {
    let server = TestRegistry::open().await;
    let (client, images) = (server.client("ann"), MemoryImages::default());
    let (base, own) = (noise(1, 700_000), noise(2, 10_000));
    let httpd = images.image(&[&base]);
    let cats = images.image(&[&base, &own]);
    for (name, image, want) in [
        ("ann/httpd:v1", &httpd, vec![Outcome::Moved, Outcome::Moved]),
        ("ann/httpd:v2", &httpd, vec![Outcome::Exists, Outcome::Exists]),
        ("ann/cats:v1", &cats, vec![Outcome::Moved, Outcome::Mounted, Outcome::Mounted]),
    ] {
        let (seen, progress) = counting();
        let options = PushOptions { progress };
        client
            .push(&server.reference(name), image, Arc::new(images.clone()), &options)
            .await
            .unwrap();
        let mut seen = seen.lock().unwrap().clone();
        seen.sort_by_key(|outcome| format!("{outcome:?}").len());
        assert_eq!(seen, want, "{name}");
    }
    assert_eq!(client.tags(&server.reference("ann/httpd")).await.unwrap(), ["v1", "v2"]);

    let (seen, progress) = counting();
    let (sink, options) =
        (MemoryImages::default(), PullOptions { progress, ..PullOptions::default() });
    let reference = server.reference("ann/cats:v1");
    assert_eq!(client.resolve(&reference).await.unwrap().descriptor, cats);
    assert_eq!(client.pull(&reference, Arc::new(sink.clone()), &options).await.unwrap(), cats);
    assert_eq!(seen.lock().unwrap().len(), 3);
    assert_eq!(sink.get(&Digest::of(&base)).unwrap()[..], base);
    assert_eq!(sink.len(), 4);
    let pinned = server.reference("ann/cats").pinned(cats.digest);
    assert_eq!(client.pull(&pinned, Arc::new(sink), &options).await.unwrap(), cats);
}

#[tokio::test]
async fn chosen_entries_of_an_index_are_pulled_and_can_be_pushed_again() {
    let server = TestRegistry::open().await;
    let (client, images) = (server.client("ann"), MemoryImages::default());
    let (wasm, native) = (images.image(&[b"wasm"]), images.image(&[b"native"]));
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": [wasm, native]});
    let index = serde_json::to_vec(&index).unwrap();
    let root = Descriptor::of(MediaType::OCI_INDEX, &index);
    images.put(index);
    let reference = server.reference("ann/both:v1");
    client
        .push(&reference, &root, Arc::new(images.clone()), &PushOptions::default())
        .await
        .unwrap();

    let sink = MemoryImages::default();
    let entries = Entries::Chosen(Arc::new(|index| index.manifests[..1].to_vec()));
    let options = PullOptions { entries, ..PullOptions::default() };
    assert_eq!(client.pull(&reference, Arc::new(sink.clone()), &options).await.unwrap(), root);
    assert!(sink.get(&wasm.digest).is_some() && sink.get(&native.digest).is_none());
    let on = server.reference("ann/mirror:v1");
    client.push(&on, &root, Arc::new(sink), &PushOptions::default()).await.unwrap();
    assert_eq!(client.resolve(&on).await.unwrap().descriptor, root);
}

#[tokio::test]
async fn an_interrupted_pull_continues_where_it_broke() {
    let server = TestRegistry::open().await;
    let images = MemoryImages::default();
    let layer = noise(3, 3_000_000);
    let image = images.image(&[&layer]);
    server
        .client("ann")
        .push(&server.reference("ann/cats:v1"), &image, Arc::new(images), &PushOptions::default())
        .await
        .unwrap();

    let proxy = Proxy::to(server.address, Fault::CutDown(1_200_000)).await;
    let retries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&retries);
    let progress: Progress = Arc::new(move |event| {
        if matches!(event, Event::Retrying { .. }) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let sink = MemoryImages::default();
    let reference: Reference = format!("{}/ann/cats:v1", proxy.address).parse().unwrap();
    let options = PullOptions { progress, ..PullOptions::default() };
    let client = client(&proxy.address.to_string(), ann());
    client.pull(&reference, Arc::new(sink.clone()), &options).await.unwrap();
    assert_eq!(sink.get(&Digest::of(&layer)).unwrap()[..], layer);
    assert!(retries.load(Ordering::Relaxed) >= 2);
}

#[tokio::test]
async fn an_interrupted_push_continues_where_it_broke() {
    let server = TestRegistry::open().await;
    let (images, layer) = (MemoryImages::default(), noise(4, 3_000_000));
    let image = images.image(&[&layer]);
    let proxy = Proxy::to(server.address, Fault::CutUp(2_000_000)).await;
    let reference: Reference = format!("{}/ann/cats:v1", proxy.address).parse().unwrap();
    let client = client(&proxy.address.to_string(), ann());
    client.push(&reference, &image, Arc::new(images), &PushOptions::default()).await.unwrap();
    let back = MemoryImages::default();
    server
        .client("ann")
        .pull(&server.reference("ann/cats:v1"), Arc::new(back.clone()), &PullOptions::default())
        .await
        .unwrap();
    assert_eq!(back.get(&Digest::of(&layer)).unwrap()[..], layer);
}

#[tokio::test]
async fn every_failure_names_the_registry_and_has_a_hint() {
    let server = TestRegistry::open().await;
    let images = MemoryImages::default();
    let image = images.image(&[&noise(5, 500_000)]);
    let reference = server.reference("ann/cats:v1");
    server
        .client("ann")
        .push(&reference, &image, Arc::new(images), &PushOptions::default())
        .await
        .unwrap();

    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = Proxy::to(server.address, Fault::Silence).await.address;
    let cutting = Proxy::to(server.address, Fault::CutDown(4_000)).await;
    let trickling = Proxy::to(server.address, Fault::Trickle(6_000)).await.address;
    let here = server.address;
    let wrong = Auth::Password { user: "ann".to_owned(), password: "wrong horse".to_owned() };
    let bob = Auth::Password { user: "bob".to_owned(), password: PASSWORD.to_owned() };
    for (registry, name, auth, message, hint) in [
        (
            closed,
            "ann/cats:v1",
            ann(),
            format!("cannot reach the registry at `{closed}`"),
            "is it running",
        ),
        (
            silent,
            "ann/cats:v1",
            ann(),
            format!("`{silent}` was too slow: ann/cats:v1 made almost no progress for 1 s"),
            "try again",
        ),
        (
            trickling,
            "ann/cats:v1",
            ann(),
            format!("`{trickling}` was too slow: ann/cats@"),
            "what has arrived is kept",
        ),
        (
            cutting.address,
            "ann/cats:v1",
            ann(),
            format!("`{}` cut the connection: ann/cats@", cutting.address),
            "what has arrived is kept",
        ),
        (
            here,
            "ann/cats:v1",
            wrong,
            format!("`{here}` does not accept that password for `ann`"),
            &format!("margay login -u ann {here}"),
        ),
        (
            here,
            "ann/cats:v1",
            Auth::Anonymous,
            format!("`{here}` wants a login for `ann/cats:v1`"),
            &format!("margay login -u USER {here}"),
        ),
        (
            here,
            "ann/cats:v1",
            Auth::Token("a.b.c".to_owned()),
            "wants a login".to_owned(),
            "margay login",
        ),
        (here, "ann/cats:v1", bob, "`bob` may not pull `ann/cats`".to_owned(), "USER/"),
        (here, "ann/cats:v9", ann(), format!("`{here}` has no `ann/cats:v9`"), "spelling"),
    ] {
        let reference: Reference = format!("{registry}/{name}").parse().unwrap();
        let options = ClientOptions {
            auth: [(registry.to_string(), auth)].into(),
            idle_time_max: Duration::from_secs(1),
            retries_max: 2,
            backoff_max: Duration::from_millis(1),
            ..ClientOptions::default()
        };
        let pulled = Client::new(options)
            .pull(&reference, Arc::new(MemoryImages::default()), &PullOptions::default())
            .await;
        let error = pulled.unwrap_err();
        assert!(error.to_string().contains(&message), "{error}, wanted: {message}");
        assert!(
            error.hint().unwrap_or_default().contains(hint),
            "{error}: {:?}, wanted: {hint}",
            error.hint()
        );
    }
    assert!(cutting.connections() <= 20, "retries have an end: {}", cutting.connections());
    let local = server.client("ann").resolve(&"cats".parse().unwrap()).await.unwrap_err();
    assert_eq!(local.to_string(), "`cats:latest` names no registry");
}

#[tokio::test]
async fn internal_registries_are_called_only_if_allowed() {
    let server = TestRegistry::open().await;
    let reference = server.reference("ann/cats:v1");
    let registry = reference.registry().unwrap().to_owned();
    let reach = |registries: &[&str], networks: &[Host]| Reach::Public {
        registries: registries.iter().map(|registry| (*registry).to_owned()).collect(),
        networks: networks.to_vec(),
    };
    let network = |text: &str, bits| Host::Network(text.parse().unwrap(), bits);
    for (reach, allowed) in [
        (reach(&[], &[]), false),
        (
            reach(&["localhost:1", "example.com"], &[network("10.0.0.0", 8), network("::1", 128)]),
            false,
        ),
        (reach(&[&registry], &[]), true),
        (reach(&[], &[network("127.0.0.0", 8), network("::1", 128)]), true),
        (Reach::Anywhere, true),
    ] {
        let case = format!("{reach:?}");
        let options = ClientOptions { reach, retries_max: 0, ..ClientOptions::default() };
        let error = Client::new(options).resolve(&reference).await.unwrap_err();
        match allowed {
            true => assert!(matches!(error, Error::LoginNeeded { .. }), "{case}: {error}"),
            false => {
                assert!(error.to_string().ends_with("(loopback)"), "{case}: {error}");
                assert!(
                    error.hint().unwrap().contains("margay up --private-network 127.0.0.1"),
                    "{case}"
                );
            }
        }
    }
}

#[tokio::test]
async fn corrupted_blobs_are_rejected() {
    let server = TestRegistry::open().await;
    let (client, images, layer) =
        (server.client("ann"), MemoryImages::default(), noise(6, 400_000));
    let image = images.image(&[&layer]);
    let reference = server.reference("ann/cats:v1");
    client.push(&reference, &image, Arc::new(images), &PushOptions::default()).await.unwrap();
    let path = |digest: &Digest| {
        server.dir.path().join(format!("blobs/sha256/{}/{}", &digest.hex()[..2], digest.hex()))
    };
    let layer = Digest::of(&layer);
    for digest in [layer, image.digest] {
        let mut bytes = fs::read(path(&digest)).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(path(&digest), bytes).unwrap();
        let sink = MemoryImages::default();
        let error = client
            .pull(&reference, Arc::new(sink.clone()), &PullOptions::default())
            .await
            .unwrap_err();
        match &error {
            // The manifest was read before, and is served as it was.
            Error::WrongDigest { expected, .. } => assert_eq!(**expected, layer),
            _ => panic!("{error}"),
        }
        assert!(sink.get(&digest).is_none() && sink.get(&image.digest).is_none());
    }
    // A truncated file is found by the registry itself.
    fs::write(path(&layer), b"short").unwrap();
    let bearer = format!("Bearer {}", server.token("ann/cats"));
    let answer = server
        .request(&format!("GET /v2/ann/cats/blobs/{layer}"), &[("authorization", &bearer)], "")
        .await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (404, "BLOB_UNKNOWN"));
}

#[tokio::test]
async fn a_node_token_pulls_its_repositories_and_anonymous_clients_public_ones() {
    let server = TestRegistry::open().await;
    let images = MemoryImages::default();
    let image = images.image(&[b"cat"]);
    for name in ["ann/cats:v1", "ann/dogs:v1"] {
        server
            .client("ann")
            .push(
                &server.reference(name),
                &image,
                Arc::new(images.clone()),
                &PushOptions::default(),
            )
            .await
            .unwrap();
    }
    server.admin.set_visibility(&"ann/dogs".parse().unwrap(), Visibility::Public).await.unwrap();
    let registry = server.address.to_string();
    let access = [("ann/cats".parse().unwrap(), vec![Action::Pull])];
    let token = server.tokens.mint("node-1", &access, Duration::from_secs(60));
    let (node, anonymous) =
        (client(&registry, Auth::Token(token)), client(&registry, Auth::Anonymous));
    for (client, name, want) in [
        (&node, "ann/cats:v1", true),
        (&node, "ann/dogs:v1", true),
        (&anonymous, "ann/dogs:v1", true),
        (&anonymous, "ann/cats:v1", false),
    ] {
        let pulled = client
            .pull(
                &server.reference(name),
                Arc::new(MemoryImages::default()),
                &PullOptions::default(),
            )
            .await;
        assert_eq!(pulled.is_ok(), want, "{name}: {pulled:?}");
    }
    let pushed = node
        .push(&server.reference("ann/cats:v2"), &image, Arc::new(images), &PushOptions::default())
        .await;
    assert!(matches!(pushed, Err(Error::Denied { .. })), "{pushed:?}");
    assert!(server.client("ann").check(&registry).await.is_ok());
    assert!(anonymous.check(&registry).await.is_ok());
}

#[tokio::test]
async fn a_password_is_sent_to_no_other_host() {
    let server = TestRegistry::open_with(|config| {
        config.realm = Some("http://127.0.0.2:1/token".to_owned())
    })
    .await;
    let error = server.client("ann").check(&server.address.to_string()).await.unwrap_err();
    assert!(matches!(error, Error::ForeignRealm { .. }), "{error}");
}

#[tokio::test]
async fn a_registry_that_restarts_has_everything() {
    let server = TestRegistry::open().await;
    let images = MemoryImages::default();
    let image = images.image(&[&noise(7, 100_000)]);
    server
        .client("ann")
        .push(&server.reference("ann/cats:v1"), &image, Arc::new(images), &PushOptions::default())
        .await
        .unwrap();
    let server = TestRegistry::open_in(server.close().await, |_| ()).await;
    assert_eq!(
        server.client("ann").resolve(&server.reference("ann/cats:v1")).await.unwrap().descriptor,
        image
    );
}

#[tokio::test]
async fn tls_requires_a_certificate_of_a_known_authority_for_the_name() {
    let server = TestRegistry::open().await;
    let authority = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    for (name, known, message) in [
        ("localhost", true, None),
        ("localhost", false, Some("cannot speak TLS with")),
        ("example.com", true, Some("cannot speak TLS with")),
    ] {
        let key = authority(name);
        let front = Proxy::behind_tls(server.address, &key).await.address;
        let registry = format!("localhost:{}", front.port());
        let options = ClientOptions {
            auth: [(registry.clone(), ann())].into(),
            tls: [registry.clone()].into(),
            authorities: if known { vec![key.cert.der().to_vec()] } else { Vec::new() },
            ..ClientOptions::default()
        };
        let resolved = Client::new(options).check(&registry).await;
        match message {
            Some(message) => assert!(resolved.unwrap_err().to_string().contains(message), "{name}"),
            // The handshake succeeds. The token endpoint of this registry has no TLS, so the
            // password is not sent there.
            None => assert!(matches!(resolved, Err(Error::ForeignRealm { .. })), "{resolved:?}"),
        }
    }
}

#[tokio::test]
async fn client_futures_are_send() {
    let server = TestRegistry::open().await;
    let (client, images) = (server.client("ann"), MemoryImages::default());
    let (image, reference) = (images.image(&[b"cat"]), server.reference("ann/cats:v1"));
    let moving = async move {
        client.push(&reference, &image, Arc::new(images.clone()), &PushOptions::default()).await?;
        client.pull(&reference, Arc::new(images), &PullOptions::default()).await
    };
    tokio::spawn(moving).await.unwrap().unwrap();
}

/// A server that answers each request with `answers` of its path, on a connection of its own.
fn scripted(answers: impl Fn(&str) -> String + Send + 'static) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut bytes = [0; 4096];
            let read = stream.read(&mut bytes).unwrap_or(0);
            let request = String::from_utf8_lossy(&bytes[..read]).into_owned();
            let _ =
                stream.write_all(answers(request.split(' ').nth(1).unwrap_or_default()).as_bytes());
        }
    });
    address
}

#[tokio::test]
async fn a_relative_redirect_is_resolved_against_its_origin() {
    let moved = |to: &str| {
        format!(
            "HTTP/1.1 307 Moved\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        )
    };
    let storage = scripted(move |path| match path {
        "/first" => moved("/second?signed=1"),
        "/second?signed=1" => {
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}".to_owned()
        }
        _ => "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned(),
    });
    let registry = scripted(move |path| match path {
        "/v2/me/cats/manifests/v1" => moved(&format!("http://{storage}/first")),
        _ => "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned(),
    });
    let client = Client::new(ClientOptions::default());
    let resolved =
        client.resolve(&format!("{registry}/me/cats:v1").parse().unwrap()).await.unwrap();
    assert_eq!(&*resolved.bytes, b"{}");
}
