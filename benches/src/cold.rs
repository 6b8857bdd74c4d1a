//! The first request after idle: no worker of the task alive.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::{
    idle,
    load::{self, Server},
    measure::{self, Samples},
    platform::Margay,
};

const RUNS: usize = 100;

/// A service of the pool that fell asleep, and `margay invoke`, a task made for one request.
pub fn run(margay: &Margay) -> Result<()> {
    margay.build("adopt")?;
    let mut rows = Vec::new();
    for spares in [2, 0] {
        let title = format!("a request to a sleeping service, {spares} spare workers");
        rows.push(row(&title, &sleeping(margay, spares)?));
    }
    rows.push(row("`margay invoke adopt`, from exec to exit", &invoked(margay)?));
    measure::table(["nothing of the task alive", "median (min to max)", "p99"], &rows);
    Ok(())
}

fn row(title: &str, times: &Samples) -> [String; 3] {
    [title.to_owned(), times.show("ms"), format!("{:.1} ms", times.quantile(0.99))]
}

/// From the first byte of a request on a new connection to the ingress, to the last one of its
/// answer.
fn sleeping(margay: &Margay, spares: usize) -> Result<Samples> {
    let (up, registry, ingress) =
        up(margay, &["--idle-after", "1s", "--spare-workers", &spares.to_string()])?;
    serve(margay, registry)?;
    let url = url(ingress);
    load::wait_for(&url)?;
    let mut times = Samples::default();
    for run in 0..=RUNS {
        sleep_in(up.id(), spares)?;
        let start = Instant::now();
        let status = load::get(&url)?;
        ensure!(status == 200, "{url} answered {status}");
        if run > 0 {
            times.push_time(start.elapsed());
        }
    }
    Ok(times)
}

/// A platform, and the ports of its registry and its ingress.
pub fn up(margay: &Margay, more: &[&str]) -> Result<(Server, u16, u16)> {
    let (registry, ingress) = (load::free_port()?, load::free_port()?);
    let (registry_port, ingress_port) = (registry.to_string(), ingress.to_string());
    let up = [
        "up",
        "--server-port",
        "0",
        "--registry-port",
        &registry_port,
        "--ingress-port",
        &ingress_port,
    ];
    Ok((Server::start(margay.command(up).args(more))?, registry, ingress))
}

/// Where the ingress serves it.
pub fn url(ingress: u16) -> String {
    format!("http://adopt.cold.localhost:{ingress}/whoami")
}

/// Pushes adopt, and runs it as a service of the pool; the second time it is there already.
pub fn serve(margay: &Margay, registry: u16) -> Result<()> {
    let address = format!("localhost:{registry}");
    wait(|| margay.run(["login", "-u", "me", &address]).is_ok()).context("cannot log in")?;
    if margay.run(["service", "ls"])?.contains("adopt") {
        return Ok(());
    }
    let image = format!("{address}/me/adopt:v1");
    margay.run(["tag", "adopt", &image])?;
    margay.run(["push", &image])?;
    let folder = tempfile::tempdir()?;
    let definition = folder.path().join("task.toml");
    std::fs::write(&definition, DEFINITION)?;
    margay.run(["task", "register", definition.to_str().context("a path in UTF-8")?])?;
    margay.run(["cluster", "create", "cold"])?;
    margay.run([
        "service",
        "create",
        "adopt",
        "--task",
        "adopt:1",
        "--cluster",
        "cold",
        "--launch-type",
        "pool",
    ])?;
    Ok(())
}

const DEFINITION: &str = r#"
family = "adopt"
launch_types = ["pool"]

[[containers]]
name = "adopt"
image = "adopt:v1"
memory_soft_bytes = 67108864
memory_hard_bytes = 134217728
ports = [{ container_port = 80 }]
"#;

/// Until the processes below `up` that are workers are as many as wait for a task.
fn sleep_in(up: u32, spares: usize) -> Result<()> {
    let workers = || {
        idle::family(up)
            .into_iter()
            .filter(|pid| idle::words(*pid).is_some_and(|words| words == "worker"))
    };
    wait(|| workers().count() == spares).context("the service does not fall asleep")?;
    // What the end of the last worker left to do is not part of the next start.
    std::thread::sleep(Duration::from_millis(100));
    Ok(())
}

fn wait(mut done: impl FnMut() -> bool) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(20);
    while !done() {
        ensure!(Instant::now() < until, "waited for 20 s");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn invoked(margay: &Margay) -> Result<Samples> {
    let mut times = Samples::default();
    for run in 0..=RUNS {
        let start = Instant::now();
        margay.run(["invoke", "adopt", "--path", "/whoami"])?;
        if run > 0 {
            times.push_time(start.elapsed());
        }
    }
    Ok(times)
}
