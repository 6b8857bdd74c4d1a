//! HTTP as hostile clients speak it, at every port that other machines may reach.

use std::{
    io::{Read, Write},
    net::{IpAddr, TcpStream, UdpSocket},
    time::Duration,
};

use crate::{
    stage::{Stage, eventually},
    up::{HOST, Up, page_is_served, record, serve_cats},
};

/// All that `address` answers to `bytes`.
pub fn exchange(address: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(15))).expect("a timeout");
    stream.write_all(bytes).expect("sent");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// One of each kind; `net`'s own tests have them all.
fn hostile_requests() -> Vec<(&'static str, String)> {
    let start = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\n");
    let good = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    let chunked = "Transfer-Encoding: chunked\r\n";
    vec![
        ("CL.TE", format!("{start}Content-Length: 5\r\n{chunked}\r\n0\r\n\r\n{good}")),
        ("TE twice", format!("{start}{chunked}{chunked}\r\n0\r\n\r\n{good}")),
        ("TE list", format!("{start}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n{good}")),
        ("CL twice", format!("{start}Content-Length: 1\r\nContent-Length: 1\r\n\r\nx{good}")),
        ("bare LF", format!("GET / HTTP/1.1\nHost: {HOST}\n\n{good}")),
        ("a line that goes on", format!("{start}X: y\r\n z\r\n\r\n{good}")),
        (
            "two Authorizations",
            format!("{start}Authorization: a\r\nAuthorization: b\r\n\r\n{good}"),
        ),
        ("two Hosts", format!("{start}Host: evil\r\n\r\n{good}")),
        ("no Host", format!("GET / HTTP/1.1\r\n\r\n{good}")),
        ("user information", format!("GET / HTTP/1.1\r\nHost: x@{HOST}\r\n\r\n{good}")),
        ("another host", format!("GET http://evil/ HTTP/1.1\r\nHost: {HOST}\r\n\r\n{good}")),
        ("a space before a colon", format!("{start}X : y\r\n\r\n{good}")),
        ("a control character", format!("{start}X: \x01\r\n\r\n{good}")),
        ("a large head", format!("{start}X: {}\r\n\r\n{good}", "x".repeat(70_000))),
        ("a bad chunk", format!("{start}{chunked}\r\n5\r\nhello!\r\n0\r\n\r\n{good}")),
        ("a bad size", format!("{start}{chunked}\r\n0x5\r\nhello\r\n0\r\n\r\n{good}")),
    ]
}

fn refuses_them_all(name: &str, address: &str) {
    for (what, request) in hostile_requests() {
        let answer = exchange(address, request.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 400 "), "{name}, {what}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{name}, {what}: {answer}");
    }
}

#[test]
fn every_port_refuses_requests_that_parsers_read_differently() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    serve_cats(&stage, &up, 1);
    eventually("the page", || page_is_served(&up));
    refuses_them_all("the ingress", &up.ingress);
    refuses_them_all("the registry", &up.registry.replace("localhost", "127.0.0.1"));
    assert!(page_is_served(&up).is_some(), "it is served as before");
    stage.margay(["run", "-d", "-p", "127.0.0.1:0:80", "--name", "direct", "cats"]).ok();
    let port = stage.margay(["port", "direct", "80"]).ok();
    refuses_them_all("a published port", port.trim());
    stage.margay(["rm", "-f", "direct"]).ok();
    up.end();
    stage.is_empty();
}

/// An address of this machine that others reach, where it has one.
pub fn outside() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    let is_outside = !address.is_loopback() && !address.is_unspecified();
    if !is_outside {
        println!("skipped: this machine has no address but loopback");
    }
    is_outside.then_some(address)
}

#[test]
fn on_an_address_of_other_machines_the_registry_speaks_tls() {
    let Some(address) = outside() else { return };
    let stage = Stage::new();
    let address = address.to_string();
    let mut here = Up::start_with(&stage, &["--listen", &address]);
    let registry = record(&stage)["registry"].as_str().expect("an address").to_owned();
    // A service whose image is pulled from there, by the control plane and by the node.
    here.registry.clone_from(&registry);
    serve_cats(&stage, &here, 1);
    eventually("the page", || page_is_served(&here));
    // Another machine has the authority in a file, and is told what to do without it.
    let other = Stage::new();
    let password =
        std::fs::read_to_string(stage.home().join("registry/password")).expect("a password");
    let login = ["login", "-u", "me", "--password-stdin", &registry];
    let err = other.margay_fed(login, &password).fails(1);
    assert!(err.contains("hint: trust the authority that signed its certificate: --ca"), "{err}");
    let authority = stage.home().join("server/ca.pem").display().to_string();
    let with_authority = [&login[..], &["--ca", &authority]].concat();
    assert_eq!(other.margay_fed(&with_authority, &password).ok(), "Login Succeeded\n");
    other.margay(["pull", &format!("{registry}/me/cats:v1")]).ok();
    // Passwords are never asked for in plain HTTP.
    let plain = format!("GET /v2/ HTTP/1.1\r\nHost: {registry}\r\nConnection: close\r\n\r\n");
    let answer = exchange(&registry, plain.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("HTTPS"), "{answer}");
    assert!(!answer.contains("realm"), "{answer}");
    here.end();
    stage.is_empty();
    // A registry of its own needs a certificate, or is told that it needs none.
    let alone = Stage::new();
    let listen = format!("{address}:0");
    let err = alone.margay(["registry", "--listen", &listen]).fails(2);
    assert!(err.contains("plain HTTP") && err.contains("--tls-cert"), "{err}");
    let mut running = alone.start(["registry", "--listen", &listen, "--insecure"]);
    assert!(running.line().starts_with("registry listens on "));
    running.signal("INT");
    running.end();
}

/// What the first process of its kind holds in memory.
fn resident_bytes(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

#[test]
fn unfinished_heads_cost_a_server_little_memory() {
    // Fewer than one address may have where a system allows 20,000 descriptors.
    const CONNECTIONS: usize = 768;
    const COST_MAX: u64 = 64 << 20;
    let stage = Stage::new();
    let up = Up::start(&stage);
    let ingress = up.pid(&stage, "ingress");
    let before = resident_bytes(ingress);
    let head = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nX: {}", "a".repeat(60_000));
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(&up.ingress).expect("a connection");
        // One that was refused may have been closed by now.
        let _ = stream.write_all(head.as_bytes());
        held.push(stream);
    }
    let mut refused = 0;
    for stream in &mut held {
        stream.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
        let mut start = [0; 12];
        refused += usize::from(stream.read(&mut start).is_ok_and(|_| start == *b"HTTP/1.1 503"));
    }
    let cost = resident_bytes(ingress).saturating_sub(before);
    assert!(cost <= COST_MAX, "{cost} bytes");
    assert!(refused > CONNECTIONS / 2, "{refused}");
    let good = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    let answer = exchange(&up.ingress, good.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 404 "), "an ordinary request goes on: {answer}");
    drop(held);
    // HPACK makes much of little: 1,500 short headers are 8 KiB on the wire and 200 KiB in memory.
    let block: Vec<u8> = (0..1500).flat_map(|n| literal(&format!("a{n}"))).collect();
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = payload.len() as u32;
        let head = [&length.to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        [&head, payload].concat()
    };
    let begun = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(4, 0, 0, &[])[..]].concat();
    let begun = [begun, frame(1, 1, 1, &block)].concat();
    let before = resident_bytes(ingress);
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(&up.ingress).expect("a connection");
        let _ = stream.write_all(&begun);
        held.push(stream);
    }
    // The last of them is read when its settings have come.
    let _ = held[CONNECTIONS - 1].read(&mut [0; 9]);
    let cost = resident_bytes(ingress).saturating_sub(before);
    assert!(cost <= COST_MAX, "{cost} bytes of HTTP/2");
    let answer = exchange(&up.ingress, good.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 404 "), "an ordinary request goes on: {answer}");
    drop(held);
    up.end();
    stage.is_empty();
}

/// A header without a value, as HPACK writes one that it does not know.
fn literal(name: &str) -> Vec<u8> {
    [&[0, name.len() as u8], name.as_bytes(), &[0]].concat()
}
