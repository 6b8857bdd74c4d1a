use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use node::{
    processes::ProcessTable,
    tasks::{self, TaskFolder},
};
use serde::Serialize;
use serde_json::{Map, Value};
use spec::Usage;

use crate::{
    control::Control,
    home::Home,
    listing::{Fields, Form, Listing, record},
    output::{self, docker_size, duration, size},
    remote,
    serve::block_on,
};

/// Show what tasks use, on whichever node, and what they have used so far
#[derive(Debug, clap::Args)]
#[command(
    after_help = "On a terminal the table is renewed each second until it is interrupted. RUNS and what stands
right of it count since each task's start. For totals per image and tenant of a platform: margay usage

Fields: .Container .ID .Name .CPUPerc .MemUsage .MemPerc .NetIO .BlockIO .PIDs"
)]
pub struct Args {
    /// Names or ids of tasks, or names of services; every running task of this machine when left
    /// out
    #[arg(value_name = "TASK|SERVICE")]
    tasks: Vec<String>,
    /// Show ended ones as well
    #[arg(short, long)]
    all: bool,
    /// Print once, also on a terminal
    #[arg(long)]
    no_stream: bool,
    /// Show names and ids in full length, which they have anyway
    #[arg(long)]
    no_trunc: bool,
    #[command(flatten)]
    listing: Listing,
    #[command(flatten)]
    control: Control,
}

const FIELDS: Fields = &[
    ("BlockIO", "BLOCK I/O"),
    ("CPUPerc", "CPU %"),
    ("Container", "TASK"),
    ("ID", "TASK ID"),
    ("MemPerc", "MEM %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("Name", "NAME"),
    ("NetIO", "NET I/O"),
    ("PIDs", "PIDS"),
];

const COLUMNS: [&str; 10] = [
    "NAME",
    "IMAGE",
    "CPU %",
    "MEM USAGE / LIMIT",
    "RUNS",
    "FAILED",
    "CPU TIME",
    "MEMORY PEAK",
    "IN",
    "OUT",
];

/// Between two looks at the CPU time of a task, where it is printed once.
const SAMPLE_TIME: Duration = Duration::from_millis(250);
/// How often the table on a terminal is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct Row {
    id: String,
    name: String,
    image: String,
    #[serde(flatten)]
    usage: Usage,
    /// Of one processor, now.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_percent: Option<f64>,
    memory_bytes: u64,
    memory_bytes_max: u64,
    processes: usize,
    #[serde(skip)]
    disk_bytes: (u64, u64),
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let form = self.listing.form(FIELDS)?;
        let streams = !self.no_stream && !form.is_json() && std::io::stdout().is_terminal();
        let is_here = |name: &String| tasks::find(home.node(), name).is_ok();
        if !self.tasks.iter().all(is_here)
            && let Some(client) = self.control.reachable(home)?
        {
            return block_on(async {
                let mut found = Vec::new();
                for name in &self.tasks {
                    found.push(remote::found(&client, name, None).await?);
                }
                remote::watch(&client, found, self.listing.output(), streams).await
            });
        }
        let mut before = self.sample(home)?;
        if !streams {
            if wants_cpu(&form) && !before.rows.is_empty() {
                std::thread::sleep(SAMPLE_TIME);
                before = self.sample(home)?.since(&before);
            }
            return print(&form, &before.rows);
        }
        loop {
            std::thread::sleep(RENEW_EVERY);
            let now = self.sample(home)?.since(&before);
            // The cursor goes home, and what stands below is cleared.
            output::raw(b"\x1b[H\x1b[2J");
            print(&form, &now.rows)?;
            before = now;
        }
    }

    fn sample(&self, home: &Home) -> anyhow::Result<Sample> {
        let folders = match self.tasks.is_empty() {
            true => tasks::list(home.node())?,
            false => {
                let found = self.tasks.iter().map(|text| tasks::find(home.node(), text));
                found.collect::<Result<_, _>>()?
            }
        };
        let (mut rows, processes) = (Vec::new(), ProcessTable::read());
        for folder in folders {
            if self.all || !self.tasks.is_empty() || folder.state()?.is_alive() {
                rows.push(row(&folder, &processes)?);
            }
        }
        Ok(Sample { at: Instant::now(), rows })
    }
}

/// What tasks had used at one moment.
struct Sample {
    at: Instant,
    rows: Vec<Row>,
}

impl Sample {
    /// With the share of a processor that each task has had since an earlier one.
    fn since(mut self, earlier: &Self) -> Self {
        let time = self.at.duration_since(earlier.at).as_nanos().max(1) as f64;
        for row in &mut self.rows {
            let Some(before) = earlier.rows.iter().find(|before| before.id == row.id) else {
                continue;
            };
            let used = row.usage.cpu_ns.saturating_sub(before.usage.cpu_ns) as f64;
            row.cpu_percent = Some((used / time * 10_000.0).round() / 100.0);
        }
        self
    }
}

fn wants_cpu(form: &Form) -> bool {
    form.is_own() || form.names("CPUPerc")
}

fn row(folder: &TaskFolder, processes: &ProcessTable) -> anyhow::Result<Row> {
    let record = folder.record();
    let found = processes.of_task(folder)?;
    let disk = found.iter().fold((0u64, 0u64), |sum, process| {
        let (read, written) = process.disk_bytes;
        (sum.0.saturating_add(read), sum.1.saturating_add(written))
    });
    Ok(Row {
        id: record.id.clone(),
        name: record.name.clone(),
        image: record.image.clone(),
        usage: node::task_usage(folder)?,
        cpu_percent: None,
        memory_bytes: found.iter().map(|process| process.memory_bytes).sum(),
        memory_bytes_max: record.limits.memory_bytes_max,
        processes: found.len(),
        disk_bytes: disk,
    })
}

fn print(form: &Form, rows: &[Row]) -> anyhow::Result<()> {
    form.print(
        rows,
        &COLUMNS,
        |row| {
            let memory = format!("{} / {}", size(row.memory_bytes), size(row.memory_bytes_max));
            let head = [row.name.clone(), row.image.clone(), percent(row.cpu_percent), memory];
            head.into_iter().chain(usage_cells(&row.usage))
        },
        docker,
    )
}

fn percent(value: Option<f64>) -> String {
    format!("{:.2}%", value.unwrap_or_default())
}

fn docker(row: &Row) -> Map<String, Value> {
    let pair = |one, other| Value::from(format!("{} / {}", docker_size(one), docker_size(other)));
    let share = row.memory_bytes as f64 / row.memory_bytes_max.max(1) as f64 * 100.0;
    record([
        ("BlockIO", pair(row.disk_bytes.0, row.disk_bytes.1)),
        ("CPUPerc", percent(row.cpu_percent).into()),
        ("Container", row.id.clone().into()),
        ("ID", row.id.clone().into()),
        ("MemPerc", percent(Some(share)).into()),
        (
            "MemUsage",
            format!("{} / {}", binary(row.memory_bytes), binary(row.memory_bytes_max)).into(),
        ),
        ("Name", row.name.clone().into()),
        ("NetIO", pair(row.usage.bytes_in, row.usage.bytes_out)),
        ("PIDs", row.processes.to_string().into()),
    ])
}

/// Memory has units of 1024 in Docker's words, without a space.
fn binary(bytes: u64) -> String {
    size(bytes).replace(' ', "")
}

/// The cells that every table of usage shares.
pub fn usage_cells(usage: &Usage) -> [String; 6] {
    [
        usage.runs.to_string(),
        usage.failed_runs.to_string(),
        duration(Duration::from_nanos(usage.cpu_ns)),
        size(usage.memory_bytes_peak),
        size(usage.bytes_in),
        size(usage.bytes_out),
    ]
}
