use std::collections::BTreeSet;

use node::{tasks, volumes};
use packager::Layout;
use serde::Serialize;
use serde_json::{Map, Value};
use spec::Digest;

use crate::{
    home::Home,
    images,
    listing::{Fields, Listing, record},
    output::{ago, docker_size, line, now, print_table, size},
};

/// Show what this home takes on the disk
#[derive(Debug, clap::Args)]
#[command(after_help = "Fields: .Type .TotalCount .Active .Size .Reclaimable")]
pub struct Args {
    /// Show each image, task and volume
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    listing: Listing,
}

const FIELDS: Fields = &[
    ("Active", "ACTIVE"),
    ("Reclaimable", "RECLAIMABLE"),
    ("Size", "SIZE"),
    ("TotalCount", "TOTAL"),
    ("Type", "TYPE"),
];

#[derive(Serialize)]
struct Row {
    #[serde(rename = "type")]
    kind: &'static str,
    total: usize,
    active: usize,
    size: u64,
    reclaimable: u64,
}

/// One image with its blobs.
struct Image {
    name: String,
    blobs: Vec<(Digest, u64)>,
    tasks: usize,
}

struct Task {
    name: String,
    image: String,
    is_alive: bool,
    created: spec::Timestamp,
    size: u64,
}

/// What was found in a home.
struct Found {
    images: Vec<Image>,
    tasks: Vec<Task>,
    volumes: Vec<(volumes::Volume, u64)>,
    prepared: u64,
    /// Blobs that no image names.
    unnamed: u64,
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let form = self.listing.form(FIELDS)?;
        let found = Found::of(home)?;
        if self.verbose && form.is_own() && !form.is_json() {
            found.print();
            return Ok(());
        }
        form.print(
            &found.rows(),
            &["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"],
            |row| {
                let (total, active) = (row.total.to_string(), row.active.to_string());
                [row.kind.to_owned(), total, active, size(row.size), row.reclaimable(size)]
            },
            Row::docker,
        )
    }
}

impl Row {
    fn reclaimable(&self, size: impl Fn(u64) -> String) -> String {
        match (self.reclaimable * 100).checked_div(self.size) {
            Some(percent) => format!("{} ({percent}%)", size(self.reclaimable)),
            None => size(self.reclaimable),
        }
    }

    fn docker(&self) -> Map<String, Value> {
        record([
            ("Active", self.active.to_string().into()),
            ("Reclaimable", self.reclaimable(docker_size).into()),
            ("Size", docker_size(self.size).into()),
            ("TotalCount", self.total.to_string().into()),
            ("Type", self.kind.into()),
        ])
    }
}

impl Found {
    fn of(home: &Home) -> anyhow::Result<Self> {
        let folders = tasks::list(home.node())?;
        let layout = images::layout(home)?;
        let used: Vec<Digest> = folders.iter().map(|task| task.record().digest).collect();
        let mut tasks = Vec::new();
        for folder in folders {
            let record = folder.record();
            tasks.push(Task {
                name: record.name.clone(),
                image: record.image.clone(),
                is_alive: folder.state()?.is_alive(),
                created: record.created,
                size: volumes::bytes_below(folder.path()),
            });
        }
        let images = images_of(&layout, &used)?;
        let named: BTreeSet<(Digest, u64)> =
            images.iter().flat_map(|image| image.blobs.iter().copied()).collect();
        let named: u64 = named.iter().map(|(_, bytes)| bytes).sum();
        let on_disk = volumes::bytes_below(&home.images()) + volumes::bytes_below(&home.files());
        let volumes = volumes::list(home.node())?.into_iter();
        Ok(Self {
            images,
            tasks,
            volumes: volumes.map(|volume| (volume.bytes(), volume)).map(|(b, v)| (v, b)).collect(),
            prepared: volumes::bytes_below(&home.path().join("prepared")),
            unnamed: on_disk.saturating_sub(named),
        })
    }

    fn rows(&self) -> [Row; 4] {
        let sum = |images: &mut dyn Iterator<Item = &Image>| -> u64 {
            let blobs: BTreeSet<(Digest, u64)> =
                images.flat_map(|image| image.blobs.iter().copied()).collect();
            blobs.iter().map(|(_, bytes)| bytes).sum()
        };
        let all = sum(&mut self.images.iter());
        let kept = sum(&mut self.images.iter().filter(|image| image.tasks > 0));
        let size_of = |alive: Option<bool>| -> u64 {
            let wanted = self.tasks.iter().filter(|task| alive.is_none_or(|a| task.is_alive == a));
            wanted.map(|task| task.size).sum()
        };
        let unused = self.volumes.iter().filter(|(volume, _)| volume.tasks.is_empty());
        [
            Row {
                kind: "Images",
                total: self.images.len(),
                active: self.images.iter().filter(|image| image.tasks > 0).count(),
                size: all,
                reclaimable: all.saturating_sub(kept),
            },
            Row {
                kind: "Tasks",
                total: self.tasks.len(),
                active: self.tasks.iter().filter(|task| task.is_alive).count(),
                size: size_of(None),
                reclaimable: size_of(Some(false)),
            },
            Row {
                kind: "Local Volumes",
                total: self.volumes.len(),
                active: self.volumes.iter().filter(|(v, _)| !v.tasks.is_empty()).count(),
                size: self.volumes.iter().map(|(_, bytes)| bytes).sum(),
                reclaimable: unused.map(|(_, bytes)| bytes).sum(),
            },
            Row {
                kind: "Build Cache",
                total: 0,
                active: 0,
                size: self.prepared + self.unnamed,
                reclaimable: self.unnamed,
            },
        ]
    }

    fn print(&self) {
        line(format_args!("Images:"));
        print_table(
            &["NAME", "SIZE", "SHARED", "UNIQUE", "TASKS"],
            self.images.iter().map(|image| {
                let shared = |blob: &(Digest, u64)| {
                    self.images.iter().filter(|other| other.blobs.contains(blob)).count() > 1
                };
                let whole: u64 = image.blobs.iter().map(|(_, bytes)| bytes).sum();
                let common: u64 =
                    image.blobs.iter().filter(|blob| shared(blob)).map(|(_, bytes)| bytes).sum();
                let sizes = [whole, common, whole - common].map(size);
                let [whole, common, unique] = sizes;
                [image.name.clone(), whole, common, unique, image.tasks.to_string()]
            }),
        );
        line(format_args!("\nTasks:"));
        print_table(
            &["NAME", "IMAGE", "CREATED", "SIZE", "STATE"],
            self.tasks.iter().map(|task| {
                let state = if task.is_alive { "running" } else { "ended" };
                let (created, size) = (ago(task.created, now()), size(task.size));
                [task.name.clone(), task.image.clone(), created, size, state.to_owned()]
            }),
        );
        line(format_args!("\nVolumes:"));
        print_table(
            &["NAME", "TASKS", "SIZE"],
            self.volumes.iter().map(|(volume, bytes)| {
                [volume.name.to_string(), volume.tasks.join(", "), size(*bytes)]
            }),
        );
        line(format_args!("\nMachine code and unpacked layers: {}", size(self.prepared)));
        line(format_args!("Blobs without a name: {}", size(self.unnamed)));
    }
}

fn images_of(layout: &Layout, used: &[Digest]) -> anyhow::Result<Vec<Image>> {
    let mut images: Vec<(Digest, Image)> = Vec::new();
    for local in layout.list()? {
        let digest = local.descriptor.digest;
        if let Some((_, known)) = images.iter_mut().find(|(other, _)| *other == digest) {
            known.name = format!("{}, {}", known.name, local.reference);
            continue;
        }
        let blobs = layout.closure(&local.descriptor).unwrap_or_default();
        let tasks = used.iter().filter(|used| **used == digest).count();
        let blobs = blobs.iter().map(|blob| (blob.digest, blob.size)).collect();
        images.push((digest, Image { name: local.reference.to_string(), blobs, tasks }));
    }
    Ok(images.into_iter().map(|(_, image)| image).collect())
}
