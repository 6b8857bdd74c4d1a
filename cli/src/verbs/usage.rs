mod by; // what tasks, services and tenants have used

use std::collections::BTreeMap;

use clap::ValueEnum;
use orchestrator::{RegisteredDefinition, UsageReport};
use serde::Serialize;
use spec::{ContainerPhase, Digest, Task, TaskPhase, Tenant, Timestamp, Usage};

use crate::{
    control::Control,
    home::Home,
    output::{Output, ago, notice, now},
    serve::block_on,
    verbs::stats::usage_cells,
};

/// Show what a tenant has used, per image and in all
#[derive(Debug, clap::Args)]
#[command(
    after_help = "With --by task or service it is what the tasks used that are there, ended ones for an hour after
their end; with --by tenant, for the operator, what each tenant used in all.

Runs, time on a processor, memory multiplied by time, bytes in and out: what a bill is made of.
For the tasks of this home without a platform: margay stats"
)]
pub struct Args {
    /// Add up what each of these used
    #[arg(long, value_enum, default_value_t = By::Image)]
    by: By,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    control: Control,
}

/// What is added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    Image,
    Service,
    Task,
    Tenant,
}

#[derive(Serialize)]
struct Row {
    tenant: Tenant,
    /// A digest, or `all`.
    image: String,
    /// As the newest definition with this image names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    since: Timestamp,
    until: Timestamp,
    /// Containers that run it now; their use since `until` is not in it yet.
    running: usize,
    #[serde(flatten)]
    usage: Usage,
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let client = self.control.client(home)?;
        match self.by {
            By::Image => {}
            By::Task | By::Service => {
                let tasks = block_on(client.tasks())?;
                return by::tasks(&tasks, self.by == By::Service, self.output);
            }
            By::Tenant => return by::tenants(&block_on(client.usage_of_tenants())?, self.output),
        }
        let (report, definitions, tasks) = block_on(async {
            Ok::<_, orchestrator::Error>((
                client.usage().await?,
                client.definitions().await?,
                client.tasks().await?,
            ))
        })?;
        let running = running(&tasks);
        let late = match (&report.total, running.is_empty()) {
            (Some(total), _) => format!("Counted until {}", ago(total.until, now()).to_lowercase()),
            (None, false) => "Nothing is counted yet".to_owned(),
            (None, true) => String::new(),
        };
        if !late.is_empty() {
            notice(format_args!("{late}; what runs is counted every 10 s."));
        }
        for disputed in &report.disputed {
            notice(format_args!(
                "Node `{}` claimed usage that is on no bill, last {} ({} records): task `{}` of \
                 `{}`: {}.",
                disputed.node,
                ago(disputed.until, now()),
                disputed.records,
                disputed.last.task,
                disputed.last.tenant,
                disputed.last.reason
            ));
        }
        let rows = rows(report, &names(&definitions), &running, now());
        self.output.records(&rows, &HEADINGS, cells)
    }
}

/// How many containers run each image.
fn running(tasks: &[Task]) -> BTreeMap<Digest, usize> {
    let live = tasks
        .iter()
        .filter(|task| !matches!(task.status.phase, TaskPhase::Stopped | TaskPhase::Unknown));
    let mut running = BTreeMap::new();
    for container in live.flat_map(|task| &task.status.containers) {
        if container.phase == ContainerPhase::Running {
            *running.entry(container.image).or_default() += 1;
        }
    }
    running
}

fn names(definitions: &[RegisteredDefinition]) -> BTreeMap<Digest, String> {
    let mut definitions: Vec<_> = definitions.iter().collect();
    definitions.sort_by_key(|definition| definition.registered);
    let images = definitions.iter().flat_map(|registered| &registered.definition.containers);
    let named = images.filter_map(|container| {
        let name = container.image.split('@').next().unwrap_or_default().to_owned();
        Some((container.digest?, name))
    });
    named.collect()
}

/// What was counted, and a row for each image that runs and is not counted yet.
fn rows(
    report: UsageReport,
    names: &BTreeMap<Digest, String>,
    running: &BTreeMap<Digest, usize>,
    now: Timestamp,
) -> Vec<Row> {
    let UsageReport { tenant, total, images, disputed: _ } = report;
    let row = |image: Option<Digest>, since, until, usage| Row {
        tenant: tenant.clone(),
        name: image.and_then(|digest| names.get(&digest).cloned()),
        image: image.map_or("all".to_owned(), |digest| digest.to_string()),
        since,
        until,
        running: match image {
            Some(digest) => running.get(&digest).copied().unwrap_or(0),
            None => running.values().sum(),
        },
        usage,
    };
    let counted: Vec<_> = images.iter().filter_map(|total| total.image).collect();
    let fresh = running.keys().filter(|digest| !counted.contains(digest));
    let fresh: Vec<Row> =
        fresh.map(|digest| row(Some(*digest), now, now, Usage::default())).collect();
    let all = images
        .into_iter()
        .map(|total| row(total.image, total.since, total.until, total.usage))
        .chain(fresh);
    let total = total.map(|total| row(None, total.since, total.until, total.usage));
    all.chain(total).collect()
}

const HEADINGS: [&str; 10] = [
    "TENANT",
    "IMAGE",
    "RUNNING",
    "RUNS",
    "FAILED",
    "CPU TIME",
    "MEMORY PEAK",
    "IN",
    "OUT",
    "GB x S",
];

fn cells(row: &Row) -> impl Iterator<Item = String> + use<> {
    let image = match row.image.strip_prefix("sha256:") {
        Some(hex) => &hex[..12.min(hex.len())],
        None => &row.image,
    };
    let image = row.name.as_deref().unwrap_or(image);
    // Byte-milliseconds are exact; bills are in gigabytes and seconds.
    let memory_time = format!("{:.6}", row.usage.memory_byte_ms as f64 / 1e12);
    let names = [row.tenant.to_string(), image.to_owned(), row.running.to_string()].into_iter();
    names.chain(usage_cells(&row.usage)).chain([memory_time])
}
