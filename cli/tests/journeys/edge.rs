//! What the ingress speaks with its clients beside HTTP/1.1, and which certificate it shows them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{
    certificates::certificate_at,
    native,
    stage::{Stage, eventually, get},
    up::{HOST, Up, serve_cats},
};

/// The head and the body of an answer.
fn curl(arguments: &[&str]) -> String {
    let output =
        Command::new("curl").args(["-sS", "-i", "--max-time", "20"]).args(arguments).output();
    let output = output.expect("curl");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn speaks_http2() -> bool {
    let version = Command::new("curl").arg("--version").output();
    version.is_ok_and(|version| String::from_utf8_lossy(&version.stdout).contains("HTTP2"))
}

#[test]
fn clients_speak_http2_with_the_ingress() {
    if !speaks_http2() {
        return println!("skipped: curl here has no HTTP/2");
    }
    let stage = Stage::new();
    let up = Up::start(&stage);
    serve_cats(&stage, &up, 1);
    let url = format!("http://{}/?q=1", up.ingress);
    let host = format!("host: {HOST}");
    let page = |more: &[&str]| curl(&[&[url.as_str(), "-H", &host], more].concat());
    eventually("the page over HTTP/2", || {
        page(&["--http2-prior-knowledge"]).starts_with("HTTP/2 200").then_some(())
    });
    // A wish for HTTP/2 on a connection of HTTP/1.1 is none that a server must follow.
    assert!(page(&["--http2"]).starts_with("HTTP/1.1 200"));
    let posted = page(&["--http2-prior-knowledge", "-d", "meow"]);
    assert!(posted.starts_with("HTTP/2 "), "{posted}");
    let wish = ["--http1.1", "-H", "connection: upgrade", "-H", "upgrade: websocket"];
    let refused = page(&wish);
    assert!(refused.starts_with("HTTP/1.1 501") && refused.contains("E_UNSUPPORTED"), "{refused}");
    let call = ["--http2-prior-knowledge", "-H", "content-type: application/grpc", "-d", ""];
    let nowhere = curl(&[&[url.as_str(), "-H", "host: nowhere.example"], &call[..]].concat());
    assert!(nowhere.contains("grpc-status: 12") && nowhere.contains("E_NO_ROUTE"), "{nowhere}");
    up.end();
    stage.is_empty();
}

#[test]
fn a_host_has_a_certificate_of_its_own_that_changes_without_a_restart() {
    let stage = Stage::new();
    let pair = |name: &str, hosts: &str| {
        let (chain, key) = (stage.path(&format!("{name}.crt")), stage.path(&format!("{name}.key")));
        certificate_at(&chain, &key, hosts)
    };
    let Some((chain, key)) = pair("one", "DNS:shop.example,DNS:*.shop.example") else { return };
    let (next, next_key) = pair("two", "DNS:shop.example").expect("another one");
    let up = Up::start(&stage);
    serve_cats(&stage, &up, 1);
    let port = up.ingress.rsplit(':').next().expect("a port").to_owned();
    let page = |host: &str, authority: &str| {
        let (url, to) =
            (format!("https://{host}:{port}/"), format!("{host}:{port}:{}", up.ingress));
        curl(&["--cacert", authority, "--connect-to", &to, &url])
    };
    let certificate = |words: &[&str]| stage.margay([&["certificate"], words].concat());
    assert_eq!(certificate(&["create", "shop", "--cert", &chain, "--key", &key]).ok(), "shop\n");
    assert!(!page("shop.example", &chain).contains(" 200"), "nothing is served there yet");
    let update = ["service", "update", "cats", "--cluster", "allthecats"];
    stage
        .margay([&update[..], &["--host", "shop.example", "--host", "a.shop.example"]].concat())
        .ok();
    for host in ["shop.example", "a.shop.example"] {
        eventually("the page over TLS", || page(host, &chain).contains(" 200").then_some(()));
    }
    assert_eq!(get(&up.ingress, HOST, "/").map(|answer| answer.status), Some(200), "beside it");
    let explained = stage.margay(["explain", "route", "shop.example"]).ok();
    assert!(explained.contains("certificate `shop`, which is good until"), "{explained}");
    let listed = certificate(&["ls"]).ok();
    assert!(
        listed.contains("shop.example, *.shop.example") && listed.contains("in 47 hours"),
        "{listed}"
    );
    certificate(&["update", "shop", "--cert", &next, "--key", &next_key]).ok();
    eventually("the next one", || page("shop.example", &next).contains(" 200").then_some(()));
    let inspected = certificate(&["inspect", "shop"]).ok();
    let inspected: Value = serde_json::from_str(&inspected).expect("JSON");
    assert_eq!(inspected[0]["hosts"], serde_json::json!(["shop.example"]));
    // The key is the ingress' and the control plane's, sealed, and in no answer and no log.
    let secret = fs::read_to_string(&next_key).expect("a key");
    let line = secret.lines().nth(1).expect("a line of it").to_owned();
    assert!(!inspected.to_string().contains(&line));
    let events = ["events", "--filter", "certificate=shop", "--until", "0s"];
    let events = stage.margay(events).ok();
    assert!(events.contains("certificate shop it was uploaded, for `shop.example`"), "{events}");
    certificate(&["rm", "shop"]).ok();
    eventually("none", || (!page("shop.example", &next).contains(" 200")).then_some(()));
    up.end();
    stage.is_empty();
}

#[test]
fn what_is_wrong_with_a_certificate_is_said_with_the_next_step() {
    let stage = Stage::new();
    let pair = |name: &str, hosts: &str| {
        let (chain, key) = (stage.path(&format!("{name}.crt")), stage.path(&format!("{name}.key")));
        certificate_at(&chain, &key, hosts)
    };
    let Some((chain, key)) = pair("one", "DNS:shop.example") else { return };
    let (other, other_key) = pair("two", "IP:10.0.0.1").expect("another one");
    let broken = stage.write(
        "broken.crt",
        fs::read_to_string(&chain).expect("PEM") + &fs::read_to_string(&other).expect("PEM"),
    );
    let broken = broken.display().to_string();
    let up = Up::start(&stage);
    for (cert, key, want, hint) in [
        (&*chain, &*other_key, "the key is not that of the certificate", "was made for"),
        (&other, &other_key, "names no host", "alternative names"),
        (&broken, &key, "was not signed by the one after it", "intermediates"),
        (&key, &key, "has no certificate in PEM", "fullchain.pem"),
        (&chain, &chain, "no private key in PEM", "no password"),
        ("none.crt", &key, "cannot read a certificate from `none.crt`", ""),
        ("/dev/null", &key, "has no certificate in PEM", "fullchain.pem"),
    ] {
        let err =
            stage.margay(["certificate", "create", "x", "--cert", cert, "--key", key]).fails(1);
        assert!(err.contains(want) && err.contains(hint), "{cert} {key}: {err}");
        assert!(!err.contains("PRIVATE KEY"), "{err}");
    }
    let err = stage.margay(["certificate", "rm", "x"]).fails(1);
    assert!(err.contains("there is no certificate `x`"), "{err}");
    stage.margay(["certificate", "create", "x", "--cert", &chain]).fails(2);
    up.end();
    stage.is_empty();
}

/// A program that `tests/run` has built from the Go module registry.
fn built(name: &str) -> Option<PathBuf> {
    let folders = std::env::var("MARGAY_TEST_CLIENTS").unwrap_or_default();
    let found = folders.split(':').map(|folder| Path::new(folder).join(name));
    let found = found.into_iter().find(|path| path.is_file());
    if found.is_none() {
        println!("SKIPPED: `{name}` is not in MARGAY_TEST_CLIENTS");
    }
    found
}

/// An image of one static program as a service of its own, with this port.
fn serve_program(stage: &Stage, up: &Up, name: &str, program: &Path, command: &str, port: &str) {
    fs::create_dir_all(stage.path(name)).expect("a folder");
    fs::copy(program, stage.path(&format!("{name}/program"))).expect("copied");
    stage.write(
        &format!("{name}/Dockerfile"),
        format!("FROM scratch\nCOPY program /program\nCMD {command}\n"),
    );
    stage.margay(["build", "-t", name, name]).ok();
    stage.margay(["login", "-u", "me", &up.registry]).ok();
    let image = format!("{}/me/{name}:v1", up.registry);
    stage.margay(["tag", name, &image]).ok();
    stage.margay(["push", &image]).ok();
    let toml = format!(
        "family = \"{name}\"\n[[containers]]\nname = \"{name}\"\nimage = \"{image}\"\n\
         memory_hard_bytes = 268435456\nports = [{port}]\n"
    );
    let toml = stage.write(&format!("{name}.toml"), toml).display().to_string();
    stage.margay(["task", "register", &toml]).ok();
    stage.margay(["cluster", "create", "main"]).ok();
    let id = format!("{name}:1");
    stage.margay(["service", "create", name, "--task", &id, "--cluster", "main"]).ok();
}

/// The calls with which implementations of gRPC are tested against each other, over TLS with the
/// certificate of the host.
#[test]
fn clients_of_grpc_call_a_server_of_grpc_through_the_ingress() {
    let (Some(server), Some(client)) = (built("grpc/server"), built("grpc/client")) else { return };
    if !native::ready() {
        return;
    }
    let stage = Stage::new();
    let (host, chain, key) = ("rpc.main.localhost", stage.path("rpc.crt"), stage.path("rpc.key"));
    let Some((chain, key)) = certificate_at(&chain, &key, &format!("DNS:{host}")) else { return };
    let up = Up::start(&stage);
    let port = "{ container_port = 8080, protocol = \"http2\" }";
    serve_program(&stage, &up, "rpc", &server, "[\"/program\", \"--port=8080\"]", port);
    stage.margay(["certificate", "create", "rpc", "--cert", &chain, "--key", &key]).ok();
    let (address, port) = up.ingress.rsplit_once(':').expect("a port");
    let call = |case: &str| {
        let output = Command::new(&client)
            .args(["--use_tls=true", "--use_test_ca=true", "--ca_file", &chain])
            .args(["--server_host_override", host, "--server_host", address])
            .args(["--server_port", port, "--test_case", case])
            .output()
            .expect("the client");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(said) }
    };
    eventually("its certificate is shown", || call("empty_unary").ok());
    for case in [
        "large_unary",
        "client_streaming",
        "server_streaming",
        "ping_pong",
        "empty_stream",
        "cancel_after_begin",
        "cancel_after_first_response",
        "timeout_on_sleeping_server",
        "status_code_and_message",
        "special_status_message",
        "custom_metadata",
        "unimplemented_method",
        "unimplemented_service",
    ] {
        assert_eq!(call(case), Ok(()), "{case}");
    }
    up.end();
    stage.is_empty();
}

/// All of h2spec but a preface that is none, which the same port takes for HTTP/1.1. What is asked
/// here is refused at once: where a case sends a second frame, the refusal may be faster, and the
/// case never sees what it waits for. So what counts is what no run of several has passed.
#[test]
fn the_conformance_suite_of_http2_finds_no_failure() {
    const RUNS_MAX: usize = 20;
    let Some(suite) = built("h2spec") else { return };
    let stage = Stage::new();
    let up = Up::start(&stage);
    let (address, port) = up.ingress.rsplit_once(':').expect("a port");
    let parts = ["generic", "hpack", "http2/4", "http2/5", "http2/6", "http2/7", "http2/8"];
    let failures = || -> BTreeSet<String> {
        let output = Command::new(&suite).args(parts).args(["-h", address, "-p", port]).output();
        let output = output.expect("the suite");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains(" tests, ") && !said.contains(" 0 passed"), "{said}");
        let failed = said.lines().filter(|line| line.trim_start().starts_with('×'));
        failed.map(|line| line.trim().to_owned()).collect()
    };
    let mut never_passed = failures();
    for _ in 1..RUNS_MAX {
        if never_passed.is_empty() {
            break;
        }
        let failed = failures();
        never_passed.retain(|case| failed.contains(case));
    }
    assert!(never_passed.is_empty(), "{never_passed:#?}");
    up.end();
    stage.is_empty();
}

/// A server of Debian that speaks HTTP/2 in the clear.
#[test]
fn requests_reach_a_linux_image_over_http2() {
    let Some(root) = crate::servers::rootfs().filter(|_| native::ready() && speaks_http2()) else {
        return println!("skipped: it takes root, the servers of Debian and curl with HTTP/2");
    };
    let stage = Stage::new();
    let packed = Command::new("cp").arg("-al").arg(&root).arg(stage.path("rootfs")).status();
    assert!(packed.expect("cp").success());
    let version = "server { listen 8080 http2; location / { return 200 $server_protocol; } }\n";
    stage.write("default.conf", version);
    stage.write(
        "Dockerfile",
        "FROM scratch\nCOPY rootfs/ /\nCOPY default.conf /etc/nginx/conf.d/\n\
         CMD [\"/usr/sbin/nginx\", \"-g\", \"daemon off;\"]\n",
    );
    stage.margay(["build", "-t", "web", "."]).ok();
    let up = Up::start(&stage);
    stage.margay(["login", "-u", "me", &up.registry]).ok();
    let image = format!("{}/me/web:v1", up.registry);
    stage.margay(["tag", "web", &image]).ok();
    stage.margay(["push", &image]).ok();
    stage.margay(["cluster", "create", "main"]).ok();
    let toml = format!(
        "family = \"web\"\n[[containers]]\nname = \"web\"\nimage = \"{image}\"\n\
         memory_hard_bytes = 268435456\n\
         ports = [{{ container_port = 8080, protocol = \"http2\" }}]\n"
    );
    let toml = stage.write("web.toml", toml).display().to_string();
    stage.margay(["task", "register", &toml]).ok();
    stage.margay(["service", "create", "web", "--task", "web:1", "--cluster", "main"]).ok();
    let url = format!("http://{}/", up.ingress);
    for (version, want) in
        [("--http1.1", "HTTP/1.1 200"), ("--http2-prior-knowledge", "HTTP/2 200")]
    {
        eventually("the page", || {
            let page = curl(&[version, "-H", "host: web.main.localhost", &url]);
            (page.starts_with(want) && page.ends_with("HTTP/2.0")).then_some(())
        });
    }
    up.end();
    stage.is_empty();
}
