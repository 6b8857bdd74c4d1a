//! What one address may take of a published port.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    time::Duration,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

use crate::{
    images::build_cats,
    native,
    stage::{Stage, eventually},
};

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Another address of this machine.
const THERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A connection from `from` that has had an answer, and stays open.
fn admitted(from: Ipv4Addr, port: u16) -> Option<TcpStream> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None);
    let socket = socket.expect("a socket");
    bind(&socket, &SocketAddrV4::new(from, 0)).expect("an address");
    connect(&socket, &SocketAddrV4::new(HERE, port)).ok()?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").ok()?;
    let mut start = [0; 9];
    stream.read_exact(&mut start).ok()?;
    (start == *b"HTTP/1.1 ").then_some(stream)
}

/// What an address gets that has its part of a port.
#[derive(PartialEq)]
enum More {
    /// A new connection for one without a request.
    InThePlaceOfAnother,
    /// Nothing: what is a pipe of bytes has no requests.
    Nothing,
}

/// Whether the server has not closed it.
fn is_open(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
    loop {
        match stream.read(&mut [0; 1 << 16]) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}

/// Holds that `share` connections are one address's part of a port.
fn is_shared(port: u16, share: usize, more: More) {
    let mut held: Vec<_> = (0..share).map(|_| admitted(HERE, port)).collect();
    let admitted_count = held.iter().flatten().count();
    assert_eq!(admitted_count, share, "of port {port}");
    held.extend((0..3).map(|_| admitted(HERE, port)));
    let got = held.iter().flatten().count() - share;
    assert_eq!(got, if more == More::Nothing { 0 } else { 3 }, "beyond {share} of port {port}");
    let open = held.iter_mut().flatten().filter_map(|one| is_open(one).then_some(())).count();
    assert_eq!(open, share, "of port {port} at a time");
    assert!(admitted(THERE, port).is_some(), "another address gets none of port {port}");
    drop(held);
    eventually("the address gets another one", || admitted(HERE, port));
}

fn published(stage: &Stage, name: &str) -> u16 {
    eventually("it has a port", || {
        let said = stage.margay(["port", name, "80"]).ok();
        said.trim().rsplit(':').next()?.parse().ok()
    })
}

#[test]
fn one_address_has_a_quarter_of_the_connections_of_a_published_port() {
    net::Descriptors::raise();
    let stage = Stage::new();
    build_cats(&stage);
    stage.margay(["run", "-d", "-p", "127.0.0.1:0:80", "--name", "wasm", "cats"]).ok();
    is_shared(published(&stage, "wasm"), 512, More::InThePlaceOfAnother);
    stage.margay(["rm", "-f", "wasm"]).ok();
    if native::ready() {
        // Answers, and keeps its connection.
        let serve = "while :; do IFS= read -r line || exit; [ ${#line} -gt 1 ] || \
                     printf 'HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n'; done";
        stage.write("serve.sh", serve);
        let run = r#"CMD ["/bin/busybox", "nc", "-ll", "-p", "80", "-e", "/bin/sh", "/serve.sh"]"#;
        native::build(&stage, "held:native", &format!("COPY serve.sh /serve.sh\nEXPOSE 80\n{run}"));
        let flags = ["run", "-d", "-p", "127.0.0.1:0:80", "--pids-limit", "600", "-m", "512m"];
        stage.margay([&flags[..], &["--name", "linux", "held:native"]].concat()).ok();
        let port = published(&stage, "linux");
        eventually("it answers", || admitted(HERE, port));
        is_shared(port, 256, More::Nothing);
        stage.margay(["rm", "-f", "linux"]).ok();
    }
    stage.is_empty();
}
