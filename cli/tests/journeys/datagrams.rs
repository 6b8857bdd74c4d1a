//! Published ports for datagrams.

use std::{
    net::UdpSocket,
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    images::build_cats,
    native::{build, ready},
    stage::{Stage, eventually, get},
};

/// A server that sends back what it gets, on a port of the second family alone where that is asked
/// for. The compiler that links this test makes a program of it that needs no library.
const ECHO: &str = "#include <arpa/inet.h>\n#include <stdlib.h>\n#include <sys/socket.h>\n\
    int main(int n, char **a) {\n\
      int six = n > 2, on = 1, s = socket(six ? AF_INET6 : AF_INET, SOCK_DGRAM, 0);\n\
      struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(atoi(a[1])) };\n\
      struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(atoi(a[1])) };\n\
      if (six) setsockopt(s, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);\n\
      if (six ? bind(s, (void *)&v6, sizeof v6) : bind(s, (void *)&v4, sizeof v4)) return 1;\n\
      static char b[65536]; struct sockaddr_storage from;\n\
      for (;;) {\n\
        socklen_t l = sizeof from; long r = recvfrom(s, b, sizeof b, 0, (void *)&from, &l);\n\
        if (r >= 0) sendto(s, b, r, 0, (void *)&from, l);\n\
      }\n\
    }\n";

pub fn client(address: &str) -> UdpSocket {
    let client = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    client.connect(address).expect("an address");
    client.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    client
}

/// What comes back for `text`; `None` when nothing did.
pub fn ask(client: &UdpSocket, text: &[u8]) -> Option<Vec<u8>> {
    client.send(text).ok()?;
    let mut answer = vec![0; 65_536];
    let bytes = client.recv(&mut answer).ok()?;
    Some(answer[..bytes].to_vec())
}

/// An image with the server, which says on which port it serves.
pub fn echo(stage: &Stage) {
    let source = stage.write("echo.c", ECHO);
    let made =
        Command::new("cc").args(["-static", "-o"]).arg(stage.path("echo-udp")).arg(source).status();
    assert!(made.expect("cc runs").success());
    build(
        stage,
        "echo",
        "COPY echo-udp /bin/echo-udp\nEXPOSE 53/udp\nEXPOSE 80\nCMD [\"/bin/echo-udp\", \"53\"]",
    );
}

#[test]
fn a_server_of_datagrams_answers_each_client_on_its_published_port() {
    if !ready() {
        return;
    }
    let stage = Stage::new();
    echo(&stage);
    stage.margay(["run", "-d", "--name", "tom", "-p", "127.0.0.1:0:53/udp", "echo"]).ok();
    let address = stage.margay(["port", "tom", "53/udp"]).ok().trim().to_owned();
    let clients = [client(&address), client(&address), client(&address)];
    eventually("it answers", || ask(&clients[0], b"first"));
    for (number, client) in (10..).zip(&clients) {
        let text = vec![number; 1000 * usize::from(number)];
        assert!(eventually("it answers", || ask(client, &text)) == text, "its own answer");
    }
    // Every list names the protocol.
    let (_, port) = address.rsplit_once(':').expect("a port");
    let shown = format!("127.0.0.1:{port}->53/udp");
    assert_eq!(stage.margay(["ps", "--format", "{{.Ports}}"]).ok().trim(), shown);
    assert_eq!(stage.margay(["port", "tom"]).ok(), format!("53/udp -> {address}\n"));
    let bindings = stage.margay(["inspect", "-f", "{{json .NetworkSettings.Ports}}", "tom"]).ok();
    assert!(bindings.starts_with("{\"53/udp\":[{"), "{bindings}");
    for (filter, count) in [("expose=53/udp", 1), ("expose=53", 0), ("expose=53/tcp", 0)] {
        let found = stage.margay(["ps", "-q", "--filter", filter]).ok();
        assert_eq!(found.lines().count(), count, "{filter}");
    }
    let err = stage.margay(["port", "tom", "53"]).fails(1);
    assert!(err.contains("`53/tcp` of `tom` is not published"), "{err}");
    // The port is taken for datagrams, and free for connections.
    let publish = |protocol| format!("127.0.0.1:{port}:53/{protocol}");
    let err = stage.margay(["run", "--rm", "-p", &publish("udp"), "echo", "/bin/echo"]).fails(125);
    assert!(err.contains("`tom` has it"), "{err}");
    stage.margay(["run", "--rm", "-p", &publish("tcp"), "echo", "/bin/echo"]).ok();

    stage.margay(["restart", "--time", "0", "tom"]).ok();
    let address = stage.margay(["port", "tom", "53/udp"]).ok().trim().to_owned();
    let again = client(&address);
    eventually("it answers after a restart", || ask(&again, b"again"));
    stage.margay(["rm", "-f", "tom"]).ok();

    // Every port that the image exposes, in both protocols.
    stage.margay(["run", "-d", "--name", "all", "-P", "echo"]).ok();
    let ports = stage.margay(["port", "all"]).ok();
    assert!(ports.contains("53/udp -> ") && ports.contains("80/tcp -> "), "{ports}");
    stage.margay(["rm", "-f", "all"]).ok();
    let flags = ["run", "-d", "--name", "range", "-p", "127.0.0.1::6000-6002/udp", "echo"];
    stage.margay(flags).ok();
    assert_eq!(stage.margay(["port", "range"]).ok().matches("/udp -> 127.0.0.1:").count(), 3);
    stage.margay(["rm", "-f", "range"]).ok();
    // A server of the second family alone.
    let flags = ["run", "-d", "--name", "six", "-p", "127.0.0.1:0:53/udp", "echo"];
    stage.margay(flags.iter().chain(&["/bin/echo-udp", "53", "6"])).ok();
    let address = stage.margay(["port", "six", "53/udp"]).ok().trim().to_owned();
    let six = client(&address);
    eventually("it answers", || ask(&six, b"six"));
    stage.margay(["rm", "-f", "six"]).ok();
    stage.is_empty();
}

#[test]
fn datagrams_that_no_program_takes_are_told_once_and_mean_nothing_for_wasm() {
    if !ready() {
        return;
    }
    let stage = Stage::new();
    echo(&stage);
    let flags = ["run", "-d", "--name", "tom", "-p", "127.0.0.1:0:53/udp", "echo", "sleep", "600"];
    stage.margay(flags).ok();
    let address = stage.margay(["port", "tom", "53/udp"]).ok().trim().to_owned();
    let client = client(&address);
    let told = eventually("the log tells", || {
        client.send(b"x").ok()?;
        let said = stage.margay(["logs", "tom"]).err;
        (!said.is_empty()).then_some(said)
    });
    let want = "margay: nothing listens on port 53/udp in the task: datagrams are dropped\n";
    assert_eq!(told, want);
    client.send(b"x").ok();
    assert_eq!(stage.margay(["logs", "tom"]).err, want, "once");
    stage.margay(["rm", "-f", "tom"]).ok();

    build_cats(&stage);
    let err = stage.margay(["run", "--rm", "-p", "5353:53/udp", "cats"]).fails(125);
    assert!(err.contains("`-p PORT/udp` means nothing for a Wasm program"), "{err}");
    let err = stage.margay(["run", "-p", "53:53/sctp", "cats"]).fails(2);
    assert!(err.contains("no other protocol"), "{err}");
    stage.is_empty();
}

#[test]
fn a_client_that_comes_at_the_start_waits_for_a_slow_server_and_a_later_one_does_not() {
    if !ready() {
        return;
    }
    let stage = Stage::new();
    build(&stage, "slow", "EXPOSE 80\nCMD [\"/bin/sh\"]");
    let run = |name: &str, line: &str| {
        let flags = ["run", "-d", "--name", name, "-p", "127.0.0.1:0:80", "slow", "sh", "-c", line];
        stage.margay(flags).ok();
        stage.margay(["port", name, "80"]).ok().trim().to_owned()
    };
    // Two seconds after its start it listens; the client comes before.
    let address = run("tom", "sleep 2; httpd -f -p 80 -h /srv/www");
    let begun = Instant::now();
    let answer = get(&address, "localhost", "/");
    assert_eq!(answer.map(|answer| answer.status), Some(200), "{:?}", begun.elapsed());
    stage.margay(["rm", "-f", "tom"]).ok();

    // Nothing ever listens: a client that comes late hears so at once.
    let address = run("kit", "touch /tmp/begun; sleep 600");
    let begun = Instant::now();
    assert!(get(&address, "localhost", "/").is_none());
    let early = begun.elapsed();
    assert!(early < Duration::from_secs(20), "{early:?}");
    let begun = Instant::now();
    assert!(get(&address, "localhost", "/").is_none());
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    stage.margay(["rm", "-f", "kit"]).ok();
    stage.is_empty();
}
