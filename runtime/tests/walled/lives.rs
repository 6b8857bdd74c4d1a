use std::{os::unix::net::UnixListener, time::Duration};

use engine::{Event, Exit, Listener};
use runtime::{Broker, adopt};

use crate::{
    Test,
    bench::{Bench, PATIENCE, capability, eventually},
};

pub const TESTS: &[Test] = &[
    ("a_worker_outlives_its_agent_and_is_adopted", adoption),
    ("a_killed_worker_is_reported_as_lost", killed),
    ("a_killed_command_was_counted_until_then", counted),
    ("a_command_is_stopped_within_its_grace", stopped),
    ("a_worker_that_was_frozen_goes_on", frozen),
    ("a_worker_that_does_not_listen_is_killed", deaf),
    ("an_unused_spare_worker_ends_by_itself", spare_worker),
    ("a_connection_waits_for_the_next_agent", waiting),
    ("the_ingress_reaches_the_guest_by_its_own_socket", ingress),
    ("every_port_of_a_container_is_accepted_from", every_port),
];

fn adoption() {
    let bench = Bench::new();
    let agent =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let first = Bench { tokio: agent, ..Bench::new() };
    let folder = first.folder.path().to_owned();
    let served = first.serve("hostile/probe-http.wasm", &[], |a| {
        a.adoptable = true;
    });
    let (address, pid) = (served.address, served.worker.pid());
    std::mem::forget(served);
    // The first agent is gone, with its socket and its listeners.
    first.tokio.shutdown_timeout(Duration::from_secs(1));
    assert_eq!(crate::bench::get(address, "/").0, 200, "requests never wait for an agent");
    let grants = vec![capability("net.in:http/80")].into();
    let adopted = bench.tokio.block_on(adopt(&folder, None, grants, Broker::default())).unwrap();
    assert!(adopted.started);
    assert_eq!((adopted.worker.pid(), adopted.listeners.published.len()), (pid, 1));
    assert_eq!(adopted.listeners.published[0].container_port, 80);
    assert_eq!(adopted.listeners.published[0].socket.local_addr().unwrap(), address);
    assert_eq!(crate::bench::get(address, "/").0, 200);
    let mut worker = adopted.worker;
    bench.tokio.block_on(worker.stop(Duration::from_secs(5))).unwrap();
    assert_eq!(bench.tokio.block_on(worker.wait()), Exit::TERMINATED);
    let page = std::fs::File::open(first.folder.path().join("usage")).unwrap();
    assert_eq!(runtime::usage::read_exit(&page), Some(Exit::TERMINATED));
    let gone = bench.tokio.block_on(adopt(&folder, None, Default::default(), Broker::default()));
    assert!(gone.is_err());
}

fn killed() {
    let bench = Bench::new();
    let mut served = bench.serve("hostile/probe-http.wasm", &[], |_| {});
    served.worker.kill();
    let exit = bench
        .tokio
        .block_on(async { tokio::time::timeout(PATIENCE, served.worker.wait()).await })
        .unwrap();
    assert_eq!((exit.reason(), exit.code()), (Some("lost"), 137));
    assert!(
        !std::path::Path::new(&format!("/proc/{}", served.worker.pid())).exists(),
        "no zombie is left"
    );
}

fn counted() {
    let bench = Bench::new();
    let prepared = bench.prepare(&crate::bench::sample("hostile/loop.wat"), &[]).unwrap();
    let worker = bench.start(bench.assignment(prepared));
    let usage = eventually("usage grows", || {
        Some(bench.usage()).filter(|usage| usage.cpu_ns > 50_000_000 && usage.memory_byte_ms > 0)
    });
    assert_eq!(usage.runs, 0, "it has not ended");
    worker.kill();
}

fn stopped() {
    let bench = Bench::new();
    for words in [&["sleep", "60000"][..], &["spin"]] {
        let prepared = bench.prepare(&crate::bench::sample("hostile/probe-cli.wasm"), &[]).unwrap();
        let mut assignment = bench.assignment(prepared);
        assignment.args.extend(words.iter().map(|word| (*word).to_owned()));
        let mut worker = bench.start(assignment);
        assert_eq!(bench.tokio.block_on(worker.next_event()), Some(Event::Started));
        bench.tokio.block_on(worker.stop(Duration::from_millis(100))).unwrap();
        let exit = bench
            .tokio
            .block_on(async { tokio::time::timeout(PATIENCE, worker.wait()).await })
            .unwrap();
        assert_eq!((exit.clone(), exit.code()), (Exit::TERMINATED, 143), "{words:?}");
    }
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

fn sleeping(bench: &Bench) -> runtime::Worker {
    let prepared = bench.prepare(&crate::bench::sample("hostile/probe-cli.wasm"), &[]).unwrap();
    let mut assignment = bench.assignment(prepared);
    assignment.args.extend(["sleep".to_owned(), "60000".to_owned()]);
    let mut worker = bench.start(assignment);
    assert_eq!(bench.tokio.block_on(worker.next_event()), Some(Event::Started));
    worker
}

/// The state letter of a process, as `ps` shows it.
fn state(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.chars().take(1).collect())
}

/// A sleep that was broken goes on by a system call of its own (`restart_syscall`), which no
/// program makes by itself.
fn frozen() {
    use rustix::process::Signal;
    let bench = Bench::new();
    let mut worker = sleeping(&bench);
    for _ in 0..50 {
        signal(worker.pid(), Signal::STOP);
        eventually("the worker stands still", || state(worker.pid()).filter(|state| state == "T"));
        signal(worker.pid(), Signal::CONT);
        eventually("the worker goes on", || state(worker.pid()).filter(|state| state != "T"));
    }
    bench.tokio.block_on(worker.stop(Duration::from_millis(100))).unwrap();
    assert_eq!(bench.tokio.block_on(worker.wait()), Exit::TERMINATED);
}

fn deaf() {
    let bench = Bench::new();
    let mut worker = sleeping(&bench);
    signal(worker.pid(), rustix::process::Signal::STOP);
    eventually("the worker stands still", || state(worker.pid()).filter(|state| state == "T"));
    let exit = bench.tokio.block_on(async {
        // Its socket holds some hundreds of messages that are not read.
        while worker.stop(Duration::from_secs(60)).await.is_ok()
            && state(worker.pid()).is_some_and(|s| s == "T")
        {}
        tokio::time::timeout(PATIENCE, worker.wait()).await
    });
    assert_eq!(exit.unwrap().reason(), Some("lost"));
}

fn spare_worker() {
    let bench = Bench::new();
    let _context = bench.tokio.enter();
    let spare = runtime::SpareWorker::spawn(&Default::default()).unwrap();
    let stat = format!("/proc/{}/stat", spare.pid());
    drop(spare);
    eventually("the worker's end", || {
        let state = std::fs::read_to_string(&stat).ok();
        // Until it is waited for, its record stays.
        state.is_none_or(|text| text.contains(") Z ")).then_some(())
    });
}

fn waiting() {
    let bench = Bench::new();
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for stream in server.incoming().flatten() {
            let mut stream = stream;
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(
                b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nmeow",
            );
        }
    });
    let grants: spec::Capabilities =
        ["net.in:http/80".to_owned(), format!("net.out:http://127.0.0.1:{port};private")]
            .iter()
            .map(|line| capability(line))
            .collect();
    let broker = || Broker::new(["127.0.0.1".parse().map(spec::Host::Address).unwrap()]);
    let agent =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let first = Bench { tokio: agent, ..Bench::new() };
    let folder = first.folder.path().to_owned();
    let served = first.serve_with("hostile/probe-http.wasm", &[], broker(), |a| {
        a.adoptable = true;
        a.grants = grants.clone();
    });
    let address = served.address;
    std::mem::forget(served);
    first.tokio.shutdown_timeout(Duration::from_secs(1));
    let fetch = format!("/fetch?url=http://127.0.0.1:{port}/");
    let asked = std::thread::spawn({
        let fetch = fetch.clone();
        move || crate::bench::get(address, &fetch)
    });
    let page = || std::fs::File::open(first.folder.path().join("usage")).unwrap();
    eventually("the request runs", || {
        (runtime::usage::read(&page()).unwrap().memory_bytes_peak > 0).then_some(())
    });
    let adopted = bench.tokio.block_on(adopt(&folder, None, grants, broker())).unwrap();
    let (status, text) = asked.join().unwrap();
    assert_eq!((status, text.as_str()), (200, "status 200, 4 bytes\n"));
    adopted.worker.kill();
}

fn answers(path: &std::path::Path) -> bool {
    use std::io::{Read, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: cats\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.starts_with("HTTP/1.1 200")
}

fn ingress() {
    let bench = Bench::new();
    let path = bench.path("http.sock");
    let socket = UnixListener::bind(&path).unwrap();
    let _served = bench.serve("hostile/probe-http.wasm", &[], |a| {
        a.listeners.ingress.push(Listener { container_port: 80, socket });
    });
    assert!(answers(&path));
}

fn every_port() {
    let bench = Bench::new();
    let ports = [80, 81, 82];
    let paths = ports.map(|port| bench.path(&format!("{port}.sock")));
    let mut published = Vec::new();
    let served = bench.serve("hostile/probe-http.wasm", &[], |a| {
        for (port, path) in ports.iter().zip(&paths) {
            let socket = UnixListener::bind(path).unwrap();
            a.listeners.ingress.push(Listener { container_port: *port, socket });
            a.grants.add(capability(&format!("net.in:http/{port}")));
            let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            published.push(socket.local_addr().unwrap());
            a.listeners.published.push(Listener { container_port: *port, socket });
        }
    });
    assert_eq!(served.first, Some(Event::Started));
    for (port, path) in ports.iter().zip(&paths) {
        assert!(answers(path), "the ingress reaches port {port}");
    }
    for address in published {
        assert_eq!(crate::bench::get(address, "/").0, 200, "{address} is published");
    }
}
