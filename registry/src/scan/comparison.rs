//! Which packages have which vulnerabilities. A package is compared once, however many images have
//! it.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};

use super::{matching::affects, package::Kind, version::Scheme};
use crate::{limits::FINDINGS_OF_PACKAGE_MAX, protocol::Event};

/// A package as it is compared.
struct Compared {
    id: i64,
    kind: Kind,
    base: String,
    release: String,
    name: String,
    version: String,
    source: String,
    source_version: String,
}

/// A row about one package of an ecosystem.
struct About {
    advisory: i64,
    release: String,
    ranges: Vec<Vec<Event>>,
    versions: Vec<String>,
}

/// A package with an advisory that is about it.
type Match = (i64, i64, Option<String>);

/// Notes what the packages of an image have.
pub fn compare(db: &Connection, image: i64) -> rusqlite::Result<()> {
    add(db, &matches(db, Some(image))?)
}

/// Notes what all packages have.
pub fn compare_all(db: &Connection) -> rusqlite::Result<()> {
    add(db, &matches(db, None)?)
}

fn add(db: &Connection, matches: &[Match]) -> rusqlite::Result<()> {
    let mut statement = db.prepare_cached(
        "INSERT OR IGNORE INTO finding (package, advisory, fixed) VALUES (?1, ?2, ?3)",
    )?;
    for (package, advisory, fixed) in matches {
        statement.execute(params![package, advisory, fixed])?;
    }
    Ok(())
}

fn matches(db: &Connection, image: Option<i64>) -> rusqlite::Result<Vec<Match>> {
    let columns = "id, kind, base, release, name, version, source, source_version";
    let (sql, image) = match image {
        Some(image) => (
            format!(
                "SELECT {columns} FROM package
                 WHERE base <> '' AND id IN (SELECT package FROM contained WHERE image = ?1)"
            ),
            image,
        ),
        None => (
            format!(
                "SELECT {columns} FROM package WHERE base <> '' AND ?1 = 0 ORDER BY base, name"
            ),
            0,
        ),
    };
    let mut packages = db.prepare_cached(&sql)?;
    let packages = packages.query_map([image], |row| {
        Ok(Compared {
            id: row.get(0)?,
            kind: Kind::of_name(&row.get::<_, String>(1)?).unwrap_or(Kind::Generic),
            base: row.get(2)?,
            release: row.get(3)?,
            name: row.get(4)?,
            version: row.get(5)?,
            source: row.get(6)?,
            source_version: row.get(7)?,
        })
    })?;
    let (mut found, mut known) = (Vec::new(), Known::default());
    for package in packages {
        let package = package?;
        let Some(scheme) = Scheme::of(&package.base) else { continue };
        let mut count = 0;
        for (name, version) in package.names() {
            for about in known.about(db, &package.base, name)? {
                let is_released = about.release.is_empty() || about.release == package.release;
                if !is_released || count == FINDINGS_OF_PACKAGE_MAX {
                    continue;
                }
                if let Some(fixed) = affects(scheme, &about.ranges, &about.versions, version) {
                    found.push((package.id, about.advisory, fixed));
                    count += 1;
                }
            }
        }
    }
    Ok(found)
}

impl Compared {
    /// Under which names it is in advisories, each with the version that counts there.
    fn names(&self) -> Vec<(&str, &str)> {
        let own = (&*self.name, &*self.version);
        let source = match self.source.is_empty() {
            true => own,
            false => (&*self.source, &*self.source_version),
        };
        match self.kind {
            Kind::Deb | Kind::Apk => vec![source],
            Kind::Rpm if source.0 != own.0 => vec![own, source],
            _ => vec![own],
        }
    }
}

/// What was read about the package before, for the next version of it.
#[derive(Default)]
struct Known(BTreeMap<(String, String), Vec<About>>);

impl Known {
    fn about(&mut self, db: &Connection, base: &str, name: &str) -> rusqlite::Result<&[About]> {
        let key = (base.to_owned(), name.to_owned());
        if !self.0.contains_key(&key) {
            // Packages come in the order of their names, sources nearly so.
            if self.0.len() > 64 {
                self.0.clear();
            }
            let mut statement = db.prepare_cached(
                "SELECT advisory, release, ranges, versions FROM affected
                 WHERE package = ?1 AND base = ?2 AND staged = 0",
            )?;
            let rows = statement.query_map([name, base], |row| {
                let (ranges, versions): (String, String) = (row.get(2)?, row.get(3)?);
                Ok(About {
                    advisory: row.get(0)?,
                    release: row.get(1)?,
                    ranges: serde_json::from_str(&ranges).unwrap_or_default(),
                    versions: serde_json::from_str(&versions).unwrap_or_default(),
                })
            })?;
            let about = rows.collect::<Result<_, _>>()?;
            self.0.insert(key.clone(), about);
        }
        Ok(&self.0[&key])
    }
}
