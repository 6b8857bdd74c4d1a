//! How soon a change of a large route table is served, from the moment its file is there.

use std::{
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::{Map, Value, json};

use crate::measure;

const SERVICES: usize = 1_000;
const REPLICAS: usize = 3;
/// Of each service.
const HOSTS: usize = 10;
const CHANGES: usize = 100;

/// Adds a host to the table in `file`, again and again, and asks the ingress at `port` for it.
pub fn changes(file: &Path, port: u16) -> Result<()> {
    let small = std::fs::read(file)?;
    let mut table: Value = serde_json::from_slice(&small)?;
    let routes = &mut table["routes"];
    let served = routes["hosts"].as_object().and_then(|hosts| hosts.keys().next()).cloned();
    let served = served.unwrap_or_default();
    for service in 0..SERVICES {
        let host = format!("s{service}.bench.localhost");
        let replica = |task| {
            let task = format!("s{service}-{task}");
            json!({ "node": "n1", "tenant": "me", "task": task, "container_port": 80 })
        };
        routes["hosts"][&host] = (0..REPLICAS).map(replica).collect();
    }
    let rule = |service: &str| json!([{ "path": "/", "services": { service: 1 } }]);
    let names = (0..SERVICES).flat_map(|service| (0..HOSTS).map(move |host| (service, host)));
    routes["rules"] = names
        .map(|(service, host)| {
            let name = format!("h{host}.s{service}.bench.example");
            (name, rule(&format!("s{service}.bench.localhost")))
        })
        .collect::<Map<_, _>>()
        .into();
    let mut times = measure::Samples::default();
    for change in 0..=CHANGES {
        let host = format!("new-{change}.bench.example");
        table["routes"]["rules"][&host] = rule(&served);
        replace(file, table.to_string().as_bytes())?;
        let began = Instant::now();
        while !is_served(port, &host)? {
            ensure!(began.elapsed() < Duration::from_secs(20), "`{host}` is not served");
        }
        if change > 0 {
            times.push_time(began.elapsed());
        }
    }
    replace(file, &small)?;
    let count = (SERVICES * HOSTS).to_string();
    let p99 = format!("{:.1} ms", times.quantile(0.99));
    measure::table(
        ["a change among 1,000 services", "routes", "median (min to max)", "p99"],
        &[["margay ingress".to_owned(), count, times.show("ms"), p99]],
    );
    println!();
    Ok(())
}

fn replace(file: &Path, bytes: &[u8]) -> Result<()> {
    let fresh = file.with_extension("new");
    std::fs::write(&fresh, bytes)?;
    std::fs::set_permissions(&fresh, PermissionsExt::from_mode(0o644))?;
    Ok(std::fs::rename(&fresh, file)?)
}

fn is_served(port: u16, host: &str) -> Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer.starts_with(b"HTTP/1.1 200"))
}
