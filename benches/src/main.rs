//! margay side by side with its peers, in one run, as ratios of medians.
//!
//! `cargo run --release -p margay-benches -- [start] [native] [exec] [serve] [files] [idle]
//! [ingress] [rebuild] [cold] [neighbours] [audit] [registry] [size]` (all without a word) prints
//! Markdown tables. A peer that is not installed is named and left out; nothing is downloaded.
//! Needs `wrk` for `serve`, `files`, `ingress` and `audit`, `curl` for `audit` and `registry`.
//! Rounds alternate A B A B, so that a machine that slows down slows both.

mod machine; // which machine this was, and what is installed on it
mod measure; // medians, paired rounds, tables
mod platform; // margay as a user starts it, in a home of its own
mod plain; // the ceiling: hyper with nothing behind it
mod load; // wrk, and what it says
mod docker; // an engine to measure beside
mod podman; // another

mod start; // `margay run hello` beside `runc run` and `docker run`
mod native; // a Linux image's `true`, and `exec`
mod serve; // requests per second of one component
mod files; // the cats page beside nginx
mod routes; // a change of a large route table
mod ingress; // as a reverse proxy, beside nginx
mod idle; // resident memory of what waits
mod rebuild; // a build that has nothing to do
mod cold; // the first request after idle
mod neighbours; // a tenant beside one that takes what it can
mod audit; // a record, and its part of a request
mod registry; // bytes and records, beside zot and distribution
mod size; // what the binary is made of

use std::path::Path;

use anyhow::{Result, bail, ensure};

type Bench = fn(&platform::Margay) -> Result<()>;

const BENCHES: [(&str, Bench); 13] = [
    ("start", start::run),
    ("native", native::run),
    ("exec", native::exec),
    ("serve", serve::run),
    ("files", files::run),
    ("ingress", ingress::run),
    ("idle", idle::run),
    ("rebuild", rebuild::run),
    ("cold", cold::run),
    ("neighbours", neighbours::run),
    ("audit", audit::run),
    ("registry", registry::run),
    ("size", size::run),
];

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [word, port, socket @ ..] = args.as_slice()
        && word == "plain-hyper"
    {
        return plain::serve(port.parse()?, socket.first().map(Path::new));
    }
    let (options, args): (Vec<_>, Vec<_>) = args.into_iter().partition(|arg| arg.starts_with("--"));
    if !options.is_empty() {
        ensure!(args == ["registry"], "`{}` belongs to `registry` alone", options[0]);
        registry::Options::parse(&options)?;
    }
    if let Some(unknown) = args.iter().find(|arg| BENCHES.iter().all(|(name, _)| name != arg)) {
        let names = BENCHES.map(|(name, _)| name).join(", ");
        bail!("`{unknown}` is no benchmark: there are {names}");
    }
    println!("{}\n", machine::describe());
    for (name, bench) in BENCHES {
        if args.is_empty() || args.iter().any(|arg| arg == name) {
            println!("## {name}\n");
            bench(&platform::Margay::at_home()?)?;
            println!();
        }
    }
    Ok(())
}
