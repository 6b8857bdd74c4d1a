use std::os::fd::OwnedFd;

use engine::Exit;

use crate::{
    Test,
    bench::{Bench, capability, file_of},
};

pub const TESTS: &[Test] = &[
    ("a_component_runs_with_its_arguments_and_says_what_it_has_to_say", hello),
    ("a_module_of_wasi_0_1_keeps_its_exit_code", exit_code_of_a_module),
    ("what_stands_on_standard_input_is_read", input),
    ("what_is_written_is_also_kept_in_the_log", log),
    ("a_command_is_one_run_of_usage", usage),
];

fn hello() {
    let bench = Bench::new();
    let ran = bench.run("hello/hello.wasm", &["a", "b"], |_| {});
    assert_eq!(
        (ran.exit, ran.text.as_str()),
        (Exit::Code(0), "hello from margay\narguments: a b\n"),
        "{}",
        bench.log()
    );
}

fn exit_code_of_a_module() {
    let bench = Bench::new();
    for (program, code, want) in [
        ("hello/hello-p1.wasm", "3", Exit::Code(3)),
        ("hello/hello-p1.wasm", "255", Exit::Code(255)),
        ("hello/hello-p1.wasm", "0", Exit::Code(0)),
        // WASI 0.2 knows success and failure only.
        ("hello/hello.wasm", "3", Exit::Code(1)),
    ] {
        let ran = bench.run(program, &["--exit", code], |_| {});
        assert_eq!(ran.exit, want, "{program} --exit {code}: {}", ran.text);
    }
}

fn input() {
    let bench = Bench::new();
    for program in ["hello/hello.wasm", "hello/hello-p1.wasm"] {
        let ran = bench.run(program, &["-"], |assignment| {
            assignment.stdio.stdin = Some(OwnedFd::from(file_of(b"meow\n")));
        });
        assert_eq!(
            (ran.exit, ran.text.as_str()),
            (Exit::Code(0), "hello from margay\narguments: -\nmeow\n")
        );
    }
}

fn log() {
    let bench = Bench::new();
    let ran = bench.run("hello/hello.wasm", &[], |assignment| {
        assignment.env.insert("HELLO_TO".to_owned(), "cats".to_owned());
        assignment.grants.add(capability("env:HELLO_TO"));
    });
    assert_eq!(ran.exit, Exit::Code(0));
    assert_eq!(bench.log_lines(), ["Stdout hello from margay", "Stdout HELLO_TO: cats"]);
}

fn usage() {
    let bench = Bench::new();
    assert_eq!(bench.run("hello/hello.wasm", &[], |_| {}).exit, Exit::Code(0));
    let usage = bench.usage();
    assert_eq!((usage.runs, usage.failed_runs), (1, 0));
    assert!(usage.cpu_ns > 10_000 && usage.cpu_ns < 1_000_000_000, "{usage:?}");
    assert!(usage.memory_bytes_peak >= 1 << 16, "{usage:?}");
}
