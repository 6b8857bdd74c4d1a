//! What is known of an image, and which images have a vulnerability.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use spec::{Digest, Timestamp};

use super::{
    database::Database,
    package::Distribution,
    rows::{at, failed},
};
use crate::{
    Error, Repository,
    limits::{FINDINGS_LOOKED_AT_MAX, VULNERABILITY_DATA_AGE_MAX, VULNERABILITY_IMPORT_AGE_MAX},
    protocol::{
        Finding, FindingSearch, ScanReport, ScanStatus, Severity, SeverityCounts, VulnerabilityData,
    },
};

const FINDING: &str = "advisory.name, aliases, summary, severity, score, finding.fixed,
    package.kind, package.name, package.version, contained.path";

impl Database {
    /// What is known of an image at `now`; `None` when it was not scanned.
    pub fn report(
        &self,
        digest: &Digest,
        repository: &Repository,
        now: Timestamp,
    ) -> Result<Option<ScanReport>, Error> {
        let data = self.data()?;
        let db = self.reader();
        let read = || -> rusqlite::Result<Option<ScanReport>> {
            let found = db
                .prepare_cached(
                    "SELECT id, platform, read, distribution, unread FROM image WHERE digest = ?1",
                )?
                .query_row([digest.to_string()], |row| {
                    let (distribution, unread): (String, String) = (row.get(3)?, row.get(4)?);
                    Ok((row.get::<_, i64>(0)?, row.get(1)?, at(row.get(2)?), distribution, unread))
                })
                .optional()?;
            let Some((id, platform, scanned, distribution, unread)) = found else {
                return Ok(None);
            };
            let distribution: Option<Distribution> =
                serde_json::from_str(&distribution).unwrap_or_default();
            let mut unknown: Vec<String> = serde_json::from_str(&unread).unwrap_or_default();
            let packages = gaps(&db, id, &data, now, &mut unknown)?;
            let findings = findings_of(&db, id)?;
            let status = match (findings.is_empty(), unknown.is_empty()) {
                (false, _) => ScanStatus::Vulnerable,
                (true, true) => ScanStatus::Clean,
                (true, false) => ScanStatus::Unknown,
            };
            Ok(Some(ScanReport {
                repository: repository.to_string(),
                digest: *digest,
                platform,
                scanned,
                distribution: distribution.map(|distribution| distribution.title),
                packages,
                status,
                unknown,
                counts: SeverityCounts::of(findings.iter()),
                findings,
            }))
        };
        read().map_err(failed("read what an image has"))
    }

    /// Findings of images, the most severe first; not more than are looked at.
    pub fn search(
        &self,
        search: &FindingSearch,
    ) -> Result<Vec<(Digest, Repository, Finding)>, Error> {
        let db = self.reader();
        let read = || -> rusqlite::Result<_> {
            let mut statement = db.prepare_cached(&format!(
                "SELECT {FINDING}, image.digest, located.repository
                 FROM advisory
                 JOIN finding ON finding.advisory = advisory.id
                 JOIN package ON package.id = finding.package
                 JOIN contained ON contained.package = package.id
                 JOIN image ON image.id = contained.image
                 JOIN located ON located.image = image.id
                 WHERE severity >= ?1
                     AND (?2 IS NULL OR advisory.name = ?2 OR instr(aliases, '\"' || ?2 || '\"') > 0)
                     AND (?3 IS NULL OR package.name = ?3)
                     AND (?4 IS NULL OR located.repository = ?4)
                 ORDER BY severity DESC, advisory.name, located.repository LIMIT ?5"
            ))?;
            let wanted = params![
                search.severity as u8,
                search.vulnerability,
                search.package,
                search.repository,
                FINDINGS_LOOKED_AT_MAX as i64,
            ];
            let mut rows = statement.query(wanted)?;
            let (mut found, mut places) = (Vec::new(), HashMap::new());
            while let Some(row) = rows.next()? {
                let (digest, repository): (String, String) = (row.get(10)?, row.get(11)?);
                let next = finding(row)?;
                let key = (
                    (digest.clone(), repository.clone()),
                    (next.package.clone(), next.version.clone(), next.vulnerability.clone()),
                );
                if let Some(place) = places.get(&key) {
                    let (_, _, known): &mut (Digest, Repository, Finding) = &mut found[*place];
                    merge(known, next);
                } else if let Some((digest, repository)) =
                    digest.parse().ok().zip(repository.parse().ok())
                {
                    places.insert(key, found.len());
                    found.push((digest, repository, next));
                }
            }
            Ok(found)
        };
        read().map_err(failed("look for findings"))
    }
}

fn finding(row: &Row<'_>) -> rusqlite::Result<Finding> {
    let (name, aliases): (String, String) = (row.get(0)?, row.get(1)?);
    let aliases: Vec<String> = serde_json::from_str(&aliases).unwrap_or_default();
    let severity: u8 = row.get(3)?;
    let score: Option<u8> = row.get(4)?;
    Ok(Finding {
        vulnerability: identity(&name, &aliases).to_owned(),
        aliases: aliases.into_iter().chain([name]).collect(),
        summary: row.get(2)?,
        severity: Severity::ALL.get(usize::from(severity)).copied().unwrap_or_default(),
        score: score.map(|tenths| f32::from(tenths) / 10.0),
        fixed: row.get(5)?,
        kind: row.get(6)?,
        package: row.get(7)?,
        version: row.get(8)?,
        path: row.get(9)?,
        waived: None,
    })
}

/// The name by which records of several databases are one: that of CVE, when there is one alone.
fn identity<'a>(name: &'a str, aliases: &'a [String]) -> &'a str {
    let all = aliases.iter().map(String::as_str).chain([name]);
    let mut cves = all.filter(|alias| alias.starts_with("CVE-"));
    match (cves.next(), cves.next()) {
        (Some(one), None) => one,
        _ => name,
    }
}

fn findings_of(db: &Connection, image: i64) -> rusqlite::Result<Vec<Finding>> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT {FINDING} FROM contained
         JOIN finding ON finding.package = contained.package
         JOIN advisory ON advisory.id = finding.advisory
         JOIN package ON package.id = contained.package
         WHERE contained.image = ?1"
    ))?;
    let rows = statement.query_map([image], finding)?;
    let mut merged: BTreeMap<(String, String, String), Finding> = BTreeMap::new();
    for row in rows {
        let next = row?;
        let key = (next.package.clone(), next.version.clone(), next.vulnerability.clone());
        match merged.get_mut(&key) {
            None => drop(merged.insert(key, next)),
            Some(known) => merge(known, next),
        }
    }
    let mut findings: Vec<_> = merged.into_values().collect();
    findings.sort_by(|one, other| {
        other.severity.cmp(&one.severity).then_with(|| one.package.cmp(&other.package))
    });
    Ok(findings)
}

/// The same vulnerability of another database.
fn merge(known: &mut Finding, other: Finding) {
    if other.severity > known.severity {
        (known.severity, known.score) = (other.severity, other.score);
    }
    if known.summary.is_empty() {
        known.summary = other.summary;
    }
    known.fixed = known.fixed.take().or(other.fixed);
    let names: BTreeSet<_> = known.aliases.drain(..).chain(other.aliases).collect();
    known.aliases = names.into_iter().collect();
}

/// Adds why packages of an image could not be compared, and counts the packages.
fn gaps(
    db: &Connection,
    image: i64,
    data: &VulnerabilityData,
    now: Timestamp,
    unknown: &mut Vec<String>,
) -> rusqlite::Result<u64> {
    let mut statement = db.prepare_cached(
        "SELECT kind, base, release, count(*) FROM contained
         JOIN package ON package.id = contained.package
         WHERE image = ?1 GROUP BY kind, base, release",
    )?;
    let mut has_release = db.prepare_cached(
        "SELECT 1 FROM affected WHERE base = ?1 AND staged = 0 AND (release = '' OR release = ?2)
         LIMIT 1",
    )?;
    let (mut all, mut comparable) = (0, false);
    let mut rows = statement.query([image])?;
    while let Some(row) = rows.next()? {
        let (kind, base, release): (String, String, String) =
            (row.get(0)?, row.get(1)?, row.get(2)?);
        let count = row.get::<_, i64>(3)? as u64;
        all += count;
        if kind == "generic" {
            continue;
        }
        comparable = true;
        if base.is_empty() {
            unknown.push(format!("{count} packages ({kind}) are of an unknown distribution"));
            continue;
        }
        let place = if release.is_empty() { base.clone() } else { format!("{base}:{release}") };
        let source = data.ecosystems.iter().find(|source| source.ecosystem == base);
        match source.map(|source| stale(source.imported, source.modified, now)) {
            None => unknown.push(format!("there is no vulnerability data of `{base}`")),
            Some(Some(why)) => unknown.push(format!("the data of `{base}` {why}")),
            Some(None) if !has_release.exists([&base, &release])? => {
                unknown.push(format!("there is no vulnerability data of `{place}`"));
            }
            Some(None) => {}
        }
    }
    if !comparable {
        unknown.push("no packages were found in it".to_owned());
    }
    Ok(all)
}

/// Why data is too old to call an image clean by it, if it is.
pub(crate) fn stale(imported: Timestamp, modified: Timestamp, now: Timestamp) -> Option<String> {
    let days = |then: Timestamp| now.since(then).as_secs() / (24 * 3600);
    if now.since(imported) > VULNERABILITY_IMPORT_AGE_MAX {
        return Some(format!("was imported {} days ago", days(imported)));
    }
    let is_old = now.since(modified) > VULNERABILITY_DATA_AGE_MAX;
    is_old.then(|| format!("ends {} days ago", days(modified)))
}
