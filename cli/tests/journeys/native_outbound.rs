//! What Linux images connect to: hosts and services that they were granted, and nothing else.

use std::{
    io::{BufRead, BufReader, Write},
    net::{IpAddr, TcpListener, UdpSocket},
};

use crate::{
    native,
    stage::{Said, Stage, eventually},
    up::{Up, page_is_served, serve_cats},
};

/// A server of this machine at all of its addresses, and its port.
fn server() -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let mut lines = BufReader::new(client.try_clone().expect("a copy")).lines();
            while lines.next().and_then(Result::ok).is_some_and(|line| !line.is_empty()) {}
            let _ = client.write_all(b"HTTP/1.0 200 OK\r\ncontent-length: 6\r\n\r\nhello\n");
        }
    });
    port
}

/// An address of this machine other than its loopback, where it has one.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("198.51.100.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|address| !address.is_loopback())
}

fn run(stage: &Stage, options: &[&str], command: &str) -> Said {
    let image = ["busybox-cats:native", "/bin/busybox", "sh", "-c", command];
    stage.margay([&["run", "--rm"], options, &image].concat())
}

#[test]
fn a_linux_image_reaches_what_it_was_granted_and_nothing_else() {
    if !native::ready() {
        return;
    }
    let Some(address) = own_address() else {
        return println!("SKIPPED: this machine has no address but its loopback");
    };
    let stage = Stage::new();
    native::build(&stage, "busybox-cats:native", "");
    let port = server();
    let url = format!("http://{address}:{port}/");
    let fetch = format!("/bin/busybox wget -q -O - {url}");
    let line = format!("net.out:{};private", url.trim_end_matches('/'));
    let key = format!("{address}/32");
    let keys = ["--allow", &line, "--private-network", &key];

    assert_eq!(run(&stage, &keys, &fetch).ok(), "hello\n");
    // Often, and beside a server of its own on the same port.
    let often = format!(
        "/bin/busybox httpd -p {port} && i=0; while [ $i -lt 50 ]; do {fetch} || exit 9; \
         i=$((i+1)); done"
    );
    assert_eq!(run(&stage, &keys, &often).ok().lines().count(), 50);
    // A name is looked up outside, and is worth what its address is.
    let named = "net.out:http://localhost:80;private";
    let said = run(&stage, &["--allow", named], "/bin/busybox nslookup -type=a localhost.");
    assert!(said.out.contains("198.18.0.1"), "{}{}", said.out, said.err);

    // One of the two keys is missing, or the line for this port, or any line at all.
    let said = run(&stage, &keys[..2], &fetch);
    assert_ne!(said.code, 0, "{}", said.out);
    assert!(
        said.err.contains("the line is granted, and the network is not opened"),
        "{}",
        said.err
    );
    let other = format!("net.out:http://10.1.2.3:{port};private");
    let said = run(&stage, &["--allow", &other, "--private-network", &key], &fetch);
    assert_ne!(said.code, 0, "{}", said.out);
    let denied = format!("margay: denied net.out:http://{address}:{port} (1x); grant it: --allow");
    assert!(said.err.contains(&denied), "{}", said.err);
    let other = format!("net.out:http://{address}:{};private", port ^ 1);
    assert_ne!(run(&stage, &["--allow", &other, "--private-network", &key], &fetch).code, 0);
    assert_ne!(run(&stage, &[], &fetch).code, 0);

    // Names that were not granted do not exist, and the log names the line.
    let lookup = "/bin/busybox nslookup -type=a other.example. && exit 9; exit 0";
    let said = run(&stage, &["--allow", "net.out:https://*.granted.example"], lookup);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    assert!(said.err.contains("denied net.out:http://other.example:80 (1x)"), "{}", said.err);
    // No datagram leaves.
    let resolver = UdpSocket::bind((address, 0)).expect("a port");
    resolver.set_nonblocking(true).expect("a socket");
    let at = resolver.local_addr().expect("an address").port();
    let lookup = format!("/bin/busybox nslookup -type=a localhost. {address}:{at}");
    assert_ne!(run(&stage, &keys, &lookup).code, 0);
    assert!(resolver.recv(&mut [0; 512]).is_err(), "nothing came");
    stage.is_empty();
}

#[test]
fn a_linux_image_calls_a_service_by_its_name_also_after_the_agent_was_replaced() {
    if !native::ready() {
        return;
    }
    let stage = Stage::new();
    let up = Up::start_with(&stage, &["--leave"]);
    serve_cats(&stage, &up, 1);
    native::build(&stage, "busybox-cats:native", "");
    let image = format!("{}/me/caller:v1", up.registry);
    stage.margay(["tag", "busybox-cats:native", &image]).ok();
    stage.margay(["push", &image]).ok();
    let definition = |allow: &str| {
        format!(
            "family = \"caller\"\n[role]\nallow = [{allow}]\n[[containers]]\nname = \"app\"\n\
             image = \"caller:v1\"\ncommand = [\"/bin/busybox\", \"sleep\", \"1000\"]\n"
        )
    };
    let granted = "\"fs:/#rw\", \"net.out:http://*.allthecats.internal:80\"";
    let file = stage.write("caller.toml", definition(granted)).display().to_string();
    let id = stage.margay(["task", "register", &file]).ok();
    let task = ["task", "run", id.trim(), "--cluster", "allthecats"];
    let task = stage.margay(task).ok().trim().to_owned();
    eventually("the page is served", || page_is_served(&up));
    let fetch = |host: &str| {
        let url = format!("http://{host}/");
        let command = ["/bin/busybox", "wget", "-q", "-O", "-", &url];
        stage.margay([&["exec", &task], &command[..]].concat())
    };
    let cats = "cats.allthecats.internal";
    eventually("the service is reached by its name", || {
        fetch(cats).out.contains("<html").then_some(())
    });
    for other in ["dogs.allthecats.internal", "cats.other.internal", "example.com"] {
        assert_ne!(fetch(other).code, 0, "{other}");
    }
    let log = stage.margay(["logs", &task]);
    let log = log.out + &log.err;
    assert!(log.contains("no host has the name `dogs.allthecats.internal`"), "{log}");
    assert!(log.contains("denied net.out:http://cats.other.internal:80"), "{log}");

    stage.margay(["down"]).ok();
    drop(up);
    let up = Up::start(&stage);
    eventually("it is reached again", || fetch(cats).out.contains("<html").then_some(()));
    up.end();
    stage.is_empty();
}

#[test]
fn containers_of_a_task_reach_each_other_at_the_loopback_address() {
    if !native::ready() {
        return;
    }
    let stage = Stage::new();
    let up = Up::start(&stage);
    serve_cats(&stage, &up, 1);
    native::build(&stage, "busybox-cats:native", "");
    let image = format!("{}/me/pair:v1", up.registry);
    stage.margay(["tag", "busybox-cats:native", &image]).ok();
    stage.margay(["push", &image]).ok();
    // A Linux server beside a Wasm one, and a container that asks both.
    let file = stage.write(
        "pair.toml",
        "family = \"pair\"\n\
         [[containers]]\nname = \"server\"\nimage = \"pair:v1\"\n\
         command = [\"/bin/busybox\", \"httpd\", \"-f\", \"-p\", \"6379\", \"-h\", \"/srv/www\"]\n\
         ports = [{ container_port = 6379, protocol = \"tcp\" }]\n\
         [[containers]]\nname = \"cats\"\nimage = \"cats:v1\"\nports = [{ container_port = 80 }]\n\
         [[containers]]\nname = \"caller\"\nimage = \"pair:v1\"\n\
         command = [\"/bin/busybox\", \"sleep\", \"1000\"]\n",
    );
    let file = file.display().to_string();
    let same = std::fs::read_to_string(&file).expect("it was written").replace("6379", "80");
    let same = stage.write("same.toml", same).display().to_string();
    let err = stage.margay(["task", "register", &same]).fails(1);
    assert!(err.contains("containers `server` and `cats` both have port 80"), "{err}");
    let id = stage.margay(["task", "register", &file]).ok();
    let task = ["task", "run", id.trim(), "--cluster", "allthecats"];
    let task = stage.margay(task).ok().trim().to_owned();
    let fetch = |port: u16| {
        let url = format!("http://127.0.0.1:{port}/");
        let command = ["/bin/busybox", "wget", "-q", "-O", "-", &url];
        let caller = format!("{task}.caller");
        stage.margay([&["exec", &caller], &command[..]].concat())
    };
    for port in [6379, 80] {
        eventually(&format!("port {port} of the task is reached"), || {
            fetch(port).out.contains("<html").then_some(())
        });
    }
    assert_ne!(fetch(81).code, 0);
    up.end();
    stage.is_empty();
}
