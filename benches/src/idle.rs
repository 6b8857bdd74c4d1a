//! Resident memory of what only waits.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;

use crate::{
    cold,
    load::{self, Server},
    measure,
    platform::Margay,
};

/// Idle is what is measured.
const IDLE: Duration = Duration::from_secs(5);

/// A worker that has answered, and the processes of `margay up`, before and after it ran a service.
pub fn run(margay: &Margay) -> Result<()> {
    margay.build("httpd")?;
    let port = load::free_port()?;
    let single = Server::start(&mut margay.command([
        "run",
        "--rm",
        "-p",
        &format!("127.0.0.1:{port}:80"),
        "httpd",
    ]))?;
    load::wait_for(&format!("http://127.0.0.1:{port}/"))?;
    let mut rows = rows_below(single.id(), "margay run httpd");
    drop(single);
    let (up, registry, ingress) = cold::up(margay, &[])?;
    std::thread::sleep(IDLE);
    rows.extend(rows_below(up.id(), "margay up"));
    margay.build("adopt")?;
    cold::serve(margay, registry)?;
    let url = cold::url(ingress);
    load::wait_for(&url)?;
    for _ in 0..500 {
        load::get(&url)?;
    }
    std::thread::sleep(IDLE);
    rows.extend(rows_below(up.id(), "after a service"));
    measure::table(["process", "resident", "of it private", "page tables"], &rows);
    Ok(())
}

fn rows_below(root: u32, title: &str) -> Vec<[String; 4]> {
    let mut rows: Vec<_> = family(root).into_iter().filter_map(|pid| row(pid, title)).collect();
    rows.sort();
    rows
}

fn row(pid: u32, title: &str) -> Option<[String; 4]> {
    let words = words(pid)?;
    let status = fields(&format!("/proc/{pid}/status"));
    let smaps = fields(&format!("/proc/{pid}/smaps_rollup"));
    let private = smaps.get("Private_Dirty").copied().unwrap_or(0)
        + smaps.get("Private_Clean").copied().unwrap_or(0);
    let mb = |kb: u64| format!("{:.1} MB", kb as f64 / 1024.0);
    let page_tables = status.get("VmPTE").copied().unwrap_or(0);
    Some([format!("{title}: {words}"), mb(*status.get("VmRSS")?), mb(private), mb(page_tables)])
}

/// The first two arguments of a process.
pub fn words(pid: u32) -> Option<String> {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<_> =
        command.split(|byte| *byte == 0).skip(1).take(2).map(String::from_utf8_lossy).collect();
    Some(words.join(" ").trim().to_owned())
}

fn fields(path: &str) -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once(':')?;
            Some((name.to_owned(), rest.split_whitespace().next()?.parse().ok()?))
        })
        .collect()
}

/// `root` and everything below it.
pub fn family(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found
}
