//! adopt's `/whoami`, warm: one published port, one core, a fresh instance for each request.

use std::{process::Command, time::Duration};

use anyhow::Result;

use crate::{
    load::{self, Server},
    machine,
    measure::{self, Contender},
    platform::{Margay, samples},
};

const ROUNDS: usize = 5;
const CONNECTIONS: usize = 64;
const ROUND: Duration = Duration::from_secs(4);

/// margay, `wasmtime serve` with the same component, and plain hyper.
pub fn run(margay: &Margay) -> Result<()> {
    let Some(wrk) = machine::peer("wrk", "apt-get install wrk") else { return Ok(()) };
    margay.build("adopt")?;
    let (margay_port, wasmtime_port, plain_port) =
        (load::free_port()?, load::free_port()?, load::free_port()?);
    let mut servers = vec![
        Server::start(&mut margay.pinned([
            "run",
            "--rm",
            "-p",
            &format!("127.0.0.1:{margay_port}:80"),
            "adopt",
        ]))?,
        Server::start(
            machine::pinned(0, &std::env::current_exe()?)
                .args(["plain-hyper", &plain_port.to_string()]),
        )?,
    ];
    let mut urls = vec![("margay run adopt", margay_port), ("plain hyper", plain_port)];
    if let Some(wasmtime) =
        machine::peer("wasmtime", "cargo install wasmtime-cli --version 48.0.8 --locked")
    {
        servers.push(Server::start(&mut wasmtime_serve(&wasmtime, wasmtime_port, &[]))?);
        urls.push(("wasmtime serve", wasmtime_port));
    }
    let urls: Vec<_> = urls
        .into_iter()
        .map(|(name, port)| (name, format!("http://127.0.0.1:{port}/whoami")))
        .collect();
    for (_, url) in &urls {
        load::wait_for(url)?;
        load::wrk(&wrk, url, CONNECTIONS, Duration::from_secs(1))?;
    }
    let contenders = urls
        .iter()
        .map(|(name, url)| {
            Contender::new(name, || Ok(load::wrk(&wrk, url, CONNECTIONS, ROUND)?.rate))
        })
        .collect();
    let results = measure::in_turn(ROUNDS, contenders)?;
    let margay = results[0].1.median();
    let rows: Vec<_> = results
        .iter()
        .map(|(name, rates)| {
            [name.clone(), rates.show("req/s"), format!("{:.2}", margay / rates.median())]
        })
        .collect();
    measure::table(
        ["GET /whoami, 64 connections, 1 core", "median (min to max)", "margay is times this"],
        &rows,
    );
    drop(servers);
    Ok(())
}

fn wasmtime_serve(wasmtime: &std::path::Path, port: u16, flags: &[&str]) -> Command {
    let mut command = machine::pinned(0, wasmtime);
    command.args(["serve", "-Scli"]).args(flags).arg(format!("--addr=127.0.0.1:{port}"));
    command.arg(samples().join("adopt/adopt.wasm"));
    command
}
