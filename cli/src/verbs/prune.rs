use std::{
    io::{BufRead as _, IsTerminal as _},
    time::Duration,
};

use anyhow::bail;
use blobs::collect::Marked;
use node::{Removal, tasks, volumes};
use packager::{Layout, LocalImage};
use spec::Digest;

use crate::{
    failure::Advice,
    filter::{Filter, Filters},
    flags::point_in_time,
    home::Home,
    image_events, images,
    output::{line, notice, now, size},
    verbs::images::retain,
};

/// Remove what nothing needs any more: bytes that no image names, machine code made of them,
/// unpacked layers from which nothing runs, and with --tasks ended tasks
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Remove ended tasks and their logs as well; volumes stay
    #[arg(long)]
    tasks: bool,
}

/// Remove ended tasks and their logs; volumes stay
#[derive(Debug, clap::Args)]
pub struct TaskArgs {
    #[command(flatten)]
    asked: Asked,
    /// Remove only those like this: until=24h, label=NAME
    #[arg(long, value_name = "KEY=VALUE", value_parser = task_filter)]
    filter: Vec<Filter>,
}

/// Remove bytes that no image names, and with --all images that no task was made from
#[derive(Debug, clap::Args)]
pub struct ImageArgs {
    #[command(flatten)]
    asked: Asked,
    /// Remove images that no task was made from as well
    #[arg(short, long)]
    all: bool,
    /// Remove only those like this: until=24h, label=NAME
    #[arg(long, value_name = "KEY=VALUE", value_parser = image_filter)]
    filter: Vec<Filter>,
}

/// Remove ended tasks, what no image names, and what was prepared from it
#[derive(Debug, clap::Args)]
pub struct SystemArgs {
    #[command(flatten)]
    asked: Asked,
    /// Remove images that no task was made from as well
    #[arg(short, long)]
    all: bool,
    /// Remove volumes that no task mounts and that were made without a name as well
    #[arg(long)]
    volumes: bool,
    /// Remove only tasks and images like this: until=24h, label=NAME
    #[arg(long, value_name = "KEY=VALUE", value_parser = task_filter)]
    filter: Vec<Filter>,
}

#[derive(Debug, clap::Args)]
pub struct Asked {
    /// Remove without asking
    #[arg(short, long)]
    force: bool,
}

fn task_filter(text: &str) -> Result<Filter, String> {
    Filter::parse(text, &["until", "label"])
}

fn image_filter(text: &str) -> Result<Filter, String> {
    Filter::parse(text, &["until", "label", "dangling"])
}

impl Asked {
    /// Whether to go on. Without a terminal only `--force` says so.
    pub fn confirm(&self, what: &str) -> anyhow::Result<bool> {
        if self.force {
            return Ok(true);
        }
        if !std::io::stdin().is_terminal() {
            bail!(
                Advice::new(format!("this removes {what}, and there is no terminal to ask on"))
                    .hint("say so with --force")
            );
        }
        notice(format_args!("This removes {what}. Go on? [y/N] "));
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    }
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        if self.tasks {
            ended_tasks(home, Filters(&[]))?;
        }
        forget_files(home)?;
        line(format_args!("Freed {}", size(unnamed(home)?)));
        Ok(())
    }
}

impl TaskArgs {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        if self.asked.confirm("all ended tasks")? {
            let freed = ended_tasks(home, Filters(&self.filter))?;
            line(format_args!("Freed {}", size(freed)));
        }
        Ok(())
    }
}

impl ImageArgs {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let filters = Filters(&self.filter);
        let all = self.all || filters.truth("dangling")? == Some(false);
        let what = if all { "all images that no task was made from" } else { UNNAMED };
        if self.asked.confirm(what)? {
            if all {
                unused_images(home, filters)?;
            }
            line(format_args!("Freed {}", size(unnamed(home)?)));
        }
        Ok(())
    }
}

const UNNAMED: &str = "what no image names";

impl SystemArgs {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let mut what = vec!["all ended tasks", UNNAMED];
        what.extend(self.all.then_some("all images that no task was made from"));
        what.extend(self.volumes.then_some("all volumes without a name that no task mounts"));
        if !self.asked.confirm(&what.join(", "))? {
            return Ok(());
        }
        let filters = Filters(&self.filter);
        let mut freed = ended_tasks(home, filters)?;
        if self.volumes {
            freed += unused_volumes(home, |volume| volume.is_anonymous())?;
        }
        if self.all {
            unused_images(home, filters)?;
        }
        forget_files(home)?;
        line(format_args!("Freed {}", size(freed + unnamed(home)?)));
        Ok(())
    }
}

/// Removes tasks that do not run, and returns how many bytes are gone.
fn ended_tasks(home: &Home, filters: Filters<'_>) -> anyhow::Result<u64> {
    let until = match filters.values("until").last() {
        Some(text) => Some(point_in_time(text, now())?),
        None => None,
    };
    let mut freed = 0;
    for folder in tasks::list(home.node())? {
        let record = folder.record();
        let is_wanted = until.is_none_or(|until| record.created < until)
            && filters.labels("label", |name| record.labels.get(name).map(String::as_str));
        if is_wanted && !folder.state()?.is_alive() {
            let bytes = volumes::bytes_below(folder.path());
            let name = node::remove_task(
                home.node(),
                &record.id,
                Removal::Ended,
                node::AnonymousVolumes::Keep,
                Duration::ZERO,
            )?;
            line(format_args!("Deleted task: {name}"));
            freed += bytes;
        }
    }
    if filters.0.is_empty() {
        for id in tasks::clear_damaged(home.node())? {
            line(format_args!("Deleted damaged task: {id}"));
        }
    }
    Ok(freed)
}

/// Takes their names from images that no task was made from.
fn unused_images(home: &Home, filters: Filters<'_>) -> anyhow::Result<()> {
    let layout = images::layout(home)?;
    let used: Vec<Digest> =
        tasks::list(home.node())?.iter().map(|task| task.record().digest).collect();
    let mut found = layout.list()?;
    found.retain(|local| !used.contains(&local.descriptor.digest));
    // `dangling=false` asked for these.
    let others: Vec<Filter> =
        filters.0.iter().filter(|filter| filter.key != "dangling").cloned().collect();
    retain(&layout, &mut found, Filters(&others))?;
    for LocalImage { reference, descriptor, .. } in found {
        layout.untag(&reference)?;
        line(format_args!("Untagged: {reference}"));
        image_events::record(home, "untag", &reference, descriptor.digest);
    }
    Ok(())
}

/// Removes volumes that no task mounts, where `is_chosen`, and returns how many bytes are gone.
pub fn unused_volumes(
    home: &Home,
    is_chosen: impl Fn(&volumes::Volume) -> bool,
) -> anyhow::Result<u64> {
    let mut freed = 0;
    for volume in volumes::list(home.node())? {
        if volume.tasks.is_empty() && is_chosen(&volume) {
            let bytes = volume.bytes();
            volumes::remove(home.node(), &volume)?;
            line(format_args!("Deleted volume: {}", volume.name));
            freed += bytes;
        }
    }
    Ok(freed)
}

/// Files that were only run have names in a layout of their own, which no verb lists.
fn forget_files(home: &Home) -> anyhow::Result<()> {
    let files = images::files(home)?;
    for file in files.list()? {
        files.untag(&file.reference)?;
    }
    Ok(())
}

/// Removes blobs that no image names and what was prepared from them, and returns how many bytes
/// are gone.
fn unnamed(home: &Home) -> anyhow::Result<u64> {
    let (layout, files) = (images::layout(home)?, images::files(home)?);
    let blobs = layout.prune()?.bytes + files.prune()?.bytes;
    Ok(blobs + prepared(home, &[&layout, &files])? + node::prune_unpacked(home.node(), 0)?)
}

/// Removes what was prepared from images that neither have a name in `layouts` nor run. Returns how
/// many bytes are gone.
pub fn prepared(home: &Home, layouts: &[&Layout]) -> anyhow::Result<u64> {
    let mut running = Vec::new();
    for task in tasks::list(home.node())? {
        if task.state()?.is_alive() {
            running.push(task.record().digest);
        }
    }
    let mut marked = Marked::default();
    for layout in layouts {
        marked = marked.and(layout.mark(&running)?);
    }
    Ok(node::prune_prepared(home.node(), &marked)?)
}
