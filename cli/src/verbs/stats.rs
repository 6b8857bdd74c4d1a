use node::tasks;
use serde::Serialize;
use spec::Usage;

use crate::{
    home::Home,
    output::{Output, duration, size},
};

/// Show what tasks have used so far
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Counts since each task's start. For totals per image and tenant of a platform: margay usage"
)]
pub struct Args {
    /// Names or ids of tasks; every running one when left out
    #[arg(value_name = "TASK")]
    tasks: Vec<String>,
    /// Show ended ones as well
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Row {
    id: String,
    name: String,
    image: String,
    #[serde(flatten)]
    usage: Usage,
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let folders = match self.tasks.is_empty() {
            true => tasks::list(home.node())?,
            false => {
                let found = self.tasks.iter().map(|text| tasks::find(home.node(), text));
                found.collect::<Result<_, _>>()?
            }
        };
        let mut rows = Vec::new();
        for folder in folders {
            if self.all || !self.tasks.is_empty() || folder.state()?.is_alive() {
                let record = folder.record();
                rows.push(Row {
                    id: record.id.clone(),
                    name: record.name.clone(),
                    image: record.image.clone(),
                    usage: node::task_usage(&folder)?,
                });
            }
        }
        let headings = ["NAME", "IMAGE", "RUNS", "FAILED", "CPU TIME", "MEMORY PEAK", "IN", "OUT"];
        self.output.records(&rows, &headings, |row| {
            [row.name.clone(), row.image.clone()].into_iter().chain(usage_cells(&row.usage))
        })
    }
}

/// The cells that every table of usage shares.
pub fn usage_cells(usage: &Usage) -> [String; 6] {
    [
        usage.runs.to_string(),
        usage.failed_runs.to_string(),
        duration(std::time::Duration::from_nanos(usage.cpu_ns)),
        size(usage.memory_bytes_peak),
        size(usage.bytes_in),
        size(usage.bytes_out),
    ]
}
