use std::time::{Duration, Instant};

use engine::Exit;

use crate::{
    Test,
    bench::{Bench, capability, eventually, get},
};

pub const TESTS: &[Test] = &[
    ("an_endless_loop_is_stopped_by_its_limit", loops),
    ("a_memory_hog_is_refused_and_named", hogs),
    ("a_recursion_traps_and_the_worker_lives", recursion),
    ("limits_of_requests_are_told_to_the_client", requests),
    ("memory_is_summed_over_the_container", summed),
    ("a_flood_of_output_stays_within_the_log", flood),
    ("handles_run_out_before_the_host_does", handles),
    ("more_requests_than_slots_wait_their_turn", queue),
    ("a_redirected_output_has_no_limit", redirected),
    ("a_size_that_no_file_can_have_is_an_error_of_its_call_alone", impossible_size),
];

fn code(exit: &Exit) -> String {
    match exit {
        Exit::Limit { code, .. } => code.to_string(),
        other => format!("{other:?}"),
    }
}

fn loops() {
    let bench = Bench::new();
    for program in [
        "hostile/loop.wat",
        "hostile/start-loop.wat",
        "hostile/loop-component.wat",
        "hostile/flood.wat",
    ] {
        let began = Instant::now();
        let ran =
            bench.run(program, &[], |a| a.limits.cpu_time_max = Some(Duration::from_millis(100)));
        assert_eq!(code(&ran.exit), "E_CPU", "{program}: {:?}", ran.exit);
        assert_eq!(ran.exit.code(), 137);
        assert!(began.elapsed() < Duration::from_secs(10), "{program} took {:?}", began.elapsed());
        let spent = Duration::from_nanos(bench.usage().cpu_ns);
        assert!(
            spent >= Duration::from_millis(100) && spent < Duration::from_millis(300),
            "{program}: {spent:?}"
        );
        let ran =
            bench.run(program, &[], |a| a.limits.wall_time_max = Some(Duration::from_millis(100)));
        assert_eq!(code(&ran.exit), "E_WALL", "{program}: {:?}", ran.exit);
    }
}

fn hogs() {
    let bench = Bench::new();
    for program in ["hostile/hog.wat", "hostile/table-hog.wat"] {
        let ran = bench.run(program, &[], |a| a.limits.memory_bytes_max = 32 << 20);
        // A table has a ceiling of its own, below the container's memory.
        let named = code(&ran.exit);
        assert!(
            named == "E_MEMORY" || (program.contains("table") && named.starts_with("Trap")),
            "{program}: {named}"
        );
        assert!(bench.usage().memory_bytes_peak <= 32 << 20);
    }
    let ran =
        bench.run("hostile/probe-cli.wasm", &["hog"], |a| a.limits.memory_bytes_max = 32 << 20);
    assert_eq!(ran.exit, Exit::Code(0), "{}", ran.text);
    assert!(
        ran.text.starts_with("refused after"),
        "a program that can live with a refusal does: {}",
        ran.text
    );
}

/// The log keeps the last 16 MiB; what the caller redirects into a file is the caller's.
fn redirected() {
    let bench = Bench::new();
    let ran = bench.run("hostile/probe-cli.wasm", &["flood", "200000"], |_| {});
    assert_eq!(ran.exit, Exit::Code(0));
    assert!(ran.text.len() > 20 << 20, "{} bytes", ran.text.len());
    assert!(ran.text.ends_with('\n') && ran.text.contains("199999 meow"));
}

/// Makes a file in `/data` and gives it one size after another; ends with the number of the last
/// error, 22 in the words of WASI 0.1 being `fbig`.
const RESIZE: &str = r#"(module
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (import "wasi_snapshot_preview1" "path_open" (func $open
        (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_filestat_set_size" (func $resize
        (param i32 i64) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 16) "data/big")
    (global $last (mut i32) (i32.const 0))
    (func (export "_start")
        (if (call $open (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 8) (i32.const 1)
                (i64.const 0x40007f) (i64.const 0) (i32.const 0) (i32.const 0))
            (then (call $exit (i32.const 99))))
        (global.set $last (call $resize (i32.load (i32.const 0)) (i64.const 0x7fffffffffffffff)))
        (if (call $resize (i32.load (i32.const 0)) (i64.const 4096))
            (then (call $exit (i32.const 98))))
        (call $exit (global.get $last))))"#;

fn impossible_size() {
    let bench = Bench::new();
    let (folder, volume) = bench.volume("book", "/data", "rw", None);
    let ran = bench.run_wasm(&wat::parse_str(RESIZE).unwrap(), &[], &[], |a| {
        let (out, _) = std::os::unix::net::UnixStream::pair().unwrap();
        (a.stdio.stdout, a.stdio.stderr) = (Some(out.into()), None);
        a.grants.add(capability("fs:/data#rw;volume=book"));
        a.volumes.push(volume);
    });
    assert_eq!(ran.exit, Exit::Code(22), "the worker lives on: {:?}", ran.exit);
    assert_eq!(std::fs::metadata(folder.join("big")).unwrap().len(), 4096);
}

fn recursion() {
    let bench = Bench::new();
    let ran = bench.run("hostile/recurse.wat", &[], |_| {});
    assert!(matches!(&ran.exit, Exit::Trap(why) if why.contains("stack")), "{:?}", ran.exit);
    assert_eq!(ran.exit.code(), 134);
}

fn requests() {
    let bench = Bench::new();
    let served = bench.serve("hostile/probe-http.wasm", &[], |a| {
        a.limits.cpu_time_max = Some(Duration::from_millis(50));
        a.limits.wall_time_max = Some(Duration::from_millis(600));
        a.limits.memory_bytes_max = 64 << 20;
    });
    for (path, status, code) in [
        ("/spin", 504, "E_CPU"),
        ("/sleep?ms=20000", 504, "E_WALL"),
        ("/recurse", 502, "E_TRAP"),
        ("/panic", 502, "E_TRAP"),
    ] {
        let (got, text) = served.get(path);
        assert_eq!(
            (got, text.split(':').next().unwrap()),
            (status, code),
            "{path}: {text}\n{}",
            bench.log()
        );
        assert_eq!(served.get("/").0, 200, "the next request after {path}");
    }
    let usage =
        eventually("the runs are counted", || Some(bench.usage()).filter(|usage| usage.runs == 8));
    assert_eq!(usage.failed_runs, 4);
    assert!(bench.log().contains("E_CPU") && bench.log().contains("E_WALL"));
    let recursed = bench.log().lines().any(|line| line.ends_with(" times more"));
    assert!(recursed, "where a request broke: {}", bench.log());
}

fn summed() {
    let bench = Bench::new();
    let served = bench.serve("hostile/probe-http.wasm", &[], |a| {
        a.limits.memory_bytes_max = 40 << 20;
        a.limits.cpu_time_max = Some(Duration::from_secs(10));
    });
    let text = served.get("/hog?mb=200").1;
    assert!(text.starts_with("refused after 3"), "{text}");
    assert!(
        served.get("/hog?mb=30").1.starts_with("holding 30"),
        "what one request held is there for the next"
    );
    assert!(bench.usage().memory_bytes_peak <= 40 << 20);
}

fn flood() {
    let bench = Bench::new();
    let ran = bench.run("hostile/probe-cli.wasm", &["flood", "200000"], |a| {
        a.limits.log_bytes_max = 100_000;
        a.stdio.stdout = None;
    });
    assert_eq!(ran.exit, Exit::Code(0), "{:?}", ran.text);
    let log = bench.log();
    assert!(log.len() <= 400_000, "{} bytes", log.len());
    let kept: usize = bench.log_lines().iter().map(|line| line.len() - "Stdout".len()).sum();
    assert!(kept >= 100_000, "{kept} bytes of text");
    assert!(log.contains("199999 meow"), "the last line is there");
}

fn handles() {
    let bench = Bench::new();
    // Each turn takes a handle on standard output and keeps it.
    let hoarder = wat::parse_str(HOARDER).unwrap();
    let ran = bench
        .run_wasm(&hoarder, &[], &[], |a| a.limits.cpu_time_max = Some(Duration::from_secs(10)));
    assert_eq!(ran.exit, Exit::out_of_handles(8192));
    let message = ran.exit.message().unwrap();
    assert!(message.contains("`--limit handles=NUMBER`"), "{message}");
    assert!(bench.log().contains(&message), "{}", bench.log());
}

const HOARDER: &str = r#"(component
    (import "wasi:io/streams@0.2.0" (instance $streams (export "output-stream" (type (sub resource)))))
    (alias export $streams "output-stream" (type $stream))
    (import "wasi:cli/stdout@0.2.0" (instance $stdout
        (alias outer 1 $stream (type $s)) (export "output-stream" (type $o (eq $s)))
        (export "get-stdout" (func (result (own $o))))))
    (core func $get (canon lower (func $stdout "get-stdout")))
    (core module $m
        (import "" "get" (func $get (result i32)))
        (func (export "run") (result i32) (loop $again (drop (call $get)) (br $again)) (i32.const 0)))
    (core instance $i (instantiate $m (with "" (instance (export "get" (func $get))))))
    (func $run (result (result)) (canon lift (core func $i "run")))
    (instance $cli (export "run" (func $run)))
    (export "wasi:cli/run@0.2.0" (instance $cli)))"#;

fn queue() {
    let bench = Bench::new();
    let served = bench.serve("hostile/probe-http.wasm", &[], |a| a.limits.concurrency_max = 2);
    let address = served.address;
    let asked: Vec<_> =
        (0..12).map(|_| std::thread::spawn(move || get(address, "/sleep?ms=30").0)).collect();
    assert!(asked.into_iter().all(|thread| thread.join().unwrap() == 200), "{}", bench.log());
}
