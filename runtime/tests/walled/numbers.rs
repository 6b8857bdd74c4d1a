use std::time::{Duration, Instant};

use engine::{Event, Listener};

use crate::{
    Test,
    bench::{Bench, capability, get, sample},
};

pub const TESTS: &[Test] = &[("starting_is_fast", starts), ("an_idle_worker_is_small", idle)];

/// Many times, the middle one.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn starts() {
    let bench = Bench::new();
    let (http, hello) = (sample("hostile/probe-http.wasm"), sample("hello/hello.wasm"));
    bench.prepare(&http, &[]).unwrap();
    bench.prepare(&hello, &[]).unwrap();
    let (mut warm, mut whole) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        let mut assignment = bench.assignment(bench.prepare(&http, &[]).unwrap());
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        assignment.listeners.published.push(Listener { container_port: 80, socket });
        assignment.grants.add(capability("net.in:http/80"));
        let _context = bench.tokio.enter();
        let spare = runtime::SpareWorker::spawn(&Default::default()).unwrap();
        std::thread::sleep(Duration::from_millis(20)); // so that it is ready by then, as in a pool
        let began = Instant::now();
        let worker = spare.assign(assignment, Default::default()).unwrap();
        assert_eq!(get(address, "/").0, 200);
        warm.push(began.elapsed());
        worker.kill();
        let began = Instant::now();
        let mut worker = bench.start(bench.assignment(bench.prepare(&hello, &[]).unwrap()));
        assert_eq!(bench.tokio.block_on(worker.wait()), engine::Exit::Code(0));
        whole.push(began.elapsed());
    }
    let (warm, whole) = (median(warm), median(whole));
    println!(
        "    a spare worker, assigned, to its first 200: {warm:?}; hello from nothing to its exit: {whole:?}"
    );
    // Ten times what a quiet machine needs: this runs beside other tests.
    assert!(warm < Duration::from_millis(50) && whole < Duration::from_millis(150));
}

fn idle() {
    let bench = Bench::new();
    let served = bench.serve("hostile/probe-http.wasm", &[], |_| {});
    assert_eq!(served.first, Some(Event::Started));
    assert_eq!(served.get("/").0, 200);
    let status = std::fs::read_to_string(format!("/proc/{}/status", served.worker.pid())).unwrap();
    let kib = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
    };
    println!(
        "    an idle worker: {} KiB resident, of them {} KiB its own",
        kib("VmRSS:"),
        kib("RssAnon:")
    );
    assert!(kib("RssAnon:") < 10 << 10, "{status}");
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", served.worker.pid())).unwrap();
        let fields: Vec<u64> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .filter_map(|n| n.parse().ok())
            .collect();
        fields[10] + fields[11]
    };
    let before = ticks();
    std::thread::sleep(Duration::from_millis(300));
    assert!(ticks() - before <= 1, "an idle worker does nothing");
}
