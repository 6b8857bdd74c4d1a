//! A neighbour of a tenant that takes what it can: processors, memory, disk, log, preparers and
//! connections, all at once.

use std::{
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{
    cold, load,
    measure::{self, Samples},
    platform::{Margay, samples},
};

const REQUESTS: usize = 1_000;
/// A steady client, far from what the service could answer.
const PAUSE: Duration = Duration::from_millis(10);
/// Connections of the flood, and programs that have to be prepared.
const FLOOD: usize = 500;
const BOMBS: usize = 20;
/// Commands of the tenant, each of which takes one thing without end.
const HOGS: [(&str, &str); 4] = [
    ("spin", "[\"spin\"]"),
    ("memory", "[\"hog\"]"),
    ("disk", "[\"write\", \"/data/full\", \"9000000000\"]"),
    ("log", "[\"flood\"]"),
];

/// The time of an answer of a service of the pool, alone and beside every hog of another tenant.
/// Needs root: cgroups share the processors out.
pub fn run(margay: &Margay) -> Result<()> {
    margay.build("adopt")?;
    let (_up, registry, ingress) = cold::up(margay, &["--idle-after", "1h"])?;
    cold::serve(margay, registry)?;
    let url = cold::url(ingress);
    load::wait_for(&url)?;
    times(&url)?; // warm
    let alone = times(&url)?;
    let hostile = Hostile::start(margay, registry, ingress)?;
    let beside = times(&url)?;
    drop(hostile);
    let row = |title: &str, times: &Samples| {
        let p99 = format!("{:.1} ms", times.quantile(0.99));
        [title.to_owned(), times.show("ms"), p99]
    };
    let rows = [
        row("alone", &alone.platform),
        row("beside every hog of another tenant", &beside.platform),
        row("alone, with what the client waited for a processor", &alone.all),
        row("beside every hog, with that", &beside.all),
    ];
    measure::table(["a service of the pool", "median (min to max)", "p99"], &rows);
    let ratio = |beside: &Samples, alone: &Samples| beside.quantile(0.99) / alone.quantile(0.99);
    println!(
        "\np99: {:.2} times; {:.2} times with what the client waited for a processor",
        ratio(&beside.platform, &alone.platform),
        ratio(&beside.all, &alone.all)
    );
    Ok(())
}

/// The time of each request.
#[derive(Default)]
struct Times {
    all: Samples,
    /// Less what the client itself waited for a processor, which the hogs of this machine take from
    /// it and not from a client on another one.
    platform: Samples,
}

fn times(url: &str) -> Result<Times> {
    let mut times = Times::default();
    for _ in 0..REQUESTS {
        let (start, waited) = (Instant::now(), waited_here()?);
        let status = load::get(url)?;
        let took = start.elapsed();
        ensure!(status == 200, "{url} answered {status}");
        times.all.push_time(took);
        times.platform.push_time(took.saturating_sub(waited_here()?.saturating_sub(waited)));
        std::thread::sleep(PAUSE);
    }
    Ok(times)
}

/// How long this thread was ready to run and did not.
fn waited_here() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let waited = stat.split_whitespace().nth(1).context("no time in a queue")?;
    Ok(Duration::from_nanos(waited.parse()?))
}

/// Ends its threads when it is dropped; its tasks end with the platform.
struct Hostile(Arc<AtomicBool>);

impl Hostile {
    fn start(margay: &Margay, registry: u16, ingress: u16) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let credential = folder.path().join("acme.json");
        std::fs::write(
            &credential,
            margay.run(["credential", "create", "hostile", "--tenant", "acme"])?,
        )?;
        let credential = credential.to_str().context("a path in UTF-8")?;
        let address = format!("localhost:{registry}");
        margay.run(["cluster", "create", "hostile", "--credential", credential])?;
        let image = format!("{address}/me/probe:v1");
        build(margay, &image, "probe-cli", 0)?;
        margay.run(["registry", "visibility", "me/probe", "public"])?;
        for (name, command) in HOGS {
            let definition = format!(
                "family = \"{name}\"\n[[volumes]]\nname = \"v-{name}\"\n[[containers]]\n\
                 name = \"{name}\"\nimage = \"{image}\"\ncommand = {command}\n\
                 mounts = [{{ volume = \"v-{name}\", path = \"/data\" }}]\n"
            );
            service(margay, credential, folder.path(), name, &definition)?;
        }
        for bomb in 0..BOMBS {
            let (name, image) = (format!("bomb{bomb}"), format!("{address}/me/probe:{bomb}"));
            build(margay, &image, "probe-cli", bomb + 1)?;
            let definition = format!(
                "family = \"{name}\"\n[[containers]]\nname = \"app\"\nimage = \"{image}\"\n\
                 command = [\"spin\"]\n"
            );
            service(margay, credential, folder.path(), &name, &definition)?;
        }
        let end = Arc::new(AtomicBool::new(false));
        for _ in 0..2 {
            let end = end.clone();
            std::thread::spawn(move || flood(ingress, &end));
        }
        std::thread::sleep(Duration::from_secs(5));
        Ok(Self(end))
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// An image that was not prepared before: its program has one more byte than the last.
fn build(margay: &Margay, image: &str, program: &str, more: usize) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut wasm = std::fs::read(samples().join(format!("hostile/{program}.wasm")))?;
    if more > 0 {
        // A custom section: its name and nothing else.
        let name = format!("bomb{more:04}");
        wasm.extend([0, name.len() as u8 + 1, name.len() as u8]);
        wasm.extend(name.as_bytes());
    }
    std::fs::write(folder.path().join("probe.wasm"), wasm)?;
    let dockerfile = "FROM scratch\nCOPY probe.wasm /\nENTRYPOINT [\"/probe.wasm\"]\n";
    std::fs::write(folder.path().join("Dockerfile"), dockerfile)?;
    margay.run(["build", "-t", image, folder.path().to_str().context("a path in UTF-8")?])?;
    margay.run(["push", image]).map(drop)
}

fn service(
    margay: &Margay,
    credential: &str,
    folder: &std::path::Path,
    name: &str,
    definition: &str,
) -> Result<()> {
    let file = folder.join(format!("{name}.toml"));
    std::fs::write(&file, definition)?;
    let file = file.to_str().context("a path in UTF-8")?;
    margay.run(["task", "register", file, "--credential", credential])?;
    let task = format!("{name}:1");
    let create = ["service", "create", name, "--task", &task, "--cluster", "hostile"];
    let [a, b, c, d, e, f, g] = create;
    let pool = ["--launch-type", "pool", "--detach", "--credential", credential];
    let [h, i, j, k, l] = pool;
    margay.run([a, b, c, d, e, f, g, h, i, j, k, l]).map(drop)
}

/// Opens connections to the ingress as fast as it takes them, and says nothing on them.
fn flood(ingress: u16, end: &AtomicBool) {
    let mut held = std::collections::VecDeque::new();
    while !end.load(Ordering::Relaxed) {
        if let Ok(stream) = TcpStream::connect(("127.0.0.1", ingress)) {
            held.push_back(stream);
        }
        if held.len() > FLOOD / 2 {
            held.pop_front();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
