use node::tasks;
use packager::{Layout, LocalImage};
use serde::Serialize;
use serde_json::Value;
use spec::{Digest, ImageConfig, Reference};

use crate::{
    filter::{Filter, Filters},
    home::Home,
    images,
    listing::{Form, Listing},
    output::{line, size},
    views::image::{self, created, created_since, platform_name, repository_and_tag},
};

/// List local images
#[derive(Debug, clap::Args)]
#[command(after_help = "Filters: reference, before, since, until, label, dangling
Fields:  .ID .Repository .Tag .Digest .CreatedSince .CreatedAt .Size .Platform .Labels .Containers

Examples:
  margay images --filter 'reference=localhost:5000/me/*'
  margay images --format '{{.Repository}}:{{.Tag}} {{.Size}}'")]
pub struct Args {
    /// Show every image: a build leaves no others behind, so this is what is shown anyway
    #[arg(short, long)]
    all: bool,
    /// Show only images like this: reference=PATTERN, where * stands for anything but /, or
    /// label=NAME
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = parse_filter)]
    filter: Vec<Filter>,
    /// Print digests only
    #[arg(short, long)]
    quiet: bool,
    /// Show digests in full length
    #[arg(long)]
    no_trunc: bool,
    /// Show digests in a column of their own
    #[arg(long)]
    digests: bool,
    #[command(flatten)]
    listing: Listing,
    /// Show only images with this name, with any tag unless it has one
    #[arg(value_parser = name)]
    image: Option<String>,
}

const KEYS: [&str; 6] = ["reference", "before", "since", "until", "label", "dangling"];

fn parse_filter(text: &str) -> Result<Filter, String> {
    Filter::parse(text, &KEYS)
}

#[derive(Serialize)]
struct Row {
    reference: String,
    digest: Digest,
    platforms: Vec<String>,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    #[serde(skip)]
    local: LocalImage,
}

/// As local images are named; without a tag, where none was written.
fn name(text: &str) -> Result<String, spec::ParseError> {
    let local = text.parse::<Reference>()?.local().to_string();
    let tagged = text.rsplit('/').next().is_some_and(|last| last.contains([':', '@']));
    Ok(match local.strip_suffix(":latest") {
        Some(untagged) if !tagged => untagged.to_owned(),
        _ => local,
    })
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let form = self.listing.form(image::FIELDS)?;
        let layout = images::layout(home)?;
        let mut found = layout.list()?;
        if let Some(image) = &self.image {
            found.retain(|local| names(&local.reference).any(|name| name == *image));
        }
        retain(&layout, &mut found, Filters(&self.filter))?;
        if self.quiet && form.is_own() && !form.is_json() {
            for local in &found {
                line(format_args!("{}", self.digest(&local.descriptor.digest)));
            }
            return Ok(());
        }
        let row = |local: LocalImage| Row {
            reference: local.reference.to_string(),
            digest: local.descriptor.digest,
            platforms: local.platforms.iter().map(platform_name).collect(),
            size: local.size,
            created: local.created.clone(),
            local,
        };
        let rows: Vec<Row> = found.into_iter().map(row).collect();
        self.print(home, &layout, &form, &rows)
    }

    fn print(&self, home: &Home, layout: &Layout, form: &Form, rows: &[Row]) -> anyhow::Result<()> {
        let mut columns = vec!["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "PLATFORM", "SIZE"];
        if self.digests {
            columns.insert(2, "DIGEST");
        }
        let used: Vec<Digest> = match form.names("Containers") {
            true => tasks::list(home.node())?.iter().map(|task| task.record().digest).collect(),
            false => Vec::new(),
        };
        let wants_config = form.names("Label") || form.names("Labels");
        form.print(
            rows,
            &columns,
            |row| {
                let (repository, tag) = repository_and_tag(&row.local.reference);
                let created = created_since(row.created.as_deref());
                let (id, platforms) = (self.digest(&row.digest), row.platforms.join(", "));
                let digest = self.digests.then(|| row.digest.to_string());
                let head = [repository, tag].into_iter().chain(digest);
                head.chain([id, created, platforms, size(row.size)]).collect::<Vec<_>>()
            },
            |row| {
                let tasks = used.iter().filter(|digest| **digest == row.digest).count();
                let config =
                    wants_config.then(|| image::config(layout, &row.local.descriptor)).flatten();
                let mut record = image::row(&row.local, tasks, config.as_ref());
                if self.no_trunc {
                    record.insert("ID".to_owned(), Value::String(row.digest.to_string()));
                }
                record
            },
        )
    }

    fn digest(&self, digest: &Digest) -> String {
        if self.no_trunc { digest.to_string() } else { digest.short() }
    }
}

/// Keeps the images for which every filter holds.
pub fn retain(
    layout: &Layout,
    found: &mut Vec<LocalImage>,
    filters: Filters<'_>,
) -> anyhow::Result<()> {
    let time = |key| -> anyhow::Result<Option<Option<spec::Timestamp>>> {
        let Some(name) = filters.values(key).last() else { return Ok(None) };
        let (_, descriptor) = images::resolve(layout, &name.parse()?)?;
        let config = image::config(layout, &descriptor);
        Ok(Some(created(config.and_then(|config| config.created).as_deref())))
    };
    let (before, since) = (time("before")?, time("since")?);
    let until = match filters.values("until").last() {
        Some(text) => Some(crate::flags::point_in_time(text, crate::output::now())?),
        None => None,
    };
    if filters.truth("dangling")? == Some(true) {
        // What has no name is no image of the list, and `prune` removes it.
        found.clear();
    }
    found.retain(|local| {
        let at = created(local.created.as_deref());
        filters.any("reference", |pattern| is_like(&local.reference, pattern))
            && before.is_none_or(|time| at < time)
            && since.is_none_or(|time| at > time)
            // What says no time is kept: it may be new.
            && until.is_none_or(|time| at.is_some_and(|at| at < time))
            && has_labels(filters, || image::config(layout, &local.descriptor))
    });
    Ok(())
}

fn has_labels(filters: Filters<'_>, config: impl Fn() -> Option<ImageConfig>) -> bool {
    if !filters.has("label") {
        return true;
    }
    let labels = config().and_then(|config| config.config?.labels).unwrap_or_default();
    filters.labels("label", |name| labels.get(name).map(String::as_str))
}
/// As Docker filters: the pattern is compared with the whole name, with and without its tag.
fn is_like(reference: &Reference, pattern: &str) -> bool {
    names(reference).any(|name| matches(pattern.as_bytes(), name.as_bytes()))
}

/// The whole name, and that without its tag.
fn names(reference: &Reference) -> impl Iterator<Item = String> {
    let full = reference.to_string();
    let without_tag =
        reference.tag().and_then(|tag| Some(full.strip_suffix(&format!(":{tag}"))?.to_owned()));
    [full].into_iter().chain(without_tag)
}

/// `*` is anything but `/`, `?` one such character. Remembers one star, so it takes no more than
/// `pattern * text` steps.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(b'?') if text[t] != b'/' => (p, t) = (p + 1, t + 1),
            Some(byte) if *byte == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, taken)) if text[taken] != b'/' => {
                    star = Some((at, taken + 1));
                    (p, t) = (at + 1, taken + 1);
                }
                _ => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_means_what_it_means_in_docker() {
        for (pattern, name, want) in [
            ("cats", "cats:latest", true),
            ("cats:latest", "cats", true),
            ("c*", "cats", true),
            ("*", "cats", true),
            ("*", "me/cats", false),
            ("*/cats", "me/cats", true),
            ("*/*/cats", "localhost:5000/me/cats:v1", true),
            ("localhost:5000/me/*:v?", "localhost:5000/me/cats:v1", true),
            ("localhost:5000/*", "localhost:5000/me/cats:v1", false),
            ("dogs", "cats", false),
            ("cat", "cats", false),
            ("*a*b*", "cats", false),
            ("*a*t*", "cats", true),
        ] {
            assert_eq!(is_like(&name.parse().unwrap(), pattern), want, "{pattern} and {name}");
        }
    }
}
