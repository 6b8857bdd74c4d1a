//! Workers and preparers for real: this binary is both of them, as `margay` is, and the supervisor
//! that tests them.
//!
//! `cargo test -p margay-runtime --test walled [NAME…]` runs the tests whose names contain one of
//! the words.
#![allow(clippy::too_many_lines, reason = "tables of cases")]

mod bench; // a node in a temporary folder: prepare, start, ask
mod layer; // tars made by hand

mod commands; // wasi:cli, exit codes, streams
mod services; // wasi:config and wasi:logging
mod requests; // wasi:http, streaming, draining
mod reuse; // instances that answer several requests
mod limits; // memory, CPU time, wall time, and the events about them
mod features; // which WebAssembly runs
mod grants; // what is granted works, what is not is denied with the line that would grant it
mod walls; // hostile machine code behind the walls
mod images; // bad images, tampering, caches
mod lives; // adoption, kills, stops
mod numbers; // how long things take

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
};

/// A claim, and what shows it.
type Test = (&'static str, fn());

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match std::env::args().nth(1).as_deref() {
        Some("worker") => return runtime::worker::main(),
        Some("prepare") => return runtime::prepare::main(),
        Some("intruder") => return runtime::worker::main_with_intruder(walls::intrude),
        Some("hog") => return runtime::worker::main_with_intruder(walls::hog),
        _ => {}
    }
    let wanted: Vec<String> = arguments.by_ref().filter(|word| !word.starts_with('-')).collect();
    let all: Vec<Test> = [
        commands::TESTS,
        services::TESTS,
        requests::TESTS,
        reuse::TESTS,
        limits::TESTS,
        features::TESTS,
        grants::TESTS,
        walls::TESTS,
        images::TESTS,
        lives::TESTS,
        numbers::TESTS,
    ]
    .concat();
    let chosen = all
        .iter()
        .filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|word| name.contains(word)));
    let mut failed = Vec::new();
    let mut passed = 0;
    for (name, test) in chosen {
        let began = std::time::Instant::now();
        match catch_unwind(AssertUnwindSafe(test)) {
            Ok(()) => {
                passed += 1;
                println!("test {name} ... ok ({} ms)", began.elapsed().as_millis());
            }
            Err(_) => {
                failed.push(*name);
                println!("test {name} ... FAILED");
            }
        }
    }
    println!("\n{passed} passed, {} failed {failed:?}", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
