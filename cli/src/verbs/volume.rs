use std::collections::BTreeMap;

use clap::Subcommand;
use node::volumes;
use spec::VolumeName;

use crate::{
    filter::{self, Filter, Filters},
    home::Home,
    listing::{Listing, Single},
    output::{line, size},
    verbs::{
        inspect,
        prune::{Asked, unused_volumes},
    },
    views::volume::{DRIVER, FIELDS, VolumeView},
};

/// Make, list and remove named volumes
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a volume, and print its name
    Create(CreateArgs),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Show everything about volumes, as JSON
    Inspect(InspectArgs),
    /// Remove volumes with their files
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
    /// Remove volumes that no task mounts and that were made without a name
    Prune(PruneArgs),
}

#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// What to keep it in; there is one driver
    #[arg(short, long, default_value = DRIVER, value_parser = [DRIVER])]
    driver: String,
    /// Say something about the volume
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = label)]
    label: Vec<(String, String)>,
    /// Its name; one of our choice when left out
    name: Option<VolumeName>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Filters: name, label, dangling, driver
Fields:  .Name .Driver .Mountpoint .Labels .Label \"NAME\" .Scope .Size .Links")]
pub struct LsArgs {
    /// Show only volumes like this: name=data, dangling=true, label=NAME
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = parse_filter)]
    filter: Vec<Filter>,
    /// Print names only
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// Names of volumes
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
    #[command(flatten)]
    form: Single,
}

#[derive(Debug, clap::Args)]
pub struct RmArgs {
    /// Names of volumes
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
    /// Accept names of volumes that are not there
    #[arg(short, long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Filters: label, label!")]
pub struct PruneArgs {
    /// Remove those with a name as well
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    asked: Asked,
    /// Remove only volumes like this: label=NAME, label!=NAME
    #[arg(long, value_name = "KEY=VALUE", value_parser = prune_filter)]
    filter: Vec<Filter>,
}

const KEYS: [&str; 4] = ["name", "label", "dangling", "driver"];

fn parse_filter(text: &str) -> Result<Filter, String> {
    Filter::parse(text, &KEYS)
}

fn prune_filter(text: &str) -> Result<Filter, String> {
    Filter::parse(text, &["label", "label!"])
}

fn label(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    match name.is_empty() {
        true => Err("a label has a name: NAME or NAME=VALUE"),
        false => Ok((name.to_owned(), value.to_owned())),
    }
}

impl Verb {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        match self {
            Self::Create(args) => args.run(home),
            Self::Ls(args) => args.run(home),
            Self::Inspect(args) => inspect::Args {
                things: args.volumes,
                form: args.form,
                kind: Some(inspect::Kind::Volume),
                size: false,
                control: crate::control::Control::default(),
            }
            .run(home),
            Self::Rm(args) => args.run(home),
            Self::Prune(args) => args.run(home),
        }
    }
}

impl CreateArgs {
    fn run(self, home: &Home) -> anyhow::Result<()> {
        let name = match self.name {
            Some(name) => name,
            None => disk::random_hex::<16>().parse()?,
        };
        let labels: BTreeMap<String, String> = self.label.into_iter().collect();
        volumes::create(home.node(), &name, &labels)?;
        line(format_args!("{name}"));
        Ok(())
    }
}

impl LsArgs {
    fn run(self, home: &Home) -> anyhow::Result<()> {
        let form = self.listing.form(FIELDS)?;
        let filters = Filters(&self.filter);
        let dangling = filters.truth("dangling")?;
        let mut found = volumes::list(home.node())?;
        found.retain(|volume| {
            filters.any("name", |pattern| filter::names(pattern, volume.name.as_str()))
                && filters.any("driver", |driver| driver == DRIVER)
                && dangling.is_none_or(|dangling| volume.tasks.is_empty() == dangling)
                && filters.labels("label", |name| volume.labels.get(name).map(String::as_str))
        });
        if self.quiet && form.is_own() && !form.is_json() {
            found.iter().for_each(|volume| line(format_args!("{}", volume.name)));
            return Ok(());
        }
        let views: Vec<VolumeView> = found.iter().map(VolumeView::of).collect();
        let with_size = form.names("Size");
        form.print(
            &views,
            &["DRIVER", "VOLUME NAME", "TASKS"],
            |view| [DRIVER.to_owned(), view.name.clone(), view.tasks.join(", ")],
            |view| {
                let volume = found.iter().find(|volume| volume.name.as_str() == view.name);
                view.row(volume.filter(|_| with_size).map(volumes::Volume::bytes))
            },
        )
    }
}

impl RmArgs {
    fn run(self, home: &Home) -> anyhow::Result<()> {
        super::each(&self.volumes, |name| {
            match volumes::find(home.node(), name) {
                Ok(volume) => volumes::remove(home.node(), &volume)?,
                Err(node::Error::NoSuchVolume(_)) if self.force => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            line(format_args!("{name}"));
            Ok(())
        })
    }
}

impl PruneArgs {
    fn run(self, home: &Home) -> anyhow::Result<()> {
        let filters = Filters(&self.filter);
        let what = match self.all {
            true => "all volumes that no task mounts",
            false => "all volumes without a name that no task mounts",
        };
        if self.asked.confirm(what)? {
            let freed = unused_volumes(home, |volume| {
                let value = |name: &str| volume.labels.get(name).map(String::as_str);
                let is_kept = filters.has("label!") && filters.labels("label!", value);
                (self.all || volume.is_anonymous()) && !is_kept && filters.labels("label", value)
            })?;
            line(format_args!("Freed {}", size(freed)));
        }
        Ok(())
    }
}
