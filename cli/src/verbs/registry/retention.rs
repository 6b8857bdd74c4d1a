//! Which tags and manifests stay.

use std::time::Duration;

use anyhow::ensure;
use clap::Subcommand;
use registry::{
    Admin, Repository, Retained, Retention, RetentionChange, RetentionInfo, RetentionRule,
};
use spec::Tenant;

use crate::{
    failure::{Advice, USAGE_ERROR},
    output::{Output, line, notice},
    serve::block_on,
};

#[derive(Debug, Subcommand)]
pub enum RetentionVerb {
    /// List the rules
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        output: Output,
    },
    /// Set the rule for the tags of a pattern, or for manifests without a tag
    #[command(
        after_help = "A tag stays when one of the rules that cover it keeps it, and when no rule \
covers it. A repository has its own
rules, else those of its account, else those of `*`. A manifest goes with its last tag, and takes along
what it alone names and what refers to it, such as signatures.

Examples:
  margay registry retention set me/cats --last 10 --pulled-within 30d
  margay registry retention set me/cats --tags 'dev-*' --within 14d
  margay registry retention set me/cats --tags 'v*' --forever
  margay registry retention set '*' --untagged 7d"
    )]
    Set {
        /// A repository, as in me/cats; an account, as in me; or `*` for all that have no rules
        #[arg(value_parser = rules_name)]
        name: String,
        /// The tags that it covers, in which * stands for any characters [default: *]
        #[arg(long, value_name = "PATTERN")]
        tags: Option<String>,
        /// Keep so many, those that were set last
        #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
        last: Option<u32>,
        /// Keep those that were set within this time
        #[arg(long, value_name = "TIME", value_parser = spec::parse_duration)]
        within: Option<Duration>,
        /// Keep those whose image was pulled within this time
        #[arg(long, value_name = "TIME", value_parser = spec::parse_duration)]
        pulled_within: Option<Duration>,
        /// Keep all of them, whatever other rules say
        #[arg(long, conflicts_with_all = ["last", "within", "pulled_within"])]
        forever: bool,
        /// Delete manifests that have no tag, this long after their last push or pull
        #[arg(long, value_name = "TIME", value_parser = spec::parse_duration)]
        untagged: Option<Duration>,
        #[command(flatten)]
        output: Output,
    },
    /// Remove the rules of a name, or one of them
    #[command(visible_alias = "remove")]
    Rm {
        /// A repository, an account or `*`
        #[arg(value_parser = rules_name)]
        name: String,
        /// Only the rule for the tags of this pattern
        #[arg(long, value_name = "PATTERN")]
        tags: Option<String>,
        /// Only the rule for manifests without a tag
        #[arg(long)]
        untagged: bool,
    },
    /// Apply the rules now, and list what they delete
    #[command(
        after_help = "What was pushed or pulled within the grace time stays until that is over. The bytes \
come back with the next collection: margay registry gc"
    )]
    Run {
        /// Only this repository, or those of this account [default: all]
        #[arg(value_parser = rules_name)]
        name: Option<String>,
        /// Say what would go, and leave it
        #[arg(long)]
        dry_run: bool,
        /// How long what goes must not have been used; with 0s pushes that are under way may have
        /// to be repeated [default: 1h]
        #[arg(long, value_name = "TIME", value_parser = spec::parse_duration)]
        grace: Option<Duration>,
        #[command(flatten)]
        output: Output,
    },
}

const HEADINGS: [&str; 3] = ["NAME", "TAGS", "KEPT"];

/// A rule as it is shown.
struct Row<'a> {
    name: &'a str,
    tags: &'a str,
    kept: String,
}

impl RetentionVerb {
    pub fn run(self, admin: &Admin) -> anyhow::Result<()> {
        match self {
            Self::Ls { output } => show(output, &block_on(admin.retentions())?),
            Self::Set { name, tags, last, within, pulled_within, forever, untagged, output } => {
                let seconds = |time: Option<Duration>| time.map(|time| time.as_secs());
                let rule = RetentionRule {
                    tags: tags.clone().unwrap_or_else(|| "*".to_owned()),
                    last,
                    within_seconds: seconds(within),
                    pulled_within_seconds: seconds(pulled_within),
                };
                let is_rule = forever || !rule.keeps_all();
                ensure!(
                    is_rule || (untagged.is_some() && tags.is_none()),
                    Advice::new("this rule does not say what to keep")
                        .hint("--last COUNT, --within TIME, --pulled-within TIME or --forever")
                        .code(USAGE_ERROR)
                );
                let rule = is_rule.then_some(rule);
                let change = RetentionChange { rule, untagged_seconds: seconds(untagged) };
                show(output, &[block_on(admin.change_retention(&name, &change))?])
            }
            Self::Rm { name, tags, untagged } => {
                block_on(admin.remove_retention(&name, tags.as_deref(), untagged))?;
                line(format_args!("{name}"));
                Ok(())
            }
            Self::Run { name, dry_run, grace, output } => {
                let name = name.as_deref().filter(|name| *name != "*");
                let retained = block_on(admin.retain(name, grace, dry_run))?;
                if output.is_json() {
                    return output.record(&retained, told);
                }
                if !retained.expired.is_empty() {
                    output.records(&retained.expired, &["REPOSITORY", "TAG", "DIGEST"], |one| {
                        let tag = one.tag.clone().unwrap_or_else(|| "-".to_owned());
                        [one.repository.clone(), tag, one.digest.to_string()]
                    })?;
                }
                notice(format_args!("{}", told(&retained)));
                Ok(())
            }
        }
    }
}

/// A repository, an account, or all.
fn rules_name(text: &str) -> anyhow::Result<String> {
    match text {
        "*" => {}
        _ if text.contains('/') => drop(text.parse::<Repository>()?),
        _ => drop(text.parse::<Tenant>()?),
    }
    Ok(text.to_owned())
}

fn show(output: Output, all: &[RetentionInfo]) -> anyhow::Result<()> {
    if output.is_json() {
        return crate::output::json(&all);
    }
    let rows: Vec<_> = all.iter().flat_map(|info| rows(&info.name, &info.retention)).collect();
    crate::output::print_table(
        &HEADINGS,
        rows.into_iter().map(|row| [row.name.to_owned(), row.tags.to_owned(), row.kept]),
    );
    Ok(())
}

fn rows<'a>(name: &'a str, retention: &'a Retention) -> Vec<Row<'a>> {
    let rules = retention.rules.iter().map(|rule| Row { name, tags: &rule.tags, kept: kept(rule) });
    let untagged = retention.untagged().map(|time| Row {
        name,
        tags: "-",
        kept: format!("untagged, for {}", written(time.as_secs())),
    });
    rules.chain(untagged).collect()
}

fn kept(rule: &RetentionRule) -> String {
    let parts = [
        rule.last.map(|last| format!("last {last}")),
        rule.within_seconds.map(|seconds| format!("set within {}", written(seconds))),
        rule.pulled_within_seconds.map(|seconds| format!("pulled within {}", written(seconds))),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    match parts.is_empty() {
        true => "all".to_owned(),
        false => parts.join(", "),
    }
}

/// A time as it is given: `30d`, `1h30m`.
fn written(seconds: u64) -> String {
    let units = [(86_400, 'd'), (3_600, 'h'), (60, 'm'), (1, 's')];
    let (mut left, mut text) = (seconds, String::new());
    for (unit, name) in units {
        if left >= unit || (unit == 1 && text.is_empty()) {
            text += &format!("{}{name}", left / unit);
            left %= unit;
        }
    }
    text
}

fn told(retained: &Retained) -> String {
    let Retained { tags, manifests, expired, waiting, unclear, changed, dry_run } = retained;
    let count =
        |count: u64, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
    let verb = if *dry_run { "Would delete" } else { "Deleted" };
    let mut told = format!("{verb} {} and {}", count(*tags, "tag"), count(*manifests, "manifest"));
    if (expired.len() as u64) < tags + manifests {
        told += &format!("; the first {} are listed", expired.len());
    }
    if *waiting > 0 {
        told += &format!("\nNot kept, but used within the grace time: {waiting}");
    }
    if *unclear > 0 {
        told += &format!(
            "\nRepositories left as they are, because an index of theirs cannot be read: {unclear}"
        );
    }
    if *changed > 0 {
        told += &format!("\nRepositories that changed meanwhile: {changed}; run it again");
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retention_is_told_with_what_is_left_to_do() {
        let none = Retained::default();
        assert_eq!(told(&none), "Deleted 0 tags and 0 manifests");
        let some = Retained { tags: 2, manifests: 1, dry_run: true, ..none };
        let told = told(&Retained { waiting: 3, unclear: 1, changed: 1, ..some });
        let lines: Vec<_> = told.lines().collect();
        assert_eq!(lines[0], "Would delete 2 tags and 1 manifest; the first 0 are listed");
        assert_eq!(lines[1], "Not kept, but used within the grace time: 3");
        assert!(lines[2].ends_with("be read: 1") && lines[3].ends_with("run it again"));
    }

    #[test]
    fn a_rule_is_shown_with_all_that_it_keeps() {
        let rule = RetentionRule { tags: "v*".to_owned(), ..RetentionRule::default() };
        assert_eq!(kept(&rule), "all");
        let rule = RetentionRule {
            last: Some(3),
            within_seconds: Some(86400),
            pulled_within_seconds: Some(5400),
            ..rule
        };
        assert_eq!(kept(&rule), "last 3, set within 1d, pulled within 1h30m");
    }
}
