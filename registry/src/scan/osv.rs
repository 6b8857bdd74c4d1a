//! Records of OSV, made small: what a registry keeps of them.

use std::{collections::BTreeSet, str::FromStr};

use cvss::Cvss;
use serde::Deserialize;
use serde_json::Value;
use spec::Timestamp;

use super::{
    package::{one_line, pypi_name},
    version::Scheme,
};
use crate::{
    limits::{AFFECTED_MAX, ALIASES_MAX, PACKAGE_TEXT_MAX, SUMMARY_CHARS_MAX, VERSIONS_LISTED_MAX},
    protocol::{Advisory, Affected, Event, Severity},
};

/// # Spec
/// Open Source Vulnerability format 1.7.
#[derive(Deserialize)]
struct Record {
    id: String,
    modified: String,
    withdrawn: Option<String>,
    #[serde(default)]
    aliases: Vec<String>,
    #[serde(default)]
    upstream: Vec<String>,
    summary: Option<String>,
    details: Option<String>,
    #[serde(default)]
    severity: Vec<Rating>,
    #[serde(default)]
    affected: Vec<Product>,
    #[serde(default)]
    database_specific: Value,
}

#[derive(Deserialize)]
struct Rating {
    #[serde(rename = "type")]
    kind: String,
    score: String,
}

#[derive(Deserialize)]
struct Product {
    package: Option<Name>,
    #[serde(default)]
    ranges: Vec<Range>,
    #[serde(default)]
    versions: Vec<String>,
    #[serde(default)]
    severity: Vec<Rating>,
    #[serde(default)]
    ecosystem_specific: Value,
    #[serde(default)]
    database_specific: Value,
}

#[derive(Deserialize)]
struct Name {
    ecosystem: String,
    name: String,
}

#[derive(Deserialize)]
struct Range {
    #[serde(rename = "type")]
    kind: String,
    events: Vec<Event>,
}

/// What a record says; `None` when it was withdrawn, or is about nothing that images have.
///
/// # Errors
/// In words, when these bytes are no record of OSV.
pub(crate) fn advisory(json: &[u8]) -> Result<Option<Advisory>, String> {
    let record: Record = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let modified =
        time(&record.modified).ok_or_else(|| format!("`{}` is no time", record.modified))?;
    if !is_name(&record.id) {
        return Err("its `id` is no name".to_owned());
    }
    if record.withdrawn.is_some() {
        return Ok(None);
    }
    let (severity, score) = rating(&record);
    let mut affected: Vec<_> = record.affected.into_iter().filter_map(product).collect();
    affected.truncate(AFFECTED_MAX);
    if affected.is_empty() {
        return Ok(None);
    }
    let mut aliases: BTreeSet<_> = record.aliases.into_iter().chain(record.upstream).collect();
    aliases.retain(|alias| is_name(alias) && *alias != record.id);
    let summary = record.summary.or(record.details).unwrap_or_default();
    let summary = summary.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    Ok(Some(Advisory {
        id: record.id,
        aliases: aliases.into_iter().take(ALIASES_MAX).collect(),
        summary: one_line(summary).chars().take(SUMMARY_CHARS_MAX).collect(),
        severity,
        score,
        modified,
        affected,
    }))
}

/// Names of vulnerabilities are short, and have no spaces.
fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:+/".contains(&byte);
    !text.is_empty() && text.len() <= PACKAGE_TEXT_MAX && text.bytes().all(plain)
}

/// RFC 3339 with any fraction.
fn time(text: &str) -> Option<Timestamp> {
    let seconds = text.get(..19).filter(|_| text.ends_with('Z'))?;
    format!("{seconds}.000Z").parse().ok()
}

fn product(product: Product) -> Option<Affected> {
    let Name { ecosystem, name } = product.package?;
    let (base, release) = place(&ecosystem)?;
    let scheme = Scheme::of(&base)?;
    let name = match &*base {
        "PyPI" => pypi_name(&name),
        _ => name,
    };
    if name.is_empty() || name.len() > PACKAGE_TEXT_MAX {
        return None;
    }
    let ranges: Vec<Vec<Event>> = product
        .ranges
        .into_iter()
        .filter(|range| range.kind == "ECOSYSTEM" || range.kind == "SEMVER")
        .map(|range| sorted(range.events, scheme))
        .filter(|events| !events.is_empty())
        .collect();
    // With ranges the list of versions says the same again, and is long.
    let mut versions = if ranges.is_empty() { product.versions } else { Vec::new() };
    versions.retain(|version| version.len() <= PACKAGE_TEXT_MAX);
    versions.truncate(VERSIONS_LISTED_MAX);
    let says_something = !ranges.is_empty() || !versions.is_empty();
    says_something.then_some(Affected { base, release, name, ranges, versions })
}

/// An ecosystem without its release, and the release as images name it. `None` for what no image
/// here can be of: extended support that is bought.
fn place(ecosystem: &str) -> Option<(String, String)> {
    let (base, rest) = ecosystem.split_once(':').unwrap_or((ecosystem, ""));
    let release = match base {
        "Ubuntu" if rest.starts_with("Pro") || rest.contains("FIPS") => return None,
        "Ubuntu" => rest.trim_end_matches(":LTS"),
        // `enterprise_linux:9::appstream`
        "Red Hat" => {
            let product = rest.strip_prefix("enterprise_linux:")?;
            product.split([':', '.']).next()?
        }
        _ => rest,
    };
    Some((base.to_owned(), release.to_owned()))
}

/// In the order of versions, as they are evaluated.
fn sorted(mut events: Vec<Event>, scheme: Scheme) -> Vec<Event> {
    let is_short = |text: &String| text.len() <= PACKAGE_TEXT_MAX;
    events.retain(|event| event.version().is_some_and(is_short));
    events.sort_by(|one, other| {
        let of = |event: &Event| event.version().cloned().unwrap_or_default();
        match (of(one).as_str(), of(other).as_str()) {
            ("0", "0") => std::cmp::Ordering::Equal,
            ("0", _) => std::cmp::Ordering::Less,
            (_, "0") => std::cmp::Ordering::Greater,
            (one, other) => scheme.compare(one, other),
        }
    });
    events.truncate(VERSIONS_LISTED_MAX);
    events
}

/// The severity of a record: by its vectors, the newest version of CVSS first, else by the word of
/// its database. The score is in tenths.
fn rating(record: &Record) -> (Severity, Option<u8>) {
    let of_products = record.affected.iter().flat_map(|product| &product.severity);
    let ratings: Vec<_> = record.severity.iter().chain(of_products).collect();
    for kind in ["CVSS_V4", "CVSS_V3", "CVSS_V2"] {
        let of_kind = ratings.iter().filter(|rating| rating.kind == kind);
        if let Some(score) = of_kind.filter_map(|rating| score(&rating.score)).max() {
            return (Severity::of_score(score), Some(score));
        }
    }
    let specific = |product: &Product| {
        let (ours, theirs) = (&product.database_specific, &product.ecosystem_specific);
        [&ours["severity"], &theirs["severity"], &theirs["urgency"], &ours["cvss"]]
            .into_iter()
            .filter_map(|value| value.as_str().map(str::to_owned))
            .collect::<Vec<_>>()
    };
    let words = record.affected.iter().flat_map(specific);
    let own = record.database_specific["severity"].as_str().map(str::to_owned);
    let other = ratings.iter().map(|rating| rating.score.clone());
    let mut best = (Severity::Unknown, None);
    for word in own.into_iter().chain(words).chain(other) {
        let found = match score(&word) {
            Some(score) => (Severity::of_score(score), Some(score)),
            None => (Severity::of_word(&word), None),
        };
        if found.0 > best.0 {
            best = found;
        }
    }
    best
}

/// The base score of a vector, in tenths.
fn score(vector: &str) -> Option<u8> {
    let vector = vector.trim_end_matches('/');
    let score = Cvss::from_str(vector).ok()?.score();
    (0.0..=10.0).contains(&score).then_some((score * 10.0).round() as u8)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(change: impl FnOnce(&mut Value)) -> Result<Option<Advisory>, String> {
        let mut record = json!({
            "id": "GHSA-xxxx",
            "modified": "2024-01-02T03:04:05.678901Z",
            "aliases": ["CVE-2024-1"],
            "summary": "Text\nmore",
            "affected": [{
                "package": {"ecosystem": "npm", "name": "a"},
                "ranges": [{"type": "SEMVER", "events": [{"fixed": "1.2.0"}, {"introduced": "0"}]}],
                "versions": ["1.0.0"],
            }],
        });
        change(&mut record);
        advisory(record.to_string().as_bytes())
    }

    #[test]
    fn a_record_is_made_small() {
        let got = record(|_| ()).unwrap().unwrap();
        assert_eq!(got.summary, "Text");
        assert_eq!(got.modified.to_string(), "2024-01-02T03:04:05.000Z");
        assert_eq!(got.affected[0].versions, Vec::<String>::new());
        let events = &got.affected[0].ranges[0];
        assert_eq!(events[0], Event::Introduced("0".to_owned()));
        assert_eq!(events[1], Event::Fixed("1.2.0".to_owned()));
        let withdrawn = record(|record| record["withdrawn"] = json!("2024-01-02T03:04:05Z"));
        assert!(withdrawn.unwrap().is_none());
        let git = record(|record| record["affected"] = json!([{"ranges": []}]));
        assert!(git.unwrap().is_none());
        assert!(record(|record| record["modified"] = json!("yesterday")).is_err());
        assert!(record(|record| record["id"] = json!("a b")).is_err());
        assert!(advisory(b"[]").is_err());
    }

    #[test]
    fn the_ecosystem_is_read_with_its_release() {
        for (text, want) in [
            ("Debian:12", Some(("Debian", "12"))),
            ("Debian", Some(("Debian", ""))),
            ("Ubuntu:22.04:LTS", Some(("Ubuntu", "22.04"))),
            ("Ubuntu:Pro:18.04:LTS", None),
            ("Alpine:v3.19", Some(("Alpine", "v3.19"))),
            ("Red Hat:enterprise_linux:9::appstream", Some(("Red Hat", "9"))),
            ("Red Hat:rhel_eus:9.2::baseos", None),
            ("npm", Some(("npm", ""))),
        ] {
            let got = place(text);
            assert_eq!(got.as_ref().map(|(base, release)| (&**base, &**release)), want, "{text}");
        }
    }

    #[test]
    fn severity_is_that_of_the_newest_vector_or_of_a_word() {
        let v3 =
            json!({"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"});
        let low =
            json!({"type": "CVSS_V3", "score": "CVSS:3.1/AV:P/AC:H/PR:H/UI:R/S:U/C:L/I:N/A:N"});
        let v4 = json!({
            "type": "CVSS_V4",
            "score": "CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N",
        });
        let of = |severity: Value, specific: Value| {
            let got = record(|record| {
                record["severity"] = severity;
                record["affected"][0]["ecosystem_specific"] = specific.clone();
                record["database_specific"] = specific;
            });
            let got = got.unwrap().unwrap();
            (got.severity, got.score)
        };
        let none = json!({});
        assert_eq!(of(json!([v3]), none.clone()), (Severity::Critical, Some(98)));
        assert_eq!(of(json!([v3, v4]), none.clone()), (Severity::Critical, Some(93)));
        assert_eq!(of(json!([low]), none.clone()), (Severity::Low, Some(16)));
        assert_eq!(of(json!([]), json!({"severity": "MODERATE"})), (Severity::Medium, None));
        assert_eq!(of(json!([]), json!({"urgency": "unimportant"})), (Severity::Low, None));
        let word = json!([{"type": "Ubuntu", "score": "high"}]);
        assert_eq!(of(word, none.clone()), (Severity::High, None));
        let broken = json!([{"type": "CVSS_V3", "score": "CVSS:3.1/nonsense"}]);
        assert_eq!(of(broken, none), (Severity::Unknown, None));
    }
}
