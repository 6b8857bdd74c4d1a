use engine::Exit;

use crate::{Test, bench::Bench};

pub const TESTS: &[Test] = &[
    ("webassembly_3_runs_as_in_wasmtime", programs),
    ("what_wasmtime_leaves_off_is_refused_by_name", refused),
    ("a_module_that_calls_for_a_socket_gets_an_error_and_the_log_says_what_to_use", sockets),
    ("more_memories_than_a_program_may_have_are_refused_by_number", memories),
];

/// A module whose `_start` ends with the code that `body` leaves.
fn module(declarations: &str, body: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            {declarations}
            (func (export "_start") (call $exit {body})))"#
    );
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn programs() {
    let bench = Bench::new();
    for (feature, declarations, body) in [
        (
            "exceptions",
            "(tag $e (param i32))",
            "(block $h (result i32) (try_table (catch $e $h) (throw $e (i32.const 7)))
                (unreachable))",
        ),
        (
            "tail calls",
            "(func $f (param i32) (result i32)
                (if (result i32) (i32.eqz (local.get 0))
                    (then (i32.const 7))
                    (else (return_call $f (i32.sub (local.get 0) (i32.const 1))))))",
            "(call $f (i32.const 1000000))",
        ),
        (
            "memories",
            "(memory $b 1) (memory $c 1) (memory $d 1) (data (memory $d) (i32.const 0) \"\\07\")",
            "(i32.load8_u $d (i32.const 0))",
        ),
        (
            "64-bit memory",
            "(memory $b i64 1)",
            "(i32.wrap_i64 (i64.add (memory.size $b) (i64.const 6)))",
        ),
        (
            "garbage collection",
            "(type $cat (struct (field $lives (mut i32))))",
            "(struct.get $cat $lives (struct.new $cat (i32.const 7)))",
        ),
        (
            "function references",
            "(type $f (func (result i32))) (func $seven (type $f) (i32.const 7))
                (elem declare func $seven)",
            "(call_ref $f (ref.func $seven))",
        ),
        (
            "relaxed vectors",
            "",
            "(i32x4.extract_lane 0 (i32x4.relaxed_trunc_f32x4_s (f32x4.splat (f32.const 7))))",
        ),
        ("vectors", "", "(i32x4.extract_lane 0 (i32x4.splat (i32.const 7)))"),
        ("atomics", "", "(i32.add (i32.atomic.rmw.add (i32.const 8) (i32.const 7)) (i32.const 7))"),
        (
            "extended constants",
            "(global $g i32 (i32.add (i32.const 3) (i32.const 4)))",
            "(global.get $g)",
        ),
    ] {
        let ran = bench.run_wasm(&module(declarations, body), &[], &[], |_| ());
        assert_eq!(ran.exit, Exit::Code(7), "{feature}: {}", ran.text);
    }
}

/// The heap of a guest with garbage collection counts as its memory.
fn collected(bench: &Bench) {
    let hoard = module(
        "(type $list (struct (field (ref null $list)) (field i64)))
            (global $all (mut (ref null $list)) (ref.null $list))",
        "(block (result i32) (loop $more
                (global.set $all (struct.new $list (global.get $all) (i64.const 1))) (br $more))
            (i32.const 0))",
    );
    let ran = bench.run_wasm(&hoard, &[], &[], |a| a.limits.memory_bytes_max = 16 << 20);
    assert!(!matches!(ran.exit, Exit::Code(_)), "{:?}", ran.exit);
    assert!(bench.usage().memory_bytes_peak <= 16 << 20, "{:?}", bench.usage());
}

fn refused() {
    let bench = Bench::new();
    collected(&bench);
    for (declarations, says) in
        [("(memory $p 1 (pagesize 1))", "page"), ("(type $f (func)) (type $c (cont $f))", "stack")]
    {
        let module = module(declarations, "(i32.const 7)");
        let error = bench.prepare(&module, &[]).expect_err(declarations).to_string();
        assert!(error.contains(says), "{declarations}: {error}");
    }
    not_started(&bench, "(memory $s 1 1 shared)", "memory is shared");
}

fn not_started(bench: &Bench, declarations: &str, says: &str) {
    let ran = bench.run_wasm(&module(declarations, "(i32.const 7)"), &[], &[], |_| ());
    assert!(
        matches!(&ran.exit, Exit::NotStarted(why) if why.contains(says)),
        "{declarations}: {:?}",
        ran.exit
    );
}

fn memories() {
    let bench = Bench::new();
    let four = "(memory 1) (memory 1) (memory 1) (memory 1)";
    not_started(&bench, four, "memories count of 5 exceeds the per-instance limit of 4");
}

fn sockets() {
    let bench = Bench::new();
    for (call, arguments, descriptor, code) in [
        ("sock_accept", 3, 0, 58),
        ("sock_recv", 6, 0, 58),
        ("sock_send", 5, 0, 58),
        ("sock_shutdown", 2, 1, 57),
        ("sock_shutdown", 2, 3, 8),
    ] {
        let text = format!(
            r#"(module
                (import "wasi_snapshot_preview1" "{call}" (func $call (param {}) (result i32)))
                (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
                (memory (export "memory") 1)
                (func (export "_start")
                    (call $exit (call $call (i32.const {descriptor}) {}))))"#,
            "i32 ".repeat(arguments),
            "(i32.const 0)".repeat(arguments - 1),
        );
        let ran = bench.run_wasm(&wat::parse_str(&text).unwrap(), &[], &[], |_| ());
        assert_eq!(ran.exit, Exit::Code(code), "{call}: {}", ran.text);
        let log = bench.log();
        assert!(log.contains(&format!("`wasi_snapshot_preview1.{call}`")), "{call}: {log}");
        assert!(log.contains("wasi:http/incoming-handler"), "{call}: {log}");
    }
}
