use std::{
    fs::File,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    time::Duration,
};

use engine::{Exit, Listener, Stdio};
use shim::Task;

use crate::fixture::{BUSYBOX, TestShim, config, grant};

pub fn says_hi(fixture: &TestShim) {
    let (exit, usage, said) = fixture.run(fixture.shell("echo hi; hostname; exit 7"));
    assert_eq!((exit, said.as_str()), (Exit::Code(7), "hi\ncats\n"));
    assert!(usage.runs == 1 && usage.failed_runs == 1 && usage.cpu_ns > 0, "{usage:?}");
    let (exit, ..) = fixture.run(fixture.assignment(&["true"]));
    assert_eq!(exit, Exit::Code(0), "the same folder takes a second container, found on the PATH");
}

pub fn output_goes_both_ways(fixture: &TestShim) {
    let (mut out, out_end) = UnixStream::pair().unwrap();
    let (mut err, err_end) = UnixStream::pair().unwrap();
    let mut assignment = fixture.shell("echo out; echo err >&2; echo again > /dev/stdout");
    assignment.stdio =
        Stdio { stdout: Some(out_end.into()), stderr: Some(err_end.into()), ..Stdio::default() };
    assert_eq!(fixture.run(assignment).0, Exit::Code(0));
    let mut texts = [String::new(), String::new()];
    out.read_to_string(&mut texts[0]).unwrap();
    err.read_to_string(&mut texts[1]).unwrap();
    assert_eq!(texts, ["out\nagain\n", "err\n"]);
    let log = std::fs::read_to_string(fixture.folder().join("log")).unwrap();
    let has = |tag: char, text: &str| {
        log.lines().any(|line| line.starts_with(tag) && line.ends_with(text))
    };
    assert!(has('o', " out") && has('e', " err"), "{log}");
}

pub fn input_reaches(fixture: &TestShim) {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut assignment = fixture.assignment(&["cat"]);
    assignment.stdio.stdin = Some(theirs.into());
    let task = fixture.spawn(assignment).unwrap();
    let text = "meow\n".repeat(50_000);
    ours.write_all(text.as_bytes()).unwrap();
    drop(ours);
    assert_eq!(task.wait().unwrap().0, Exit::Code(0));
    assert_eq!(fixture.log(), text);
    // Without any, it reads as empty; from a file, the file.
    let (_, _, said) = {
        std::fs::remove_file(fixture.folder().join("log")).unwrap();
        fixture.run(fixture.shell("cat; echo end"))
    };
    assert_eq!(said, "end\n");
    std::fs::remove_file(fixture.folder().join("log")).unwrap();
    let mut assignment = fixture.assignment(&["wc", "-c"]);
    assignment.stdio.stdin = Some(File::open(BUSYBOX).unwrap().into());
    let (_, _, said) = fixture.run(assignment);
    assert_eq!(said.trim(), std::fs::metadata(BUSYBOX).unwrap().len().to_string());
}

pub fn terminal(fixture: &TestShim) {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut assignment =
        fixture.shell("stty size; read line; echo got $line; stty size; test -t 0 && test -t 1");
    assignment.stdio = Stdio {
        stdin: Some(theirs.try_clone().unwrap().into()),
        stdout: Some(theirs.into()),
        stderr: None,
        terminal: Some((24, 80)),
    };
    let task = fixture.spawn(assignment).unwrap();
    fixture.wait_for("the first size", || fixture.log().contains("24 80"));
    task.resize(30, 100).unwrap();
    ours.write_all(b"purr\n").unwrap();
    assert_eq!(task.wait().unwrap().0, Exit::Code(0));
    let mut text = String::new();
    ours.read_to_string(&mut text).unwrap();
    assert!(
        text.contains("24 80\r\n") && text.contains("got purr\r\n") && text.contains("30 100\r\n"),
        "{text:?}"
    );
}

pub fn unread_terminal(fixture: &TestShim) {
    use rustix::{fs, pty};
    let master = pty::openpt(pty::OpenptFlags::RDWR | pty::OpenptFlags::NOCTTY).unwrap();
    pty::grantpt(&master).unwrap();
    pty::unlockpt(&master).unwrap();
    let name = pty::ptsname(&master, Vec::new()).unwrap();
    let ours = fs::open(name.as_c_str(), fs::OFlags::RDWR | fs::OFlags::NOCTTY, fs::Mode::empty())
        .unwrap();
    let mut assignment = fixture.shell("yes");
    assignment.stdio = Stdio {
        stdout: Some(ours.try_clone().unwrap()),
        terminal: Some((24, 80)),
        ..Stdio::default()
    };
    let task = fixture.spawn(assignment).unwrap();
    let written = || std::fs::metadata(fixture.folder().join("log")).map_or(0, |meta| meta.len());
    fixture.wait_for("a full terminal", || {
        let before = written();
        std::thread::sleep(Duration::from_millis(300));
        before > 0 && written() == before
    });
    task.stop(Duration::ZERO).expect("the shim answers");
    assert_eq!(task.end(Duration::from_secs(20)).unwrap().0, Exit::Stopped(143));
    let flags = fs::fcntl_getfl(&ours).unwrap();
    assert!(
        !flags.contains(fs::OFlags::NONBLOCK),
        "other processes that share it do not expect that"
    );
}

pub fn get(stream: &mut (impl Read + Write), path: &str) -> String {
    write!(stream, "GET {path} HTTP/1.0\r\nHost: cats\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

pub fn served(fixture: &TestShim, script: &str) -> (Task, std::net::SocketAddr) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let mut assignment = fixture.shell(script);
    assignment.grants = vec![grant("net.in:http/80")].into();
    assignment.listeners.published = vec![Listener { container_port: 80, socket }];
    (fixture.spawn(assignment).unwrap(), address)
}

pub fn ports(fixture: &TestShim) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let path = fixture.folder().join("http.sock");
    let ingress = UnixListener::bind(&path).unwrap();
    let mut assignment = fixture.assignment(&["httpd"]);
    assignment.listeners.published = vec![Listener { container_port: 80, socket }];
    assignment.listeners.ingress = vec![Listener { container_port: 80, socket: ingress }];
    let ungranted = fixture.spawn(assignment).unwrap_err();
    assert!(ungranted.to_string().contains("net.in:http/80"), "{ungranted}");

    let socket = TcpListener::bind(address).unwrap();
    std::fs::remove_file(&path).unwrap();
    let ingress = UnixListener::bind(&path).unwrap();
    let mut assignment = fixture.assignment(&["httpd", "-f", "-p", "80", "-h", "/srv"]);
    assignment.program.config = config(|image| image.user = Some("www".to_owned()));
    assignment.grants = vec![grant("net.in:http/80")].into();
    assignment.listeners.published = vec![Listener { container_port: 80, socket }];
    assignment.listeners.ingress = vec![Listener { container_port: 80, socket: ingress }];
    let task = fixture.spawn(assignment).unwrap();
    for _ in 0..20 {
        let answer = get(&mut TcpStream::connect(address).unwrap(), "/index.html");
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("<h1>cats</h1>"),
            "{answer}"
        );
        assert!(get(&mut UnixStream::connect(&path).unwrap(), "/").ends_with("<h1>cats</h1>"));
    }
    let status = task.status().unwrap();
    assert_eq!((status.ports.as_slice(), status.stopping), (&[80][..], false));
    assert!(status.usage.bytes_out > 1000 && status.usage.bytes_in > 500, "{status:?}");
    // What an agent that was restarted takes over.
    let listeners = task.listeners().unwrap();
    assert_eq!(listeners.published[0].socket.local_addr().unwrap(), address);
    assert_eq!(
        listeners.ingress[0].socket.local_addr().unwrap().as_pathname(),
        Some(path.as_path())
    );
    task.stop(Duration::ZERO).unwrap();
    assert_eq!(task.wait().unwrap().0, Exit::Stopped(143));
}

pub fn own_port(fixture: &TestShim) {
    // One that the kernel would otherwise hand out by itself, to our own attempts to reach it among
    // others.
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut assignment = fixture.shell("cat /proc/sys/net/ipv4/ip_local_reserved_ports");
    assignment.grants = vec![grant("net.in:http/50000")].into();
    assignment.listeners.published = vec![Listener { container_port: 50_000, socket }];
    assert_eq!(fixture.run(assignment).2, "50000\n");
}

pub fn big_body(fixture: &TestShim) {
    let (task, address) =
        served(fixture, "nc -l -p 80 -e sh -c 'head -c 20000000 /dev/zero | tr \"\\0\" x'");
    let mut stream = TcpStream::connect(address).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert_eq!((all.len(), all.iter().all(|b| *b == b'x')), (20_000_000, true));
    assert_eq!(task.wait().unwrap().0, Exit::Code(0));
}

pub fn late_listener(fixture: &TestShim) {
    let (task, address) = served(fixture, "usleep 300000; httpd -f -p 80 -h /srv");
    let answer = get(&mut TcpStream::connect(address).unwrap(), "/");
    assert!(answer.ends_with("<h1>cats</h1>"), "{answer}");
    task.stop(Duration::ZERO).unwrap();
    task.wait().unwrap();
}
