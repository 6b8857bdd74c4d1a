use std::collections::BTreeMap;

use node::tasks::{self, HealthStatus, State, Status, TaskFolder};
use packager::Layout;
use serde::Serialize;
use spec::{Digest, ImageConfig, Port};

use crate::{
    filter::{self, Filter, Filters},
    home::Home,
    images,
    listing::{Form, Listing},
    output::{ago, line, now},
    views::{
        ports,
        summary::{self, Summary, docker_state},
        task::{self, TaskView, command, cut, is_volume, size_cell},
    },
};

/// List tasks
#[derive(Debug, clap::Args)]
#[command(
    visible_alias = "ls",
    after_help = "Reads the folders of the tasks: no server has to run.

Filters: id, name, status, label, ancestor, exited, health, publish, expose, volume, before, since
Fields:  .ID .Names .Image .Command .CreatedAt .RunningFor .Ports .State .Status .Size .Labels
         .Label \"NAME\" .Mounts .LocalVolumes .Networks .Platform

Example:
  margay ps -a --filter status=exited --format 'table {{.Names}}\\t{{.Status}}'"
)]
pub struct Args {
    /// Show ended ones as well
    #[arg(short, long)]
    all: bool,
    /// Show only tasks like this: name=web, status=exited, label=NAME, ancestor=IMAGE, …
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = parse_filter)]
    filter: Vec<Filter>,
    /// Show the one that was made last, whatever its state
    #[arg(short, long)]
    latest: bool,
    /// Show so many that were made last, whatever their state
    #[arg(short = 'n', long, value_name = "COUNT", conflicts_with = "latest")]
    last: Option<usize>,
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// Show images and commands in full length
    #[arg(long)]
    no_trunc: bool,
    /// Show the size of each task's files
    #[arg(short, long)]
    size: bool,
    #[command(flatten)]
    listing: Listing,
}

const KEYS: [&str; 12] = [
    "id", "name", "status", "label", "ancestor", "exited", "health", "publish", "expose", "volume",
    "before", "since",
];
/// Docker's words, and ours.
const STATES: [&str; 10] = [
    "created",
    "restarting",
    "running",
    "paused",
    "exited",
    "dead",
    "starting",
    "idle",
    "back-off",
    "lost",
];

/// Docker's words; `none` is a task that is not asked, or does not run.
const HEALTH: [&str; 4] = ["starting", "healthy", "unhealthy", "none"];

fn parse_filter(text: &str) -> Result<Filter, String> {
    Filter::parse(text, &KEYS)
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    summary: Summary,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_bytes: Option<u64>,
    #[serde(skip)]
    task: Listed,
}

/// A task with what the listing needs of it.
struct Listed {
    folder: TaskFolder,
    state: State,
    seen: Option<Status>,
    config: Option<ImageConfig>,
    sizes: Option<(u64, u64)>,
}

impl Listed {
    fn view(&self) -> TaskView<'_> {
        TaskView {
            folder: &self.folder,
            state: self.state,
            seen: self.seen.as_ref(),
            config: self.config.as_ref(),
            sizes: self.sizes,
        }
    }
}

impl Args {
    /// Prints the tasks of this home, newest first as Docker does.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let form = self.listing.form(task::FIELDS)?;
        let listed = self.select(home, &form)?;
        if self.quiet && form.is_own() && !form.is_json() {
            listed.iter().for_each(|task| line(format_args!("{}", task.folder.record().id)));
            return Ok(());
        }
        let row = |task: Listed| Row {
            summary: Summary::of(&task.folder, task.state, task.seen.as_ref()),
            state: task.state.word(),
            size_bytes: task.sizes.filter(|_| self.size).map(|(writable, _)| writable),
            task,
        };
        let rows: Vec<Row> = listed.into_iter().map(row).collect();
        let mut columns =
            vec!["TASK ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"];
        columns.extend(self.size.then_some("SIZE"));
        form.print(
            &rows,
            &columns,
            |row| self.cells(row),
            |row| row.task.view().row(&row.summary, self.no_trunc),
        )
    }

    fn cells(&self, row: &Row) -> Vec<String> {
        let summary = &row.summary;
        let cut = |text: String, chars_max| match self.no_trunc {
            true => text,
            false => cut(&text, chars_max),
        };
        let mut cells = vec![
            summary.id.clone(),
            cut(summary.image.clone(), 40),
            cut(command(&summary.command), 24),
            ago(summary.created, now()),
            summary.status.clone(),
            ports::cell(&summary.ports),
            summary.name.clone(),
        ];
        cells.extend(row.task.sizes.filter(|_| self.size).map(size_cell));
        cells
    }

    /// The tasks that are asked for, newest first.
    fn select(&self, home: &Home, form: &Form) -> anyhow::Result<Vec<Listed>> {
        let filters = Filters(&self.filter);
        filters.check("status", &STATES)?;
        filters.check("health", &HEALTH)?;
        // What supervisors that were killed with their workers have left.
        engine::cgroup::sweep(&home.node().tasks());
        let mut folders = tasks::list(home.node())?;
        folders.reverse();
        let conditions = Conditions::of(home, filters)?;
        let mut images = Images {
            layouts: [images::layout(home)?, images::files(home)?],
            known: BTreeMap::new(),
        };
        let wants_config = filters.has("label") || form.names("Label") || form.names("Labels");
        let wants_size = self.size || form.names("Size");
        // As with Docker, a state that is asked for need not run.
        let of_any_state = self.all
            || self.latest
            || self.last.is_some()
            || ["status", "exited"].iter().any(|key| filters.has(key));
        let count_max = self.last.or(self.latest.then_some(1)).unwrap_or(usize::MAX);
        let mut listed = Vec::new();
        for folder in folders {
            if listed.len() >= count_max {
                break;
            }
            let state = folder.state()?;
            if !of_any_state && !state.is_alive() {
                continue;
            }
            let digest = folder.record().digest;
            let mut task =
                Listed { seen: folder.status()?, folder, state, config: None, sizes: None };
            if wants_config {
                task.config = images.get(&digest).map(|image| image.config.clone());
            }
            if conditions.hold(filters, &task, &mut images) {
                if wants_size {
                    let layers = images.get(&digest).map_or(0, |image| image.bytes);
                    let writable = node::writable_bytes(&task.folder);
                    task.sizes = Some((writable, writable + layers));
                }
                listed.push(task);
            }
        }
        Ok(listed)
    }
}

/// What filters compare with, looked up once.
struct Conditions {
    /// The layers of each image that `ancestor` names.
    ancestors: Vec<(String, Option<Vec<Digest>>)>,
    before: Option<spec::Timestamp>,
    since: Option<spec::Timestamp>,
}

impl Conditions {
    fn of(home: &Home, filters: Filters<'_>) -> anyhow::Result<Self> {
        let created = |key| -> anyhow::Result<Option<spec::Timestamp>> {
            let Some(name) = filters.values(key).last() else { return Ok(None) };
            Ok(Some(tasks::find(home.node(), name)?.record().created))
        };
        let layout = images::layout(home)?;
        let layers = |name: &str| {
            let reference = name.parse().ok()?;
            let (_, descriptor) = images::resolve(&layout, &reference).ok()?;
            Some(known(&layout, &descriptor)?.layers)
        };
        let ancestors = filters.values("ancestor").map(|name| (name.to_owned(), layers(name)));
        Ok(Self {
            ancestors: ancestors.collect(),
            before: created("before")?,
            since: created("since")?,
        })
    }

    fn hold(&self, filters: Filters<'_>, task: &Listed, images: &mut Images) -> bool {
        let record = task.folder.record();
        let exit_code = match task.state {
            State::Exited(code) => Some(code.to_string()),
            _ => None,
        };
        let is_state = |word: &str| word == docker_state(task.state) || word == task.state.word();
        let has_volume = |text: &str| {
            let named = |mount: &tasks::MountRecord| mount.source == text && is_volume(mount);
            record.mounts.iter().any(|mount| named(mount) || mount.path == text)
        };
        let health = summary::health(task.state, task.seen.as_ref());
        let labels = if filters.has("label") { task.view().labels() } else { BTreeMap::new() };
        filters.any("id", |id| record.id.starts_with(id))
            && filters.any("name", |pattern| filter::names(pattern, &record.name))
            && filters.any("status", is_state)
            && filters.any("exited", |code| exit_code.as_deref() == Some(code))
            && filters.any("health", |word| health.map_or("none", HealthStatus::word) == word)
            && filters.any("volume", has_volume)
            && filters.any("publish", |text| Self::port(text, task, true))
            && filters.any("expose", |text| Self::port(text, task, false))
            && filters.labels("label", |name| labels.get(name).map(String::as_str))
            && self.before.is_none_or(|time| record.created < time)
            && self.since.is_none_or(|time| record.created > time)
            && (self.ancestors.is_empty() || self.has_ancestor(task, images))
    }

    /// `80`, `80/tcp`, `8000-8080`: on the host where it is published, else in the task.
    fn port(text: &str, task: &Listed, published: bool) -> bool {
        let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) else {
            return false;
        };
        let seen = task.seen.as_ref().map(|seen| seen.ports.as_slice()).unwrap_or_default();
        let asked = task.folder.record().ports.iter().chain(seen);
        let exposed = task.folder.record().exposed.iter().copied().filter(|_| !published);
        let shown = asked.filter_map(|port| match published {
            true => Some(Port { number: port.host_port?, ..port.port() }),
            false => Some(port.port()),
        });
        shown
            .chain(exposed)
            .any(|port| port.transport.word() == protocol && (first..=last).contains(&port.number))
    }

    /// Whether a task runs from an image that `ancestor` names, or from one that was built on it.
    fn has_ancestor(&self, task: &Listed, images: &mut Images) -> bool {
        let record = task.folder.record();
        let own = images.get(&record.digest).map(|image| image.layers.clone()).unwrap_or_default();
        self.ancestors.iter().any(|(name, layers)| {
            let is_named = record.image == *name
                || record.image.strip_suffix(":latest") == Some(name)
                || name.strip_suffix(":latest") == Some(&record.image)
                || record.digest.to_string() == *name
                || (name.len() >= 12 && record.digest.hex().starts_with(name.as_str()));
            is_named || layers.as_ref().is_some_and(|layers| own.starts_with(layers))
        })
    }
}

/// What is known of images by their digest, each read once.
struct Images {
    /// Those with names, and those of files that were only run.
    layouts: [Layout; 2],
    known: BTreeMap<Digest, Option<Known>>,
}

struct Known {
    config: ImageConfig,
    layers: Vec<Digest>,
    bytes: u64,
}

impl Images {
    fn get(&mut self, digest: &Digest) -> Option<&Known> {
        let look_up = || {
            self.layouts.iter().find_map(|layout| {
                let images = layout.list().ok()?;
                let image = images.into_iter().find(|image| image.descriptor.digest == *digest)?;
                known(layout, &image.descriptor)
            })
        };
        self.known.entry(*digest).or_insert_with(look_up).as_ref()
    }
}

fn known(layout: &Layout, descriptor: &spec::Descriptor) -> Option<Known> {
    let manifest = layout.choose(descriptor, &packager::host_platforms()).ok()?;
    let plan = layout.plan(&manifest).ok()?;
    Some(Known {
        layers: plan.layers.iter().map(|layer| layer.descriptor.digest).collect(),
        bytes: plan.layers.iter().map(|layer| layer.descriptor.size).sum(),
        config: plan.config,
    })
}
