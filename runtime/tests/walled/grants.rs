use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::Arc,
};

use engine::{Event, Exit};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use runtime::Broker;
use rustls::pki_types::PrivateKeyDer;
use spec::{Capabilities, Host};

use crate::{
    Test,
    bench::{Bench, capability},
    layer::{Item, tar},
};

pub const TESTS: &[Test] = &[
    ("variables_are_there_when_granted", env),
    ("secrets_are_files_or_variables_when_granted", secrets),
    ("clocks_and_random_numbers_are_as_good_as_granted", clocks),
    ("the_writable_layer_has_a_quota_and_ends_with_the_task", writable),
    ("a_volume_keeps_what_is_written_and_holds_its_limit", volume),
    ("a_volume_without_a_grant_is_not_there", ungranted_volume),
    ("a_read_only_volume_refuses_every_change", read_only),
    ("a_connection_takes_a_grant_and_two_keys", connections),
    ("a_certificate_of_an_unknown_authority_is_refused_and_named", certificates),
    ("sixty_requests_of_a_guest_are_on_their_way_at_once", parallel),
    ("a_port_without_a_grant_is_not_served", ports),
];

fn denied(events: &[Event]) -> Vec<String> {
    let line = |event: &Event| match event {
        Event::Denied { line, .. } => Some(line.clone()),
        _ => None,
    };
    events.iter().filter_map(line).collect()
}

fn env() {
    let bench = Bench::new();
    let ran = bench.run("hostile/probe-cli.wasm", &["env"], |a| {
        a.program.image_env.insert("FROM_IMAGE".to_owned(), "1".to_owned());
        a.env.insert("GRANTED".to_owned(), "2".to_owned());
        a.env.insert("HELD_BACK".to_owned(), "3".to_owned());
        a.grants.add(capability("env:GRANTED"));
    });
    assert_eq!(ran.text, "FROM_IMAGE=1\nGRANTED=2\n");
    assert_eq!(denied(&ran.events), ["env:HELD_BACK"]);
    assert!(bench.log().contains("--allow env:HELD_BACK"));
}

fn secrets() {
    let bench = Bench::new();
    let with = |grant: &str, words: &[&str]| {
        bench.run("hostile/probe-cli.wasm", words, |a| {
            a.program.secrets.insert("db-password".parse().unwrap(), b"hunter2".to_vec());
            a.grants.add(capability(grant));
        })
    };
    assert_eq!(
        with("secret:db-password", &["read", "/run/secrets/db-password"]).text,
        "read 7 bytes\n"
    );
    assert_eq!(with("secret:db-password;as=env", &["env"]).text, "db-password=hunter2\n");
    let ran = with("secret:other", &["read", "/run/secrets/db-password"]);
    assert_eq!(
        (ran.exit, denied(&ran.events)),
        (Exit::Code(1), vec!["secret:db-password".to_owned()])
    );
    let ran = with("secret:db-password", &["write", "/run/secrets/db-password", "1"]);
    assert_eq!(ran.exit, Exit::Code(1), "a secret cannot be overwritten: {}", ran.text);
    assert!(!bench.log().contains("hunter2") || bench.log().contains("db-password=hunter2"));
}

fn clocks() {
    let bench = Bench::new();
    let text = |grants: &[&str], words: &[&str]| {
        let grants: Capabilities = grants.iter().map(|line| capability(line)).collect();
        bench.run("hostile/probe-cli.wasm", words, |a| a.grants = grants).text
    };
    assert!(text(&["clock:none"], &["clock"]).starts_with("wall 0 ms, a million turns 0 ns"));
    assert!(text(&["clock:frozen"], &["clock"]).contains("a million turns 0 ns"));
    assert!(!text(&["clock:frozen"], &["clock"]).starts_with("wall 0 ms"));
    assert!(!text(&[], &["clock"]).contains("a million turns 0 ns"));
    let coarse = text(&["clock:coarse"], &["clock"]);
    assert!(coarse.contains("000000 ns") || coarse.contains(" 0 ns"), "{coarse}");
    let random = |grants: &[&str]| text(grants, &["random"]);
    assert_eq!(random(&["random:seeded"]), random(&["random:seeded"]));
    assert_ne!(random(&[]), random(&[]));
    assert!(
        text(&["clock:frozen"], &["sleep", "30"]).starts_with("slept 3"),
        "an import that waits moves the clock"
    );
}

fn writable() {
    let bench = Bench::new();
    let layer = tar(&[Item::Folder("data"), Item::File("data/old", b"old")]);
    let served =
        bench.serve("hostile/probe-http.wasm", &[layer], |a| a.limits.writable_bytes_max = 100_000);
    assert_eq!(served.get("/write?path=/data/new&bytes=50000").0, 200, "{}", bench.log());
    assert_eq!(
        served.get("/read?path=/data/new").1,
        "read 50000 bytes\n",
        "every instance sees it"
    );
    assert_eq!(served.get("/write?path=/data/old&bytes=10").0, 200);
    assert_eq!(served.get("/read?path=/data/old").1, "read 10 bytes\n");
    let (status, text) = served.get("/write?path=/data/more&bytes=60000");
    assert_eq!(status, 403, "{text}");
    assert!(text.contains("space"), "{text}");
    assert_eq!(served.get("/list?path=/data").1, "/data/more\n/data/new\n/data/old\n");
    for path in ["/../etc/passwd", "/data/../../etc/passwd", "/proc/self/maps", "/etc/passwd"] {
        assert_eq!(served.get(&format!("/read?path={path}")).0, 403, "{path}");
    }
    drop(served);
    let layer = tar(&[Item::Folder("data"), Item::File("data/old", b"old")]);
    let again =
        bench.serve("hostile/probe-http.wasm", &[layer], |a| a.limits.writable_bytes_max = 0);
    assert_eq!(again.get("/read?path=/data/old").1, "read 3 bytes\n");
    assert_eq!(again.get("/read?path=/data/new").0, 403);
    assert_eq!(again.get("/write?path=/data/new").0, 403);
}

fn volume() {
    let bench = Bench::new();
    for round in 0..2 {
        let (folder, mount) = bench.volume("book", "/data", "rwd", None);
        let served = bench.serve("hostile/probe-http.wasm", &[], |a| {
            a.volumes.push(mount);
            a.grants.add(capability("fs:/data#rwd;volume=book;max=100KiB"));
        });
        let (status, text) = served.get("/write?path=/data/page&bytes=50000");
        assert_eq!(status, 200, "round {round}: {text} {}", bench.log());
        assert_eq!(served.get("/read?path=/data/page").1, "read 50000 bytes\n");
        assert_eq!(std::fs::metadata(folder.join("page")).unwrap().len(), 50_000);
        let (status, text) = served.get("/write?path=/data/second&bytes=60000");
        assert!(status == 403 && text.contains("space"), "{text}");
        std::fs::remove_file(folder.join("second")).unwrap();
        assert_eq!(served.get("/list?path=/data").1, "/data/page\n");
        assert_eq!(served.get("/list?path=/").1, "/data\n");
        for path in ["/data/../etc/passwd", "/data/../../../../etc/passwd"] {
            assert_eq!(served.get(&format!("/read?path={path}")).0, 403, "{path}");
        }
        std::os::unix::fs::symlink("/etc/passwd", folder.join("link")).unwrap();
        std::os::unix::fs::symlink("../../../../../etc/passwd", folder.join("up")).unwrap();
        for path in ["/data/link", "/data/up"] {
            assert_eq!(served.get(&format!("/read?path={path}")).0, 403, "{path}");
        }
        std::fs::remove_file(folder.join("link")).unwrap();
        std::fs::remove_file(folder.join("up")).unwrap();
    }
}

fn ungranted_volume() {
    let bench = Bench::new();
    let (_, mount) = bench.volume("book", "/data", "rwd", None);
    let ran = bench.run("hostile/probe-cli.wasm", &["list", "/data"], |a| a.volumes.push(mount));
    assert_eq!(
        (ran.exit, denied(&ran.events)),
        (Exit::Code(1), vec!["fs:/data#rwd;volume=NAME".to_owned()])
    );
}

fn read_only() {
    let bench = Bench::new();
    let (folder, mount) = bench.volume("book", "/data", "r", None);
    std::fs::write(folder.join("page"), "old").unwrap();
    let served = bench.serve("hostile/probe-http.wasm", &[], |a| {
        a.volumes.push(mount);
        a.grants.add(capability("fs:/data#rwd;volume=book"));
    });
    assert_eq!(served.get("/read?path=/data/page").1, "read 3 bytes\n");
    for path in ["/data/page", "/data/new"] {
        let (status, text) = served.get(&format!("/write?path={path}&bytes=1"));
        assert_eq!(status, 403, "{path}: {text}");
    }
    assert_eq!(std::fs::read_to_string(folder.join("page")).unwrap(), "old");
}

fn connections() {
    let bench = Bench::new();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in server.incoming().flatten() {
            let mut stream = stream;
            let mut head = [0; 1024];
            let _ = stream.read(&mut head);
            let _ = stream.write_all(
                b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nmeow",
            );
        }
    });
    let loopback = Host::Network("127.0.0.0".parse().unwrap(), 8);
    let fetch = format!("/fetch?url=http://127.0.0.1:{port}/");
    for (grant, key, status, says, line) in [
        (None, true, 403, "HttpRequestDenied", Some(format!("net.out:http://127.0.0.1:{port}"))),
        (
            Some(format!("net.out:http://127.0.0.1:{port}")),
            true,
            403,
            "Prohibited",
            Some(format!("net.out:http://127.0.0.1:{port};private")),
        ),
        (
            Some(format!("net.out:http://127.0.0.1:{port};private")),
            false,
            403,
            "Prohibited",
            Some(format!("net.out:http://127.0.0.1:{port};private")),
        ),
        (
            Some(format!("net.out:http://127.0.0.1:{port};private")),
            true,
            200,
            "status 200, 4 bytes",
            None,
        ),
    ] {
        let broker = Broker::new(key.then(|| loopback.clone()));
        let mut served = bench.serve_with("hostile/probe-http.wasm", &[], broker, |a| {
            a.grants.extend(grant.as_deref().map(capability));
        });
        let (got, text) = served.get(&fetch);
        assert_eq!(got, status, "{grant:?}, key {key}: {text}");
        assert!(text.contains(says), "{grant:?}, key {key}: {text}");
        if let Some(line) = line {
            let event = bench.tokio.block_on(served.worker.next_event());
            assert_eq!(event, Some(Event::Denied { line: line.clone(), count: 1 }));
            assert!(bench.log().contains(&format!("--allow {line}")));
        }
    }
}

/// A server that answers when `all` requests have arrived, and to each of them.
fn barrier(all: usize) -> u16 {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut waiting: Vec<_> = server.incoming().flatten().take(all).collect();
        for stream in &mut waiting {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(
                b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nmeow",
            );
        }
    });
    port
}

fn parallel() {
    let bench = Bench::new();
    let port = barrier(60);
    let loopback = Host::Network("127.0.0.0".parse().unwrap(), 8);
    let served = bench.serve_with("hostile/probe-http.wasm", &[], Broker::new([loopback]), |a| {
        a.grants.add(capability(&format!("net.out:http://127.0.0.1:{port};private")));
    });
    let address = served.address;
    let fetch = format!("/fetch?url=http://127.0.0.1:{port}/");
    let asked = (0..60).map(|_| {
        let fetch = fetch.clone();
        std::thread::spawn(move || crate::bench::get(address, &fetch))
    });
    for thread in asked.collect::<Vec<_>>() {
        let (status, text) = thread.join().unwrap();
        assert_eq!(status, 200, "{text} {}", bench.log());
    }
}

fn certificates() {
    let bench = Bench::new();
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let config = Arc::new(config.with_single_cert(vec![cert.der().clone()], key).unwrap());
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in server.incoming().flatten() {
            let mut tls = rustls::ServerConnection::new(config.clone()).unwrap();
            while tls.complete_io(&mut stream).is_ok_and(|moved| moved != (0, 0)) {}
        }
    });
    let loopback = Host::Network("127.0.0.0".parse().unwrap(), 8);
    let served = bench.serve_with("hostile/probe-http.wasm", &[], Broker::new([loopback]), |a| {
        a.grants.add(capability(&format!("net.out:https://localhost:{port};private")));
    });
    for _ in 0..3 {
        let (status, text) = served.get(&format!("/fetch?url=https://localhost:{port}/"));
        assert!(status == 403 && text.contains("TlsCertificateError"), "{status} {text}");
    }
    let log = bench.log();
    assert!(
        log.contains(&format!("margay: no TLS with localhost:{port}: invalid peer certificate")),
        "{log}"
    );
}

fn ports() {
    let bench = Bench::new();
    let mut served =
        bench.serve("hostile/probe-http.wasm", &[], |a| a.grants = Capabilities::default());
    assert_eq!(served.first, Some(Event::Denied { line: "net.in:http/80".to_owned(), count: 1 }));
    assert_eq!(bench.tokio.block_on(served.worker.next_event()), Some(Event::Started));
}
