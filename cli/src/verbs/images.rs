use packager::LocalImage;
use serde::Serialize;
use spec::{Digest, Platform, Reference};

use crate::{
    home::Home,
    images,
    output::{Output, line, size},
};

/// List local images
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  margay images --filter 'reference=localhost:5000/me/*'")]
pub struct Args {
    /// Show only images like this: reference=PATTERN, where * stands for anything but /
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = filter)]
    filter: Vec<String>,
    /// Print digests only
    #[arg(short, long)]
    quiet: bool,
    /// Show digests in full length
    #[arg(long)]
    no_trunc: bool,
    #[command(flatten)]
    output: Output,
    /// Show only images with this name, with any tag unless it has one
    #[arg(value_parser = name)]
    image: Option<String>,
}

#[derive(Serialize)]
struct Row {
    reference: String,
    digest: Digest,
    platforms: Vec<String>,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
}

fn filter(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some(("reference", pattern)) if !pattern.is_empty() => Ok(pattern.to_owned()),
        _ => Err("the only filter is reference=PATTERN".to_owned()),
    }
}

fn name(text: &str) -> Result<String, spec::ParseError> {
    text.parse::<Reference>()?;
    Ok(text.to_owned())
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let mut found = images::layout(home)?.list()?;
        if let Some(image) = &self.image {
            found.retain(|local| names(&local.reference).any(|name| name == *image));
        }
        if !self.filter.is_empty() {
            found.retain(|local| self.filter.iter().any(|like| is_like(&local.reference, like)));
        }
        if self.quiet {
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
            created: local.created,
        };
        let rows: Vec<Row> = found.into_iter().map(row).collect();
        let headings = ["REPOSITORY", "TAG", "DIGEST", "PLATFORM", "SIZE"];
        self.output.records(&rows, &headings, |row| {
            // A registry's port has a colon too; the tag comes after the last slash.
            let start = row.reference.rfind('/').map_or(0, |slash| slash + 1);
            let (repository, tag) = match row.reference[start..].find(':') {
                Some(colon) => row.reference.split_at(start + colon),
                None => (row.reference.as_str(), ":<none>"),
            };
            let (digest, platforms) = (self.digest(&row.digest), row.platforms.join(", "));
            [repository.to_owned(), tag[1..].to_owned(), digest, platforms, size(row.size)]
        })
    }

    fn digest(&self, digest: &Digest) -> String {
        if self.no_trunc { digest.to_string() } else { digest.short() }
    }
}

fn platform_name(platform: &Platform) -> String {
    match &platform.variant {
        Some(variant) => format!("{}/{}/{variant}", platform.os, platform.architecture),
        None => format!("{}/{}", platform.os, platform.architecture),
    }
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
