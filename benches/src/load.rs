use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{idle::family, machine};

/// What one round of wrk saw.
pub struct Load {
    /// Answers per second.
    pub rate: f64,
    pub answers: f64,
}

/// Drives `url` from core 1 with `connections` keep-alive connections.
pub fn wrk(wrk: &Path, url: &str, connections: usize, time: Duration) -> Result<Load> {
    wrk_with(wrk, url, connections, time, &[])
}

/// The same with more arguments.
pub fn wrk_with(
    wrk: &Path,
    url: &str,
    connections: usize,
    time: Duration,
    more: &[&str],
) -> Result<Load> {
    let output = machine::pinned(1, wrk)
        .args(["-t1", &format!("-c{connections}"), &format!("-d{}s", time.as_secs()), "--latency"])
        .args(more)
        .arg(url)
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "wrk failed on {url}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(!text.contains("Non-2xx"), "{url} answered with errors:\n{text}");
    let rate = text
        .lines()
        .find_map(|line| line.strip_prefix("Requests/sec:"))
        .context("wrk printed no rate")?;
    let answers = text
        .lines()
        .find_map(|line| line.split_once(" requests in "))
        .context("wrk printed no count")?;
    Ok(Load { rate: rate.trim().parse()?, answers: answers.0.trim().parse()? })
}

/// Waits until `url` answers with success.
pub fn wait_for(url: &str) -> Result<()> {
    let until = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        if get(url).is_ok_and(|status| (200..300).contains(&status)) {
            return Ok(());
        }
        ensure!(std::time::Instant::now() < until, "{url} does not answer");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One request on a connection of its own; the status.
pub fn get(url: &str) -> Result<u16> {
    use std::io::{Read, Write};
    let rest = url.strip_prefix("http://").context("an http URL")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let name = host.split(':').next().unwrap_or(host);
    let address = host.replace(name, if name.ends_with("localhost") { "127.0.0.1" } else { name });
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let head = String::from_utf8_lossy(&answer);
    Ok(head.split(' ').nth(1).context("no status line")?.parse()?)
}

/// Ends a server when it is dropped.
pub struct Server(std::process::Child);

impl Server {
    /// Starts it, quietly.
    pub fn start(command: &mut Command) -> Result<Self> {
        let quiet = std::process::Stdio::null;
        Ok(Self(
            command
                .stdin(quiet())
                .stdout(quiet())
                .stderr(quiet())
                .spawn()
                .with_context(|| format!("{command:?}"))?,
        ))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// What it and all below it have spent on processors.
    pub fn cpu_time(&self) -> Duration {
        let ticks = family(self.id()).into_iter().filter_map(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let fields = stat.rsplit_once(')')?.1.split_whitespace();
            // `utime` and `stime`, of which there are a hundred a second on every Linux.
            Some(fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>())
        });
        Duration::from_millis(10 * ticks.sum::<u64>())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGTERM lets margay stop its workers; a server that ignores it is killed.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        for _ in 0..200 {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
