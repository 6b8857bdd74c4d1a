//! A port of the ingress for datagrams, and a server of them as a service. It needs root, an OCI
//! runtime and a static busybox; without, the journey says that it did not run.

use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{
    datagrams::{ask, client, echo},
    images::build_cats,
    native::ready,
    stage::{Stage, eventually},
    up::{Up, running_tasks},
};

const CLUSTER: [&str; 2] = ["--cluster", "allthecats"];

/// A server of datagrams in the registry, and a definition of it with a port for them.
fn register(stage: &Stage, up: &Up) -> [String; 2] {
    echo(stage);
    let image = format!("{}/me/echo:v1", up.registry);
    stage.margay(["tag", "echo", &image]).ok();
    stage.margay(["login", "-u", "me", &up.registry]).ok();
    stage.margay(["push", &image]).ok();
    stage.margay(["cluster", "create", "allthecats"]).ok();
    [5, 6].map(|grace| {
        let text = format!(
            "family = \"echo\"\n[[containers]]\nname = \"echo\"\nimage = \"{image}\"\n\
             ports = [{{ container_port = 53, protocol = \"udp\" }}]\n\
             stop_timeout_seconds = {grace}\n"
        );
        let file = stage.write("echo.toml", text).display().to_string();
        stage.margay(["task", "register", &file]).ok().trim().to_owned()
    })
}

#[test]
fn a_server_of_datagrams_has_a_port_of_the_ingress_and_answers_through_a_rolling_deployment() {
    if !ready() {
        return;
    }
    let stage = Stage::new();
    let free = UdpSocket::bind("127.0.0.1:0").expect("a port").local_addr().expect("one").port();
    let up = Up::start_with(&stage, &["--ingress-ports", &free.to_string()]);
    let [first, second] = register(&stage, &up);
    let create = |name: &str, more: &[&str]| {
        let words = ["service", "create", name, "--task", &first];
        stage.margay([&words[..], &CLUSTER, more].concat())
    };
    for (more, want) in [
        (&["--listener", &format!("{free}/sctp")][..], "is no listener"),
        (&["--listener", &free.to_string()], "has no port for `tcp`"),
        (&["--listener", &format!("{free}:54/udp")], "has no port 54/udp"),
        (
            &["--listener", &format!("{free}/udp"), "--listener-proxy-protocol"],
            "is for connections, and this port takes datagrams",
        ),
    ] {
        let said = create("echo", &[more, &["--detach"]].concat());
        assert!(said.code != 0 && said.err.contains(want), "{more:?}: {said:?}");
    }
    let listener = format!("{free}:53/udp");
    let said = create("echo", &["--count", "2", "--listener", &listener]);
    assert!(said.err.contains(&format!("Reach it at udp://127.0.0.1:{free}")), "{said:?}");
    said.ok();
    let address = format!("127.0.0.1:{free}");
    let one = client(&address);
    eventually("it answers", || ask(&one, b"first").filter(|answer| answer == b"first"));
    let large = vec![7; 60_000];
    assert!(eventually("it answers", || ask(&one, &large)) == large);
    let said = create("two", &["--listener", &listener, "--detach"]);
    assert!(said.err.contains("is that of service `echo` in cluster"), "{said:?}");

    let err = stage.margay(["port-forward", "echo", "0:53"]).fails(1);
    assert!(err.contains("it has: 53/udp, which is not forwarded"), "{err}");

    // New clients and one that stays, while all replicas change.
    let ends = Arc::new(AtomicBool::new(false));
    let load = thread::spawn({
        let ends = ends.clone();
        move || {
            let (mut asked, mut lost) = (0_u32, 0_u32);
            while !ends.load(Ordering::Relaxed) {
                for from in [&one, &client(&address)] {
                    asked += 1;
                    lost += u32::from(ask(from, &asked.to_be_bytes()).is_none());
                }
                thread::sleep(Duration::from_millis(5));
            }
            (asked, lost)
        }
    });
    stage.margay([&["service", "update", "echo", "--task", &second], &CLUSTER[..]].concat()).ok();
    ends.store(true, Ordering::Relaxed);
    let (asked, lost) = load.join().expect("the clients");
    assert!(asked > 100 && lost == 0, "{lost} of {asked} datagrams had no answer");
    assert_eq!(running_tasks(&stage).len(), 2);

    stage.margay([&["service", "update", "echo", "--no-listeners"], &CLUSTER[..]].concat()).ok();
    let one = client(&format!("127.0.0.1:{free}"));
    eventually("the port is closed", || {
        one.send(b"x").ok()?;
        let refused = one.recv(&mut [0; 16]).err()?;
        (refused.kind() == std::io::ErrorKind::ConnectionRefused).then_some(())
    });

    // A WebAssembly program takes requests, and no datagrams.
    build_cats(&stage);
    let image = format!("{}/me/cats:v1", up.registry);
    stage.margay(["tag", "cats", &image]).ok();
    stage.margay(["push", &image]).ok();
    let text = format!(
        "family = \"cats\"\n[[containers]]\nname = \"cats\"\nimage = \"{image}\"\n\
         ports = [{{ container_port = 53, protocol = \"udp\" }}]\n"
    );
    let file = stage.write("cats.toml", text).display().to_string();
    let said = stage.margay(["task", "register", &file]);
    assert!(said.err.contains("`protocol = \"udp\"` on port 53"), "{said:?}");
    assert!(said.err.contains("datagrams need a Linux image"), "{said:?}");
    up.end();
    stage.is_empty();
}
