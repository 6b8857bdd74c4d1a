//! One Wasm sandbox: prepare an image once, start a worker in its sandbox, limit it, meter it.
//! The only crate that knows wasmtime.
//!
//! Enter at [`prepare()`] to turn layers into machine code and an index (in a sandboxed one-shot
//! process), then at [`SpareWorker::spawn`] and [`SpareWorker::assign`] to run it, and at [`adopt`]
//! to find a worker that outlived its agent. The binary that embeds this crate calls
//! [`worker::main`] and [`prepare::main`] before it has any thread.
//!
//! Absent on purpose: networks inside a worker (the [`Broker`] connects for it), host folders (the
//! guest's files are a union of mapped layers, memory and detached mounts), machine code from
//! anywhere but the node's own preparer, WASI 0.3 (its host side is declared unfinished upstream),
//! and `wasi:sockets` beyond refusing.
#![cfg_attr(test, allow(clippy::too_many_lines, reason = "tables of cases"))]

mod assignment; // everything that a worker is handed
mod socket; // waiting for them without a thread
mod denied; // what a log says of a connection that was denied
mod frame; // the messages between a worker and its supervisor
mod separation; // a uid of its own for each worker, or a user namespace
mod own_user; // how a worker takes its uid in such a namespace
mod supervisor; // a worker from the outside: spawn, assign, watch, stop, adopt
mod broker; // connections that a grant allows, made outside the sandbox

pub mod usage; // a container's counters, readable without asking it
mod host_files; // volumes, and files of the host, opened for a worker
mod seal; // the node's mark on what it has made itself

mod code_area; // machine code for a worker that runs
mod inherited; // descriptors by their number
mod sandbox; // what a process gives up once it holds everything it needs: seccomp, Landlock
mod source_lines; // lines of a program's source, beside its machine code
mod engine; // how wasmtime is configured, once for compiling and running
pub mod prepare; // layers in, index and machine code out, in a process of its own
pub mod worker; // a worker from the inside

mod error;
mod limits; // every limit, with its reason

pub use {
    assignment::{Assignment, WasmProgram, World},
    broker::{AddressRules, Broker, LocalPorts, NotConnected, SERVICES_DOMAIN, Services},
    error::Error,
    prepare::{Facts, LayerBlob, Preparation, Prepared, Program, prepare},
    seal::Key,
    separation::Separation,
    supervisor::{
        Adopted, SpareWorker, SpawnOptions, UsagePage, WasmEngine, Worker, adopt, try_own_user,
        try_walls,
    },
};
