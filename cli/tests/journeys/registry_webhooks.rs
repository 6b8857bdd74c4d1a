//! Webhooks, from the command line to a receiver.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    sync::mpsc,
    thread,
    time::Duration,
};

use crate::{
    registry_admin::{Apart, check},
    stage::Stage,
};

/// The URL of a receiver of one event, and the event.
fn receiver() -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
    let (send, received) = mpsc::channel();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
        // An event is a JSON object, and ends with its brace.
        while !bytes.ends_with(b"}}") {
            match stream.read(&mut buffer).expect("a request") {
                0 => break,
                n => bytes.extend_from_slice(&buffer[..n]),
            }
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").expect("an answer");
        send.send(String::from_utf8_lossy(&bytes).into_owned()).ok();
    });
    (url, received)
}

#[test]
fn a_push_is_told_to_a_webhook_and_bad_webhooks_are_refused() {
    let stage = Stage::new();
    let apart = Apart::with_images(&stage);
    let (url, received) = receiver();
    let create = format!("webhook create me/ci {url} --private --event image-pushed");
    check(&stage, &create, 0, "whsec_");
    apart.push(&stage, "hello", "me/dogs:v1");
    let event = received.recv_timeout(Duration::from_secs(60)).expect("an event");
    assert!(event.contains("margay.registry.image-pushed"), "{event}");
    assert!(event.contains("me/dogs@sha256:"), "{event}");
    for (line, code, want) in [
        ("webhook ls", 0, "image-pushed"),
        ("webhook ls", 0, "me/*"),
        ("webhook create me/ci2 http://127.0.0.1:9/ --private", 0, "whsec_"),
        ("webhook test me/ci2", 1, "`me/ci2` did not take the event: failed (cannot connect"),
        ("webhook log me/ci2", 0, "margay.registry.webhook-tested"),
        ("webhook create me/ci2 https://127.0.0.1/", 0, "whsec_"),
        ("webhook test me/ci2", 1, "it is at the internal address 127.0.0.1"),
        ("webhook create me/x http://example.com/", 1, "would travel as plain HTTP"),
        ("webhook create me/x example.com", 1, "is not the URL of a webhook: https://HOST/PATH"),
        ("webhook create me https://example.com/", 2, "`me` is not ACCOUNT/NAME, as in acme/ci"),
        ("webhook create you/ci https://example.com/", 1, "there is no user `you`"),
        ("webhook create me/x https://example.com/ --event push", 2, "image-pushed, image-deleted"),
        ("webhook create me/x https://example.com/ --repositories acme/*", 1, "as in me/*"),
        ("webhook rm me/ci2", 0, "me/ci2"),
        ("webhook rm me/ci2", 1, "there is no webhook `me/ci2`"),
        ("webhook test me/ci2", 1, "there is no webhook `me/ci2`"),
    ] {
        check(&stage, line, code, want);
    }
    // A user has webhooks for what is theirs, at public addresses.
    for (line, code, want) in [
        ("webhook create me/far https://example.com/hook", 0, "whsec_"),
        ("webhook create me/near http://127.0.0.1:9/ --private", 1, "only an operator"),
        ("webhook ls", 0, "me/far"),
        ("webhook rm me/far", 0, "me/far"),
    ] {
        check(&stage, &format!("{line} --registry {}", apart.address), code, want);
    }
    apart.end();
}
