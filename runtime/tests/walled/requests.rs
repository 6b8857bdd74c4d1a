use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use engine::{Event, Exit};

use crate::{
    Test,
    bench::{Bench, PATIENCE, ask, eventually},
    layer::{Item, tar},
};

pub const TESTS: &[Test] = &[
    ("files_of_the_image_are_served", files),
    ("a_request_body_comes_back_as_it_went", echo),
    ("two_layers_are_one_tree", union),
    ("a_head_without_an_end_is_cut_off", slow_head),
    ("a_body_beyond_its_limit_is_refused", large_body),
    ("what_is_in_flight_is_answered_before_a_stop", drain),
    ("clients_that_go_away_leave_no_slot_taken", aborts),
    ("usage_counts_requests_and_bytes", usage),
    ("one_connection_carries_many_requests", keep_alive),
    ("a_large_file_streams_while_the_guest_still_writes", streaming),
    ("a_client_that_reads_nothing_is_cut_off_by_the_wall_time", stalled),
];

fn site() -> Vec<u8> {
    tar(&[
        Item::Folder("srv"),
        Item::File("srv/index.html", b"<h1>cats</h1>"),
        Item::File("srv/cat.txt", &[b'm'; 100_000]),
    ])
}

fn files() {
    let bench = Bench::new();
    let served = bench.serve("hostile/probe-http.wasm", &[site()], |_| {});
    assert_eq!(served.first, Some(Event::Started), "{}", bench.log());
    assert_eq!(
        served.get("/read?path=/srv/cat.txt"),
        (200, "read 100000 bytes\n".to_owned()),
        "{}",
        bench.log()
    );
    assert_eq!(served.get("/list?path=/srv").1, "/srv/cat.txt\n/srv/index.html\n");
    let (status, text) = served.get("/read?path=/srv/none");
    assert_eq!(status, 403, "{text}");
}

fn union() {
    let bench = Bench::new();
    let upper = tar(&[
        Item::File("srv/index.html", b"new"),
        Item::File("srv/.wh.cat.txt", b""),
        Item::Link("srv/l", "index.html"),
    ]);
    let served = bench.serve("hostile/probe-http.wasm", &[site(), upper], |_| {});
    assert_eq!(served.get("/list?path=/srv").1, "/srv/index.html\n/srv/l\n");
    assert_eq!(served.get("/read?path=/srv/l").1, "read 3 bytes\n");
}

fn echo() {
    let bench = Bench::new();
    let served = bench.serve("hostile/probe-http.wasm", &[], |_| {});
    let body = "meow ".repeat(20_000);
    let head = format!(
        "POST /echo HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let (status, head, got) = ask(served.address, &head, body.as_bytes());
    assert_eq!(status, 200);
    assert!(head.contains("content-length: 100000"), "a finished answer has its length: {head}");
    assert_eq!(got, body.as_bytes());
}

fn slow_head() {
    let bench = Bench::new();
    let served = bench.serve("hostile/probe-http.wasm", &[], |_| {});
    let mut stream = TcpStream::connect(served.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost:").unwrap();
    let began = std::time::Instant::now();
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
}

fn large_body() {
    let bench = Bench::new();
    let served =
        bench.serve("hostile/probe-http.wasm", &[], |a| a.limits.request_body_bytes_max = 1000);
    let said =
        "POST /echo HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: 1001\r\n\r\n";
    let (status, _, body) = ask(served.address, said, &[b'x'; 1001]);
    assert_eq!(status, 413, "{}", String::from_utf8_lossy(&body));
    let unsaid =
        "POST /echo HTTP/1.1\r\nhost: t\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut chunk = b"7d0\r\n".to_vec();
    chunk.extend([b'x'; 2000]);
    chunk.extend(b"\r\n0\r\n\r\n");
    let (status, _, body) = ask(served.address, unsaid, &chunk);
    assert_ne!(status, 200, "{}", String::from_utf8_lossy(&body));
}

fn drain() {
    let bench = Bench::new();
    let mut served = bench.serve("hostile/probe-http.wasm", &[], |_| {});
    let address = served.address;
    let slow = std::thread::spawn(move || crate::bench::get(address, "/sleep?ms=400"));
    eventually("the request reaches the guest", || {
        (bench.usage().memory_bytes_peak > 0).then_some(())
    });
    bench.tokio.block_on(served.worker.stop(Duration::from_secs(10))).unwrap();
    let (status, text) = slow.join().unwrap();
    assert_eq!(status, 200, "{text}");
    let exit =
        bench.tokio.block_on(async { tokio::time::timeout(PATIENCE, served.worker.wait()).await });
    assert_eq!(exit.unwrap(), Exit::TERMINATED);
}

fn aborts() {
    let bench = Bench::new();
    let served = bench.serve("hostile/probe-http.wasm", &[], |a| a.limits.concurrency_max = 4);
    for _ in 0..40 {
        let mut stream = TcpStream::connect(served.address).unwrap();
        stream.write_all(b"GET /sleep?ms=20000 HTTP/1.1\r\nhost: t\r\n\r\n").unwrap();
    }
    let answer =
        eventually("a free slot", || Some(served.get("/")).filter(|(status, _)| *status == 200));
    assert!(answer.1.starts_with("routes"));
}

fn usage() {
    let bench = Bench::new();
    let served = bench.serve("hostile/probe-http.wasm", &[], |_| {});
    for _ in 0..10 {
        assert_eq!(served.get("/").0, 200);
    }
    let body = [b'x'; 5000];
    let head =
        "POST /echo HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: 5000\r\n\r\n";
    assert_eq!(ask(served.address, head, &body).0, 200);
    let usage =
        eventually("the runs are counted", || Some(bench.usage()).filter(|usage| usage.runs == 11));
    assert_eq!((usage.failed_runs, usage.bytes_in), (0, 5000));
    assert!(usage.bytes_out > 5000 && usage.cpu_ns > 11 * 5_000, "{usage:?}");
}

fn keep_alive() {
    let bench = Bench::new();
    let served = bench.serve("hostile/probe-http.wasm", &[], |_| {});
    let mut stream = TcpStream::connect(served.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for _ in 0..100 {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: t\r\n\r\n").unwrap();
        let mut bytes = Vec::new();
        let mut chunk = [0; 4096];
        while !bytes.windows(9).any(|w| w == b"/echo\n" as &[u8]) && !bytes.ends_with(b"/echo\n") {
            let n = stream.read(&mut chunk).unwrap();
            assert!(n > 0, "the connection stays open");
            bytes.extend(&chunk[..n]);
        }
        assert!(bytes.starts_with(b"HTTP/1.1 200"));
    }
}

/// More than the guest may write ahead, so that its response is on its way before it has ended.
fn streaming() {
    let bench = Bench::new();
    let content: Vec<u8> =
        (0..9_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let layer = tar(&[
        Item::Folder("srv"),
        Item::Folder("srv/www"),
        Item::File("srv/www/big.bin", &content),
    ]);
    let served = bench.serve("httpd/httpd.wasm", &[layer], |_| {});
    let head = "GET /big.bin HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n";
    let (status, head, body) = ask(served.address, head, b"");
    assert_eq!(status, 200, "{head}\n{}", bench.log());
    assert!(head.to_lowercase().contains("content-length: 9000000"), "{head}");
    assert!(body == content, "{} bytes came", body.len());
    assert_eq!(served.get("/none").0, 404);
    let usage =
        eventually("the runs are counted", || Some(bench.usage()).filter(|usage| usage.runs == 2));
    assert!(usage.failed_runs == 0 && usage.bytes_out > 9_000_000, "{usage:?}\n{}", bench.log());
}

fn stalled() {
    let bench = Bench::new();
    let layer = tar(&[
        Item::Folder("srv"),
        Item::Folder("srv/www"),
        Item::File("srv/www/big.bin", &vec![7; 100_000_000]),
    ]);
    let served = bench.serve("httpd/httpd.wasm", std::slice::from_ref(&layer), |a| {
        a.limits.idle_time_max = Duration::from_millis(300);
        a.limits.concurrency_max = 1;
    });
    let mut stream = TcpStream::connect(served.address).unwrap();
    stream.write_all(b"GET /big.bin HTTP/1.1\r\nhost: t\r\n\r\n").unwrap();
    eventually("the stalled run ends", || {
        Some(bench.usage()).filter(|usage| usage.failed_runs == 1)
    });
    let status = std::fs::read_to_string(format!("/proc/{}/status", served.worker.pid())).unwrap();
    let own = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let kib: u64 = own.split_whitespace().next().unwrap().parse().unwrap();
    assert!(kib < 20 << 10, "what the client does not take, the worker does not hold: {kib} KiB");
    assert!(bench.log().contains("E_IDLE"), "{}", bench.log());
    assert_eq!(served.get("/none").0, 404, "its place is free again");
    // One that reads slowly, and longer than a request may take to the head of its response.
    let served = bench.serve("httpd/httpd.wasm", &[layer], |a| {
        a.limits.wall_time_max = Some(Duration::from_millis(300));
    });
    let mut slow = TcpStream::connect(served.address).unwrap();
    slow.write_all(b"GET /big.bin HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").unwrap();
    let (began, mut read, mut piece) = (std::time::Instant::now(), 0, vec![0; 1 << 18]);
    while began.elapsed() < Duration::from_secs(1) {
        std::thread::sleep(Duration::from_millis(20));
        read += slow.read(&mut piece).unwrap();
    }
    assert!(read > 1 << 20 && slow.read(&mut piece).unwrap() > 0, "{read}\n{}", bench.log());
    // The client sees that the response is not complete.
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    assert!(bytes.len() < 100_000_000);
}
