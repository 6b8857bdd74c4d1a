mod by; // what tasks, services and tenants have used

use std::collections::BTreeMap;

use anyhow::bail;
use clap::ValueEnum;
use orchestrator::{Client, RegisteredDefinition, UsageReport};
use serde::Serialize;
use spec::{ContainerPhase, Digest, Task, TaskPhase, Tenant, Timestamp, Usage};

use crate::{
    control::Control,
    failure::{Advice, USAGE_ERROR},
    flags::point_in_time,
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

With --from or --to it is what was used on these days in UTC, by service where nothing else is said; days are kept
for three months:
  margay usage --from 2026-11-01 --to 2026-11-30 --by task

Runs, time on a processor, memory multiplied by time, bytes in and out: what a bill is made of.
For the tasks of this home without a platform: margay stats"
)]
pub struct Args {
    /// Add up what each of these used [default: image, or service with --from or --to]
    #[arg(long, value_enum)]
    by: Option<By>,
    /// Only from this day on: a date, or so long ago
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only until this day
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Of another tenant on these days, for the operator
    #[arg(long, value_name = "NAME")]
    tenant: Option<Tenant>,
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
        if self.from.is_some() || self.to.is_some() || self.tenant.is_some() {
            return self.of_days(&client);
        }
        match self.by.unwrap_or(By::Image) {
            By::Image => {}
            by @ (By::Task | By::Service) => {
                let tasks = block_on(client.tasks())?;
                return by::tasks(&tasks, by == By::Service, self.output);
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

impl Args {
    /// What was used on some days.
    fn of_days(self, client: &Client) -> anyhow::Result<()> {
        let mut filters = Vec::new();
        for (key, text) in [("from", &self.from), ("to", &self.to)] {
            if let Some(text) = text {
                filters.push((key, point_in_time(text, now())?.to_string()));
            }
        }
        let read = |tenant: Option<&Tenant>| {
            let tenant = tenant.map(|tenant| ("tenant", tenant.to_string()));
            let filters: Vec<_> = filters.iter().cloned().chain(tenant).collect();
            block_on(client.usage_by_day(&filters))
        };
        match self.by.unwrap_or(By::Service) {
            by @ (By::Task | By::Service) => {
                let days = read(self.tenant.as_ref())?;
                by::days(&days, by == By::Service, self.output)
            }
            By::Tenant => {
                let tenants = block_on(client.usage_of_tenants())?;
                let meant = tenants
                    .into_iter()
                    .map(|one| one.tenant)
                    .filter(|tenant| self.tenant.as_ref().is_none_or(|only| tenant == only));
                let sums = meant.map(|tenant| Ok((read(Some(&tenant))?, tenant)));
                by::days_of_tenants(&sums.collect::<anyhow::Result<Vec<_>>>()?, self.output)
            }
            By::Image => bail!(
                Advice::new("usage by day is of services, tasks and tenants, not of images")
                    .hint(
                        "add --by service, task or tenant, or leave out --from, --to and --tenant"
                    )
                    .code(USAGE_ERROR)
            ),
        }
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
