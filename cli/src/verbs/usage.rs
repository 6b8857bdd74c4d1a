use std::collections::BTreeMap;

use orchestrator::{RegisteredDefinition, UsageReport};
use serde::Serialize;
use spec::{Digest, Tenant, Timestamp, Usage};

use crate::{
    control::Control, home::Home, output::Output, serve::block_on, verbs::stats::usage_cells,
};

/// Show what a tenant has used, per image and in all
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Runs, time on a processor, memory multiplied by time, bytes in and out: what a bill is made of.
For the tasks of this home without a platform: margay stats"
)]
pub struct Args {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    control: Control,
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
    #[serde(flatten)]
    usage: Usage,
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let client = self.control.client(home)?;
        let (report, definitions) = (block_on(client.usage())?, block_on(client.definitions())?);
        self.output.records(&rows(report, &names(&definitions)), &HEADINGS, cells)
    }
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

fn rows(report: UsageReport, names: &BTreeMap<Digest, String>) -> Vec<Row> {
    let UsageReport { tenant, total, images } = report;
    let row = |total: orchestrator::UsageTotal| Row {
        tenant: tenant.clone(),
        name: total.image.and_then(|digest| names.get(&digest).cloned()),
        image: total.image.map_or("all".to_owned(), |digest| digest.to_string()),
        since: total.since,
        until: total.until,
        usage: total.usage,
    };
    images.into_iter().chain(total).map(row).collect()
}

const HEADINGS: [&str; 9] =
    ["TENANT", "IMAGE", "RUNS", "FAILED", "CPU TIME", "MEMORY PEAK", "IN", "OUT", "GB x S"];

fn cells(row: &Row) -> impl Iterator<Item = String> + use<> {
    let image = match row.image.strip_prefix("sha256:") {
        Some(hex) => &hex[..12.min(hex.len())],
        None => &row.image,
    };
    let image = row.name.as_deref().unwrap_or(image);
    // Byte-milliseconds are exact; bills are in gigabytes and seconds.
    let memory_time = format!("{:.6}", row.usage.memory_byte_ms as f64 / 1e12);
    let names = [row.tenant.to_string(), image.to_owned()].into_iter();
    names.chain(usage_cells(&row.usage)).chain([memory_time])
}
