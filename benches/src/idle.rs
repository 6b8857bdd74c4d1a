//! Resident memory of what only waits.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::{
    load::{self, Server},
    measure,
    platform::Margay,
};

/// A worker that has answered, and the processes of an idle `margay up`.
pub fn run(margay: &Margay) -> Result<()> {
    margay.build("httpd")?;
    let port = load::free_port()?;
    let single = Server::start(&mut margay.command(["run", "--rm", "-p", &format!("127.0.0.1:{port}:80"), "httpd"]))?;
    load::wait_for(&format!("http://127.0.0.1:{port}/"))?;
    let mut rows = rows_below(single.id(), "margay run httpd");
    drop(single);
    let up = Server::start(&mut margay.command(["up", "--registry-port", "0", "--ingress-port", "0"]))?;
    std::thread::sleep(std::time::Duration::from_secs(5)); // idle is what is measured
    rows.extend(rows_below(up.id(), "margay up"));
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
    let private = smaps.get("Private_Dirty").copied().unwrap_or(0) + smaps.get("Private_Clean").copied().unwrap_or(0);
    let mb = |kb: u64| format!("{:.1} MB", kb as f64 / 1024.0);
    let page_tables = status.get("VmPTE").copied().unwrap_or(0);
    Some([format!("{title}: {words}"), mb(*status.get("VmRSS")?), mb(private), mb(page_tables)])
}

/// The first two arguments of a process.
pub fn words(pid: u32) -> Option<String> {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<_> = command.split(|byte| *byte == 0).skip(1).take(2).map(String::from_utf8_lossy).collect();
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
