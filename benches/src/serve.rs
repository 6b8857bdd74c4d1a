//! adopt's `/whoami`, warm: one published port, one core, a fresh instance for each request.

use std::{cell::RefCell, path::Path, process::Command, time::Duration};

use anyhow::Result;

use crate::{
    load::{self, Server},
    machine,
    measure::{self, Contender, Samples},
    platform::{Margay, samples},
};

const ROUNDS: usize = 5;
const CONNECTIONS: usize = 64;
const ROUND: Duration = Duration::from_secs(4);

/// A server under load.
struct Contestant {
    name: &'static str,
    url: String,
    server: Server,
    /// Processor time of one request, in microseconds.
    cpu: RefCell<Samples>,
}

impl Contestant {
    fn start(name: &'static str, command: impl FnOnce(u16) -> Command) -> Result<Self> {
        let port = load::free_port()?;
        let server = Server::start(&mut command(port))?;
        let url = format!("http://127.0.0.1:{port}/whoami");
        load::wait_for(&url)?;
        Ok(Self { name, url, server, cpu: RefCell::default() })
    }

    fn margay(name: &'static str, margay: &Margay) -> Result<Self> {
        margay.build("adopt")?;
        Self::start(name, |port| {
            margay.pinned(["run", "--rm", "-p", &format!("127.0.0.1:{port}:80"), "adopt"])
        })
    }

    fn round(&self, wrk: &Path) -> Result<f64> {
        let before = self.server.cpu_time();
        let load = load::wrk(wrk, &self.url, CONNECTIONS, ROUND)?;
        let spent = self.server.cpu_time().saturating_sub(before);
        self.cpu.borrow_mut().push(spent.as_secs_f64() * 1e6 / load.answers);
        Ok(load.rate)
    }
}

/// margay, the margay of `MARGAY_BEFORE`, `wasmtime serve` with the same component, and plain
/// hyper.
pub fn run(margay: &Margay) -> Result<()> {
    let Some(wrk) = machine::peer("wrk", "apt-get install wrk") else { return Ok(()) };
    let mut contestants = vec![Contestant::margay("margay run adopt", margay)?];
    let before = Margay::before()?;
    if let Some(before) = &before {
        contestants.push(Contestant::margay("margay before", before)?);
    }
    let this = std::env::current_exe()?;
    contestants.push(Contestant::start("plain hyper", |port| {
        let mut command = machine::pinned(0, &this);
        command.args(["plain-hyper", &port.to_string()]);
        command
    })?);
    if let Some(wasmtime) =
        machine::peer("wasmtime", "cargo install wasmtime-cli --version 48.0.8 --locked")
    {
        contestants
            .push(Contestant::start("wasmtime serve", |port| wasmtime_serve(&wasmtime, port))?);
    }
    let contenders = contestants
        .iter()
        .map(|contestant| Contender::new(contestant.name, || contestant.round(&wrk)))
        .collect();
    let results = measure::in_turn(ROUNDS, contenders)?;
    let margay = results[0].1.median();
    let rows: Vec<_> = results
        .iter()
        .zip(&contestants)
        .map(|((name, rates), contestant)| {
            [
                name.clone(),
                rates.show("req/s"),
                format!("{:.2}", margay / rates.median()),
                contestant.cpu.borrow().show("us"),
            ]
        })
        .collect();
    measure::table(
        [
            "GET /whoami, 64 connections, 1 core",
            "median (min to max)",
            "margay is times this",
            "processor time of a request",
        ],
        &rows,
    );
    Ok(())
}

fn wasmtime_serve(wasmtime: &Path, port: u16) -> Command {
    let mut command = machine::pinned(0, wasmtime);
    command.args(["serve", "-Scli"]).arg(format!("--addr=127.0.0.1:{port}"));
    command.arg(samples().join("adopt/adopt.wasm"));
    command
}
